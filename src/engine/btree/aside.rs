//! Changes whose leaf cannot be read. They are set aside, so that the damage stays where it is: everything else goes on.
//!
//! A *part* of the tree is the range of keys that an unreadable page has from its parent, be it a leaf or all below an inner page. Puts
//! that wait in the change buffer for such a part, and at opening every change that the log has for it, come here:
//!
//! - a read of a key that was changed sees the change, one of another key of the part fails with the page's error, and so does
//!   every new change of the part ([`Tree::apply`] never meets it);
//! - sweeps, checkpoints, compaction and closing pass over it;
//! - nothing is lost: a checkpoint writes what is here to the log once more, and its floor is before that. So the log below is let
//!   go, opening finds the changes again, and a repair of the store uses them as any others.
//!
//! A checkpoint that somebody asks for tries to read the page first. If that succeeds, the changes go where they belong.
//!
//! # Invariants
//!
//! 1. What is here for a key is newer than the pages, and no newer change is anywhere: who comes to a part later fails, or (in the order
//!    of the log, at opening) comes here, too.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::buffer::Mark;
use super::pager::{Loaded, Pager};
use super::tree::{Miss, Pins, Stop, Tree};
use super::{BtreeEngine, UNIT_BYTES};
use crate::disk::Purpose;
use crate::engine::wal::FIRST_KIND;
use crate::engine::{Batch, Error, Operation, Result, Tier};

/// Log record kind of a batch of changes that were set aside, logged once more.
pub const ASIDE_KIND: u8 = FIRST_KIND + 3;
/// Memory of a change beside its key and value.
const CHANGE_BYTES: u64 = 96;
/// Bytes of changes that one record of the log takes, beside the last one.
const RECORD_BYTES: u64 = 1 << 20;

/// A part of the tree that cannot be read.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its first key.
    pub start: Vec<u8>,
    /// The first key behind it; `None` at the end of the tree.
    pub end: Option<Vec<u8>>,
    /// Where the page lies.
    pub unit: u64,
    /// Why it cannot be read.
    pub error: Error,
}

impl Part {
    fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// What was set aside; see the module.
#[derive(Default)]
pub struct Aside {
    /// By first key.
    parts: BTreeMap<Vec<u8>, Part>,
    /// The newest change of each key; `None` for a delete.
    changes: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    bytes: u64,
    /// The log holds every change behind here.
    mark: Mark,
    /// Bytes of the log behind `mark` that hold them once more.
    logged_bytes: u64,
    /// All changes are there as records of their own kind.
    is_logged: bool,
}

/// Whether an error says that something cannot be read, and not that it is not in memory or that there is no space.
pub fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Io { .. })
}

impl Aside {
    /// Whether no part is known that cannot be read.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts, by first key.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.values()
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Before which every batch is in the pages, but for what waits elsewhere; `None` if there is nothing.
    pub fn mark(&self) -> Option<Mark> {
        (!self.changes.is_empty()).then_some(self.mark)
    }

    /// Bytes of the log behind [`Aside::mark`] that are nothing but what is here.
    pub fn logged_bytes(&self) -> u64 {
        if self.changes.is_empty() { 0 } else { self.logged_bytes }
    }

    /// Whether changes are here that the log has only as what they were when they came: replay cannot tell that the pages lack them.
    pub fn is_unlogged(&self) -> bool {
        !self.changes.is_empty() && !self.is_logged
    }

    /// The part that `key` lies in.
    pub fn part(&self, key: &[u8]) -> Option<&Part> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        self.parts
            .range::<[u8], _>(bounds)
            .next_back()
            .map(|(_, part)| part)
            .filter(|part| part.contains(key))
    }

    /// The change of `key` that was set aside; `None` in it for a delete.
    pub fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.changes.get(key).map(|value| value.as_deref())
    }

    /// The changes from `start` on, in the order of keys.
    pub fn from<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        self.changes.range::<[u8], _>(bounds).map(|(key, value)| (&**key, value.as_deref()))
    }

    /// From here on changes of `part` belong here. The log holds those that come now behind `mark`.
    pub fn add_part(&mut self, part: Part, mark: Mark) {
        if self.changes.is_empty() || mark.position < self.mark.position {
            (self.mark, self.logged_bytes) = (mark, 0);
        }
        self.is_logged = false;
        self.parts.insert(part.start.clone(), part);
    }

    /// Takes in the newest change of a key that lies in a part.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        let bytes = |value: Option<&[u8]>| (key.len() + value.map_or(0, <[u8]>::len)) as u64 + CHANGE_BYTES;
        self.bytes += bytes(value);
        self.is_logged = false;
        if let Some(old) = self.changes.insert(key.into(), value.map(Into::into)) {
            self.bytes -= bytes(old.as_deref());
        }
    }

    /// Takes the changes out of `batch` that belong here; returns the others.
    pub fn divide(&mut self, batch: Batch) -> Batch {
        if batch.operations().iter().all(|operation| self.part(operation.key()).is_none()) {
            return batch;
        }
        let mut rest = Batch::new(batch.tag);
        for operation in batch.operations() {
            match (self.part(operation.key()).is_some(), operation) {
                (true, _) => self.add(operation.key(), operation.value().map(|value| &value[..])),
                (false, Operation::Put { key, value }) => rest.put(key.clone(), value.clone()),
                (false, Operation::Delete { key }) => rest.delete(key.clone()),
            }
        }
        rest
    }

    /// The changes of the part that begins at `start`, as a batch.
    fn batch_of(&self, part: &Part) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in self.from(&part.start).take_while(|(key, _)| part.contains(key)) {
            match value {
                Some(value) => batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => batch.delete(Bytes::copy_from_slice(key)),
            }
        }
        batch
    }

    /// Forgets the part and its changes.
    fn remove(&mut self, part: &Part) {
        self.parts.remove(&part.start);
        let keys: Vec<Box<[u8]>> = self
            .from(&part.start)
            .take_while(|(key, _)| part.contains(key))
            .map(|(key, _)| key.into())
            .collect();
        for key in keys {
            if let Some(value) = self.changes.remove(&key) {
                self.bytes -= (key.len() + value.as_deref().map_or(0, <[u8]>::len)) as u64 + CHANGE_BYTES;
            }
        }
    }

    /// All changes, in batches that one record of the log takes each.
    fn batches(&self) -> Vec<Batch> {
        let mut batches = vec![Batch::default()];
        for (key, value) in self.from(b"") {
            if batches.last().is_some_and(|batch| batch.bytes() >= RECORD_BYTES) {
                batches.push(Batch::default());
            }
            let Some(batch) = batches.last_mut() else { continue };
            match value {
                Some(value) => batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => batch.delete(Bytes::copy_from_slice(key)),
            }
        }
        batches
    }

    /// A sentence for people: what cannot be read, what waits for it, and the way out; `None` if there is nothing.
    pub fn sentence(&self) -> Option<String> {
        let part = self.parts.values().next()?;
        let more = match self.parts.len() {
            1 => String::new(),
            count => format!(" ({} more like it)", count - 1),
        };
        let changes = self.changes.len();
        Some(format!(
            "{}{more}; {changes} changes wait for it in the log; unmount and run kvfs check --repair",
            part.error
        ))
    }
}

impl Tree {
    /// The part of the tree around `key` whose page cannot be read, as far as `loaded` knows; `None` if the way to the leaf is
    /// whole, or not in memory.
    pub fn unreadable_part(&self, pager: &Pager, loaded: &Loaded, key: &[u8]) -> Option<Part> {
        let (mut unit, mut start, mut end) = (self.root, Vec::new(), None);
        for level in (0..self.height).rev() {
            let page = match self.page(pager, loaded, unit, level) {
                Ok(page) => page,
                Err(Stop::Failed(error)) => return Some(Part { start, end, unit, error }),
                Err(Stop::Miss(_)) => return None,
            };
            if level > 0 {
                let index = page.child_index(key);
                if index > 0 {
                    start = page.key(index - 1).to_vec();
                }
                if index < page.count() {
                    end = Some(page.key(index).to_vec());
                }
                unit = page.child(index);
            }
        }
        None
    }
}

impl BtreeEngine {
    /// As [`BtreeEngine::load`], but a page or value that cannot be read is only noted in `loaded`: the next search fails where it
    /// needs it, and goes on where it can do without.
    pub(super) fn load_if_whole(
        &self,
        epoch: u64,
        miss: Miss,
        tier: Tier,
        purpose: Purpose,
        loaded: &mut Loaded,
    ) -> Result<()> {
        match self.load(epoch, miss, tier, purpose, loaded) {
            Err(error) if is_damage(&error) => {
                loaded.fail(epoch, miss.unit(), error);
                Ok(())
            }
            other => other,
        }
    }

    /// Sets aside what waits in the buffer for `part`. The writer's lock is held.
    pub(super) fn set_aside(&self, part: Part) {
        let now = self.mark();
        self.tree.write().buffer.set_aside(part.clone(), now);
        self.record_part(&part);
    }

    /// Says once that a part cannot be read.
    pub(super) fn record_part(&self, part: &Part) {
        if !self.parts_told.lock().insert(part.unit) {
            return;
        }
        log::error!("{}; changes of its keys are refused, what waits for it stays in the log", part.error);
        let offset = part.unit.saturating_mul(UNIT_BYTES);
        let fields = vec![("what", part.error.to_string().into()), ("offset", offset.into())];
        self.journal.record(self.clock.now(), "damage", fields);
    }

    /// Tries to read what could not be read, and makes the changes that wait for it. What still cannot stays as it is.
    pub(super) fn retry_aside(&self) {
        let parts: Vec<Part> = self.tree.read().buffer.aside.parts().cloned().collect();
        for part in parts {
            match self.retry_part(&part) {
                Ok(true) => {
                    self.parts_told.lock().remove(&part.unit);
                    let offset = part.unit.saturating_mul(UNIT_BYTES);
                    self.journal.record(self.clock.now(), "damage_gone", vec![("offset", offset.into())]);
                }
                Ok(false) => {}
                Err(error) => log::warn!("what waits for an unreadable page stays in the log: {error}"),
            }
        }
    }

    /// Whether the changes of `part` could be made.
    fn retry_part(&self, part: &Part) -> Result<bool> {
        let mut loaded = Loaded::default();
        loop {
            let writer = self.lock_writer();
            self.check()?;
            let mut pins = Pins::new();
            let (epoch, batch, planned) = {
                let tree = self.tree.read();
                let batch = tree.buffer.aside.batch_of(part);
                let planned = tree.plan(&self.pager, &loaded, &batch, &mut pins);
                (tree.epoch, batch, planned)
            };
            match planned {
                Ok(needs) => {
                    self.take_space(needs, Tier::Disk)?;
                    let mut tree = self.tree.write();
                    tree.buffer.aside.remove(part);
                    tree.apply(&batch, pins, &self.pager);
                    drop(tree);
                    self.set_dirty_since();
                    return Ok(true);
                }
                Err(Stop::Failed(_)) => return Ok(false),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.load_if_whole(epoch, miss, Tier::Disk, Purpose::PageWrite, &mut loaded)?;
                }
            }
        }
    }

    /// Writes what was set aside to the log once more, so that a checkpoint that freezes next can let go of what is before. The
    /// writer's lock is held.
    pub(super) fn log_aside(&self) {
        let batches = match &self.tree.read().buffer.aside {
            aside if aside.mark().is_none() => return,
            aside => aside.batches(),
        };
        let before = self.mark();
        for batch in batches {
            if let Err(error) = self.log.append_batch(ASIDE_KIND, Purpose::Wal, &batch) {
                // The log keeps what it has of them.
                log::warn!("what waits for an unreadable page cannot be logged again: {error}");
                return;
            }
        }
        let bytes = self.log.end() - before.position;
        let mut tree = self.tree.write();
        let aside = &mut tree.buffer.aside;
        (aside.mark, aside.logged_bytes, aside.is_logged) = (before, bytes, true);
    }
}
