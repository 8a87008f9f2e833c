//! Keys and bytes of a store, to be found and damaged.

use super::*;

pub fn flip(disk: &SimDisk, name: &str, byte: u64) {
    assert!(disk.flip_bit(name, byte * 8 + 3), "{name} has no byte {byte}");
}

/// A flaw in data that is needed.
pub fn damage(disk: &SimDisk, kind: Kind) {
    if kind == Kind::LSM {
        flip(disk, &files(disk, "table.")[0].0, 50);
    } else {
        flip(disk, "btree.pages", pages(disk, 1)[0] * 4096 + 100);
    }
}

pub fn files(disk: &SimDisk, prefix: &str) -> Vec<(String, u64)> {
    let all = disk.list().unwrap().into_iter().filter(|info| info.name.starts_with(prefix));
    all.map(|info| (info.name, info.bytes)).collect()
}

pub fn bytes_of(disk: &SimDisk, name: &str) -> Vec<u8> {
    kvfs::disk::read_all(&*disk.open(name).unwrap(), Purpose::Recovery).unwrap()
}

/// The first key and value that `wanted` wants.
pub fn find(engine: &dyn Engine, wanted: impl Fn(Key<'_>) -> bool) -> (Vec<u8>, Vec<u8>) {
    let mut found = None;
    engine
        .scan(KeyRange::ALL, TIER, &mut |key, value| {
            if keys::parse(key).is_some_and(&wanted) {
                found = Some((key.to_vec(), value.to_vec()));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    found.expect("such a key")
}

pub fn all(engine: &dyn Engine, wanted: impl Fn(Key<'_>) -> bool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    engine
        .scan(KeyRange::ALL, TIER, &mut |key, _| {
            found.extend(keys::parse(key).is_some_and(&wanted).then(|| key.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

pub fn is_name<'a>(name: &'a str) -> impl Fn(Key<'_>) -> bool + use<'a> {
    move |key| matches!(key, Key::Dirent { name: found, .. } if found == name.as_bytes())
}

/// The inode that a name's value says.
pub fn ino_of(value: &[u8]) -> Ino {
    Ino(u64::from_be_bytes(value[..8].try_into().unwrap()))
}

/// A record of `ino` with big-endian bytes at an offset replaced.
pub fn patched(engine: &dyn Engine, ino: Ino, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut record = engine.get(&keys::inode(ino), TIER).unwrap().unwrap().to_vec();
    record[at..at + bytes.len()].copy_from_slice(bytes);
    record
}

/// Units of the B-tree's pages of a level that look like some.
pub fn pages(disk: &SimDisk, level: u8) -> Vec<u64> {
    let bytes = bytes_of(disk, "btree.pages");
    let units = bytes.chunks(4096).enumerate().skip(2);
    units.filter(|(_, page)| page[4] == 0xB7 && page[5] == level).map(|(unit, _)| unit as u64).collect()
}
