//! A snapshot: the tables of one version, which nobody changes. While it is held, those that merges replace, and the segments of the log
//! that hold their values, stay on the disk as obsolete files; memory holds nothing but their names.

use std::sync::Arc;

use bytes::Bytes;

use super::scan::add_tables;
use super::{Probes, find_in_tables};
use crate::disk::Disk;
use crate::engine::cache::BlockCache;
use crate::engine::lsm::cursor::Reading;
use crate::engine::lsm::fork::fork;
use crate::engine::lsm::merging_cursor::MergingCursor;
use crate::engine::lsm::table::ReadOptions;
use crate::engine::lsm::value_log::Group;
use crate::engine::lsm::version::Version;
use crate::engine::{KeyRange, Lsn, Result, Snapshot, Tier, Visit};

/// Everything before an LSN, as tables hold it.
pub struct TableSnapshot {
    version: Arc<Version>,
    lsn: Lsn,
    cache: Arc<BlockCache>,
}

impl TableSnapshot {
    /// The tables of `version` hold everything before `lsn`; they are read through `cache`.
    pub fn new(version: Arc<Version>, lsn: Lsn, cache: Arc<BlockCache>) -> TableSnapshot {
        TableSnapshot { version, lsn, cache }
    }
}

impl Snapshot for TableSnapshot {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        let access = ReadOptions::get(&self.cache, tier);
        // What it asks is no read of the store as it is, so no figure of those counts it.
        Ok(find_in_tables(&self.version, key, access, &mut Probes::default())?.flatten())
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let reading = Reading::Cached { cache: self.cache.clone(), tier };
        let mut sources = Vec::new();
        add_tables(&self.version, range, &reading, &mut sources)?;
        let mut merge = MergingCursor::new(sources);
        let mut group = Group::new(&self.cache, tier);
        while let Some(entry) = merge.next()?.filter(|entry| range.is_before_end(entry.key)) {
            if let Some(value) = entry.value
                && group.push(entry.key, value, visit)?.is_break()
            {
                return Ok(());
            }
        }
        group.end(visit).map(|_| ())
    }

    fn fork(&self, into: &Arc<dyn Disk>) -> Result<()> {
        fork(&self.version, self.lsn, into)
    }
}
