//! Page merges: pages that became sparse by deletes are merged with a neighbour below the same parent, level by level.
//!
//! A page is sparse below a quarter of its room; two are merged if the result fills at most three quarters, so that the next inserts do
//! not split it again at once. A sparse page with two full neighbours stays: moving cells between them would write three pages and free
//! none.

use super::{Pins, Stop, Tree};
use crate::engine::PageCause;
use crate::engine::btree::allocation_unit::PageNumber;
use crate::engine::btree::page::Page;
use crate::engine::btree::source::{LoadedPieces, PageSource};

impl Tree {
    /// Pins both neighbours of every sparse page on the path to `key`.
    pub(super) fn pin_neighbours(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        key: &[u8],
        pins: &mut Pins,
    ) -> Result<(), Stop> {
        let mut number = self.root;
        for level in (1..self.height).rev() {
            let parent = self.page(source, loaded, number, level)?;
            let index = parent.child_index(key);
            number = parent.child(index);
            if self.page(source, loaded, number, level - 1)?.is_sparse() {
                for near in [index.wrapping_sub(1), index + 1] {
                    if near <= parent.count() {
                        let near = parent.child(near);
                        let page = match self.page(source, loaded, near, level - 1) {
                            // A neighbour that cannot be read is not merged, but the delete goes on.
                            Err(Stop::Failed(_)) => continue,
                            other => other?,
                        };
                        if self.writable(near, pins).is_none() {
                            pins.insert(near, page);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Merges sparse pages on the path to `key` with a neighbour, as far as those are in memory.
    pub(super) fn merge_sparse(&mut self, key: &[u8], pins: &mut Pins, source: &impl PageSource) {
        let mut way = Vec::new();
        let mut number = self.root;
        for _ in 1..self.height {
            // Pages that were removed may have changed the path, so it may differ from the planned one.
            let Some(page) = self.writable(number, pins) else { return };
            let index = page.child_index(key);
            way.push((number, index));
            number = page.child(index);
        }
        while let Some((parent, index)) = way.pop() {
            let sparse = self.writable(number, pins).is_some_and(|page| page.is_sparse());
            if !sparse {
                return;
            }
            let before = index.checked_sub(1);
            let merged = before.and_then(|index| self.merge_children(&mut way, parent, index, pins, source));
            match merged.or_else(|| self.merge_children(&mut way, parent, index, pins, source)) {
                Some(parent) => number = parent,
                None => return,
            }
        }
        self.lower_root(pins, source);
    }

    /// Merges children `index` and `index + 1` of `parent`, to which `way` leads; returns the parent's number, which may be new. Returns `None`
    /// and changes nothing if that is not possible.
    fn merge_children(
        &mut self,
        way: &mut Vec<(PageNumber, usize)>,
        parent: PageNumber,
        index: usize,
        pins: &mut Pins,
        source: &impl PageSource,
    ) -> Option<PageNumber> {
        let page = self.writable(parent, pins)?;
        if index >= page.count() {
            return None;
        }
        let separator = page.key(index).to_vec();
        let (mut left, right) = (page.child(index), page.child(index + 1));
        let right_page = self.writable(right, pins).cloned()?;
        let left_page = self.writable(left, pins)?;
        // A stale page may hold keys that belong to its neighbour by now: outdated values would come back.
        let is_apart = |(left, right): (&Page, &Page)| {
            let last = left.count().checked_sub(1).map(|last| left.key(last));
            let first = (right.count() > 0).then(|| right.key(0));
            last.is_none_or(|last| last < &separator[..]) && first.is_none_or(|first| first >= &separator[..])
        };
        if !is_apart((left_page, &right_page)) {
            return None;
        }
        let mut merged = Page::clone(left_page);
        if !merged.absorb(&separator, &right_page) {
            return None;
        }
        way.push((parent, index));
        self.own(way, &mut left, PageCause::Merge, pins, source);
        let (parent, _) = way.pop()?;
        let page = self.page_mut(left, PageCause::Merge, pins, source);
        merged.set_cause(page.cause());
        *page = merged;
        self.remove_page(right, right_page.is_leaf(), source);
        self.page_mut(parent, PageCause::Merge, pins, source).remove_child(index + 1);
        Some(parent)
    }
}
