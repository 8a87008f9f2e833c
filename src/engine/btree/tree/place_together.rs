//! One place for all pages of a checkpoint: the dirty pages of a tree that copies on write move from the places that they took one by one to
//! long runs, where few large requests write them.

use std::collections::HashMap;
use std::sync::Arc;

use super::Tree;
use crate::engine::btree::allocation_unit::{PageNumber, Units};
use crate::engine::btree::freemap::UnitRun;

impl Tree {
    /// Moves the dirty pages, all of them new, to runs of at least `extent_units`, or of what they need if that is less: leaves in the order of
    /// their keys, each page above behind those below it. Pages for which there is no such run stay where they are. Nothing is read or written.
    pub fn place_together(&mut self, extent_units: Units) {
        let mut order = Vec::with_capacity(self.dirty.len());
        if self.height > 0 {
            self.dirty_in_order(self.root, &mut order);
        }
        debug_assert_eq!(order.len(), self.dirty.len(), "invariant 1 of copy-on-write");
        let places = self.long_places(order.len() as u64, extent_units);
        let moved: HashMap<PageNumber, PageNumber> = order.iter().copied().zip(places).collect();
        for number in &order {
            if let Some(page) = self.dirty.get_mut(number).filter(|page| !page.is_leaf()) {
                let places = (0..=page.count()).map(|index| (index, moved.get(&page.child(index))));
                let children: Vec<(usize, PageNumber)> =
                    places.filter_map(|(index, place)| Some((index, *place?))).collect();
                let page = Arc::make_mut(page);
                children.into_iter().for_each(|(index, child)| page.set_child(index, child));
            }
        }
        for (from, to) in &moved {
            if let Some(page) = self.dirty.remove(from) {
                self.dirty.insert(*to, page);
            }
            self.fresh.remove(from);
            self.fresh.insert(*to);
        }
        let units = self.page_units();
        for from in order.iter().filter(|from| moved.contains_key(from)) {
            self.space.give_back(from.unit(), units);
        }
        self.root = moved.get(&self.root).copied().unwrap_or(self.root);
    }

    /// Adds the dirty pages below `number`, and then itself, if it is dirty. The pages above a dirty page are dirty.
    fn dirty_in_order(&self, number: PageNumber, order: &mut Vec<PageNumber>) {
        let Some(page) = self.dirty.get(&number) else { return };
        if !page.is_leaf() {
            (0..=page.count()).for_each(|index| self.dirty_in_order(page.child(index), order));
        }
        order.push(number);
    }

    /// Takes places for up to `count` pages.
    fn long_places(&mut self, count: u64, extent_units: Units) -> Vec<PageNumber> {
        let page_units = self.page_units();
        let mut places = Vec::with_capacity(count as usize);
        while (places.len() as u64) < count {
            let most = page_units * (count - places.len() as u64);
            let least = most.min(extent_units);
            let run = self.space.take_run(least, most, page_units).or_else(|| self.tail_run(least, most));
            let Some((start, units)) = run else { break };
            let pages = units.get() / page_units.get();
            places.extend((0..pages).map(|nth| PageNumber::at(start + page_units * nth)));
        }
        places
    }

    /// A run of the tail, of which the pages of the map and the deletes of a full file keep what they may need.
    fn tail_run(&mut self, least: Units, most: Units) -> Option<UnitRun> {
        let kept = self.held_units() + self.space.map_units_max(most);
        let page_units = self.page_units();
        let units =
            page_units * (self.space.tail_units().saturating_sub(kept).min(most).get() / page_units.get());
        if units < least {
            return None;
        }
        Some((self.space.take_beyond(units)?, units))
    }
}
