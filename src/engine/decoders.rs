//! The decoders of what the engines share, and of each engine.

use std::sync::Arc;

use bytes::Bytes;

use super::wal::Log;
use super::{Batch, Sync, WakeSignal, btree, frame, lsm};
use crate::base::clock::ManualClock;
use crate::base::decoder::Decoder;
use crate::disk::{Disk, Purpose, SimDisk, read_all};
use crate::engine::Lsn;

/// The decoders of what the engines share.
pub const SHARED: &[Decoder] = &[
    Decoder { name: "batch", decode: batch, valid: batches },
    Decoder { name: "frame", decode: frame, valid: frames },
    Decoder { name: "log_segment", decode: segment, valid: segments },
];

/// Those of every engine.
pub fn all() -> impl Iterator<Item = &'static Decoder> {
    [SHARED, lsm::decoders::ALL, lsm::decoders::TABLES, btree::decoders::ALL].into_iter().flatten()
}

fn batch(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(batch) = Batch::decode(&bytes) else { return false };
    let mut again = Vec::new();
    batch.encode(&mut again);
    assert!(Batch::decode(&Bytes::from(again)).is_ok_and(|read| read == batch));
    true
}

fn batches() -> Vec<Vec<u8>> {
    let mut batch = Batch::new(3);
    batch.put(&b"some key"[..], vec![5; 300]);
    batch.delete(&b"another"[..]);
    let mut valid = Vec::new();
    batch.encode(&mut valid);
    vec![valid]
}

const PLACE: u64 = 42;
const PAYLOAD: &[u8] = b"a payload of some length";

/// A frame that checks has the payload that was written, and nobody else's.
fn frame(bytes: &[u8]) -> bool {
    let Some((kind, payload)) = frame::decode(bytes, PLACE) else { return false };
    assert_eq!(frame::encode(kind, PLACE, payload), bytes[..frame::HEADER_BYTES + payload.len()]);
    true
}

fn frames() -> Vec<Vec<u8>> {
    vec![frame::encode(7, PLACE, PAYLOAD)]
}

/// The one segment of a log: its records, if it can be opened.
fn open(disk: Arc<SimDisk>) -> Option<(Log, Vec<Bytes>)> {
    let mut records = Vec::new();
    let (clock, wake_signal) = (Arc::new(ManualClock::default()), Arc::new(WakeSignal::new()));
    let opened = Log::open(
        disk,
        clock,
        wake_signal,
        Sync::Fsync,
        4096,
        Lsn::ZERO,
        &Default::default(),
        &mut |_, _, payload| {
            records.push(payload);
            Ok(())
        },
    );
    opened.ok().map(|log| (log, records))
}

/// Replayed, each record is one that lies in the file.
fn segment(bytes: &[u8]) -> bool {
    let disk = SimDisk::new();
    let written = disk.create("log.0").and_then(|file| file.write_at(Purpose::Recovery, 0, bytes));
    assert!(written.is_ok(), "the simulated disk takes it");
    let Some((_, records)) = open(disk) else { return false };
    assert!(records.iter().map(Bytes::len).sum::<usize>() <= bytes.len());
    !records.is_empty()
}

fn segments() -> Vec<Vec<u8>> {
    let disk = SimDisk::new();
    if let Some((log, _)) = open(disk.clone()) {
        for index in 0..9u8 {
            let _ = log.append(2, Purpose::Wal, 100, |target| target.extend_from_slice(&[index; 100]));
        }
    }
    let files = disk.list().unwrap_or_default();
    let read = |name: &str| disk.open(name).and_then(|file| read_all(&*file, Purpose::Recovery)).ok();
    files.iter().filter_map(|info| read(&info.name)).collect()
}
