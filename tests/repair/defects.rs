//! Defects of the filesystem, planted one at a time.

use super::*;

const LINKS: usize = 4;
const FLAGS: usize = 24;
const PARENT: usize = 25;
const SIZE: usize = 33;
const STORED: usize = 41;

pub type Plant = fn(&dyn Engine, [Ino; 4], &mut Batch);
pub type Look = fn(&BTreeMap<Ino, Seen>, [Ino; 4]) -> bool;

/// Name, how to plant it, what must hold after the repair beside /keep.
pub const DEFECTS: &[(&str, Plant, Look)] = &[
    (
        "a wrong count of links",
        |engine, [.., file, _], batch| {
            batch.put(keys::inode(file), patched(engine, file, LINKS, &[0, 0, 0, 9]))
        },
        |after, [.., file, _]| after[&file].links == 1 && after[&file].path == "/dir/file",
    ),
    (
        "a wrong size, too small",
        |engine, [.., file, _], batch| {
            let mut record = patched(engine, file, SIZE, &100u64.to_be_bytes());
            record[STORED..STORED + 8].copy_from_slice(&100u64.to_be_bytes());
            batch.put(keys::inode(file), record);
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "wrong stored bytes",
        |engine, [.., file, _], batch| {
            batch.put(keys::inode(file), patched(engine, file, STORED, &1u64.to_be_bytes()));
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "an attribute that is not announced",
        |engine, [.., file, _], batch| batch.put(keys::inode(file), patched(engine, file, FLAGS, &[0])),
        |after, [.., file, _]| after[&file].note.as_deref() == Some(b"x"),
    ),
    (
        "ranges to reclaim that are announced and not there",
        |engine, [.., file, _], batch| batch.put(keys::inode(file), patched(engine, file, FLAGS, &[5])),
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "an inode without a name, with blocks",
        |engine, _, batch| batch.delete(find(engine, is_name("file")).0),
        |after, [.., file, _]| {
            after[&file].path == format!("/lost+found/#{file}") && after[&file].content == vec![7; 6000]
        },
    ),
    (
        "a directory without a name",
        |engine, _, batch| batch.delete(find(engine, is_name("dir")).0),
        |after, [dir, inner, file, _]| {
            after[&dir].path == format!("/lost+found/#{dir}")
                && after[&file].path == format!("/lost+found/#{dir}/file")
                && after[&inner].path == format!("/lost+found/#{dir}/inner")
        },
    ),
    (
        "lost+found is a file",
        |engine, _, batch| {
            let (key, value) = find(engine, is_name("other"));
            let secret = u64::from_be_bytes(
                engine.get(&keys::superblock(), TIER).unwrap().unwrap()[32..40].try_into().unwrap(),
            );
            batch.delete(key);
            batch.put(keys::dirent(ROOT, keys::name_hash(secret, b"lost+found"), b"lost+found"), value);
            batch.delete(find(engine, is_name("file")).0);
        },
        |after, [.., file, _]| {
            after[&file].path == format!("/lost+found.1/#{file}") && after[&file].content == vec![7; 6000]
        },
    ),
    (
        "blocks, attributes and marks of inodes that do not exist",
        |_, _, batch| {
            batch.put(keys::block(Ino(7778), 0, 3), vec![1; 10]);
            batch.put(keys::xattr(Ino(7779), b"user.a"), vec![1; 10]);
            batch.put(keys::orphan(Ino(7777)), Vec::new());
        },
        |after, _| after.len() == 5,
    ),
    (
        "a name for an inode that does not exist",
        |engine, _, batch| {
            let (_, value) = find(engine, is_name("other"));
            batch.delete(keys::inode(ino_of(&value)));
        },
        |after, _| after.len() == 4 && !after.values().any(|seen| seen.path == "/other"),
    ),
    (
        "a record that is gone, with name and blocks",
        |_, [.., file, _], batch| batch.delete(keys::inode(file)),
        |after, [.., file, _]| {
            let seen = &after[&file];
            seen.path == "/dir/file" && seen.content == vec![7; 6000] && seen.permissions == 0o600
        },
    ),
    (
        "a record that does not parse",
        |_, [.., file, _], batch| batch.put(keys::inode(file), vec![0xff; 30]),
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].content == vec![7; 6000],
    ),
    (
        "a directory's record that is gone",
        |_, [dir, ..], batch| batch.delete(keys::inode(dir)),
        |after, [dir, _, file, _]| after[&dir].path == "/dir" && after[&file].path == "/dir/file",
    ),
    (
        "no root directory",
        |_, _, batch| batch.delete(keys::inode(ROOT)),
        |after, [.., file, _]| after[&file].path == "/dir/file",
    ),
    (
        "a name that does not parse",
        |engine, _, batch| batch.put(find(engine, is_name("file")).0, vec![1, 2, 3]),
        |after, [.., file, _]| after[&file].path == format!("/lost+found/#{file}"),
    ),
    (
        "a name under the hash of another",
        |engine, [dir, ..], batch| {
            let (key, value) = find(engine, is_name("file"));
            batch.delete(key);
            batch.put(keys::dirent(dir, 12345, b"file"), value);
        },
        |after, [.., file, _]| after[&file].path == "/dir/file",
    ),
    (
        "a name that no file can have",
        |engine, [dir, ..], batch| {
            let (_, value) = find(engine, is_name("file"));
            batch.put(keys::dirent(dir, 5, b"a/b"), value);
        },
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].links == 1,
    ),
    (
        "a name of the wrong kind",
        |engine, _, batch| {
            let (key, mut value) = find(engine, is_name("file"));
            value[8] = 4;
            batch.put(key, value);
        },
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].kind == FileKind::File,
    ),
    (
        "names in a file",
        |engine, [.., file, keep], batch| {
            let (_, value) = find(engine, is_name("keep"));
            batch.put(keys::dirent(file, 5, b"in a file"), value);
            assert!(keep > Ino(0));
        },
        |after, [.., file, _]| after[&file].path == "/dir/file",
    ),
    (
        "two names for a directory",
        |engine, _, batch| {
            let (_, value) = find(engine, is_name("inner"));
            batch.put(keys::dirent(ROOT, 5, b"second"), value);
        },
        |after, [_, inner, ..]| after[&inner].path == "/dir/inner",
    ),
    (
        "a directory that is not where it says",
        |engine, [_, inner, file, _], batch| {
            batch.put(keys::inode(inner), patched(engine, inner, PARENT, &file.0.to_be_bytes()));
        },
        |after, [_, inner, ..]| after[&inner].path == "/dir/inner",
    ),
    (
        "directories that lie in each other",
        |engine, [dir, inner, ..], batch| {
            let (key, value) = find(engine, is_name("dir"));
            batch.delete(key);
            batch.put(keys::dirent(inner, 5, b"dir"), value);
            batch.put(keys::inode(dir), patched(engine, dir, PARENT, &inner.0.to_be_bytes()));
        },
        |after, [dir, inner, file, _]| {
            let found = format!("/lost+found/#{}", dir.min(inner));
            after[&dir].path.starts_with(&found)
                && after[&inner].path.starts_with(&found)
                && after[&file].path.starts_with(&found)
        },
    ),
    (
        "a deleted file with a name",
        |_, [.., file, _], batch| batch.put(keys::orphan(file), Vec::new()),
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].content == vec![7; 6000],
    ),
    (
        "blocks of another epoch",
        |_, [.., file, _], batch| {
            batch.put(keys::block(file, 9, 0), vec![5; 100]);
        },
        // The newest content counts.
        |after, [.., file, _]| after[&file].content[..100] == [5; 100],
    ),
    (
        "blocks of a directory, and empty and oversized ones",
        |_, [dir, _, file, _], batch| {
            batch.put(keys::block(dir, 0, 0), vec![5; 100]);
            batch.put(keys::block(file, 0, 1), vec![7; 5000]);
            batch.put(keys::block(file, 0, 7), Vec::new());
        },
        |after, [.., file, _]| after[&file].content == vec![7; 8192],
    ),
    (
        "ranges to reclaim that do not parse or have not begun",
        |_, [.., file, _], batch| {
            batch.put(keys::reclaim(file, 0, 9), vec![1]);
            batch.put(keys::reclaim(file, 4, 9), vec![0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]);
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "a range to reclaim that is not announced",
        |_, [.., file, _], batch| {
            batch.put(keys::reclaim(file, 0, 9), vec![0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]);
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "wrong totals",
        |_, _, batch| {
            let mut record = vec![1];
            record.extend([0; 32]);
            batch.put(keys::counter(b"total"), record);
        },
        |after, _| after.len() == 5,
    ),
    (
        "no superblock",
        |_, _, batch| batch.delete(keys::superblock()),
        |after, [.., file, _]| after.len() == 5 && after[&file].path == "/dir/file",
    ),
    (
        "numbers that are not given away",
        |engine, _, batch| {
            let mut record = engine.get(&keys::superblock(), TIER).unwrap().unwrap().to_vec();
            record[40..48].copy_from_slice(&3u64.to_be_bytes());
            batch.put(keys::superblock(), record);
        },
        |after, _| after.len() == 5,
    ),
    (
        "a key of nobody",
        |_, _, batch| batch.put(b"\x99strange".to_vec(), vec![1]),
        |after, _| after.len() == 5,
    ),
    (
        "no names at all",
        |engine, _, batch| {
            all(engine, |key| matches!(key, Key::Dirent { .. }))
                .into_iter()
                .for_each(|key| batch.delete(key));
        },
        |after, [dir, inner, file, keep]| {
            [dir, inner, file, keep].iter().all(|ino| after[ino].path == format!("/lost+found/#{ino}"))
        },
    ),
];

pub fn planted(kind: Kind, plant: Plant) -> (Arc<SimDisk>, [Ino; 4]) {
    let (disk, inos) = small(kind);
    let disk = disk.kill();
    let (engine, _) = Open::engine(&disk);
    let mut batch = Batch::new(0);
    plant(&*engine, inos, &mut batch);
    engine.apply(&batch, TIER).unwrap();
    engine::sync(&*engine).unwrap();
    engine.close().unwrap();
    (disk, inos)
}

#[test]
fn every_planted_defect_of_the_filesystem_is_mended() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        for (name, plant, look) in DEFECTS {
            let what = format!("{kind} {name}");
            let (disk, inos) = planted(kind, *plant);
            let report = repaired(&disk, &what);
            assert!(report.damage.is_empty() && !report.problems.is_empty(), "{what}:\n{report}");
            assert!(!report.mends.is_empty(), "{what}:\n{report}");
            let after = contents(&disk);
            assert!(look(&after, inos), "{what}: {after:#?}\n{report}");
            let keep = after.get(&inos[3]).unwrap_or_else(|| panic!("{what}: /keep"));
            assert!(keep.content == vec![9; 5000], "{what}");
        }
    }
}

#[test]
fn a_sound_store_is_left_alone() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        for closed in [true, false] {
            let disk = store(kind, "", closed);
            let requests = disk.requests();
            let report = repair(&disk, true);
            assert!(report.is_clean(), "{kind}:\n{report}");
            assert!(report.summary.inodes > 50 && report.mends.is_empty(), "{kind}");
            assert_eq!(disk.requests(), requests, "{kind}: nothing to write");
        }
    }
}
