//! Reads explained and traced.

use std::ops::ControlFlow;

use super::*;

#[test]
fn a_read_of_a_tree_is_explained_page_by_page() {
    let rig = rig(|disk, clock| {
        let options = Kind::BTREE.default_options().with("reserve=0").unwrap();
        engine::open(disk, clock, &options).unwrap()
    });
    assert_eq!(rig.engine.explain(&[7], Tier::Disk).unwrap().len(), 0, "an empty tree has no pages");
    for key in 0..2000u64 {
        let mut batch = Batch::new(0);
        batch.put(key.to_be_bytes().to_vec(), vec![1; 100]);
        rig.engine.apply(&batch, Tier::Disk).unwrap();
    }
    let probes = rig.engine.explain(&7u64.to_be_bytes(), Tier::Disk).unwrap();
    let height = rig.engine.shape().tree.unwrap().height;
    assert_eq!(probes.len() as u64, height);
    let last = probes.last().unwrap();
    assert_eq!((probes[0].verdict, last.verdict, last.bytes), ("descend", "hit", 100));
    assert_eq!(rig.engine.explain(b"zzz", Tier::Disk).unwrap().last().unwrap().verdict, "miss");
    assert_eq!(rig.engine.shape().probes.unwrap().count(), 0, "explaining counts nothing");
}

#[test]
fn reads_are_traced_while_it_is_on() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let rig = rig(|disk, clock| engine::open(disk, clock, &engine::Options::tiny(kind)).unwrap());
        fill(&rig);
        engine::run(&*rig.engine, Command::Flush).unwrap();
        rig.write(OWNER, "drop-caches").unwrap();
        let get = |key: u64| rig.engine.get(&key.to_be_bytes(), Tier::Disk).unwrap();
        get(1);
        assert_eq!(rig.cat(".stats.d/trace"), "", "off");
        rig.write(OWNER, "drop-caches\ntrace on").unwrap();
        let before = number(&rig.json(".stats.d/json"), "disk.by_purpose.get.read_bytes");
        let there = (0..300).find(|key| get(*key).is_some()).unwrap();
        get(u64::MAX);
        rig.engine
            .scan(kvfs::engine::KeyRange::ALL, Tier::Disk, &mut |_, _| ControlFlow::Continue(()))
            .unwrap();
        let trace = rig.cat(".stats.d/trace");
        let reads: Vec<&str> = trace.split("\n#").collect();
        assert_eq!(reads[0], format!("trace on; the last {} reads, the newest last", there + 3), "{trace}");
        let found = reads[there as usize + 1];
        assert!(
            found.contains(&format!(" get {there:016x}: ")) && found.ends_with("  found"),
            "{kind} {found}"
        );
        let hit = found.lines().find(|line| line.contains(" hit ")).unwrap();
        let structure = if kind == Kind::LSM { "table." } else { "leaf page " };
        assert!(hit.contains(structure) && hit.contains(" at ") && hit.contains("400 bytes"), "{hit}");
        let column =
            |line: &str| line.trim_end_matches(" read").rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let sum: u64 = trace.lines().filter(|line| line.ends_with(" read")).map(column).sum();
        let read = number(&rig.json(".stats.d/json"), "disk.by_purpose.get.read_bytes") - before;
        assert!(sum > 0 && (sum..=2 * sum).contains(&read), "{kind}: traced {sum}, read {read}");
        assert!(reads[there as usize + 2].ends_with("  not there"), "{trace}");
        assert!(reads[there as usize + 3].contains(" scan from : "), "{trace}");
        for key in 0..200 {
            get(key);
        }
        let trace = rig.cat(".stats.d/trace");
        assert_eq!(trace.lines().filter(|line| line.starts_with('#')).count(), 64, "{trace}");
        rig.write(OWNER, "trace on 10").unwrap();
        for key in 0..100 {
            get(key);
        }
        assert!(rig.cat(".stats.d/trace").starts_with("trace on, one read in 10; the last 10 of them"));
        rig.write(OWNER, "trace off").unwrap();
        get(1);
        assert!(rig.cat(".stats.d/trace").starts_with("trace off; the last 10 reads"));
    }
}

#[test]
fn a_read_is_explained_down_to_where_it_stops() {
    let rig = small_lsm();
    let put = |key: u8| {
        let mut batch = Batch::new(0);
        batch.put(vec![key], vec![1; 100]);
        rig.engine.apply(&batch, Tier::Disk).unwrap();
    };
    put(5);
    let verdicts = |key: u8| {
        let probes = rig.engine.explain(&[key], Tier::Disk).unwrap();
        probes.into_iter().map(|probe| probe.verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(5), ["hit"]);
    engine::run(&*rig.engine, Command::Flush).unwrap();
    assert_eq!(verdicts(5), ["miss", "hit"]);
    assert_eq!(verdicts(9), ["miss", "out-of-range"]);
    let mut batch = Batch::new(0);
    batch.delete(vec![5]);
    rig.engine.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(verdicts(5), ["tombstone"]);
}
