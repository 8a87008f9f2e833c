//! Salvage: reads everything that can still be read of a damaged B-tree.
//!
//! 1. The newest whole meta page has root and free map. Copies of pages that belong to its state are written in place first, as in recovery;
//!    copies that cannot be read are left out, and a page that needs one is damaged.
//! 2. Walk the tree from the root. A page that is damaged, or whose keys belong elsewhere, leaves a *hole*: the range of keys that its parent
//!    gives it.
//! 3. Pages below a hole are still in the file. Candidates are all other valid pages that are not free and whose keys lie in the range of the
//!    hole, the highest level first.
//! 4. Without a meta page, or if the tree of an older one does not add up, the root is the page of the highest level to which no other page
//!    refers.
//! 5. Then the batches of the log behind the recovery LSN of that state are applied.
//!
//! # What is lost
//!
//! Of a hole, the keys between the leaves that were found for it are lost, unless as many leaves were found as the meta page counts. Of an
//! extent whose checksum does not fit, the key is lost. If the free map cannot be read, a page that was found for a hole may be an old one;
//! then, and without a meta page, all keys of the range are reported as lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::allocation_unit::{FILE, FIRST_UNIT, PageNumber, PageSet, UNIT_BYTES, UnitNumber, Units};
use super::doublewrite::{self, DoublewriteArea};
use super::freemap::{UnitRun, end_max, read_runs};
use super::map_pages::read_unused;
use super::meta::{META_BYTES, MapPlace, Meta};
use super::options::Options;
use super::page::{CellValue, Page};
use super::pager::Pager;
use super::records::{ASIDE_KIND, PageImage};
use crate::disk::{Disk, Purpose};
use crate::engine::salvage::{Keys, Loss, Sink, open_if_there};
use crate::engine::wal::{self, FIRST_KIND};
use crate::engine::{Error, Lsn, Operation, Result};

/// Largest number of levels of a tree; a page with more is damaged.
const LEVELS_MAX: u8 = 64;

/// Whether `name` is a file of the B-tree besides the log.
pub fn is_file(name: &str) -> bool {
    name == FILE || name == doublewrite::FILE
}

/// The range of keys of a page that the walk could not use.
struct Hole {
    number: PageNumber,
    level: u8,
    what: String,
    keys: Keys,
}

/// A valid page that the walk did not reach.
struct Candidate {
    number: PageNumber,
    level: u8,
    first: Vec<u8>,
    last: Vec<u8>,
}

struct Salvage<'a, 'b> {
    pager: &'a Pager,
    file_end: UnitNumber,
    sink: &'a mut Sink<'b>,
    losses: Vec<Loss>,
    /// Pages that were used.
    reached: BTreeMap<PageNumber, ()>,
    /// First and last key of each leaf that was used.
    leaves: BTreeMap<Vec<u8>, Vec<u8>>,
    leaf_count: u64,
    holes: Vec<Hole>,
}

/// Calls `sink` with everything that can be read, the oldest first. Pages that a crash may have torn are written to `disk`.
pub fn salvage(disk: Arc<dyn Disk>, options: &Options, sink: &mut Sink<'_>) -> Result<Vec<Loss>> {
    let mut losses = Vec::new();
    let Some(file) = open_if_there(&*disk, FILE)? else {
        losses.push(Loss::new(FILE, 0, "it is missing", Some(Keys::ALL)));
        losses.extend(replay(&*disk, None, Lsn::ZERO, sink)?);
        return Ok(losses);
    };
    let size = file.size().map_err(|error| Error::io(format!("size of {FILE}"), error))?;
    let mut slots = vec![0; 2 * UNIT_BYTES as usize];
    for (nth, slot) in slots.chunks_mut(UNIT_BYTES as usize).enumerate() {
        // A slot that cannot be read counts as damaged.
        let _ = file.read_at(Purpose::Recovery, nth as u64 * UNIT_BYTES, &mut slot[..META_BYTES]);
    }
    let meta = Meta::newest(&slots).ok();
    let page_bytes = meta.map_or(options.page_bytes, |meta| meta.page_bytes);
    let pager = Pager::new(file, page_bytes as usize, options.common.cache_bytes.min(16 << 20));
    if let Some(meta) = &meta {
        send_home(&disk, &pager, meta, &mut losses)?;
    }
    let file_end = UnitNumber::of_offset(size);
    let free = meta.as_ref().and_then(|meta| free_runs(&pager, meta, file_end));
    let mut salvage = Salvage {
        pager: &pager,
        file_end,
        sink,
        losses,
        reached: BTreeMap::new(),
        leaves: BTreeMap::new(),
        leaf_count: 0,
        holes: Vec::new(),
    };
    // A slot that was never written is no sign of damage; a damaged one may have been the newest.
    let both = slots.chunks(UNIT_BYTES as usize).enumerate().all(|(nth, slot)| {
        slot.iter().all(|byte| *byte == 0) || Meta::decode(slot, nth as u64 * UNIT_BYTES).is_some()
    });
    let trusted = meta.filter(|meta| both || salvage.adds_up(meta));
    match trusted {
        Some(meta) => salvage.take_tree(&meta, free.as_deref())?,
        None => salvage.take_pages()?,
    }
    let Salvage { mut losses, sink, .. } = salvage;
    // The pages are newer than the recovery LSN, so the log was durable at least as far as they go.
    let durable = trusted.map_or(Lsn::ZERO, |meta| meta.lsn.max(meta.images_end));
    losses.extend(replay(&*disk, trusted.map(|meta| meta.recovery_lsn), durable, sink)?);
    Ok(losses)
}

/// Applies the batches of the log behind `from`.
fn replay(disk: &dyn Disk, from: Option<Lsn>, durable: Lsn, sink: &mut Sink<'_>) -> Result<Vec<Loss>> {
    wal::salvage::salvage(disk, from, durable, &mut |kind, _, payload| {
        if !matches!(kind, FIRST_KIND | ASIDE_KIND) {
            return Ok(());
        }
        crate::engine::salvage::replay(&payload, sink)
    })
}

/// Writes the copies of pages that belong to the state of `meta` in place.
fn send_home(disk: &Arc<dyn Disk>, pager: &Pager, meta: &Meta, losses: &mut Vec<Loss>) -> Result<()> {
    if meta.doublewrite_bytes > 0 {
        let mut copies = Vec::new();
        let mut take = |number: PageNumber, page: &[u8]| {
            copies.push((number, page.to_vec()));
            Ok(())
        };
        // If one copy is damaged, none is used.
        match DoublewriteArea::open(disk.clone()).and_then(|doublewrite| doublewrite.each(meta, &mut take)) {
            Ok(()) => copies.iter().try_for_each(|(number, page)| pager.repair_page(*number, page))?,
            Err(error) => {
                losses.push(Loss::new(
                    doublewrite::FILE,
                    0,
                    error.to_string(),
                    Some(Keys::between(None, Some(b""))),
                ));
            }
        }
    }
    if meta.images_end == Lsn::ZERO {
        return Ok(());
    }
    let mut sectors = BTreeMap::new();
    // Losses of the log are reported when its batches are read.
    wal::salvage::salvage(&**disk, Some(meta.images_start), Lsn::ZERO, &mut |kind, lsn, payload| {
        let image = PageImage::of_state(meta, kind, lsn, &payload).ok().flatten();
        sectors.extend(image.into_iter().flat_map(|image| image.sectors));
        Ok(())
    })?;
    sectors.iter().try_for_each(|(sector, bytes)| pager.write_sectors(*sector, bytes, Purpose::Recovery))
}

/// Runs of unused units, ascending; `None` if the map cannot be read.
fn free_runs(pager: &Pager, meta: &Meta, file_end: UnitNumber) -> Option<Vec<UnitRun>> {
    match meta.map {
        MapPlace::Pages(_) if meta.end > end_max(file_end) => None,
        MapPlace::Pages(root) => read_unused(pager, root, meta.end, Purpose::Recovery),
        MapPlace::Runs { run: (_, Units::ZERO), .. } => Some(Vec::new()),
        MapPlace::Runs { run: (unit, _), bytes, crc } => {
            read_runs(&pager.read_runs(unit, bytes, crc, Purpose::Recovery).ok()?, meta.end)
        }
    }
}

fn is_free(runs: &[UnitRun], unit: UnitNumber) -> bool {
    let after = runs.partition_point(|(start, _)| *start <= unit);
    after.checked_sub(1).is_some_and(|index| unit < runs[index].0 + runs[index].1)
}

impl Salvage<'_, '_> {
    /// Whether the tree below the root of `meta` has as many leaves as the meta page counts, and all pages are whole.
    fn adds_up(&self, meta: &Meta) -> bool {
        let mut leaves = 0;
        let mut waiting = if meta.height > 0 { vec![(meta.root, meta.height - 1)] } else { Vec::new() };
        let mut pages = 0;
        while let Some((number, level)) = waiting.pop() {
            pages += 1;
            let Ok(page) = self.pager.read_page(number, Purpose::Recovery) else { return false };
            if u64::from(page.level()) != level || pages > self.file_end.get() {
                return false;
            }
            match page.is_leaf() {
                true => leaves += 1,
                false => waiting.extend((0..=page.count()).map(|index| (page.child(index), level - 1))),
            }
        }
        leaves == meta.counts.leaf_pages
    }

    fn take_tree(&mut self, meta: &Meta, free: Option<&[UnitRun]>) -> Result<()> {
        if meta.height > 0 {
            let level = u8::try_from(meta.height - 1).unwrap_or(LEVELS_MAX);
            self.page(meta.root, level, Keys::ALL)?;
        }
        let holes = std::mem::take(&mut self.holes);
        let (deep, shallow): (Vec<Hole>, Vec<Hole>) = holes.into_iter().partition(|hole| hole.level > 0);
        for hole in shallow {
            self.lose(hole.number.unit(), hole.what, hole.keys);
        }
        if deep.is_empty() {
            return Ok(());
        }
        let candidates = self.candidates(free.unwrap_or(&[]), meta.end);
        for hole in &deep {
            let fits = |candidate: &&Candidate| {
                candidate.level < hole.level
                    && hole.keys.contains(&candidate.first)
                    && hole.keys.contains(&candidate.last)
            };
            for candidate in candidates.iter().filter(fits) {
                let overlaps = self.overlaps(&candidate.first, &candidate.last);
                if !self.reached.contains_key(&candidate.number) && !overlaps {
                    self.page(candidate.number, candidate.level, hole.keys.clone())?;
                }
            }
        }
        // There may be holes below a candidate, too; their leaves are candidates themselves.
        let lost_leaves = std::mem::take(&mut self.holes);
        if free.is_some() && self.leaf_count == meta.counts.leaf_pages {
            return Ok(());
        }
        for hole in deep.into_iter().chain(lost_leaves) {
            match free {
                Some(_) => self.lose_between_leaves(&hole),
                None => self.lose(
                    hole.number.unit(),
                    format!("{}, and the free map is damaged", hole.what),
                    hole.keys,
                ),
            }
        }
        Ok(())
    }

    /// Takes what can be found without a valid meta page.
    fn take_pages(&mut self) -> Result<()> {
        let what =
            "no meta page counts: the tree is put together from its pages, and some may be former ones";
        self.losses.push(Loss::new(FILE, 0, what, Some(Keys::ALL)));
        let candidates = self.candidates(&[], self.file_end);
        let mut children = PageSet::default();
        for candidate in candidates.iter().filter(|candidate| candidate.level > 0) {
            if let Ok(page) = self.pager.read_page(candidate.number, Purpose::Recovery) {
                children.extend((0..=page.count()).map(|index| page.child(index)));
            }
        }
        let roots = candidates.iter().filter(|candidate| !children.contains(&candidate.number));
        for candidate in roots.chain(&candidates) {
            let overlaps = self.overlaps(&candidate.first, &candidate.last);
            if !self.reached.contains_key(&candidate.number) && !overlaps {
                self.page(candidate.number, candidate.level, Keys::ALL)?;
            }
        }
        self.holes.clear();
        Ok(())
    }

    /// Valid pages that were not reached and are not free, the highest level first.
    fn candidates(&self, free: &[UnitRun], end: UnitNumber) -> Vec<Candidate> {
        let mut found = Vec::new();
        for unit in (FIRST_UNIT.get()..end.min(self.file_end).get()).map(UnitNumber::new) {
            if is_free(free, unit) {
                continue;
            }
            let Ok((number, page)) = self.pager.find_page(unit, Purpose::Recovery) else { continue };
            if self.reached.contains_key(&number) {
                continue;
            }
            if page.count() > 0 && page.level() < LEVELS_MAX {
                let (first, last) = (page.key(0).to_vec(), page.key(page.count() - 1).to_vec());
                found.push(Candidate { number, level: page.level(), first, last });
            }
        }
        found.sort_by_key(|candidate| std::cmp::Reverse(candidate.level));
        found
    }

    /// Whether a leaf that was used has keys in `first..=last`.
    fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        let before = self.leaves.range(..=last.to_vec()).next_back();
        before.is_some_and(|(_, end)| &end[..] >= first)
    }

    /// Takes a page and all pages below it.
    fn page(&mut self, number: PageNumber, level: u8, keys: Keys) -> Result<()> {
        let page = match self.usable(number, level, &keys) {
            Ok(page) => page,
            Err(what) => {
                self.holes.push(Hole { number, level, what, keys });
                return Ok(());
            }
        };
        self.reached.insert(number, ());
        if page.is_leaf() {
            return self.leaf(number, &page);
        }
        for index in 0..=page.count() {
            let start = if index == 0 { keys.start.clone() } else { page.key(index - 1).to_vec() };
            let end = if index < page.count() { Some(page.key(index).to_vec()) } else { keys.end.clone() };
            self.page(page.child(index), level - 1, Keys { start, end })?;
        }
        Ok(())
    }

    /// The page `number`, if it fits its parent; the error is a sentence.
    fn usable(&self, number: PageNumber, level: u8, keys: &Keys) -> std::result::Result<Arc<Page>, String> {
        if self.reached.contains_key(&number) {
            return Err("a page that two others refer to".to_string());
        }
        let page = self.pager.read_page(number, Purpose::Recovery).map_err(|error| error.to_string())?;
        let all: Vec<&[u8]> = (0..page.count()).map(|index| page.key(index)).collect();
        if page.level() != level {
            return Err("a page of another level than its parent says".to_string());
        }
        if all.windows(2).any(|pair| pair[0] >= pair[1]) || !all.iter().all(|key| keys.contains(key)) {
            return Err("a page whose keys are out of order or belong elsewhere".to_string());
        }
        Ok(page)
    }

    fn leaf(&mut self, number: PageNumber, page: &Page) -> Result<()> {
        self.leaf_count += 1;
        if page.count() > 0 {
            self.leaves.insert(page.key(0).to_vec(), page.key(page.count() - 1).to_vec());
        }
        for index in 0..page.count() {
            let key = page.key(index);
            let value = match page.cell_value(index) {
                CellValue::Tombstone => {
                    (self.sink)(Operation::Delete { key: Bytes::copy_from_slice(key) })?;
                    continue;
                }
                CellValue::Inline(value) => Bytes::copy_from_slice(value),
                CellValue::Extent(extent) if !extent.is_possible() => {
                    self.lose(number.unit(), "an extent that cannot be".to_string(), Keys::one(key));
                    continue;
                }
                CellValue::Extent(extent) => match self.pager.read_values(&[extent], Purpose::Recovery) {
                    Ok(mut values) => values.pop().unwrap_or_default(),
                    Err(error) => {
                        self.lose(extent.unit, error.to_string(), Keys::one(key));
                        continue;
                    }
                },
            };
            (self.sink)(Operation::Put { key: Bytes::copy_from_slice(key), value })?;
        }
        Ok(())
    }

    fn lose(&mut self, unit: UnitNumber, what: String, keys: Keys) {
        self.losses.push(Loss::new(FILE, unit.offset(), what, Some(keys)));
    }

    /// Reports the keys of the hole that lie in no leaf that was found as lost.
    fn lose_between_leaves(&mut self, hole: &Hole) {
        let mut gaps = Vec::new();
        let mut after = hole.keys.start.clone();
        for (first, last) in self.leaves.range(hole.keys.start.clone()..) {
            if !hole.keys.contains(first) {
                break;
            }
            gaps.push(Keys {
                start: std::mem::replace(&mut after, crate::engine::salvage::successor(last)),
                end: Some(first.clone()),
            });
        }
        gaps.push(Keys { start: after, end: hole.keys.end.clone() });
        for keys in gaps.into_iter().filter(|keys| !keys.is_empty()) {
            self.lose(hole.number.unit(), hole.what.clone(), keys);
        }
    }
}
