//! The store of one contender and size, on which the workloads run one by one.
//!
//! Order matters: `fillseq` has a store of its own; every other workload works on what `fillrandom` left, which is made
//! unmeasured if it was not asked for. `delete` comes last, because it takes a quarter of the keys away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys::{Picker, key, missing_key, shuffled};
use super::mixed::Mix;
use super::plan::{Plan, Size};
use super::row::Row;
use crate::compare::Error;
use crate::compare::contender::Contender;
use crate::compare::stretch::{self, Measured, Stretch, Tally};
use crate::compare::subject::{Pace, Place, Subject};
use crate::compare::values::Values;
use crate::disk::{self, Access, Disk, OsDisk, Purpose};
use crate::engine::{Batch, Options};

/// The file that says that a store is filled, and how.
const FILLED: &str = "FILLED";
/// Longest time for seeks into deleted keys.
const SEEK_LIMIT: Duration = Duration::from_secs(3);
/// A fill must end, for everything after it reads every key: an hour only ends what hangs.
const FILL_LIMIT: Duration = Duration::from_secs(3600);
/// Part of the keys that `mixedhot` uses, one part in so many.
const HOT_SHARE: u64 = 32;
/// Threads of `sync4`.
const SYNC_THREADS: u64 = 4;

/// The store, and what has been done to it.
pub struct Stage {
    contender: Contender,
    pub(super) size: Size,
    options: Options,
    limit: Duration,
    keeps: bool,
    values: Values,
    /// Where everything of it lies; locked.
    home: Arc<OsDisk>,
    path: PathBuf,
    /// Where the open store lies, or the next one will.
    store: PathBuf,
    subject: Option<Subject>,
    live_bytes: u64,
    /// Counts stretches of writes, so that each writes other values.
    version: u64,
}

impl Stage {
    /// A stage below the directory `above`, in one of its own that it takes possession of: whatever a run of other sizes left there goes.
    pub fn new(plan: &Plan, contender: &Contender, size: Size, above: &Path) -> Result<Stage, Error> {
        let path = above.join(format!("{}-{}-{}", contender.file_name(), size.data_bytes, size.value_bytes));
        let failed = |error| Error::io(path.display(), error);
        if !plan.keeps {
            disk::remove_tree(&path).map_err(failed)?;
        }
        Ok(Stage {
            contender: contender.clone(),
            size,
            options: contender.options(plan.memory_bytes)?,
            limit: plan.limit,
            keeps: plan.keeps,
            values: Values::new(plan.seed, size.value_bytes, plan.repeat_percent),
            // Its lock is its own: others begin beside it at this moment.
            home: OsDisk::open(&path, Access::Write).map_err(failed)?,
            store: path.join("store"),
            path,
            subject: None,
            live_bytes: size.bytes_of(0, size.keys),
            version: 0,
        })
    }

    /// Runs a workload and returns its lines; none where the engine cannot do it.
    pub fn run(&mut self, workload: &str) -> Result<Vec<Row>, Error> {
        let mut rows = match workload {
            "fillseq" => vec![self.fill_in_order()?],
            "fillrandom" => {
                self.clear()?;
                vec![self.fill()?]
            }
            _ => {
                self.prepare()?;
                self.run_on_filled(workload)?
            }
        };
        for row in &mut rows {
            row.contender.clone_from(&self.contender.name);
            (row.data_bytes, row.value_bytes) = (self.size.data_bytes, self.size.value_bytes);
            row.workload = format!("{workload}{}", row.workload);
        }
        Ok(rows)
    }

    fn run_on_filled(&mut self, workload: &str) -> Result<Vec<Row>, Error> {
        let Size { keys, gets, seeks, cold_gets, cold_seeks, overwrites, syncs, .. } = self.size;
        if workload.starts_with("cold") {
            if !self.contender.kind.keeps {
                return Ok(Vec::new());
            }
            self.reopen_cold()?;
        }
        self.version += 1;
        let read = Stretch { limit: Some(self.limit), ..Stretch::READS };
        let write = Stretch { limit: Some(self.limit), ticks: true, grows: true, ..Stretch::WRITES };
        let durable = Stretch { ticks: false, ..write };
        let row = match workload {
            "readrandom" => self.get_all(read, gets, true, &|| Picker::uniform(keys, 1)),
            "readzipf" => self.get_all(read, gets, true, &|| Picker::zipf(keys, 2)),
            "readmissing" => self.get_all(read, gets, false, &|| Picker::uniform(keys, 3)),
            "seek100" => self.seek_all(read, seeks, 100, 0, &|| Picker::uniform(keys, 4)),
            "coldread" => self.get_all(read, cold_gets, true, &|| Picker::uniform(keys, 5)),
            "coldmissing" => self.get_all(read, cold_gets, false, &|| Picker::uniform(keys, 6)),
            "coldseek100" => self.seek_all(read, cold_seeks, 100, 0, &|| Picker::uniform(keys, 7)),
            "overwrite" => self.put_all(write, overwrites, 1, false, |_, _| Picker::uniform(keys, 8)),
            "overwritezipf" => self.put_all(write, overwrites, 1, false, |_, _| Picker::zipf(keys, 9)),
            "mixed" => return self.mix(write, Mix::half_zipf(keys)),
            "mixeduniform" => return self.mix(write, Mix::half(move || Picker::uniform(keys, 10))),
            "mixedreads" => return self.mix(write, Mix { reads_percent: 95, ..Mix::half_zipf(keys) }),
            "mixeduniformreads" => {
                return self
                    .mix(write, Mix { reads_percent: 95, ..Mix::half(move || Picker::uniform(keys, 10)) });
            }
            "mixedcold" => return self.mix(write, Mix::half(move || Picker::each(keys, shuffled))),
            "mixedhot" => return self.mix(write, Mix::half(move || Picker::scattered(keys, HOT_SHARE, 10))),
            "mixedscan" => return self.mix_beside_a_scan(write),
            "moving" => return self.move_hot(write),
            "sync1" => self.put_all(durable, syncs, 1, true, |_, _| Picker::uniform(keys, 12)),
            "sync4" => {
                let durable = Stretch { threads: SYNC_THREADS, ..durable };
                self.put_all(durable, syncs, 1, true, |thread, _| Picker::uniform(keys, 13 + thread))
            }
            "delete" => return self.delete_quarter(write, read),
            _ => Err(Error::Failed(format!("no workload '{workload}'"))),
        };
        Ok(vec![row?])
    }

    /// The engine's own report now.
    pub fn report(&self) -> String {
        self.subject.as_ref().map_or(String::new(), Subject::report)
    }

    /// Closes the store and, unless it is to be kept, removes it.
    pub fn finish(mut self) -> Result<(), Error> {
        self.close()?;
        if self.keeps {
            return Ok(());
        }
        disk::remove_tree(&self.path).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(self.path.display(), error)
    }

    pub(super) fn subject(&self) -> Result<&Subject, Error> {
        self.subject.as_ref().ok_or_else(|| Error::Failed("the store is not open".to_string()))
    }

    fn open(&mut self) -> Result<(), Error> {
        let place = Place::below(&self.store, self.contender.kind, true)?;
        self.subject = Some(Subject::open(place, &self.options, Pace::Live)?);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        self.subject.take().map_or(Ok(()), Subject::close)
    }

    /// Removes the store.
    fn clear(&mut self) -> Result<(), Error> {
        self.close()?;
        self.unmark()?;
        disk::remove_tree(&self.store).map_err(|error| self.failed(error))
    }

    /// Text of the mark of a filled store.
    fn mark(&self) -> String {
        format!("{} keys, values of {} bytes\n", self.size.keys, self.size.value_bytes)
    }

    /// From here on the store is not what the mark says.
    fn unmark(&self) -> Result<(), Error> {
        match self.home.remove(FILLED) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| self.failed(error)),
        }
    }

    /// Makes sure that a filled store is open.
    fn prepare(&mut self) -> Result<(), Error> {
        if self.subject.is_some() {
            return Ok(());
        }
        let mark = disk::read_outside(&self.path.join(FILLED));
        if mark.is_ok_and(|text| text == self.mark().as_bytes()) && self.contender.kind.keeps {
            return self.open();
        }
        self.clear()?;
        self.fill().map(drop)
    }

    fn reopen_cold(&mut self) -> Result<(), Error> {
        self.close()?;
        disk::drop_from_cache(&self.store).map_err(|error| self.failed(error))?;
        self.open()
    }

    pub(super) fn row(&self, measured: &Measured, writes: bool) -> Result<Row, Error> {
        let keeps_prefix = u64::from(self.subject()?.promise().prefix);
        Ok(Row { keeps_prefix, ..Row::of(measured, writes, self.live_bytes) })
    }

    fn fill_in_order(&mut self) -> Result<Row, Error> {
        self.close()?;
        let (count, store, live_bytes) = (self.size.keys / 4, self.store.clone(), self.live_bytes);
        self.store = self.path.join("sequential");
        self.live_bytes = self.size.bytes_of(0, count);
        self.open()?;
        let how = Stretch { limit: Some(self.limit), ticks: true, grows: true, ..Stretch::WRITES };
        let row = self
            .put_all(how, count, self.size.fill_batch, false, |_, _| Picker::each(count, |index, _| index))?;
        self.close()?;
        disk::remove_tree(&self.store).map_err(|error| self.failed(error))?;
        (self.store, self.live_bytes) = (store, live_bytes);
        Ok(row)
    }

    fn fill(&mut self) -> Result<Row, Error> {
        self.open()?;
        let how = Stretch { limit: Some(FILL_LIMIT), ticks: true, grows: true, ..Stretch::WRITES };
        let Size { keys, fill_batch, .. } = self.size;
        let row = self.put_all(how, keys, fill_batch, false, |_, _| Picker::each(keys, shuffled))?;
        if row.is_cut == 1 {
            return Err(Error::Failed(format!("{} was not filled within an hour", self.contender.name)));
        }
        disk::replace(&*self.home, Purpose::Manifest, FILLED, self.mark().as_bytes())
            .map_err(|error| self.failed(error))?;
        Ok(row)
    }

    /// Puts `count` keys a thread, `batch` in a call, those that a picker of the thread says.
    fn put_all(
        &self,
        how: Stretch,
        count: u64,
        batch: u64,
        durable: bool,
        picker: impl Fn(u64, u64) -> Picker + Sync,
    ) -> Result<Row, Error> {
        let subject = self.subject()?;
        let measured = stretch::measure(subject, how, |thread, deadline| {
            let (mut tally, mut picker) = (Tally::timed(), picker(thread, count));
            while tally.ops < count && !tally.is_cut {
                let puts = batch.min(count - tally.ops);
                let changes = self.puts((0..puts).map(|_| picker.pick()));
                let since = Instant::now();
                let lsn = subject.apply(&changes)?;
                if durable {
                    subject.sync_to(lsn)?;
                }
                tally.count(puts, changes.bytes(), since, deadline);
            }
            Ok(tally)
        })?;
        self.row(&measured, true)
    }

    /// A batch of puts. Making it is part of no call's time.
    pub(super) fn puts(&self, indices: impl Iterator<Item = u64>) -> Batch {
        let mut batch = Batch::new(0);
        for index in indices {
            batch.put(key(index), self.values.of(index, self.version));
        }
        batch
    }

    /// Reads the keys that the picker says, `count` of them, or keys beside them that are not there.
    fn get_all(
        &self,
        how: Stretch,
        count: u64,
        present: bool,
        picker: &(dyn Fn() -> Picker + Sync),
    ) -> Result<Row, Error> {
        let measured = stretch::measure(self.subject()?, how, |_, deadline| {
            let (mut tally, mut picker) = (Tally::timed(), picker());
            while tally.ops < count && !tally.is_cut {
                self.get_one(picker.pick(), present, &mut tally, deadline)?;
            }
            Ok(tally)
        })?;
        self.row(&measured, false)
    }

    /// Reads one key and checks the answer.
    pub(super) fn get_one(
        &self,
        index: u64,
        present: bool,
        tally: &mut Tally,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let name = if present { key(index) } else { missing_key(index) };
        let subject = self.subject()?;
        let since = Instant::now();
        let found = subject.get(&name)?;
        let bytes = name.len() + found.as_ref().map_or(0, |value| value.len());
        tally.count(1, bytes as u64, since, deadline);
        let is_right = match &found {
            Some(value) => present && self.values.is_of(index, value),
            None => !present,
        };
        if is_right {
            Ok(())
        } else {
            Err(Error::Failed(format!("{} gave a wrong answer for key {index}", self.contender.name)))
        }
    }

    /// Seeks `count` times to the key `offset` + what the picker says and visits `length` entries from there.
    fn seek_all(
        &self,
        how: Stretch,
        count: u64,
        length: u64,
        offset: u64,
        picker: &(dyn Fn() -> Picker + Sync),
    ) -> Result<Row, Error> {
        let subject = self.subject()?;
        let measured = stretch::measure(subject, how, |_, deadline| {
            let (mut tally, mut picker) = (Tally::timed(), picker());
            while tally.ops < count && !tally.is_cut {
                let name = key(offset + picker.pick());
                let since = Instant::now();
                let (_, bytes) = subject.scan(&name, length)?;
                tally.count(1, bytes, since, deadline);
            }
            Ok(tally)
        })?;
        self.row(&measured, false)
    }

    fn delete_quarter(&mut self, write: Stretch, read: Stretch) -> Result<Vec<Row>, Error> {
        let (first, end) = (self.size.keys / 4, self.size.keys / 2);
        let (gone, value_bytes) = (end - first, self.size.value_bytes);
        self.unmark()?;
        self.live_bytes -= self.size.bytes_of(first, end);
        let subject = self.subject()?;
        let deleted = stretch::measure(subject, Stretch { settles: false, ..write }, |_, deadline| {
            let mut tally = Tally::timed();
            for index in first..end {
                let mut change = Batch::new(0);
                change.delete(key(index));
                let since = Instant::now();
                subject.apply(&change)?;
                // What a delete frees is what it is measured by: key and value.
                if !tally.count(1, change.bytes() + value_bytes, since, deadline) {
                    break;
                }
            }
            Ok(tally)
        })?;
        let deletes = self.row(&deleted, true)?;
        let seeks = || {
            let how = Stretch { limit: Some(SEEK_LIMIT), ..read };
            self.seek_all(how, 5_000, 1, first, &|| Picker::uniform(gone, 14))
        };
        let at_once = Row { workload: ":seek".to_string(), ..seeks()? };
        let since = Instant::now();
        let idle = subject.settle()?;
        let settle_nanos = since.elapsed().saturating_sub(idle).as_nanos() as u64;
        let quiet = Row { workload: ":seek-quiet".to_string(), settle_nanos, ..seeks()? };
        let scanned = stretch::measure(subject, read, |_, deadline| {
            let (since, mut tally) = (Instant::now(), Tally::timed());
            let (entries, bytes) = subject.scan(b"\0", u64::MAX)?;
            tally.count(entries, bytes, since, deadline);
            Ok(tally)
        })?;
        let scan = Row { workload: ":scan".to_string(), ..self.row(&scanned, false)? };
        Ok(vec![deletes, at_once, quiet, scan])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::compare::arguments;

    #[test]
    fn stages_begin_side_by_side_in_one_directory() {
        let place = tempfile::tempdir().unwrap();
        let above = place.path().join("stages");
        let line = "--workloads all --sizes 1M --values 100 --engines lsm,btree,mem,hybrid";
        let plan = Plan::new(&arguments::parse(line).unwrap()).unwrap();
        for _ in 0..20 {
            let (gate, plan, above) = (&Barrier::new(plan.contenders.len()), &plan, &above);
            let begun: Vec<Result<(), Error>> = std::thread::scope(|scope| {
                let begin = |contender| {
                    move || {
                        gate.wait();
                        Stage::new(plan, contender, plan.sizes[0], above).map(drop)
                    }
                };
                let threads: Vec<_> = plan.contenders.iter().map(|one| scope.spawn(begin(one))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            begun.into_iter().collect::<Result<Vec<()>, Error>>().unwrap();
        }
    }
}
