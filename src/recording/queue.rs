//! Events on their way to the writer: whoever asks appends, and never waits; one thread takes what is full.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::CHUNK_BYTES;
use super::event::{EventChunk, Frontmatter};
use crate::base::varint;

/// Bytes of events that may wait for the writer.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Empty chunks that are kept for the next ones.
const SPARE_MAX: usize = 4;

#[derive(Default)]
struct Waiting {
    filling: EventChunk,
    full: VecDeque<EventChunk>,
    spare: Vec<EventChunk>,
    bytes: usize,
    /// Events left out since the last one that was taken.
    gap: u64,
    events: u64,
    dropped: u64,
    /// Why nothing more is taken.
    end: Option<String>,
}

/// Chunks of events, the last of which is being filled.
#[derive(Default)]
pub(super) struct EventQueue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

impl EventQueue {
    /// Appends an event, or leaves it out and counts it where too much waits already. After the end nothing is taken.
    pub fn push(&self, front: Frontmatter, body: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.end.is_some() {
            return;
        }
        if waiting.bytes + body.len() > WAITING_BYTES_MAX {
            waiting.gap += 1;
            waiting.dropped += 1;
            return;
        }
        let before = waiting.filling.bytes().len();
        if waiting.gap > 0 {
            let mut gap = Vec::new();
            varint::put(&mut gap, std::mem::take(&mut waiting.gap));
            waiting.filling.push(Frontmatter::gap(front.start_ns()), &gap);
        }
        waiting.filling.push(front, body);
        waiting.events += 1;
        let after = waiting.filling.bytes().len();
        waiting.bytes += after - before;
        if after >= CHUNK_BYTES {
            let spare = waiting.spare.pop().unwrap_or_default();
            let full = std::mem::replace(&mut waiting.filling, spare);
            waiting.full.push_back(full);
            drop(waiting);
            self.wake.notify_one();
        }
    }

    /// Waits until a chunk is full, `patience` is over, or the end has come: why, then.
    pub fn wait(&self, patience: Duration) -> Option<String> {
        let mut waiting = self.waiting.lock();
        if waiting.full.is_empty() && waiting.end.is_none() {
            self.wake.wait_for(&mut waiting, patience);
        }
        waiting.end.clone()
    }

    /// The next full chunk, or with `all` what there is.
    pub fn take(&self, all: bool) -> Option<EventChunk> {
        let mut waiting = self.waiting.lock();
        let full = waiting.full.pop_front();
        let chunk = full.or_else(|| {
            (all && waiting.filling.events() > 0).then(|| {
                let spare = waiting.spare.pop().unwrap_or_default();
                std::mem::replace(&mut waiting.filling, spare)
            })
        })?;
        waiting.bytes -= chunk.bytes().len();
        Some(chunk)
    }

    /// Keeps the memory of a chunk that was written.
    pub fn give_back(&self, mut chunk: EventChunk) {
        chunk.clear();
        let mut waiting = self.waiting.lock();
        if waiting.spare.len() < SPARE_MAX {
            waiting.spare.push(chunk);
        }
    }

    /// Takes nothing more from now on; the first reason counts.
    pub fn end(&self, why: &str) {
        self.waiting.lock().end.get_or_insert_with(|| why.to_string());
        self.wake.notify_all();
    }

    /// Why nothing more is taken.
    pub fn ended(&self) -> Option<String> {
        self.waiting.lock().end.clone()
    }

    /// Events taken, and events left out.
    pub fn counts(&self) -> (u64, u64) {
        let waiting = self.waiting.lock();
        (waiting.events, waiting.dropped)
    }

    /// Whether so much waits that the next events may be left out.
    pub fn is_full(&self) -> bool {
        self.waiting.lock().bytes > WAITING_BYTES_MAX / 2
    }
}
