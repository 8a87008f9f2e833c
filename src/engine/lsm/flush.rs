//! Flush: the oldest immutable memtable becomes a table in L0.
//!
//! 1. Write and sync the table, then the log if the table points into it, then the names.
//! 2. One edit adds the table and says that the log before it is not needed any more.
//! 3. The memtable leaves the view, the log segments are free for use.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::SystemTime;

use super::cleaning::RECORDS_BYTES;
use super::cursor::MemoryCursor;
use super::manifest::{Edit, Manifest};
use super::memtable::Memtable;
use super::shortage::Trouble;
use super::table::{Origin, Shelf, Table};
use super::value_log::{Pointer, Stored};
use super::{LsmEngine, Task};
use crate::base::text::human_size;
use crate::disk::Purpose;
use crate::engine::{Class, Error, KeyRange, Pending, Result, Work, is_short_of_files};

/// Makes a memtable that was filled from the log a durable table of L0 while the log is still being read. Values that would stay in
/// the log go to the table: who holds which segments is not known yet.
pub(super) fn flush_replayed(
    shelf: &Arc<Shelf>,
    manifest: &mut Manifest,
    memtable: &Arc<Memtable>,
    now: SystemTime,
) -> Result<()> {
    let mut cursor = MemoryCursor::new(memtable, KeyRange::ALL);
    let mut builder = shelf.create(Purpose::Flush, false)?;
    while let Some(key) = cursor.key() {
        builder.add(key, cursor.value().map(|(value, _)| Stored::Value(value)))?;
        cursor.advance();
    }
    let table = builder.finish(origin(memtable, seconds(now)))?;
    let edit = Edit {
        added: vec![(0, table.meta().clone())],
        log_position: Some(memtable.last()),
        next_number: Some(shelf.next_number()),
        ..Edit::default()
    };
    let installed = shelf.sync_names().and_then(|()| manifest.append(&edit));
    // After a failed sync the edit may be durable all the same: then the file stays.
    if installed.is_err() && !manifest.is_failed() {
        table.retire();
    }
    installed
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn origin(memtable: &Memtable, now_seconds: u64) -> Origin {
    Origin {
        first_position: memtable.first(),
        last_position: memtable.last(),
        newest_seconds: now_seconds,
        tombstone_seconds: now_seconds,
    }
}

impl LsmEngine {
    /// One unit of flush work.
    pub(super) fn flush_work(&self) -> Result<Pending> {
        let flushed = self.flush();
        let trouble = flushed.as_ref().err().map(|error| self.trouble(error.clone()));
        let before = self.shortage.note_flush(trouble.clone());
        if let (Some(Trouble { error, .. }), None) = (trouble, before) {
            let what = format!("flush: {error}");
            self.journal.record(self.clock.now(), "error", vec![("what", what.into())]);
        }
        match &flushed {
            Ok(_) => {
                let position = self.flushed.load(Relaxed);
                self.commands.end(&Ok(()), |task| matches!(task, Task::Flush(until) if *until <= position));
            }
            Err(error) => {
                let waits =
                    |task: &Task| matches!(task, Task::Flush(_) | Task::Compact { is_started: false, .. });
                self.commands.end(&Err(error.clone()), waits);
            }
        }
        flushed?;
        Ok(if self.view().immutables.is_empty() { Pending::Idle } else { Pending::More })
    }

    /// Flushes the oldest immutable memtable; false if there is none.
    pub(super) fn flush(&self) -> Result<bool> {
        let _one = self.flushing.lock();
        let Some(memtable) = self.view().immutables.last().cloned() else { return Ok(false) };
        self.activity.lock().flush = Some(format!("flush {}", human_size(memtable.bytes())));
        let mut result = self.flush_memtable(&memtable);
        let need_bytes = memtable.table_bytes() + RECORDS_BYTES;
        while matches!(result, Err(Error::NoSpace))
            && (self.log.give_back() || self.space.give_ballast(need_bytes))
        {
            result = self.flush_memtable(&memtable);
        }
        self.activity.lock().flush = None;
        if result.is_ok() {
            if memtable.tombstones() > 0 && self.is_more_deleted_than_free(&self.view().version, 0) {
                self.clean_unasked();
            }
            self.keep_ballast();
        }
        drop(memtable);
        // The next one needs a file as well.
        if self.shelf.space().is_ok_and(|space| is_short_of_files(&space)) {
            self.space.look_again();
        }
        if !self.free_retired() {
            self.bell.ring(Class::Reclaim);
        }
        result.map(|()| true)
    }

    fn flush_memtable(&self, memtable: &Arc<Memtable>) -> Result<()> {
        let began = self.clock.elapsed();
        let span = self.shelf.cpu().span(Work::Flush);
        let table = self.write_table(memtable)?;
        span.end(table.bytes);
        let position = memtable.last();
        let mut change = self.versions.change();
        let edit = Edit {
            added: vec![(0, table.meta().clone())],
            log_position: Some(position),
            next_number: Some(self.shelf.next_number()),
            ..Edit::default()
        };
        if let Err(error) = self.install(&mut change, &edit, &[], &[(0, table.clone())], Some(memtable)) {
            // After a failed sync the edit may be durable all the same: then the file stays.
            if !change.is_failed() {
                table.retire();
            }
            return Err(error);
        }
        drop(change);
        self.meters.levels[0].in_bytes.fetch_add(table.bytes, Relaxed);
        self.meters.levels[0].write_bytes.fetch_add(table.bytes, Relaxed);
        self.flushed.store(position, Release);
        self.log.release(position);
        // Who waits for the space of the log can have it only now.
        self.bell.ring(Class::Room);
        let duration = self.clock.elapsed().saturating_sub(began);
        let fields = vec![
            ("reason", memtable.due(&self.options).unwrap_or("asked for").into()),
            ("table", table.number.into()),
            ("memtable_bytes", memtable.bytes().into()),
            ("bytes", table.bytes.into()),
            ("entries", table.entries.into()),
            ("l0_files", (self.view().version.level(0).len() as u64).into()),
            ("duration_ns", (duration.as_nanos() as u64).into()),
        ];
        self.journal.record(self.clock.now(), "flush", fields);
        Ok(())
    }

    /// Writes a memtable to a durable table.
    fn write_table(&self, memtable: &Arc<Memtable>) -> Result<Arc<Table>> {
        let mut cursor = MemoryCursor::new(memtable, KeyRange::ALL);
        let mut builder = self.shelf.create(Purpose::Flush, false)?;
        let now_seconds = self.now_seconds();
        while let Some(key) = cursor.key() {
            match cursor.value() {
                Some((value, position)) if position > 0 => {
                    let segment = self.log.segment_at(position);
                    let gone = || Error::Invalid(format!("the log let go of position {position}"));
                    let pointer = Pointer::new(position, value);
                    builder.add(key, Some(Stored::Pointer(pointer, &segment.ok_or_else(gone)?)))?;
                }
                value => builder.add(key, value.map(|(value, _)| Stored::Value(value)))?,
            }
            cursor.advance();
        }
        let table = builder.finish(origin(memtable, now_seconds))?;
        // What a durable table points to must be durable before it.
        let points = !table.values.is_empty() && self.log.synced() < memtable.last();
        let synced = if points { self.log.sync_now() } else { Ok(()) };
        if let Err(error) = synced.and_then(|()| self.shelf.sync_names()) {
            table.retire();
            return Err(error);
        }
        Ok(table)
    }
}
