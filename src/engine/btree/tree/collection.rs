//! A step of a collection: a page that the tree still refers to moves out of an extent that is mostly dead.

use std::sync::Arc;

use super::{Pins, Stop, Tree};
use crate::engine::PageCause;
use crate::engine::btree::allocation_unit::PageNumber;
use crate::engine::btree::freemap::SpaceNeeds;
use crate::engine::btree::page::Page;
use crate::engine::btree::source::{LoadedPieces, PageSource};

/// The plan of a step: a page with the path to it.
pub struct Collection {
    pins: Pins,
    /// The path: pages with the index of the child, root first.
    way: Vec<(PageNumber, usize)>,
    number: PageNumber,
}

impl Tree {
    /// Plans to move the page `number`, whose content in the file is `page`; `None` if the tree does not refer to it, or has changed it.
    pub fn plan_collection(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        number: PageNumber,
        page: &Arc<Page>,
    ) -> Result<Option<Collection>, Stop> {
        let level = u64::from(page.level());
        if page.count() == 0 || level >= self.height || self.changed_page(number).is_some() {
            return Ok(None);
        }
        let mut step = Collection { pins: Pins::default(), way: Vec::new(), number: self.root };
        for above in (level + 1..self.height).rev() {
            let parent = self.page(source, loaded, step.number, above)?;
            let index = parent.child_index(page.key(0));
            step.way.push((step.number, index));
            let child = parent.child(index);
            if self.writable(step.number, &step.pins).is_none() {
                step.pins.insert(step.number, parent);
            }
            step.number = child;
        }
        if step.number != number {
            return Ok(None);
        }
        step.pins.insert(number, page.clone());
        Ok(Some(step))
    }

    /// The space that `step` takes.
    pub fn collection_needs(&self, step: &Collection) -> SpaceNeeds {
        let mut needs = SpaceNeeds { piece_units: self.page_units(), ..SpaceNeeds::default() };
        self.need_copies(&step.pins, &mut needs);
        needs
    }

    /// Moves the page as planned; returns its new number. The next checkpoint places it together with all others.
    pub fn make_collection(&mut self, step: Collection, source: &impl PageSource) -> PageNumber {
        let Collection { mut pins, mut way, mut number } = step;
        self.own(&mut way, &mut number, PageCause::Vacuum, &mut pins, source);
        number
    }
}
