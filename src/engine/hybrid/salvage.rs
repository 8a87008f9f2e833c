//! What can still be read of a damaged hybrid: the tables of the levels, then the tree and its log, which are newer.

use std::sync::Arc;

use super::Options;
use crate::disk::Disk;
use crate::engine::salvage::{Loss, Sink};
use crate::engine::{Result, btree, lsm};

/// Whether `name` is a file of one of the halves beside the log.
pub fn is_file(name: &str) -> bool {
    btree::is_file(name) || lsm::is_file(name)
}

/// Calls `sink` with everything that can be read, the oldest first.
pub fn salvage(disk: Arc<dyn Disk>, options: &Options, sink: &mut Sink<'_>) -> Result<Vec<Loss>> {
    let (mut losses, _) = lsm::salvage_tables(&*disk, sink)?;
    losses.extend(btree::salvage(disk, &options.of_tree(), sink)?);
    Ok(losses)
}
