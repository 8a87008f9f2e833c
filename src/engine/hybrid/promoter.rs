//! Promotion: records that are read again and again below are copied into the tree, in the background.
//!
//! 1. A read that the levels answer notes its key, if that has the heat `promote`, and more than what had to leave the tree lately.
//! 2. While nothing goes down, a step reads the values of some such keys, and puts them into the tree as *clean* entries, unless the tree has an
//!    entry of the key. A clean entry can leave the tree without being written to a table.
//!
//! The second half of step 1 keeps a store in which everything is equally warm, and more than the tree holds, from turning the tree over and over: what
//! comes in is hotter than what it drives out.
//!
//! # Invariants
//!
//! 1. Between the read of a value below and its copy in the tree nothing is brought down ([`Demoter::exclusively`](super::demoter::Demoter::exclusively)): else a newer value
//!    might have passed through the tree meanwhile, and the copy would cover it.
//! 2. The newest entry of a key below has the value of its clean entry: it is replaced only by what goes down from the tree, and that is no clean
//!    entry any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::demoter::step_bytes;
use super::heat::Heat;
use crate::disk::Purpose;
use crate::engine::btree::BtreeEngine;
use crate::engine::lsm::LevelStore;
use crate::engine::{Error, Pending, Result};

/// Keys that are noted at most.
const KEYS_MAX: usize = 1024;
/// Keys of a step.
const STEP_KEYS: usize = 32;
/// Bytes of keys and values of a step, about.
const STEP_BYTES: u64 = 256 << 10;

/// Copies what is read often below into the tree.
pub struct Promoter {
    tree: Arc<BtreeEngine>,
    levels: Arc<LevelStore>,
    heat: Arc<Heat>,
    /// Heat from which on a key is noted; 0 for never.
    heat_min: AtomicU8,
    wanted: Mutex<BTreeSet<Bytes>>,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Promoter {
    /// Copies from `levels` into `tree` what has at least `heat_min` by `heat`; nothing if that is 0.
    pub fn new(tree: Arc<BtreeEngine>, levels: Arc<LevelStore>, heat: Arc<Heat>, heat_min: u8) -> Promoter {
        let (wanted, entries, bytes) = Default::default();
        Promoter { tree, levels, heat, heat_min: AtomicU8::new(heat_min), wanted, entries, bytes }
    }

    /// Changes the heat from which on a key is noted; 0 for never.
    pub fn set_heat_min(&self, heat_min: u8) {
        self.heat_min.store(heat_min, Relaxed);
    }

    /// Notes that a read found `key` below, while the tree drives out what has a heat up to `driven_out`; whether it is the first one. Waits for
    /// nobody: what is read often comes by again.
    pub fn note(&self, key: &[u8], driven_out: u8) -> bool {
        let (heat, heat_min) = (self.heat.heat(key), self.heat_min.load(Relaxed));
        if heat_min == 0 || heat < heat_min || heat <= driven_out {
            return false;
        }
        let Some(mut wanted) = self.wanted.try_lock() else { return false };
        wanted.len() < KEYS_MAX && wanted.insert(Bytes::copy_from_slice(key)) && wanted.len() == 1
    }

    /// Whether keys are noted.
    pub fn is_due(&self) -> bool {
        !self.wanted.lock().is_empty()
    }

    /// Entries that were copied, and bytes of their keys and values.
    pub fn promoted(&self) -> (u64, u64) {
        (self.entries.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Copies some into a tree of up to `hot_bytes`. Nothing may be brought down meanwhile.
    pub fn step(&self, hot_bytes: u64) -> Result<Pending> {
        if let Some(wait) = self.levels.ingest_wait().or_else(|| self.tree.clean_wait()) {
            return Ok(Pending::After(wait));
        }
        // A step must not take the tree so far over its bound that writers stop.
        let bytes_max = STEP_BYTES.min(step_bytes(hot_bytes));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < STEP_KEYS && bytes < bytes_max {
            let Some(key) = self.wanted.lock().pop_first() else { break };
            let value = match self.levels.read_for(&key, Purpose::Promote) {
                Ok(Some(value)) => value,
                // It was deleted meanwhile, or whoever reads it hears what is wrong.
                Ok(None) => continue,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let entry_bytes = (key.len() + value.len()) as u64;
            if entry_bytes <= bytes_max {
                bytes += entry_bytes;
                entries.push((key, value));
            }
        }
        match self.tree.put_clean(&entries) {
            Ok((count, bytes)) => {
                self.entries.fetch_add(count, Relaxed);
                self.bytes.fetch_add(bytes, Relaxed);
                Ok(if self.is_due() { Pending::More } else { Pending::Idle })
            }
            // It helps who reads, and nobody waits for it. What is damaged is told by whoever asks for it.
            Err(error) if error.is_damage() || matches!(error, Error::NoSpace) => Ok(Pending::Idle),
            Err(Error::Busy { retry_after, .. }) => Ok(Pending::After(retry_after)),
            Err(error) => Err(error),
        }
    }
}
