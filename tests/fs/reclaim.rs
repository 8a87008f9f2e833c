//! What was cut off or deleted goes later, and nothing else goes with it.

use super::*;

/// Truncate, grow, write into the range that waits, reclaim: with a crash before every step of it.
#[test]
fn reclaim_never_takes_new_data() {
    for (cut, crash_at) in [0, 5000].into_iter().flat_map(|cut| (0..12).map(move |step| (cut, step))) {
        let mut bench = Bench::new();
        let file = bench.create(ROOT, "file");
        (0..10).for_each(|index| bench.write(file, index << 20, vec![1; 1 << 20]));
        let mut expected = vec![1; 10 << 20];
        for step in 0..12u64 {
            if step == crash_at {
                bench = bench.crash();
            }
            let at = step as usize * 700_000;
            match step {
                0 => {
                    bench.resize(file, cut);
                    expected.truncate(cut as usize);
                }
                1 => {
                    bench.resize(file, 10 << 20);
                    expected.resize(10 << 20, 0);
                }
                2..=6 => {
                    bench.write(file, at as u64, vec![step as u8; 9000]);
                    expected[at..at + 9000].fill(step as u8);
                }
                _ => _ = bench.fs.work().unwrap(),
            }
            assert!(bench.read_all(file) == expected, "cut {cut}, crash {crash_at}, step {step}");
            let problems = check(&*bench.map);
            assert!(problems.is_empty(), "cut {cut}, crash {crash_at}, step {step}: {problems:?}");
        }
        while bench.fs.work().unwrap() == Pending::More {}
        assert!(bench.read_all(file) == expected);
        let summary = kvfs::fs::check(&*bench.map, &mut |problem| panic!("{problem:?}")).unwrap();
        assert_eq!(summary.reclaim_blocks, 0);
        assert_eq!(bench.fs.usage().reclaim_pending_bytes, 0);
    }
}

#[test]
fn a_deleted_file_lives_while_it_is_used_and_not_after_a_crash() {
    let bench = Bench::new();
    for name in ["forgotten", "released", "crashed"] {
        let file = bench.create(ROOT, name);
        bench.write(file, 0, vec![5; 5000]);
        bench.fs.open_file(Tier::Memory, file).unwrap();
        bench.fs.unlink(Tier::Memory, ROOT, name.as_bytes()).unwrap();
        assert_eq!(bench.read_all(file), vec![5; 5000]);
        assert_eq!(bench.fs.getattr(Tier::Memory, file).unwrap().links, 0);
        while bench.fs.work().unwrap() == Pending::More {}
        assert_eq!(bench.fs.usage().orphans, 1);
        match name {
            "forgotten" => [bench.fs.release_file(file), bench.fs.forget(file, 1)],
            "released" => [bench.fs.forget(file, 1), bench.fs.release_file(file)],
            _ => break,
        };
        while bench.fs.work().unwrap() == Pending::More {}
        assert_eq!(bench.fs.usage().orphans, 0);
        assert!(matches!(bench.fs.getattr(Tier::Memory, file), Err(Error::Stale)));
    }
    let bench = bench.crash();
    assert_eq!((bench.fs.usage().orphans, bench.fs.usage().inodes), (0, 1));
    assert!(check(&*bench.map).is_empty());
    // The root's two records, its counters, and nothing else.
    assert_eq!(bench.map.contents().len(), 3);
}
