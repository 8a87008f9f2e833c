//! The trace of a point read, for users: the structures that it would probe. Only reads from the disk are counted.

use std::collections::HashMap;

use super::allocation_unit::{PageNumber, UnitMap};
use super::page::CellValue;
use super::reader::Reader;
use super::source::{LoadedPieces, Miss};
use super::tree::Stop;
use crate::disk::Purpose;
use crate::engine::{Probe, Result, Tier};

impl Reader {
    /// Walks from the root to the leaf of `key` as a read does, and to the value if it lies outside the leaf.
    pub fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        let mut loaded = LoadedPieces::default();
        // Bytes that had to be read, by first unit.
        let mut read: UnitMap<u64> = HashMap::default();
        loop {
            let (mut pages, mut extent, mut is_clean) = (Vec::new(), None, false);
            let (epoch, found) = {
                let tree = self.core.tree.read();
                if let Some(change) = tree.buffer.change(key) {
                    let bytes = change.map_or(0, <[u8]>::len) as u64;
                    let verdict = if change.is_some() { "hit" } else { "absent" };
                    let structure = "change buffer".to_string();
                    return Ok(vec![Probe { structure, offset: None, verdict, bytes, read_bytes: 0 }]);
                }
                let walked = tree.leaf(&self.core.pager, &loaded, key, |number, page| {
                    pages.push((number, tree.changed_page(number).is_some()));
                    if page.is_leaf()
                        && let Ok(index) = page.search(key)
                    {
                        is_clean = page.is_clean(index);
                        if let CellValue::Extent(at) = page.cell_value(index) {
                            extent = Some((at, tree.changed_value(&at).is_some()));
                        }
                    }
                });
                let found = walked.and_then(|_| tree.find(&self.core.pager, &loaded, key));
                (tree.epoch, found)
            };
            let (value, is_tombstone) = match found {
                Ok(entry) => (entry.clone().flatten(), entry.is_some_and(|value| value.is_none())),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    self.core.load(epoch, miss, tier, Purpose::Get, &mut loaded)?;
                    match miss {
                        Miss::Page(number) => {
                            let units = number.units(self.core.pager.page_units());
                            read.insert(number.unit(), units.bytes())
                        }
                        Miss::Value(extent) => read.insert(extent.unit, u64::from(extent.bytes)),
                    };
                    continue;
                }
            };
            let state = |is_dirty: bool| if is_dirty { " dirty" } else { "" };
            let bytes = value.as_ref().map_or(0, |value| value.len() as u64);
            let last = pages.len();
            let probe = |(index, (number, is_dirty)): (usize, (PageNumber, bool))| {
                let is_leaf = index + 1 == last;
                let (kind, verdict) = match (is_leaf, &value, &extent) {
                    (false, ..) => ("inner", "descend"),
                    (true, Some(_), Some(_)) => ("leaf", "descend"),
                    (true, Some(_), None) => ("leaf", "hit"),
                    (true, None, _) if is_tombstone => ("leaf", "tombstone"),
                    (true, None, _) => ("leaf", "miss"),
                };
                let copy = if is_leaf && is_clean { " copy" } else { "" };
                Probe {
                    structure: format!("{kind} page {number}{}{copy}", state(is_dirty)),
                    offset: Some(number.offset()),
                    verdict,
                    bytes: if verdict == "hit" { bytes } else { 0 },
                    read_bytes: read.get(&number.unit()).copied().unwrap_or(0),
                }
            };
            let mut probes: Vec<Probe> = pages.into_iter().enumerate().map(probe).collect();
            if let (Some((extent, is_dirty)), Some(_)) = (extent, &value) {
                probes.push(Probe {
                    structure: format!("extent {}{}", extent.unit, state(is_dirty)),
                    offset: Some(extent.unit.offset()),
                    verdict: "hit",
                    bytes,
                    read_bytes: read.get(&extent.unit).copied().unwrap_or(0),
                });
            }
            return Ok(probes);
        }
    }
}
