//! Everything that can still be read of a damaged LSM-tree.
//!
//! 1. Read the manifest. If it is damaged, what of it checks or parses says which level a table is in; tables that it does not
//!    name any more are taken for what they say of themselves.
//! 2. From the oldest table to the newest (levels from below, level 0 by LSN), read every block that checks, whatever
//!    index and footer are like. Entries become operations in that order, so a newer one wins as it does in the tree.
//! 3. Then the batches of the log that no table has.
//!
//! # What is lost
//!
//! A block that does not check loses the keys between its neighbours; a table that is gone, those that the manifest gives it; a
//! value in the log that does not check, its key, which is deleted so that an older one cannot stand in for it. In the range of a
//! lost block older entries of deeper levels come back: they are salvaged, and the loss says that they may be old.
//!
//! A table whose level is not known has its place by the LSNs that it says it holds. Where those interleave with another's
//! that has the same keys, nobody knows which is newer: that is a loss as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::manifest::{self, ManifestState};
use super::survivors;
use super::table::salvage::{TablePiece, pieces};
use super::table::{BlockCursor, TableMeta, TableNumber};
use super::value_log::Pointer;
use crate::disk::{Disk, Purpose};
use crate::engine::salvage::{Keys, Loss, Sink, open_if_there, read_around, replay, successor};
use crate::engine::wal::{self, Segment};
use crate::engine::{BALLAST_NAME, Error, Lsn, Operation, Result};

/// Whether `name` is a file of ours beside the log.
pub fn is_file(name: &str) -> bool {
    name == manifest::NAME
        || name == BALLAST_NAME
        || TableNumber::of_file(name).is_some()
        || survivors::ValuesNumber::of_file(name).is_some()
}

/// A table to read.
struct Source {
    number: TableNumber,
    /// `None` if nothing says so.
    level: Option<usize>,
    meta: Option<TableMeta>,
}

impl Source {
    /// LSNs of the oldest and the newest batch in it.
    fn span(&self) -> (Lsn, Lsn) {
        self.meta.as_ref().map_or((Lsn::ZERO, Lsn::MAX), |meta| (meta.first_lsn, meta.last_lsn))
    }

    /// Keys that both may have.
    fn shared_keys(&self, other: &Source) -> Option<Keys> {
        let (Some(one), Some(two)) = (&self.meta, &other.meta) else { return Some(Keys::ALL) };
        let start = one.smallest.clone().max(two.smallest.clone());
        let last = one.largest.clone().min(two.largest.clone());
        let keys = Keys { start: start.to_vec(), end: Some(successor(&last)) };
        (start <= last).then_some(keys)
    }
}

/// Whether `disk` has the manifest of a store, damaged or not.
pub fn has_manifest(disk: &dyn Disk) -> Result<bool> {
    Ok(open_if_there(disk, manifest::NAME)?.is_some())
}

/// Calls `sink` with everything that can be read, the oldest first.
pub fn salvage(disk: &dyn Disk, sink: &mut Sink<'_>) -> Result<Vec<Loss>> {
    let (mut losses, from) = salvage_tables(disk, sink)?;
    losses.extend(wal::salvage::salvage(disk, from, Lsn::ZERO, &mut |kind, _, payload| {
        match kind {
            wal::FIRST_KIND => replay(&payload, sink),
            // Values that a merge moved: tables point to them.
            _ => Ok(()),
        }
    })?);
    Ok(losses)
}

/// Does so for the tables alone; also the LSN at which the log goes on, if anything says so.
pub fn salvage_tables(disk: &dyn Disk, sink: &mut Sink<'_>) -> Result<(Vec<Loss>, Option<Lsn>)> {
    let mut losses = Vec::new();
    let manifest = open_if_there(disk, manifest::NAME)?.map(|file| read_around(&*file)).transpose()?;
    let sound = manifest.as_ref().map(|bytes| ManifestState::decode(bytes));
    // The version of another program is none of our business.
    if let Some(Err(error @ Error::Invalid(_))) = sound {
        return Err(error);
    }
    let sound = sound.and_then(|decoded| decoded.ok()).map(|(state, _)| state);
    let is_sound = sound.is_some();
    let state = sound
        .unwrap_or_else(|| manifest.as_ref().map(|bytes| ManifestState::guess(bytes)).unwrap_or_default());
    let sources = sources(disk, &state, is_sound, &mut losses)?;
    let needed = state.tables.values().flat_map(|meta| meta.values.iter()).map(|(start, _)| *start).collect();
    let mut segments = wal::salvage::segments(disk, &needed)?;
    // Their LSNs are above those of the log.
    segments.extend(survivors::files(disk)?.into_values());
    for source in &sources {
        read_table(disk, source, &segments, &mut losses, sink)?;
    }
    // A flush puts everything up to its LSN into tables, so the newest table says where the log goes on.
    let flushed = sources.iter().filter_map(|source| source.meta.as_ref()).map(|meta| meta.last_lsn).max();
    let from = if is_sound { Some(state.log_lsn) } else { flushed };
    Ok((losses, from))
}

/// The tables to read, the oldest first.
fn sources(
    disk: &dyn Disk,
    state: &ManifestState,
    is_sound: bool,
    losses: &mut Vec<Loss>,
) -> Result<Vec<Source>> {
    let files = disk.list().map_err(|error| Error::io("listing the store", error))?;
    let present: BTreeSet<TableNumber> =
        files.iter().filter_map(|info| TableNumber::of_file(&info.name)).collect();
    let mut known: Vec<Source> = Vec::new();
    for ((level, number), meta) in &state.tables {
        if present.contains(number) {
            known.push(Source { number: *number, level: Some(*level), meta: Some(meta.clone()) });
        } else if is_sound {
            let keys = Keys::between(None, Some(&successor(&meta.largest)));
            let keys = Keys { start: meta.smallest.to_vec(), ..keys };
            losses.push(Loss::new(
                number.file_name(),
                0,
                "the manifest names it, but it is not there",
                Some(keys),
            ));
        }
    }
    if is_sound {
        known.sort_by_key(age);
        return Ok(known);
    }
    let mut unknown = Vec::new();
    for number in present {
        let own = footer(disk, number)?;
        match known.iter_mut().find(|source| source.number == number) {
            // What the table says of itself was checked; what the manifest says was not.
            Some(source) => source.meta = own.or(source.meta.take()),
            None => unknown.push(Source { number, level: None, meta: own }),
        }
    }
    known.sort_by_key(age);
    unknown.sort_by_key(|source| (source.span().1, source.number));
    let tables = known.len() + unknown.len();
    let what = format!(
        "the manifest is damaged or missing: {tables} tables were found, and the level of {} is not known",
        unknown.len()
    );
    losses.push(Loss::new(manifest::NAME, 0, what, Some(Keys { start: Vec::new(), end: Some(Vec::new()) })));
    for source in unknown {
        let (oldest, newest) = source.span();
        for other in &known {
            let apart = newest <= other.span().0 || other.span().1 <= oldest;
            if let Some(keys) = source.shared_keys(other).filter(|_| !apart) {
                let what = format!("whether it is newer than {} is not known", other.number.file_name());
                losses.push(Loss::new(source.number.file_name(), 0, what, Some(keys)));
            }
        }
        // Before the first that is newer for certain.
        let at = known.iter().position(|other| newest <= other.span().0).unwrap_or(known.len());
        known.insert(at, source);
    }
    Ok(known)
}

/// Sorts tables of known levels from the oldest to the newest.
fn age(source: &Source) -> (std::cmp::Reverse<usize>, Lsn, TableNumber) {
    (std::cmp::Reverse(source.level.unwrap_or(0)), source.span().1, source.number)
}

/// The footer of a table, if it checks.
fn footer(disk: &dyn Disk, number: TableNumber) -> Result<Option<TableMeta>> {
    let Some(file) = open_if_there(disk, &number.file_name())? else { return Ok(None) };
    let found = pieces(number, &read_around(&*file)?).into_iter().find_map(|piece| match piece {
        TablePiece::Footer(meta) => Some(meta),
        _ => None,
    });
    Ok(found)
}

/// Reads one table.
fn read_table(
    disk: &dyn Disk,
    source: &Source,
    segments: &[Arc<Segment>],
    losses: &mut Vec<Loss>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let name = source.number.file_name();
    let Some(file) = open_if_there(disk, &name)? else { return Ok(()) };
    let bytes = read_around(&*file)?;
    let pieces = pieces(source.number, &bytes);
    let own = pieces.iter().find_map(|piece| match piece {
        TablePiece::Footer(meta) => Some(meta.clone()),
        _ => None,
    });
    let has_end = own.is_some();
    let meta = own.or(source.meta.clone());
    let mut entries = 0;
    let mut last: Option<Vec<u8>> = None;
    let mut gap = None;
    let mut lost = Vec::new();
    let smallest = meta.as_ref().map(|meta| &meta.smallest);
    let between = |last: Option<&[u8]>, next: Option<&[u8]>| {
        let keys = Keys::between(last, next);
        let start = if last.is_some() { keys.start } else { smallest.map_or(Vec::new(), |key| key.to_vec()) };
        Keys { start, ..keys }
    };
    for piece in pieces {
        let (offset, block) = match piece {
            TablePiece::Gap(offset) => {
                gap.get_or_insert(offset);
                continue;
            }
            TablePiece::Block(offset, block) => (offset, block),
            TablePiece::Other | TablePiece::Footer(_) => continue,
        };
        let mut cursor = BlockCursor::default();
        let mut more = cursor.enter(block, b"");
        while let Ok(true) = more {
            let key = cursor.key().to_vec();
            if let Some(offset) = gap.take() {
                lost.push((offset, between(last.as_deref(), Some(&key))));
            }
            entries += 1;
            let value = match cursor.pointer() {
                Some(pointer) => {
                    let value = follow(pointer, segments);
                    if let Err(what) = &value {
                        losses.push(Loss::new(name.clone(), offset, what.clone(), Some(Keys::one(&key))));
                    }
                    value.ok()
                }
                None => cursor.value().map(Bytes::copy_from_slice),
            };
            let key = Bytes::from(key);
            last = Some(key.to_vec());
            sink(match value {
                Some(value) => Operation::Put { key, value },
                None => Operation::Delete { key },
            })?;
            more = cursor.advance();
        }
        if more.is_err() {
            gap.get_or_insert(offset);
        }
    }
    // A file that ends between two pieces has no gap.
    if let Some(offset) = gap.or((!has_end).then_some(bytes.len() as u64)) {
        let end = meta.as_ref().map(|meta| successor(&meta.largest));
        lost.push((offset, between(last.as_deref(), end.as_deref())));
    }
    // Damage of filters, indexes or the footer alone costs nothing.
    let is_whole = meta.is_some_and(|meta| meta.entries == entries);
    let what = "a block that does not check";
    let lost = lost.into_iter().filter(|(_, keys)| !is_whole && !keys.is_empty());
    losses.extend(lost.map(|(offset, keys)| Loss::new(name.clone(), offset, what, Some(keys))));
    Ok(())
}

/// The value behind an encoded pointer; the error is a sentence.
fn follow(pointer: &[u8], segments: &[Arc<Segment>]) -> std::result::Result<Bytes, String> {
    let pointer = Pointer::decode(pointer).ok_or("a pointer that does not parse")?;
    let after = segments.partition_point(|segment| segment.start() <= pointer.lsn);
    let segment = after.checked_sub(1).map(|index| &segments[index]);
    let segment = segment.ok_or("the segment of the log with its value is missing")?;
    pointer.fetch(segment, Purpose::Recovery).map(Bytes::from).map_err(|error| error.to_string())
}
