//! The places of a checkpoint's pages. In a tree that copies on write, a page that changes takes a place of its whole length at once, wherever
//! there is one. When a checkpoint freezes, it is known how many units each page takes, and then pages get the places that they are written to:
//! those that are compressed lower ones that are as long as they, and with long runs all of them together, where few large requests write them.
//!
//! A page refers to those below it by their places, so its own compressed form is known only after they have theirs: leaves come first, then
//! level after level.

use std::collections::HashMap;
use std::sync::Arc;

use super::Tree;
use crate::engine::btree::allocation_unit::{PageMap, PageNumber, UnitMap, UnitNumber, Units};
use crate::engine::btree::freemap::UnitRun;
use crate::engine::btree::page::{CompressedPage, Page};

/// A dirty page that gets its place, with its compressed form, if it has one.
pub struct PlacedPage {
    /// Its number so far.
    pub number: PageNumber,
    /// Its content, which refers to the new places of the pages below.
    pub page: Arc<Page>,
    /// Its compressed form.
    pub form: Option<CompressedPage>,
}

/// The long runs that pages are placed in.
struct LongRuns {
    /// Units of a run at least, unless fewer are needed.
    extent_units: Units,
    /// The rest of the run that was taken last.
    rest: UnitRun,
    /// Units of pages that have no place yet, at most.
    left_units: Units,
}

/// The places of a checkpoint, as far as they are known.
pub struct PagePlaces {
    runs: Option<LongRuns>,
    /// New numbers by those before.
    numbers: PageMap<PageNumber>,
    pages: Vec<(PageNumber, Arc<Page>)>,
    /// The compressed forms of pages, by first unit.
    forms: UnitMap<CompressedPage>,
}

impl PagePlaces {
    /// None yet; all together in runs of `extent_units`, if those are given.
    pub fn new(extent_units: Option<Units>) -> PagePlaces {
        let runs = extent_units.map(|extent_units| LongRuns {
            extent_units,
            rest: (UnitNumber::NONE, Units::ZERO),
            left_units: Units::ZERO,
        });
        PagePlaces { runs, numbers: HashMap::default(), pages: Vec::new(), forms: HashMap::default() }
    }

    /// Makes an inner page refer to the places of the pages below it.
    pub fn update_children(&self, page: &mut Arc<Page>) {
        let children = (0..=page.count()).map(|index| (index, self.numbers.get(&page.child(index))));
        let children: Vec<(usize, PageNumber)> =
            children.filter_map(|(index, place)| Some((index, *place?))).collect();
        if !children.is_empty() {
            let page = Arc::make_mut(page);
            children.into_iter().for_each(|(index, child)| page.set_child(index, child));
        }
    }
}

impl Tree {
    /// The dirty pages by level: leaves first, each level in the order of keys. The pages above a dirty page are dirty.
    pub fn dirty_by_level(&self) -> Vec<Vec<(PageNumber, Arc<Page>)>> {
        let mut levels = Vec::new();
        levels.resize_with(self.height as usize, Vec::new);
        if self.height > 0 {
            self.add_dirty(self.root, &mut levels);
        }
        debug_assert_eq!(
            levels.iter().map(Vec::len).sum::<usize>(),
            self.dirty.len(),
            "invariant 1 of copy-on-write"
        );
        levels
    }

    fn add_dirty(&self, number: PageNumber, levels: &mut [Vec<(PageNumber, Arc<Page>)>]) {
        let Some(page) = self.dirty.get(&number) else { return };
        if !page.is_leaf() {
            (0..=page.count()).for_each(|index| self.add_dirty(page.child(index), levels));
        }
        levels[usize::from(page.level())].push((number, page.clone()));
    }

    /// Numbers of dirty leaves.
    pub fn dirty_leaves(&self) -> Vec<PageNumber> {
        let leaves = self.dirty.iter().filter(|(_, page)| page.is_leaf());
        leaves.map(|(number, _)| *number).collect()
    }

    /// The dirty page `number`, if it still is one.
    pub fn dirty_page(&self, number: PageNumber) -> Option<Arc<Page>> {
        self.dirty.get(&number).cloned()
    }

    /// Takes places for `pages` of one level, where `above` more will follow. Those for which there is no better place stay where they are, and
    /// keep as much of it as they take.
    pub fn place(&mut self, places: &mut PagePlaces, pages: Vec<PlacedPage>, above: u64) {
        let page_units = self.page_units();
        let units_of = |page: &PlacedPage| page.form.as_ref().map_or(page_units, CompressedPage::units);
        if let Some(runs) = &mut places.runs {
            runs.left_units = pages.iter().map(units_of).sum::<Units>() + page_units * above;
        }
        for placed in pages {
            let units = units_of(&placed);
            let unit = self.place_of(&mut places.runs, placed.number.unit(), units);
            let number = match placed.form {
                Some(form) => {
                    places.forms.insert(unit, form);
                    self.counts.saved_units += page_units - units;
                    PageNumber::compressed(unit, units)
                }
                None => PageNumber::at(unit),
            };
            places.numbers.insert(placed.number, number);
            places.pages.push((number, placed.page));
        }
    }

    /// Takes the place of a page of `units`, and gives back what it has at `from` and does not need.
    fn place_of(&mut self, runs: &mut Option<LongRuns>, from: UnitNumber, units: Units) -> UnitNumber {
        let page_units = self.page_units();
        let lower = |tree: &mut Tree| match units < page_units {
            true => tree.space.take_below(units, from),
            false => None,
        };
        match self.place_in_run(runs, units).or_else(|| lower(self)) {
            Some(unit) => {
                self.space.give_back(from, page_units);
                unit
            }
            None => {
                if units < page_units {
                    self.space.give_back(from + units, page_units - units);
                }
                from
            }
        }
    }

    /// A place in a long run; `None` if there is no such run any more.
    fn place_in_run(&mut self, runs: &mut Option<LongRuns>, units: Units) -> Option<UnitNumber> {
        let LongRuns { extent_units, rest, left_units } = runs.as_mut()?;
        if rest.1 < units {
            self.give_back_rest(*rest);
            let least = (*left_units).min(*extent_units);
            let run = self.space.take_run(least, *left_units);
            let Some(run) = run.or_else(|| self.tail_run(least, *left_units)) else {
                *runs = None;
                return None;
            };
            *rest = run;
        }
        let unit = rest.0;
        *rest = (unit + units, rest.1 - units);
        *left_units -= units;
        Some(unit)
    }

    fn give_back_rest(&mut self, (start, units): UnitRun) {
        if !units.is_zero() {
            self.space.give_back(start, units);
        }
    }

    /// A run of the tail, of which the pages of the map and the deletes of a full file keep what they may need.
    fn tail_run(&mut self, least: Units, most: Units) -> Option<UnitRun> {
        let kept = self.held_units() + self.space.map_units_max(most);
        let units = self.space.tail_units().saturating_sub(kept).min(most);
        if units < least {
            return None;
        }
        Some((self.space.take_beyond(units)?, units))
    }

    /// Lets the dirty pages be where `places` says; returns their compressed forms, by first unit. The caller freezes the tree next: a page
    /// that is compressed is never changed.
    pub fn settle(&mut self, places: PagePlaces) -> UnitMap<CompressedPage> {
        let PagePlaces { runs, numbers, pages, forms } = places;
        if let Some(runs) = runs {
            self.give_back_rest(runs.rest);
        }
        // A page may be where another one was.
        for from in numbers.keys() {
            self.dirty.remove(from);
            self.fresh.remove(from);
        }
        for (number, page) in pages {
            self.dirty.insert(number, page);
            self.fresh.insert(number);
        }
        self.root = numbers.get(&self.root).copied().unwrap_or(self.root);
        forms
    }
}
