//! Segments without a header that checks. Most of them are spares that were never used. But where a segment is missing whose values
//! the owner of the log needs, one of them may be it: its first record says so. One that says nothing and is not empty is left alone, so
//! that `kvfs check --repair` finds what there is.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::replay::word;
use super::segment::{Kept, Segment, Spare, segment_name};
use super::{FIRST_KIND, HEADER_BYTES, Lsn};
use crate::disk::Purpose;
use crate::engine::{Error, Result, frame};

/// So much of a spare is looked at to see whether it was ever used.
const LOOK_BYTES: u64 = 64 << 10;

/// A file without a header that checks, and why it could not be read, if that is so.
pub(super) struct Nameless {
    pub(super) spare: Spare,
    pub(super) error: Option<io::Error>,
}

impl Nameless {
    /// The LSN that its first record says it has.
    fn first_lsn(&self) -> Option<Lsn> {
        let mut bytes = [0; frame::HEADER_BYTES + 8];
        self.spare.file.read_at(Purpose::Recovery, HEADER_BYTES, &mut bytes).ok()?;
        let is_record = bytes[frame::HEADER_BYTES - 1] >= FIRST_KIND;
        word(&bytes[frame::HEADER_BYTES..], 0).filter(|_| is_record).map(Lsn::new)
    }
}

/// Whether it was never used, as far as can be seen.
fn is_empty(spare: &Spare) -> bool {
    let mut bytes = vec![0; LOOK_BYTES.min(spare.capacity_bytes) as usize];
    let read = spare.file.read_at(Purpose::Recovery, 0, &mut bytes);
    read.is_ok() && bytes.iter().all(|byte| *byte == 0)
}

/// Of `nameless` files those that are segments which start at one of `missing`, and those that may be used. What cannot be read
/// may be the end of the log, if it is none of the first or starts behind `last`, where the last segment with a header does: that is an
/// error.
pub(super) fn adopt(
    nameless: Vec<Nameless>,
    missing: &BTreeSet<Lsn>,
    last: Option<Lsn>,
) -> Result<(Vec<Kept>, Vec<Spare>)> {
    let (mut kept, mut spares) = (Vec::<Kept>::new(), Vec::new());
    for file in nameless {
        let start = file.first_lsn().filter(|start| missing.contains(start));
        let start = start.filter(|start| kept.iter().all(|kept| kept.segment.start != *start));
        let name = segment_name(file.spare.slot);
        let may_be_end = start.is_none_or(|start| last.is_none_or(|last| start > last));
        if let Some(error) = file.error.filter(|_| may_be_end) {
            return Err(Error::io(format!("reading {name}"), error));
        }
        if let Some(start) = start {
            log::warn!("{name} has no header that can be read; by its first record it starts at LSN {start}");
            let Spare { slot, file, capacity_bytes, .. } = file.spare;
            kept.push(Kept {
                segment: Arc::new(Segment::new(slot, start, file, capacity_bytes)),
                is_dirty: false,
            });
        } else if missing.is_empty() || is_empty(&file.spare) {
            spares.push(file.spare);
        } else {
            log::warn!(
                "{name} has no header that checks, and is left alone: a segment of the log is missing"
            );
        }
    }
    Ok((kept, spares))
}
