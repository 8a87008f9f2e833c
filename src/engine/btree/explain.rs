//! What one read would ask of the tree, for people. Counts nothing.

use super::pager::Loaded;
use super::tree::Stop;
use super::{BtreeEngine, Purpose, Tier};
use crate::engine::{Probe, Result};

impl BtreeEngine {
    /// Walks from the root to the leaf of `key` as a read does.
    pub(super) fn explain_key(&self, key: &[u8]) -> Result<Vec<Probe>> {
        let mut loaded = Loaded::default();
        loop {
            let mut pages = Vec::new();
            let (epoch, found) = {
                let tree = self.tree.read();
                if let Some(value) = tree.buffer.get(key) {
                    let bytes = value.len() as u64;
                    let structure = "change buffer".to_string();
                    return Ok(vec![Probe { structure, verdict: "hit", bytes, read_bytes: 0 }]);
                }
                let walked = tree.leaf(&self.pager, &loaded, key, |unit, _| {
                    pages.push((unit, tree.changed_page(unit).is_some()));
                });
                let found = walked.and_then(|_| tree.find(&self.pager, &loaded, key));
                (tree.epoch, found)
            };
            let value = match found {
                Ok(value) => value,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    self.load(epoch, miss, Tier::Disk, Purpose::Get, &mut loaded)?;
                    continue;
                }
            };
            let last = pages.len();
            let probe = |(index, (unit, is_dirty)): (usize, (u64, bool))| {
                let is_leaf = index + 1 == last;
                let kind = if is_leaf { "leaf" } else { "inner" };
                let verdict = match (is_leaf, &value) {
                    (false, _) => "descend",
                    (true, Some(_)) => "hit",
                    (true, None) => "miss",
                };
                let bytes = value.as_ref().filter(|_| is_leaf).map_or(0, |value| value.len() as u64);
                let state = if is_dirty { " dirty" } else { "" };
                Probe { structure: format!("{kind} page {unit}{state}"), verdict, bytes, read_bytes: 0 }
            };
            return Ok(pages.into_iter().enumerate().map(probe).collect());
        }
    }
}
