//! Between the kernel protocol's words and the filesystem's: attributes, times, flags and errors. Pure functions.

use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags, TimeOrNow};

use crate::fs;
use crate::fs::types::{Attributes, FileKind, RenameMode, SetTime, Time, XattrMode};

/// The file type of a kind.
pub fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes of an inode as the kernel takes them.
pub fn attributes(from: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(from.ino.0),
        size: from.size,
        blocks: from.stored_bytes.div_ceil(512),
        atime: from.atime.into(),
        mtime: from.mtime.into(),
        ctime: from.ctime.into(),
        crtime: from.btime.into(),
        kind: file_type(from.kind),
        perm: (from.permissions & 0o7777) as u16,
        nlink: from.links,
        uid: from.uid,
        gid: from.gid,
        rdev: from.rdev,
        blksize: from.block_bytes,
        flags: 0,
    }
}

/// An entry that says "there is no such name": inode 0, which the kernel may remember like any other entry.
pub fn absent() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The moment that a program set. The kernel sends seconds and nanoseconds after them; fuser delivers the pair (−s, n)
/// of a moment before 1970 as −(s + n), so its two halves are taken apart again here.
pub fn time(received: SystemTime) -> Time {
    match received.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            // The first second of all has no positive counterpart.
            Time { seconds: 0i64.saturating_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

/// A time to set.
pub fn set_time(received: TimeOrNow) -> SetTime {
    match received {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(moment) => SetTime::At(time(moment)),
    }
}

/// Treatment of an existing target by rename, and whether it leaves a whiteout behind; `None` for flags that we do not have, or not
/// together.
pub fn rename_mode(flags: RenameFlags) -> Option<(RenameMode, bool)> {
    let whiteout = flags.contains(RenameFlags::RENAME_WHITEOUT);
    let rest = flags.difference(RenameFlags::RENAME_WHITEOUT);
    let mode = if rest.is_empty() {
        RenameMode::Replace
    } else if rest == RenameFlags::RENAME_NOREPLACE {
        RenameMode::NoReplace
    } else if rest == RenameFlags::RENAME_EXCHANGE && !whiteout {
        RenameMode::Exchange
    } else {
        return None;
    };
    Some((mode, whiteout))
}

/// Treatment of an existing attribute by setxattr; `None` for flags that we do not have.
pub fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Either),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

/// The errno for the program. What is a fault of the store rather than of the request is logged here, and only here.
pub fn errno(error: &fs::Error) -> Errno {
    match error {
        error if error.is_fault() => log::error!("{error}"),
        // Where the call was made again for as long as that could help, these two are faults as well.
        fs::Error::WouldBlock | fs::Error::Busy { .. } => {
            log::error!("a request could not be served: {error}");
            return Errno::EIO;
        }
        _ => {}
    }
    Errno::from_i32(error.errno())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;
    use crate::fs::types::Ino;
    use std::time::Duration;

    /// What fuser 0.18 makes of the kernel's pair.
    fn delivered(seconds: i64, nanos: u32) -> SystemTime {
        if seconds >= 0 {
            SystemTime::UNIX_EPOCH + Duration::new(seconds as u64, nanos)
        } else {
            SystemTime::UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanos)
        }
    }

    #[test]
    fn times_arrive_exactly_also_before_1970() {
        for (seconds, nanos) in [
            (0, 0),
            (0, 1),
            (1, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-1, 999_999_999),
            (-62_135_596_800, 5),
            (i64::MIN, 0),
            (i64::MAX, 999_999_999),
        ] {
            assert_eq!(time(delivered(seconds, nanos)), Time { seconds, nanos });
        }
    }

    #[test]
    fn flags_that_we_do_not_have_are_refused() {
        let whiteout = RenameFlags::RENAME_WHITEOUT;
        assert_eq!(rename_mode(whiteout), Some((RenameMode::Replace, true)));
        let careful = Some((RenameMode::NoReplace, true));
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE | whiteout), careful);
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE | whiteout), None);
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE), None);
        assert_eq!(rename_mode(RenameFlags::from_bits_retain(8)), None);
        assert_eq!(xattr_mode(libc::XATTR_CREATE | libc::XATTR_REPLACE), None);
        assert_eq!(xattr_mode(0), Some(XattrMode::Either));
    }

    #[test]
    fn blocks_count_what_is_stored_and_errors_keep_their_word() {
        let moment = Time { seconds: -5, nanos: 7 };
        let from = Attributes {
            ino: Ino(9),
            kind: FileKind::File,
            permissions: 0o4755,
            links: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
            size: 1 << 40,
            stored_bytes: 4097,
            block_bytes: 4096,
            atime: moment,
            mtime: moment,
            ctime: moment,
            btime: moment,
        };
        let attributes = attributes(&from);
        assert_eq!((attributes.blocks, attributes.perm, attributes.size), (9, 0o4755, 1 << 40));
        assert_eq!(Time::from(attributes.mtime), moment);
        assert_eq!(errno(&fs::Error::NotEmpty).code(), libc::ENOTEMPTY);
        assert_eq!(errno(&fs::Error::Engine(engine::Error::NoSpace)).code(), libc::ENOSPC);
    }
}
