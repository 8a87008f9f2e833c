//! The check is loud for every damage.

use super::*;

/// Adds damage to a batch, given a file, its directory, and a directory beside it.
type Damage = fn(&Bench, [Ino; 3], &mut Batch);

fn patch(bench: &Bench, ino: Ino, offset: usize, bytes: &[u8], batch: &mut Batch) {
    let mut record = bench.map.get(&keys::inode(ino), Tier::Disk).unwrap().unwrap().to_vec();
    record[offset..offset + bytes.len()].copy_from_slice(bytes);
    batch.put(keys::inode(ino), record);
}

/// The key of a name in `dir` that stands for `ino`.
fn name_key(bench: &Bench, dir: Ino, ino: Ino) -> Vec<u8> {
    let is_it = |key: &[u8], value: &[u8]| match keys::parse(key) {
        Some(keys::Key::Dirent { dir: found, .. }) => found == dir && value.starts_with(&ino.0.to_be_bytes()),
        _ => false,
    };
    let (key, _) = bench.map.contents().into_iter().find(|(key, value)| is_it(key, value)).unwrap();
    key.to_vec()
}

#[test]
fn the_check_is_loud_for_every_damage() {
    let plant = |damage: Damage| {
        let bench = Bench::new();
        let directory = bench.mkdir(ROOT, "d");
        let (file, deep) = (bench.create(directory, "f"), bench.mkdir(directory, "e"));
        bench.write(file, 0, vec![1; 10_000]);
        bench.fs.setxattr(Tier::Memory, file, b"user.a", b"1", XattrMode::Either).unwrap();
        bench.fs.close().unwrap();
        assert_eq!(check(&*bench.map), Vec::<String>::new());
        let mut batch = Batch::new(0);
        damage(&bench, [file, directory, deep], &mut batch);
        bench.map.apply(&batch, Tier::Disk).unwrap();
        check(&*bench.map)
    };
    let damages: Vec<(&str, &str, Damage)> = vec![
        ("missing inode", "does not exist", |_, [file, ..], batch| batch.delete(keys::inode(file))),
        ("wrong link count", "says 5 links and has 1", |bench, [file, ..], batch| {
            patch(bench, file, 4, &5u32.to_be_bytes(), batch);
        }),
        ("orphan block", "block 3 of inode 99, which does not exist", |_, _, batch| {
            batch.put(keys::block(Ino(99), 0, 3), vec![1]);
        }),
        ("block behind the end", "where 0 may be", |_, [file, ..], batch| {
            batch.put(keys::block(file, 0, 9), vec![1]);
        }),
        ("block of another epoch", "is of epoch 7, not 0", |_, [file, ..], batch| {
            batch.put(keys::block(file, 7, 0), vec![1]);
        }),
        ("wrong size", "where 904 may be", |bench, [file, ..], batch| {
            patch(bench, file, 33, &[5000u64, 5000].map(u64::to_be_bytes).concat(), batch);
        }),
        ("lost block", "stored bytes and has", |_, [file, ..], batch| batch.delete(keys::block(file, 0, 1))),
        ("lost name", "links and has 0", |bench, [file, directory, _], batch| {
            batch.delete(name_key(bench, directory, file));
        }),
        ("wrong hash", "hash of another name", |_, [file, directory, _], batch| {
            batch.put(keys::dirent(directory, 5, b"g"), [&file.0.to_be_bytes()[..], b"\x08"].concat());
        }),
        ("wrong kind", "it says", |bench, [file, directory, _], batch| {
            let key = name_key(bench, directory, file);
            batch.put(key, [&file.0.to_be_bytes()[..], b"\x0a"].concat());
        }),
        ("wrong parent", "as it says", |bench, [_, _, deep], batch| {
            patch(bench, deep, 25, &ROOT.0.to_be_bytes(), batch);
        }),
        ("cycle", "form a cycle", |bench, [_, directory, deep], batch| {
            batch.delete(name_key(bench, ROOT, directory));
            let hash = keys::name_hash(0, b"d");
            batch.put(keys::dirent(deep, hash, b"d"), [&directory.0.to_be_bytes()[..], b"\x04"].concat());
            patch(bench, directory, 25, &deep.0.to_be_bytes(), batch);
        }),
        ("orphan record", "has an orphan record", |_, [file, ..], batch| {
            batch.put(keys::orphan(file), Vec::new());
        }),
        ("unannounced range", "does not announce a range", |_, [file, ..], batch| {
            batch.put(keys::reclaim(file, 0, 50), [60u64, 0].map(u64::to_be_bytes).concat());
        }),
        ("stray attribute", "an extended attribute of inode 99", |_, _, batch| {
            batch.put(keys::xattr(Ino(99), b"user.x"), vec![1]);
        }),
        ("unannounced attribute", "does not announce attribute", |_, [_, directory, _], batch| {
            batch.put(keys::xattr(directory, b"user.x"), vec![1]);
        }),
        ("unknown key", "not ours", |_, _, batch| batch.put(vec![0x99, 1], vec![1])),
        ("cut record", "does not parse", |_, [file, ..], batch| batch.put(keys::inode(file), vec![1; 9])),
        ("no root", "no root", |_, _, batch| batch.delete(keys::inode(ROOT))),
        ("number not given", "not given away", |bench, [file, ..], batch| {
            let record = bench.map.get(&keys::inode(file), Tier::Disk).unwrap().unwrap();
            batch.put(keys::inode(Ino(999_999)), record);
        }),
        ("wrong totals", "totals", |bench, _, batch| {
            let key = keys::counter(b"total");
            let mut record = bench.map.get(&key, Tier::Disk).unwrap().unwrap().to_vec();
            record[8] ^= 1;
            batch.put(key, record);
        }),
        ("no superblock", "superblock is missing", |_, _, batch| batch.delete(keys::superblock())),
    ];
    for (name, expected, damage) in damages {
        let problems = plant(damage);
        assert!(problems.iter().any(|what| what.contains(expected)), "{name}: {problems:#?}");
    }
}
