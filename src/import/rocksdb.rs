//! Traces of RocksDB, version 0.2: records of a time (u64, µs), a type (u8), a length (u32) and a payload. The payload begins with a map of bits that
//! says which of its fields follow, in ascending order. Integers are little-endian; lengths of strings are varints.
//!
//! | type | fields |
//! |---|---|
//! | 1 begin | magic, versions and format as text with tabs, without a map |
//! | 2 end | none |
//! | 3 write | 1: a write batch |
//! | 4 get | 2: column family u32, 3: key |
//! | 5, 6 seek, seek for the one before | 4: column family u32, 5: key, 6: lower bound, 7: upper bound |
//! | 13 several gets | 8: count u32, 9: column families, a u32 each, in a string, 10: keys in a string |
//!
//! A write batch: sequence number (8 bytes), count (u32), then records of a tag (u8), for other column families than the first their number (varint),
//! a key and, of a put or merge, a value.
//!
//! What the fields do not say: what was in the database before, how long a request took, which thread asked, whether a get found
//! something, how far an iterator went behind its seek (which counts as one entry), and syncs. Keys of the first column family
//! stay as they are; those of another stand behind a byte 0xff and its number.

use std::io::{BufReader, Read};

use bytes::Bytes;

use super::{Imported, head, unreadable};
use crate::base::varint;
use crate::recording::{Asked, Change, Content, Error, Event, Head, Meters, Result, Writer};

const MAGIC: &[u8] = b"feedcafedeadbeef\t";
/// A record is never longer; what claims to be is no trace.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// The operations of the recording, in the order of tags.
const OPERATIONS: [&str; 4] = ["write", "get", "seek", "multi_get"];

/// One record.
struct Record {
    micros: u64,
    kind: u8,
    payload: Vec<u8>,
}

/// Reads the trace that `source` is into the recording that `begin` makes.
pub(super) fn import<W: std::io::Write>(
    name: &str,
    source: impl Read,
    begin: impl FnOnce(Head) -> Result<Writer<W>>,
) -> Result<Imported> {
    let mut source = BufReader::new(source);
    let mut number = 0u64;
    let mut next = || -> Result<Option<(u64, Record)>> {
        number += 1;
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                unreadable(name, format_args!("record {number}"), "the file ends in the middle of it")
            }
            _ => Error::Io { what: format!("reading {name}"), error },
        };
        let mut header = [0; 13];
        match source.read(&mut header[..1]).map_err(failed)? {
            0 => return Ok(None),
            _ => source.read_exact(&mut header[1..]).map_err(failed)?,
        }
        let (micros, rest) = header.split_at(8);
        let micros = micros.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = u32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(unreadable(name, format_args!("record {number}"), "it is longer than any"));
        }
        let mut payload = Vec::new();
        let read = source.by_ref().take(length as u64).read_to_end(&mut payload).map_err(failed)?;
        if read < length {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Some((number, Record { micros, kind: rest[0], payload })))
    };
    let first = next()?.filter(|(_, record)| record.kind == 1 && record.payload.starts_with(MAGIC));
    let Some((_, first)) = first else {
        return Err(unreadable(name, "record 1", "it does not begin like a trace of RocksDB"));
    };
    if !contains(&first.payload, b"Trace Version: 0.2") {
        let said = String::from_utf8_lossy(&first.payload).into_owned();
        return Err(unreadable(name, "record 1", format_args!("its version is not 0.2: {said}")));
    }
    let head = Head { keeps_names: true, began_ms: first.micros / 1000, ..head("rocksdb", &OPERATIONS) };
    let mut writer = begin(head)?;
    writer.end_image(0, true)?;
    let mut imported = Imported::default();
    let mut lsn = 0;
    let mut written = 0;
    while let Some((number, record)) = next()? {
        if record.kind == 2 {
            break;
        }
        let start_ns = record.micros.saturating_sub(first.micros).saturating_mul(1000);
        let asked = asked(&record, &mut lsn, &mut imported)
            .ok_or_else(|| unreadable(name, format_args!("record {number}"), "it does not parse"))?;
        for (tag, asked) in asked {
            if let Asked::Batch { changes, .. } = &asked {
                let bytes = |change: &Change| {
                    (change.key.len() as u64) + change.value.as_ref().map_or(0, Content::length)
                };
                written += changes.iter().map(bytes).sum::<u64>();
            }
            imported.events += 1;
            writer.event(&Event { tag, thread: 0, start_ns, duration_ns: 0, asked })?;
        }
    }
    writer.meters(&Meters {
        // Here the program's writes are those that the engine is asked for.
        app_write_bytes: Some(written),
        kv_write_bytes: Some(written),
        events: Some(imported.events),
        ..Meters::default()
    })?;
    imported.bytes = writer.end("the trace ended")?;
    Ok(imported)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What a record asks, with the tags of the operations; `None` if it does not parse.
fn asked(record: &Record, lsn: &mut u64, imported: &mut Imported) -> Option<Vec<(u8, Asked)>> {
    let mut source = &record.payload[..];
    let source = &mut source;
    match record.kind {
        3 => {
            if take_u64(source)? != 1 << 1 {
                return None;
            }
            let changes = write_batch(varint::take_bytes(source)?, imported)?;
            if changes.is_empty() {
                return Some(Vec::new());
            }
            *lsn += 1;
            Some(vec![(0, Asked::Batch { lsn: *lsn, changes })])
        }
        4 => {
            if take_u64(source)? != 1 << 2 | 1 << 3 {
                return None;
            }
            let family = take_u32(source)?;
            Some(vec![(1, Asked::Get { key: key(family, varint::take_bytes(source)?), found: None })])
        }
        kind @ (5 | 6) => {
            let fields = take_u64(source)?;
            if fields & (1 << 4 | 1 << 5) != 1 << 4 | 1 << 5 || fields >> 8 != 0 {
                return None;
            }
            if kind == 6 {
                imported.leave_out("seeks for the entry before a key (they count as seeks)");
            }
            let family = take_u32(source)?;
            let start = key(family, varint::take_bytes(source)?);
            if fields & 1 << 6 != 0 {
                varint::take_bytes(source)?;
            }
            let end =
                if fields & 1 << 7 != 0 { Some(key(family, varint::take_bytes(source)?)) } else { None };
            Some(vec![(2, Asked::Scan { start, end, entries: 1, bytes: 0 })])
        }
        13 => {
            if take_u64(source)? != 1 << 8 | 1 << 9 | 1 << 10 {
                return None;
            }
            let count = take_u32(source)?;
            let (mut families, mut keys) = (varint::take_bytes(source)?, varint::take_bytes(source)?);
            let get = |_| {
                let family = take_u32(&mut families)?;
                Some((3, Asked::Get { key: key(family, varint::take_bytes(&mut keys)?), found: None }))
            };
            (0..count).map(get).collect()
        }
        kind => {
            imported.leave_out(format!("records of type {kind}"));
            Some(Vec::new())
        }
    }
}

/// The key as it is in a recording.
fn key(family: u32, key: &[u8]) -> Bytes {
    match family {
        0 => Bytes::copy_from_slice(key),
        family => [&[0xff][..], &family.to_be_bytes(), key].concat().into(),
    }
}

/// The changes of a write batch.
fn write_batch(mut source: &[u8], imported: &mut Imported) -> Option<Vec<Change>> {
    let source = &mut source;
    take_u64(source)?;
    take_u32(source)?;
    let mut changes = Vec::new();
    while let Some((tag, rest)) = source.split_first() {
        *source = rest;
        let has_family = matches!(tag, 4..=6 | 8 | 14);
        let family = if has_family { u32::try_from(varint::take(source)?).ok()? } else { 0 };
        match tag {
            // Puts and merges.
            1 | 2 | 5 | 6 => {
                let key = key(family, varint::take_bytes(source)?);
                let value = varint::take_bytes(source)?;
                if matches!(tag, 2 | 6) {
                    imported.leave_out("merges (each counts as a put of its operand)");
                }
                changes.push(Change { key, value: Some(Content::Length(value.len() as u64)) });
            }
            // Deletes, and deletes of what was put once.
            0 | 4 | 7 | 8 => {
                changes.push(Change { key: key(family, varint::take_bytes(source)?), value: None })
            }
            // Deletes of ranges.
            14 | 15 => {
                varint::take_bytes(source)?;
                varint::take_bytes(source)?;
                imported.leave_out("deletes of ranges");
            }
            // Data for the log alone.
            3 => {
                varint::take_bytes(source)?;
                imported.leave_out("data for the log alone");
            }
            // Marks of transactions: their beginnings, and with a name their ends.
            9 | 18 | 19 => imported.leave_out("marks of transactions"),
            10..=12 => {
                varint::take_bytes(source)?;
                imported.leave_out("marks of transactions");
            }
            13 => {}
            _ => return None,
        }
    }
    Some(changes)
}

fn take_u64(source: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = source.split_first_chunk()?;
    *source = rest;
    Some(u64::from_le_bytes(*bytes))
}

fn take_u32(source: &mut &[u8]) -> Option<u32> {
    let (bytes, rest) = source.split_first_chunk()?;
    *source = rest;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Recording;

    fn record(micros: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_le_bytes();
        [&micros.to_le_bytes()[..], &[kind], &length, payload].concat()
    }

    fn string(bytes: &[u8]) -> Vec<u8> {
        let mut target = Vec::new();
        varint::put_bytes(&mut target, bytes);
        target
    }

    /// A trace with a record of each type.
    fn sample() -> Vec<u8> {
        let begin =
            b"feedcafedeadbeef\tTrace Version: 0.2\tRocksDB Version: 7.8\tFormat: Timestamp OpType Payload\n";
        let map = |bits: &[u32]| bits.iter().fold(0u64, |map, bit| map | 1 << bit).to_le_bytes();
        let batch = [
            &[0; 8][..],
            &4u32.to_le_bytes(),
            &[1],
            &string(b"one"),
            &string(&[7; 100]),
            &[0],
            &string(b"two"),
            &[5, 3],
            &string(b"three"),
            &string(b"v"),
            &[15],
            &string(b"a"),
            &string(b"b"),
        ]
        .concat();
        let keys = [string(b"one"), string(b"two")].concat();
        let families = [0u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
        [
            record(1_000_000, 1, begin),
            record(1_000_010, 3, &[&map(&[1])[..], &string(&batch)].concat()),
            record(1_000_020, 4, &[&map(&[2, 3])[..], &0u32.to_le_bytes(), &string(b"one")].concat()),
            record(
                1_000_030,
                5,
                &[&map(&[4, 5, 7])[..], &0u32.to_le_bytes(), &string(b"o"), &string(b"p")].concat(),
            ),
            record(
                1_000_040,
                13,
                &[&map(&[8, 9, 10])[..], &2u32.to_le_bytes(), &string(&families), &string(&keys)].concat(),
            ),
            record(1_000_050, 99, b"?"),
            record(1_000_060, 2, b""),
        ]
        .concat()
    }

    fn run(trace: &[u8]) -> Result<(Imported, Recording)> {
        let mut bytes = Vec::new();
        let imported = import("trace", trace, |head| Writer::new(&mut bytes, "test", head))?;
        Ok((imported, Recording::of_bytes("test", bytes.into())?))
    }

    #[test]
    fn requests_become_events_and_what_has_no_place_is_named() {
        let (imported, recording) = run(&sample()).unwrap();
        let left: Vec<_> = imported.left_out.iter().map(|(what, times)| (what.as_str(), *times)).collect();
        assert_eq!(left, [("deletes of ranges", 1), ("records of type 99", 1)]);
        let events: Vec<Event> = recording.events().unwrap().map(|event| event.unwrap()).collect();
        assert_eq!((events.len() as u64, imported.events), (5, 5));
        let key = Bytes::from_static;
        let put = |key: Bytes, length| Change { key, value: Some(Content::Length(length)) };
        let changes = vec![
            put(key(b"one"), 100),
            Change { key: key(b"two"), value: None },
            put(key(b"\xff\0\0\0\x03three"), 1),
        ];
        assert_eq!(events[0].asked, Asked::Batch { lsn: 1, changes });
        assert_eq!((events[0].start_ns, recording.head().operation(events[0].tag)), (10_000, "write"));
        assert_eq!(events[1].asked, Asked::Get { key: key(b"one"), found: None });
        let (start, end) = (key(b"o"), Some(key(b"p")));
        assert_eq!(events[2].asked, Asked::Scan { start, end, entries: 1, bytes: 0 });
        assert_eq!(events[4].asked, Asked::Get { key: key(b"\xff\0\0\0\x03two"), found: None });
        assert_eq!(recording.meters().unwrap().app_write_bytes, Some(103 + 3 + 11));
    }

    #[test]
    fn every_cut_is_refused_and_named() {
        let whole = sample();
        let end = whole.len() - 13;
        for cut in 0..end {
            match run(&whole[..cut]) {
                Err(error) => assert!(error.to_string().contains("record"), "{error}"),
                // A trace that was not ended.
                Ok((imported, _)) => assert!(imported.events <= 5),
            }
        }
        let other = String::from_utf8_lossy(&whole[..100]).replace("0.2", "0.1").into_bytes();
        assert!(run(&other).is_err());
        let mut old = whole.clone();
        let at = old.windows(3).position(|part| part == b"0.2").unwrap();
        old[at + 2] = b'1';
        assert!(run(&old).err().unwrap().to_string().contains("its version is not 0.2"));
    }
}
