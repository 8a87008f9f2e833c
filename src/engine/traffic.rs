//! What a B-tree reads and writes of its pages, by what they are and by why.
//!
//! # Invariants
//!
//! 1. Counted is what the disk door has taken, so that the bytes written here are those of the purposes checkpoint, page image,
//!    double write, manifest and recovery there, and the bytes read those of get, scan, verify and of checkpoints.
//! 2. A page that a checkpoint writes carries the cause that first changed it since the last one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Pages with values.
    Leaf,
    /// Pages above them.
    Inner,
    /// Values out of line.
    Extent,
    /// Pages of the free map.
    FreeMap,
    /// Meta pages, and the units of a double-write area that name its pages.
    Meta,
}

impl PageKind {
    /// Every kind, in the order of reports.
    pub const ALL: [PageKind; 5] =
        [PageKind::Leaf, PageKind::Inner, PageKind::Extent, PageKind::FreeMap, PageKind::Meta];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        ["leaf", "inner", "extent", "free_map", "meta"][self as usize]
    }

    /// The kind of a page of `level`.
    pub fn of_level(level: u8) -> PageKind {
        if level == 0 { PageKind::Leaf } else { PageKind::Inner }
    }
}

/// Why it is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCause {
    /// Written: puts and deletes changed it, or it is their value. Read: for puts or freed units that had waited.
    Change,
    /// Written: it was split, is the new half, or the page above both.
    Split,
    /// Written: it took in a neighbour, or lost a child.
    Merge,
    /// Written elsewhere, or read, to make the file smaller.
    Compaction,
    /// Written by each checkpoint: free map and meta pages.
    Checkpoint,
    /// Written because its memory was needed. Always 0: changed pages stay in memory until a checkpoint.
    Eviction,
    /// A copy in the log of a page that a batch changed.
    Image,
    /// A copy in the log of the sectors that a checkpoint overwrites.
    Delta,
    /// A copy in the double-write area.
    DoubleWrite,
    /// Opening: reads, and repairs of torn pages.
    Recovery,
    /// Read for one key, by a reader or on the way to a change.
    Get,
    /// Read for a scan.
    Scan,
    /// Read by a check.
    Verify,
}

impl PageCause {
    /// Every cause, in the order of reports.
    pub const ALL: [PageCause; 13] = [
        PageCause::Change,
        PageCause::Split,
        PageCause::Merge,
        PageCause::Compaction,
        PageCause::Checkpoint,
        PageCause::Eviction,
        PageCause::Image,
        PageCause::Delta,
        PageCause::DoubleWrite,
        PageCause::Recovery,
        PageCause::Get,
        PageCause::Scan,
        PageCause::Verify,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; PageCause::ALL.len()] = [
            "change",
            "split",
            "merge",
            "compaction",
            "checkpoint",
            "eviction",
            "image",
            "delta",
            "double_write",
            "recovery",
            "get",
            "scan",
            "verify",
        ];
        NAMES[self as usize]
    }

    /// Whether pages are read for it.
    pub fn is_read(self) -> bool {
        use PageCause::*;
        matches!(self, Change | Compaction | Recovery | Get | Scan | Verify)
    }

    /// Whether pages are written for it.
    pub fn is_write(self) -> bool {
        !self.is_read() || matches!(self, PageCause::Change | PageCause::Compaction | PageCause::Recovery)
    }
}

/// Pages, or parts of them, that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    /// How many; an extent, a page of the free map and a meta page count as one each.
    pub pages: u64,
    /// What was read or written of them.
    pub bytes: u64,
}

impl PageCount {
    fn plus(self, other: PageCount) -> PageCount {
        PageCount { pages: self.pages + other.pages, bytes: self.bytes + other.bytes }
    }
}

/// One direction, by kind and cause.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct PageTraffic([[PageCount; PageCause::ALL.len()]; PageKind::ALL.len()]);

impl fmt::Debug for PageTraffic {
    /// What is not 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = PageKind::ALL.into_iter().flat_map(|kind| PageCause::ALL.map(|cause| (kind, cause)));
        let some = all.filter(|(kind, cause)| self.of(*kind, *cause) != PageCount::default());
        let entry = |(kind, cause): (PageKind, PageCause)| {
            let PageCount { pages, bytes } = self.of(kind, cause);
            (format!("{} {}", kind.name(), cause.name()), format!("{bytes} B in {pages}"))
        };
        f.debug_map().entries(some.map(entry)).finish()
    }
}

impl PageTraffic {
    /// What passed of one kind for one cause.
    pub fn of(&self, kind: PageKind, cause: PageCause) -> PageCount {
        self.0[kind as usize][cause as usize]
    }

    /// What passed of one kind.
    pub fn of_kind(&self, kind: PageKind) -> PageCount {
        self.0[kind as usize].iter().fold(PageCount::default(), |sum, count| sum.plus(*count))
    }

    /// What passed for one cause.
    pub fn of_cause(&self, cause: PageCause) -> PageCount {
        self.0.iter().fold(PageCount::default(), |sum, kind| sum.plus(kind[cause as usize]))
    }

    /// What came after `earlier`.
    pub fn since(&self, earlier: &PageTraffic) -> PageTraffic {
        PageTraffic(std::array::from_fn(|kind| {
            std::array::from_fn(|cause| {
                let (now, before) = (self.0[kind][cause], earlier.0[kind][cause]);
                PageCount {
                    pages: now.pages.saturating_sub(before.pages),
                    bytes: now.bytes.saturating_sub(before.bytes),
                }
            })
        }))
    }
}

/// Counts one direction from many threads.
#[derive(Default)]
pub struct TrafficMeter([[(AtomicU64, AtomicU64); PageCause::ALL.len()]; PageKind::ALL.len()]);

impl TrafficMeter {
    /// `bytes` of `pages` pages have passed.
    pub fn add(&self, kind: PageKind, cause: PageCause, pages: u64, bytes: u64) {
        let (page_count, byte_count) = &self.0[kind as usize][cause as usize];
        page_count.fetch_add(pages, Relaxed);
        byte_count.fetch_add(bytes, Relaxed);
    }

    /// The counts so far.
    pub fn snapshot(&self) -> PageTraffic {
        PageTraffic(std::array::from_fn(|kind| {
            std::array::from_fn(|cause| {
                let (pages, bytes) = &self.0[kind][cause];
                PageCount { pages: pages.load(Relaxed), bytes: bytes.load(Relaxed) }
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_causes_are_indexes_and_their_sums_agree() {
        let meter = TrafficMeter::default();
        let mut all = PageCount::default();
        for (index, kind) in PageKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            for (index, cause) in PageCause::ALL.into_iter().enumerate() {
                assert_eq!(cause as usize, index);
                let count = PageCount { pages: 1 + kind as u64, bytes: 1 << cause as u64 };
                meter.add(kind, cause, count.pages, count.bytes);
                all = all.plus(count);
                assert_eq!(meter.snapshot().of(kind, cause), count);
            }
        }
        let traffic = meter.snapshot();
        let sum = |counts: Vec<PageCount>| counts.into_iter().fold(PageCount::default(), PageCount::plus);
        assert_eq!(sum(PageKind::ALL.map(|kind| traffic.of_kind(kind)).to_vec()), all);
        assert_eq!(sum(PageCause::ALL.map(|cause| traffic.of_cause(cause)).to_vec()), all);
        assert_eq!(traffic.since(&traffic), PageTraffic::default());
        assert_eq!(traffic.since(&PageTraffic::default()), traffic);
    }
}
