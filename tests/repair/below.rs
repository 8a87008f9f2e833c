//! Damage below the engine.

use super::*;

#[test]
fn every_kind_of_damage_below_the_lsm_tree_is_salvaged() {
    type Damage = fn(&SimDisk);
    let kinds: &[(&str, Damage)] = &[
        ("a block", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes / 3))
        }),
        ("a first block", |disk| flip(disk, &files(disk, "table.")[0].0, 20)),
        ("a trailer", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes - 2))
        }),
        ("a footer", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes - 40))
        }),
        ("an index", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes.saturating_sub(260)))
        }),
        ("a missing table", |disk| disk.remove(&files(disk, "table.")[0].0).unwrap()),
        ("a table that is cut off", |disk| {
            let (name, bytes) = &files(disk, "table.")[0];
            disk.open(name).unwrap().set_size(bytes / 2).unwrap();
        }),
        ("an empty table", |disk| disk.open(&files(disk, "table.")[0].0).unwrap().set_size(0).unwrap()),
        ("the manifest's header", |disk| flip(disk, "manifest", 30)),
        ("the manifest's first edit", |disk| flip(disk, "manifest", 90)),
        ("the manifest's end", |disk| flip(disk, "manifest", files(disk, "manifest")[0].1 - 3)),
        ("the manifest cut off", |disk| disk.open("manifest").unwrap().set_size(45).unwrap()),
        ("a missing manifest", |disk| disk.remove("manifest").unwrap()),
        ("missing manifest and damaged blocks", |disk| {
            disk.remove("manifest").unwrap();
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes / 2));
        }),
        ("a damaged log", |disk| {
            files(disk, "log.").iter().for_each(|(name, _)| flip(disk, name, 1024 + 60));
        }),
        ("values in the log", |disk| {
            files(disk, "log.")
                .iter()
                .for_each(|(name, _)| (1..6).for_each(|nth| flip(disk, name, nth * 9000)));
        }),
        ("the description", |disk| flip(disk, "STORE", 60)),
    ];
    for (more, closed) in [("", true), ("value_log=on,value_threshold=1K", true), ("", false)] {
        let base = store(Kind::LSM, more, closed);
        let before = contents(&base);
        let mut held = 0;
        for (name, damage) in kinds {
            let what = format!("{more} {closed} {name}");
            let disk = base.kill();
            damage(&disk);
            let report = repaired(&disk, &what);
            let compared = compare(&before, &disk, &report, &what);
            held += u32::from(compared);
            // What nobody needs any more may be damaged, and the end of the manifest torn.
            assert!(!report.is_clean() || compared, "{what}: nobody noticed");
        }
        assert!(held as usize >= kinds.len() - 2, "{more} {closed}: {held} of {}", kinds.len());
    }
}

#[test]
fn every_kind_of_damage_below_the_btree_is_salvaged() {
    type Damage = fn(&SimDisk);
    const FILE: &str = "btree.pages";
    fn page(disk: &SimDisk, level: u8, nth: usize) {
        let units = pages(disk, level);
        flip(disk, FILE, units[nth % units.len()] * 4096 + 200);
    }
    fn map(disk: &SimDisk) {
        // Word 10 of the newer meta page is where the free map lies.
        let bytes = bytes_of(disk, FILE);
        let word = |slot: usize, index: usize| {
            u64::from_le_bytes(bytes[slot * 4096 + 9 + index * 8..][..8].try_into().unwrap())
        };
        let newer = usize::from(word(1, 1) > word(0, 1));
        flip(disk, FILE, word(newer, 10) * 4096 + 1);
    }
    let kinds: &[(&str, Damage)] = &[
        ("a leaf", |disk| page(disk, 0, 3)),
        ("many leaves", |disk| (0..12).for_each(|nth| page(disk, 0, nth * 2))),
        ("an inner page", |disk| page(disk, 1, 0)),
        ("every inner page", |disk| {
            (1..4).for_each(|level| {
                pages(disk, level).iter().for_each(|unit| flip(disk, FILE, unit * 4096 + 200));
            });
        }),
        ("the free map", |disk| map(disk)),
        ("the free map and an inner page", |disk| {
            map(disk);
            page(disk, 1, 0);
        }),
        ("one meta page", |disk| flip(disk, FILE, 40)),
        ("the other meta page", |disk| flip(disk, FILE, 4096 + 40)),
        ("both meta pages", |disk| [40, 4096 + 40].iter().for_each(|at| flip(disk, FILE, *at))),
        ("a file that is cut off", |disk| {
            let bytes = files(disk, FILE)[0].1;
            disk.open(FILE).unwrap().set_size(bytes / 2).unwrap();
        }),
        ("extents", |disk| {
            let bytes = bytes_of(disk, FILE);
            let units = bytes.chunks(4096).enumerate().skip(2);
            let noisy = units
                .filter(|(_, unit)| unit[4] != 0xB7 && unit.iter().filter(|byte| **byte == 0).count() < 100);
            noisy.step_by(5).for_each(|(unit, _)| flip(disk, FILE, unit as u64 * 4096 + 77));
        }),
        ("a damaged log", |disk| {
            files(disk, "log.").iter().for_each(|(name, _)| flip(disk, name, 1024 + 60));
        }),
        ("a missing file", |disk| disk.remove(FILE).unwrap()),
        ("the description", |disk| flip(disk, "STORE", 60)),
    ];
    for (more, closed) in [("", true), ("torn=doublewrite", true), ("torn=image", false), ("", false)] {
        let base = store(Kind::BTREE, more, closed);
        let before = contents(&base);
        let mut held = 0;
        for (name, damage) in kinds {
            let what = format!("{more} {closed} {name}");
            let disk = base.kill();
            damage(&disk);
            let report = repaired(&disk, &what);
            let compared = compare(&before, &disk, &report, &what);
            held += u32::from(compared);
            assert!(!report.is_clean() || compared, "{what}: nobody noticed");
            if *name == "every inner page" {
                assert!(report.affected.is_empty(), "{what}: all leaves are there\n{report}");
            }
        }
        assert!(held as usize >= kinds.len() - 3, "{more} {closed}: {held} of {}", kinds.len());
    }
}
