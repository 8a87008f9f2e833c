//! Verification: reads the whole store and checks every checksum, the order of keys within and across pages, that every page and extent is
//! reached exactly once, and that these and the free units cover the file without gap or overlap.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::allocation_unit::{FILE, FIRST_UNIT, PageNumber, PageSet};
use super::core::Core;
use super::freemap::UnitRun;
use super::meta::TreeCounts;
use super::page::{CellValue, Page};
use super::pager::Pager;
use super::tree::Tree;
use crate::disk::Purpose;
use crate::engine::{Done, Error, Result};

/// Verifies the store on request.
pub struct Verifier {
    core: Arc<Core>,
    asked: Mutex<Vec<Done>>,
}

impl Verifier {
    /// A verifier of `core`.
    pub fn new(core: Arc<Core>) -> Verifier {
        Verifier { core, asked: Mutex::default() }
    }

    /// Asks for a verification; `done` is called with its result.
    pub fn ask(&self, done: Done) {
        self.asked.lock().push(done);
    }

    /// Whether a verification is asked for.
    pub fn is_asked(&self) -> bool {
        !self.asked.lock().is_empty()
    }

    /// Verifies, and answers all requests.
    pub fn answer(&self) {
        let asked = std::mem::take(&mut *self.asked.lock());
        let result = self.verify();
        asked.into_iter().for_each(|done| done(result.clone()));
    }

    /// Checks everything. Batches wait meanwhile (in [`Tier::Memory`](crate::engine::Tier::Memory) they answer
    /// [`Error::WouldBlock`]); reads continue.
    pub fn verify(&self) -> Result<()> {
        let _writer = self.core.tree.writer();
        verify(&self.core.tree.read(), &self.core.pager)
    }
}

struct Walk<'a> {
    tree: &'a Tree,
    pager: &'a Pager,
    used: Vec<UnitRun>,
    /// Pages that were seen.
    pages: PageSet,
    counts: TreeCounts,
    /// The last key of the leaves so far.
    last: Option<Vec<u8>>,
}

/// Checks `tree`, which must not change meanwhile. Clean pages and values are read from the file, not from the pool.
fn verify(tree: &Tree, pager: &Pager) -> Result<()> {
    let mut walk = Walk {
        tree,
        pager,
        used: Vec::new(),
        pages: HashSet::default(),
        counts: TreeCounts::default(),
        last: None,
    };
    if tree.height > 0 {
        walk.page(tree.root, tree.height - 1, None, None)?;
    }
    if walk.counts != tree.counts {
        let what = format!("counts differ: kept {:?}, found {:?}", tree.counts, walk.counts);
        return Err(Error::corrupt(FILE, 0, what));
    }
    let mut runs = walk.used;
    runs.extend(
        tree.space.unused(&mut |entry| pager.check_map_page(entry.unit, entry.crc, Purpose::Verify))?,
    );
    if let Some(unit) = tree.space.lost_group() {
        return Err(Error::corrupt(
            FILE,
            unit.offset(),
            "the free map of what lies from here on cannot be read",
        ));
    }
    runs.sort_unstable();
    let mut at = FIRST_UNIT;
    for (start, units) in runs {
        if start != at {
            let what = if start < at { "a unit that is used twice" } else { "units that nobody knows" };
            return Err(Error::corrupt(FILE, start.min(at).offset(), what));
        }
        at += units;
    }
    if at != tree.space.end() {
        return Err(Error::corrupt(FILE, at.offset(), "units that nobody knows at the end"));
    }
    Ok(())
}

impl Walk<'_> {
    /// Checks the page `number`, whose keys must lie in `low..high`, and all pages below it.
    fn page(
        &mut self,
        number: PageNumber,
        level: u64,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
    ) -> Result<()> {
        let page: Arc<Page> = match self.tree.changed_page(number) {
            Some(page) => page.clone(),
            None => self.pager.read_page(number, Purpose::Verify)?,
        };
        let damaged = |what: &str| Err(Error::corrupt(FILE, number.offset(), what));
        if u64::from(page.level()) != level {
            return damaged("a page of another level than its parent says");
        }
        if !self.pages.insert(number) {
            return damaged("a page that two others refer to");
        }
        let page_units = self.pager.page_units();
        self.used.push((number.unit(), number.units(page_units)));
        self.counts.saved_units += number.saved_units(page_units);
        let keys: Vec<&[u8]> = (0..page.count()).map(|index| page.key(index)).collect();
        if keys.windows(2).any(|pair| pair[0] >= pair[1]) {
            return damaged("keys out of order");
        }
        let outside = |key: &[u8]| low.is_some_and(|low| key < low) || high.is_some_and(|high| key >= high);
        if keys.iter().any(|key| outside(key)) {
            return damaged("a key outside the range that the parent gives the page");
        }
        if page.is_leaf() {
            if keys.is_empty() {
                return damaged("an empty leaf");
            }
            return self.leaf(number, &page);
        }
        self.counts.inner_pages += 1;
        for index in 0..=page.count() {
            let low = if index == 0 { low } else { Some(keys[index - 1]) };
            let high = keys.get(index).copied().or(high);
            self.page(page.child(index), level - 1, low, high)?;
        }
        Ok(())
    }

    fn leaf(&mut self, number: PageNumber, page: &Page) -> Result<()> {
        self.counts.leaf_pages += 1;
        for index in 0..page.count() {
            let key = page.key(index);
            if self.last.as_deref().is_some_and(|last| last >= key) {
                return Err(Error::corrupt(FILE, number.offset(), "a key not above those before it"));
            }
            self.last = Some(key.to_vec());
            self.counts.leaf_bytes += page.cell_bytes(index) as u64;
            if let CellValue::Extent(extent) = page.cell_value(index) {
                if !extent.is_possible() {
                    let what = "an extent whose length does not fit its units, or nowhere";
                    return Err(Error::corrupt(FILE, number.offset(), what));
                }
                match self.tree.changed_value(&extent) {
                    Some(value) if value.is_of(&extent) && crc32fast::hash(&value.bytes) == extent.crc => {}
                    Some(_) => {
                        let offset = extent.unit.offset();
                        return Err(Error::corrupt(FILE, offset, "a value in memory does not check"));
                    }
                    None => drop(self.pager.read_values(&[extent], Purpose::Verify)?),
                }
                self.used.push((extent.unit, extent.units));
                self.counts.extent_units += extent.units;
            }
        }
        Ok(())
    }
}
