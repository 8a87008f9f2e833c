//! Explains a point read to people: the structures that it would ask, one by one. Counts nothing.

use std::cell::Cell;

use crate::engine::{Probe, Result, Tier};

use super::Reader;
use crate::disk::LEVELS;
use crate::engine::lsm::Slot;
use crate::engine::lsm::table::{ReadOptions, hash};

impl Reader {
    /// Asks for `key` as a read does, and notes every structure on the way.
    pub fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        let superversion = self.current.superversion();
        let mut probes = Vec::new();
        let read_bytes = Cell::new(0);
        let access = ReadOptions { read_bytes: Some(&read_bytes), ..ReadOptions::get(&self.cache, tier) };
        let mut note = |structure: String, offset: Option<u64>, found: Option<&Slot>, otherwise| {
            let (verdict, bytes) = match found {
                Some(Some(value)) => ("hit", value.len() as u64),
                Some(None) => ("tombstone", 0),
                None => (otherwise, 0),
            };
            probes.push(Probe { structure, offset, verdict, bytes, read_bytes: read_bytes.take() });
            found.is_some()
        };
        for (index, memtable) in superversion.memtables().enumerate() {
            let name =
                if index == 0 { "memtable".to_string() } else { format!("immutable memtable {index}") };
            if note(name, None, memtable.get(key).as_ref(), "miss") {
                return Ok(probes);
            }
        }
        let (hash, version) = (hash(key), superversion.version.clone());
        drop(superversion);
        for level in 0..LEVELS {
            let tables = match level {
                0 => version.level(0).iter().cloned().collect(),
                _ => version.level(level).find(key).into_iter().cloned().collect::<Vec<_>>(),
            };
            if tables.is_empty() && !version.level(level).is_empty() {
                note(format!("L{level}"), None, None, "out-of-range");
            }
            for table in tables {
                let name = format!("L{level} {}", table.number.file_name());
                let partition = table.partition_of(key);
                if !table.overlaps(key, key) {
                    note(name, None, None, "out-of-range");
                } else if table.has_filter() && !table.may_contain(partition, hash, access)? {
                    note(name, None, None, "filtered");
                } else {
                    let offset = table.block_offset(partition, key, access)?;
                    let found = table.get(partition, key, access)?;
                    let missed = if table.has_filter() { "false-positive" } else { "miss" };
                    if note(name, Some(offset), found.as_ref(), missed) {
                        return Ok(probes);
                    }
                }
            }
        }
        Ok(probes)
    }
}
