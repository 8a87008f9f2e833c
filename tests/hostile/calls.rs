//! Calls that nobody sane would make: offsets near 2^63 and 2^64, names of any bytes and lengths, attributes over every limit,
//! numbers of inodes that are not there, times before the world. Each is answered, and afterwards the store passes its check.

use bytes::Bytes;
use kvfs::disk::SimDisk;
use kvfs::fs::operation::Op;
use kvfs::fs::types::{
    Caller, FileKind, NewNode, ROOT, RenameMode, SIZE_MAX, STORED_END, SetAttributes, SetTime, Time,
    XattrMode,
};

use super::*;

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Directory,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
];

fn name(prng: &mut Prng) -> Vec<u8> {
    match prng.below(8) {
        0 => {
            let length = [0, 1, 2, 254, 255, 256, 1000, 5000][prng.below(8) as usize];
            garbage(prng, length)
        }
        1 => {
            [&b"."[..], b"..", b"", b"/", b"a/b", b"\0", b"a\0b", b".stats"][prng.below(8) as usize].to_vec()
        }
        2 => vec![b'x'; 250 + prng.below(8) as usize],
        _ => format!("name{}", prng.below(20)).into_bytes(),
    }
}

fn attribute(prng: &mut Prng) -> Vec<u8> {
    let names: [&[u8]; 8] = [
        b"user.a",
        b"user.",
        b"user",
        b"",
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"trusted.t",
    ];
    match prng.below(6) {
        0 => [&b"user."[..], &name(prng)].concat(),
        1 => name(prng),
        _ => names[prng.below(8) as usize].to_vec(),
    }
}

fn time(prng: &mut Prng) -> SetTime {
    if prng.one_in(5) {
        return SetTime::Now;
    }
    let nanos = [0, 1, 999_999_999, prng.below(1_000_000_000) as u32][prng.below(4) as usize];
    SetTime::At(Time { seconds: number(prng) as i64, nanos })
}

fn maybe<T>(prng: &mut Prng, value: impl FnOnce(&mut Prng) -> T) -> Option<T> {
    prng.one_in(3).then(|| value(prng))
}

/// Makes `count` calls on any inode and on those of `known`, and others that they find.
pub fn senseless(store: &Opened, prng: &mut Prng, count: usize, known: &[Ino]) {
    let mut known = known.to_vec();
    for _ in 0..count {
        let ino = |prng: &mut Prng| match prng.below(12) {
            0 => Ino(number(prng)),
            1 => [Ino(0), ROOT, STORED_END, STORED_END.plus(3), Ino(u64::MAX), Ino(u64::MAX - 1)]
                [prng.below(6) as usize],
            2 | 3 => ROOT,
            _ => known[prng.below(known.len() as u64) as usize],
        };
        let (a, b) = (ino(prng), ino(prng));
        let (one, two) = (name(prng), name(prng));
        let (x, y, z) = (number(prng), number(prng), number(prng));
        let bits = prng.bits();
        let caller =
            if prng.one_in(2) { Caller::ROOT } else { Caller { uid: x as u32, gid: y as u32, pid: 0 } };
        let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][prng.below(3) as usize];
        let set = [XattrMode::Either, XattrMode::Create, XattrMode::Replace][prng.below(3) as usize];
        let attribute = attribute(prng);
        let size = [0, 1, 36, 2000, 65_535, 65_536, 65_537][prng.below(7) as usize];
        let value = garbage(prng, size);
        match prng.below(20) {
            0 | 1 => {
                let kind = KINDS[prng.below(7) as usize];
                let length = [0, 1, 4095, 4096][prng.below(4) as usize];
                let target = garbage(prng, length);
                let made = store.ask(|fs, tier| {
                    let node = match kind {
                        FileKind::File => NewNode::File,
                        FileKind::Directory => NewNode::Directory,
                        FileKind::Symlink => NewNode::Symlink(&target),
                        kind => NewNode::Special { kind, rdev: bits as u32 },
                    };
                    fs.make(tier, Op::Create, caller, a, &one, bits as u32, (bits >> 32) as u32, node)
                });
                known.extend(made.map(|made| made.ino));
            }
            2 => {
                let kind = KINDS[prng.below(7) as usize];
                let _ = store.ask(|fs, tier| {
                    let node = NewNode::Special { kind, rdev: bits as u32 };
                    fs.make(tier, Op::Mknod, caller, a, &one, bits as u32, 0, node)
                });
            }
            3 => {
                let found = store.ask(|fs, tier| fs.lookup(tier, a, &one));
                known.extend(found.map(|found| found.ino));
            }
            4 => drop(store.ask(|fs, tier| fs.link(tier, a, b, &one))),
            5 => drop(store.ask(|fs, tier| fs.unlink(tier, a, &one))),
            6 => drop(store.ask(|fs, tier| fs.rmdir(tier, a, &one))),
            7 | 8 => {
                let whiteout = prng.one_in(3).then_some(caller);
                let _ = store.ask(|fs, tier| fs.rename(tier, (a, &one), (b, &two), mode, whiteout));
            }
            9 | 10 => {
                let length = [0, 1, 4096, 4097, 100_000][prng.below(5) as usize];
                let data = Bytes::from(garbage(prng, length));
                let answer = store.ask(|fs, tier| fs.write(tier, caller, a, x, &data, bits & 1 == 0));
                let fits = x.checked_add(length).is_some_and(|end| end <= SIZE_MAX);
                assert!(answer.is_err() || fits, "a write of {length} bytes at {x} was accepted");
            }
            11 => {
                let size = [0, 1, 4096, 1 << 20][prng.below(4) as usize];
                if let Ok(bytes) = store.ask(|fs, tier| fs.read(tier, a, x, size)) {
                    assert!(bytes.len() <= size as usize);
                }
            }
            12 => drop(store.ask(|fs, tier| fs.allocate(tier, caller, a, (x, y), (bits & 0x7f) as i32))),
            13 => {
                let found = store.ask(|fs, tier| fs.seek(tier, a, x, bits & 1 == 0));
                assert!(found.as_ref().map_or(true, |&at| at >= x), "seek from {x}: {found:?}");
            }
            14 => {
                if let Ok(copied) = store.ask(|fs, tier| fs.copy_range(tier, caller, (a, x), (b, y), z)) {
                    assert!(copied.length <= z);
                }
            }
            15 => {
                let changes = SetAttributes {
                    permissions: maybe(prng, |prng| prng.bits() as u32),
                    uid: maybe(prng, |prng| prng.bits() as u32),
                    gid: maybe(prng, |prng| prng.bits() as u32),
                    size: maybe(prng, number),
                    atime: maybe(prng, time),
                    mtime: maybe(prng, time),
                    ctime: None,
                };
                let answer = store.ask(|fs, tier| fs.setattr(tier, caller, a, &changes));
                if let Ok(found) = answer {
                    assert!(found.size <= SIZE_MAX && found.permissions <= 0o7777, "{changes:?}: {found:?}");
                }
            }
            16 => {
                let answer = store.ask(|fs, tier| fs.setxattr_as(tier, caller, a, &attribute, &value, set));
                assert!(answer.is_err() || value.len() <= 65_536, "{} bytes were accepted", value.len());
            }
            17 => {
                let _ = store.ask(|fs, tier| fs.getxattr(tier, a, &attribute));
                let _ = store.ask(|fs, tier| fs.removexattr(tier, a, &attribute));
                let _ = store.ask(|fs, tier| fs.listxattr(tier, caller, b));
            }
            18 => {
                let cookie = if prng.one_in(2) { x } else { prng.below(4) };
                let mut left = 1 + prng.below(30);
                let _ = store.ask(|fs, tier| {
                    fs.readdir_plus(tier, a, cookie, &mut |_, _| {
                        left = left.saturating_sub(1);
                        left > 0
                    })
                });
            }
            _ => {
                // Handles that nobody opened, references that nobody has.
                store.fs.release_file(a);
                store.fs.forget(b, x);
                let _ = store.ask(|fs, tier| fs.open_file(tier, a));
                let _ = store.ask(|fs, tier| fs.moment_of(tier, b, bits & 1 == 0));
                let _ = (store.fs.top_name(Ino(x)), store.fs.statfs());
            }
        }
        if prng.one_in(4) {
            store.work();
        }
    }
}

fn senseless_calls(kind: Kind) {
    for seed in cases(12) {
        watched(&format!("{kind} calls {seed}"), move || {
            let disk = SimDisk::new();
            let store = make(disk.clone(), kind);
            senseless(&store, &mut Prng::new(seed), 400, &[ROOT]);
            for _ in 0..2000 {
                store.work();
            }
            store.fs.close().unwrap();
            assert_eq!(store.problems().unwrap(), Vec::<String>::new());
            engine::settle(&*store.engine).unwrap();
            store.engine.close().unwrap();
            let again = open(disk.kill()).unwrap();
            assert_eq!(again.problems().unwrap(), Vec::<String>::new(), "opened again");
        });
    }
}

#[test]
fn senseless_calls_on_the_lsm_tree_leave_a_sound_store() {
    senseless_calls(Kind::LSM);
}

#[test]
fn senseless_calls_on_the_btree_leave_a_sound_store() {
    senseless_calls(Kind::BTREE);
}

/// A directory does not become its own ancestor, in whatever way it is asked.
#[test]
fn nothing_becomes_its_own_ancestor() {
    let store = make(SimDisk::new(), Kind::LSM);
    let mkdir = |parent, name: &[u8]| {
        let call = |fs: &FileSystem, tier| {
            fs.make(tier, Op::Mkdir, Caller::ROOT, parent, name, 0o755, 0, NewNode::Directory)
        };
        store.ask(call).unwrap().ino
    };
    let a = mkdir(ROOT, b"a");
    let b = mkdir(a, b"b");
    let c = mkdir(b, b"c");
    for mode in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
        for (from, old, to, new) in
            [(ROOT, &b"a"[..], a, &b"x"[..]), (ROOT, b"a", c, b"x"), (ROOT, b"a", b, b"c")]
        {
            let answer = store.ask(|fs, tier| fs.rename(tier, (from, old), (to, new), mode, None));
            assert!(answer.is_err(), "{mode:?} {old:?} into {to}/{new:?}");
        }
        let answer = store.ask(|fs, tier| fs.rename(tier, (b, b"c"), (ROOT, b"a"), mode, None));
        assert!(answer.is_err(), "{mode:?} over an ancestor");
        // Onto itself: nothing happens, or it is told that the name is taken.
        let _ = store.ask(|fs, tier| fs.rename(tier, (a, b"b"), (a, b"b"), mode, None));
        assert_eq!(store.ask(|fs, tier| fs.lookup(tier, a, b"b")).unwrap().ino, b);
    }
    store.fs.close().unwrap();
    assert_eq!(store.problems().unwrap(), Vec::<String>::new());
}

/// The first and the last second that a program can set are kept, and reading afterwards works.
#[test]
fn the_edges_of_time_are_kept() {
    let store = make(SimDisk::new(), Kind::BTREE);
    let node = NewNode::File;
    let made = |fs: &FileSystem, tier| fs.make(tier, Op::Create, Caller::ROOT, ROOT, b"f", 0o644, 0, node);
    let ino = store.ask(made).unwrap().ino;
    for seconds in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
        for nanos in [0, 1, 999_999_999] {
            let time = Time { seconds, nanos };
            let set = Some(SetTime::At(time));
            let changes = SetAttributes { atime: set, mtime: set, ..SetAttributes::default() };
            let found = store.ask(|fs, tier| fs.setattr(tier, Caller::ROOT, ino, &changes)).unwrap();
            assert_eq!((found.atime, found.mtime), (time, time));
            store.ask(|fs, tier| fs.read(tier, ino, 0, 10)).unwrap();
            store.ask(|fs, tier| fs.getattr(tier, ino)).unwrap();
        }
    }
}
