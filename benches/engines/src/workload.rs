//! The workloads, run one by one on the store of one engine and size.
//!
//! Order matters: `fillseq` has a store of its own; every other workload works on what `fillrandom` left, which is made
//! unmeasured if it was not asked for. `delete` comes last, because it takes a quarter of the keys away.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::data::{Picker, Values, key, key_bytes, missing_key, shuffled};
use crate::engines::{self, Change, Contender, Result, Settings};
use crate::phase::{Kind, Plan, Scene, Tally, measure};
use crate::process::{anonymous_bytes, drop_from_cache, trim_heap};
use crate::row::Row;

/// The workloads in their order, each with what it does.
pub const WORKLOADS: &[(&str, &str)] = &[
    ("fillseq", "a quarter of the keys in ascending order, in a store of its own"),
    ("fillrandom", "every key once, in random order"),
    ("readrandom", "point reads of present keys, uniform"),
    ("readzipf", "point reads of present keys, zipfian"),
    ("readmissing", "point reads of absent keys between present ones"),
    ("seek100", "a seek to a random key and 100 entries from there"),
    ("coldread", "readrandom after reopening, nothing in the page cache"),
    ("coldmissing", "readmissing, likewise"),
    ("coldseek100", "seek100, likewise"),
    ("overwrite", "new values for random keys, uniform"),
    ("overwritezipf", "new values for random keys, zipfian"),
    ("mixed", "half reads, half overwrites, zipfian; the second line has the reads' latency"),
    ("sync1", "overwrites that are durable on return, one thread"),
    ("sync4", "the same on four threads"),
    (
        "delete",
        "deletes a quarter of the keys in order; then seeks into them at once and once quiet; then a full scan",
    ),
];

/// Name of the file that says that a store is filled, and how.
const FILLED: &str = "FILLED";
/// How long seeks into deleted keys are tried at most.
const SEEK_LIMIT: Duration = Duration::from_secs(3);

/// How large the data is and how often each thing is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Name on the command line.
    pub name: &'static str,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Keys in the store.
    pub keys: u64,
    fill_batch: u64,
    overwrites: u64,
    gets: u64,
    seeks: u64,
    cold_gets: u64,
    cold_seeks: u64,
    syncs: u64,
}

/// The three sizes at scale 1; each holds 0.5 or 1 GB.
pub const SIZES: [Size; 3] = [
    Size {
        name: "meta",
        value_bytes: 100,
        keys: 1 << 22,
        fill_batch: 16,
        overwrites: 1 << 19,
        gets: 400_000,
        seeks: 20_000,
        cold_gets: 20_000,
        cold_seeks: 1_000,
        syncs: 4_000,
    },
    Size {
        name: "b4k",
        value_bytes: 4 << 10,
        keys: 1 << 18,
        fill_batch: 4,
        overwrites: 1 << 17,
        gets: 100_000,
        seeks: 4_000,
        cold_gets: 10_000,
        cold_seeks: 300,
        syncs: 3_000,
    },
    Size {
        name: "b64k",
        value_bytes: 64 << 10,
        keys: 1 << 14,
        fill_batch: 1,
        overwrites: 1 << 14,
        gets: 20_000,
        seeks: 200,
        cold_gets: 2_000,
        cold_seeks: 30,
        syncs: 1_500,
    },
];

impl Size {
    /// The same with `scale` times the keys and operations; reads and syncs do not fall below what percentiles need.
    pub fn scaled(self, scale: f64) -> Size {
        let times = |count: u64| ((count as f64 * scale) as u64).max(16);
        let at_least = |count: u64, floor: u64| times(count).max(floor.min(count));
        Size {
            keys: times(self.keys),
            overwrites: times(self.overwrites),
            gets: at_least(self.gets, 20_000),
            seeks: at_least(self.seeks, 1_000),
            cold_gets: at_least(self.cold_gets, 2_000),
            cold_seeks: at_least(self.cold_seeks, 100),
            syncs: at_least(self.syncs, 1_000),
            ..self
        }
    }

    /// Key and value bytes of the keys `first..end`.
    pub fn bytes_of(&self, first: u64, end: u64) -> u64 {
        (first..end).map(|index| key_bytes(index) + self.value_bytes).sum()
    }
}

/// The store of one engine and size, and what has been done to it.
pub struct Stage {
    engine: String,
    size: Size,
    settings: Settings,
    limit: Duration,
    home: PathBuf,
    keeps: bool,
    values: Values,
    store: Option<Box<dyn Contender>>,
    scene: Scene,
    /// Counts stretches of writes, so that each writes other values.
    version: u64,
}

impl Stage {
    /// A stage in the directory `home`, of which it takes possession. `limit` cuts each workload but the fill; with `keeps`
    /// the filled store stays there for the next run and is used again if it is there.
    pub fn new(
        engine: &str,
        size: Size,
        settings: Settings,
        limit: Duration,
        home: PathBuf,
        keeps: bool,
    ) -> Result<Stage> {
        if !keeps && home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir_all(&home)?;
        let values = Values::new();
        let scene = Scene {
            directory: home.join("store"),
            live_bytes: size.bytes_of(0, size.keys),
            memory_before_bytes: anonymous_bytes(),
        };
        let engine = engine.to_string();
        Ok(Stage { engine, size, settings, limit, home, keeps, values, store: None, scene, version: 0 })
    }

    /// Runs a workload of [`WORKLOADS`] and returns its lines; none where the engine cannot do it.
    pub fn run(&mut self, workload: &str) -> Result<Vec<Row>> {
        let mut rows = match workload {
            "fillseq" => self.fill_in_order()?,
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
            row.engine.clone_from(&self.engine);
            row.size = self.size.name.to_string();
            row.workload = format!("{workload}{}", row.workload);
        }
        Ok(rows)
    }

    fn run_on_filled(&mut self, workload: &str) -> Result<Vec<Row>> {
        let Size { keys, gets, seeks, cold_gets, cold_seeks, overwrites, syncs, .. } = self.size;
        if workload.starts_with("cold") {
            if !engines::keeps_data(&self.engine) {
                return Ok(Vec::new());
            }
            self.reopen_cold()?;
        }
        self.version += 1;
        let write = Plan { kind: Kind::Write, threads: 1, settles: true, limit: self.limit };
        let durable = Plan { kind: Kind::DurableWrite, ..write };
        let read = Plan { kind: Kind::Read, settles: false, ..write };
        let row = match workload {
            "readrandom" => self
                .measure(read, |stage, _, end| stage.get_all(gets, true, &mut Picker::uniform(keys, 1), end)),
            "readzipf" => {
                self.measure(read, |stage, _, end| stage.get_all(gets, true, &mut Picker::zipf(keys, 2), end))
            }
            "readmissing" => self.measure(read, |stage, _, end| {
                stage.get_all(gets, false, &mut Picker::uniform(keys, 3), end)
            }),
            "seek100" => self.measure(read, |stage, _, end| {
                stage.seek_all(seeks, 100, &mut Picker::uniform(keys, 4), 0, end)
            }),
            "coldread" => self.measure(read, |stage, _, end| {
                stage.get_all(cold_gets, true, &mut Picker::uniform(keys, 5), end)
            }),
            "coldmissing" => self.measure(read, |stage, _, end| {
                stage.get_all(cold_gets / 2, false, &mut Picker::uniform(keys, 6), end)
            }),
            "coldseek100" => self.measure(read, |stage, _, end| {
                stage.seek_all(cold_seeks, 100, &mut Picker::uniform(keys, 7), 0, end)
            }),
            "overwrite" => self.measure(write, |stage, _, end| {
                let mut picker = Picker::uniform(keys, 8);
                stage.put_all(overwrites, 1, false, |_| picker.pick(), end)
            }),
            "overwritezipf" => self.measure(write, |stage, _, end| {
                let mut picker = Picker::zipf(keys, 9);
                stage.put_all(overwrites, 1, false, |_| picker.pick(), end)
            }),
            "mixed" => return self.mix(write),
            "sync1" => self.measure(durable, |stage, _, end| {
                let mut picker = Picker::uniform(keys, 12);
                stage.put_all(syncs, 1, true, |_| picker.pick(), end)
            }),
            "sync4" => self.measure(Plan { threads: 4, ..durable }, |stage, thread, end| {
                let mut picker = Picker::uniform(keys, 13 + thread);
                stage.put_all(syncs, 1, true, |_| picker.pick(), end)
            }),
            "delete" => return self.delete_quarter(write, read),
            _ => Err(format!("no workload '{workload}'").into()),
        };
        Ok(vec![row?])
    }

    /// What the engine says of itself now.
    pub fn report(&self) -> String {
        self.store.as_ref().map_or(String::new(), |store| store.report())
    }

    /// Closes the store and, unless it is to be kept, removes it.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        if !self.keeps {
            fs::remove_dir_all(&self.home)?;
        }
        Ok(())
    }

    fn store(&self) -> Result<&dyn Contender> {
        self.store.as_deref().ok_or_else(|| "the store is not open".into())
    }

    fn open(&mut self) -> Result<()> {
        fs::create_dir_all(&self.scene.directory)?;
        trim_heap();
        self.store = Some(engines::open(&self.engine, &self.scene.directory, &self.settings)?);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.store.take().map_or(Ok(()), Contender::close)
    }

    /// Removes the store.
    fn clear(&mut self) -> Result<()> {
        self.close()?;
        let mark = self.home.join(FILLED);
        if mark.exists() {
            fs::remove_file(mark)?;
        }
        if self.scene.directory.exists() {
            fs::remove_dir_all(&self.scene.directory)?;
        }
        Ok(())
    }

    fn mark(&self) -> String {
        format!("{} keys of {} B\n", self.size.keys, self.size.value_bytes)
    }

    /// Makes sure that a filled store is open.
    fn prepare(&mut self) -> Result<()> {
        if self.store.is_some() {
            return Ok(());
        }
        let is_filled = fs::read_to_string(self.home.join(FILLED)).is_ok_and(|text| text == self.mark());
        if is_filled && engines::keeps_data(&self.engine) {
            return self.open();
        }
        self.clear()?;
        self.fill().map(drop)
    }

    fn reopen_cold(&mut self) -> Result<()> {
        self.close()?;
        drop_from_cache(&self.scene.directory)?;
        self.open()
    }

    fn measure(
        &self,
        plan: Plan,
        body: impl Fn(&Stage, u64, Instant) -> Result<Tally> + Sync,
    ) -> Result<Row> {
        measure(self.store()?, &self.scene, plan, |thread, deadline| body(self, thread, deadline))
    }

    fn fill_in_order(&mut self) -> Result<Vec<Row>> {
        self.close()?;
        let (count, whole) = (self.size.keys / 4, self.scene.clone());
        self.scene.directory = self.home.join("sequential");
        self.scene.live_bytes = self.size.bytes_of(0, count);
        self.open()?;
        let plan = Plan { kind: Kind::Write, threads: 1, settles: true, limit: self.limit };
        let batch = self.size.fill_batch;
        let row =
            self.measure(plan, |stage, _, end| stage.put_all(count, batch, false, |index| index, end))?;
        self.close()?;
        fs::remove_dir_all(&self.scene.directory)?;
        self.scene = whole;
        Ok(vec![row])
    }

    fn fill(&mut self) -> Result<Row> {
        self.open()?;
        // It must end, for everything after it reads every key: an hour only ends what hangs.
        let plan = Plan { kind: Kind::Write, threads: 1, settles: true, limit: Duration::from_secs(3600) };
        let Size { keys, fill_batch, .. } = self.size;
        let row = self.measure(plan, |stage, _, end| {
            stage.put_all(keys, fill_batch, false, |index| shuffled(index, keys), end)
        })?;
        fs::write(self.home.join(FILLED), self.mark())?;
        Ok(row)
    }

    fn mix(&mut self, plan: Plan) -> Result<Vec<Row>> {
        let (count, keys) = (self.size.overwrites, self.size.keys);
        let reads = std::sync::Mutex::new(Tally::new());
        let row = self.measure(plan, |stage, _, end| {
            let (mut picker, mut coin) = (Picker::zipf(keys, 10), Picker::uniform(2, 11));
            let (mut writes, mut gets) = (Tally::new(), Tally::new());
            let mut writer = Writer::new(stage, 1);
            let mut buffer = (Vec::new(), Vec::new());
            while writes.ops + gets.ops < count && !writes.is_cut && !gets.is_cut {
                let index = picker.pick();
                if coin.pick() == 0 {
                    writer.put(&[index], false, &mut writes, end)?;
                } else {
                    stage.get_one(index, true, &mut buffer, &mut gets, end)?;
                }
            }
            writes.ops += gets.ops;
            writes.is_cut |= gets.is_cut;
            *reads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = gets;
            Ok(writes)
        })?;
        let reads = reads.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let quantile = |share| reads.latency.value_at_quantile(share) as f64 / 1000.0;
        let second = Row {
            workload: ":reads".to_string(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: reads.latency.max() as f64 / 1000.0,
            ..row.clone()
        };
        Ok(vec![row, second])
    }

    fn delete_quarter(&mut self, write: Plan, read: Plan) -> Result<Vec<Row>> {
        let (first, end) = (self.size.keys / 4, self.size.keys / 2);
        let (gone, value_bytes) = (end - first, self.size.value_bytes);
        // The store is no longer what the mark says.
        fs::remove_file(self.home.join(FILLED))?;
        self.scene.live_bytes -= self.size.bytes_of(first, end);
        let deletes = self.measure(Plan { settles: false, ..write }, |stage, _, deadline| {
            let (store, mut name, mut tally) = (stage.store()?, Vec::new(), Tally::new());
            for index in first..end {
                key(index, &mut name);
                let since = Instant::now();
                store.write(&[Change::Delete(&name)], false)?;
                // What a delete frees is what it is measured by: key and value.
                if !tally.count(1, name.len() as u64 + value_bytes, since, deadline) {
                    break;
                }
            }
            Ok(tally)
        })?;
        let seeks = |stage: &Stage| {
            stage.measure(Plan { limit: SEEK_LIMIT, ..read }, |stage, _, deadline| {
                stage.seek_all(5_000, 1, &mut Picker::uniform(gone, 14), first, deadline)
            })
        };
        let at_once = Row { workload: ":seek".to_string(), ..seeks(self)? };
        let since = Instant::now();
        let idle = self.store()?.settle()?;
        let settle_s = since.elapsed().saturating_sub(idle).as_secs_f64();
        let quiet = Row { workload: ":seek-quiet".to_string(), settle_s, ..seeks(self)? };
        let scan = self.measure(read, |stage, _, deadline| {
            let (since, mut tally) = (Instant::now(), Tally::new());
            let (entries, bytes) = stage.store()?.scan(b"\0", usize::MAX)?;
            tally.count(entries, bytes, since, deadline);
            Ok(tally)
        })?;
        Ok(vec![deletes, at_once, quiet, Row { workload: ":scan".to_string(), ..scan }])
    }

    /// Puts `count` keys, `batch` in a call, the indices given by `pick`.
    fn put_all(
        &self,
        count: u64,
        batch: u64,
        durable: bool,
        mut pick: impl FnMut(u64) -> u64,
        deadline: Instant,
    ) -> Result<Tally> {
        let (mut tally, mut writer, mut indices) = (Tally::new(), Writer::new(self, batch), Vec::new());
        while tally.ops < count && !tally.is_cut {
            indices.clear();
            indices.extend((tally.ops..count.min(tally.ops + batch)).map(&mut pick));
            writer.put(&indices, durable, &mut tally, deadline)?;
        }
        Ok(tally)
    }

    fn get_all(&self, count: u64, present: bool, picker: &mut Picker, deadline: Instant) -> Result<Tally> {
        let (mut tally, mut buffer) = (Tally::new(), (Vec::new(), Vec::new()));
        while tally.ops < count && !tally.is_cut {
            self.get_one(picker.pick(), present, &mut buffer, &mut tally, deadline)?;
        }
        Ok(tally)
    }

    /// Reads one key and checks the answer.
    fn get_one(
        &self,
        index: u64,
        present: bool,
        (name, value): &mut (Vec<u8>, Vec<u8>),
        tally: &mut Tally,
        deadline: Instant,
    ) -> Result<()> {
        if present {
            key(index, name);
        } else {
            missing_key(index, name);
        }
        let store = self.store()?;
        let since = Instant::now();
        let found = store.get(name, value)?;
        tally.count(1, (name.len() + value.len()) as u64, since, deadline);
        if found != present || (present && !value.starts_with(&index.to_le_bytes())) {
            return Err(format!("{} gave a wrong answer for key {index}", self.engine).into());
        }
        Ok(())
    }

    /// Seeks `count` times to the key `offset` + what `picker` says and visits `length` entries from there.
    fn seek_all(
        &self,
        count: u64,
        length: usize,
        picker: &mut Picker,
        offset: u64,
        deadline: Instant,
    ) -> Result<Tally> {
        let (store, mut name, mut tally) = (self.store()?, Vec::new(), Tally::new());
        while tally.ops < count && !tally.is_cut {
            key(offset + picker.pick(), &mut name);
            let since = Instant::now();
            let (_, bytes) = store.scan(&name, length)?;
            tally.count(1, bytes, since, deadline);
        }
        Ok(tally)
    }
}

/// Buffers for puts: filling them is part of no call's latency.
struct Writer<'a> {
    stage: &'a Stage,
    names: Vec<Vec<u8>>,
    values: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(stage: &'a Stage, batch: u64) -> Writer<'a> {
        let values = vec![0; (stage.size.value_bytes * batch) as usize];
        Writer { stage, names: vec![Vec::new(); batch as usize], values }
    }

    fn put(&mut self, indices: &[u64], durable: bool, tally: &mut Tally, deadline: Instant) -> Result<()> {
        let (store, stage) = (self.stage.store()?, self.stage);
        let value_bytes = stage.size.value_bytes as usize;
        let mut bytes = 0;
        for ((index, name), value) in
            indices.iter().zip(&mut self.names).zip(self.values.chunks_mut(value_bytes))
        {
            key(*index, name);
            stage.values.fill(*index, stage.version, value);
            bytes += (name.len() + value.len()) as u64;
        }
        let changes: Vec<Change<'_>> = (self.names.iter().zip(self.values.chunks(value_bytes)))
            .take(indices.len())
            .map(|(name, value)| Change::Put(name, value))
            .collect();
        let since = Instant::now();
        store.write(&changes, durable)?;
        tally.count(indices.len() as u64, bytes, since, deadline);
        Ok(())
    }
}
