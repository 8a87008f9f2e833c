//! Opening the log: which segments belong together, every record from an LSN on, and whether the end is an end.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::adopt::{Nameless, adopt};
use super::segment::{Kept, Live, Segment, Spare, segment_name, suitable_bytes};
use super::window::Window;
use super::{HEADER_BYTES, HEADER_COPY, HEADER_KIND, Log, PREFIX, State, place};
use crate::base::clock::Clock;
use crate::disk::{Disk, File, Purpose};
use crate::engine::{CpuMeter, Error, Lsn, Result, Sync, WakeSignal, frame};

/// A header or record that was found in a segment.
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) start: Lsn,
    pub(super) synced: Lsn,
}

pub(super) fn word(bytes: &[u8], index: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(index * 8..index * 8 + 8)?.try_into().ok()?))
}

/// The same as an LSN.
pub(super) fn lsn_at(bytes: &[u8], index: usize) -> Option<Lsn> {
    word(bytes, index).map(Lsn::new)
}

pub(super) fn read_header(bytes: &[u8]) -> Option<Header> {
    [0, HEADER_COPY].into_iter().find_map(|at| {
        let (kind, payload) = frame::decode(bytes.get(at as usize..(at + HEADER_COPY) as usize)?, 0)?;
        let header =
            Header { number: word(payload, 0)?, start: lsn_at(payload, 1)?, synced: lsn_at(payload, 2)? };
        (kind == HEADER_KIND && payload.len() == 24).then_some(header)
    })
}

/// The whole record at `offset` of segment `number`, if there is one, which begins at byte `at` of `bytes`: kind, LSN, synced,
/// and where in `bytes` its payload lies.
pub(super) fn read_record(
    bytes: &[u8],
    number: u64,
    offset: u64,
    at: u64,
) -> Option<(u8, Lsn, Lsn, std::ops::Range<usize>)> {
    let (kind, payload) = frame::decode(bytes.get(at as usize..)?, place(number, offset))?;
    let start = at as usize + frame::HEADER_BYTES;
    Some((kind, lsn_at(payload, 0)?, lsn_at(payload, 1)?, start + 16..start + payload.len()))
}

/// The segments of a log in their order, and its other files.
struct Chain {
    /// Header, slot, file and size of each.
    links: Vec<(Header, u64, Arc<dyn File>, u64)>,
    /// Files without a header that checks.
    nameless: Vec<Nameless>,
    /// Those of them where something stands in its place: slot, file and size.
    headless: Vec<(u64, Arc<dyn File>, u64)>,
    spares: VecDeque<Spare>,
    next_slot: u64,
    last_number: u64,
    /// The highest LSN that a header says was durable.
    claimed: Lsn,
}

fn chain_of(disk: &dyn Disk) -> Result<Chain> {
    let mut found = Vec::new();
    let (mut nameless, mut headless, mut spares) = (Vec::new(), Vec::new(), VecDeque::new());
    let mut next_slot = 0;
    for info in disk.list().map_err(|error| Error::io("listing the store", error))? {
        let Some(slot) = info.name.strip_prefix(PREFIX).and_then(|slot| slot.parse::<u64>().ok()) else {
            continue;
        };
        next_slot = next_slot.max(slot + 1);
        let context = |error| Error::io(format!("reading {}", info.name), error);
        let file = disk.open(&info.name).map_err(context)?;
        let mut header = vec![0; HEADER_BYTES.min(info.bytes) as usize];
        let error = file.read_at(Purpose::Recovery, 0, &mut header).err();
        match read_header(&header).filter(|_| error.is_none()) {
            Some(header) => found.push((header, slot, file, info.bytes)),
            None => {
                let capacity_bytes = info.bytes;
                if header.iter().any(|byte| *byte != 0) {
                    headless.push((slot, file.clone(), capacity_bytes));
                }
                let spare = Spare { slot, file, capacity_bytes, is_dirty: false, is_new: true };
                nameless.push(Nameless { spare, error });
            }
        }
    }
    found.sort_by_key(|(header, ..)| header.number);
    let last_number = found.last().map_or(0, |(header, ..)| header.number);
    let claimed = found.iter().map(|(header, ..)| header.synced).max().unwrap_or_default();

    // A segment whose start is not above its predecessor's cuts that one off (invariant 3).
    let mut links: Vec<(Header, u64, Arc<dyn File>, u64)> = Vec::new();
    for candidate in found {
        while links.last().is_some_and(|(header, ..)| header.start >= candidate.0.start) {
            spares.extend(links.pop().map(|(_, slot, file, capacity_bytes)| Spare {
                slot,
                file,
                capacity_bytes,
                is_dirty: false,
                is_new: false,
            }));
        }
        links.push(candidate);
    }
    Ok(Chain { links, nameless, headless, spares, next_slot, last_number, claimed })
}

/// Calls `visit` with kind, end LSN and payload of every record of the log of `disk` from LSN `from` on, in order, until it
/// breaks or the log ends; changes nothing. Returns the LSN after the last record that was visited.
pub fn read(
    disk: &dyn Disk,
    from: Lsn,
    visit: &mut dyn FnMut(u8, Lsn, Bytes) -> Result<ControlFlow<()>>,
) -> Result<Lsn> {
    let Chain { links, .. } = chain_of(disk)?;
    let starts: Vec<Lsn> = links.iter().map(|(header, ..)| header.start).collect();
    let mut end = from;
    for (index, (header, slot, file, capacity_bytes)) in links.into_iter().enumerate() {
        let limit = starts.get(index + 1).copied();
        if limit.is_some_and(|limit| limit <= from) {
            continue;
        }
        let mut window = Window::new(&*file, slot, capacity_bytes);
        let (mut offset, mut lsn) = (HEADER_BYTES, header.start);
        if lsn > end {
            break;
        }
        while limit.is_none_or(|limit| lsn < limit)
            && let Some(record) = window.record(header.number, offset, lsn)?
        {
            lsn += record.bytes;
            offset += record.bytes;
            end = end.max(lsn);
            if lsn > from && visit(record.kind, lsn, record.payload)?.is_break() {
                return Ok(end);
            }
        }
    }
    Ok(end)
}

impl Log {
    /// Opens the log of `disk` and calls `visit` with kind, end LSN and payload of every record from LSN
    /// `from` on, in order; then the log is ready for appends. `from` must be 0 or an LSN that [`Log::append`] returned.
    /// Segments that start at an LSN of `held` are not used again until they were asked for with
    /// [`Log::segments`] and let go.
    #[expect(clippy::too_many_arguments)]
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        wake_signal: Arc<WakeSignal>,
        sync: Sync,
        segment_bytes: u64,
        from: Lsn,
        held: &BTreeSet<Lsn>,
        visit: &mut dyn FnMut(u8, Lsn, Bytes) -> Result<()>,
    ) -> Result<Log> {
        let Chain { links, nameless, headless, mut spares, next_slot, last_number, claimed } =
            chain_of(&*disk)?;
        let mut end = from;
        let mut claimed = claimed.max(from);
        let mut broken: Option<(String, u64)> = None;
        let mut segments: VecDeque<Live> = VecDeque::new();
        let starts: Vec<Lsn> = links.iter().map(|(header, ..)| header.start).collect();
        let missing = held.iter().copied().filter(|start| starts.binary_search(start).is_err()).collect();
        let (mut kept, unused) = adopt(nameless, &missing, starts.last().copied())?;
        // Nobody knows the numbers of these; one of them may have come last.
        let number_max = last_number + kept.len() as u64;
        spares.extend(unused);
        // What is replayed, names included, must be durable before a header, or the owner meanwhile, claims so.
        disk.sync_names().map_err(|error| Error::io("sync of the directory", error))?;
        for (index, (header, slot, file, capacity_bytes)) in links.into_iter().enumerate() {
            let limit = starts.get(index + 1).copied();
            if limit.is_some_and(|limit| limit <= from) {
                if held.contains(&header.start) {
                    let segment = Arc::new(Segment::new(slot, header.start, file, capacity_bytes));
                    kept.push(Kept { segment, is_dirty: false });
                } else {
                    spares.push_back(Spare { slot, file, capacity_bytes, is_dirty: false, is_new: false });
                }
                continue;
            }
            let context = |error| Error::io(format!("sync of {}", segment_name(slot)), error);
            file.sync(Purpose::Recovery).map_err(context)?;
            if broken.is_none() && header.start > end {
                broken = Some((segment_name(slot), 0));
            }
            let mut window = Window::new(&*file, slot, capacity_bytes);
            let mut offset = HEADER_BYTES;
            let mut lsn = header.start;
            if broken.is_none() {
                while limit.is_none_or(|limit| lsn < limit)
                    && let Some(record) = window.record(header.number, offset, lsn)?
                {
                    lsn += record.bytes;
                    offset += record.bytes;
                    claimed = claimed.max(record.synced);
                    if lsn > from {
                        visit(record.kind, lsn, record.payload)?;
                    }
                }
                end = end.max(lsn);
                if limit.is_some_and(|limit| lsn != limit) {
                    broken = Some((segment_name(slot), offset));
                }
            }
            // Where replay stopped early, a record further on that checks at its own place tells what had been synced. Behind a
            // segment that was followed to its end lies only a future that an earlier recovery cut off.
            if limit != Some(lsn) {
                window.each_later(&header, offset + 1, &mut |offset, synced| {
                    claimed = claimed.max(synced);
                    broken.get_or_insert((segment_name(slot), offset));
                })?;
            }
            let segment = Arc::new(Segment::new(slot, header.start, file, capacity_bytes));
            let written_bytes = capacity_bytes;
            segments.push_back(Live { segment, number: header.number, dirty: false, written_bytes });
        }
        // A segment that was begun and never synced may have half a header. One that was synced had a whole one, and its records show
        // what has been lost with that.
        for (slot, file, capacity_bytes) in headless {
            let header = Header { number: last_number + 1, start: end, synced: Lsn::ZERO };
            let mut window = Window::new(&*file, slot, capacity_bytes);
            window.each_later(&header, HEADER_BYTES, &mut |_, synced| {
                claimed = claimed.max(synced);
                broken.get_or_insert((segment_name(slot), 0));
            })?;
        }
        if claimed > end {
            let (file, offset) = broken.unwrap_or((segment_name(0), 0));
            let what = format!(
                "the log ends at LSN {end}, but {claimed} had been made durable; or the manifest or meta page that says \
                 where to begin is an old one"
            );
            return Err(Error::corrupt(file, offset, what));
        }
        // Segments that start at or behind the end hold nothing that counts.
        while segments.back().is_some_and(|live| live.segment.start >= end) {
            spares.extend(
                segments
                    .pop_back()
                    .and_then(|live| Arc::into_inner(live.segment))
                    .map(|segment| Spare::used(segment, false)),
            );
        }

        let space = disk.space().map_err(|error| Error::io("reading free space", error))?;
        let segment_bytes = suitable_bytes(segment_bytes, space.total_bytes);
        let log = Log {
            disk,
            clock,
            wake_signal,
            sync,
            segment_bytes,
            cpu: CpuMeter::default(),
            last_shape: Mutex::default(),
            state: Mutex::new(State {
                segments,
                kept,
                spares,
                next_slot,
                end,
                idle_end: end,
                file_bytes_max: u64::MAX,
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
        {
            let mut state = log.state.lock();
            if !log.gather(&mut state, held, last_number + 1)? {
                match log.start_segment(&mut state, 0, number_max + 1) {
                    Err(Error::NoSpace) => log.go_on_in_last(&mut state)?,
                    other => other?,
                }
            }
            log.trim(&mut state);
        }
        Ok(log)
    }
}
