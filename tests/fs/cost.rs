//! What calls cost: keys read and written, batches, copies of bytes.

use super::*;

#[test]
fn hot_paths_cost_what_they_should() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "file");
    let create = bench.cost_of(|| _ = bench.create(ROOT, "other"));
    assert_eq!(create, [1, 0, 1, 2, 0], "create: one look for the name, then inode and name in one batch");
    let extend = bench.cost_of(|| bench.write(file, 0, vec![1; 64 << 10]));
    assert_eq!(extend, [0, 0, 1, 17, 0], "extending: the blocks and the inode, nothing read");
    let overwrite = bench.cost_of(|| bench.write(file, 8192, vec![2; 4096]));
    assert_eq!(overwrite, [0, 0, 1, 1, 0], "an aligned overwrite: its block");
    let partial = bench.cost_of(|| bench.write(file, 100, vec![3; 10]));
    assert_eq!(partial, [1, 0, 1, 1, 0], "part of a block: one read");
    let one = bench.cost_of(|| drop(bench.fs.read(Tier::Memory, file, 4096, 4096).unwrap()));
    assert_eq!(one, [1, 0, 0, 0, 0], "one block: a get");
    let many = bench.cost_of(|| drop(bench.fs.read(Tier::Memory, file, 0, 16384).unwrap()));
    assert_eq!(many[0..3], [0, 4, 0], "several blocks: a scan of them");
    let lookup = bench.cost_of(|| _ = bench.fs.lookup(Tier::Memory, ROOT, b"file").unwrap());
    assert_eq!(lookup, [0; 5], "a known name: nothing");
    let sync = bench.cost_of(|| _ = bench.fs.moment_of(Tier::Memory, file, true).unwrap());
    assert_eq!(sync, [0; 5], "fdatasync leaves the times alone");
    let sync = bench.cost_of(|| _ = bench.fs.moment_of(Tier::Memory, file, false).unwrap());
    assert_eq!(sync, [0, 0, 1, 1, 0], "fsync writes the inode once");
    assert!(bench.fs.usage().deferred_inode_puts_absorbed > 0);
    assert!(check(&*bench.map).is_empty());
}

#[test]
fn whole_blocks_share_the_memory_of_the_request() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "file");
    let data = Bytes::from(vec![7; 8192]);
    bench.fs.write(Tier::Memory, Caller::ROOT, file, 4096, &data, false).unwrap();
    let stored = bench.map.get(&keys::block(file, 0, 2), Tier::Memory).unwrap().unwrap();
    assert_eq!(stored.as_ptr(), data[4096..].as_ptr());
}

#[test]
fn a_large_file_goes_in_one_small_batch() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "file");
    (0..40).for_each(|index| bench.write(file, index << 20, vec![1; 1 << 20]));
    bench.fs.forget(file, 1);
    let unlink = bench.cost_of(|| bench.fs.unlink(Tier::Memory, ROOT, b"file").unwrap());
    assert_eq!(unlink, [0, 0, 1, 1, 2], "name and inode go, one range is left");
    let usage = bench.fs.usage();
    assert_eq!((usage.stored_bytes, usage.reclaim_pending_bytes), (0, 40 << 20));
    assert!(check(&*bench.map).is_empty());
    let mut units = 0;
    let reclaim = bench.cost_of(|| {
        while bench.fs.work().unwrap() == Pending::More {
            units += 1;
            assert!(check(&*bench.map).is_empty());
        }
    });
    assert!((10..13).contains(&units), "{units}");
    assert_eq!((reclaim[1], reclaim[4]), (0, 10240 + 11), "dense ranges are deleted without being read");
    assert_eq!(bench.fs.usage().reclaim_pending_bytes, 0);
    assert_eq!(kvfs::fs::check(&*bench.map, &mut |_| ()).unwrap().reclaim_blocks, 0);
}
