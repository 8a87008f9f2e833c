//! Door 2: counts what the filesystem asks of the engine, by kind of key and by file operation. A decorator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::tap::Request;
use super::{
    Asked, Background, Batch, Done, Engine, Error, Inspect, KeyRange, Kind, Lsn, Operation, Promise,
    ReadAhead, ReadTrace, Result, Snapshot, TapSlot, Tier, Visit,
};
use crate::base::metric::metrics;

/// Index of a key's kind, given by the filesystem's classifier; below [`KINDS`].
pub type KeyKind = u8;

/// Kinds of keys that are told apart.
pub const KINDS: usize = 8;
/// Tags that are told apart.
pub const TAGS: usize = 64;

metrics! {
    /// Requests for keys of one kind.
    #[derive(Copy, Eq)]
    pub struct KindCounters counted by KindMeter witness "stats::asked::keys_are_counted_by_kind_and_by_operation" {
        /// Point reads.
        counter gets: u64 [Count, family "kvfs_kv_gets_total"];
        /// Point reads that found the key.
        counter hits: u64 [Count];
        /// Bytes of the keys and values that point reads found.
        counter get_bytes: u64 [Bytes];
        /// Puts.
        counter puts: u64 [Count];
        /// Bytes of the keys and values put.
        counter put_bytes: u64 [Bytes, family "kvfs_kv_put_bytes_total"];
        /// Deletes.
        counter deletes: u64 [Count];
        /// Bytes of the keys deleted.
        counter delete_bytes: u64 [Bytes];
        /// Entries visited by scans.
        counter scanned: u64 [Count];
        /// Bytes of the keys and values visited by scans.
        counter scanned_bytes: u64 [Bytes];
    }
}

metrics! {
    /// Requests of the batches of one file operation.
    #[derive(Copy, Eq)]
    pub struct TagCounters counted by TagMeter witness "stats::asked::keys_are_counted_by_kind_and_by_operation" {
        /// Door 2: batches that the operation applied.
        counter batches: u64 [Count, key "kv_batches"];
        /// Door 2: keys that the operation put.
        counter puts: u64 [Count, key "kv_puts"];
        /// Door 2: keys that the operation deleted.
        counter deletes: u64 [Count, key "kv_deletes"];
        /// Door 2: bytes of keys and values that the operation put or deleted, its share of L.
        counter bytes: u64 [Bytes, key "kv_bytes"];
    }
}

/// An engine that counts what passes to `engine`.
pub struct MeteredEngine {
    engine: Arc<dyn Engine>,
    meters: Arc<Meters>,
}

/// What is counted, and who looks on: of one engine, or of all states of one that is followed.
struct Meters {
    classify: fn(&[u8]) -> KeyKind,
    kinds: [KindMeter; KINDS],
    tags: [TagMeter; TAGS],
    scans: AtomicU64,
    trace: ReadTrace,
    tap: TapSlot,
    /// Whether there is a refusal, so that a batch which is taken need not look.
    is_refusing: AtomicBool,
    refusal: Mutex<Option<Error>>,
}

impl MeteredEngine {
    /// Counts from zero; `classify` gives the kind of a key.
    pub fn new(engine: Arc<dyn Engine>, classify: fn(&[u8]) -> KeyKind) -> Arc<MeteredEngine> {
        let meters = Meters {
            classify,
            kinds: std::array::from_fn(|_| KindMeter::default()),
            tags: std::array::from_fn(|_| TagMeter::default()),
            scans: AtomicU64::new(0),
            trace: ReadTrace::default(),
            tap: TapSlot::default(),
            is_refusing: AtomicBool::new(false),
            refusal: Mutex::default(),
        };
        Arc::new(MeteredEngine { engine, meters: Arc::new(meters) })
    }

    /// Another state of the engine, counted together with this one.
    pub fn beside(&self, engine: Arc<dyn Engine>) -> Arc<MeteredEngine> {
        Arc::new(MeteredEngine { engine, meters: self.meters.clone() })
    }

    /// Counters by kind of key.
    pub fn kinds(&self) -> [KindCounters; KINDS] {
        std::array::from_fn(|index| self.meters.kinds[index].snapshot())
    }

    /// Counters by batch tag.
    pub fn tags(&self) -> [TagCounters; TAGS] {
        std::array::from_fn(|index| self.meters.tags[index].snapshot())
    }

    /// The kind of a key.
    pub fn kind_of(&self, key: &[u8]) -> KeyKind {
        (self.meters.classify)(key)
    }

    /// Scans begun.
    pub fn scans(&self) -> u64 {
        self.meters.scans.load(Relaxed)
    }

    /// The error that the last batch got, if it was refused and none that takes space was taken since: whatever the engine's reason is.
    pub fn refusal(&self) -> Option<Error> {
        self.meters.refusal.lock().clone()
    }

    /// Keeps in mind what became of a batch. To wait is not to be refused, and what gives space back proves nothing for what takes it.
    fn note_outcome<T>(&self, batch: &Batch, result: &Result<T>) {
        match result {
            Err(Error::WouldBlock | Error::Busy { .. }) => {}
            // What a change of one page needs and cannot be read is no reason for others.
            Err(error) if error.unread_file().is_some() => {}
            Err(error) => {
                *self.meters.refusal.lock() = Some(error.clone());
                self.meters.is_refusing.store(true, Relaxed);
            }
            Ok(_) if self.meters.is_refusing.load(Relaxed) && !batch.uses_reserve && !batch.is_empty() => {
                *self.meters.refusal.lock() = None;
                self.meters.is_refusing.store(false, Relaxed);
            }
            Ok(_) => {}
        }
    }

    /// The live trace of reads.
    pub fn trace(&self) -> &ReadTrace {
        &self.meters.trace
    }

    /// The engine behind the meter, for whoever reads it and is not to be counted.
    pub fn uncounted(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The place for a tap.
    pub fn tap(&self) -> &TapSlot {
        &self.meters.tap
    }

    fn kind(&self, key: &[u8]) -> &KindMeter {
        &self.meters.kinds[usize::from((self.meters.classify)(key)) % KINDS]
    }
}

impl Engine for MeteredEngine {
    fn kind(&self) -> Kind {
        self.engine.kind()
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        if self.meters.trace.wants() {
            let probes = self.engine.explain(key, tier)?;
            self.meters.trace.note(key, Asked::Get(probes));
        }
        let began = self.meters.tap.begin();
        // Counted after the call: one that answers WouldBlock is asked again and counts then.
        let found = self.engine.get(key, tier)?;
        self.meters.tap.note(began, |tap, request| tap.get(request, key, found.as_ref().map(Bytes::len)));
        let slot = self.kind(key);
        slot.gets.fetch_add(1, Relaxed);
        if let Some(value) = &found {
            slot.hits.fetch_add(1, Relaxed);
            slot.get_bytes.fetch_add((key.len() + value.len()) as u64, Relaxed);
        }
        Ok(found)
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let (mut count, mut bytes) = (0, 0);
        let began = self.meters.tap.begin();
        let result = self.engine.scan(range, tier, &mut |key, value| {
            count += 1;
            bytes += (key.len() + value.len()) as u64;
            visit(key, value)
        });
        if result.is_ok() {
            self.meters.tap.note(began, |tap, request| tap.scan(request, range, count, bytes));
            let slot = self.kind(range.start);
            self.meters.scans.fetch_add(1, Relaxed);
            slot.scanned.fetch_add(count, Relaxed);
            slot.scanned_bytes.fetch_add(bytes, Relaxed);
            if self.meters.trace.wants() {
                self.meters.trace.note(range.start, Asked::Scan { entries: count, bytes });
            }
        }
        result
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        let began = self.meters.tap.begin();
        let result = self.engine.apply(batch, tier);
        self.note_outcome(batch, &result);
        let lsn = result?;
        if !batch.is_empty() {
            let of_batch = |request| Request { tag: batch.tag, ..request };
            self.meters.tap.note(began, |tap, request| tap.batch(of_batch(request), batch, lsn));
        }
        let tag = &self.meters.tags[usize::from(batch.tag) % TAGS];
        let (mut puts, mut deletes) = (0, 0);
        for operation in batch.operations() {
            let slot = self.kind(operation.key());
            match operation {
                Operation::Put { .. } => {
                    puts += 1;
                    slot.puts.fetch_add(1, Relaxed);
                    slot.put_bytes.fetch_add(operation.bytes(), Relaxed);
                }
                Operation::Delete { .. } => {
                    deletes += 1;
                    slot.deletes.fetch_add(1, Relaxed);
                    slot.delete_bytes.fetch_add(operation.bytes(), Relaxed);
                }
            }
        }
        if puts + deletes > 0 {
            tag.batches.fetch_add(1, Relaxed);
            tag.puts.fetch_add(puts, Relaxed);
            tag.deletes.fetch_add(deletes, Relaxed);
            tag.bytes.fetch_add(batch.bytes(), Relaxed);
        }
        Ok(lsn)
    }

    fn lsn(&self) -> Lsn {
        self.engine.lsn()
    }
    fn sync_to(&self, lsn: Lsn, done: Done) {
        match self.meters.tap.note_sync() {
            Some((tap, number)) => {
                let done = Box::new(move |result| {
                    tap.synced(number);
                    done(result);
                });
                self.engine.sync_to(lsn, done);
            }
            None => self.engine.sync_to(lsn, done),
        }
    }
    fn promise(&self) -> Promise {
        self.engine.promise()
    }
    fn close(&self) -> Result<()> {
        self.engine.close()
    }
    fn background(&self) -> Option<&dyn Background> {
        self.engine.background()
    }
    fn inspect(&self) -> Option<&dyn Inspect> {
        self.engine.inspect()
    }
    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        self.engine.read_ahead()
    }
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.engine.snapshot()
    }
}
