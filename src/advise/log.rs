//! The log of which only sizes are known: segments, spares, and the zeros that are written ahead of small synced records.
//! The rules are those of `engine::wal`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::Sync;
use crate::engine::wal::SPARES_IDLE;
use crate::engine::wal::sizes::{
    HEADER_BYTES, RECORD_OVERHEAD_BYTES, SEGMENTS, SMALL_SYNC_BYTES, fill_range,
};

struct Segment {
    start: u64,
    capacity_bytes: u64,
    is_dirty: bool,
    /// Up to here its blocks have been written before.
    written_bytes: u64,
}

struct Spare {
    capacity_bytes: u64,
    is_dirty: bool,
    is_new: bool,
}

/// The log.
pub struct SizedLog {
    sync: Sync,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    spares: VecDeque<Spare>,
    end: u64,
    idle_end: u64,
    synced: u64,
    released: u64,
    file_bytes_max: u64,
    unsynced_since: Option<Duration>,
    written_bytes: u64,
    syncs: u64,
}

impl SizedLog {
    /// An empty log of segments of `segment_bytes`, which becomes durable unasked as `sync` says.
    pub fn new(segment_bytes: u64, sync: Sync) -> SizedLog {
        let mut log = SizedLog {
            sync,
            segment_bytes,
            segments: VecDeque::new(),
            spares: VecDeque::new(),
            end: 0,
            idle_end: 0,
            synced: 0,
            released: 0,
            file_bytes_max: u64::MAX,
            unsynced_since: None,
            written_bytes: 0,
            syncs: 0,
        };
        log.start_segment(0);
        log
    }

    /// From here on its files take no more than `bytes` together, unless more is not released.
    pub fn set_file_bytes_max(&mut self, bytes: u64) {
        self.file_bytes_max = bytes;
    }

    /// Bytes of records so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that were written to its files.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Bytes that are not released.
    pub fn unreleased_bytes(&self) -> u64 {
        self.end - self.released
    }

    /// Bytes of a new segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Bytes of all its files.
    pub fn file_bytes(&self) -> u64 {
        let live: u64 = self.segments.iter().map(|segment| segment.capacity_bytes).sum();
        live + self.spares.iter().map(|spare| spare.capacity_bytes).sum::<u64>()
    }

    fn fitting(&self, needed: u64) -> Option<usize> {
        let is_enough = self.segments.len() + self.spares.len() >= SEGMENTS
            || self.file_bytes() + needed > self.file_bytes_max;
        let fits = |is_dirty: bool| {
            self.spares.iter().position(|it| it.capacity_bytes >= needed && it.is_dirty == is_dirty)
        };
        fits(false).or_else(|| fits(true).filter(|_| is_enough))
    }

    fn start_segment(&mut self, record_bytes: u64) {
        let needed = (HEADER_BYTES + record_bytes).max(self.segment_bytes);
        let found = self.fitting(needed).and_then(|at| self.spares.remove(at));
        let spare = found.unwrap_or(Spare { capacity_bytes: needed, is_dirty: false, is_new: true });
        self.written_bytes += HEADER_BYTES;
        self.segments.push_back(Segment {
            start: self.end,
            capacity_bytes: spare.capacity_bytes,
            is_dirty: true,
            written_bytes: if spare.is_new { 0 } else { spare.capacity_bytes },
        });
    }

    /// Appends a record of a payload of `payload_bytes`, for which `payload_bytes_max` were asked; `now` is the time on the clock of the store.
    pub fn append(&mut self, payload_bytes: u64, payload_bytes_max: u64, now: Duration) {
        let (bytes, bytes_max) =
            (payload_bytes + RECORD_OVERHEAD_BYTES, payload_bytes_max + RECORD_OVERHEAD_BYTES);
        let room = self
            .segments
            .back()
            .is_some_and(|last| HEADER_BYTES + (self.end - last.start) + bytes_max <= last.capacity_bytes);
        if !room {
            self.start_segment(bytes_max);
        }
        if let Some(last) = self.segments.back_mut() {
            last.is_dirty = true;
        }
        self.end += bytes;
        self.written_bytes += bytes;
        self.unsynced_since.get_or_insert(now);
    }

    /// A sync; somebody waits for it, or it is one that comes unasked.
    pub fn sync(&mut self, is_waited_for: bool) {
        if self.synced == self.end {
            return;
        }
        if is_waited_for
            && self.end - self.synced < SMALL_SYNC_BYTES
            && let Some(last) = self.segments.back_mut()
        {
            let used_bytes = HEADER_BYTES + (self.end - last.start);
            if let Some((start, end)) =
                fill_range(last.written_bytes, used_bytes, last.capacity_bytes, self.end)
            {
                self.written_bytes += end.saturating_sub(start);
                last.written_bytes = if start < end { end } else { last.capacity_bytes };
            }
        }
        self.segments.iter_mut().for_each(|segment| segment.is_dirty = false);
        (self.synced, self.unsynced_since) = (self.end, None);
        self.syncs += 1;
    }

    /// Whether what was appended becomes durable unasked now.
    pub fn is_sync_due(&self, now: Duration) -> bool {
        match (self.sync, self.unsynced_since) {
            (Sync::Interval(every), Some(since)) => now >= since + every,
            _ => false,
        }
    }

    /// A unit of its work: what comes unasked, and a spare made ahead; or, where nothing was appended since the last one, too many of them go.
    pub fn work(&mut self, now: Duration) {
        match self.sync {
            Sync::Always if self.unsynced_since.is_some() => self.sync(true),
            _ if self.is_sync_due(now) => self.sync(false),
            _ => {}
        }
        if self.end == self.idle_end {
            while self.spares.len() > SPARES_IDLE {
                let dirty = self.spares.iter().position(|spare| spare.is_dirty).unwrap_or(0);
                self.spares.remove(dirty);
            }
            return;
        }
        self.idle_end = self.end;
        let is_more = self.file_bytes() + self.segment_bytes <= self.file_bytes_max;
        if is_more && self.fitting(self.segment_bytes).is_none() {
            let spare = Spare { capacity_bytes: self.segment_bytes, is_dirty: false, is_new: true };
            self.spares.push_back(spare);
        }
    }

    /// Nobody needs anything below `until` any more.
    pub fn release(&mut self, until: u64) {
        self.released = self.released.max(until);
        while self.segments.get(1).is_some_and(|second| second.start <= until) {
            let Some(free) = self.segments.pop_front() else { break };
            let is_kept = free.capacity_bytes >= self.segment_bytes
                && self.segments.len() + self.spares.len() < SEGMENTS;
            if is_kept {
                let Segment { capacity_bytes, is_dirty, .. } = free;
                self.spares.push_back(Spare { capacity_bytes, is_dirty, is_new: false });
            }
        }
        while self.file_bytes() > self.file_bytes_max && !self.spares.is_empty() {
            let dirty = self.spares.iter().position(|spare| spare.is_dirty).unwrap_or(0);
            self.spares.remove(dirty);
        }
    }
}
