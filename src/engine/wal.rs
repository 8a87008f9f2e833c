//! The log: every batch is in it before `apply` returns; shared by all engines.
//!
//! The log is one endless sequence of bytes, addressed by [`Position`]. It lies in *segments*, files of a fixed size that are
//! allocated once and used again and again, because a sync of blocks that exist costs the disk half as much as one that
//! also has to make them part of the file.
//!
//! ```text
//! segment   header (512 bytes) | the same header again (512 bytes) | record | record | … | anything
//! header    frame, kind 1, place 0:              number u64 | start u64 | synced u64
//! record    frame, kind 2…, place number ⊕ offset: position u64 | synced u64 | payload
//! ```
//!
//! `number` counts segments, `start` is the position of the first record, `position` that of the record, `synced` the highest
//! position that was known to be durable when the record was written.
//!
//! # Invariants
//!
//! 1. A record's position is the previous record's end; a segment's `start` is the end of the segment before.
//! 2. Syncs cover every unsynced segment and new names before anyone is told of success.
//! 3. After a recovery appending starts in a new segment whose `start` cuts off whatever lay behind the last whole record,
//!    so that bytes of a lost future cannot come back.
//! 4. A segment is used again only when its end is at or below a position that its owner has durably stopped to need, and
//!    nobody holds it as a [`Segment`]. An owner that points to bytes of the log holds the segment, so *a released segment
//!    with values that are needed is kept*; at the opening the owner says which those are.
//!
//! # The end of the log, or damage?
//!
//! Replay stops at the first record that does not check. What was never synced may be torn, so this is the normal end. But if
//! any later record or header claims a `synced` above that place, acknowledged bytes are damaged, and that is
//! [`Error::Corrupt`]. Only damage to the very last synced records, with nothing written after them, cannot be told from
//! a torn end.

pub mod salvage;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Batch, Bell, Class, Cpu, CpuMeter, Done, Error, Pending, Position, Result, Sync, Work, frame};
use crate::base::clock::Clock;
use crate::disk::{Disk, File, Purpose};

/// Where records begin in a segment.
const HEADER_BYTES: u64 = 1024;
/// Where the second copy of the header lies.
const HEADER_COPY: u64 = 512;
const HEADER_KIND: u8 = 1;
/// Record kinds of owners start here.
pub const FIRST_KIND: u8 = 2;
/// Frame header, position and synced: what a record costs beside its payload.
pub const RECORD_OVERHEAD_BYTES: u64 = frame::HEADER_BYTES as u64 + 16;
const PREFIX: &str = "log.";
/// A segment that is released before it was ever synced is still dirty in the page cache. Writing it again there would reach the
/// device once for two writes at our door, and the bytes that the meter counts would not be those of the disk. So a new
/// file is made instead, while the log has fewer files than this.
const SEGMENTS: usize = 16;
/// A value of a batch from this size on is not copied to be appended.
const SHARED_BYTES: usize = 2 << 10;
/// How long a report waits for an append.
const SHAPE_WAIT: Duration = Duration::from_millis(2);
/// Spare segments of a log that nobody writes to.
const SPARES_IDLE: usize = 4;

/// Whether `name` is a log segment's.
pub fn is_segment(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|slot| slot.parse::<u64>().is_ok())
}

/// A segment's file. Who holds it may read what was appended to it; the log uses the file again only when it is alone.
pub struct Segment {
    slot: u64,
    start: Position,
    file: Arc<dyn File>,
    capacity_bytes: u64,
}

impl Segment {
    /// The position of its first record: no other segment with anything in it ever has the same.
    pub fn start(&self) -> Position {
        self.start
    }

    /// What the file takes on the disk.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Reads `bytes` bytes of the log from `position` on, unchecked: the caller has a checksum.
    pub fn read(&self, purpose: Purpose, position: Position, bytes: usize) -> Result<Vec<u8>> {
        let offset = self.offset(position)?;
        if offset.checked_add(bytes as u64).is_none_or(|end| end > self.capacity_bytes) {
            return Err(Error::corrupt(segment_name(self.slot), offset, "a value that goes over its end"));
        }
        let mut target = vec![0; bytes];
        let context = |error| Error::io(format!("reading {}", segment_name(self.slot)), error);
        self.file.read_at(purpose, offset, &mut target).map_err(context)?;
        Ok(target)
    }

    /// The error for a value at `position` that does not check.
    pub fn damaged(&self, position: Position) -> Error {
        let offset = HEADER_BYTES + position.saturating_sub(self.start);
        Error::corrupt(segment_name(self.slot), offset, "a value that does not check")
    }

    fn offset(&self, position: Position) -> Result<u64> {
        position.checked_sub(self.start).map(|at| HEADER_BYTES + at).ok_or_else(|| self.damaged(position))
    }
}

/// A segment that the log still needs itself.
struct Live {
    segment: Arc<Segment>,
    number: u64,
    /// Written to since its last sync.
    dirty: bool,
}

struct Spare {
    slot: u64,
    file: Arc<dyn File>,
    capacity_bytes: u64,
    /// Released before its last bytes were synced.
    is_dirty: bool,
}

impl Spare {
    fn new(segment: Segment, is_dirty: bool) -> Spare {
        let Segment { slot, file, capacity_bytes, .. } = segment;
        Spare { slot, file, capacity_bytes, is_dirty }
    }
}

/// A released segment that others may hold.
struct Kept {
    segment: Arc<Segment>,
    is_dirty: bool,
}

struct Waiter {
    position: Position,
    done: Done,
}

struct State {
    /// In order; the last one is written to.
    segments: VecDeque<Live>,
    /// Released, but held by others when last looked at.
    kept: Vec<Kept>,
    /// Free for use, the one released first in front.
    spares: VecDeque<Spare>,
    next_slot: u64,
    end: Position,
    /// The end when the log was last found idle.
    idle_end: Position,
    synced: Position,
    released: Position,
    /// A segment file was made since the last `sync_names`.
    names_dirty: bool,
    waiters: Vec<Waiter>,
    /// Clock time of the first append since everything was synced.
    oldest_unsynced: Option<Duration>,
    /// Why no sync can succeed any more.
    failed: Option<Error>,
    /// The frame being built; kept for its capacity.
    scratch: Vec<u8>,
    /// Large values of the frame being built.
    inserts: Vec<(usize, Bytes)>,
}

/// Where the log stands, for reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogShape {
    /// The position after the last record.
    pub end: Position,
    /// Segments that the log itself does not need any more, but others hold, and their size.
    pub kept_segments: u64,
    /// See there.
    pub kept_bytes: u64,
    /// Bytes that a power cut would lose.
    pub unsynced_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_unsynced: Duration,
    /// Bytes since the released position: what opening would replay.
    pub replay_bytes: u64,
}

/// The log of one store.
pub struct Log {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    sync: Sync,
    segment_bytes: u64,
    state: Mutex<State>,
    /// What the last report said, for one that finds an append waiting for the disk.
    last_shape: Mutex<LogShape>,
    cpu: CpuMeter,
    /// Held by the one who syncs, so that two workers do not sync the same bytes twice.
    syncing: Mutex<()>,
}

/// A header or record that was found in a segment.
struct Header {
    number: u64,
    start: Position,
    synced: Position,
}

fn place(number: u64, offset: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(index * 8..index * 8 + 8)?.try_into().ok()?))
}

fn segment_name(slot: u64) -> String {
    format!("{PREFIX}{slot}")
}

fn read_header(bytes: &[u8]) -> Option<Header> {
    [0, HEADER_COPY].into_iter().find_map(|at| {
        let (kind, payload) = frame::decode(bytes.get(at as usize..(at + HEADER_COPY) as usize)?, 0)?;
        let header =
            Header { number: word(payload, 0)?, start: word(payload, 1)?, synced: word(payload, 2)? };
        (kind == HEADER_KIND && payload.len() == 24).then_some(header)
    })
}

/// The whole record at `offset` of segment `number`, if there is one: kind, position, synced, payload range.
fn read_record(
    bytes: &[u8],
    number: u64,
    offset: u64,
) -> Option<(u8, Position, Position, std::ops::Range<usize>)> {
    let (kind, payload) = frame::decode(bytes.get(offset as usize..)?, place(number, offset))?;
    let start = offset as usize + frame::HEADER_BYTES + 16;
    Some((
        kind,
        word(payload, 0)?,
        word(payload, 1)?,
        start..offset as usize + frame::HEADER_BYTES + payload.len(),
    ))
}

impl Log {
    /// Opens the log of `disk` and calls `visit` with kind, end position and payload of every record from position
    /// `from` on, in order; then the log is ready for appends. `from` must be 0 or a position that [`Log::append`] returned.
    /// Segments that start at a position of `held` are not used again until they were asked for with
    /// [`Log::segment_starting`] and let go.
    #[expect(clippy::too_many_arguments)]
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        bell: Arc<Bell>,
        sync: Sync,
        segment_bytes: u64,
        from: Position,
        held: &BTreeSet<Position>,
        visit: &mut dyn FnMut(u8, Position, Bytes) -> Result<()>,
    ) -> Result<Log> {
        let mut found = Vec::new();
        let mut spares = VecDeque::new();
        let mut next_slot = 0;
        for info in disk.list().map_err(|error| Error::io("listing the store", error))? {
            let Some(slot) = info.name.strip_prefix(PREFIX).and_then(|slot| slot.parse::<u64>().ok()) else {
                continue;
            };
            next_slot = next_slot.max(slot + 1);
            let context = |error| Error::io(format!("reading {}", info.name), error);
            let file = disk.open(&info.name).map_err(context)?;
            let mut header = vec![0; HEADER_BYTES.min(info.bytes) as usize];
            file.read_at(Purpose::Recovery, 0, &mut header).map_err(context)?;
            match read_header(&header) {
                Some(header) => found.push((header, slot, file, info.bytes)),
                None => spares.push_back(Spare { slot, file, capacity_bytes: info.bytes, is_dirty: false }),
            }
        }
        found.sort_by_key(|(header, ..)| header.number);
        let last_number = found.last().map_or(0, |(header, ..)| header.number);
        let claimed = found.iter().map(|(header, ..)| header.synced).max().unwrap_or(0);

        // A segment whose start is not above its predecessor's cuts that one off (invariant 3).
        let mut chain: Vec<(Header, u64, Arc<dyn File>, u64)> = Vec::new();
        for candidate in found {
            while chain.last().is_some_and(|(header, ..)| header.start >= candidate.0.start) {
                spares.extend(chain.pop().map(|(_, slot, file, capacity_bytes)| Spare {
                    slot,
                    file,
                    capacity_bytes,
                    is_dirty: false,
                }));
            }
            chain.push(candidate);
        }

        let mut end = from;
        let mut claimed = claimed.max(from);
        let mut broken: Option<(String, u64)> = None;
        let mut segments: VecDeque<Live> = VecDeque::new();
        let mut kept = Vec::new();
        let starts: Vec<Position> = chain.iter().map(|(header, ..)| header.start).collect();
        for (index, (header, slot, file, capacity_bytes)) in chain.into_iter().enumerate() {
            let limit = starts.get(index + 1).copied();
            if limit.is_some_and(|limit| limit <= from) {
                if held.contains(&header.start) {
                    let segment = Arc::new(Segment { slot, start: header.start, file, capacity_bytes });
                    kept.push(Kept { segment, is_dirty: false });
                } else {
                    spares.push_back(Spare { slot, file, capacity_bytes, is_dirty: false });
                }
                continue;
            }
            if broken.is_none() && header.start > end {
                broken = Some((segment_name(slot), 0));
            }
            let mut bytes = vec![0; capacity_bytes as usize];
            let context = |error| Error::io(format!("reading {}", segment_name(slot)), error);
            file.read_at(Purpose::Recovery, 0, &mut bytes).map_err(context)?;
            let bytes = Bytes::from(bytes);
            let mut offset = HEADER_BYTES;
            let mut position = header.start;
            if broken.is_none() {
                while limit.is_none_or(|limit| position < limit)
                    && let Some((kind, at, synced, payload)) = read_record(&bytes, header.number, offset)
                    && at == position
                {
                    let length = payload.end as u64 - offset;
                    position += length;
                    offset += length;
                    claimed = claimed.max(synced);
                    if position > from {
                        visit(kind, position, bytes.slice(payload))?;
                    }
                }
                end = end.max(position);
                if limit.is_some_and(|limit| position != limit) {
                    broken = Some((segment_name(slot), offset));
                }
            }
            // Where replay stopped early, a record further on that checks at its own place tells what had been synced. Behind a
            // segment that was followed to its end lies only a future that an earlier recovery cut off.
            let rest = if limit == Some(position) { capacity_bytes } else { offset + 1 };
            for offset in rest..(capacity_bytes + 1).saturating_sub(RECORD_OVERHEAD_BYTES) {
                let at = offset as usize + frame::HEADER_BYTES;
                if word(&bytes[at..], 0) == Some(header.start + (offset - HEADER_BYTES))
                    && let Some((_, _, synced, _)) = read_record(&bytes, header.number, offset)
                {
                    claimed = claimed.max(synced);
                    broken.get_or_insert((segment_name(slot), offset));
                }
            }
            let segment = Arc::new(Segment { slot, start: header.start, file, capacity_bytes });
            segments.push_back(Live { segment, number: header.number, dirty: true });
        }
        if claimed > end {
            let (file, offset) = broken.unwrap_or((segment_name(0), 0));
            let what = format!("the log ends at position {end}, but {claimed} had been made durable");
            return Err(Error::corrupt(file, offset, what));
        }
        // Segments that start at or behind the end hold nothing that counts.
        while segments.back().is_some_and(|live| live.segment.start >= end) {
            spares.extend(
                segments
                    .pop_back()
                    .and_then(|live| Arc::into_inner(live.segment))
                    .map(|segment| Spare::new(segment, false)),
            );
        }

        // What was replayed, names included, must be durable before a header claims so.
        disk.sync_names().map_err(|error| Error::io("sync of the directory", error))?;
        for live in &mut segments {
            let context = |error| Error::io(format!("sync of {}", segment_name(live.segment.slot)), error);
            live.segment.file.sync(Purpose::Recovery).map_err(context)?;
            live.dirty = false;
        }
        let log = Log {
            disk,
            clock,
            bell,
            sync,
            segment_bytes: segment_bytes.max(HEADER_BYTES + RECORD_OVERHEAD_BYTES),
            cpu: CpuMeter::default(),
            last_shape: Mutex::default(),
            state: Mutex::new(State {
                segments,
                kept,
                spares,
                next_slot,
                end,
                idle_end: end,
                synced: end,
                released: from,
                names_dirty: false,
                waiters: Vec::new(),
                oldest_unsynced: None,
                failed: None,
                scratch: Vec::new(),
                inserts: Vec::new(),
            }),
            syncing: Mutex::new(()),
        };
        log.start_segment(&mut log.state.lock(), 0, last_number + 1)?;
        Ok(log)
    }

    /// Makes a new last segment with room for `record_bytes`.
    fn start_segment(&self, state: &mut State, record_bytes: u64, number: u64) -> Result<()> {
        let needed = (HEADER_BYTES + record_bytes).max(self.segment_bytes);
        let spare = match self.fitting(state, needed).and_then(|index| state.spares.remove(index)) {
            Some(spare) => spare,
            None => match self.make_spare(state, needed) {
                // A full disk has no room for another: use any that fits.
                Err(Error::NoSpace) => {
                    let any = state.spares.iter().position(|spare| spare.capacity_bytes >= needed);
                    any.and_then(|index| state.spares.remove(index)).ok_or(Error::NoSpace)?
                }
                other => other?,
            },
        };
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        for _ in 0..2 {
            let at = frame::start(&mut header, HEADER_KIND);
            for word in [number, state.end, state.synced] {
                header.extend_from_slice(&word.to_le_bytes());
            }
            frame::finish(&mut header, at, 0);
            header.resize(header.len().next_multiple_of(HEADER_COPY as usize), 0);
        }
        let name = segment_name(spare.slot);
        if let Err(error) = spare.file.write_at(Purpose::Wal, 0, &header) {
            state.spares.push_back(spare);
            return Err(Error::io(format!("writing {name}"), error));
        }
        let Spare { slot, file, capacity_bytes, .. } = spare;
        let segment = Arc::new(Segment { slot, start: state.end, file, capacity_bytes });
        state.segments.push_back(Live { segment, number, dirty: true });
        Ok(())
    }

    /// The spare to use next for a segment of `needed` bytes: a clean one, or any once there are enough files.
    fn fitting(&self, state: &State, needed: u64) -> Option<usize> {
        let enough = state.segments.len() + state.spares.len() >= SEGMENTS;
        let fits = |dirty: bool| {
            state.spares.iter().position(|spare| spare.capacity_bytes >= needed && spare.is_dirty == dirty)
        };
        fits(false).or_else(|| fits(true).filter(|_| enough))
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
        Ok(Spare { slot, file, capacity_bytes, is_dirty: false })
    }

    /// Appends one record of `kind`: `fill` adds the payload (at most `payload_bytes_max`) to the buffer. Returns the position
    /// after it. The bytes are in the file when this returns, not yet durable. [`Error::NoSpace`] changes nothing.
    pub fn append(
        &self,
        kind: u8,
        purpose: Purpose,
        payload_bytes_max: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Position> {
        self.append_to(&mut self.state.lock(), kind, purpose, payload_bytes_max, |target, _| fill(target))
    }

    /// Appends a batch as a record of `kind`. Its large values go to the file from where they are, without a copy.
    pub fn append_batch(&self, kind: u8, purpose: Purpose, batch: &Batch) -> Result<Position> {
        let fill = |target: &mut Vec<u8>, inserts: &mut _| batch.encode_around(target, SHARED_BYTES, inserts);
        self.append_to(&mut self.state.lock(), kind, purpose, batch.encoded_bytes_max(), fill)
    }

    /// Appends one record of `kind` that is nothing but `payload`; also the segment that holds it, which the caller may
    /// point to.
    pub fn append_held(
        &self,
        kind: u8,
        purpose: Purpose,
        payload: &[u8],
    ) -> Result<(Position, Arc<Segment>)> {
        let mut state = self.state.lock();
        let fill = |target: &mut Vec<u8>, _: &mut _| target.extend_from_slice(payload);
        let position = self.append_to(&mut state, kind, purpose, payload.len(), fill)?;
        let last = state.segments.back().ok_or_else(|| Error::Invalid("the log is closed".to_string()))?;
        Ok((position, last.segment.clone()))
    }

    /// The segment that has the byte at `position`, which was appended and not yet released.
    pub fn segment_at(&self, position: Position) -> Option<Arc<Segment>> {
        let state = self.state.lock();
        let live = state.segments.iter().rev().find(|live| live.segment.start <= position)?;
        Some(live.segment.clone())
    }

    /// The segment whose first record is at `start`, if it is there; for owners that have just opened the log.
    pub fn segment_starting(&self, start: Position) -> Option<Arc<Segment>> {
        let state = self.state.lock();
        let all = state
            .kept
            .iter()
            .map(|kept| &kept.segment)
            .chain(state.segments.iter().map(|live| &live.segment));
        all.into_iter().find(|segment| segment.start == start).cloned()
    }

    /// Segments that the log itself does not need any more, but others hold: where they start, and their size.
    pub fn kept(&self) -> Vec<(Position, u64)> {
        let state = self.state.lock();
        let held =
            state.kept.iter().map(|kept| &kept.segment).filter(|segment| Arc::strong_count(segment) > 1);
        held.map(|segment| (segment.start, segment.capacity_bytes)).collect()
    }

    fn append_to(
        &self,
        state: &mut State,
        kind: u8,
        purpose: Purpose,
        payload_bytes_max: usize,
        fill: impl FnOnce(&mut Vec<u8>, &mut Vec<(usize, Bytes)>),
    ) -> Result<Position> {
        debug_assert!(kind >= FIRST_KIND);
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let bytes_max = payload_bytes_max as u64 + RECORD_OVERHEAD_BYTES;
        let last = state.segments.back().ok_or_else(|| Error::Invalid("the log is closed".to_string()))?;
        let used = HEADER_BYTES + (state.end - last.segment.start);
        if used + bytes_max > last.segment.capacity_bytes {
            let number = last.number + 1;
            self.start_segment(state, bytes_max, number)?;
            self.bell.ring(Class::Log);
        }
        let Some(live) = state.segments.back_mut() else {
            return Err(Error::Invalid("the log is closed".to_string()));
        };
        let offset = HEADER_BYTES + (state.end - live.segment.start);
        let (record, inserts) = (&mut state.scratch, &mut state.inserts);
        record.clear();
        let at = frame::start(record, kind);
        record.extend_from_slice(&state.end.to_le_bytes());
        record.extend_from_slice(&state.synced.to_le_bytes());
        fill(record, inserts);
        let inserted: usize = inserts.iter().map(|(_, bytes)| bytes.len()).sum();
        let record_bytes = (record.len() + inserted) as u64;
        let finish = || frame::finish_with(record, at, place(live.number, offset), inserts);
        self.cpu.sample(Work::Checksum, record_bytes, finish);
        debug_assert!(record_bytes <= bytes_max);
        let written = match inserts.is_empty() {
            true => live.segment.file.write_at(purpose, offset, record),
            false => live.segment.file.write_pieces_at(purpose, offset, &frame::pieces(record, inserts)),
        };
        inserts.clear();
        if let Err(error) = written {
            // The disk's latch has closed; nothing can follow a hole in the log.
            let error = Error::io(format!("writing {}", segment_name(live.segment.slot)), error);
            state.failed = Some(error.clone());
            return Err(error);
        }
        live.dirty = true;
        state.end += record_bytes;
        if state.oldest_unsynced.is_none() {
            state.oldest_unsynced = Some(self.clock.elapsed());
        }
        if state.scratch.capacity() > 4 << 20 {
            state.scratch = Vec::new();
        }
        Ok(state.end)
    }

    /// The position after the last record.
    pub fn end(&self) -> Position {
        self.state.lock().end
    }

    /// Everything below is durable.
    pub fn synced(&self) -> Position {
        self.state.lock().synced
    }

    /// What checksums of its records have cost.
    pub fn cpu(&self) -> Cpu {
        self.cpu.snapshot()
    }

    /// Calls `done` when everything below `position` is durable: now, or from [`Log::work`].
    pub fn sync_to(&self, position: Position, done: Done) {
        let mut state = self.state.lock();
        let answer = match &state.failed {
            Some(error) => Err(error.clone()),
            None if position <= state.synced => Ok(()),
            None => {
                state.waiters.push(Waiter { position, done });
                drop(state);
                self.bell.ring(Class::Log);
                return;
            }
        };
        drop(state);
        done(answer);
    }

    /// One unit of log work: one sync for everyone who waits, or for the timer; a spare segment made ahead.
    pub fn work(&self) -> Result<Pending> {
        let wanted = {
            let state = self.state.lock();
            let due = match (self.sync, state.oldest_unsynced) {
                (Sync::Interval(every), Some(oldest)) => {
                    let age = self.clock.elapsed().saturating_sub(oldest);
                    if age >= every { Some(Duration::ZERO) } else { Some(every - age) }
                }
                // Look again after an interval, so that an append need not wake anyone.
                (Sync::Interval(every), None) => Some(every),
                _ => None,
            };
            match (state.waiters.is_empty(), due) {
                (false, _) | (_, Some(Duration::ZERO)) => None,
                (true, Some(wait)) => Some(Pending::After(wait)),
                (true, None) => Some(Pending::Idle),
            }
        };
        match wanted {
            None => {
                self.sync_now()?;
                Ok(Pending::More)
            }
            Some(pending) => {
                self.prepare()?;
                Ok(pending)
            }
        }
    }

    /// Makes the next segment before it is needed, so that `append` need not; gives back what an idle log does not need.
    fn prepare(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.failed.is_some() {
            return Ok(());
        }
        if state.end == state.idle_end {
            while state.spares.len() > SPARES_IDLE {
                let dirty = state.spares.iter().position(|spare| spare.is_dirty).unwrap_or(0);
                let Some(spare) = state.spares.remove(dirty) else { break };
                self.remove(spare.slot);
            }
            return Ok(());
        }
        state.idle_end = state.end;
        if self.fitting(&state, self.segment_bytes).is_none() {
            match self.make_spare(&mut state, self.segment_bytes) {
                Ok(spare) => state.spares.push_back(spare),
                // The append that needs it will say so.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remove(&self, slot: u64) {
        if let Err(error) = self.disk.remove(&segment_name(slot)) {
            // Harmless: it is found as a spare at the next opening.
            log::warn!("removing {}: {error}", segment_name(slot));
        }
    }

    /// Makes everything appended so far durable and answers its waiters.
    pub fn sync_now(&self) -> Result<()> {
        let _one = self.syncing.lock();
        let (files, target, names) = {
            let mut state = self.state.lock();
            if let Some(error) = state.failed.clone() {
                let waiters = std::mem::take(&mut state.waiters);
                drop(state);
                waiters.into_iter().for_each(|waiter| (waiter.done)(Err(error.clone())));
                return Err(error);
            }
            let mut files = Vec::new();
            for live in state.segments.iter_mut().filter(|live| live.dirty) {
                live.dirty = false;
                files.push((live.segment.slot, live.segment.file.clone()));
            }
            // From here on new bytes are younger than this moment.
            state.oldest_unsynced = None;
            (files, state.end, std::mem::take(&mut state.names_dirty))
        };
        let result = self.sync_files(&files, names);
        let mut state = self.state.lock();
        let mut ready = Vec::new();
        match &result {
            Ok(()) => {
                state.synced = state.synced.max(target);
                if state.end > target && state.oldest_unsynced.is_none() {
                    state.oldest_unsynced = Some(self.clock.elapsed());
                }
                let waiters = std::mem::take(&mut state.waiters);
                for waiter in waiters {
                    if waiter.position <= target { ready.push(waiter) } else { state.waiters.push(waiter) }
                }
            }
            Err(error) => {
                state.failed = Some(error.clone());
                ready = std::mem::take(&mut state.waiters);
            }
        }
        drop(state);
        for waiter in ready {
            (waiter.done)(result.clone());
        }
        result
    }

    fn sync_files(&self, files: &[(u64, Arc<dyn File>)], names: bool) -> Result<()> {
        if names {
            self.disk.sync_names().map_err(|error| Error::io("sync of the directory", error))?;
        }
        for (slot, file) in files {
            let context = |error: io::Error| Error::io(format!("sync of {}", segment_name(*slot)), error);
            file.sync(Purpose::Wal).map_err(context)?;
        }
        Ok(())
    }

    /// The owner has durably stopped to need anything below `position`: segments that end there or before are used again.
    pub fn release(&self, position: Position) {
        let mut state = self.state.lock();
        state.released = state.released.max(position);
        while state.segments.len() > 1 && state.segments[1].segment.start <= position {
            // What others point to must have been synced before it leaves the care of the log.
            if state.segments[0].dirty && Arc::strong_count(&state.segments[0].segment) > 1 {
                break;
            }
            let Some(live) = state.segments.pop_front() else { break };
            state.kept.push(Kept { segment: live.segment, is_dirty: live.dirty });
        }
        self.reuse_kept(&mut state);
    }

    /// Takes back the released segments that nobody holds any more.
    pub fn reuse(&self) {
        self.reuse_kept(&mut self.state.lock());
    }

    fn reuse_kept(&self, state: &mut State) {
        for Kept { segment, is_dirty } in std::mem::take(&mut state.kept) {
            // Only holders make new holders, so who is alone stays alone.
            match Arc::try_unwrap(segment) {
                Ok(free) if state.segments.len() + state.spares.len() < SEGMENTS => {
                    state.spares.push_back(Spare::new(free, is_dirty));
                }
                Ok(free) => self.remove(free.slot),
                Err(segment) => state.kept.push(Kept { segment, is_dirty }),
            }
        }
    }

    /// Where the log stands.
    pub fn shape(&self) -> LogShape {
        // Whoever appends holds the lock while the disk takes the record. Nothing moves in the meantime but the age.
        let Some(state) = self.state.try_lock_for(SHAPE_WAIT) else { return *self.last_shape.lock() };
        let held = state.kept.iter().filter(|kept| Arc::strong_count(&kept.segment) > 1);
        let sizes: Vec<u64> = held.map(|kept| kept.segment.capacity_bytes).collect();
        let shape = LogShape {
            end: state.end,
            kept_segments: sizes.len() as u64,
            kept_bytes: sizes.iter().sum(),
            unsynced_bytes: state.end - state.synced,
            oldest_unsynced: state
                .oldest_unsynced
                .map_or(Duration::ZERO, |at| self.clock.elapsed().saturating_sub(at)),
            replay_bytes: state.end - state.released,
        };
        drop(state);
        *self.last_shape.lock() = shape;
        shape
    }
}

#[cfg(test)]
mod tests;
