//! Purpose for which a byte goes to or comes from the disk. A required argument at the disk door, so that a byte without a
//! purpose does not compile.

use crate::base::metric::{Label, Sort};

/// Number of LSM levels, L0 … L6; [`Purpose::Compact`] names the level a merge writes into.
pub const LEVELS: usize = 7;

/// Purpose for which a byte passes the disk door. A variant is all that must be written of it: order, slot and name follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumCount, strum::EnumDiscriminants, strum::EnumIter,
)]
#[strum_discriminants(
    name(Row),
    vis(),
    derive(PartialOrd, strum::IntoStaticStr),
    strum(serialize_all = "snake_case")
)]
pub enum Purpose {
    /// Log records with headers, padding and segment headers; log syncs.
    Wal,
    /// LSM: log records with values that stay there, a table only pointing to them.
    ValueLog,
    /// LSM: values read from sparse segments of the log and appended to it again.
    ValueLogGc,
    /// Zeros written ahead of the records of a log that programs wait for.
    LogPrepare,
    /// LSM: memtable → first sorted table.
    Flush,
    /// LSM: inputs read and outputs written by a merge, charged to the level it writes into.
    Compact {
        /// Target level, below [`LEVELS`].
        into: u8,
    },
    /// Hybrid: entries read from the tree, and the tables of the levels that they go to.
    Demote,
    /// Hybrid: entries read from the levels that are read often, to be copied into the tree.
    Promote,
    /// B-tree: leaves read so that puts which waited for them can be made.
    PageWrite,
    /// B-tree: dirty pages and extents written to their home by a checkpoint.
    Checkpoint,
    /// B-tree: images of pages in the log, against torn pages.
    PageImage,
    /// B-tree: copies of pages in a doublewrite area, against torn pages.
    DoubleWrite,
    /// Manifest, superblock, meta pages, free list.
    Manifest,
    /// Blocks or pages fetched for a point read.
    Get,
    /// Blocks or pages fetched for a scan.
    Scan,
    /// Reads and writes while opening.
    Recovery,
    /// Check and scrub.
    Verify,
    /// LSM: files copied into a store that is forked from this one.
    Fork,
}

impl Purpose {
    /// Number of slots that [`Purpose::slot`] uses.
    pub const SLOTS: usize = <Purpose as strum::EnumCount>::COUNT - 1 + LEVELS;

    /// Every purpose, in the order of reports.
    pub fn all() -> impl Iterator<Item = Purpose> {
        <Purpose as strum::IntoEnumIterator>::iter().flat_map(|purpose| {
            let levels = if matches!(purpose, Purpose::Compact { .. }) { LEVELS } else { 1 };
            (0..levels as u8).map(move |into| match purpose {
                Purpose::Compact { .. } => Purpose::Compact { into },
                other => other,
            })
        })
    }

    /// Index into an array of counters.
    pub fn slot(self) -> usize {
        let row = Row::from(self);
        row as usize
            + match self {
                Purpose::Compact { into } => usize::from(into).min(LEVELS - 1),
                _ if row > Row::Compact => LEVELS - 1,
                _ => 0,
            }
    }

    /// Whether such bytes come in long rows that end with a sync, for which nobody waits.
    pub fn is_bulk(self) -> bool {
        matches!(
            self,
            Purpose::Flush
                | Purpose::Compact { .. }
                | Purpose::Demote
                | Purpose::Checkpoint
                | Purpose::DoubleWrite
                | Purpose::Fork
        )
    }

    /// The name in reports: `wal`, `compact_1`, `page_image` …
    pub fn name(self) -> &'static str {
        const COMPACT: [&str; LEVELS] =
            ["compact_0", "compact_1", "compact_2", "compact_3", "compact_4", "compact_5", "compact_6"];
        match self {
            Purpose::Compact { into } => COMPACT[usize::from(into).min(LEVELS - 1)],
            other => Row::from(other).into(),
        }
    }
}

impl Label for Purpose {
    const SORT: Sort = Sort { place: "<purpose>", label: "cause" };

    fn all() -> impl Iterator<Item = Purpose> {
        Purpose::all()
    }
    fn name(self) -> &'static str {
        Purpose::name(self)
    }
    fn index(self) -> usize {
        self.slot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_a_permutation_and_names_are_unique() {
        let slots: std::collections::BTreeSet<usize> = Purpose::all().map(Purpose::slot).collect();
        assert_eq!(slots, (0..Purpose::SLOTS).collect());
        let names: std::collections::BTreeSet<&str> = Purpose::all().map(Purpose::name).collect();
        assert_eq!(names.len(), Purpose::SLOTS);
    }
}
