//! A fork: a store of its own with what a snapshot shows. Tables are never changed, so it takes them as they are; the filesystem below
//! shares their blocks where it can. What tables need of the log and of survivors comes along, and the manifest last: until it is
//! there, an interrupted fork is a store that nobody opens.
//!
//! Blocks are shared by files of their own, never by a second name of the same file: who removes a file may cut it first
//! ([`crate::disk::Stock`]), and what is cut is cut under every name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::{Manifest, ManifestState};
use super::survivors;
use super::version::Version;
use crate::disk::{Disk, File, Purpose};
use crate::engine::wal::{self, Segment};
use crate::engine::{Error, Lsn, Result};

/// Tables that are made before the first of them is synced. One sync after many makes a filesystem with a journal write that once.
const UNSYNCED_MAX: usize = 128;

/// Makes a store in `into`, which must hold no file of an engine, of the tables of `version`, which hold everything before `lsn`.
pub fn fork(version: &Version, lsn: Lsn, into: &Arc<dyn Disk>) -> Result<()> {
    let names = into.list().map_err(|error| Error::io("listing the place of the fork", error))?;
    let is_engines = |name: &str| (super::ENGINE.is_file)(name) || wal::is_segment(name);
    if let Some(name) = names.iter().map(|info| &info.name).find(|name| is_engines(name)) {
        return Err(Error::Invalid(format!("a fork needs an empty place, and {name} is there")));
    }
    let mut unsynced: Vec<(String, Arc<dyn File>)> = Vec::new();
    let mut state = ManifestState { log_lsn: lsn, ..ManifestState::default() };
    let mut segments: BTreeMap<Lsn, Arc<Segment>> = BTreeMap::new();
    for (level, table) in version.tables() {
        unsynced.push((table.number.file_name(), table.copy_into(&**into)?));
        if unsynced.len() == UNSYNCED_MAX {
            sync(&mut unsynced)?;
        }
        segments.extend(table.segments().iter().map(|segment| (segment.start(), segment.clone())));
        state.tables.insert((level, table.number), table.meta().clone());
        state.next_number = state.next_number.max(table.number.next());
    }
    sync(&mut unsynced)?;
    let (survivors, in_log): (Vec<_>, Vec<_>) =
        segments.into_values().partition(|segment| survivors::is_survivor(segment.start()));
    survivors.iter().try_for_each(|segment| segment.copy_into(&**into))?;
    wal::fork(&in_log, lsn, &**into)?;
    into.sync_names().map_err(|error| Error::io("sync of the place of the fork", error))?;
    Manifest::create(into, &state)
}

/// Makes the content of files durable.
fn sync(files: &mut Vec<(String, Arc<dyn File>)>) -> Result<()> {
    files.drain(..).try_for_each(|(name, file)| {
        file.sync(Purpose::Fork).map_err(|error| Error::io(format!("copying {name}"), error))
    })
}
