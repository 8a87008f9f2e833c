//! The measurement of one contender at one point.
//!
//! 1. Open a new store in an empty place; load the key set; *settle*.
//! 2. *Mark*: the disk meter, the kernel's counts, the memory of the process.
//! 3. Run: one put a batch.
//! 4. Read the meters: *unsettled*. Settle; read them again: *settled*.
//! 5. Gets to warm the cache, then gets that are counted.
//!
//! To settle is to flush (checkpoint) and sync, and to work until nothing is left to do: a boundary at which nothing is owed, so
//! that a run is charged with all of its own work and none of another's.
//!
//! Engines on a disk of ours are driven at the simulated pace ([`Pace::Simulated`]). So what is written, in bytes, requests and syncs, follows
//! from the seed and the options, never from the machine or from what else it does. Reads differ by a little, since which entries
//! a cache keeps depends on hashes that are other ones in every process; time and memory are what they are. An engine with a directory of
//! its own works on threads of its own, and what it writes is what the kernel says.

use std::sync::Arc;

use super::row::Row;
use super::work::{KEY_BYTES, Order, Work};
use crate::compare::Error;
use crate::compare::stretch::{self, Stretch, Tally};
use crate::compare::subject::{Counts, Pace, Place, Subject};
use crate::compare::values::Values;
use crate::disk::{Disk, DiskCounters, Purpose};
use crate::engine::{Batch, Options};

/// Measures `name` with `options` in the empty `place`; `gets_max` gets at most, and not more than there were puts. Files are left behind.
pub fn measure(
    place: Place,
    name: &str,
    options: &Options,
    work: &Work,
    gets_max: u64,
) -> Result<Row, Error> {
    let values = Values::new(work.seed, work.point.value_bytes, work.repeat_percent);
    let subject = Subject::open(place, options, Pace::Simulated)?;
    for (key, index) in work.load().zip(0..) {
        subject.apply(&put(key, values.of(index, 0)))?;
    }
    subject.settle()?;

    let run = stretch::measure(&subject, Stretch::WRITES, |_, _| {
        let mut tally = Tally::default();
        for (key, index) in work.puts().zip(0..) {
            let batch = put(key, values.of(index, 1));
            subject.apply(&batch)?;
            tally.ops += 1;
            tally.bytes += batch.bytes();
        }
        Ok(tally)
    })?;
    let gets = gets_max.min(work.puts);
    let (get_bytes, read) = count_gets(&subject, work, gets)?;
    let (unsettled, settled) = (run.unsettled.door, run.settled.door);
    let total = settled.as_ref().map(|door| door.total());
    let read_total = read.door.as_ref().map(|door| door.total());
    let by_purpose = |door: DiskCounters| Purpose::all().map(|it| door.of(it).write_bytes).collect();
    let row = Row {
        contender: name.to_string(),
        data_bytes: work.point.data_bytes,
        value_bytes: work.point.value_bytes,
        update_percent: work.point.update_percent,
        sequential: u64::from(work.order == Order::Sequential),
        seed: work.seed,
        keys: work.keys,
        puts: work.puts,
        logical_bytes: run.tally.bytes,
        unsettled_bytes: unsettled.map(|door| door.total().write_bytes),
        settled_bytes: total.map(|total| total.write_bytes),
        requests: total.map(|total| total.writes),
        syncs: total.map(|total| total.syncs),
        gets,
        get_bytes,
        reads: read_total.map(|total| total.reads),
        read_bytes: read_total.map(|total| total.read_bytes),
        physical_bytes: run.occupied.bytes,
        log_file_bytes: run.occupied.log_bytes,
        live_bytes: work.keys * work.point.entry_bytes(),
        memory_bytes: run.memory_bytes,
        nanos: (run.run + run.settle).as_nanos() as u64,
        written: settled.map_or(Vec::new(), by_purpose),
        kernel_settled_bytes: run.settled.kernel.write_bytes,
        kernel_read_bytes: read.kernel.read_bytes,
        flash_bytes: run.settled.media.map(|media| media.flash.bytes()),
        arm_seeks: run.settled.media.map(|media| media.arm.seeks),
        arm_nanos: run.settled.media.map(|media| media.arm.time().as_nanos() as u64),
    };
    subject.close()?;
    Ok(row)
}

/// Cost of one put of `value_bytes` alone, from settled to settled, in a store with one older value of the key: the accounting
/// of a single entry. `disk` is empty.
pub fn one_put(disk: Arc<dyn Disk>, options: &Options, value_bytes: u64) -> Result<DiskCounters, Error> {
    let subject = Subject::open(disk.into(), options, Pace::Simulated)?;
    let values = Values::new(0, value_bytes, 0);
    let alone = |version| {
        subject.apply(&put(vec![b'k'; KEY_BYTES as usize], values.of(0, version)))?;
        subject.settle()
    };
    alone(0)?;
    let mark = subject.counts()?;
    alone(1)?;
    let counts = subject.counts()?.since(&mark);
    counts.door.ok_or_else(|| Error::Failed("no disk was given".to_string()))
}

fn put(key: Vec<u8>, value: Vec<u8>) -> Batch {
    let mut batch = Batch::new(0);
    batch.put(key, value);
    batch
}

/// Warms the cache with as many gets, then counts `gets` of them: the bytes that they returned, and what was counted meanwhile.
fn count_gets(subject: &Subject, work: &Work, gets: u64) -> Result<(u64, Counts), Error> {
    let (mut bytes, mut mark) = (0, subject.counts()?);
    for (index, key) in work.gets(2 * gets).enumerate() {
        if index as u64 == gets {
            (bytes, mark) = (0, subject.counts()?);
        }
        let Some(value) = subject.get(&key)? else {
            let key = String::from_utf8_lossy(&key).into_owned();
            return Err(Error::Failed(format!("a get: the key {key} was put and is not there")));
        };
        bytes += (key.len() + value.len()) as u64;
    }
    Ok((bytes, subject.counts()?.since(&mark)))
}

#[cfg(test)]
mod tests {
    use super::super::work::Point;
    use super::*;
    use crate::compare::contender::{Contender, is_kept};
    use crate::disk::{Metered, SimDisk};
    use crate::engine;

    fn on(disk: &Arc<Metered>) -> Place {
        let disk: Arc<dyn Disk> = disk.clone();
        disk.into()
    }

    fn work(update_percent: u64) -> Work {
        let point = Point { data_bytes: 300_000, value_bytes: 84, update_percent };
        Work::new(point, Order::Random, 3, 2000, 1 << 20)
    }

    #[test]
    fn a_row_adds_up_to_what_the_disk_below_was_given_and_is_the_same_every_time() {
        for contender in Contender::all() {
            let options = contender.options(256 << 10).unwrap();
            let rows: Vec<Row> = (0..2)
                .map(|_| {
                    let below = Metered::new(SimDisk::new());
                    let row = measure(on(&below), &contender.name, &options, &work(50), 100).unwrap();
                    let settled_bytes = row.settled_bytes.unwrap();
                    assert_eq!(row.written.iter().sum::<u64>(), settled_bytes, "{row:?}");
                    assert_eq!(row.logical_bytes, row.puts * work(50).point.entry_bytes());
                    assert!(
                        row.unsettled_bytes.unwrap() <= settled_bytes && settled_bytes > row.logical_bytes
                    );
                    assert!(below.snapshot().total().write_bytes > settled_bytes, "the load is not in it");
                    let (reads, read_bytes) = (None, None);
                    let (nanos, memory_bytes, kernel_settled_bytes, kernel_read_bytes) = (0, 0, 0, 0);
                    Row {
                        nanos,
                        memory_bytes,
                        reads,
                        read_bytes,
                        kernel_settled_bytes,
                        kernel_read_bytes,
                        ..row
                    }
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
        let work = Work::new(point, Order::Sequential, 1, 1000, 1 << 20);
        assert_eq!((work.loaded, work.puts), (0, 100));
        for contender in Contender::all() {
            let options = contender.options(256 << 10).unwrap();
            let below = Metered::new(SimDisk::new());
            let row = measure(on(&below), &contender.name, &options, &work, 10).unwrap();
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
        let options = Contender::parse("lsm", is_kept).unwrap().options(256 << 10).unwrap();
        let disk: Arc<dyn Disk> = disk;
        let refused = measure(disk.into(), "lsm", &options, &work(100), 1);
        assert!(matches!(refused, Err(Error::Engine { source: engine::Error::NoSpace, .. })), "{refused:?}");
    }
}
