//! Names and the inodes behind them: numbers, whiteouts, listings, reserved names.

use super::*;

#[test]
fn inode_numbers_are_not_given_twice() {
    let mut bench = Bench::new();
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        for index in 0..600 {
            let name = format!("{round}.{index}");
            assert!(seen.insert(bench.create(ROOT, &name)));
            bench.fs.unlink(Tier::Memory, ROOT, name.as_bytes()).unwrap();
        }
        bench = bench.crash();
    }
    assert!(check(&*bench.map).is_empty());
}

/// A rename that leaves a whiteout is one batch, so no crash shows one without the other. The whiteout is a device 0:0 without
/// permissions, belongs to who renamed (its group to a directory with sgid), and is an inode like any other.
#[test]
fn a_rename_leaves_its_whiteout_in_the_same_batch() {
    let bench = Bench::new();
    let (fs, user) = (&bench.fs, Caller { uid: 1000, gid: 1001, pid: 1 });
    let directory = bench.mkdir(ROOT, "d");
    let below = bench.mkdir(directory, "moved");
    bench.create(below, "f");
    let changes = SetAttributes { permissions: Some(0o2777), gid: Some(50), ..SetAttributes::default() };
    fs.setattr(Tier::Disk, Caller::ROOT, directory, &changes).unwrap();
    let (usage, links) = (fs.usage(), fs.getattr(Tier::Disk, directory).unwrap().links);
    let [_, _, batches, puts, deletes] = bench.cost_of(|| {
        fs.rename(Tier::Disk, (directory, b"moved"), (ROOT, b"here"), RenameMode::NoReplace, Some(user))
            .unwrap();
    });
    // Two names, the whiteout, the directory that moved and the two that lost and gained a subdirectory.
    assert_eq!((batches, puts, deletes), (1, 6, 0));
    let whiteout = fs.lookup(Tier::Disk, directory, b"moved").unwrap();
    assert_eq!((whiteout.kind, whiteout.rdev, whiteout.permissions), (FileKind::CharDevice, 0, 0));
    assert_eq!((whiteout.uid, whiteout.gid, whiteout.links), (1000, 50, 1));
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"here").unwrap().ino, below);
    assert_eq!(fs.getattr(Tier::Disk, directory).unwrap().links, links - 1);
    assert_eq!(fs.usage().inodes, usage.inodes + 1);
    let exchange =
        fs.rename(Tier::Disk, (directory, b"moved"), (ROOT, b"here"), RenameMode::Exchange, Some(user));
    assert_eq!(exchange.unwrap_err().errno(), libc::EINVAL);
    // In place of a file, in the same directory; then it goes as any other name does.
    let (old, new) = (bench.create(ROOT, "old"), bench.create(ROOT, "new"));
    fs.forget(new, 1);
    fs.rename(Tier::Disk, (ROOT, b"old"), (ROOT, b"new"), RenameMode::Replace, Some(user)).unwrap();
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"new").unwrap().ino, old);
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"old").unwrap().kind, FileKind::CharDevice);
    fs.unlink(Tier::Disk, ROOT, b"old").unwrap();
    // Onto itself: nothing.
    fs.rename(Tier::Disk, (ROOT, b"new"), (ROOT, b"new"), RenameMode::Replace, Some(user)).unwrap();
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"new").unwrap().ino, old);
    assert!(check(&*bench.map).is_empty());
    let records = fs.usage().record_bytes;
    let again = bench.crash();
    let found = again.fs.lookup(Tier::Disk, directory, b"moved").unwrap();
    assert_eq!((found.ino, found.kind), (whiteout.ino, FileKind::CharDevice));
    assert!(again.fs.usage().record_bytes <= records);
}

/// What the kernel has forgotten but for its number: any inode is its own `.`, a directory knows its `..`, and what has lost its
/// last name, or never was, is stale.
#[test]
fn inodes_are_found_by_number() {
    let bench = Bench::new();
    let directory = bench.mkdir(ROOT, "d");
    let below = bench.mkdir(directory, "below");
    let file = bench.create(below, "f");
    let link = bench
        .fs
        .make(Tier::Disk, Op::Symlink, Caller::ROOT, below, b"s", 0, 0, NewNode::Symlink(b"f"))
        .unwrap()
        .ino;
    let bench = bench.crash();
    let fs = &bench.fs;
    let find =
        |ino, name: &[u8]| fs.lookup(Tier::Disk, ino, name).map(|found| found.ino).map_err(|e| e.errno());
    for ino in [ROOT, directory, below, file, link] {
        assert_eq!(find(ino, b"."), Ok(ino));
    }
    assert_eq!(
        (find(below, b".."), find(directory, b".."), find(ROOT, b"..")),
        (Ok(directory), Ok(ROOT), Ok(ROOT))
    );
    assert_eq!((find(file, b".."), find(file, b"f")), (Err(libc::ENOTDIR), Err(libc::ENOTDIR)));
    let other = bench.mkdir(ROOT, "other");
    fs.rename(Tier::Disk, (directory, b"below"), (other, b"here"), RenameMode::Replace, None).unwrap();
    assert_eq!(find(below, b".."), Ok(other));
    // The reference that a number gives counts: the file lives on until it is dropped.
    fs.unlink(Tier::Disk, below, b"f").unwrap();
    assert_eq!(fs.getattr(Tier::Disk, file).unwrap().links, 0);
    assert_eq!(find(file, b"."), Err(libc::ESTALE));
    fs.forget(file, 1);
    fs.work().unwrap();
    assert_eq!((find(file, b"."), find(Ino(1 << 40), b".")), (Err(libc::ESTALE), Err(libc::ESTALE)));
    fs.unlink(Tier::Disk, below, b"s").unwrap();
    fs.rmdir(Tier::Disk, other, b"here").unwrap();
    assert_eq!((find(below, b"."), find(below, b"..")), (Err(libc::ESTALE), Err(libc::ESTALE)));
}

#[test]
fn a_listing_is_stable_while_the_directory_changes() {
    let bench = Bench::new();
    let stays: BTreeSet<String> = (0..500).map(|index| format!("stays{index}")).collect();
    stays.iter().for_each(|name| _ = bench.create(ROOT, name));
    (0..300).for_each(|index| _ = bench.create(ROOT, &format!("goes{index}")));
    let (mut listed, mut cookie, mut turn) = (Vec::new(), 0, 0);
    loop {
        let mut reply = Vec::new();
        let visit = &mut |entry: DirEntry| {
            let fits = reply.len() < 7;
            if fits {
                reply.push(entry);
            }
            fits
        };
        bench.fs.readdir(Tier::Memory, ROOT, cookie, visit).unwrap();
        let Some(last) = reply.last() else { break };
        cookie = last.cookie;
        listed.extend(reply.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
        for _ in 0..5 {
            let _ = bench.fs.unlink(Tier::Memory, ROOT, format!("goes{turn}").as_bytes());
            bench.create(ROOT, &format!("comes{turn}"));
            turn += 1;
        }
    }
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(unique.len(), listed.len(), "a name is listed twice");
    assert!(stays.is_subset(&unique));
}

#[test]
fn names_that_share_a_hash_are_all_listed() {
    let bench = Bench::new();
    // No two names collide in a test's time, so the records are made by hand.
    let ino = bench.create(ROOT, "x");
    let mut batch = Batch::new(0);
    let record = [&ino.0.to_be_bytes()[..], b"\x08"].concat();
    for (hash, name) in [(10, "a"), (20, "b"), (20, "c"), (20, "d"), (30, "e")] {
        batch.put(keys::dirent(ROOT, hash, name.as_bytes()), record.clone());
    }
    bench.map.apply(&batch, Tier::Disk).unwrap();
    for entries_max in 3..8 {
        let names: Vec<_> = list(&bench.fs, ROOT, entries_max).unwrap().into_iter().map(|e| e.name).collect();
        for name in ["a", "b", "c", "d", "e", "x"] {
            assert!(names.contains(&name.as_bytes().to_vec()), "{name} is lost in replies of {entries_max}");
        }
        if entries_max >= 7 {
            assert_eq!(names.len(), 8, "{names:?}");
        }
    }
}

#[test]
fn readdir_plus_counts_references() {
    let bench = Bench::new();
    let inos: Vec<Ino> = (0..5).map(|index| bench.create(ROOT, &format!("f{index}"))).collect();
    inos.iter().for_each(|&ino| bench.fs.forget(ino, 1));
    let mut seen = Vec::new();
    let visit = &mut |entry: DirEntry, attributes: &Attributes| {
        assert_eq!((entry.ino, entry.kind), (attributes.ino, attributes.kind));
        seen.push(entry.ino);
        seen.len() < 5
    };
    bench.fs.readdir_plus(Tier::Memory, ROOT, 0, visit).unwrap();
    assert_eq!(seen[..2], [ROOT, ROOT]);
    for index in 0..5 {
        bench.fs.unlink(Tier::Memory, ROOT, format!("f{index}").as_bytes()).unwrap();
    }
    // Of the five visits two were dots, and the last was refused: two files are in use.
    assert_eq!(bench.fs.usage().orphans, 2);
    seen[2..4].iter().for_each(|&ino| bench.fs.forget(ino, 1));
    while bench.fs.work().unwrap() == Pending::More {}
    assert_eq!(bench.fs.usage().inodes, 1);
}

#[test]
fn a_read_only_filesystem_changes_nothing() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "f");
    bench.write(file, 0, vec![1; 10]);
    bench.fs.close().unwrap();
    let before = bench.map.contents();
    let bench = Bench::over(bench.map, Options { read_only: true, atime: Atime::Strict, ..OPTIONS });
    let fs = &bench.fs;
    assert_eq!(fs.lookup(Tier::Memory, ROOT, b"f").unwrap().ino, file);
    assert_eq!(bench.read_all(file), vec![1; 10]);
    assert!(matches!(fs.unlink(Tier::Memory, ROOT, b"f"), Err(Error::ReadOnly)));
    let data = Bytes::from_static(b"x");
    assert!(matches!(fs.write(Tier::Memory, Caller::ROOT, file, 0, &data, false), Err(Error::ReadOnly)));
    fs.moment_of(Tier::Memory, file, false).unwrap();
    assert_eq!(fs.work().unwrap(), Pending::Idle);
    fs.close().unwrap();
    assert_eq!(bench.map.contents(), before);
}
