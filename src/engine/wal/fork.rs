//! The log of a store that is forked: copies of the segments that tables need values of, and an empty one behind them, so that none of
//! their records is replayed.

use std::io;
use std::sync::Arc;

use super::replay::read_header;
use super::segment::{header, segment_name};
use super::{HEADER_BYTES, Segment};
use crate::disk::{Disk, Purpose, copy};
use crate::engine::{Error, Lsn, Result};

impl Segment {
    /// Copies its file, whole and durable, to the same name of `into`.
    pub fn copy_into(&self, into: &dyn Disk) -> Result<()> {
        if let Some(loss) = self.loss() {
            return Err(loss);
        }
        let name = self.name();
        let copied = into.create(&name).and_then(|target| {
            let mut bytes = self.file.size()?;
            loop {
                match copy(&*self.file, bytes, &*target) {
                    // A file of survivors that comes to its end gives back what it had taken ahead.
                    Err(error)
                        if error.kind() == io::ErrorKind::UnexpectedEof && self.file.size()? < bytes =>
                    {
                        bytes = self.file.size()?;
                    }
                    other => break other?,
                }
            }
            target.sync(Purpose::Fork)
        });
        copied.map_err(|error| Error::io(format!("copying {name}"), error))
    }
}

/// Gives `into`, a disk without a log, one that has what is needed of `segments` and goes on at `end`; names are not synced. Without
/// segments it needs no file: an opening makes the first.
pub fn fork(segments: &[Arc<Segment>], end: Lsn, into: &dyn Disk) -> Result<()> {
    let (mut last_slot, mut last_number) = (None, 0);
    for segment in segments {
        let name = segment.name();
        if segment.start >= end {
            let what = format!("values in {name} lie behind LSN {end}; compact the store first");
            return Err(Error::Invalid(what));
        }
        segment.copy_into(into)?;
        let mut head = vec![0; HEADER_BYTES as usize];
        let read = segment.file.read_at(Purpose::Fork, 0, &mut head);
        read.map_err(|error| Error::io(format!("reading {name}"), error))?;
        let head = read_header(&head).ok_or_else(|| Error::corrupt(&*name, 0, "no header that checks"))?;
        last_slot = last_slot.max(Some(segment.slot));
        last_number = last_number.max(head.number);
    }
    let Some(last_slot) = last_slot else { return Ok(()) };
    let name = segment_name(last_slot + 1);
    let begun = into.create(&name).and_then(|file| {
        file.write_at(Purpose::Wal, 0, &header(last_number + 1, end, end))?;
        file.sync(Purpose::Wal)
    });
    begun.map_err(|error| Error::io(format!("writing {name}"), error))
}
