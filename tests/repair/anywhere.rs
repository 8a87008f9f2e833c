//! Bits turned anywhere, and what a repair refuses.

use super::*;

#[test]
fn turned_bits_and_lost_sectors_anywhere_cost_only_what_is_named() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, rounds) = (number("SEED").unwrap_or(0), number("KVFS_TEST_ROUNDS").unwrap_or(40));
    let bases = [
        (Kind::LSM, "", true),
        (Kind::LSM, "", false),
        (Kind::LSM, "value_log=on,value_threshold=1K,compression=none", false),
        (Kind::BTREE, "", true),
        (Kind::BTREE, "torn=doublewrite", false),
        (Kind::BTREE, "torn=image", false),
        (Kind::HYBRID, "", true),
        (Kind::HYBRID, "", false),
    ];
    for (kind, more, closed) in bases {
        let base = store(kind, more, closed);
        let before = contents(&base);
        let (mut clean, mut held, mut files_named) = (0, 0, 0);
        for seed in first..first + rounds {
            let mut prng = Prng::new(seed);
            let disk = base.kill();
            let names: Vec<(String, u64)> =
                files(&disk, "").into_iter().filter(|(_, bytes)| *bytes > 0).collect();
            for _ in 0..1 + prng.below(3) {
                let (name, bytes) = &names[prng.below(names.len() as u64) as usize];
                // Most of a segment of the log is behind its end.
                let bytes = if name.starts_with("log.") && prng.one_in(2) { bytes / 8 } else { *bytes };
                if prng.one_in(4) {
                    // A sector of something else.
                    let at = prng.below(bytes) / 512 * 512;
                    let length = 512.min(files(&disk, name)[0].1 - at) as usize;
                    let other = if prng.one_in(2) { vec![0; length] } else { noise(&mut prng, length) };
                    disk.open(name).unwrap().write_at(Purpose::Recovery, at, &other).unwrap();
                } else {
                    disk.flip_bit(name, prng.below(bytes * 8));
                }
            }
            let what = format!("{kind} {more} {closed} seed {seed}");
            let report = repaired(&disk, &what);
            clean += u64::from(report.is_clean());
            held += u64::from(compare(&before, &disk, &report, &what));
            files_named += report.affected.iter().map(|part| part.ino).collect::<BTreeSet<_>>().len() as u64;
        }
        println!(
            "{kind} {more} {closed}: {rounds} rounds, {clean} harmless, {held} compared, {files_named} files named of {}",
            before.len() as u64 * rounds
        );
        assert!(held * 10 >= rounds * 7, "{kind} {more} {closed}: {held} of {rounds} could be compared");
    }
}

#[test]
fn a_salvage_without_space_leaves_the_store_as_it_is() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let disk = store(kind, "", true);
        let before = contents(&disk);
        damage(&disk, kind);
        let used: u64 = files(&disk, "").iter().map(|(_, bytes)| bytes).sum();
        disk.set_capacity(Some(used + (100 << 10)));
        let refused = repair::repair(disk.clone(), true, &mut |_| ()).unwrap_err().to_string();
        assert!(refused.contains("as much as its live data"), "{kind}: {refused}");
        disk.set_capacity(None);
        let report = repaired(&disk, &format!("{kind}"));
        assert!(compare(&before, &disk, &report, &format!("{kind}")));
    }
}

#[test]
fn a_store_of_another_version_is_not_repaired() {
    let disk = store(Kind::LSM, "", true);
    let text = String::from_utf8(bytes_of(&disk, "STORE")).unwrap();
    let body = text.replace("kvfs store 1", "kvfs store 9");
    let body = &body[..body.rfind("crc32=").unwrap()];
    let other = format!("{body}crc32={:08x}\n", crc32fast::hash(body.as_bytes()));
    disk.open("STORE").unwrap().write_at(Purpose::Recovery, 0, other.as_bytes()).unwrap();
    let refused = repair::repair(disk.clone(), true, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("format 9"), "{refused}");
    assert!(bytes_of(&disk, "STORE") == other.as_bytes());
}
