//! One measured line: the counts of a workload on an engine, the ratios that follow from them, and all of it as CSV and JSON.

use serde_json::{Map, Value};

use crate::compare::csv::{columns, ratio, share};
use crate::compare::stretch::Measured;
use crate::disk::Purpose;

/// Cores used by others above which a line is marked: its rates are not worth comparing.
pub const NOISE_CORES: f64 = 0.3;

/// Result of one workload on one engine. It is as wide as a line of the file: each field is a column. What nobody measures is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The contender's name.
    pub contender: String,
    /// The workload, such as `fillrandom`; a part of one after a colon.
    pub workload: String,
    /// Size of the whole key set, as it was asked for.
    pub data_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// 1 if it writes: what reads write is not held against them.
    pub writes: u64,
    /// 1 if a crash leaves a prefix of the history, so that it may be compared with others that promise as much.
    pub keeps_prefix: u64,
    /// 1 if the time ran out before every operation was done.
    pub is_cut: u64,
    /// Operations done.
    pub ops: u64,
    /// Key and value bytes written, or returned by reads. Deletes count the key and value that they free.
    pub logical_bytes: u64,
    /// Time of the work.
    pub run_nanos: u64,
    /// Time until nothing was owed after it; 0 where that is not waited for.
    pub settle_nanos: u64,
    /// Time of everything.
    pub whole_nanos: u64,
    /// Median time of a call.
    pub p50_nanos: u64,
    /// 99th percentile.
    pub p99_nanos: u64,
    /// 99.9th percentile.
    pub p999_nanos: u64,
    /// The longest call.
    pub max_nanos: u64,
    /// Bytes that door 3 saw written, until settled.
    pub door_write_bytes: Option<u64>,
    /// Of these, up to the last call.
    pub door_unsettled_bytes: Option<u64>,
    /// Of these, log records, page images in the log, and preparation of segments.
    pub door_log_bytes: Option<u64>,
    /// Write requests that door 3 saw.
    pub door_writes: Option<u64>,
    /// Syncs of files.
    pub door_syncs: Option<u64>,
    /// Bytes read.
    pub door_read_bytes: Option<u64>,
    /// Read requests.
    pub door_reads: Option<u64>,
    /// `write_bytes` of `/proc/self/io`, until settled: whole pages made dirty, or whole folios of up to megabytes where the kernel
    /// caches the file in such.
    pub kernel_write_bytes: u64,
    /// `wchar` of it: bytes handed to write calls.
    pub kernel_asked_write_bytes: u64,
    /// `read_bytes` of it: fetched from the device.
    pub kernel_read_bytes: u64,
    /// Bytes that the device wrote meanwhile, for everybody, the filesystem's journal among them.
    pub device_write_bytes: Option<u64>,
    /// Bytes that files occupied at the end.
    pub occupied_bytes: u64,
    /// The most that they occupied, sampled.
    pub occupied_peak_bytes: u64,
    /// Key and value bytes that are alive at the end.
    pub live_bytes: u64,
    /// The most anonymous memory, above what the process held before it opened the engine.
    pub memory_peak_bytes: u64,
    /// Time that writers were held back, all threads together, as far as the engine says.
    pub stall_nanos: u64,
    /// Point reads that the engine counted.
    pub gets: Option<u64>,
    /// Structures that they asked: memtables, tables, pages.
    pub structures: Option<u64>,
    /// Of these reads, those that the tree of a hybrid answered.
    pub hot_gets: Option<u64>,
    /// Bytes of the tree of a hybrid, at the end.
    pub hot_bytes: Option<u64>,
    /// Bytes of its levels.
    pub cold_bytes: Option<u64>,
    /// Time from when other keys became the hot ones until the rate was again [`RECOVERED_SHARE`](super::pulse::RECOVERED_SHARE) of that before.
    pub recovery_nanos: Option<u64>,
    /// Processor time of the process.
    pub processor_nanos: u64,
    /// Processor time of everything else on the machine meanwhile, write-back by the kernel among it.
    pub other_processor_nanos: u64,
}

columns!(Row COUNTS counts set_counts: contender workload data_bytes value_bytes writes keeps_prefix is_cut ops logical_bytes run_nanos
    settle_nanos whole_nanos p50_nanos p99_nanos p999_nanos max_nanos door_write_bytes door_unsettled_bytes door_log_bytes door_writes
    door_syncs door_read_bytes door_reads kernel_write_bytes kernel_asked_write_bytes kernel_read_bytes device_write_bytes occupied_bytes
    occupied_peak_bytes live_bytes memory_peak_bytes stall_nanos gets structures hot_gets hot_bytes cold_bytes recovery_nanos processor_nanos
    other_processor_nanos);

/// A column that is a ratio: its name, and what it is of a row.
type Ratio = (&'static str, fn(&Row) -> Option<f64>);

const RATIOS: [Ratio; 13] = [
    ("ops_per_second", |row| Some(row.ops_per_second())),
    ("sustained_per_second", |row| Some(row.sustained_per_second())),
    ("write_amp", Row::write_amp),
    ("kernel_write_amp", Row::kernel_write_amp),
    ("device_write_amp", Row::device_write_amp),
    ("read_amp", Row::read_amp),
    ("kernel_read_amp", Row::kernel_read_amp),
    ("space_amp", |row| Some(row.space_amp())),
    ("space_amp_peak", |row| Some(row.space_amp_peak())),
    ("structures_per_get", Row::structures_per_get),
    ("hot_read_share", Row::hot_read_share),
    ("hot_share", Row::hot_share),
    ("other_cores", |row| Some(row.other_cores())),
];

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

impl Row {
    /// The row of a stretch of work, without the names of who did what.
    pub fn of(measured: &Measured, writes: bool, live_bytes: u64) -> Row {
        let Measured { tally, settled, unsettled, .. } = measured;
        let door = settled.door.as_ref();
        let total = door.map(|door| door.total());
        let log = [Purpose::Wal, Purpose::PageImage, Purpose::LogPrepare];
        let other = (settled.processor.all - settled.processor.own).max(0.0);
        Row {
            writes: u64::from(writes),
            is_cut: u64::from(tally.is_cut),
            ops: tally.ops,
            logical_bytes: tally.bytes,
            run_nanos: measured.run.as_nanos() as u64,
            settle_nanos: measured.settle.as_nanos() as u64,
            whole_nanos: measured.whole.as_nanos() as u64,
            p50_nanos: tally.percentile_nanos(0.5),
            p99_nanos: tally.percentile_nanos(0.99),
            p999_nanos: tally.percentile_nanos(0.999),
            max_nanos: tally.percentile_nanos(1.0),
            door_write_bytes: total.map(|total| total.write_bytes),
            door_unsettled_bytes: unsettled.door.as_ref().map(|door| door.total().write_bytes),
            door_log_bytes: door.map(|door| log.iter().map(|purpose| door.of(*purpose).write_bytes).sum()),
            door_writes: total.map(|total| total.writes),
            door_syncs: total.map(|total| total.syncs),
            door_read_bytes: total.map(|total| total.read_bytes),
            door_reads: total.map(|total| total.reads),
            kernel_write_bytes: settled.kernel.write_bytes,
            kernel_asked_write_bytes: settled.kernel.asked_write_bytes,
            kernel_read_bytes: settled.kernel.read_bytes,
            device_write_bytes: settled.device_bytes,
            occupied_bytes: measured.occupied.bytes,
            occupied_peak_bytes: measured.occupied_peak_bytes,
            live_bytes,
            memory_peak_bytes: measured.memory_bytes,
            stall_nanos: settled.stalled.as_nanos() as u64,
            gets: unsettled.inside.gets,
            structures: unsettled.inside.structures,
            hot_gets: unsettled.inside.hot_gets,
            hot_bytes: settled.inside.hot_bytes,
            cold_bytes: settled.inside.cold_bytes,
            processor_nanos: (settled.processor.own * 1e9) as u64,
            other_processor_nanos: (other * 1e9) as u64,
            ..Row::default()
        }
    }

    /// Operations a second while it ran.
    pub fn ops_per_second(&self) -> f64 {
        self.ops as f64 / seconds(self.run_nanos.max(1))
    }

    /// The same with the time to settle: the rate that leaves no debt.
    pub fn sustained_per_second(&self) -> f64 {
        self.ops as f64 / seconds((self.run_nanos + self.settle_nanos).max(1))
    }

    fn written(&self, bytes: Option<u64>) -> Option<f64> {
        bytes.filter(|_| self.writes == 1).map(|bytes| share(bytes, self.logical_bytes))
    }

    /// Bytes that door 3 saw written a byte of key and value, settled.
    pub fn write_amp(&self) -> Option<f64> {
        self.written(self.door_write_bytes)
    }

    /// The same by the kernel's count; `None` where it counts nothing, as on a filesystem in memory.
    pub fn kernel_write_amp(&self) -> Option<f64> {
        self.written(Some(self.kernel_write_bytes).filter(|bytes| *bytes > 0))
    }

    /// The same by the device's count, with what everybody wrote.
    pub fn device_write_amp(&self) -> Option<f64> {
        self.written(self.device_write_bytes)
    }

    /// Bytes read that door 3 saw a byte of key and value.
    pub fn read_amp(&self) -> Option<f64> {
        Some(share(self.door_read_bytes?, self.logical_bytes))
    }

    /// Bytes fetched from the device a byte of key and value.
    pub fn kernel_read_amp(&self) -> Option<f64> {
        Some(share(self.kernel_read_bytes, self.logical_bytes))
    }

    /// Bytes that files occupy a live byte of key and value, at the end.
    pub fn space_amp(&self) -> f64 {
        share(self.occupied_bytes, self.live_bytes)
    }

    /// The same at its largest.
    pub fn space_amp_peak(&self) -> f64 {
        share(self.occupied_peak_bytes, self.live_bytes)
    }

    /// Structures that a point read asked, on average; `None` without reads.
    pub fn structures_per_get(&self) -> Option<f64> {
        self.gets.filter(|gets| *gets > 0).and_then(|gets| Some(share(self.structures?, gets)))
    }

    /// Share of the point reads that the tree of a hybrid answered.
    pub fn hot_read_share(&self) -> Option<f64> {
        self.gets.filter(|gets| *gets > 0).and_then(|gets| Some(share(self.hot_gets?, gets)))
    }

    /// Share of a hybrid's bytes that lie in its tree, at the end.
    pub fn hot_share(&self) -> Option<f64> {
        let (hot, cold) = (self.hot_bytes?, self.cold_bytes?);
        (hot + cold > 0).then(|| share(hot, hot + cold))
    }

    /// Cores used by everything else on the machine.
    pub fn other_cores(&self) -> f64 {
        share(self.other_processor_nanos, self.whole_nanos)
    }

    /// Marks that limit what the line says: `*` the time ran out, `~` it promises less of a crash, `!` others used the machine.
    pub fn marks(&self) -> String {
        let weaker = self.writes == 1 && self.keeps_prefix == 0;
        [(self.is_cut == 1, '*'), (weaker, '~'), (self.other_cores() > NOISE_CORES, '!')]
            .into_iter()
            .filter_map(|(holds, mark)| holds.then_some(mark))
            .collect()
    }

    fn names() -> impl Iterator<Item = &'static str> {
        COUNTS.iter().copied().chain(RATIOS.iter().map(|(name, _)| *name))
    }

    fn fields(&self) -> Vec<String> {
        let mut fields = self.counts();
        fields.extend(RATIOS.iter().map(|(_, of)| ratio(of(self))));
        fields
    }

    /// The first line of the CSV file.
    pub fn csv_header() -> String {
        Row::names().collect::<Vec<_>>().join(",")
    }

    /// Its line of the CSV file.
    pub fn csv(&self) -> String {
        self.fields().join(",")
    }

    /// Reads a line of CSV; `None` if it is none.
    pub fn from_csv(line: &str) -> Option<Row> {
        let mut row = Row::default();
        row.set_counts(&mut line.split(','))?;
        // The ratios follow from the counts, so a line that was cut off differs.
        (row.csv() == line).then_some(row)
    }

    /// The same as JSON; what nobody measures is null.
    pub fn json(&self) -> Value {
        let is_text = |name: &str| ["contender", "workload"].contains(&name);
        let value = |name: &str, text: String| match text.parse::<serde_json::Number>() {
            Ok(number) if !is_text(name) => Value::Number(number),
            _ if text.is_empty() => Value::Null,
            _ => Value::String(text),
        };
        let fields = Row::names().zip(self.fields());
        Value::Object(fields.map(|(name, text)| (name.to_string(), value(name, text))).collect::<Map<_, _>>())
    }
}

/// A row with a sustained rate, for tests.
#[cfg(test)]
pub fn sample(contender: &str, workload: &str, sustained_per_second: u64) -> Row {
    Row {
        contender: contender.to_string(),
        workload: workload.to_string(),
        data_bytes: 1 << 20,
        value_bytes: 100,
        writes: u64::from(!workload.starts_with("read")),
        keeps_prefix: 1,
        ops: sustained_per_second,
        logical_bytes: 1000,
        run_nanos: 750_000_000,
        settle_nanos: 250_000_000,
        whole_nanos: 1_000_000_000,
        door_write_bytes: Some(2000),
        door_read_bytes: Some(500),
        kernel_write_bytes: 3000,
        device_write_bytes: Some(4000),
        occupied_bytes: 3000,
        occupied_peak_bytes: 6000,
        live_bytes: 2000,
        gets: Some(100),
        structures: Some(250),
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_divide_what_they_say_and_nothing_is_made_up() {
        let row = sample("lsm:leveled", "fillrandom", 3000);
        assert_eq!((row.ops_per_second(), row.sustained_per_second()), (4000.0, 3000.0));
        let written = [row.write_amp(), row.kernel_write_amp(), row.device_write_amp()];
        assert_eq!(written, [2.0, 3.0, 4.0].map(Some));
        assert_eq!((row.read_amp(), row.space_amp(), row.space_amp_peak()), (Some(0.5), 1.5, 3.0));
        assert_eq!(
            (row.structures_per_get(), row.hot_read_share(), row.hot_share()),
            (Some(2.5), None, None)
        );
        let hybrid = Row { hot_gets: Some(60), hot_bytes: Some(10), cold_bytes: Some(30), ..row.clone() };
        assert_eq!((hybrid.hot_read_share(), hybrid.hot_share()), (Some(0.6), Some(0.25)));
        assert_eq!(Row { gets: Some(0), ..hybrid }.structures_per_get(), None);
        let read = Row { writes: 0, ..row.clone() };
        assert_eq!([read.write_amp(), read.kernel_write_amp(), read.device_write_amp()], [None; 3]);
        let blind = Row {
            door_write_bytes: None,
            door_read_bytes: None,
            kernel_write_bytes: 0,
            device_write_bytes: None,
            ..row.clone()
        };
        let ratios =
            [blind.write_amp(), blind.read_amp(), blind.kernel_write_amp(), blind.device_write_amp()];
        assert_eq!(ratios, [None; 4]);
        assert!(blind.json()["door_write_bytes"].is_null() && blind.json()["write_amp"].is_null());
        assert_eq!(
            (blind.json()["ops"].as_u64(), blind.json()["space_amp"].as_f64()),
            (Some(3000), Some(1.5))
        );
        assert_eq!(row.marks(), "");
        let marked = Row { is_cut: 1, keeps_prefix: 0, other_processor_nanos: 400_000_000, ..row };
        assert_eq!(
            (marked.marks().as_str(), Row { writes: 0, ..marked.clone() }.marks().as_str()),
            ("*~!", "*!")
        );
    }

    #[test]
    fn csv_comes_back_and_has_a_name_for_every_column() {
        for row in [
            sample("btree:image:page_size=4K", "sync1", 7),
            Row { door_writes: None, ..sample("1e5", "read", 1) },
        ] {
            assert_eq!(row.csv().split(',').count(), Row::csv_header().split(',').count());
            assert_eq!(Row::from_csv(&row.csv()), Some(row.clone()));
            assert_eq!(row.json().as_object().unwrap().len(), Row::names().count());
            assert_eq!(row.json()["contender"].as_str(), Some(row.contender.as_str()));
        }
        assert!(Row::csv_header().starts_with("contender,workload,data_bytes,"), "{}", Row::csv_header());
        for wrong in ["", "a,b", "a,b,x,1"] {
            assert_eq!(Row::from_csv(wrong), None, "{wrong}");
        }
    }
}
