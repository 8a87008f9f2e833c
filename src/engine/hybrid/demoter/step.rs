//! One step: which entries from the hand on go down, and the tables that they go to.

use bytes::Bytes;

use super::Demoter;
use crate::disk::Purpose;
use crate::engine::btree::ScanItem;
use crate::engine::lsm::NewTables;
use crate::engine::{Engine, Error, Result, Tier};

/// Bytes that a step looks at for each that it usually brings down at most.
const LOOK_TIMES: u64 = 8;
/// Bytes of tombstones that are worth a table on a full disk.
const SWEEP_BYTES_MIN: u64 = 512;

/// What a step brings down beside tombstones.
#[derive(Clone, Copy)]
pub(super) enum Cold {
    /// Entries of no more heat than this.
    UpTo(u8),
    /// Nothing.
    Nothing,
}

/// What a step has found.
pub(super) struct Found {
    pub(super) keys: Vec<Bytes>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Clean entries among the keys.
    pub(super) clean: u64,
    /// There are others than tombstones among the keys.
    pub(super) is_cooler: bool,
    /// Where the next step begins; `None` at the end of the tree.
    pub(super) next: Option<Vec<u8>>,
}

impl Demoter {
    /// Bytes of tombstones, at most `step_bytes`, that there is room to write to tables.
    pub(super) fn sweep_bytes(&self, mut step_bytes: u64) -> Result<u64> {
        // Beside the entries, a table has an index and filters.
        while !self.levels.has_room(2 * step_bytes, true)? {
            step_bytes /= 4;
            if step_bytes < SWEEP_BYTES_MIN {
                return Err(Error::NoSpace);
            }
        }
        Ok(step_bytes)
    }

    /// Writes about `step_bytes` of tombstones and of what is `cold` from `hand` on to tables, and makes them part of the levels.
    pub(super) fn write_down(&self, hand: &[u8], cold: Cold, step_bytes: u64) -> Result<Found> {
        let look_bytes = LOOK_TIMES.saturating_mul(super::step_bytes(self.hot_bytes()));
        let is_cold = |key: &[u8]| matches!(cold, Cold::UpTo(most) if self.heat.heat(key) <= most);
        let mut walk = self.tree.walk(Purpose::Demote);
        let mut tables = NewTables::new(&self.levels, Purpose::Demote, self.tree.lsn());
        let mut found = Found {
            keys: Vec::new(),
            entries: 0,
            bytes: 0,
            clean: 0,
            is_cooler: false,
            next: Some(hand.to_vec()),
        };
        let (mut seen_bytes, mut demoted_bytes) = (0, 0);
        while let Some(start) = &found.next
            && demoted_bytes < step_bytes
            && seen_bytes < look_bytes
        {
            let chunk = match walk.chunk(start, None, Tier::Disk, &|key, is_clean| !is_clean && is_cold(key))
            {
                Ok(chunk) => chunk,
                // What cannot be read stays where it is.
                Err(error) if error.is_damage() => {
                    found.next = walk.behind_damage(start)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut rest = None;
            for (index, (place, item)) in chunk.entries.iter().enumerate() {
                let key = chunk.at(place);
                if demoted_bytes >= step_bytes {
                    rest = Some(key.to_vec());
                    break;
                }
                let value = chunk.value(item);
                let bytes = (key.len() + value.map_or(0, <[u8]>::len)) as u64;
                seen_bytes += bytes;
                let is_tombstone = matches!(item, ScanItem::Tombstone);
                // What was hot a moment ago has not been read.
                let is_clean = chunk.is_clean(index);
                if !is_tombstone && (value.is_none() && !is_clean || !is_cold(key)) {
                    continue;
                }
                found.is_cooler |= !is_tombstone;
                if is_clean {
                    found.clean += 1;
                } else if !is_tombstone || self.levels.may_hold(key) {
                    tables.add(key, value)?;
                    found.entries += 1;
                    found.bytes += bytes;
                }
                demoted_bytes += bytes;
                found.keys.push(Bytes::copy_from_slice(key));
            }
            found.next = rest.or(chunk.next);
        }
        if found.entries == 0 {
            return Ok(found);
        }
        // A crash must not leave in the levels what the log has lost.
        // The LSN tells this edit of the manifest from the one before, so that the tree knows which it needs.
        if self.tree.lsn() <= self.levels.log_lsn() {
            self.tree.lengthen_log()?;
        }
        let log_lsn = self.tree.sync_log()?;
        tables.ingest(log_lsn)?;
        Ok(found)
    }
}
