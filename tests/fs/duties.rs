//! Every operation is performed, by root and by somebody else, and held to its row of the table of duties.

use super::*;
use kvfs::fs::operation::{Lent, Times};

const CAPABILITY: &[u8] = b"security.capability";
const OWNER: Caller = Caller { uid: 1000, gid: 1000, pid: 1 };

/// A directory with what the operations work on.
struct Scene {
    bench: Bench,
    directory: Ino,
    below: Ino,
    file: Ino,
    source: Ino,
    symlink: Ino,
}

impl Scene {
    fn new() -> Scene {
        let options = Options { atime: Atime::Strict, ..OPTIONS };
        let bench = Bench::over(Arc::new(MemEngine::new()), options);
        let directory = bench.mkdir(ROOT, "d");
        let (file, source) = (bench.create(directory, "f"), bench.create(directory, "source"));
        let node = NewNode::Symlink(b"f");
        let symlink =
            bench.fs.make(Tier::Disk, Op::Symlink, Caller::ROOT, directory, b"s", 0, 0, node).unwrap().ino;
        let below = bench.mkdir(directory, "below");
        bench.fs.link(Tier::Disk, file, directory, b"second").unwrap();
        bench.write(file, 0, vec![1; 20_000]);
        bench.write(source, 0, vec![2; 5000]);
        for ino in [directory, below, file, source] {
            let changes = SetAttributes { uid: Some(1000), gid: Some(1000), ..SetAttributes::default() };
            bench.fs.setattr(Tier::Disk, Caller::ROOT, ino, &changes).unwrap();
        }
        for ino in [file, source] {
            let changes = SetAttributes { permissions: Some(0o6775), ..SetAttributes::default() };
            bench.fs.setattr(Tier::Disk, Caller::ROOT, ino, &changes).unwrap();
            for name in [CAPABILITY, b"user.old"] {
                bench.fs.setxattr(Tier::Disk, ino, name, b"1", XattrMode::Either).unwrap();
            }
        }
        bench.fs.open_file(Tier::Disk, file).unwrap();
        bench.clock.advance(Duration::from_secs(100));
        Scene { bench, directory, below, file, source, symlink }
    }

    fn attributes(&self, ino: Ino) -> Attributes {
        self.bench.fs.getattr(Tier::Disk, ino).unwrap()
    }

    fn has_capability(&self, ino: Ino) -> bool {
        self.bench.fs.getxattr(Tier::Disk, ino, CAPABILITY).is_ok()
    }

    /// Does it: the inode that the operation is about, and the directories whose names changed. `None` for what the adapter
    /// answers without the filesystem.
    fn perform(&self, op: Op, caller: Caller) -> Option<(Ino, Vec<Ino>)> {
        let (fs, tier) = (&self.bench.fs, Tier::Disk);
        let (directory, file) = (self.directory, self.file);
        let make = |op, node| {
            let made = fs.make(tier, op, caller, directory, b"new", 0o755, 0, node).unwrap();
            Some((made.ino, vec![directory]))
        };
        let set = |changes| fs.setattr(tier, caller, file, &changes).unwrap();
        match op {
            Op::Lookup => drop(fs.lookup(tier, directory, b"f").unwrap()),
            Op::Getattr => drop(fs.getattr(tier, file).unwrap()),
            Op::Setattr => drop(set(SetAttributes { gid: Some(1000), ..SetAttributes::default() })),
            Op::Truncate => drop(set(SetAttributes { size: Some(20_000), ..SetAttributes::default() })),
            Op::Readlink => {
                fs.readlink(tier, self.symlink).unwrap();
                return Some((self.symlink, Vec::new()));
            }
            Op::Mknod => return make(op, NewNode::Special { kind: FileKind::Fifo, rdev: 0 }),
            Op::Mkdir => return make(op, NewNode::Directory),
            Op::Symlink => return make(op, NewNode::Symlink(b"f")),
            Op::Create => return make(op, NewNode::File),
            Op::Unlink => {
                fs.unlink(tier, directory, b"f").unwrap();
                return Some((file, vec![directory]));
            }
            Op::Rmdir => {
                fs.rmdir(tier, directory, b"below").unwrap();
                return Some((self.below, vec![directory]));
            }
            Op::Rename => {
                fs.rename(tier, (directory, b"f"), (self.below, b"g"), RenameMode::Replace, None).unwrap();
                return Some((file, vec![directory, self.below]));
            }
            Op::Link => {
                fs.link(tier, file, self.below, b"third").unwrap();
                return Some((file, vec![self.below]));
            }
            Op::Open => fs.open_file(tier, file).unwrap(),
            Op::Release => fs.release_file(file),
            Op::Read => drop(fs.read(tier, file, 0, 100).unwrap()),
            Op::Write => {
                // The kernel says for whom set-id bits go.
                fs.write(tier, caller, file, 0, &Bytes::from_static(b"x"), caller.uid != 0).unwrap();
            }
            Op::Fallocate => fs.allocate(tier, caller, file, (0, 10), libc::FALLOC_FL_KEEP_SIZE).unwrap(),
            Op::CopyFileRange => {
                let copied = fs.copy_range(tier, caller, (self.source, 0), (file, 0), 10).unwrap();
                assert_eq!(copied.length, 10);
                assert_eq!(self.attributes(self.source).atime, self.bench.clock.now().into());
            }
            Op::Fsync => drop(fs.moment_of(tier, file, false).unwrap()),
            Op::Fsyncdir => {
                fs.moment_of(tier, directory, false).unwrap();
                return Some((directory, Vec::new()));
            }
            Op::Readdir => {
                assert_eq!(list(fs, directory, 100).unwrap().len(), 7);
                return Some((directory, Vec::new()));
            }
            Op::Statfs => drop(fs.statfs().unwrap()),
            Op::Setxattr => {
                fs.setxattr_as(tier, caller, file, b"user.new", b"1", XattrMode::Create).unwrap();
            }
            Op::Getxattr => drop(fs.getxattr(tier, file, b"user.old").unwrap()),
            Op::Listxattr => drop(fs.listxattr(tier, caller, file).unwrap()),
            Op::Removexattr => fs.removexattr(tier, file, b"user.old").unwrap(),
            Op::Lseek => drop(fs.seek(tier, file, 0, true).unwrap()),
            Op::Forget => fs.forget(file, 1),
            Op::Reclaim => drop(fs.work().unwrap()),
            Op::Counters => fs.close().unwrap(),
            Op::Flush | Op::Opendir | Op::Releasedir | Op::Format => return None,
        }
        Some((file, Vec::new()))
    }
}

#[test]
fn every_operation_keeps_its_row_of_duties() {
    for op in Op::ALL {
        let duties = op.duties();
        for caller in [Caller::ROOT, OWNER] {
            let scene = Scene::new();
            let now = Time::from(scene.bench.clock.now());
            let all = [scene.directory, scene.below, scene.file, scene.source, scene.symlink];
            let before: BTreeMap<Ino, Attributes> =
                all.into_iter().map(|ino| (ino, scene.attributes(ino))).collect();
            let Some((ino, directories)) = scene.perform(op, caller) else { continue };
            let context = format!("{} by user {}", op.name(), caller.uid);

            let stays = |lent| match lent {
                Lent::Stays => true,
                Lent::GoesFromStrangers => caller.uid == 0,
                Lent::Goes | Lent::GoesWithOwner => false,
            };
            if ino == scene.file {
                let bits = scene.attributes(ino).permissions & 0o6000;
                assert_eq!(
                    bits,
                    if stays(duties.set_id) { 0o6000 } else { 0 },
                    "set-id bits after {context}"
                );
                assert_eq!(scene.has_capability(ino), stays(duties.capability), "capability after {context}");
            }
            assert_eq!(
                scene.attributes(scene.source).permissions & 0o6000,
                0o6000,
                "the source of {context}"
            );

            let after = scene.attributes(ino);
            let new = [after.atime, after.mtime, after.ctime, after.btime].map(|time| time == now);
            let expected = match duties.times {
                Times::Kept => [false; 4],
                Times::Read => [true, false, false, false],
                Times::Changed => [false, false, true, false],
                Times::Written => [false, true, true, false],
                Times::Born => [true; 4],
            };
            assert_eq!(new, expected, "atime, mtime, ctime, btime after {context}");
            assert_eq!(duties.directory_times, !directories.is_empty(), "{context}");
            for other in [scene.directory, scene.below].into_iter().filter(|&other| other != ino) {
                let (old, new) = (before[&other], scene.attributes(other));
                let changed = directories.contains(&other);
                assert_eq!(
                    (new.mtime != old.mtime, new.ctime != old.ctime),
                    (changed, changed),
                    "directory after {context}"
                );
            }
        }
    }
}

/// What a row says holds for every form of its operation.
#[test]
fn all_that_changes_content_is_a_write_to_privileges_and_times() {
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | keep;
    let zero = libc::FALLOC_FL_ZERO_RANGE;
    for mode in [0, keep, punch, zero, zero | keep] {
        for range in [(0, 4096), (19_000, 4096), (1 << 20, 4096)] {
            for caller in [Caller::ROOT, OWNER] {
                let scene = Scene::new();
                scene.bench.fs.allocate(Tier::Disk, caller, scene.file, range, mode).unwrap();
                let after = scene.attributes(scene.file);
                let now = scene.bench.clock.now().into();
                let context = format!("fallocate {mode:#x} {range:?} by user {}", caller.uid);
                assert_eq!((after.mtime, after.ctime), (now, now), "{context}");
                assert_eq!(after.permissions, if caller.uid == 0 { 0o6775 } else { 0o775 }, "{context}");
                assert!(!scene.has_capability(scene.file), "{context}");
                assert!(check(&*scene.bench.map).is_empty(), "{context}");
            }
        }
    }
    // A copy of a hole, and one of nothing.
    let scene = Scene::new();
    scene.bench.resize(scene.source, 1 << 20);
    let copy = |from| {
        scene.bench.fs.copy_range(Tier::Disk, OWNER, (scene.source, from), (scene.file, 0), 4096).unwrap()
    };
    assert_eq!(copy(1 << 20).length, 0);
    assert_eq!((scene.attributes(scene.file).permissions, scene.has_capability(scene.file)), (0o6775, true));
    let hole = copy(8192);
    assert_eq!((hole.length, hole.data_bytes), (4096, 0));
    assert_eq!((scene.attributes(scene.file).permissions, scene.has_capability(scene.file)), (0o775, false));
}
