//! A step of a vacuum: pages and values on the path to one key that lie too far behind in the file move into free units before that.

use bytes::Bytes;

use super::{Pins, Stop, Tree};
use crate::engine::PageCause;
use crate::engine::btree::allocation_unit::{PageNumber, UnitNumber, Units};
use crate::engine::btree::freemap::{SpaceNeeds, UnitRun};
use crate::engine::btree::page::{CellValue, Extent, leaf_cell, make_clean};
use crate::engine::btree::source::{LoadedPieces, PageSource};

/// Bytes of values after which a step ends.
const STEP_BYTES: usize = 1 << 20;

/// The goal of a pass.
#[derive(Clone, Copy, Debug)]
pub struct VacuumGoal {
    /// Everything behind this place moves before it.
    pub limit: UnitNumber,
    /// Everything in this window moves out of it.
    pub window: Option<UnitRun>,
}

impl VacuumGoal {
    /// Whether the page or value in `units` from `unit` on must move.
    fn moves(&self, unit: UnitNumber, units: Units) -> bool {
        let end = unit.saturating_add(units);
        end > self.limit || self.window.is_some_and(|(start, length)| unit < start + length && end > start)
    }
}

/// The plan of a step: pages and values that [`Tree::relocate`] will move.
pub struct Relocation {
    pins: Pins,
    /// The path: pages with the index of the child, root first, without the leaf.
    way: Vec<(PageNumber, usize)>,
    leaf: PageNumber,
    values: Vec<(Bytes, Extent, Bytes)>,
    /// The key at which the next step continues.
    pub next: Option<Vec<u8>>,
    /// Number of values that cannot be read.
    pub unreadable: u64,
}

impl Relocation {
    /// Upper bound of the space that it takes, with pages of `page_units`.
    pub fn needs(&self, page_units: Units) -> SpaceNeeds {
        let values = self.values.iter().map(|(_, extent, _)| extent.units);
        // Twice: what is copied on write may have to move again, as far as the goal wants it.
        let pages = page_units * (self.way.len() as u64 + 1) * 2;
        let piece_units = values.clone().max().unwrap_or_default().max(page_units);
        SpaceNeeds { units: values.sum::<Units>() + pages, piece_units, pages: 0 }
    }
}

impl Tree {
    /// Plans a step: what must move for `goal` on the path to `start`. Changes nothing.
    pub fn plan_relocation(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        start: &[u8],
        goal: VacuumGoal,
    ) -> Result<Relocation, Stop> {
        let (pins, way, values) = (Pins::default(), Vec::new(), Vec::new());
        let mut step = Relocation { pins, way, leaf: self.root, values, next: None, unreadable: 0 };
        for level in (0..self.height).rev() {
            let page = self.page(source, loaded, step.leaf, level)?;
            if self.writable(step.leaf, &step.pins).is_none() {
                step.pins.insert(step.leaf, page.clone());
            }
            if level > 0 {
                let index = page.child_index(start);
                if index < page.count() {
                    step.next = Some(page.key(index).to_vec());
                }
                step.way.push((step.leaf, index));
                step.leaf = page.child(index);
                continue;
            }
            let (Ok(first) | Err(first)) = page.search(start);
            let mut bytes = 0;
            for index in first..page.count() {
                if let CellValue::Extent(extent) = page.cell_value(index)
                    && goal.moves(extent.unit, extent.units)
                {
                    if bytes >= STEP_BYTES {
                        step.next = Some(page.key(index).to_vec());
                        break;
                    }
                    let value = match self.value(source, loaded, extent) {
                        Err(Stop::Failed(_)) => {
                            step.unreadable += 1;
                            continue;
                        }
                        other => other?,
                    };
                    bytes += extent.bytes as usize;
                    step.values.push((Bytes::copy_from_slice(page.key(index)), extent, value));
                }
            }
        }
        Ok(step)
    }

    /// The space that must be there for `step`: for the pages on its path that are copied before they change. What moves without a copy may also
    /// stay where it is.
    pub fn relocation_needs(&self, step: &Relocation, goal: VacuumGoal) -> SpaceNeeds {
        let mut needs = SpaceNeeds { piece_units: self.page_units(), ..SpaceNeeds::default() };
        if self.moves_any(step, goal) {
            self.need_copies(&step.pins, &mut needs);
            needs.pages = 0;
        }
        needs
    }

    /// Whether `step` has anything to move.
    fn moves_any(&self, step: &Relocation, goal: VacuumGoal) -> bool {
        let mut path = step.way.iter().map(|(number, _)| *number).chain([step.leaf]);
        !step.values.is_empty()
            || path.any(|number| goal.moves(number.unit(), number.units(self.page_units())))
    }

    /// A new place for the page or value in `units` from `unit` on; `None` if there is none.
    fn better_place(&mut self, unit: UnitNumber, units: Units, goal: VacuumGoal) -> Option<UnitNumber> {
        if let Some(to) = self.space.take_below(units, goal.limit) {
            return Some(to);
        }
        // Behind the limit, no other place is better.
        if unit.saturating_add(units) > goal.limit {
            return None;
        }
        self.space.take_below(units, UnitNumber::MAX).or_else(|| self.space.take_beyond(units))
    }

    /// Moves what was planned, as far as there is room beside that of [`Tree::relocation_needs`]. Returns whether anything was moved, and the units for which there was no room.
    pub fn relocate(
        &mut self,
        step: Relocation,
        goal: VacuumGoal,
        source: &impl PageSource,
    ) -> (bool, Units) {
        if self.height == 0 {
            return (false, Units::ZERO);
        }
        let moves_any = self.moves_any(&step, goal);
        let Relocation { mut pins, mut way, mut leaf, values, .. } = step;
        if let Some((start, units)) = goal.window {
            // Again, since checkpoints may have freed more of the window.
            self.space.withhold(start, start + units);
        }
        let (mut moved, mut stuck_units) = (false, Units::ZERO);
        let units = self.page_units();
        if moves_any {
            moved = self.own(&mut way, &mut leaf, PageCause::Vacuum, &mut pins, source);
        }
        for (key, old, value) in values {
            let Some(to) = self.better_place(old.unit, old.units, goal) else {
                stuck_units += old.units;
                continue;
            };
            let extent = self.move_value(value, old, to, source);
            let page = self.page_mut(leaf, PageCause::Vacuum, &mut pins, source);
            if let Ok(index) = page.search(&key) {
                let mut cell = leaf_cell(&key, CellValue::Extent(extent));
                if page.is_clean(index) {
                    make_clean(&mut cell);
                }
                page.replace(index, &cell);
            }
            moved = true;
        }
        let mut number = leaf;
        let mut above = way.into_iter().rev();
        loop {
            let parent = above.next();
            if goal.moves(number.unit(), number.units(units)) {
                match self.better_place(number.unit(), units, goal).map(PageNumber::at) {
                    Some(to) => {
                        self.move_page(number, to, PageCause::Vacuum, &mut pins, source);
                        match parent {
                            Some((parent, index)) => self
                                .page_mut(parent, PageCause::Vacuum, &mut pins, source)
                                .set_child(index, to),
                            None => self.root = to,
                        }
                        moved = true;
                    }
                    None => stuck_units += units,
                }
            }
            match parent {
                Some((parent, _)) => number = parent,
                None => return (moved, stuck_units),
            }
        }
    }
}
