//! Gathering: short segments at the end of the log become one, when it is opened.
//!
//! Every opening after a crash appends to a new segment (invariant 3 of the log), so a store that is killed again and again before its
//! owner releases anything would take a segment each time. So the records of the last few segments, if they fill no more than half of
//! one, are written to a new segment at the same LSNs. It starts where the first of them did, and so cuts those segments off.
//! Its header is what makes it one: that is written when the records in it are durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::segment::{Kept, Live, Segment, Spare, segment_name};
use super::window::Window;
use super::{HEADER_BYTES, Log, State, place};
use crate::disk::Purpose;
use crate::engine::{Error, Lsn, Result, frame};

/// Bytes of records that are written at once.
const WRITE_BYTES: usize = 1 << 20;

impl Log {
    /// Gathers short segments at the end, all of them durable, to one of `number`, in which appending goes on; false, and nothing
    /// has changed, if there are none, or no space. Segments of `held` stay.
    pub(super) fn gather(&self, state: &mut State, held: &BTreeSet<Lsn>, number: u64) -> Result<bool> {
        let is_short = |start: Lsn| {
            let bytes = state.end - start.max(state.released);
            HEADER_BYTES + bytes <= self.segment_bytes / 2
        };
        // One whose records are partly needed is not cut off, so it may be held.
        let may_go = |start: &Lsn| *start < state.released || !held.contains(start);
        let starts: Vec<Lsn> = state.segments.iter().map(|live| live.segment.start).collect();
        let first =
            starts.iter().rposition(|start| !is_short(*start) || !may_go(start)).map_or(0, |at| at + 1);
        if starts.len() < first + 2 {
            return Ok(false);
        }
        let start = starts[first].max(state.released);
        let Some(spare) = self.take_spare(state, self.segment_bytes)? else { return Ok(false) };
        let name = segment_name(spare.slot);
        let copied = self.copy_records(state, first, start, &spare, number);
        let context = |error| Error::io(format!("writing {name}"), error);
        let copied = copied.and_then(|()| spare.file.sync(Purpose::Recovery).map_err(context));
        if let Err(error) = copied {
            state.spares.push_back(spare);
            return if matches!(error, Error::NoSpace) { Ok(false) } else { Err(error) };
        }
        spare
            .file
            .write_at(Purpose::Wal, 0, &super::segment::header(number, start, state.end))
            .map_err(context)?;
        spare.file.sync(Purpose::Wal).map_err(context)?;
        self.disk.sync_names().map_err(|error| Error::io("sync of the directory", error))?;
        state.names_dirty = false;
        for live in state.segments.split_off(first) {
            match Arc::try_unwrap(live.segment) {
                Ok(free) if !held.contains(&free.start) => state.spares.push_back(Spare::used(free, false)),
                Ok(free) => state.kept.push(Kept { segment: Arc::new(free), is_dirty: false }),
                Err(segment) => state.kept.push(Kept { segment, is_dirty: false }),
            }
        }
        let Spare { slot, file, capacity_bytes, is_new, .. } = spare;
        let written_bytes = if is_new { HEADER_BYTES + (state.end - start) } else { capacity_bytes };
        let segment = Segment::new(slot, start, file, capacity_bytes);
        state.segments.push_back(Live { segment: segment.into(), number, dirty: false, written_bytes });
        Ok(true)
    }

    /// Writes the records from `start` on, which lie in the segments from `first` on, to `spare` as segment `number`.
    fn copy_records(
        &self,
        state: &State,
        first: usize,
        start: Lsn,
        spare: &Spare,
        number: u64,
    ) -> Result<()> {
        let context = |error| Error::io(format!("writing {}", segment_name(spare.slot)), error);
        let (mut lsn, mut written, mut target) = (start, HEADER_BYTES, Vec::new());
        for (index, live) in state.segments.iter().enumerate().skip(first) {
            let segment = &live.segment;
            let limit = state.segments.get(index + 1).map_or(state.end, |next| next.segment.start);
            let mut window = Window::new(&*segment.file, segment.slot, segment.capacity_bytes);
            while lsn < limit {
                let offset = HEADER_BYTES + (lsn - segment.start);
                let record = window.record(live.number, offset, lsn)?;
                let record = record.ok_or_else(|| segment.damaged(lsn))?;
                let at = frame::start(&mut target, record.kind);
                target.extend_from_slice(&lsn.to_le_bytes());
                target.extend_from_slice(&record.synced.to_le_bytes());
                target.extend_from_slice(&record.payload);
                frame::finish(&mut target, at, place(number, HEADER_BYTES + (lsn - start)));
                lsn += record.bytes;
                if target.len() >= WRITE_BYTES {
                    spare.file.write_at(Purpose::Recovery, written, &target).map_err(context)?;
                    written += target.len() as u64;
                    target.clear();
                }
            }
        }
        if target.is_empty() {
            Ok(())
        } else {
            spare.file.write_at(Purpose::Recovery, written, &target).map_err(context)
        }
    }
}
