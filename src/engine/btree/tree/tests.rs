//! The tree over a source of pages that is a map in memory: no file, no pager.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::*;
use crate::base::prng::Prng;
use crate::engine::Batch;
use crate::engine::btree::age::LogPoint;
use crate::engine::btree::allocation_unit::{FIRST_UNIT, UnitMap, UnitNumber, UnitSet};
use crate::engine::btree::source::{LoadedPieces, PageSource, Piece};

/// The content of the file, and the part of it that is in the pool.
#[derive(Default)]
struct MemorySource {
    pieces: UnitMap<Piece>,
    pooled: RefCell<UnitSet>,
}

impl PageSource for MemorySource {
    fn pooled(&self, unit: UnitNumber) -> Option<Piece> {
        self.pooled.borrow().contains(&unit).then(|| self.pieces[&unit].clone())
    }

    fn has(&self, unit: UnitNumber) -> bool {
        self.pooled.borrow().contains(&unit)
    }

    fn forget(&self, unit: UnitNumber) {
        self.pooled.borrow_mut().remove(&unit);
    }

    fn checksum(&self, value: &Bytes) -> u32 {
        crc32fast::hash(value)
    }
}

/// Asks again with the missing piece until there is an answer; returns it with the number of misses.
fn with_misses<T>(
    tree: &Tree,
    source: &MemorySource,
    mut ask: impl FnMut(&Tree, &LoadedPieces) -> Result<T, Stop>,
) -> (T, u32) {
    let (mut loaded, mut misses) = (LoadedPieces::default(), 0);
    loop {
        match ask(tree, &loaded) {
            Ok(answer) => return (answer, misses),
            Err(Stop::Miss(miss)) => {
                misses += 1;
                loaded.add(tree.epoch, miss.unit(), source.pieces[&miss.unit()].clone());
            }
            Err(Stop::Failed(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn the_tree_finds_its_pages_in_any_source_and_asks_for_what_is_not_there() {
    let mut prng = Prng::new(11);
    let meta = Meta { page_bytes: 4096, end: FIRST_UNIT, ..Meta::default() };
    let (mut tree, mut source) =
        (Tree::new(meta, FreeMap::new(FIRST_UNIT, FIRST_UNIT), Placement::InPlace), MemorySource::default());
    let (mut model, mut misses) = (BTreeMap::new(), 0);
    for step in 0..600u32 {
        let mut batch = Batch::new(0);
        for _ in 0..1 + prng.below(4) {
            let key = [b"key ".as_slice(), &(prng.below(400) as u16).to_be_bytes(), &[7; 60]].concat();
            if prng.one_in(3) {
                batch.delete(key.clone());
                model.remove(&key);
            } else {
                let bytes = if prng.one_in(5) { 5000 } else { prng.below(300) as usize };
                batch.put(key.clone(), vec![step as u8; bytes]);
                model.insert(key, vec![step as u8; bytes]);
            }
        }
        let mut pins = Pins::default();
        let (needs, missed) = with_misses(&tree, &source, |tree, loaded| {
            tree.plan(&source, loaded, &batch, Deletes::Remove, &mut pins)
        });
        misses += missed;
        if let Some(end) = needs.lacking(&tree.space) {
            tree.space.set_file_end(end);
        }
        tree.apply(&batch, Deletes::Remove, pins, &source);
        if step % 20 == 19 {
            // All changes go to the file, and half of them into the pool.
            let frozen = tree.freeze(LogPoint::default(), HashMap::default());
            let pages = frozen.pages.iter().map(|(number, page)| (number.unit(), Piece::Page(page.clone())));
            let values = frozen.values.iter().map(|(unit, value)| (*unit, Piece::Value(value.clone())));
            for (unit, piece) in pages.chain(values) {
                source.pieces.insert(unit, piece);
                match unit.get() % 2 == 0 {
                    true => source.pooled.borrow_mut().insert(unit),
                    false => source.pooled.borrow_mut().remove(&unit),
                };
            }
            tree.thaw();
        }
        let key = [b"key ".as_slice(), &(prng.below(400) as u16).to_be_bytes(), &[7; 60]].concat();
        let (found, missed) = with_misses(&tree, &source, |tree, loaded| tree.find(&source, loaded, &key));
        misses += missed;
        assert_eq!(found.flatten().as_deref(), model.get(&key).map(Vec::as_slice), "step {step}");
    }
    let mut all = BTreeMap::new();
    let mut start = Some(Vec::new());
    while let Some(from) = start.take() {
        let collect = |tree: &Tree, loaded: &LoadedPieces| {
            let chunk = tree.collect(&source, loaded, &from, None, 100, usize::MAX)?;
            // A scan reads values together; here each is asked for on its own.
            match chunk.entries.iter().find_map(|(_, item)| match item {
                ScanItem::Absent(extent) => Some(*extent),
                ScanItem::Inline(_) | ScanItem::Ready(_) | ScanItem::Tombstone => None,
            }) {
                Some(extent) => Err(Stop::Miss(Miss::Value(extent))),
                None => Ok(chunk),
            }
        };
        let (chunk, missed) = with_misses(&tree, &source, collect);
        misses += missed;
        for (key, item) in &chunk.entries {
            all.insert(chunk.at(key).to_vec(), chunk.value(item).unwrap().to_vec());
        }
        start = chunk.next;
    }
    assert_eq!(all, model);
    assert!(tree.height > 1 && tree.events.splits > 10 && misses > 100, "{misses} misses");
}
