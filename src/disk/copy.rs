//! A file becomes a copy of another, in the same directory or in another one.

use std::io;
use std::os::fd::BorrowedFd;

use super::{File, Purpose};

/// Bytes of one request.
const PIECE_BYTES: u64 = 1 << 20;

/// Descriptor by which the operating system knows a file. Only this room can do anything with it: no byte may pass beside the doors.
pub struct Descriptor<'a>(BorrowedFd<'a>);

impl<'a> Descriptor<'a> {
    /// Of an open file.
    pub(super) fn new(descriptor: BorrowedFd<'a>) -> Descriptor<'a> {
        Descriptor(descriptor)
    }
}

/// Makes `into`, a new and empty file, hold the first `bytes` bytes of `from`; it is not synced. Where the filesystem below can share
/// blocks between files (XFS, btrfs) and all of `from` is wanted, it does: then nothing is read or written, and nothing counted. Else
/// the bytes pass for [`Purpose::Fork`], once the space for them is taken.
pub fn copy(from: &dyn File, bytes: u64, into: &dyn File) -> io::Result<()> {
    if from.size()? == bytes && shares(from, into)? {
        return Ok(());
    }
    into.allocate(bytes)?;
    let mut piece = vec![0; PIECE_BYTES.min(bytes) as usize];
    let mut offset = 0;
    while offset < bytes {
        let length = PIECE_BYTES.min(bytes - offset) as usize;
        from.read_at(Purpose::Fork, offset, &mut piece[..length])?;
        into.write_at(Purpose::Fork, offset, &piece[..length])?;
        offset += length as u64;
    }
    Ok(())
}

/// Has the filesystem below share the blocks of `from` with `into`; whether it does.
fn shares(from: &dyn File, into: &dyn File) -> io::Result<bool> {
    let mut outcome = Ok(false);
    from.with_descriptor(&mut |from| {
        let mut is_shared = false;
        // Why it cannot does not matter: whoever copies meets what is really wrong.
        let result = into.with_descriptor(&mut |into| {
            is_shared = rustix::fs::ioctl_ficlone(into.0, from.0).is_ok();
        });
        outcome = result.map(|()| is_shared);
    })?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Access, Disk, Latch, Metered, OsDisk, Pool, SimDisk, read_all};

    #[test]
    fn a_copy_holds_what_was_asked_for_and_counts_what_it_moved() {
        let home = tempfile::tempdir().unwrap();
        let below: [std::sync::Arc<dyn Disk>; 2] =
            [SimDisk::new(), OsDisk::open(&home.path().join("store"), Access::Write).unwrap()];
        for below in below {
            let meter = Metered::new(Pool::new(below, 1));
            let disk = Latch::new(meter.clone());
            let source = disk.create("source").unwrap();
            let bytes = 2 * PIECE_BYTES + 12345;
            let content: Vec<u8> = (0..bytes).map(|at| (at * 7 / 3) as u8).collect();
            source.write_at(Purpose::Flush, 0, &content).unwrap();
            source.sync(Purpose::Flush).unwrap();
            for (name, wanted) in [("none", 0), ("part", PIECE_BYTES + 1), ("all", bytes)] {
                let before = meter.snapshot().of(Purpose::Fork);
                let target = disk.create(name).unwrap();
                copy(&*source, wanted, &*target).unwrap();
                assert!(read_all(&*target, Purpose::Get).unwrap() == content[..wanted as usize], "{name}");
                let after = meter.snapshot().of(Purpose::Fork);
                let moved = after.write_bytes - before.write_bytes;
                assert_eq!(moved, after.read_bytes - before.read_bytes, "{name}");
                // All of it may be shared.
                assert!(moved == wanted || wanted == bytes && moved == 0, "{name}: {moved} of {wanted}");
            }
            // The two are files of their own.
            disk.open("all").unwrap().write_at(Purpose::Flush, 5, b"changed").unwrap();
            assert!(read_all(&*source, Purpose::Get).unwrap() == content);
        }
    }
}
