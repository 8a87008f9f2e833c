//! A fork: a store of its own with what a snapshot shows. Tables are never changed, so it takes them as they are; the filesystem below
//! shares their blocks where it can. What tables need of the log and of survivors comes along, and the manifest last: until it is
//! there, an interrupted fork is a store that nobody opens.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::{Manifest, ManifestState};
use super::survivors;
use super::version::Version;
use crate::disk::Disk;
use crate::engine::wal::{self, Segment};
use crate::engine::{Error, Lsn, Result};

/// Makes a store in `into`, which must be empty, of the tables of `version`, which hold everything before `lsn`.
pub fn fork(version: &Version, lsn: Lsn, into: &Arc<dyn Disk>) -> Result<()> {
    let names = into.list().map_err(|error| Error::io("listing the place of the fork", error))?;
    if let Some(name) = names.first().map(|info| &info.name) {
        return Err(Error::Invalid(format!("a fork needs an empty place, and {name} is there")));
    }
    let mut state = ManifestState { log_lsn: lsn, ..ManifestState::default() };
    let mut segments: BTreeMap<Lsn, Arc<Segment>> = BTreeMap::new();
    for (level, table) in version.tables() {
        table.copy_into(&**into)?;
        segments.extend(table.segments().iter().map(|segment| (segment.start(), segment.clone())));
        state.tables.insert((level, table.number), table.meta().clone());
        state.next_number = state.next_number.max(table.number.next());
    }
    let (survivors, in_log): (Vec<_>, Vec<_>) =
        segments.into_values().partition(|segment| survivors::is_survivor(segment.start()));
    survivors.iter().try_for_each(|segment| segment.copy_into(&**into))?;
    wal::fork(&in_log, lsn, &**into)?;
    into.sync_names().map_err(|error| Error::io("sync of the place of the fork", error))?;
    Manifest::create(into, &state)
}
