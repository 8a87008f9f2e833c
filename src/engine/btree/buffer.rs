//! The change buffer: small values put into a tree that is much larger than the memory for its dirty pages wait here, in the
//! order of their keys, until a *sweep* brings many of one leaf to it together.
//!
//! A page that is changed for one small value costs memory and writes of a page; a value in the buffer costs its own bytes. So the
//! same memory takes up hundreds of times as many changes, and when a leaf is written it is for all that gathered meanwhile.
//! No page is read before such a put is answered.
//!
//! # A sweep
//!
//! 1. It begins when the buffer takes its share of the dirty bytes, when a checkpoint is asked for, or by age or log bytes.
//! 2. [`BtreeEngine::sweep_some`] brings the next few leaves, which it reads together, and makes the changes that wait for them.
//! 3. Whenever [`PAGES_SHARE`] of the dirty bytes are pages, a checkpoint writes them home.
//! 4. Behind the last key it has ended: the batches from before its begin are all in pages. If more gathered than allows a
//!    rest, the next one begins.
//!
//! # Invariants
//!
//! 1. What waits for a key is newer than what the tree has for it: a change past the buffer takes the key out of it.
//! 2. Every batch up to the buffer's *floor* is in the pages, or what is left of it was logged again behind the floor. A checkpoint
//!    names the floor, and opening replays from there. A batch up to the checkpoint's position that is anything but small puts did
//!    not wait, so the pages have it; all that is left of it is that it took its keys out of the buffer. So the log must be
//!    durable as far as the pages go, before they count.
//! 3. The floor does not hold more of the log than its bound allows: a checkpoint logs what waits again ([`super::bound`]).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::aside::{Aside, Part, is_damage};
use super::page::{HEADER_BYTES, is_inline};
use super::pager::{Loaded, Pager, Piece};
use super::tree::{Miss, Needs, Pins, Stop, Tree};
use super::{BtreeEngine, Failure, UNIT_BYTES};
use crate::disk::Purpose;
use crate::engine::btree::Torn;
use crate::engine::{Batch, Error, Operation, Position, Result, Tier};

/// Share of the dirty bytes that the buffer takes at most.
pub const SHARE_MAX: (u64, u64) = (5, 8);
/// Share of the dirty bytes at which a sweep begins.
pub const SHARE_SWEEP: (u64, u64) = (1, 4);
/// Share of the dirty bytes that a sweep makes of pages before a checkpoint takes them up.
pub const PAGES_SHARE: (u64, u64) = (1, 4);
/// Memory of an entry beside its key and value.
const ENTRY_BYTES: u64 = 72;
/// Bytes of the log that a put takes in a batch of many, beside its key and value.
const PUT_OVERHEAD_BYTES: u64 = 12;
/// Adjacent leaves that one request reads at most.
const READ_PAGES: usize = 16;

/// A share of `bytes`.
pub fn share(bytes: u64, (part, of): (u64, u64)) -> u64 {
    bytes / of * part
}

/// A moment in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Its end.
    pub position: Position,
    /// Bytes of page images that had been logged since opening.
    pub image_bytes: u64,
}

/// A moment, and how much had come into the buffer by then.
#[derive(Clone, Copy, Default)]
struct Since {
    mark: Mark,
    added_bytes: u64,
}

struct Sweep {
    began: Since,
    next: Vec<u8>,
}

type Puts = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Puts that wait; see the module.
#[derive(Default)]
pub struct ChangeBuffer {
    /// Those before the place of the sweep; all of them while there is none.
    behind: Puts,
    /// Those from the place of the sweep on.
    ahead: Puts,
    bytes: u64,
    /// Memory that all puts have taken that ever came here.
    added_bytes: u64,
    /// Every batch up to here is in the pages.
    floor: Since,
    /// Or in the log behind here.
    logged: Since,
    sweep: Option<Sweep>,
    /// What waits for pages that cannot be read; neither counted nor swept here.
    pub aside: Aside,
}

fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_BYTES
}

impl ChangeBuffer {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty() && self.ahead.is_empty()
    }

    /// Puts that wait.
    pub fn len(&self) -> u64 {
        (self.behind.len() + self.ahead.len()) as u64
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_ahead(&self, key: &[u8]) -> bool {
        self.sweep.as_ref().is_some_and(|sweep| key >= sweep.next.as_slice())
    }

    fn half(&mut self, key: &[u8]) -> &mut Puts {
        if self.is_ahead(key) { &mut self.ahead } else { &mut self.behind }
    }

    /// What waits for `key`: a value, or `None` in it for a delete that was set aside.
    pub fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let half = if self.is_ahead(key) { &self.ahead } else { &self.behind };
        half.get(key).map(|value| Some(&**value)).or_else(|| self.aside.change(key))
    }

    /// What waits from `start` on or was set aside, in the order of keys; `None` for a delete.
    pub fn from<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut waiting = self.waiting(start).map(|(key, value)| (key, Some(value))).peekable();
        let mut aside = self.aside.from(start).peekable();
        std::iter::from_fn(move || match (waiting.peek(), aside.peek()) {
            (Some((key, _)), Some((other, _))) if other < key => aside.next(),
            (None, _) => aside.next(),
            _ => waiting.next(),
        })
    }

    /// What waits from `start` on, in the order of keys.
    pub fn waiting<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        let (behind, ahead) = (self.behind.range::<[u8], _>(bounds), self.ahead.range::<[u8], _>(bounds));
        behind.chain(ahead).map(|(key, value)| (&**key, &**value))
    }

    fn oldest(&self) -> Since {
        if self.logged.mark.position > self.floor.mark.position { self.logged } else { self.floor }
    }

    /// Every batch up to here is in the pages, or in the log behind here, if something waits or was set aside.
    pub fn floor(&self) -> Option<Mark> {
        let waiting = (!self.is_empty()).then_some(self.oldest().mark);
        waiting.into_iter().chain(self.aside.mark()).min_by_key(|mark| mark.position)
    }

    /// Everything that waits is in the log behind `mark`.
    pub fn set_logged(&mut self, mark: Mark) {
        self.logged = Since { mark, added_bytes: self.added_bytes - self.bytes };
    }

    /// Memory that opening needs at most for the puts behind the floor.
    pub fn replayed_bytes_max(&self) -> u64 {
        if self.is_empty() { 0 } else { self.added_bytes - self.oldest().added_bytes }
    }

    /// Bytes of the log that it takes at most to log again what waits.
    pub fn logged_bytes_max(&self) -> u64 {
        self.bytes - self.len() * (ENTRY_BYTES - PUT_OVERHEAD_BYTES)
    }

    /// Why `batch` cannot be taken: it changes a part of the tree that cannot be read.
    pub fn refusal(&self, batch: &Batch) -> Option<Error> {
        if self.aside.is_empty() {
            return None;
        }
        batch.operations().iter().find_map(|operation| Some(self.aside.part(operation.key())?.error.clone()))
    }

    /// Sets aside what waits for `part`; so will be what comes for it behind `now`.
    pub fn set_aside(&mut self, part: Part, now: Mark) {
        let waiting = (!self.is_empty()).then_some(self.oldest().mark);
        self.aside.add_part(part.clone(), waiting.filter(|mark| mark.position < now.position).unwrap_or(now));
        let end = part.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for half in [&mut self.behind, &mut self.ahead] {
            let range = half.range::<[u8], _>((Bound::Included(&part.start[..]), end));
            let keys: Vec<Box<[u8]>> = range.map(|(key, _)| key.clone()).collect();
            for key in keys {
                let Some(value) = half.remove(&key) else { continue };
                self.bytes -= entry_bytes(&key, &value);
                self.aside.add(&key, Some(&value));
            }
        }
    }

    /// Whether every batch up to `position` is in the pages.
    pub fn is_settled(&self, position: Position) -> bool {
        self.is_empty() || self.floor.mark.position >= position
    }

    /// Lets the puts of `batch`, which has nothing else, wait; `before` is the log before it.
    pub fn add(&mut self, batch: &Batch, before: Mark) {
        if self.is_empty() {
            self.floor = Since { mark: before, added_bytes: self.added_bytes };
        }
        for operation in batch.operations() {
            let Operation::Put { key, value } = operation else { continue };
            self.bytes += entry_bytes(key, value);
            self.added_bytes += entry_bytes(key, value);
            if let Some(old) = self.half(key).insert(key[..].into(), value[..].into()) {
                self.bytes -= entry_bytes(key, &old);
            }
        }
    }

    /// Forgets what waits for `key`.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(old) = self.half(key).remove(key) {
            self.bytes -= entry_bytes(key, &old);
        }
    }

    /// Begins a sweep now, unless one is on its way.
    pub fn begin_sweep(&mut self, now: Mark) {
        if self.sweep.is_none() {
            let began = Since { mark: now, added_bytes: self.added_bytes };
            self.sweep = Some(Sweep { began, next: Vec::new() });
            std::mem::swap(&mut self.behind, &mut self.ahead);
        }
    }

    /// Takes out what waits from the sweep's place on and before `next`, which is its place from here on; `None` ends the sweep.
    pub fn take(&mut self, next: Option<&[u8]>) -> Batch {
        let mut batch = Batch::default();
        while let Some(first) = self.ahead.first_entry()
            && next.is_none_or(|next| &**first.key() < next)
        {
            let (key, value) = first.remove_entry();
            self.bytes -= entry_bytes(&key, &value);
            batch.put(Bytes::from(key), Bytes::from(value));
        }
        match (next, self.sweep.take()) {
            (Some(next), Some(sweep)) => self.sweep = Some(Sweep { next: next.to_vec(), ..sweep }),
            // Where nothing waited meanwhile, the floor is above that already, and the log below it may be gone.
            (None, Some(sweep)) if sweep.began.mark.position > self.floor.mark.position => {
                self.floor = sweep.began;
            }
            (None, _) | (_, None) => {}
        }
        batch
    }
}

/// How much one step of a sweep does at most.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StepMax {
    leaves: u64,
    /// Bytes of cells after which it ends.
    cell_bytes: usize,
}

impl StepMax {
    /// Where there is space.
    pub const USUAL: StepMax = StepMax { leaves: 32, cell_bytes: 64 << 10 };

    /// The same, but for no more than so many leaves.
    pub fn of_leaves(leaves_max: u64) -> StepMax {
        StepMax { leaves: StepMax::USUAL.leaves.min(leaves_max), ..StepMax::USUAL }
    }

    /// Leaves that it changes at most.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Where there is little: what it may take at most is a small multiple of what it changes.
    pub fn smallest(page_bytes: usize) -> StepMax {
        StepMax { leaves: 1, cell_bytes: page_bytes / 4 }
    }
}

/// What the next step of a sweep will do.
pub struct Step {
    /// Pages on the ways of its changes.
    pub pins: Pins,
    /// Leaves that must be read first.
    pub misses: Vec<u64>,
    /// Leaves that it changes.
    pub leaves: u64,
    cell_bytes: usize,
    /// Where the next step goes on.
    pub next: Option<Vec<u8>>,
    /// What must be set aside first, because it cannot be read.
    pub unreadable: Option<Part>,
}

impl Tree {
    /// Whether `batch` should wait in the buffer: it is nothing but puts of small values, and the tree cannot be held in
    /// `dirty_bytes_max` anyway.
    pub fn suits_buffer(&self, batch: &Batch, torn: Torn, dirty_bytes_max: u64) -> bool {
        torn != Torn::Image
            // What is set aside stays. It must not take the room of what does not.
            && self.buffer.aside.bytes() < share(dirty_bytes_max, SHARE_SWEEP)
            && self.counts.leaf_pages * self.page_bytes() as u64 > dirty_bytes_max / 2
            && self.may_have_waited(batch)
    }

    /// Whether `batch` is nothing but puts of small values: no other ever waits in the buffer.
    pub fn may_have_waited(&self, batch: &Batch) -> bool {
        let is_small = |operation: &Operation| {
            operation.value().is_some_and(|value| is_inline(self.page_bytes(), operation.key(), value))
        };
        batch.operations().iter().all(is_small)
    }

    /// Bytes that the file and the log may still take because of what waits: each change its leaf, split and logged.
    pub fn buffer_owes(&self) -> u64 {
        self.buffer.len().min(self.counts.leaf_pages) * 2 * self.page_bytes() as u64
    }

    /// The next step of a sweep: the leaves from its place on that something waits for, `max` of them at most.
    pub fn plan_sweep(
        &self,
        pager: &Pager,
        loaded: &Loaded,
        max: StepMax,
    ) -> std::result::Result<Step, Stop> {
        let mut step = Step {
            pins: Pins::new(),
            misses: Vec::new(),
            leaves: 0,
            cell_bytes: 0,
            next: None,
            unreadable: None,
        };
        let Some(sweep) = &self.buffer.sweep else { return Ok(step) };
        let mut waiting = self.buffer.waiting(&sweep.next).peekable();
        while let Some((first, _)) = waiting.peek() {
            if step.leaves == max.leaves || step.cell_bytes >= max.cell_bytes {
                step.next = Some(first.to_vec());
                break;
            }
            let end = match self.plan_leaf(pager, loaded, first, &mut step) {
                Err(Stop::Failed(error)) => {
                    step.unreadable = self.unreadable_part(pager, loaded, first);
                    if step.unreadable.is_none() {
                        return Err(Stop::Failed(error));
                    }
                    break;
                }
                other => other?,
            };
            step.leaves += 1;
            while let Some((key, value)) = waiting.peek()
                && end.as_deref().is_none_or(|end| *key < end)
                && step.cell_bytes < max.cell_bytes
            {
                step.cell_bytes += key.len() + value.len() + 6;
                waiting.next();
            }
        }
        Ok(step)
    }

    /// Pins the way to the leaf of `key`, or notes that the leaf must be read; returns the end of its range.
    fn plan_leaf(
        &self,
        pager: &Pager,
        loaded: &Loaded,
        key: &[u8],
        step: &mut Step,
    ) -> std::result::Result<Option<Vec<u8>>, Stop> {
        let (mut unit, mut end) = (self.root, None);
        for level in (0..self.height).rev() {
            let page = match self.page(pager, loaded, unit, level) {
                Err(Stop::Miss(Miss::Page(unit))) if level == 0 => {
                    step.misses.push(unit);
                    break;
                }
                other => other?,
            };
            let mut next = None;
            if level > 0 {
                let index = page.child_index(key);
                if index < page.count() {
                    end = Some(page.key(index).to_vec());
                }
                next = Some(page.child(index));
            }
            if self.resident(unit, &step.pins).is_none() {
                step.pins.insert(unit, page);
            }
            match next {
                Some(next) => unit = next,
                None => break,
            }
        }
        Ok(end)
    }

    /// What a step takes at most. A part of a split page holds a quarter of its room at least, so it takes another quarter of new
    /// cells to split it again.
    pub fn needs_of(&self, step: &Step) -> Needs {
        let room = self.page_bytes() - HEADER_BYTES;
        let splits = step.leaves + (4 * step.cell_bytes / room) as u64 + 2;
        let page_units = self.page_bytes() as u64 / UNIT_BYTES;
        let units = splits * (self.height + 2) * page_units;
        Needs { units, piece_units: page_units, pages: 0 }
    }
}

impl BtreeEngine {
    /// The log as it is now.
    pub(super) fn mark(&self) -> Mark {
        Mark { position: self.log.end(), image_bytes: self.logged_image_bytes() }
    }

    /// The next step of a sweep, which begins here if none is on its way; false if a checkpoint must come first.
    pub(super) fn sweep_some(&self) -> Result<bool> {
        match self.sweep_step() {
            // A checkpoint of what is in pages may free some.
            Err(Error::NoSpace) if self.tree.read().active_bytes() > 0 => Ok(false),
            result => {
                self.note(result.as_ref().err());
                result.map(|()| true)
            }
        }
    }

    fn sweep_step(&self) -> Result<()> {
        let (mut loaded, mut max) = (Loaded::default(), self.step_max());
        let smallest = StepMax::smallest(self.pager.page_bytes());
        loop {
            let writer = self.lock_writer();
            self.check()?;
            let now = self.mark();
            self.tree.write().buffer.begin_sweep(now);
            let (epoch, planned) = {
                let tree = self.tree.read();
                let planned =
                    tree.plan_sweep(&self.pager, &loaded, max).map(|step| (tree.needs_of(&step), step));
                (tree.epoch, planned)
            };
            let (needs, step) = match planned {
                Ok(planned) => planned,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.load_if_whole(epoch, miss, Tier::Disk, Purpose::PageWrite, &mut loaded)?;
                    continue;
                }
            };
            if let Some(part) = step.unreadable {
                self.set_aside(part);
                continue;
            }
            if !step.misses.is_empty() {
                drop(writer);
                load_leaves(&self.pager, epoch, step.misses, Purpose::PageWrite, &mut loaded)?;
                continue;
            }
            // What a step may take at most is much for a small disk, and the checkpoint behind it needs room for copies of pages.
            if max != smallest && self.is_large_growth(needs) {
                max = smallest;
                continue;
            }
            self.take_space(needs, Tier::Disk)?;
            // Alone with its pages, a change need not copy them.
            drop(loaded);
            let mut tree = self.tree.write();
            let batch = tree.buffer.take(step.next.as_deref());
            tree.apply(&batch, step.pins, &self.pager);
            return Ok(());
        }
    }

    /// Notes how work ended for which batches wait.
    pub(super) fn note(&self, failure: Option<&Error>) {
        let mut noted = self.work_failed.lock();
        let times = 1 + noted.as_ref().map_or(0, |failure| failure.times);
        let free_bytes = failure.map_or(0, |_| self.guard.free_bytes());
        *noted = failure.map(|error| Failure { error: error.clone(), times, free_bytes });
    }
}

/// Reads leaves, adjacent ones together. They stay out of the pool: it belongs to readers.
pub fn load_leaves(
    pager: &Pager,
    epoch: u64,
    mut units: Vec<u64>,
    purpose: Purpose,
    loaded: &mut Loaded,
) -> Result<()> {
    units.sort_unstable();
    units.dedup();
    let page_units = pager.page_units();
    for run in units.chunk_by(|a, b| a + page_units == *b).flat_map(|run| run.chunks(READ_PAGES)) {
        match pager.read_pages(run[0], run.len(), purpose) {
            Ok(pages) => pages.into_iter().for_each(|(unit, piece)| loaded.add(epoch, unit, piece)),
            Err(error) if is_damage(&error) => {
                for unit in run {
                    match pager.read_page(*unit, purpose) {
                        Ok(page) => loaded.add(epoch, *unit, Piece::Page(page)),
                        Err(error) if is_damage(&error) => loaded.fail(epoch, *unit, error),
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
