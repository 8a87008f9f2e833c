//! The pool of clean pages and values, keyed by first unit and weighed in bytes. Everything in it equals the file, and it may drop
//! anything at any time.

use std::sync::atomic::Ordering::Relaxed;

use quick_cache::Weighter;
use quick_cache::sync::Cache as Pieces;

use crate::engine::btree::allocation_unit::{UNIT_BYTES, UnitNumber};
use crate::engine::btree::page::Page;
use crate::engine::btree::source::Piece;
use crate::engine::{Cache, LookupMeter, Lookups};

/// Weighs pages and values by their bytes.
#[derive(Clone)]
struct PieceWeight {
    page_bytes: u64,
}

impl Weighter<UnitNumber, Piece> for PieceWeight {
    fn weight(&self, _: &UnitNumber, piece: &Piece) -> u64 {
        match piece {
            Piece::Page(_) => self.page_bytes,
            // Key and bookkeeping count a little, so that tiny values are not free.
            Piece::Value(value) => value.bytes.len() as u64 + 64,
        }
    }
}

/// The kinds of lookups that are counted apart.
#[derive(Clone, Copy)]
pub enum PieceKind {
    /// A leaf.
    Leaf,
    /// A page above the leaf level.
    Inner,
    /// A value.
    Value,
}

impl PieceKind {
    /// The kind of `page`.
    pub fn of_page(page: &Page) -> PieceKind {
        if page.is_leaf() { PieceKind::Leaf } else { PieceKind::Inner }
    }
}

/// The pool, with its hits and misses.
pub struct Pool {
    pieces: Pieces<UnitNumber, Piece, PieceWeight>,
    bytes_max: u64,
    lookups: [LookupMeter; 3],
}

impl Pool {
    /// An empty pool of at most `bytes_max`.
    pub fn new(bytes_max: u64, page_bytes: usize) -> Pool {
        let items = (bytes_max / UNIT_BYTES).clamp(16, 1 << 24) as usize;
        let weight = PieceWeight { page_bytes: page_bytes as u64 };
        Pool {
            pieces: Pieces::with_weighter(items, bytes_max, weight),
            bytes_max,
            lookups: Default::default(),
        }
    }

    /// The page or value at `unit`; counts a hit.
    pub fn get(&self, unit: UnitNumber) -> Option<Piece> {
        let found = self.pieces.get(&unit);
        if let Some(piece) = &found {
            let kind = match piece {
                Piece::Page(page) => PieceKind::of_page(page),
                Piece::Value(_) => PieceKind::Value,
            };
            self.lookups[kind as usize].hits.fetch_add(1, Relaxed);
        }
        found
    }

    /// Whether the pool has the page or value at `unit`; counts nothing.
    pub fn has(&self, unit: UnitNumber) -> bool {
        self.pieces.peek(&unit).is_some()
    }

    /// Inserts a clean page or value.
    pub fn keep(&self, unit: UnitNumber, piece: Piece) {
        // Removed first: if the new one is too heavy for the pool, the old one must not stay.
        self.pieces.remove(&unit);
        self.pieces.insert(unit, piece);
    }

    /// Drops the page or value at `unit`.
    pub fn forget(&self, unit: UnitNumber) {
        self.pieces.remove(&unit);
    }

    /// Drops everything.
    pub fn clear(&self) {
        self.pieces.clear();
    }

    /// Counts `count` misses.
    pub fn count_misses(&self, kind: PieceKind, count: u64) {
        self.lookups[kind as usize].misses.fetch_add(count, Relaxed);
    }

    /// Size, limit and hits, for reports.
    pub fn cache(&self) -> Cache {
        let all = self.lookups().into_iter().fold(Lookups::default(), |sum, lookups| sum + lookups);
        Cache { bytes: self.pieces.weight(), bytes_max: self.bytes_max, all, ..Cache::default() }
    }

    /// Hits and misses for leaves, inner pages and values.
    pub fn lookups(&self) -> [Lookups; 3] {
        self.lookups.each_ref().map(LookupMeter::snapshot)
    }
}
