//! What is free and what is used, and who waits for space.

use super::*;

#[test]
fn room_inside_the_b_trees_file_counts_as_free() {
    let engine = DiskStore::boxed(Kind::BTREE, 1).open(None);
    let fs = FileSystem::open(engine.clone(), Arc::new(ManualClock::default()), OPTIONS, space()).unwrap();
    let free = |fs: &FileSystem| fs.statfs().unwrap().blocks_free * BLOCK;
    let file =
        fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, b"f", 0o644, 0, NewNode::File).unwrap().ino;
    let settle = || {
        for _ in 0..20 {
            fs.work().unwrap();
            engine.work(WorkClass::Flush).unwrap();
            engine.work(WorkClass::Merge).unwrap();
            engine.work(WorkClass::Reclaim).unwrap();
        }
        engine::run(&*engine, Command::Checkpoint).unwrap();
    };
    for index in 0..50 {
        let data = Bytes::from(vec![index as u8; 16 << 10]);
        ask(|tier| fs.write(tier, Caller::ROOT, file, index * (16 << 10), &data, false)).unwrap();
        settle();
    }
    let full = free(&fs);
    fs.forget(file, 1);
    ask(|tier| fs.unlink(tier, ROOT, b"f")).unwrap();
    settle();
    let empty = free(&fs);
    let found = fs.statfs().unwrap();
    assert_eq!(found.files - found.files_free, 1, "the root is the one inode in use");
    assert!(empty >= full + (700 << 10), "{empty} bytes free after the delete, {full} before");
}

/// `df -i` shows why new files are refused although there is space.
#[test]
fn without_an_inode_below_there_are_none_here() {
    let free_files = Arc::new(AtomicU64::new(1000));
    let below = free_files.clone();
    let source: SpaceSource = Arc::new(move || {
        Ok(Space {
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            total_files: 2000,
            free_files: below.load(Relaxed),
        })
    });
    let engine = Arc::new(MemEngine::new());
    let fs = FileSystem::open(engine, Arc::new(ManualClock::default()), OPTIONS, source).unwrap();
    assert_eq!(fs.statfs().unwrap().files_free, (1 << 39) / BLOCK);
    free_files.store(3, Relaxed);
    let found = fs.statfs().unwrap();
    assert_eq!((found.files, found.files_free), (1, 0), "the root is in use");
    assert_eq!(found.blocks_free, (1 << 39) / BLOCK, "bytes are free all the same");
}

/// Who deletes a file on a full disk and then writes another waits until the first is gone, however much later that is.
#[test]
fn who_writes_after_a_delete_on_a_full_disk_waits_for_its_space() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let disk = SimDisk::new();
        disk.set_capacity(Some(64 << 20));
        // Sizes of a mount on a disk so small.
        let small = "reserve=4M,log_segment=512K,dirty_max=1M,memtable=2M,table=1M,level_base=8M";
        let options = kind.default_options().with(small).unwrap();
        let engine = engine::open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
        let below = disk.clone();
        let source: SpaceSource = Arc::new(move || below.space());
        let fs = FileSystem::open(engine.clone(), Arc::new(ManualClock::default()), OPTIONS, source).unwrap();
        let waits = AtomicU64::new(0);
        // Makes a call until it is answered. With `reclaims`, what is deleted goes as late as it can: when nothing else is left.
        let patiently = |reclaims: bool, call: &dyn Fn() -> Result<()>| -> Result<()> {
            for _ in 0..100_000 {
                match call() {
                    Err(Error::Busy { .. }) => waits.fetch_add(1, Relaxed),
                    answer => return answer,
                };
                let mut is_idle = true;
                for class in [WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
                    let done = engine.work(class);
                    assert!(matches!(done, Ok(_) | Err(EngineError::NoSpace)), "{kind}: {done:?}");
                    is_idle &= !matches!(done, Ok(Pending::More));
                }
                if reclaims && is_idle {
                    fs.work().unwrap_or_else(|error| panic!("{kind}: deleting: {error}"));
                }
            }
            panic!("{kind}: busy for ever");
        };
        let create = |name: &[u8]| {
            let ino = AtomicU64::new(0);
            let made = patiently(true, &|| {
                let node = NewNode::File;
                let made = fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, name, 0o644, 0, node)?;
                ino.store(made.ino.0, Relaxed);
                Ok(())
            });
            made.unwrap_or_else(|error| panic!("{kind}: {error}"));
            Ino(ino.into_inner())
        };
        // Nothing that could be compressed.
        let chunk = |index: u64| {
            let mut prng = Prng::new(index);
            Bytes::from((0..8192).flat_map(|_| prng.bits().to_le_bytes()).collect::<Vec<u8>>())
        };
        let write = |ino: Ino, index: u64| {
            let data = chunk(index);
            patiently(true, &|| fs.write(Tier::Disk, Caller::ROOT, ino, index << 16, &data, false))
        };
        let first = create(b"first");
        let full = (0..).find(|index| write(first, *index).is_err()).unwrap();
        assert!(full > 60, "{kind}: full after {full} times 64 KiB");
        fs.forget(first, 1);
        patiently(false, &|| fs.unlink(Tier::Disk, ROOT, b"first")).unwrap();
        assert!(fs.usage().reclaim_pending_bytes > 0, "{kind}: it is deleted later");
        waits.store(0, Relaxed);
        let second = create(b"second");
        for index in 0..full / 2 {
            write(second, index).unwrap_or_else(|error| panic!("{kind}: {index} of {full}: {error}"));
        }
        assert!(waits.load(Relaxed) > 0, "{kind}: nobody had to wait");
    }
}
