//! Reading a segment from front to back, a window at a time, so that opening a log takes little memory however long its segments
//! are.

use bytes::Bytes;

use super::replay::{Header, lsn_at, read_record};
use super::segment::segment_name;
use super::{HEADER_BYTES, RECORD_OVERHEAD_BYTES};
use crate::disk::{File, Purpose};
use crate::engine::{Error, Lsn, Result, frame};

/// Bytes that are read at once, unless a record is longer.
const WINDOW_BYTES: u64 = 1 << 20;

/// A record as it lies in its segment.
pub(super) struct Record {
    pub(super) kind: u8,
    /// The highest LSN that was durable when it was written.
    pub(super) synced: Lsn,
    /// The bytes that its owner wrote.
    pub(super) payload: Bytes,
    /// Bytes that it takes in the segment.
    pub(super) bytes: u64,
}

/// Bytes that the frame at the start of `bytes` says it takes.
fn frame_bytes(bytes: &[u8]) -> Option<u64> {
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    Some(frame::HEADER_BYTES as u64 + u64::from(length))
}

/// A part of a segment's file in memory.
pub(super) struct Window<'a> {
    file: &'a dyn File,
    slot: u64,
    capacity_bytes: u64,
    start: u64,
    bytes: Bytes,
}

impl<'a> Window<'a> {
    /// On the file of `slot`.
    pub(super) fn new(file: &'a dyn File, slot: u64, capacity_bytes: u64) -> Window<'a> {
        Window { file, slot, capacity_bytes, start: 0, bytes: Bytes::new() }
    }

    /// `bytes` bytes from `offset` on, fewer at the end of the file.
    fn at(&mut self, offset: u64, bytes: u64) -> Result<Bytes> {
        let end = offset.saturating_add(bytes).min(self.capacity_bytes);
        let offset = offset.min(end);
        let held_end = self.start + self.bytes.len() as u64;
        if offset < self.start || end > held_end {
            // What is here already is not read again.
            let keep = if offset < self.start { 0 } else { held_end.saturating_sub(offset) as usize };
            let length = (end - offset).max(WINDOW_BYTES).min(self.capacity_bytes - offset);
            let mut window = vec![0; length as usize];
            window[..keep].copy_from_slice(&self.bytes[self.bytes.len() - keep..]);
            let context = |error| Error::io(format!("reading {}", segment_name(self.slot)), error);
            let read = self.file.read_at(Purpose::Recovery, offset + keep as u64, &mut window[keep..]);
            read.map_err(context)?;
            (self.start, self.bytes) = (offset, window.into());
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.slice(from..from + (end - offset) as usize))
    }

    /// The record at `offset`, if a whole one is there that says that its LSN is `lsn`.
    pub(super) fn record(&mut self, number: u64, offset: u64, lsn: Lsn) -> Result<Option<Record>> {
        let head = self.at(offset, RECORD_OVERHEAD_BYTES)?;
        let at = head.get(frame::HEADER_BYTES..).and_then(|payload| lsn_at(payload, 0));
        let bytes =
            frame_bytes(&head).filter(|bytes| at == Some(lsn) && offset + bytes <= self.capacity_bytes);
        let Some(bytes) = bytes else { return Ok(None) };
        let whole = self.at(offset, bytes)?;
        let record = read_record(&whole, number, offset, 0);
        Ok(record.map(|(kind, _, synced, payload)| Record {
            kind,
            synced,
            payload: whole.slice(payload),
            bytes,
        }))
    }

    /// Calls `found` with offset and `synced` of every whole record from `offset` on that lies in its own place.
    pub(super) fn each_later(
        &mut self,
        header: &Header,
        offset: u64,
        found: &mut dyn FnMut(u64, Lsn),
    ) -> Result<()> {
        let end = (self.capacity_bytes + 1).saturating_sub(RECORD_OVERHEAD_BYTES);
        let mut from = offset;
        while from < end {
            let to = end.min(from + WINDOW_BYTES / 2);
            let part = self.at(from, to - from + RECORD_OVERHEAD_BYTES - 1)?;
            for offset in from..to {
                let here = &part[(offset - from) as usize..];
                let lsn = header.start + (offset - HEADER_BYTES);
                if lsn_at(&here[frame::HEADER_BYTES..], 0) != Some(lsn) {
                    continue;
                }
                let record = match read_record(here, header.number, offset, 0) {
                    Some((_, _, synced, _)) => Some(synced),
                    None if frame_bytes(here).is_some_and(|bytes| bytes <= here.len() as u64) => None,
                    // It may go on behind what is here.
                    None => {
                        let mut other = Window::new(self.file, self.slot, self.capacity_bytes);
                        other.record(header.number, offset, lsn)?.map(|record| record.synced)
                    }
                };
                record.into_iter().for_each(|synced| found(offset, synced));
            }
            from = to;
        }
        Ok(())
    }
}
