//! Files of the log: the segments in use, those that others hold, and those that are free.

use std::collections::HashMap;
use std::sync::Arc;

use super::{HEADER_BYTES, HEADER_COPY, HEADER_KIND, Log, PREFIX, RECORD_OVERHEAD_BYTES, State};
use crate::disk::{File, Gone, Purpose};
use crate::engine::{Error, Lsn, Result, frame, is_short_of_files};

/// A segment that is released before it was ever synced is still dirty in the page cache. Writing it again there would reach the
/// device once for two writes at our door, and the bytes that the meter counts would not be those of the disk. So a new
/// file is made instead, while the log has fewer files than this.
pub const SEGMENTS: usize = 16;
/// Spare segments of a log that nobody writes to.
pub const SPARES_IDLE: usize = 4;
/// Of a small disk a segment takes this part at most, but not less than [`SMALL_BYTES`].
const DISK_SHARE: u64 = 256;
/// See there.
const SMALL_BYTES: u64 = 2 << 20;
/// Segments on a full disk are multiples of this.
const SHORT_BYTES: u64 = 64 << 10;
/// A segment is made ahead while so many more would fit: else it would only be in the way of what gives space back.
const AHEAD_SHARE: u64 = 8;
/// Smallest unit that the page cache writes.
const PAGE_BYTES: u64 = 4096;
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
/// Where in the log filling begins: a store that is only tried out writes nothing for it.
const FILL_FROM_BYTES: u64 = 1 << 20;
/// It goes on when less is left before the records.
const FILL_MARGIN_BYTES: u64 = 64 << 10;
/// Most bytes that are filled at once: they are synced with the records, which wait for them.
const FILL_BYTES_MAX: u64 = 1 << 20;

/// The file name of the segment in `slot`.
pub(super) fn segment_name(slot: u64) -> String {
    format!("{PREFIX}{slot}")
}

/// A segment's file, or another that keeps values as one does. Who holds it may read what was appended to it; the log uses the file
/// again only when it is alone.
pub struct Segment {
    /// Its file is called by this, and its slot.
    prefix: &'static str,
    pub(super) slot: u64,
    pub(super) start: Lsn,
    pub(super) file: Arc<dyn File>,
    pub(super) capacity_bytes: u64,
    is_lost: bool,
}

impl Segment {
    /// The segment of the log in `slot`.
    pub(super) fn new(slot: u64, start: Lsn, file: Arc<dyn File>, capacity_bytes: u64) -> Segment {
        Segment { prefix: PREFIX, slot, start, file, capacity_bytes, is_lost: false }
    }

    /// A file that is no part of the log, called by `prefix` and `number`: its first byte is at LSN `start`.
    pub fn of_file(
        prefix: &'static str,
        number: u64,
        start: Lsn,
        file: Arc<dyn File>,
        capacity_bytes: u64,
    ) -> Segment {
        Segment { prefix, slot: number, start, file, capacity_bytes, is_lost: false }
    }

    /// Stands for a segment that starts at `start` and is missing: whoever wants a value of it is told.
    pub fn lost(start: Lsn) -> Segment {
        Self::lost_file(PREFIX, 0, start)
    }

    /// The same for a file that is no part of the log.
    pub fn lost_file(prefix: &'static str, number: u64, start: Lsn) -> Segment {
        Segment { prefix, slot: number, start, file: Arc::new(Gone), capacity_bytes: 0, is_lost: true }
    }

    /// The name of its file; which one it was nobody knows if it was lost from the log.
    pub(super) fn name(&self) -> String {
        match self.is_lost && self.prefix == PREFIX {
            true => "the log".to_string(),
            false => format!("{}{}", self.prefix, self.slot),
        }
    }

    /// The error for who needs the whole segment, if it is [missing](Segment::lost).
    pub fn loss(&self) -> Option<Error> {
        self.is_lost.then(|| {
            let what = match self.prefix {
                PREFIX => "the segment that starts at this LSN is missing, and tables need values of it",
                _ => "it is missing, and tables need values of it",
            };
            Error::corrupt(self.name(), if self.prefix == PREFIX { self.start.number() } else { 0 }, what)
        })
    }

    /// The LSN of its first record: no other segment with anything in it ever has the same.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Size of the file on the disk.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Reads `bytes` bytes of the log from `lsn` on, unchecked: the caller has a checksum.
    pub fn read(&self, purpose: Purpose, lsn: Lsn, bytes: usize) -> Result<Vec<u8>> {
        if self.is_lost {
            return Err(self.damaged(lsn));
        }
        let offset = self.offset(lsn)?;
        if offset.checked_add(bytes as u64).is_none_or(|end| end > self.capacity_bytes) {
            return Err(Error::corrupt(self.name(), offset, "a value that goes over its end"));
        }
        let mut target = vec![0; bytes];
        let context = |error| Error::io(format!("reading {}", self.name()), error);
        self.file.read_at(purpose, offset, &mut target).map_err(context)?;
        Ok(target)
    }

    /// Writes a value at `lsn` of a file that is no part of the log.
    pub fn append(&self, purpose: Purpose, lsn: Lsn, value: &[u8]) -> Result<()> {
        let context = |error| Error::io(format!("writing {}", self.name()), error);
        self.file.write_at(purpose, self.offset(lsn)?, value).map_err(context)
    }

    /// Makes everything that was appended durable.
    pub fn sync(&self, purpose: Purpose) -> Result<()> {
        self.file.sync(purpose).map_err(|error| Error::io(format!("sync of {}", self.name()), error))
    }

    /// Gives back what the filesystem keeps behind `bytes`, its end, for a file that grows.
    pub fn end(&self, bytes: u64) -> Result<()> {
        self.file.set_size(bytes).map_err(|error| Error::io(format!("ending {}", self.name()), error))
    }

    /// The error for a value at `lsn` that does not check.
    pub fn damaged(&self, lsn: Lsn) -> Error {
        if self.is_lost && self.prefix == PREFIX {
            let what = format!("a value of the segment that starts at LSN {}, which is missing", self.start);
            return Error::corrupt(self.name(), lsn.number(), what);
        }
        let offset = self.head_bytes() + lsn.bytes_since(self.start);
        let what =
            if self.is_lost { "a value in a file that is missing" } else { "a value that does not check" };
        Error::corrupt(self.name(), offset, what)
    }

    /// Bytes of the file before its first LSN.
    fn head_bytes(&self) -> u64 {
        if self.prefix == PREFIX { HEADER_BYTES } else { 0 }
    }

    fn offset(&self, lsn: Lsn) -> Result<u64> {
        let at = lsn.checked_bytes_since(self.start).map(|at| self.head_bytes() + at);
        at.ok_or_else(|| self.damaged(lsn))
    }
}

/// A segment that the log still needs itself.
pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    pub(super) number: u64,
    /// Written to since its last sync.
    pub(super) dirty: bool,
    /// Up to here its blocks have been written before, by records or by zeros.
    pub(super) written_bytes: u64,
}

impl Live {
    /// Writes zeros ahead of the records, which take `used_bytes` of the file and end at `log_end`.
    ///
    /// Space that was only taken is marked by the filesystem as never written, and the sync of a record that falls there must
    /// also change that mark: it takes half as long again. So, while programs wait for syncs of small records, what comes next is
    /// filled: behind the first MiB of the log, a quarter of what it has, and up to 1 MiB at once. A segment that is used
    /// again needs none. What these bytes are matters to nobody, so a failure only ends the filling: the latch of the disk, or the
    /// sync, says what is wrong.
    pub(super) fn fill_ahead(&mut self, used_bytes: u64, log_end: Lsn) {
        let capacity_bytes = self.segment.capacity_bytes;
        let Some((start, end)) = fill_range(self.written_bytes, used_bytes, capacity_bytes, log_end.number())
        else {
            return;
        };
        // Page by page: what is written in one piece lies in the page cache in one piece, and the kernel counts all of it again as
        // written for each record that changes a part.
        let fill = |at| {
            self.segment.file.write_at(Purpose::LogPrepare, at, &ZEROS[..PAGE_BYTES.min(end - at) as usize])
        };
        let is_filled = start < end && (start..end).step_by(PAGE_BYTES as usize).all(|at| fill(at).is_ok());
        self.written_bytes = if is_filled { end } else { capacity_bytes };
    }
}

/// The range of a segment that is filled with zeros when records take `used_bytes` of its `capacity_bytes` and end at `log_end`, and
/// `written_bytes` have been written before; empty where it is full, `None` if nothing is due.
pub fn fill_range(
    written_bytes: u64,
    used_bytes: u64,
    capacity_bytes: u64,
    log_end: u64,
) -> Option<(u64, u64)> {
    if log_end < FILL_FROM_BYTES || written_bytes > used_bytes + FILL_MARGIN_BYTES {
        return None;
    }
    let start = written_bytes.max(used_bytes.next_multiple_of(PAGE_BYTES));
    Some((start, (start + (log_end / 4).min(FILL_BYTES_MAX)).min(capacity_bytes)))
}

/// The two copies of a segment's header: its number, the LSN of its first record, and what was durable when it was begun.
pub(super) fn header(number: u64, start: Lsn, synced: Lsn) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES as usize);
    for _ in 0..2 {
        let at = frame::start(&mut header, HEADER_KIND);
        for word in [number, start.number(), synced.number()] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        frame::finish(&mut header, at, 0);
        header.resize(header.len().next_multiple_of(HEADER_COPY as usize), 0);
    }
    header
}

/// Bytes of a segment where `wanted_bytes` are asked for: on a small disk of `total_bytes` (0 if that is not known) fewer, so that the
/// log does not take a large part of it.
pub(super) fn suitable_bytes(wanted_bytes: u64, total_bytes: u64) -> u64 {
    let most = if total_bytes == 0 { u64::MAX } else { (total_bytes / DISK_SHARE).max(SMALL_BYTES) };
    wanted_bytes.min(most / SHORT_BYTES * SHORT_BYTES).max(HEADER_BYTES + RECORD_OVERHEAD_BYTES)
}

/// Bytes of a segment on a full disk whose header and first record take `needed` bytes.
fn short_bytes(needed: u64) -> u64 {
    (needed + 1).next_multiple_of(SHORT_BYTES)
}

pub(super) struct Spare {
    pub(super) slot: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) capacity_bytes: u64,
    /// Released before its last bytes were synced.
    pub(super) is_dirty: bool,
    /// It was never a segment: its space is taken, but was not written.
    pub(super) is_new: bool,
}

impl Spare {
    /// A segment that nobody needs any more.
    pub(super) fn used(segment: Segment, is_dirty: bool) -> Spare {
        let Segment { slot, file, capacity_bytes, .. } = segment;
        Spare { slot, file, capacity_bytes, is_dirty, is_new: false }
    }
}

impl State {
    /// Bytes on the disk of files with records that are needed.
    fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|live| live.segment.capacity_bytes).sum()
    }

    /// Bytes on the disk of all files.
    fn file_bytes(&self) -> u64 {
        self.live_bytes() + self.spares.iter().map(|spare| spare.capacity_bytes).sum::<u64>()
    }
}

/// A released segment that others may hold.
pub(super) struct Kept {
    pub(super) segment: Arc<Segment>,
    pub(super) is_dirty: bool,
}

impl Log {
    /// Makes a new last segment with room for `record_bytes`.
    pub(super) fn start_segment(&self, state: &mut State, record_bytes: u64, number: u64) -> Result<()> {
        let needed = HEADER_BYTES + record_bytes;
        let spare = match self.take_spare(state, needed.max(self.segment_bytes))? {
            Some(spare) => spare,
            // On a full disk a short one will do.
            None => self.take_spare(state, short_bytes(needed))?.ok_or(Error::NoSpace)?,
        };
        let name = segment_name(spare.slot);
        if let Err(error) = spare.file.write_at(Purpose::Wal, 0, &header(number, state.end, state.synced)) {
            state.spares.push_back(spare);
            return Err(Error::io(format!("writing {name}"), error));
        }
        let Spare { slot, file, capacity_bytes, is_new, .. } = spare;
        let segment = Arc::new(Segment::new(slot, state.end, file, capacity_bytes));
        let written_bytes = if is_new { 0 } else { capacity_bytes };
        state.segments.push_back(Live { segment, number, dirty: true, written_bytes });
        Ok(())
    }

    /// A spare of `needed` bytes; `None` if there is no space for one.
    pub(super) fn take_spare(&self, state: &mut State, needed: u64) -> Result<Option<Spare>> {
        if let Some(index) = self.fitting(state, needed) {
            return Ok(state.spares.remove(index));
        }
        match self.make_spare(state, needed) {
            // A full disk has no room for another: use any that fits.
            Err(Error::NoSpace) => {
                let any = state.spares.iter().position(|spare| spare.capacity_bytes >= needed);
                Ok(any.and_then(|index| state.spares.remove(index)))
            }
            other => other.map(Some),
        }
    }

    /// For an opening that finds no space for a new segment: appends go on in the last one. Records of a lost future may lie behind
    /// its end, each at its place, so everything there is overwritten by zeros first.
    pub(super) fn go_on_in_last(&self, state: &mut State) -> Result<()> {
        let (end, live) = (state.end, state.segments.back_mut().ok_or(Error::NoSpace)?);
        let (segment, context) =
            (&live.segment, |error| Error::io("preparing the last segment of the log", error));
        let mut offset = HEADER_BYTES + (end - segment.start);
        while offset < segment.capacity_bytes {
            let bytes = (PAGE_BYTES - offset % PAGE_BYTES).min(segment.capacity_bytes - offset);
            segment.file.write_at(Purpose::LogPrepare, offset, &ZEROS[..bytes as usize]).map_err(context)?;
            offset += bytes;
        }
        segment.file.sync(Purpose::LogPrepare).map_err(context)?;
        live.written_bytes = segment.capacity_bytes;
        Ok(())
    }

    /// Gives back free files that are too short to be used again or too many: those that an opening on a full disk has left.
    pub(super) fn trim(&self, state: &mut State) {
        let mut room = SEGMENTS.saturating_sub(state.segments.len());
        state.spares.retain(|spare| {
            let stays = spare.capacity_bytes >= self.segment_bytes && room > 0;
            room -= usize::from(stays);
            if !stays {
                self.remove(spare.slot);
            }
            stays
        });
    }

    /// Bytes on the disk of the files with records that are not released, once `bytes` of records more were appended. The space left
    /// unused at the ends of segments is a guess: an eighth.
    pub fn live_bytes_with(&self, bytes: u64) -> u64 {
        let state = self.state.lock();
        let rest = state.segments.back().map_or(0, |live| {
            live.segment.capacity_bytes.saturating_sub(HEADER_BYTES + (state.end - live.segment.start))
        });
        let more = bytes.saturating_sub(rest);
        state.live_bytes() + (more + more / 8).next_multiple_of(self.segment_bytes)
    }

    /// Number of files with records that are not released.
    pub fn live_segments(&self) -> usize {
        self.state.lock().segments.len()
    }

    /// From here on its files take no more than `bytes` together, unless more is not released.
    pub fn set_file_bytes_max(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.file_bytes_max = bytes;
        let surplus = Self::surplus(&mut state);
        drop(state);
        self.remove_all(surplus);
    }

    /// Takes out free segments while all files take more than they may; their slots.
    #[must_use]
    fn surplus(state: &mut State) -> Vec<u64> {
        let mut surplus = Vec::new();
        while state.file_bytes() > state.file_bytes_max {
            let Some(spare) = Self::take_idle(state) else { break };
            surplus.push(spare.slot);
        }
        surplus
    }

    /// Takes out a free segment, a dirty one if there is one.
    fn take_idle(state: &mut State) -> Option<Spare> {
        let dirty = state.spares.iter().position(|spare| spare.is_dirty).unwrap_or(0);
        state.spares.remove(dirty)
    }

    /// Whether a record of a payload of `payload_bytes` can be appended without taking space from the disk.
    pub fn fits(&self, payload_bytes: u64) -> bool {
        self.holds(payload_bytes, 0, 0)
    }

    /// Whether that can be, and behind it `more_bytes` of records, each of `record_bytes_max` at most.
    pub fn holds(&self, payload_bytes: u64, more_bytes: u64, record_bytes_max: u64) -> bool {
        let state = self.state.lock();
        let bytes = payload_bytes + RECORD_OVERHEAD_BYTES;
        let rest = state.segments.back().map_or(0, |live| {
            live.segment.capacity_bytes.saturating_sub(HEADER_BYTES + (state.end - live.segment.start))
        });
        let mut capacities: Vec<u64> = state.spares.iter().map(|spare| spare.capacity_bytes).collect();
        drop(state);
        capacities.retain(|capacity| self.suits(*capacity, record_bytes_max));
        let mut room = rest;
        if room < bytes {
            // Whichever of them is next: the longest would be the greatest loss.
            capacities.sort_unstable();
            let Some(longest) = capacities.pop().filter(|longest| self.suits(*longest, bytes)) else {
                return false;
            };
            room = longest - HEADER_BYTES;
        }
        let mut rooms: Vec<u64> = capacities.iter().map(|capacity| capacity - HEADER_BYTES).collect();
        rooms.push(room - bytes);
        // A record that does not fit leaves less than itself unused.
        let sure = |room: &u64| (room + 1).saturating_sub(record_bytes_max.max(1));
        rooms.iter().map(sure).sum::<u64>() >= more_bytes
    }

    /// Whether a spare of `capacity_bytes` is used for a segment that begins with a record of `record_bytes` when there is no other.
    fn suits(&self, capacity_bytes: u64, record_bytes: u64) -> bool {
        let needed = HEADER_BYTES + record_bytes;
        capacity_bytes >= needed.max(self.segment_bytes) || capacity_bytes >= short_bytes(needed)
    }

    /// The spare to use next for a segment of `needed` bytes: a clean one, or any once there are enough files.
    fn fitting(&self, state: &State, needed: u64) -> Option<usize> {
        let enough = state.segments.len() + state.spares.len() >= SEGMENTS
            || state.file_bytes() + needed > state.file_bytes_max
            || self.is_disk_short();
        let fits = |dirty: bool| {
            state.spares.iter().position(|spare| spare.capacity_bytes >= needed && spare.is_dirty == dirty)
        };
        fits(false).or_else(|| fits(true).filter(|_| enough))
    }

    /// Whether files are made only where there is no other way.
    fn is_disk_short(&self) -> bool {
        self.disk.space().is_ok_and(|space| {
            is_short_of_files(&space) || space.room_bytes() < AHEAD_SHARE * self.segment_bytes
        })
    }

    fn make_spare(&self, state: &mut State, capacity_bytes: u64) -> Result<Spare> {
        let slot = state.next_slot;
        let name = segment_name(slot);
        let file = self.disk.create(&name).map_err(|error| Error::io(format!("making {name}"), error))?;
        state.next_slot += 1;
        if let Err(error) = file.allocate(capacity_bytes) {
            // The slot stays unused; a leftover empty file is a spare at the next opening.
            let _ = self.disk.remove(&name);
            return Err(Error::io(format!("taking space for {name}"), error));
        }
        state.names_dirty = true;
        Ok(Spare { slot, file, capacity_bytes, is_dirty: false, is_new: true })
    }

    /// The segment that has the byte at `lsn`, which was appended and not yet released.
    pub fn segment_at(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        let state = self.state.lock();
        let live = state.segments.iter().rev().find(|live| live.segment.start <= lsn)?;
        Some(live.segment.clone())
    }

    /// Every segment by the LSN of its first record; for owners that have just opened the log.
    pub fn segments(&self) -> HashMap<Lsn, Arc<Segment>> {
        let state = self.state.lock();
        let kept = state.kept.iter().map(|kept| &kept.segment);
        let all = kept.chain(state.segments.iter().map(|live| &live.segment));
        all.map(|segment| (segment.start, segment.clone())).collect()
    }

    /// Segments that the log itself does not need any more, but others hold: where they start, and their size.
    pub fn kept(&self) -> Vec<(Lsn, u64)> {
        let state = self.state.lock();
        let held =
            state.kept.iter().map(|kept| &kept.segment).filter(|segment| Arc::strong_count(segment) > 1);
        held.map(|segment| (segment.start, segment.capacity_bytes)).collect()
    }

    /// Makes the next segment before it is needed, so that `append` need not; gives back what an idle log does not need.
    pub(super) fn prepare(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.failed.is_some() {
            return Ok(());
        }
        if state.end == state.idle_end {
            let mut surplus = Vec::new();
            while state.spares.len() > SPARES_IDLE {
                let Some(spare) = Self::take_idle(&mut state) else { break };
                surplus.push(spare.slot);
            }
            drop(state);
            self.remove_all(surplus);
            return Ok(());
        }
        state.idle_end = state.end;
        let is_more = state.file_bytes() + self.segment_bytes <= state.file_bytes_max;
        if is_more && self.fitting(&state, self.segment_bytes).is_none() && !self.is_disk_short() {
            match self.make_spare(&mut state, self.segment_bytes) {
                Ok(spare) => state.spares.push_back(spare),
                // The append that needs it will say so.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the space of all free segments back to the disk; whether there were any. For a full disk: what the log needs next it
    /// takes anew.
    pub fn give_back(&self) -> bool {
        self.give_back_but(0)
    }

    /// The same, but for `count` segments: for an owner that goes on in the files that the log has.
    pub fn give_back_but(&self, count: usize) -> bool {
        let mut state = self.state.lock();
        let surplus = self.reuse_kept(&mut state);
        let left = state.spares.len().min(count);
        let spares = state.spares.split_off(left);
        drop(state);
        let any = !surplus.is_empty() || !spares.is_empty();
        self.remove_all(surplus);
        self.remove_all(spares.iter().map(|spare| spare.slot));
        any
    }

    /// Removes files that the log has let go of. Never under its lock, for which every writer waits: a filesystem may take seconds for
    /// many large ones.
    fn remove_all(&self, slots: impl IntoIterator<Item = u64>) {
        slots.into_iter().for_each(|slot| self.remove(slot));
    }

    fn remove(&self, slot: u64) {
        if let Err(error) = self.disk.remove(&segment_name(slot)) {
            // Harmless: it is found as a spare at the next opening.
            log::warn!("removing {}: {error}", segment_name(slot));
        }
    }

    /// Whether a release up to `lsn` would let go of a segment.
    pub fn frees(&self, lsn: Lsn) -> bool {
        self.state.lock().segments.get(1).is_some_and(|second| second.segment.start <= lsn)
    }

    /// The owner has durably stopped to need anything below `lsn`: segments that end there or before are used again.
    pub fn release(&self, lsn: Lsn) {
        let mut state = self.state.lock();
        state.released = state.released.max(lsn);
        while state.segments.len() > 1 && state.segments[1].segment.start <= lsn {
            // What others point to must have been synced before it leaves the care of the log.
            if state.segments[0].dirty && Arc::strong_count(&state.segments[0].segment) > 1 {
                break;
            }
            let Some(live) = state.segments.pop_front() else { break };
            state.kept.push(Kept { segment: live.segment, is_dirty: live.dirty });
        }
        let surplus = self.reuse_kept(&mut state);
        drop(state);
        self.remove_all(surplus);
    }

    /// Takes back the released segments that nobody holds any more.
    pub fn reuse(&self) {
        let surplus = self.reuse_kept(&mut self.state.lock());
        self.remove_all(surplus);
    }

    /// Makes spares of what nobody holds any more; the slots of those that are too many, which are to be removed.
    #[must_use]
    fn reuse_kept(&self, state: &mut State) -> Vec<u64> {
        let mut surplus = Vec::new();
        for Kept { segment, is_dirty } in std::mem::take(&mut state.kept) {
            // Only holders make new holders, so who is alone stays alone.
            match Arc::try_unwrap(segment) {
                Ok(free)
                    if free.capacity_bytes >= self.segment_bytes
                        && state.segments.len() + state.spares.len() < SEGMENTS =>
                {
                    state.spares.push_back(Spare::used(free, is_dirty));
                }
                Ok(free) => surplus.push(free.slot),
                Err(segment) => state.kept.push(Kept { segment, is_dirty }),
            }
        }
        surplus.extend(Self::surplus(state));
        surplus
    }
}
