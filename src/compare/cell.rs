//! The measurement of one contender at one point.
//!
//! 1. Open a new store on an empty disk; load the key set; *settle*.
//! 2. *Mark*: the disk meter, the clock, the memory of the process.
//! 3. Run: one put a batch, and after each all background work that there is, on this thread.
//! 4. Read the meter: *unsettled*. Settle; read it again: *settled*.
//! 5. Gets to warm the cache, then gets that are counted.
//!
//! To settle is to flush (checkpoint) and sync, and to work until nothing is left to do: a boundary at which nothing is owed, so
//! that a run is charged with all of its own work and none of another's.
//!
//! Engines see a clock of their own that goes on a millisecond a put. So what is written, in bytes, requests and syncs, follows from
//! the seed and the options, never from the machine or from what else it does. Reads differ by a little, since which entries
//! a cache keeps depends on hashes that are other ones in every process; time and memory are what they are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::row::Row;
use super::workload::{Order, Values, Workload};
use crate::base::clock::{Clock, ManualClock, SystemClock};
use crate::disk::{Disk, Metered, Purpose, Snapshot, read_outside};
use crate::engine::{self, Batch, Command, Engine, Options, Tier, wal};

/// How often the memory of the process is looked at in a run.
const MEMORY_LOOKS: u64 = 400;
/// The time that a put takes on the engine's clock.
const TICK: Duration = Duration::from_millis(1);
/// A writer that is refused this often in a row is not let through any more.
const REFUSALS_MAX: u32 = 10_000;

/// Measures `name` with `options` on the empty `disk`; `gets_max` gets at most, and not more than the bytes of the run. Files
/// are left behind.
pub fn measure(
    disk: Arc<dyn Disk>,
    name: &str,
    options: &Options,
    work: &Workload,
    gets_max: u64,
) -> Result<Row, Error> {
    let mut memory = MemoryPeak::start();
    let mut bench = Bench::open(disk, options)?;
    let mut values = Values::new(work.seed, work.point.value_bytes);
    bench.load(work, &mut values)?;

    let (mark, clock) = (bench.disk.snapshot(), SystemClock::new());
    let look_every = (work.puts / MEMORY_LOOKS).max(1);
    for (index, key) in work.puts().enumerate() {
        let mut batch = Batch::new(0);
        batch.put(key, values.next_value());
        bench.put(&batch)?;
        if (index as u64).is_multiple_of(look_every) {
            memory.look();
        }
    }
    let unsettled = bench.disk.snapshot().since(&mark);
    bench.settle()?;
    let settled = bench.disk.snapshot().since(&mark);
    let nanos = clock.elapsed().as_nanos() as u64;
    memory.look();

    let files = bench.disk.list().map_err(|error| Error::System(format!("listing the store: {error}")))?;
    let of_log = files.iter().filter(|file| wal::is_segment(&file.name));
    let gets = gets_max.min(work.puts);
    let (get_bytes, read) = bench.gets(work, gets)?;
    let row = Row {
        contender: name.to_string(),
        data_bytes: work.point.data_bytes,
        value_bytes: work.point.value_bytes,
        update_percent: work.point.update_percent,
        sequential: u64::from(work.order == Order::Sequential),
        seed: work.seed,
        keys: work.keys,
        puts: work.puts,
        logical_bytes: work.puts * work.point.entry_bytes(),
        unsettled_bytes: unsettled.total().write_bytes,
        settled_bytes: settled.total().write_bytes,
        requests: settled.total().writes,
        syncs: settled.total().syncs,
        gets,
        get_bytes,
        reads: read.total().reads,
        read_bytes: read.total().read_bytes,
        physical_bytes: files.iter().map(|file| file.bytes_allocated).sum(),
        log_file_bytes: of_log.map(|file| file.bytes_allocated).sum(),
        live_bytes: work.keys * work.point.entry_bytes(),
        memory_bytes: memory.peak_bytes.saturating_sub(memory.start_bytes),
        nanos,
        written: Purpose::all().map(|purpose| settled.of(purpose).write_bytes).collect(),
    };
    bench.engine.close().map_err(|error| failed("closing the store", error))?;
    Ok(row)
}

/// What one put of `value_bytes` costs alone, from settled to settled, in a store with one older value of the key: the accounting
/// of a single entry. `disk` is empty.
pub fn one_put(disk: Arc<dyn Disk>, options: &Options, value_bytes: u64) -> Result<Snapshot, Error> {
    let mut bench = Bench::open(disk, options)?;
    let mut values = Values::new(0, value_bytes);
    let mut put = |bench: &mut Bench| {
        let mut batch = Batch::new(0);
        batch.put(vec![b'k'; super::workload::KEY_BYTES as usize], values.next_value());
        bench.put(&batch)?;
        bench.settle()
    };
    put(&mut bench)?;
    let mark = bench.disk.snapshot();
    put(&mut bench)?;
    Ok(bench.disk.snapshot().since(&mark))
}

fn failed(what: &str, error: engine::Error) -> Error {
    Error::System(format!("{what}: {error}"))
}

/// An engine whose background work is done by the one who writes.
struct Bench {
    engine: Arc<dyn Engine>,
    disk: Arc<Metered>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Bench, Error> {
        let (disk, clock) = (Metered::new(disk), Arc::new(ManualClock::default()));
        let engine = engine::open(disk.clone(), clock.clone(), options)
            .map_err(|error| failed("making a store", error))?;
        Ok(Bench { engine, disk, clock })
    }

    fn load(&mut self, work: &Workload, values: &mut Values) -> Result<(), Error> {
        for key in work.load() {
            let mut batch = Batch::new(0);
            batch.put(key, values.next_value());
            self.put(&batch)?;
        }
        self.settle()
    }

    /// Applies a batch and does the work that it caused.
    fn put(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut refusals = 0;
        while let Err(error) = self.engine.apply(batch, Tier::Disk) {
            let engine::Error::Busy { retry_after, .. } = error else { return Err(failed("a put", error)) };
            refusals += 1;
            if refusals > REFUSALS_MAX {
                return Err(failed("a put waits for what never comes", error));
            }
            self.work()?;
            self.clock.advance(retry_after);
        }
        self.clock.advance(TICK);
        self.work()
    }

    fn work(&self) -> Result<(), Error> {
        engine::settle(&*self.engine).map_err(|error| failed("background work", error))
    }

    fn settle(&self) -> Result<(), Error> {
        engine::run(&*self.engine, Command::Flush).map_err(|error| failed("a flush", error))?;
        engine::sync(&*self.engine).map_err(|error| failed("a sync", error))?;
        self.work()
    }

    /// Warms the cache with as many gets, then counts `gets` of them: the bytes that they returned, and what the disk did.
    fn gets(&self, work: &Workload, gets: u64) -> Result<(u64, Snapshot), Error> {
        let (mut bytes, mut mark) = (0, self.disk.snapshot());
        for (index, key) in work.gets(2 * gets).enumerate() {
            if index as u64 == gets {
                (bytes, mark) = (0, self.disk.snapshot());
            }
            let value = self.engine.get(&key, Tier::Disk).map_err(|error| failed("a get", error))?;
            let Some(value) = value else {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(Error::System(format!("a get: the key {key} was put and is not there")));
            };
            bytes += (key.len() + value.len()) as u64;
        }
        Ok((bytes, self.disk.snapshot().since(&mark)))
    }
}

/// The most anonymous memory that was seen.
struct MemoryPeak {
    start_bytes: u64,
    peak_bytes: u64,
}

impl MemoryPeak {
    fn start() -> MemoryPeak {
        MemoryPeak { start_bytes: anonymous_bytes(), peak_bytes: 0 }
    }

    fn look(&mut self) {
        self.peak_bytes = self.peak_bytes.max(anonymous_bytes());
    }
}

/// `RssAnon` of this process; 0 where the system does not say.
fn anonymous_bytes() -> u64 {
    let text = read_outside(Path::new("/proc/self/status")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::super::contender::Contender;
    use super::super::workload::Point;
    use super::*;
    use crate::disk::SimDisk;

    fn work(update_percent: u64) -> Workload {
        let point = Point { data_bytes: 300_000, value_bytes: 84, update_percent };
        Workload::new(point, Order::Random, 3, 2000, 1 << 20)
    }

    #[test]
    fn a_row_adds_up_to_what_the_disk_below_was_given_and_is_the_same_every_time() {
        for contender in Contender::all() {
            let options = contender.options(256 << 10).unwrap();
            let rows: Vec<Row> = (0..2)
                .map(|_| {
                    let below = Metered::new(SimDisk::new());
                    let row = measure(below.clone(), &contender.name, &options, &work(50), 100).unwrap();
                    assert_eq!(row.written.iter().sum::<u64>(), row.settled_bytes, "{row:?}");
                    assert!(
                        row.unsettled_bytes <= row.settled_bytes && row.settled_bytes > row.logical_bytes
                    );
                    assert!(
                        below.snapshot().total().write_bytes > row.settled_bytes,
                        "the load is not in it"
                    );
                    Row { nanos: 0, memory_bytes: 0, reads: 0, read_bytes: 0, ..row }
                })
                .collect();
            assert_eq!(rows[0], rows[1], "{}", contender.name);
        }
    }

    #[test]
    fn an_empty_start_leaves_nothing_out() {
        // Only inserts, and the whole key set in the run: all that the disk is given belongs to it, but for making the store and
        // closing it.
        let point = Point { data_bytes: 100_000, value_bytes: 984, update_percent: 0 };
        let work = Workload::new(point, Order::Sequential, 1, 1000, 1 << 20);
        assert_eq!((work.loaded, work.puts), (0, 100));
        for contender in Contender::all() {
            let options = contender.options(256 << 10).unwrap();
            let below = Metered::new(SimDisk::new());
            let row = measure(below.clone(), &contender.name, &options, &work, 10).unwrap();
            for (purpose, bytes) in Purpose::all().zip(&row.written) {
                let total = below.snapshot().of(purpose).write_bytes;
                let is_of_opening = matches!(purpose, Purpose::Manifest | Purpose::Recovery | Purpose::Wal);
                let slack = if is_of_opening { 64 << 10 } else { 0 };
                assert!(
                    *bytes <= total && total - bytes <= slack,
                    "{}: {}: {bytes} of {total}",
                    contender.name,
                    purpose.name()
                );
            }
        }
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(100_000));
        let options = Contender::parse("lsm").unwrap().options(256 << 10).unwrap();
        assert!(matches!(measure(disk, "lsm", &options, &work(100), 1), Err(Error::System(_))));
    }
}
