//! Reads: the tree first, then the levels.
//!
//! # Invariants
//!
//! 1. The tree is asked first, and only then the levels as they are: an entry is in the levels before it leaves the tree, so it is met in one of
//!    the two. The other way round it could be missed in both.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::HybridEngine;
use super::heat::HEAT_MAX;
use crate::disk::Purpose;
use crate::engine::btree::ScanChunk;
use crate::engine::{Inspect, KeyRange, Probe, Result, Tier, Visit, WorkClass};

impl HybridEngine {
    /// The value of `key`.
    pub(super) fn read(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        let (entry, pages) = self.tree.entry(key, tier)?;
        match entry {
            Some(entry) => {
                self.reads.tree.fetch_add(1, Relaxed);
                self.reads.probes.record(pages);
                Ok(entry)
            }
            None => {
                let (found, tables) = self.levels.get(key, tier)?;
                self.reads.levels.fetch_add(1, Relaxed);
                self.reads.probes.record(pages + tables);
                if found.is_some() && self.promoter.note(key, self.demoter.driven_out()) {
                    self.wake_signal.notify(WorkClass::Merge);
                }
                Ok(found)
            }
        }
    }

    /// Visits the keys of `range` in ascending order: leaf by leaf of the tree, with what the levels have in the range of the leaf.
    pub(super) fn visit(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let mut walk = self.tree.walk(Purpose::Scan);
        // One from memory is noted only when it succeeds, since otherwise it is made again.
        if tier == Tier::Disk {
            walk.note(range);
        }
        let mut start = range.start.to_vec();
        loop {
            let chunk = walk.chunk(&start, range.end, tier, &|_, _| true)?;
            let below = KeyRange { start: &start, end: chunk.next.as_deref().or(range.end) };
            let mut upper = UpperEntries { chunk: &chunk, at: 0 };
            let mut flow = ControlFlow::Continue(());
            self.levels.scan(below, tier, &mut |key, value| {
                flow = upper.visit_before(Some(key), visit);
                if flow.is_continue() {
                    flow = match upper.key() {
                        Some(upper_key) if upper_key == key => upper.visit_next(visit),
                        _ => visit(key, value),
                    };
                }
                flow
            })?;
            if flow.is_continue() {
                flow = upper.visit_before(None, visit);
            }
            match chunk.next {
                Some(next) if flow.is_continue() => start = next,
                Some(_) => return Ok(()),
                None => {
                    if tier == Tier::Memory {
                        walk.note(range);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The places that a read of `key` asks, behind a line on why they have it: its heat, and up to which heat records go down.
    pub(super) fn trace(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        let (heat, threshold) = (u64::from(self.heat.heat(key)), self.demoter.threshold());
        let mut probes = vec![Probe {
            structure: format!("heat {heat} of {HEAT_MAX}, down up to {threshold}"),
            offset: None,
            verdict: if heat > threshold { "hot" } else { "cold" },
            bytes: 0,
            read_bytes: 0,
        }];
        probes.extend(Inspect::explain(&*self.tree, key, tier)?);
        if self.tree.entry(key, tier)?.0.is_none() {
            // The levels have no memtable that could hold anything.
            let below = self.levels.explain(key, tier)?;
            probes.extend(below.into_iter().filter(|probe| probe.structure != "memtable"));
        }
        Ok(probes)
    }
}

/// The entries of a chunk that a scan has not come to yet.
struct UpperEntries<'a> {
    chunk: &'a ScanChunk,
    at: usize,
}

impl UpperEntries<'_> {
    /// The key of the next one.
    fn key(&self) -> Option<&[u8]> {
        self.chunk.entries.get(self.at).map(|(place, _)| self.chunk.at(place))
    }

    /// Visits the next one, unless it is a tombstone.
    fn visit_next(&mut self, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let Some((place, item)) = self.chunk.entries.get(self.at) else { return ControlFlow::Continue(()) };
        self.at += 1;
        self.chunk.value(item).map_or(ControlFlow::Continue(()), |value| visit(self.chunk.at(place), value))
    }

    /// Visits those below `end`, or the rest.
    fn visit_before(&mut self, end: Option<&[u8]>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        while self.key().is_some_and(|key| end.is_none_or(|end| key < end)) {
            self.visit_next(visit)?;
        }
        ControlFlow::Continue(())
    }
}
