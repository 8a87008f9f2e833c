//! Flush: the oldest immutable memtable becomes a table in L0.
//!
//! 1. Write and sync the table, then the log if the table points into it, then the names.
//! 2. One edit adds the table and says that the log before it is not needed any more.
//! 3. The memtable leaves the superversion, the log segments are free for use.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::commands::PendingCommand;
use super::core::{Core, seconds};
use super::cursor::MemoryCursor;
use super::manifest::{Edit, Manifest};
use super::memtable::Memtable;
use super::shortage::{RECORDS_BYTES, Trouble};
use super::table::{Origin, Table, TableStore};
use super::value_log::{Pointer, StoredValue};
use super::version_set::VersionSet;
use crate::base::text::human_size;
use crate::disk::Purpose;
use crate::engine::wal::Log;
use crate::engine::{Error, KeyRange, Lsn, Pending, Result, Work, WorkClass, is_short_of_files};

/// Makes a memtable that was filled from the log a durable table of L0 while the log is still being read. Values that would stay in
/// the log go to the table: who holds which segments is not known yet.
pub fn flush_replayed(
    table_store: &Arc<TableStore>,
    manifest: &mut Manifest,
    memtable: &Arc<Memtable>,
    now: SystemTime,
) -> Result<()> {
    let mut cursor = MemoryCursor::new(memtable, KeyRange::ALL);
    let mut builder = table_store.create(Purpose::Flush, false)?;
    while let Some(key) = cursor.key() {
        builder.add(key, cursor.value().map(|(value, _)| StoredValue::Value(value)))?;
        cursor.advance();
    }
    let table = builder.finish(origin(memtable, seconds(now)))?;
    let edit = Edit {
        added: vec![(0, table.meta().clone())],
        log_lsn: Some(memtable.last()),
        next_number: Some(table_store.next_number()),
        ..Edit::default()
    };
    let installed = table_store.sync_names().and_then(|()| manifest.append(&edit));
    // After a failed sync the edit may be durable all the same: then the file stays.
    if installed.is_err() && !manifest.is_failed() {
        table.retire();
    }
    installed
}

fn origin(memtable: &Memtable, now_seconds: u64) -> Origin {
    Origin {
        first_lsn: memtable.first(),
        last_lsn: memtable.last(),
        newest_seconds: now_seconds,
        tombstone_seconds: now_seconds,
    }
}

/// Writes immutable memtables to tables, one at a time.
pub struct Flusher {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    log: Arc<Log>,
    /// Held by the one who flushes, across disk requests.
    flushing: Mutex<()>,
    /// The flush that is being done, for reports.
    activity: Mutex<Option<String>>,
}

impl Flusher {
    /// The flusher of the store whose versions are `versions`; its batches are in `log` before.
    pub fn new(core: Arc<Core>, versions: Arc<VersionSet>, log: Arc<Log>) -> Flusher {
        Flusher { core, versions, log, flushing: Mutex::default(), activity: Mutex::default() }
    }

    /// One line on the flush that is being done; `None` if there is none.
    pub fn activity(&self) -> Option<String> {
        self.activity.lock().clone()
    }

    /// One unit of work.
    pub fn work(&self) -> Result<Pending> {
        let flushed = self.flush();
        let trouble = flushed.as_ref().err().map(|error| self.core.space.trouble(error.clone()));
        let before = self.core.space.shortage.note_flush(trouble.clone());
        if let (Some(Trouble { error, .. }), None) = (trouble, before) {
            let what = format!("flush: {error}");
            self.core.record("error", vec![("what", what.into())]);
        }
        match &flushed {
            Ok(_) => {
                let lsn = self.versions.flushed();
                self.core
                    .commands
                    .end(&Ok(()), |task| matches!(task, PendingCommand::Flush(until) if *until <= lsn));
            }
            Err(error) => {
                let waits = |task: &PendingCommand| {
                    matches!(
                        task,
                        PendingCommand::Flush(_) | PendingCommand::Compact { is_started: false, .. }
                    )
                };
                self.core.commands.end(&Err(error.clone()), waits);
            }
        }
        flushed?;
        Ok(if self.versions.superversion().immutables.is_empty() { Pending::Idle } else { Pending::More })
    }

    /// Flushes the oldest immutable memtable; false if there is none.
    pub fn flush(&self) -> Result<bool> {
        let _one = self.flushing.lock();
        let Some(memtable) = self.versions.superversion().immutables.last().cloned() else {
            return Ok(false);
        };
        *self.activity.lock() = Some(format!("flush {}", human_size(memtable.bytes())));
        let mut result = self.flush_memtable(&memtable);
        let need_bytes = memtable.table_bytes() + RECORDS_BYTES;
        while matches!(result, Err(Error::NoSpace))
            && (self.log.give_back() || self.core.space.guard.give_ballast(need_bytes))
        {
            result = self.flush_memtable(&memtable);
        }
        *self.activity.lock() = None;
        if result.is_ok() {
            let version = self.versions.superversion().version.clone();
            if memtable.tombstones() > 0 {
                self.core.space.clean_unasked(&version, 0);
            }
            self.core.space.keep_ballast(&version);
        }
        drop(memtable);
        // The next one needs a file as well.
        if self.core.table_store.space().is_ok_and(|space| is_short_of_files(&space)) {
            self.core.space.guard.look_again();
        }
        if !self.versions.free_retired() {
            self.core.wake_signal.notify(WorkClass::Reclaim);
        }
        result.map(|()| true)
    }

    /// Flushes every immutable memtable.
    pub fn flush_all(&self) -> Result<()> {
        while self.flush()? {}
        Ok(())
    }

    fn flush_memtable(&self, memtable: &Arc<Memtable>) -> Result<()> {
        let began = self.core.clock.elapsed();
        let span = self.core.table_store.cpu().span(Work::Flush);
        let table = self.write_table(memtable)?;
        span.end(table.bytes);
        let lsn = memtable.last();
        let mut change = self.versions.change();
        let edit = Edit {
            added: vec![(0, table.meta().clone())],
            log_lsn: Some(lsn),
            next_number: Some(self.core.table_store.next_number()),
            ..Edit::default()
        };
        if let Err(error) = change.install(&edit, &[], &[(0, table.clone())], Some(memtable)) {
            // After a failed sync the edit may be durable all the same: then the file stays.
            if !change.is_failed() {
                table.retire();
            }
            return Err(error);
        }
        drop(change);
        self.core.levels[0].in_bytes.fetch_add(table.bytes, Relaxed);
        self.core.levels[0].write_bytes.fetch_add(table.bytes, Relaxed);
        self.log.release(lsn);
        // Who waits for the space of the log can have it only now.
        self.core.wake_signal.notify(WorkClass::Room);
        let duration = self.core.clock.elapsed().saturating_sub(began);
        let fields = vec![
            ("reason", memtable.due(&self.core.options).unwrap_or("asked for").into()),
            ("table", table.number.number().into()),
            ("memtable_bytes", memtable.bytes().into()),
            ("bytes", table.bytes.into()),
            ("entries", table.entries.into()),
            ("l0_files", (self.versions.superversion().version.level(0).len() as u64).into()),
            ("duration_ns", (duration.as_nanos() as u64).into()),
        ];
        self.core.record("flush", fields);
        Ok(())
    }

    /// Writes a memtable to a durable table.
    fn write_table(&self, memtable: &Arc<Memtable>) -> Result<Arc<Table>> {
        let mut cursor = MemoryCursor::new(memtable, KeyRange::ALL);
        let mut builder = self.core.table_store.create(Purpose::Flush, false)?;
        let now_seconds = self.core.now_seconds();
        while let Some(key) = cursor.key() {
            match cursor.value() {
                Some((value, lsn)) if lsn > Lsn::ZERO => {
                    let segment = self.log.segment_at(lsn);
                    let gone = || Error::Invalid(format!("the log let go of LSN {lsn}"));
                    let pointer = Pointer::new(lsn, value);
                    builder.add(key, Some(StoredValue::Pointer(pointer, &segment.ok_or_else(gone)?)))?;
                }
                value => builder.add(key, value.map(|(value, _)| StoredValue::Value(value)))?,
            }
            cursor.advance();
        }
        let table = builder.finish(origin(memtable, now_seconds))?;
        // What a durable table points to must be durable before it.
        let points = !table.values.is_empty() && self.log.synced() < memtable.last();
        let synced = if points { self.log.sync_now() } else { Ok(()) };
        if let Err(error) = synced.and_then(|()| self.core.table_store.sync_names()) {
            table.retire();
            return Err(error);
        }
        Ok(table)
    }
}
