//! The log: every batch is in it before `apply` returns; shared by all engines.
//!
//! The log is one endless sequence of bytes, addressed by [`Lsn`]. It lies in *segments*, files of a fixed size that are
//! allocated once and used again and again, because a sync of blocks that exist costs the disk half as much as one that
//! also has to make them part of the file.
//!
//! ```text
//! segment   header (512 bytes) | the same header again (512 bytes) | record | record | … | anything
//! header    frame, kind 1, place 0:              number u64 | start u64 | synced u64
//! record    frame, kind 2…, place number ⊕ offset: LSN u64 | synced u64 | payload
//! ```
//!
//! `number` counts segments, `start` is the LSN of the first record, `lsn` that of the record, `synced` the highest
//! LSN that was known to be durable when the record was written.
//!
//! # Invariants
//!
//! 1. A record's LSN is the previous record's end; a segment's `start` is the end of the segment before.
//! 2. Syncs cover every unsynced segment and new names before anyone is told of success.
//! 3. After a recovery appending starts in a new segment whose `start` cuts off whatever lay behind the last whole record,
//!    so that bytes of a lost future cannot come back. Short segments at the end are gathered in it, so that segments do not become
//!    more with every crash. On a full disk it goes on in the last segment, when nothing is left behind the last record.
//! 4. A segment is used again only when its end is at or below an LSN that its owner has durably stopped to need, and
//!    nobody holds it as a [`Segment`]. An owner that points to bytes of the log holds the segment, so *a released segment
//!    with values that are needed is kept*; at the opening the owner says which those are.
//!
//! # The end of the log, or damage?
//!
//! Replay stops at the first record that does not check. What was never synced may be torn, so this is the normal end. But if
//! any later record or header claims a `synced` above that place, acknowledged bytes are damaged, and that is
//! [`Error::Corrupt`]. Only damage to the very last synced records, with nothing written after them, cannot be told from
//! a torn end.

mod adopt;
mod fork;
mod gather;
mod replay;
pub mod salvage;
mod segment;
pub mod sizes;
mod sync;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Batch, Cpu, CpuMeter, Done, Error, Lsn, Result, Sync, WakeSignal, Work, WorkClass, frame};
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose};
use segment::{Kept, Live, Spare, segment_name};

pub use fork::fork;
pub use replay::read;
pub use segment::{SPARES_IDLE, Segment};

/// Where records begin in a segment.
pub const HEADER_BYTES: u64 = 1024;
/// Where the second copy of the header lies.
const HEADER_COPY: u64 = 512;
const HEADER_KIND: u8 = 1;
/// Record kinds of owners start here.
pub const FIRST_KIND: u8 = 2;
/// Frame header, LSN and synced: what a record costs beside its payload.
pub const RECORD_OVERHEAD_BYTES: u64 = frame::HEADER_BYTES as u64 + 16;
const PREFIX: &str = "log.";
/// A value of a batch from this size on is not copied to be appended.
const SHARED_BYTES: usize = 2 << 10;
/// Longest wait of a report for an append.
const SHAPE_WAIT: Duration = Duration::from_millis(2);
/// Whether `name` is a log segment's.
pub fn is_segment(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|slot| slot.parse::<u64>().is_ok())
}

struct Waiter {
    lsn: Lsn,
    done: Done,
}

/// State of the log, behind one lock: an append moves the end in the last segment, may begin another from the spares, and fills the
/// frame, so these are one state. Nothing of it is shared with what syncs, which has a lock of its own.
struct State {
    /// In order; the last one is written to.
    segments: VecDeque<Live>,
    /// Released, but held by others when last looked at.
    kept: Vec<Kept>,
    /// Free for use, the one released first in front.
    spares: VecDeque<Spare>,
    next_slot: u64,
    end: Lsn,
    /// The end when the log was last found idle.
    idle_end: Lsn,
    synced: Lsn,
    released: Lsn,
    /// Limit of all its files together in bytes, kept as far as the log can do with so much.
    file_bytes_max: u64,
    /// A segment file was made since the last `sync_names`.
    names_dirty: bool,
    waiters: Vec<Waiter>,
    /// Clock time of the first append since everything was synced.
    oldest_unsynced: Option<Duration>,
    /// The error because of which no sync can succeed any more.
    failed: Option<Error>,
    /// The frame being built; kept for its capacity.
    scratch: Vec<u8>,
    /// Large values of the frame being built.
    inserts: Vec<(usize, Bytes)>,
}

/// Where the log stands, for reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogShape {
    /// The LSN after the last record.
    pub end: Lsn,
    /// Segments that the log itself does not need any more, but others hold, and their size.
    pub kept_segments: u64,
    /// See there.
    pub kept_bytes: u64,
    /// Bytes that a power cut would lose.
    pub unsynced_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_unsynced: Duration,
    /// Bytes since the released LSN: what opening would replay.
    pub replay_bytes: u64,
}

/// The log of one store.
pub struct Log {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    wake_signal: Arc<WakeSignal>,
    sync: Sync,
    segment_bytes: u64,
    state: Mutex<State>,
    /// The last report, for one that finds an append waiting for the disk.
    last_shape: Mutex<LogShape>,
    cpu: CpuMeter,
    /// Held by the one who syncs, so that two workers do not sync the same bytes twice.
    syncing: Mutex<()>,
}

fn place(number: u64, offset: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset
}

impl Log {
    /// Appends one record of `kind`: `fill` adds the payload (at most `payload_bytes_max`) to the buffer. Returns the LSN
    /// after it. The bytes are in the file when this returns, not yet durable. [`Error::NoSpace`] changes nothing.
    pub fn append(
        &self,
        kind: u8,
        purpose: Purpose,
        payload_bytes_max: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Lsn> {
        self.append_to(&mut self.state.lock(), kind, purpose, payload_bytes_max, |target, _| fill(target))
    }

    /// Appends a batch as a record of `kind`. Its large values go to the file from where they are, without a copy.
    pub fn append_batch(&self, kind: u8, purpose: Purpose, batch: &Batch) -> Result<Lsn> {
        let fill = |target: &mut Vec<u8>, inserts: &mut _| batch.encode_around(target, SHARED_BYTES, inserts);
        self.append_to(&mut self.state.lock(), kind, purpose, batch.encoded_bytes_max(), fill)
    }

    fn append_to(
        &self,
        state: &mut State,
        kind: u8,
        purpose: Purpose,
        payload_bytes_max: usize,
        fill: impl FnOnce(&mut Vec<u8>, &mut Vec<(usize, Bytes)>),
    ) -> Result<Lsn> {
        debug_assert!(kind >= FIRST_KIND);
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let bytes_max = payload_bytes_max as u64 + RECORD_OVERHEAD_BYTES;
        let last = state.segments.back().ok_or_else(|| Error::Invalid("the log is closed".to_string()))?;
        let used = HEADER_BYTES + (state.end - last.segment.start);
        if used + bytes_max > last.segment.capacity_bytes {
            let number = last.number + 1;
            self.start_segment(state, bytes_max, number)?;
            self.wake_signal.notify(WorkClass::Log);
        }
        let Some(live) = state.segments.back_mut() else {
            return Err(Error::Invalid("the log is closed".to_string()));
        };
        let offset = HEADER_BYTES + (state.end - live.segment.start);
        let (record, inserts) = (&mut state.scratch, &mut state.inserts);
        record.clear();
        let at = frame::start(record, kind);
        record.extend_from_slice(&state.end.to_le_bytes());
        record.extend_from_slice(&state.synced.to_le_bytes());
        fill(record, inserts);
        let inserted: usize = inserts.iter().map(|(_, bytes)| bytes.len()).sum();
        let record_bytes = (record.len() + inserted) as u64;
        let finish = || frame::finish_with(record, at, place(live.number, offset), inserts);
        self.cpu.sample(Work::Checksum, record_bytes, finish);
        debug_assert!(record_bytes <= bytes_max);
        let written = match inserts.is_empty() {
            true => live.segment.file.write_at(purpose, offset, record),
            false => live.segment.file.write_pieces_at(purpose, offset, &frame::pieces(record, inserts)),
        };
        inserts.clear();
        if let Err(error) = written {
            // The disk's latch has closed; nothing can follow a hole in the log.
            let error = Error::io(format!("writing {}", segment_name(live.segment.slot)), error);
            state.failed = Some(error.clone());
            return Err(error);
        }
        live.dirty = true;
        state.end += record_bytes;
        if state.oldest_unsynced.is_none() {
            state.oldest_unsynced = Some(self.clock.elapsed());
        }
        if state.scratch.capacity() > 4 << 20 {
            state.scratch = Vec::new();
        }
        Ok(state.end)
    }

    /// Bytes of a new segment: what was asked for, or less on a small disk.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The LSN after the last record.
    pub fn end(&self) -> Lsn {
        self.state.lock().end
    }

    /// Everything below is durable.
    pub fn synced(&self) -> Lsn {
        self.state.lock().synced
    }

    /// Bytes since the released LSN: what opening would read.
    pub fn unreleased_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.end - state.released
    }

    /// Processor time of the checksums of its records.
    pub fn cpu(&self) -> Cpu {
        self.cpu.snapshot()
    }

    /// Where the log stands.
    pub fn shape(&self) -> LogShape {
        // Whoever appends holds the lock while the disk takes the record. Nothing moves in the meantime but the age.
        let Some(state) = self.state.try_lock_for(SHAPE_WAIT) else { return *self.last_shape.lock() };
        let held = state.kept.iter().filter(|kept| Arc::strong_count(&kept.segment) > 1);
        let sizes: Vec<u64> = held.map(|kept| kept.segment.capacity_bytes).collect();
        let shape = LogShape {
            end: state.end,
            kept_segments: sizes.len() as u64,
            kept_bytes: sizes.iter().sum(),
            unsynced_bytes: state.end - state.synced,
            oldest_unsynced: state
                .oldest_unsynced
                .map_or(Duration::ZERO, |at| self.clock.elapsed().saturating_sub(at)),
            replay_bytes: state.end - state.released,
        };
        drop(state);
        *self.last_shape.lock() = shape;
        shape
    }
}

#[cfg(test)]
mod tests;
