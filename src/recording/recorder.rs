//! The recorder: a tap at door 2 that notes what passes, and the one thread that writes it.
//!
//! Who asks appends some bytes to a chunk in memory and goes on; it never waits for the file. Full chunks, and what there is every half
//! second, are compressed and written by whoever runs [`Recorder::run`]; that is the last flush of [`super`]. If they come faster than they
//! can be written, events are left out and counted.

use std::cell::RefCell;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::event::{self, Content, Frontmatter};
use super::queue::EventQueue;
use super::{CHUNK_BYTES, Entry, Meters, Result, Writer};
use crate::base::clock::Clock;
use crate::base::metric::ratio;
use crate::base::varint;
use crate::engine::{Batch, Engine, KINDS, KeyKind, KeyRange, Lsn, Operation, Request, Tap, Tier, Visit};

/// The longest time that an event waits in memory.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// One value in so many is compressed, to see how much is left of it.
const SAMPLE_EVERY: u64 = 64;
/// Shorter values say nothing of how values compress.
const SAMPLE_BYTES_MIN: usize = 64;
/// The least and the most that is looked at of a sampled value.
const SAMPLE_BYTES_MAX: usize = 4096;

/// What is kept beside sizes and order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Names in keys.
    pub names: bool,
    /// Values.
    pub values: bool,
}

/// Appends a key without the names in it: of the same length, the same for the same key, in the same order.
pub type Hide = Box<dyn Fn(&[u8], &mut Vec<u8>) + Send + Sync>;

/// What keys mean, told by whoever makes them.
pub struct Veil {
    /// Hides the names.
    pub hide: Hide,
    /// The kind of a key.
    pub kind_of: fn(&[u8]) -> KeyKind,
}

/// How far a recording is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its image is being written.
    Image,
    /// What is asked is written.
    Events,
    /// It has ended: why.
    Ended(String),
    /// It could not be written any more: why.
    Failed(String),
}

/// Counts of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecorderStatus {
    /// How far it is.
    pub state: State,
    /// Bytes of its file.
    pub bytes: u64,
    /// Entries of its image.
    pub image_entries: u64,
    /// Events noted.
    pub events: u64,
    /// Events that are missing.
    pub dropped: u64,
}

/// Bytes of sampled values of a kind of key, before and after they were compressed.
#[derive(Default)]
struct Sampled {
    plain_bytes: AtomicU64,
    packed_bytes: AtomicU64,
}

/// Notes what passes door 2.
pub struct Recorder {
    clock: Arc<dyn Clock>,
    began: Duration,
    keeps: Keeps,
    veil: Veil,
    notes_events: bool,
    queue: EventQueue,
    syncs: AtomicU64,
    values: AtomicU64,
    sampled: [Sampled; KINDS],
    state: Mutex<(State, u64, u64)>,
}

/// Threads that have asked so far, in any recording.
static THREADS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static THREAD: u32 = THREADS.fetch_add(1, Relaxed);
    static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Recorder {
    /// One that begins now. With `notes_events` it is to be put in as a tap before [`Recorder::run`]; without, the recording is an image.
    pub fn new(clock: Arc<dyn Clock>, keeps: Keeps, veil: Veil, notes_events: bool) -> Arc<Recorder> {
        Arc::new(Recorder {
            began: clock.elapsed(),
            clock,
            keeps,
            veil,
            notes_events,
            queue: EventQueue::default(),
            syncs: AtomicU64::new(0),
            values: AtomicU64::new(0),
            sampled: std::array::from_fn(|_| Sampled::default()),
            state: Mutex::new((State::Image, 0, 0)),
        })
    }

    /// Writes the recording: the image of `engine`, which is that behind the meter, then events until it is told to end. `meters` gives the doors' counts since the recording
    /// began, and is asked for the first time when the image is whole; what the recorder counts itself is filled in.
    pub fn run<W: Write>(
        &self,
        writer: Writer<W>,
        engine: &dyn Engine,
        meters: &dyn Fn() -> Meters,
    ) -> Result<()> {
        let result = self.write(writer, engine, meters);
        let mut state = self.state.lock();
        state.0 = match &result {
            Ok(why) => State::Ended(why.clone()),
            Err(error) => State::Failed(error.to_string()),
        };
        drop(state);
        // Whatever still comes goes nowhere.
        self.queue.end("");
        result.map(drop)
    }

    fn write<W: Write>(
        &self,
        mut writer: Writer<W>,
        engine: &dyn Engine,
        meters: &dyn Fn() -> Meters,
    ) -> Result<String> {
        let is_cut = self.write_image(&mut writer, engine)?;
        self.note_progress(&writer);
        self.state.lock().0 = State::Events;
        loop {
            let end = match self.notes_events && !is_cut {
                true => self.queue.wait(FLUSH_INTERVAL),
                false => Some(self.queue.ended().unwrap_or_else(|| "its image is whole".to_string())),
            };
            self.drain(&mut writer, true)?;
            writer.meters(&self.filled(meters()))?;
            self.note_progress(&writer);
            if let Some(why) = end {
                let bytes = writer.end(&why)?;
                self.state.lock().1 = bytes;
                return Ok(why);
            }
        }
    }

    /// Writes the image, and full chunks of events in between. Whether it was told to end meanwhile.
    fn write_image<W: Write>(&self, writer: &mut Writer<W>, engine: &dyn Engine) -> Result<bool> {
        let snapshot = engine.snapshot().ok();
        let (mut key_bytes, mut failed, mut is_cut, mut turn) = (Vec::new(), None, false, 0u64);
        let visit: &mut Visit<'_> = &mut |key, value| {
            key_bytes.clear();
            self.put_hidden(&mut key_bytes, key);
            self.sample(key, value);
            let content = match self.keeps.values {
                true => Content::Bytes(Bytes::copy_from_slice(value)),
                false => Content::Length(value.len() as u64),
            };
            let entry = Entry { key: Bytes::copy_from_slice(&key_bytes), value: content };
            let mut step = || -> Result<()> {
                writer.entry(&entry)?;
                turn += 1;
                if turn.is_multiple_of(1024) {
                    self.drain(writer, false)?;
                    self.note_progress(writer);
                    is_cut = self.queue.ended().is_some();
                }
                Ok(())
            };
            match step() {
                Ok(()) if !is_cut => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        match &snapshot {
            Some(snapshot) => snapshot.scan(KeyRange::ALL, Tier::Disk, visit)?,
            // Every key that stays as it is, is visited; of what changes meanwhile either side is, and the change follows as an event.
            None => engine.scan(KeyRange::ALL, Tier::Disk, visit)?,
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if !is_cut {
            let lsn = snapshot.as_ref().map_or(Lsn::ZERO, |snapshot| snapshot.lsn());
            writer.end_image(lsn.number(), snapshot.is_some())?;
        }
        Ok(is_cut)
    }

    /// Writes the chunks that are full, or with `all` what there is.
    fn drain<W: Write>(&self, writer: &mut Writer<W>, all: bool) -> Result<()> {
        while let Some(chunk) = self.queue.take(all) {
            writer.chunk(&chunk)?;
            self.queue.give_back(chunk);
        }
        Ok(())
    }

    fn note_progress<W: Write>(&self, writer: &Writer<W>) {
        let mut state = self.state.lock();
        (state.1, state.2) = (writer.bytes(), writer.entries());
    }

    fn filled(&self, meters: Meters) -> Meters {
        let share = |sampled: &Sampled| {
            ratio(sampled.packed_bytes.load(Relaxed), sampled.plain_bytes.load(Relaxed))
                .map(|share| share.min(1.0))
        };
        let (events, dropped) = self.queue.counts();
        Meters {
            elapsed_ns: Some(self.now_ns()),
            events: Some(events),
            dropped: Some(dropped),
            incompressible: self.sampled.iter().map(share).collect(),
            ..meters
        }
    }

    /// Tells it to end; [`Recorder::run`] returns when everything is written.
    pub fn end(&self, why: &str) {
        self.queue.end(why);
    }

    /// How far it is.
    pub fn status(&self) -> RecorderStatus {
        let (state, bytes, image_entries) = self.state.lock().clone();
        let (events, dropped) = self.queue.counts();
        RecorderStatus { state, bytes, image_entries, events, dropped }
    }

    /// Whether so much waits for the writer that the next events may be left out.
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.began)
    }

    fn put_hidden(&self, target: &mut Vec<u8>, key: &[u8]) {
        if self.keeps.names { target.extend_from_slice(key) } else { (self.veil.hide)(key, target) }
    }

    /// Appends a key behind its length.
    fn put_key(&self, target: &mut Vec<u8>, key: &[u8]) {
        varint::put(target, key.len() as u64);
        self.put_hidden(target, key);
    }

    /// Looks now and then how a value compresses.
    fn sample(&self, key: &[u8], value: &[u8]) {
        if value.len() < SAMPLE_BYTES_MIN || !self.values.fetch_add(1, Relaxed).is_multiple_of(SAMPLE_EVERY) {
            return;
        }
        let value = &value[..value.len().min(SAMPLE_BYTES_MAX)];
        let sampled = &self.sampled[usize::from((self.veil.kind_of)(key)) % KINDS];
        sampled.plain_bytes.fetch_add(value.len() as u64, Relaxed);
        sampled.packed_bytes.fetch_add(lz4_flex::block::compress(value).len() as u64, Relaxed);
    }

    /// Notes an event whose body `fill` makes.
    fn note(&self, front: impl FnOnce(u32) -> Frontmatter, fill: impl FnOnce(&mut Vec<u8>)) {
        BODY.with_borrow_mut(|body| {
            body.clear();
            fill(body);
            let front = front(THREAD.with(|thread| *thread));
            self.queue.push(front, body);
            // A large value must not keep its memory for as long as the thread lives.
            body.shrink_to(CHUNK_BYTES);
        });
    }
}

impl Tap for Recorder {
    fn now_ns(&self) -> u64 {
        self.elapsed().as_nanos() as u64
    }

    fn batch(&self, request: Request, batch: &Batch, lsn: Lsn) {
        let Request { tag, start_ns, duration_ns } = request;
        self.note(
            |thread| Frontmatter::batch(tag, thread, start_ns, duration_ns, lsn.number()),
            |body| {
                varint::put(body, batch.operations().len() as u64);
                for operation in batch.operations() {
                    self.put_key(body, operation.key());
                    match operation {
                        Operation::Put { key, value } => {
                            self.sample(key, value);
                            varint::put(body, value.len() as u64 + 1);
                            if self.keeps.values {
                                body.extend_from_slice(value);
                            }
                        }
                        Operation::Delete { .. } => varint::put(body, 0),
                    }
                }
            },
        );
    }

    fn get(&self, request: Request, key: &[u8], found: Option<usize>) {
        let Request { tag, start_ns, duration_ns } = request;
        self.note(
            |thread| Frontmatter::get(tag, thread, start_ns, duration_ns),
            |body| {
                self.put_key(body, key);
                varint::put(body, found.map_or(0, |bytes| bytes as u64 + 1));
            },
        );
    }

    fn scan(&self, request: Request, range: KeyRange<'_>, entries: u64, bytes: u64) {
        let Request { tag, start_ns, duration_ns } = request;
        self.note(
            |thread| Frontmatter::scan(tag, thread, start_ns, duration_ns),
            |body| {
                let hidden = |key: &[u8]| {
                    let mut hidden = Vec::with_capacity(key.len());
                    self.put_hidden(&mut hidden, key);
                    hidden
                };
                event::put_range(body, &hidden(range.start), range.end.map(hidden).as_deref());
                varint::put(body, entries);
                varint::put(body, bytes);
            },
        );
    }

    fn sync(&self, request: Request) -> u64 {
        let number = self.syncs.fetch_add(1, Relaxed);
        let Request { tag, start_ns, .. } = request;
        self.note(|thread| Frontmatter::sync(tag, thread, start_ns), |body| varint::put(body, number));
        number
    }

    fn synced(&self, number: u64) {
        let now = self.now_ns();
        self.note(|thread| Frontmatter::synced(thread, now), |body| varint::put(body, number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::engine::{self, Kind, MeteredEngine};
    use crate::recording::{Asked, Event, Head, Recording};

    fn veil() -> Veil {
        Veil {
            // Every letter becomes the same one.
            hide: Box::new(|key, target| target.extend(key.iter().map(|byte| byte & 0xf0))),
            kind_of: |_| 0,
        }
    }

    fn engine(kind: Kind) -> Arc<MeteredEngine> {
        let disk = crate::disk::SimDisk::new();
        let clock = Arc::new(ManualClock::default());
        MeteredEngine::new(engine::open(disk, clock, &(kind.tiny)()).unwrap(), |_| 0)
    }

    fn put(engine: &MeteredEngine, key: &[u8], value: &[u8]) {
        let mut batch = Batch::new(7);
        batch.put(key.to_vec(), value.to_vec());
        engine.apply(&batch, Tier::Disk).unwrap();
    }

    /// Records what `work` does, and the image before it.
    fn record(kind: Kind, keeps: Keeps, work: impl FnOnce(&MeteredEngine)) -> Recording {
        let engine = engine(kind);
        put(&engine, b"before", b"in the image");
        let recorder = Recorder::new(Arc::new(ManualClock::default()), keeps, veil(), true);
        engine.tap().put(recorder.clone());
        let bytes = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut bytes = Vec::new();
                let head = Head { keeps_values: keeps.values, keeps_names: keeps.names, ..Head::default() };
                let writer = Writer::new(&mut bytes, "test", head).unwrap();
                recorder.run(writer, &**engine.uncounted(), &Meters::default).unwrap();
                bytes
            });
            while recorder.status().state == State::Image {
                std::thread::yield_now();
            }
            work(&engine);
            recorder.end("told to");
            engine.tap().take_out(&recorder);
            writing.join().unwrap()
        });
        put(&engine, b"after", b"by nobody seen");
        let status = recorder.status();
        assert_eq!((status.state, status.bytes), (State::Ended("told to".into()), bytes.len() as u64));
        Recording::of_bytes("test", bytes.into()).unwrap()
    }

    fn work(engine: &MeteredEngine) {
        engine::asking_for(3);
        put(engine, b"key", &[b'v'; 1000]);
        assert_eq!(engine.get(b"key", Tier::Disk).unwrap().unwrap().len(), 1000);
        assert_eq!(engine.get(b"none", Tier::Disk).unwrap(), None);
        let range = KeyRange { start: b"a", end: Some(b"z") };
        engine.scan(range, Tier::Disk, &mut |_, _| ControlFlow::Break(())).unwrap();
        let mut batch = Batch::new(9);
        batch.delete(&b"key"[..]);
        engine.apply(&batch, Tier::Disk).unwrap();
        engine::sync(engine).unwrap();
        engine::asking_for(engine::NO_TAG);
    }

    fn asked(recording: &Recording) -> Vec<Event> {
        recording.events().unwrap().collect::<Result<_>>().unwrap()
    }

    #[test]
    fn everything_that_is_asked_is_noted_behind_an_image() {
        for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID, Kind::MEM] {
            let recording = record(kind, Keeps { names: true, values: true }, work);
            let image: Vec<_> = recording.image().unwrap().map(|entry| entry.unwrap()).collect();
            assert_eq!(image.len(), 1);
            assert_eq!(image[0].key, b"before"[..]);
            assert_eq!(image[0].value, Content::Bytes(Bytes::from_static(b"in the image")));
            let has_snapshots = engine(kind).snapshot().is_ok();
            assert!(has_snapshots || kind != Kind::LSM);
            assert_eq!(recording.image_end().unwrap().is_of_one_moment, has_snapshots);
            let events = asked(&recording);
            let tags: Vec<u8> = events.iter().map(|event| event.tag).collect();
            assert_eq!(tags, [7, 3, 3, 3, 9, 3, engine::NO_TAG], "{kind}: {events:?}");
            let kinds: Vec<_> = events.into_iter().map(|event| event.asked).collect();
            let Asked::Batch { changes, .. } = &kinds[0] else { panic!("{kinds:?}") };
            assert_eq!(changes[0].value, Some(Content::Bytes(Bytes::from(vec![b'v'; 1000]))));
            assert_eq!(kinds[1], Asked::Get { key: Bytes::from_static(b"key"), found: Some(1000) });
            assert_eq!(kinds[2], Asked::Get { key: Bytes::from_static(b"none"), found: None });
            let (start, end) = (Bytes::from_static(b"a"), Some(Bytes::from_static(b"z")));
            assert_eq!(kinds[3], Asked::Scan { start, end, entries: 1, bytes: 18 });
            let Asked::Batch { changes, .. } = &kinds[4] else { panic!("{kinds:?}") };
            assert_eq!((&changes[0].key[..], &changes[0].value), (&b"key"[..], &None));
            assert_eq!(kinds[5..], [Asked::Sync { number: 0 }, Asked::Synced { number: 0 }]);
            let meters = recording.meters().unwrap();
            assert_eq!((meters.events, meters.dropped), (Some(7), Some(0)));
        }
    }

    #[test]
    fn names_and_values_stay_out_unless_they_are_asked_for() {
        let recording = record(Kind::LSM, Keeps::default(), work);
        let image: Vec<_> = recording.image().unwrap().map(|entry| entry.unwrap()).collect();
        let hidden: Vec<u8> = b"before".iter().map(|byte| byte & 0xf0).collect();
        assert_eq!((&image[0].key[..], &image[0].value), (&hidden[..], &Content::Length(12)));
        let Asked::Batch { changes, .. } = asked(&recording).remove(0).asked else { panic!() };
        assert_eq!((&changes[0].key[..], &changes[0].value), (&b"```p"[1..], &Some(Content::Length(1000))));
        // One value was long enough to be looked at, and it is the same byte throughout.
        let share = recording.meters().unwrap().incompressible[0].unwrap();
        assert!(share > 0.0 && share < 0.1, "{share}");
    }

    #[test]
    fn what_cannot_wait_is_left_out_and_counted() {
        let recorder = Recorder::new(Arc::new(ManualClock::default()), Keeps::default(), veil(), true);
        let key = vec![b'k'; 1 << 20];
        let ask = |times: usize| {
            for _ in 0..times {
                recorder.get(Request { tag: 1, start_ns: 0, duration_ns: 0 }, &key, None);
            }
        };
        // Nobody writes yet.
        ask(40);
        let status = recorder.status();
        assert!(
            status.events < 32 && status.events > 28 && status.events + status.dropped == 40,
            "{status:?}"
        );
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, "test", Head::default()).unwrap();
        recorder.drain(&mut writer, true).unwrap();
        ask(1);
        recorder.end("told to");
        ask(1);
        recorder.run(writer, &*engine(Kind::MEM), &Meters::default).unwrap();
        let recording = Recording::of_bytes("test", bytes.into()).unwrap();
        let events = asked(&recording);
        assert_eq!(events[status.events as usize].asked, Asked::Gap { events: status.dropped });
        assert_eq!(events.len() as u64, status.events + 2, "one behind the gap, and none after the end");
        assert_eq!(recording.meters().unwrap().dropped, Some(status.dropped));
    }

    #[test]
    fn a_file_that_takes_no_more_ends_the_recording_and_nothing_else() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let written = Writer::new(Full, "the file", Head::default()).err().unwrap().to_string();
        assert!(written.contains("writing the file"), "{written}");
        struct Short(usize);
        impl Write for Short {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let engine = engine(Kind::LSM);
        let recorder = Recorder::new(Arc::new(ManualClock::default()), Keeps::default(), veil(), true);
        engine.tap().put(recorder.clone());
        let writer = Writer::new(Short(400), "the file", Head::default()).unwrap();
        assert!(recorder.run(writer, &*engine, &Meters::default).is_err());
        put(&engine, b"key", b"value");
        let status = recorder.status();
        assert!(matches!(&status.state, State::Failed(why) if why.contains("the file")), "{status:?}");
        assert_eq!(status.events, 0);
    }
}
