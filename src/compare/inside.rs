//! What an engine itself says of point reads, and of what is hot.

use crate::engine::Shape;

/// Counts since the engine was opened, and sizes now. What it does not say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Point reads.
    pub gets: Option<u64>,
    /// Structures that they asked: memtables, tables, pages.
    pub structures: Option<u64>,
    /// Of the point reads, those that the tree of a hybrid answered.
    pub hot_gets: Option<u64>,
    /// Bytes of the tree of a hybrid.
    pub hot_bytes: Option<u64>,
    /// Bytes of its levels.
    pub cold_bytes: Option<u64>,
}

impl Inside {
    /// What `shape` says.
    pub fn of(shape: &Shape) -> Inside {
        let (probes, hybrid) = (shape.probes.as_ref(), shape.hybrid.as_ref());
        Inside {
            gets: probes.map(|probes| probes.count()),
            structures: probes.map(|probes| probes.buckets.sum()),
            hot_gets: hybrid.map(|hybrid| hybrid.tree_reads),
            hot_bytes: hybrid.map(|hybrid| hybrid.hot_bytes),
            cold_bytes: hybrid.map(|hybrid| hybrid.cold_bytes),
        }
    }

    /// Counts since `earlier`; the sizes stay those of now.
    pub fn since(&self, earlier: &Inside) -> Inside {
        let both = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Inside {
            gets: both(self.gets, earlier.gets),
            structures: both(self.structures, earlier.structures),
            hot_gets: both(self.hot_gets, earlier.hot_gets),
            ..*self
        }
    }
}
