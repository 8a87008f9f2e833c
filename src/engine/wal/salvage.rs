//! Reads what is left of a damaged log.
//!
//! 1. Order the segments as opening does. Without an LSN to begin at, the log begins at the first segment from which on
//!    each ends where the next one starts: what lies before is kept for values alone.
//! 2. Walk the records. Behind one that does not check, look for the next that does at its own place: that is a *gap*.
//! 3. A gap at or above the highest LSN that anything claims to be durable is the normal end of the log.
//! 4. The batch in a gap is parsed without its checksum: not to be applied, but to say which keys it may have changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::adopt::{Nameless, adopt};
use super::replay::{Header, lsn_at, read_header, read_record};
use super::segment::{Spare, segment_name};
use super::{HEADER_BYTES, HEADER_COPY, PREFIX, RECORD_OVERHEAD_BYTES, Segment};
use crate::disk::{Disk, File, Purpose};
use crate::engine::salvage::{Keys, Loss, read_around};
use crate::engine::{Batch, Error, Lsn, Result, frame};

/// Called with kind, end LSN and payload of a record.
pub type Visit<'a> = dyn FnMut(u8, Lsn, Bytes) -> Result<()> + 'a;

struct Found {
    header: Header,
    slot: u64,
    file: Arc<dyn File>,
    capacity_bytes: u64,
}

/// A step of a walk through a segment.
enum Step {
    Record {
        kind: u8,
        end: Lsn,
        synced: Lsn,
        payload: Bytes,
    },
    /// From the byte `offset` on nothing checks up to `to`, or up to the end of what counts.
    Gap {
        offset: u64,
        to: Option<u64>,
    },
}

/// Segments whose header can be read, in order, without those that a later one cuts off; and the files without one.
fn chain(disk: &dyn Disk) -> Result<(Vec<Found>, Vec<Nameless>)> {
    let (mut found, mut nameless) = (Vec::new(), Vec::new());
    for info in disk.list().map_err(|error| Error::io("listing the store", error))? {
        let Some(slot) = info.name.strip_prefix(PREFIX).and_then(|slot| slot.parse::<u64>().ok()) else {
            continue;
        };
        let file =
            disk.open(&info.name).map_err(|error| Error::io(format!("reading {}", info.name), error))?;
        let mut head = vec![0; HEADER_BYTES.min(info.bytes) as usize];
        // One copy of the header is enough.
        for (nth, copy) in head.chunks_mut(HEADER_COPY as usize).enumerate() {
            // A copy that cannot be read does not check.
            let _ = file.read_at(Purpose::Recovery, nth as u64 * HEADER_COPY, copy);
        }
        let capacity_bytes = info.bytes;
        match read_header(&head) {
            Some(header) => found.push(Found { header, slot, file, capacity_bytes }),
            None => {
                let spare = Spare { slot, file, capacity_bytes, is_dirty: false, is_new: true };
                nameless.push(Nameless { spare, error: None });
            }
        }
    }
    found.sort_by_key(|found| found.header.number);
    let mut chain: Vec<Found> = Vec::new();
    for candidate in found {
        while chain.last().is_some_and(|last| last.header.start >= candidate.header.start) {
            chain.pop();
        }
        chain.push(candidate);
    }
    Ok((chain, nameless))
}

/// Every segment that may hold values, by its start; those that start at one of `needed` also without a header.
pub fn segments(disk: &dyn Disk, needed: &BTreeSet<Lsn>) -> Result<Vec<Arc<Segment>>> {
    let segment = |found: Found| {
        let Found { header, slot, file, capacity_bytes } = found;
        Arc::new(Segment::new(slot, header.start, file, capacity_bytes))
    };
    let (chain, nameless) = chain(disk)?;
    let mut segments: Vec<Arc<Segment>> = chain.into_iter().map(segment).collect();
    let starts: BTreeSet<Lsn> = segments.iter().map(|segment| segment.start).collect();
    let missing = needed.difference(&starts).copied().collect();
    // What could be the end of the log is read all the same.
    let (adopted, _) = adopt(nameless, &missing, Some(Lsn::MAX))?;
    segments.extend(adopted.into_iter().map(|kept| kept.segment));
    segments.sort_by_key(|segment| segment.start);
    Ok(segments)
}

/// Walks the records of a segment that counts up to LSN `limit`.
fn walk(
    bytes: &Bytes,
    header: &Header,
    limit: Option<Lsn>,
    mut step: impl FnMut(Step) -> Result<()>,
) -> Result<()> {
    let mut offset = HEADER_BYTES;
    let lsn = |offset: u64| header.start + (offset - HEADER_BYTES);
    let whole = |offset: u64| {
        let at = lsn_at(bytes.get(offset as usize + frame::HEADER_BYTES..)?, 0)?;
        let record =
            (at == lsn(offset)).then(|| read_record(bytes, header.number, offset, offset)).flatten()?;
        limit.is_none_or(|limit| lsn(record.3.end as u64) <= limit).then_some(record)
    };
    while limit.is_none_or(|limit| lsn(offset) < limit) {
        if let Some((kind, _, synced, payload)) = whole(offset) {
            offset = payload.end as u64;
            step(Step::Record { kind, end: lsn(offset), synced, payload: bytes.slice(payload) })?;
            continue;
        }
        let last = (bytes.len() as u64).saturating_sub(RECORD_OVERHEAD_BYTES);
        let to = (offset + 1..=last).find(|next| whole(*next).is_some());
        step(Step::Gap { offset, to })?;
        match to {
            Some(to) => offset = to,
            None => break,
        }
    }
    Ok(())
}

/// Keys of the batch in a gap that goes from `offset` to `to`, or at least up to `until`; `None` if it does not parse or is not
/// all that was there.
fn keys_in_gap(bytes: &Bytes, offset: u64, to: Option<u64>, until: u64) -> Option<Vec<Bytes>> {
    let start = offset as usize + RECORD_OVERHEAD_BYTES as usize;
    let length =
        bytes.get(offset as usize + 4..offset as usize + 8)?.try_into().ok().map(u32::from_le_bytes)?;
    let stored = offset as usize + frame::HEADER_BYTES + length as usize;
    let ends = [to.map(|to| to as usize), Some(stored)];
    ends.iter().flatten().filter(|end| (start..=bytes.len()).contains(end)).find_map(|end| {
        let is_all = *end as u64 >= to.unwrap_or(until);
        let batch = Batch::decode(&bytes.slice(start..*end)).ok().filter(|_| is_all)?;
        Some(batch.operations().iter().map(|operation| operation.key().clone()).collect())
    })
}

/// Calls `visit` with every whole record that ends behind `from`, in order, and returns what is damaged before the end. Without
/// `from` it begins where the log does. Everything up to `durable` was in the log for certain.
pub fn salvage(disk: &dyn Disk, from: Option<Lsn>, durable: Lsn, visit: &mut Visit<'_>) -> Result<Vec<Loss>> {
    let (chain, _) = chain(disk)?;
    let starts: Vec<Lsn> = chain.iter().map(|found| found.header.start).collect();
    let limit = |index: usize| starts.get(index + 1).copied();
    let headers = chain.iter().map(|found| found.header.synced).max().unwrap_or_default();
    let mut claimed = headers.max(from.unwrap_or_default()).max(durable);
    // Where each segment's last whole record ends.
    let mut ends = Vec::new();
    for (index, found) in chain.iter().enumerate() {
        let mut last = found.header.start;
        if from.is_none_or(|from| limit(index).is_none_or(|limit| limit > from)) {
            walk(&read_around(&*found.file)?, &found.header, limit(index), |step| {
                if let Step::Record { end, synced, .. } = step {
                    (last, claimed) = (end, claimed.max(synced));
                }
                Ok(())
            })?;
        }
        ends.push(last);
    }
    let joins = |index: &usize| limit(*index).is_none_or(|limit| ends[*index] == limit);
    let first = match from {
        Some(from) => {
            (0..chain.len()).find(|index| limit(*index).is_none_or(|limit| limit > from)).unwrap_or(0)
        }
        None => chain.len() - (0..chain.len()).rev().take_while(joins).count(),
    };
    let mut losses = Vec::new();
    let mut expected = from.unwrap_or(starts.get(first).copied().unwrap_or_default());
    for (index, found) in chain.iter().enumerate().skip(first) {
        let name = segment_name(found.slot);
        if found.header.start > expected {
            if expected >= claimed {
                break;
            }
            let what =
                format!("a segment of the log from LSN {expected} on is missing or has no whole header");
            losses.push(Loss::new(name.clone(), 0, what, None));
        }
        let bytes = read_around(&*found.file)?;
        let mut is_end = false;
        let mut at = found.header.start;
        walk(&bytes, &found.header, limit(index), |step| {
            match step {
                _ if is_end => {}
                Step::Record { kind, end, payload, .. } => {
                    at = end;
                    if from.is_none_or(|from| end > from) {
                        visit(kind, end, payload)?;
                    }
                }
                // Without an LSN to begin at nobody knows what was durable: only where nothing follows is the end.
                Step::Gap { to, .. } if from.is_none() && to.is_none() && limit(index).is_none() => {
                    is_end = true
                }
                Step::Gap { .. } if from.is_some() && at >= claimed => is_end = true,
                Step::Gap { offset, to } => {
                    let what = "a record of the log that does not check";
                    let until =
                        limit(index).unwrap_or(claimed).bytes_since(found.header.start) + HEADER_BYTES;
                    match keys_in_gap(&bytes, offset, to, until) {
                        Some(keys) => losses.extend(
                            keys.iter()
                                .map(|key| Loss::new(name.clone(), offset, what, Some(Keys::one(key)))),
                        ),
                        None => losses.push(Loss::new(name.clone(), offset, what, None)),
                    }
                    at = to.map_or(at, |to| found.header.start + (to - HEADER_BYTES));
                }
            }
            Ok(())
        })?;
        expected = limit(index).unwrap_or(at);
        if is_end {
            break;
        }
    }
    if expected < claimed && chain.is_empty() {
        losses.push(Loss::new(
            "log",
            0,
            format!("no log is left; {claimed} bytes of it had been made durable"),
            None,
        ));
    }
    Ok(losses)
}
