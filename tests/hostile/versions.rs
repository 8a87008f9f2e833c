//! Stores of other versions of the program: each kind of file that carries a version is made older and newer, behind a checksum
//! that fits. The store is refused with a sentence that names the version and says what to do, and nothing in it is changed.

use std::sync::Arc;

use kvfs::disk::{Disk, Purpose, SimDisk, read_all};
use kvfs::engine::{Batch, frame};
use kvfs::fs::keys;

use super::*;

fn bytes_of(disk: &SimDisk, name: &str) -> Vec<u8> {
    read_all(&*disk.open(name).unwrap(), Purpose::Recovery).unwrap()
}

/// A closed store with a table, or pages.
fn store(kind: Kind) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let store = make(disk.clone(), kind);
    store.fs.close().unwrap();
    engine::run(&*store.engine, engine::Command::Flush).unwrap();
    store.engine.close().unwrap();
    disk.kill()
}

/// Changes the payload of the frame at `offset`, which belongs to `place`.
fn patch(bytes: &mut Vec<u8>, offset: usize, place: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let (kind, payload) = frame::decode(&bytes[offset..], place).expect("a frame");
    let (mut payload, end) = (payload.to_vec(), offset + frame::HEADER_BYTES + payload.len());
    change(&mut payload);
    bytes.splice(offset..end, frame::encode(kind, place, &payload));
}

/// What the program says to a store with one file changed.
fn refusal(disk: &SimDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let copy = disk.kill();
    let mut bytes = bytes_of(&copy, name);
    change(&mut bytes);
    copy.remove(name).unwrap();
    copy.create(name).unwrap().write_at(Purpose::Recovery, 0, &bytes).unwrap();
    let answer = open(copy.clone()).err().unwrap_or_else(|| panic!("{name} of another version was accepted"));
    assert_eq!(bytes_of(&copy, name), bytes, "{name} was changed before it was refused");
    answer
}

fn helps(answer: &str, version: &str) {
    assert!(
        answer.contains(&format!("format {version}"))
            && answer.contains("use the version of kvfs that made it"),
        "{answer}"
    );
}

#[test]
fn a_description_of_another_version_is_refused_with_advice() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let disk = store(kind);
        for version in ["0", "2", "17"] {
            let answer = refusal(&disk, "STORE", |bytes| {
                let text = String::from_utf8(bytes.clone()).unwrap();
                *bytes = text.replacen("kvfs store 1", &format!("kvfs store {version}"), 1).into_bytes();
            });
            helps(&answer, version);
        }
    }
}

#[test]
fn a_manifest_of_another_version_is_refused_with_advice() {
    let disk = store(Kind::LSM);
    let title = b"kvfs lsm manifest".len();
    for version in [1u8, 2, 100] {
        let answer =
            refusal(&disk, "manifest", |bytes| patch(bytes, 0, 0, |payload| payload[title] = version));
        helps(&answer, &version.to_string());
    }
}

#[test]
fn a_table_of_another_version_is_refused_with_advice() {
    let disk = store(Kind::LSM);
    let names = disk.list().unwrap().into_iter().map(|info| info.name);
    let name = names.into_iter().find(|name| name.starts_with("table.")).expect("a table");
    let number: u64 = name["table.".len()..].parse().unwrap();
    for version in [1u8, 3, 100] {
        let answer = refusal(&disk, &name, |bytes| {
            // The last twelve bytes: the length of the footer's frame, and the magic word.
            let trailer = bytes.len() - 12;
            let length = u32::from_le_bytes(bytes[trailer..trailer + 4].try_into().unwrap()) as usize;
            let offset = trailer - length;
            let place = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset as u64;
            patch(bytes, offset, place, |payload| payload[0] = version);
        });
        helps(&answer, &version.to_string());
        assert!(answer.contains(&name), "{answer}");
    }
}

#[test]
fn pages_of_another_version_are_refused_with_advice() {
    let disk = store(Kind::BTREE);
    for version in [b'0', b'4'] {
        let answer = refusal(&disk, "btree.pages", |bytes| {
            for offset in [0usize, 4096] {
                if frame::decode(&bytes[offset..], offset as u64).is_some() {
                    patch(bytes, offset, offset as u64, |payload| payload[7] = version);
                }
            }
        });
        helps(&answer, &(version as char).to_string());
    }
}

#[test]
fn a_filesystem_of_another_version_is_refused_with_advice() {
    for (kind, field, version) in [(Kind::LSM, 3, 0), (Kind::BTREE, 3, 2), (Kind::LSM, 3, 200)] {
        let disk = store(kind);
        let options = EngineOptions::tiny(kind);
        let engine = engine::open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
        let mut superblock = engine.get(&keys::superblock(), Tier::Disk).unwrap().unwrap().to_vec();
        superblock[field] = version;
        let mut batch = Batch::new(0);
        batch.put(keys::superblock(), superblock);
        engine.apply(&batch, Tier::Disk).unwrap();
        engine.close().unwrap();
        helps(&open(disk.kill()).err().expect("another version was accepted"), &version.to_string());
    }
}
