//! Repairs that are cut off.

use super::defects::{DEFECTS, Plant, planted};
use super::*;

/// Cuts the power before every nth changing request of a repair; what is left is repaired, and ends as it would have.
fn interrupted(base: &Arc<SimDisk>, stride: u64, what: &str) {
    let whole = base.kill();
    let requests = whole.requests();
    repair(&whole, true);
    let requests = whole.requests() - requests;
    let expected = contents(&whole);
    let mut runs = 0;
    for stop in (0..requests).step_by(stride as usize) {
        let disk = base.kill();
        disk.stop_at(disk.requests() + stop);
        let stopped = repair::repair(disk.clone(), true, &mut |_| ());
        assert!(stopped.is_err(), "{what}, request {stop}: it needs fewer than before");
        for seed in 0..2 {
            let after = disk.crash(stop * 2 + seed);
            let what = format!("{what}, request {stop} of {requests}, image {seed}");
            let _ = repair(&after, false);
            let report = repair(&after, true);
            assert!(report.left.is_empty(), "{what}:\n{report}");
            assert!(repair(&after, false).is_clean(), "{what}");
            // The directory for what has no name may have got another number.
            let content = |seen: &BTreeMap<Ino, Seen>| -> BTreeMap<String, Vec<u8>> {
                seen.values().map(|seen| (seen.path.clone(), seen.content.clone())).collect()
            };
            assert!(content(&contents(&after)) == content(&expected), "{what}:\n{report}");
            runs += 1;
        }
    }
    assert!(runs > 8, "{what}: {runs} runs");
}

#[test]
fn a_repair_in_place_may_be_interrupted_anywhere() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let several: Plant = |engine, inos, batch| {
            for name in [
                "an inode without a name, with blocks",
                "blocks of a directory, and empty and oversized ones",
            ] {
                DEFECTS.iter().find(|(found, ..)| *found == name).unwrap().1(engine, inos, batch);
            }
        };
        interrupted(&planted(kind, several).0, 1, &format!("{kind}"));
    }
}

#[test]
fn a_salvage_may_be_interrupted_anywhere() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let disk = store(kind, "", true);
        damage(&disk, kind);
        interrupted(&disk, 5, &format!("{kind}"));
    }
}
