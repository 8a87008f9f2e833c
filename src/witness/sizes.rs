//! What lies in the directory: files, their lengths and what they occupy, by class. A walk, so it is made now and then, by a thread that may wait.

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir};

use super::inode::Identity;
use super::{Class, Directory, Result};
use crate::base::metric::{Each, metrics};

/// Names that a walk looks at; a larger directory is counted in part.
const NAMES_MAX: u64 = 200_000;
/// Depth of directories that a walk goes down.
const DEPTH_MAX: usize = 64;
/// Bytes of a listing that are fetched at once.
const LISTING_BYTES: usize = 32 << 10;

metrics! {
    /// Files of one class as they lie there.
    #[derive(Copy, Eq)]
    pub struct Size witness "witness::numbers::what_lies_there_is_what_the_filesystem_says" {
        /// Files; one with several names is one.
        gauge files: u64 [Count, family "kvfs_witness_files"];
        /// Sum of their lengths.
        gauge length_bytes: u64 [Bytes, family "kvfs_witness_length_bytes"];
        /// Bytes of the blocks that they occupy.
        gauge disk_bytes: u64 [Bytes, family "kvfs_witness_disk_bytes"];
    }
}

/// All files by class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    /// By class.
    pub by_class: Each<Class, Size, { Class::ALL.len() }>,
    /// Whether there were more names than a walk looks at.
    pub is_partial: bool,
}

struct Walk<'a> {
    directory: &'a Directory,
    sizes: Sizes,
    names: u64,
    /// Files with more than one name that were seen.
    linked: HashSet<Identity>,
}

/// Walks the directory.
pub fn walk(directory: &Directory) -> Result<Sizes> {
    let mut walk = Walk { directory, sizes: Sizes::default(), names: 0, linked: HashSet::new() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = fs::openat(directory.inodes().root(), ".", flags, Mode::empty())?;
    walk.visit(&root, &mut Vec::new(), 0)?;
    Ok(walk.sizes)
}

impl Walk<'_> {
    fn visit(&mut self, listing: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        let mut folders = Vec::new();
        let mut memory = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(listing, &mut memory);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if self.names == NAMES_MAX {
                self.sizes.is_partial = true;
                return Ok(());
            }
            self.names += 1;
            match entry.file_type() {
                FileType::Directory => folders.push(name.to_vec()),
                FileType::RegularFile | FileType::Unknown => {
                    let length = path.len();
                    path.extend_from_slice(name);
                    // It may be gone since it was listed.
                    if let Ok(stat) = fs::statat(listing, name, AtFlags::SYMLINK_NOFOLLOW) {
                        match FileType::from_raw_mode(stat.st_mode) {
                            FileType::Directory => folders.push(name.to_vec()),
                            FileType::RegularFile => self.add(path, &stat),
                            _ => {}
                        }
                    }
                    path.truncate(length);
                }
                _ => {}
            }
        }
        drop(memory);
        for name in folders {
            if depth == DEPTH_MAX {
                self.sizes.is_partial = true;
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(folder) = fs::openat(listing, &name[..], flags, Mode::empty()) else { continue };
            let length = path.len();
            path.extend_from_slice(&name);
            path.push(b'/');
            self.visit(&folder, path, depth + 1)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], stat: &fs::Stat) {
        if stat.st_nlink > 1 && !self.linked.insert(Identity::of(stat)) {
            return;
        }
        let size = self.sizes.by_class.of_mut(self.directory.inodes().class(path));
        size.files += 1;
        size.length_bytes += stat.st_size.cast_unsigned();
        size.disk_bytes += stat.st_blocks.cast_unsigned() * 512;
    }
}
