//! What was asked of an engine, and its bytes in a frame of events.
//!
//! ```text
//! frame:  start varint (ns since the recording began) | LSN varint | event …
//! event:  kind u8 | tag u8 | thread varint | start zigzag, from the event before | duration varint, ns | by kind:
//!   0 batch    LSN zigzag, from the batch before | count varint | per change: key | 0: deleted, else 1 + length of the value varint (and the
//!              value's bytes in a recording that keeps values)
//!   1 get      key | 0: not found, else 1 + length of the value varint
//!   2 scan     first key | 0 or 1: end key follows | entries varint | bytes varint
//!   3 sync     number varint
//!   4 synced   number varint
//!   5 gap      events that are missing, varint
//! ```
//!
//! Keys stand behind their lengths, which are varints.

use bytes::Bytes;

use crate::base::varint;

/// The length of a value, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its length in bytes.
    Length(u64),
    /// Its bytes, of a recording that keeps them.
    Bytes(Bytes),
}

impl Content {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Content::Length(length) => *length,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// A change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` if it was deleted.
    pub value: Option<Content>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Changes that happen together.
    Batch {
        /// The end of the batch in the recorded engine's history.
        lsn: u64,
        /// The changes in their order.
        changes: Vec<Change>,
    },
    /// A point read.
    Get {
        /// The key.
        key: Bytes,
        /// The length of the value that was found.
        found: Option<u64>,
    },
    /// A scan, which may have ended before its range did.
    Scan {
        /// The first key of its range.
        start: Bytes,
        /// The first key behind it; `None` is the end of the key space.
        end: Option<Bytes>,
        /// Entries visited.
        entries: u64,
        /// Their key and value bytes.
        bytes: u64,
    },
    /// Everything so far is to become durable.
    Sync {
        /// Counts the syncs of the recording.
        number: u64,
    },
    /// The sync of this number has ended.
    Synced {
        /// That of its [`Asked::Sync`].
        number: u64,
    },
    /// Here events are missing: they came faster than they could be written.
    Gap {
        /// So many.
        events: u64,
    },
}

/// An event of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The file operation, an index into [`super::Head::operations`]; any other number is work of the background.
    pub tag: u8,
    /// The thread that asked, counted from 0.
    pub thread: u32,
    /// When it began, in nanoseconds since the recording began.
    pub start_ns: u64,
    /// How long it took in nanoseconds; 0 for what has no duration.
    pub duration_ns: u64,
    /// What was asked.
    pub asked: Asked,
}

const BATCH: u8 = 0;
const GET: u8 = 1;
const SCAN: u8 = 2;
const SYNC: u8 = 3;
const SYNCED: u8 = 4;
const GAP: u8 = 5;

/// `value` so that numbers near zero are short, whichever side they are on.
fn zigzag(value: u64, before: u64) -> u64 {
    let difference = value.wrapping_sub(before) as i64;
    ((difference << 1) ^ (difference >> 63)) as u64
}

fn unzigzag(coded: u64, before: u64) -> u64 {
    before.wrapping_add(((coded >> 1) as i64 ^ -((coded & 1) as i64)) as u64)
}

/// What an event's bytes are made of before it is known what stands before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frontmatter {
    kind: u8,
    tag: u8,
    thread: u32,
    start_ns: u64,
    duration_ns: u64,
    /// Of a batch.
    lsn: u64,
}

impl Frontmatter {
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }
    pub fn batch(tag: u8, thread: u32, start_ns: u64, duration_ns: u64, lsn: u64) -> Frontmatter {
        Frontmatter { kind: BATCH, tag, thread, start_ns, duration_ns, lsn }
    }
    pub fn get(tag: u8, thread: u32, start_ns: u64, duration_ns: u64) -> Frontmatter {
        Frontmatter { kind: GET, tag, thread, start_ns, duration_ns, lsn: 0 }
    }
    pub fn scan(tag: u8, thread: u32, start_ns: u64, duration_ns: u64) -> Frontmatter {
        Frontmatter { kind: SCAN, tag, thread, start_ns, duration_ns, lsn: 0 }
    }
    pub fn sync(tag: u8, thread: u32, start_ns: u64) -> Frontmatter {
        Frontmatter { kind: SYNC, tag, thread, start_ns, duration_ns: 0, lsn: 0 }
    }
    pub fn synced(thread: u32, start_ns: u64) -> Frontmatter {
        Frontmatter { kind: SYNCED, tag: u8::MAX, thread, start_ns, duration_ns: 0, lsn: 0 }
    }
    pub fn gap(start_ns: u64) -> Frontmatter {
        Frontmatter { kind: GAP, tag: u8::MAX, thread: 0, start_ns, duration_ns: 0, lsn: 0 }
    }
}

/// The bytes of a frame of events, as far as it is filled.
#[derive(Debug, Default)]
pub(super) struct EventChunk {
    bytes: Vec<u8>,
    events: u64,
    start_ns: u64,
    lsn: u64,
}

impl EventChunk {
    /// Appends an event; `body` is what stands behind its front.
    pub fn push(&mut self, front: Frontmatter, body: &[u8]) {
        let Frontmatter { kind, tag, thread, start_ns, duration_ns, lsn } = front;
        if self.bytes.is_empty() {
            (self.start_ns, self.lsn) = (start_ns, lsn);
            varint::put(&mut self.bytes, start_ns);
            varint::put(&mut self.bytes, lsn);
        }
        self.bytes.extend_from_slice(&[kind, tag]);
        varint::put(&mut self.bytes, u64::from(thread));
        varint::put(&mut self.bytes, zigzag(start_ns, self.start_ns));
        varint::put(&mut self.bytes, duration_ns);
        self.start_ns = start_ns;
        if kind == BATCH {
            varint::put(&mut self.bytes, zigzag(lsn, self.lsn));
            self.lsn = lsn;
        }
        self.bytes.extend_from_slice(body);
        self.events += 1;
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Events in it.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Begins a new frame in the same memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.events = 0;
    }
}

/// Appends what stands behind the front of `asked`; values are bytes if `keeps_values`.
pub(super) fn encode_body(target: &mut Vec<u8>, asked: &Asked) {
    match asked {
        Asked::Batch { changes, .. } => {
            varint::put(target, changes.len() as u64);
            for Change { key, value } in changes {
                varint::put_bytes(target, key);
                put_content(target, value.as_ref());
            }
        }
        Asked::Get { key, found } => {
            varint::put_bytes(target, key);
            varint::put(target, found.map_or(0, |length| length + 1));
        }
        Asked::Scan { start, end, entries, bytes } => {
            put_range(target, start, end.as_deref());
            varint::put(target, *entries);
            varint::put(target, *bytes);
        }
        Asked::Sync { number } | Asked::Synced { number } => varint::put(target, *number),
        Asked::Gap { events } => varint::put(target, *events),
    }
}

/// Appends the range of a scan.
pub(super) fn put_range(target: &mut Vec<u8>, start: &[u8], end: Option<&[u8]>) {
    varint::put_bytes(target, start);
    match end {
        Some(end) => {
            target.push(1);
            varint::put_bytes(target, end);
        }
        None => target.push(0),
    }
}

/// Appends a value, or that there is none.
pub(super) fn put_content(target: &mut Vec<u8>, value: Option<&Content>) {
    varint::put(target, value.map_or(0, |value| value.length() + 1));
    if let Some(Content::Bytes(bytes)) = value {
        target.extend_from_slice(bytes);
    }
}

/// What [`put_content`] wrote: `Some(None)` is no value, `None` bytes that do not parse.
pub(super) fn take_content(whole: &Bytes, source: &mut &[u8], keeps_values: bool) -> Option<Option<Content>> {
    let Some(length) = varint::take(source)?.checked_sub(1) else { return Some(None) };
    if !keeps_values {
        return Some(Some(Content::Length(length)));
    }
    let (bytes, rest) = source.split_at_checked(usize::try_from(length).ok()?)?;
    *source = rest;
    Some(Some(Content::Bytes(whole.slice_ref(bytes))))
}

/// Takes the events of a frame apart, one after the other.
pub(super) struct EventsOfFrame {
    whole: Bytes,
    /// Bytes of `whole` that are read.
    at: usize,
    start_ns: u64,
    lsn: u64,
    keeps_values: bool,
}

impl EventsOfFrame {
    /// Of the bytes of a frame; `None` if they do not begin like one.
    pub fn new(whole: Bytes, keeps_values: bool) -> Option<EventsOfFrame> {
        let mut source = &whole[..];
        let (start_ns, lsn) = (varint::take(&mut source)?, varint::take(&mut source)?);
        let at = whole.len() - source.len();
        Some(EventsOfFrame { whole, at, start_ns, lsn, keeps_values })
    }

    /// Whether all of them are taken.
    pub fn is_done(&self) -> bool {
        self.at == self.whole.len()
    }

    /// The next one; `None` if its bytes do not parse.
    pub fn take(&mut self) -> Option<Event> {
        let whole = self.whole.clone();
        let mut source = &whole[self.at..];
        let source = &mut source;
        let (kind, tag) = (*source.split_off_first()?, *source.split_off_first()?);
        let thread = u32::try_from(varint::take(source)?).ok()?;
        let start_ns = unzigzag(varint::take(source)?, self.start_ns);
        let duration_ns = varint::take(source)?;
        let key = |source: &mut &[u8]| Some(whole.slice_ref(varint::take_bytes(source)?));
        let asked = match kind {
            BATCH => {
                self.lsn = unzigzag(varint::take(source)?, self.lsn);
                let count = varint::take(source)?;
                let mut changes = Vec::new();
                for _ in 0..count {
                    let key = key(source)?;
                    changes.push(Change { key, value: take_content(&whole, source, self.keeps_values)? });
                }
                Asked::Batch { lsn: self.lsn, changes }
            }
            GET => Asked::Get { key: key(source)?, found: varint::take(source)?.checked_sub(1) },
            SCAN => {
                let start = key(source)?;
                let end = match source.split_off_first()? {
                    0 => None,
                    1 => Some(key(source)?),
                    _ => return None,
                };
                Asked::Scan { start, end, entries: varint::take(source)?, bytes: varint::take(source)? }
            }
            SYNC => Asked::Sync { number: varint::take(source)? },
            SYNCED => Asked::Synced { number: varint::take(source)? },
            GAP => Asked::Gap { events: varint::take(source)? },
            _ => return None,
        };
        self.start_ns = start_ns;
        self.at = whole.len() - source.len();
        Some(Event { tag, thread, start_ns, duration_ns, asked })
    }
}

impl Event {
    pub(super) fn front(&self) -> Frontmatter {
        let (kind, lsn) = match self.asked {
            Asked::Batch { lsn, .. } => (BATCH, lsn),
            Asked::Get { .. } => (GET, 0),
            Asked::Scan { .. } => (SCAN, 0),
            Asked::Sync { .. } => (SYNC, 0),
            Asked::Synced { .. } => (SYNCED, 0),
            Asked::Gap { .. } => (GAP, 0),
        };
        let Event { tag, thread, start_ns, duration_ns, .. } = *self;
        Frontmatter { kind, tag, thread, start_ns, duration_ns, lsn }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Events of every kind.
    pub fn samples(keeps_values: bool) -> Vec<Event> {
        let value = |bytes: &'static [u8]| match keeps_values {
            true => Content::Bytes(Bytes::from_static(bytes)),
            false => Content::Length(bytes.len() as u64),
        };
        let key = Bytes::from_static;
        let changes = vec![
            Change { key: key(b"one"), value: Some(value(b"a value")) },
            Change { key: key(b"two"), value: None },
            Change { key: key(b"three"), value: Some(value(b"")) },
        ];
        let asked = [
            Asked::Batch { lsn: 1 << 40, changes },
            Asked::Get { key: key(b"one"), found: Some(7) },
            Asked::Get { key: key(b"two"), found: None },
            Asked::Scan { start: key(b""), end: None, entries: 3, bytes: 18 },
            Asked::Scan { start: key(b"a"), end: Some(key(b"b")), entries: 0, bytes: 0 },
            Asked::Batch { lsn: 5, changes: Vec::new() },
            Asked::Sync { number: 9 },
            Asked::Gap { events: 100 },
            Asked::Synced { number: 9 },
        ];
        let event = |(index, asked): (usize, Asked)| Event {
            tag: index as u8 * 3,
            thread: index as u32 % 4,
            // Not in order: what is noted first need not have begun first.
            start_ns: 1_000_000 - 999 * index as u64,
            duration_ns: 1 << index,
            asked,
        };
        asked.into_iter().enumerate().map(event).collect()
    }

    /// The bytes of a frame with `events`.
    pub fn frame(events: &[Event]) -> Vec<u8> {
        let mut chunk = EventChunk::default();
        for event in events {
            let mut body = Vec::new();
            encode_body(&mut body, &event.asked);
            chunk.push(event.front(), &body);
        }
        assert_eq!(chunk.events(), events.len() as u64);
        chunk.bytes().to_vec()
    }

    /// The events of a frame; `None` if it does not parse.
    pub fn events(frame: &[u8], keeps_values: bool) -> Option<Vec<Event>> {
        let mut source = EventsOfFrame::new(Bytes::copy_from_slice(frame), keeps_values)?;
        let mut events = Vec::new();
        while !source.is_done() {
            events.push(source.take()?);
        }
        Some(events)
    }

    #[test]
    fn events_come_back_and_no_cut_is_taken_for_all_of_them() {
        for keeps_values in [false, true] {
            let all = samples(keeps_values);
            let bytes = frame(&all);
            assert_eq!(events(&bytes, keeps_values).as_ref(), Some(&all));
            for cut in 0..bytes.len() {
                assert_ne!(events(&bytes[..cut], keeps_values).as_ref(), Some(&all), "cut at {cut}");
            }
        }
        let extremes = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1];
        for (value, before) in extremes.iter().flat_map(|value| extremes.map(|before| (*value, before))) {
            assert_eq!(unzigzag(zigzag(value, before), before), value);
        }
    }
}
