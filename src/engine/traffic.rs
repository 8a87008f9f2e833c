//! Bytes of pages that a B-tree reads and writes, by kind of page and by cause.
//!
//! # Invariants
//!
//! 1. Counted is what the disk door has taken, so that the bytes written here are those of the purposes checkpoint, page image,
//!    doublewrite, manifest and recovery there, and the bytes read those of get, scan, verify and of checkpoints.
//! 2. A page that a checkpoint writes carries the cause that first changed it since the last one.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::metric::{Each, Entry, Label, Named, Naming, Rows, Since, Sort, Visitor, labels, metrics};

/// Kind of a piece of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum PageKind {
    /// Pages with values.
    Leaf,
    /// Pages above them.
    Inner,
    /// Values out of line.
    Extent,
    /// Pages of the free map.
    FreeMap,
    /// Meta pages, and the units of a doublewrite area that name its pages.
    Meta,
}

labels! { PageKind "<kind>" "kind" }

impl PageKind {
    /// The kind of a page of `level`.
    pub fn of_level(level: u8) -> PageKind {
        if level == 0 { PageKind::Leaf } else { PageKind::Inner }
    }
}

/// Cause of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum PageCause {
    /// Written: puts and deletes changed it, or it is their value. Read: for puts or freed units that had waited.
    Change,
    /// Written: it was split, is the new half, or the page above both.
    Split,
    /// Written: it took in a neighbour, or lost a child.
    Merge,
    /// Written to another place because a page below it was (copy-on-write).
    Path,
    /// Written elsewhere, or read, by a vacuum, which makes the file smaller. The key is `compaction`, as it has always been.
    #[strum(serialize = "compaction")]
    Vacuum,
    /// Written by each checkpoint: free map and meta pages.
    Checkpoint,
    /// Written because its memory was needed. Always 0: changed pages stay in memory until a checkpoint.
    Eviction,
    /// A copy in the log of a page that a batch changed.
    Image,
    /// A copy in the log of the sectors that a checkpoint overwrites.
    Delta,
    /// A copy in the doublewrite area.
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

labels! { PageCause "<cause>" "cause" }

impl PageCause {
    /// Whether pages are read for it.
    pub fn is_read(self) -> bool {
        use PageCause::*;
        matches!(self, Change | Vacuum | Recovery | Get | Scan | Verify)
    }

    /// Whether pages are written for it.
    pub fn is_write(self) -> bool {
        !self.is_read() || matches!(self, PageCause::Change | PageCause::Vacuum | PageCause::Recovery)
    }
}

metrics! {
    /// Pages, or parts of them, that passed.
    #[derive(Copy, Eq)]
    pub struct PageCount counted by PageSlot witness "kvfs::engine::btree::tests::counting::pages_by_kind_and_by_cause_add_up_to_what_the_disk_has_taken" {
        /// Pages read or written; a part of a page, a large value, a page of the free map and a meta page count as one each.
        counter pages: u64 [Count];
        /// Bytes read or written of these pages.
        counter bytes: u64 [Bytes];
    }
}

/// One direction, by kind and cause.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct PageTraffic([[PageCount; PageCause::ALL.len()]; PageKind::ALL.len()]);

impl fmt::Debug for PageTraffic {
    /// The entries that are not 0.
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
    /// Traffic of one kind for one cause.
    pub fn of(&self, kind: PageKind, cause: PageCause) -> PageCount {
        self.0[kind as usize][cause as usize]
    }

    /// Traffic of one kind.
    pub fn of_kind(&self, kind: PageKind) -> PageCount {
        self.0[kind as usize].iter().fold(PageCount::default(), |sum, count| sum + *count)
    }

    /// Traffic for one cause.
    pub fn of_cause(&self, cause: PageCause) -> PageCount {
        self.0.iter().fold(PageCount::default(), |sum, kind| sum + kind[cause as usize])
    }

    /// Traffic since `earlier`.
    pub fn since(&self, earlier: &PageTraffic) -> PageTraffic {
        PageTraffic(std::array::from_fn(|kind| {
            std::array::from_fn(|cause| self.0[kind][cause].since(&earlier.0[kind][cause]))
        }))
    }
}

/// Counts one direction from many threads.
#[derive(Default)]
pub struct TrafficMeter([[PageSlot; PageCause::ALL.len()]; PageKind::ALL.len()]);

impl TrafficMeter {
    /// `bytes` of `pages` pages have passed.
    pub fn add(&self, kind: PageKind, cause: PageCause, pages: u64, bytes: u64) {
        let slot = &self.0[kind as usize][cause as usize];
        slot.pages.fetch_add(pages, Relaxed);
        slot.bytes.fetch_add(bytes, Relaxed);
    }

    /// The counts so far.
    pub fn snapshot(&self) -> PageTraffic {
        PageTraffic(std::array::from_fn(|kind| std::array::from_fn(|cause| self.0[kind][cause].snapshot())))
    }
}

metrics! {
    /// One direction as reports show it: the same pages twice, by kind and by cause.
    pub struct PageSums {
        /// Pages by kind: `leaf`, `inner`, `extent`, `free_map`, `meta`. Their sum is that of the causes.
        part kind: Each<PageKind, PageCount, { PageKind::ALL.len() }>;
        /// Read: by `get` (changes read on their way, too: pages, and those of the free map), `scan`, `change` (leaves for which puts had waited, pages of the
        /// free map for which freed units had), `compaction`, `recovery`, `verify`; without `recovery` these are the bytes of door 3's `get`, `scan`,
        /// `page_write`, `checkpoint` and `verify`. Written: by what first changed a page since its last checkpoint: `change`, `split` (at least three pages
        /// each), `merge`, `compaction`, or `path`: a page below it went to another place; `checkpoint`: free map and meta pages; `eviction`: always 0, changed pages stay in memory until a checkpoint; copies:
        /// `image`, `delta`, `double_write`; `recovery`: repairs; together these are the bytes of door 3's `checkpoint`, `page_image`, `double_write`,
        /// `manifest` and `recovery`.
        part cause: Named<PageCause, PageCount>;
    }
}

impl Naming for PageCause {
    const SORT: Sort = <PageCause as Label>::SORT;
}

/// Pages of a B-tree that passed the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pages {
    /// What was read of its file.
    pub read: PageTraffic,
    /// What was written of it, and of copies of its pages.
    pub written: PageTraffic,
}

impl Pages {
    /// Traffic since `earlier`.
    pub fn since(&self, earlier: &Pages) -> Pages {
        Pages { read: self.read.since(&earlier.read), written: self.written.since(&earlier.written) }
    }

    /// Both directions, each with the causes that belong to it.
    fn shown(&self) -> PageDirections {
        let sums = |traffic: &PageTraffic, belongs: fn(PageCause) -> bool| {
            let causes = PageCause::ALL.into_iter().filter(|cause| belongs(*cause));
            PageSums {
                kind: Each::from_fn(|kind| traffic.of_kind(PageKind::ALL[kind])),
                cause: causes.map(|cause| (cause.name(), traffic.of_cause(cause))).collect(),
            }
        };
        PageDirections {
            read: sums(&self.read, PageCause::is_read),
            written: sums(&self.written, PageCause::is_write),
        }
    }
}

metrics! {
    /// Both directions as reports show them.
    pub struct PageDirections {
        /// Pages read from the file.
        part read: PageSums;
        /// Pages written to the file, including copies of pages.
        part written: PageSums;
    }
}

impl Rows for Pages {
    fn visit_rows(&self, visitor: &mut dyn Visitor) {
        self.shown().visit_rows(visitor);
    }
    fn rows_since(&self, earlier: &Pages) -> Pages {
        self.since(earlier)
    }
    fn list_rows(path: &str, entries: &mut Vec<Entry>) {
        PageDirections::list_rows(path, entries);
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
                all = all + count;
                assert_eq!(meter.snapshot().of(kind, cause), count);
            }
        }
        let traffic = meter.snapshot();
        let sum = |counts: Vec<PageCount>| counts.into_iter().fold(PageCount::default(), std::ops::Add::add);
        assert_eq!(sum(PageKind::ALL.map(|kind| traffic.of_kind(kind)).to_vec()), all);
        assert_eq!(sum(PageCause::ALL.map(|cause| traffic.of_cause(cause)).to_vec()), all);
        assert_eq!(traffic.since(&traffic), PageTraffic::default());
        assert_eq!(traffic.since(&PageTraffic::default()), traffic);
    }
}
