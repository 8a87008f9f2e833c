//! One result: the counts of one contender at one point, the ratios that follow from them, and both as a line of CSV.
//!
//! The file begins with counts, from which a row can be read back, then what was written by purpose, then the ratios, and at last what the
//! kernel counted. What nobody measures is empty.

use std::time::Duration;

use super::work::{Order, Point};
use crate::compare::csv::{columns, ratio, share};
use crate::disk::Purpose;

/// Counts of one contender at one point, a field for each column that is counted. Bytes written, requests and syncs are of the run and its settling, never of the load. It is as wide
/// as a line of the file: each field is a column.
///
/// Those that are `None` are door 3's, which sees nothing of an engine with a directory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The contender's name.
    pub contender: String,
    /// Of the point.
    pub data_bytes: u64,
    /// Of the point.
    pub value_bytes: u64,
    /// Of the point.
    pub update_percent: u64,
    /// 1 if the keys came in ascending order, 0 if at random.
    pub sequential: u64,
    /// Of the workload.
    pub seed: u64,
    /// Keys at the end.
    pub keys: u64,
    /// Puts of the run.
    pub puts: u64,
    /// puts × entry bytes: the denominator.
    pub logical_bytes: u64,
    /// Written up to the last put, with the work still owed left out.
    pub unsettled_bytes: Option<u64>,
    /// Written up to the moment when nothing was owed any more.
    pub settled_bytes: Option<u64>,
    /// Write requests, settled.
    pub requests: Option<u64>,
    /// Syncs of files, settled.
    pub syncs: Option<u64>,
    /// Point reads afterwards, with a warm cache.
    pub gets: u64,
    /// Key and value bytes that they returned.
    pub get_bytes: u64,
    /// Disk reads that they made.
    pub reads: Option<u64>,
    /// Bytes of those.
    pub read_bytes: Option<u64>,
    /// Bytes that all files occupy, settled.
    pub physical_bytes: u64,
    /// Of these, the segments of the log.
    pub log_file_bytes: Option<u64>,
    /// Keys × entry bytes.
    pub live_bytes: u64,
    /// The most anonymous memory that the process held during the run, above what it held before the store was opened.
    pub memory_bytes: u64,
    /// Time of the run and its settling.
    pub nanos: u64,
    /// Bytes written, settled, in the order of [`Purpose::all`]; none where door 3 sees nothing.
    pub written: Vec<u64>,
    /// `write_bytes` of `/proc/self/io`, settled: whole pages made dirty, of whatever file.
    pub kernel_settled_bytes: u64,
    /// `read_bytes` of it during the gets that are counted: fetched from the device.
    pub kernel_read_bytes: u64,
    /// Bytes that a model of flash below programmed, settled ([`Media`](crate::disk::Media)).
    pub flash_bytes: Option<u64>,
    /// Moves of the arm of a model of a disk that has one, for what was written, settled.
    pub arm_seeks: Option<u64>,
    /// Time of these and of the bytes that passed.
    pub arm_nanos: Option<u64>,
}

columns!(Row COUNTS counts set_counts: contender data_bytes value_bytes update_percent sequential seed keys puts logical_bytes
    unsettled_bytes settled_bytes requests syncs gets get_bytes reads read_bytes physical_bytes log_file_bytes live_bytes
    memory_bytes nanos);
columns!(Row KERNEL kernel set_kernel: kernel_settled_bytes kernel_read_bytes);
columns!(Row FLASH flash set_flash: flash_bytes);
columns!(Row ARM arm set_arm: arm_seeks arm_nanos);

/// A column that is a ratio: its name, and what it is of a row.
type Ratio = (&'static str, fn(&Row) -> Option<f64>);

/// The columns that are ratios.
const RATIOS: [Ratio; 9] = [
    ("write_amp", Row::write_amp),
    ("write_amp_unsettled", Row::write_amp_unsettled),
    ("write_amp_no_wal", Row::write_amp_no_wal),
    ("requests_per_put", Row::requests_per_put),
    ("read_amp", Row::read_amp),
    ("reads_per_get", Row::reads_per_get),
    ("space_amp", |row| Some(row.space_amp())),
    ("space_amp_no_log", Row::space_amp_no_log),
    ("ops_per_second", |row| Some(row.ops_per_second())),
];
/// Behind them: what the kernel counted by what was put, what flash would have programmed, and what an arm would have let through.
const KERNEL_RATIO: Ratio = ("kernel_write_amp", Row::kernel_write_amp);
const FLASH_RATIO: Ratio = ("flash_write_amp", Row::flash_write_amp);
const ARM_RATIO: Ratio = ("arm_ops_per_second", Row::arm_ops_per_second);

impl Row {
    /// Where it was measured.
    pub fn point(&self) -> Point {
        Point {
            data_bytes: self.data_bytes,
            value_bytes: self.value_bytes,
            update_percent: self.update_percent,
        }
    }

    /// Order of the keys.
    pub fn order(&self) -> Order {
        if self.sequential == 0 { Order::Random } else { Order::Sequential }
    }

    /// Whether door 3 saw what was written.
    pub fn is_seen(&self) -> bool {
        self.settled_bytes.is_some()
    }

    /// Bytes written / (puts × entry bytes), from settled to settled.
    pub fn write_amp(&self) -> Option<f64> {
        Some(share(self.settled_bytes?, self.logical_bytes))
    }

    /// The same up to the last put.
    pub fn write_amp_unsettled(&self) -> Option<f64> {
        Some(share(self.unsettled_bytes?, self.logical_bytes))
    }

    /// The same, settled, without the bytes of the log: records, page images in it, preparation of segments.
    pub fn write_amp_no_wal(&self) -> Option<f64> {
        let is_log = |purpose| matches!(purpose, Purpose::Wal | Purpose::PageImage | Purpose::LogPrepare);
        let log: u64 = Purpose::all()
            .zip(&self.written)
            .filter(|(purpose, _)| is_log(*purpose))
            .map(|(_, bytes)| bytes)
            .sum();
        Some(share(self.settled_bytes?.saturating_sub(log), self.logical_bytes))
    }

    /// Bytes that the kernel counted / (puts × entry bytes), settled; `None` where it counts nothing, as on a filesystem in memory.
    pub fn kernel_write_amp(&self) -> Option<f64> {
        (self.kernel_settled_bytes > 0).then(|| share(self.kernel_settled_bytes, self.logical_bytes))
    }

    /// Bytes that a model of flash below programmed / (puts × entry bytes), settled.
    pub fn flash_write_amp(&self) -> Option<f64> {
        Some(share(self.flash_bytes?, self.logical_bytes))
    }

    /// Puts in the time that an arm took to write what they caused, settled, by the second.
    pub fn arm_ops_per_second(&self) -> Option<f64> {
        Some(self.puts as f64 / Duration::from_nanos(self.arm_nanos?.max(1)).as_secs_f64())
    }

    /// Write requests a put, settled.
    pub fn requests_per_put(&self) -> Option<f64> {
        Some(share(self.requests?, self.puts))
    }

    /// Bytes read from the disk for each byte that the gets returned.
    pub fn read_amp(&self) -> Option<f64> {
        Some(share(self.read_bytes?, self.get_bytes))
    }

    /// Disk reads a get.
    pub fn reads_per_get(&self) -> Option<f64> {
        Some(share(self.reads?, self.gets))
    }

    /// Bytes that the files occupy for each byte of the key set.
    pub fn space_amp(&self) -> f64 {
        share(self.physical_bytes, self.live_bytes)
    }

    /// The same without the log, which takes its segments ahead of their use.
    pub fn space_amp_no_log(&self) -> Option<f64> {
        Some(share(self.physical_bytes.saturating_sub(self.log_file_bytes?), self.live_bytes))
    }

    /// Puts a second, settling included.
    pub fn ops_per_second(&self) -> f64 {
        self.puts as f64 / Duration::from_nanos(self.nanos.max(1)).as_secs_f64()
    }

    /// The first line of the CSV file.
    pub fn csv_header() -> String {
        let counts = COUNTS.iter().map(|name| name.to_string());
        let purposes = Purpose::all().map(|purpose| format!("written_{}", purpose.name()));
        let ratios = RATIOS.iter().map(|(name, _)| name.to_string());
        let kernel = KERNEL.iter().map(|name| name.to_string()).chain([KERNEL_RATIO.0.to_string()]);
        let flash = FLASH.iter().map(|name| name.to_string()).chain([FLASH_RATIO.0.to_string()]);
        let arm = ARM.iter().map(|name| name.to_string()).chain([ARM_RATIO.0.to_string()]);
        counts
            .chain(purposes)
            .chain(ratios)
            .chain(kernel)
            .chain(flash)
            .chain(arm)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Its line of the CSV file.
    pub fn csv(&self) -> String {
        let mut words = self.counts();
        let written = |index: usize| self.written.get(index).map_or(String::new(), u64::to_string);
        words.extend((0..Purpose::SLOTS).map(written));
        words.extend(RATIOS.iter().map(|(_, of)| ratio(of(self))));
        words.extend(self.kernel());
        words.push(ratio(KERNEL_RATIO.1(self)));
        words.extend(self.flash());
        words.push(ratio(FLASH_RATIO.1(self)));
        words.extend(self.arm());
        words.push(ratio(ARM_RATIO.1(self)));
        words.join(",")
    }

    /// Reads a line of CSV; `None` if it is none.
    pub fn from_csv(line: &str) -> Option<Row> {
        let mut words = line.trim_end_matches(['\r', '\n']).split(',');
        let mut row = Row::default();
        row.set_counts(&mut words)?;
        for _ in Purpose::all() {
            match words.next()? {
                "" => {}
                text => row.written.push(text.parse().ok()?),
            }
        }
        let mut words = words.skip(RATIOS.len());
        row.set_kernel(&mut words)?;
        let mut words = words.skip(1);
        row.set_flash(&mut words)?;
        let mut words = words.skip(1);
        row.set_arm(&mut words)?;
        // The ratios follow from the counts, so a line that was cut off differs.
        (row.csv() == line.trim_end_matches(['\r', '\n'])).then_some(row)
    }
}

/// A row with a write amplification of `tenths` / 10, for tests.
#[cfg(test)]
pub fn sample(contender: &str, data_bytes: u64, value_bytes: u64, update_percent: u64, tenths: u64) -> Row {
    let mut written = vec![0; Purpose::SLOTS];
    (written[0], written[2]) = (100 * tenths, 900 * tenths);
    Row {
        contender: contender.to_string(),
        data_bytes,
        value_bytes,
        update_percent,
        seed: 1,
        keys: 50,
        puts: 100,
        logical_bytes: 10_000,
        unsettled_bytes: Some(500 * tenths),
        settled_bytes: Some(1000 * tenths),
        requests: Some(25),
        syncs: Some(3),
        gets: 10,
        get_bytes: 1000,
        reads: Some(5),
        read_bytes: Some(20_480),
        physical_bytes: 15_000,
        log_file_bytes: Some(5_000),
        live_bytes: 5_000,
        memory_bytes: 3 << 20,
        nanos: 50_000_000,
        written,
        kernel_settled_bytes: 2000 * tenths,
        kernel_read_bytes: 4096,
        flash_bytes: Some(1500 * tenths),
        arm_seeks: Some(tenths),
        arm_nanos: Some(10_000_000 * tenths),
        ..Row::default()
    }
}

/// The same for an engine of which door 3 sees nothing.
#[cfg(test)]
pub fn unseen(row: Row) -> Row {
    Row {
        unsettled_bytes: None,
        settled_bytes: None,
        requests: None,
        syncs: None,
        reads: None,
        read_bytes: None,
        log_file_bytes: None,
        flash_bytes: None,
        arm_seeks: None,
        arm_nanos: None,
        written: Vec::new(),
        ..row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_divide_what_they_say() {
        let row = sample("lsm:leveled", 1 << 20, 84, 50, 40);
        let doors = [Row::write_amp, Row::write_amp_unsettled, Row::write_amp_no_wal, Row::read_amp]
            .into_iter()
            .chain([
                Row::reads_per_get,
                Row::requests_per_put,
                Row::space_amp_no_log,
                Row::flash_write_amp,
                Row::arm_ops_per_second,
            ]);
        let expected = [4.0, 2.0, 3.6, 20.48, 0.5, 0.25, 2.0, 6.0, 250.0];
        assert_eq!(doors.clone().map(|of| of(&row)).collect::<Vec<_>>(), expected.map(Some));
        assert_eq!((row.kernel_write_amp(), row.space_amp(), row.ops_per_second()), (Some(8.0), 3.0, 2000.0));
        // What door 3 does not see is not made up, and nor is a kernel's count of nothing.
        let blind = Row { kernel_settled_bytes: 0, ..unseen(row) };
        assert!(doors.into_iter().all(|of| of(&blind).is_none()));
        assert_eq!((blind.kernel_write_amp(), blind.space_amp()), (None, 3.0));
    }

    #[test]
    fn csv_comes_back_and_has_a_name_for_every_column() {
        let row = sample("btree:image:page_size=4K", 1 << 20, 84, 50, 41);
        assert_eq!(row.csv().split(',').count(), Row::csv_header().split(',').count());
        assert_eq!(Row::from_csv(&row.csv()), Some(row.clone()));
        let header = Row::csv_header();
        assert!(
            header.starts_with(
                "contender,data_bytes,value_bytes,update_percent,sequential,seed,keys,puts,logical_bytes,unsettled_bytes,\
                 settled_bytes,requests,syncs,"
            ),
            "{header}"
        );
        assert!(
            row.csv().starts_with(
                "btree:image:page_size=4K,1048576,84,50,0,1,50,100,10000,20500,41000,25,3,10,1000,5,20480,15000,5000,5000,\
                 3145728,50000000,4100,0,36900,"
            ),
            "{}",
            row.csv()
        );
        assert!(row.csv().ends_with(
            ",4.1000,2.0500,3.6900,0.2500,20.4800,0.5000,3.0000,2.0000,2000.0000,82000,4096,8.2000,61500,6.1500,41,410000000,243.9024"
        ));
        let blind = unseen(row.clone());
        assert_eq!(Row::from_csv(&blind.csv()), Some(blind.clone()));
        assert!(blind.csv().contains(",100,10000,,,,,10,1000,,,15000,,5000,"), "{}", blind.csv());
        for wrong in ["", "x", "x,1,2", &row.csv()[..row.csv().len() - 8], &format!("{},1", row.csv())] {
            assert_eq!(Row::from_csv(wrong), None, "{wrong}");
        }
    }
}
