//! Counts what passes through a witness, by class of file.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::base::metric::{Each, labels, metrics};

/// Class of a file: its part in what a storage engine keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Class {
    /// Written in order and synced so that a change is durable: write-ahead logs, redo logs, journals.
    Log,
    /// Written once and then only read: sorted tables and files of values.
    Table,
    /// Says which of the other files make up the store.
    Manifest,
    /// Overwritten in place: the pages of B-trees and heaps.
    Data,
    /// Gone after a restart: spill files, files that are renamed when they are whole.
    Temporary,
    /// What no pattern names.
    Other,
}

labels! { Class "<class>" "class" }

/// Latencies are kept to 1 % up to this many nanoseconds; longer ones count as this.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

metrics! {
    /// Requests that passed through a witness.
    #[derive(Copy, Eq)]
    pub struct Traffic counted by TrafficMeter witness "witness::numbers::bytes_and_requests_are_counted_as_they_come" {
        /// Bytes written: by `write`, and by the kernel for pages that were changed through a mapping.
        counter write_bytes: u64 [Bytes, family "kvfs_witness_write_bytes_total"];
        /// Write requests. The kernel cuts a `write` of more than 1 MiB into several, and one that begins in a page of which it has only a part at the end of that page.
        counter writes: u64 [Count, family "kvfs_witness_writes_total"];
        /// Those of `write_bytes` that the kernel wrote for a mapping, in whole pages.
        counter mapped_write_bytes: u64 [Bytes, family "kvfs_witness_mapped_write_bytes_total", witness "witness::numbers::pages_of_a_mapping_are_counted_when_they_are_written"];
        /// Bytes read by programs that the page cache had not, and read ahead for them.
        counter read_bytes: u64 [Bytes, family "kvfs_witness_read_bytes_total"];
        /// Read requests.
        counter reads: u64 [Count, family "kvfs_witness_reads_total"];
        /// Bytes copied into files of the class by `copy_file_range`; they are not in `write_bytes`, for the filesystem below may share blocks instead.
        counter copied_bytes: u64 [Bytes, family "kvfs_witness_copied_bytes_total", witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Syncs of files: `fsync`, `fdatasync`, `msync`, and each write to a file that is opened with `O_SYNC` or `O_DSYNC`.
        counter syncs: u64 [Count, family "kvfs_witness_syncs_total", witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Time that syncs took, all together.
        counter sync_waited_ns: u64 [Nanoseconds, family "kvfs_witness_sync_seconds_total", witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Files made.
        counter created: u64 [Count, family "kvfs_witness_created_total", witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Files removed, by `unlink`; one that a rename replaces is not counted.
        counter removed: u64 [Count, family "kvfs_witness_removed_total", witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Reads, writes, copies and syncs that failed.
        counter errors: u64 [Count, family "kvfs_witness_errors_total", witness "witness::numbers::what_fails_is_an_error_and_moves_nothing"];
    }
}

/// The traffic of every class.
pub type ClassTraffic = Each<Class, Traffic, { Class::ALL.len() }>;

struct Slot {
    traffic: TrafficMeter,
    sync_latency: Mutex<Histogram<u64>>,
}

/// The counters of a witness.
pub struct Meter {
    slots: Vec<Slot>,
    directory_syncs: AtomicU64,
}

impl Meter {
    /// Counters at zero.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Meter {
        let slot = |_: &Class| {
            let mut histogram =
                Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 2).expect("constant bounds are valid");
            histogram.auto(false);
            Slot { traffic: TrafficMeter::default(), sync_latency: Mutex::new(histogram) }
        };
        Meter { slots: Class::ALL.iter().map(slot).collect(), directory_syncs: AtomicU64::new(0) }
    }

    fn of(&self, class: Class) -> &TrafficMeter {
        &self.slots[class as usize].traffic
    }

    /// A write of `bytes`; `mapped` if the kernel wrote pages of a mapping.
    pub fn wrote(&self, class: Class, bytes: u64, mapped: bool) {
        let traffic = self.of(class);
        traffic.writes.fetch_add(1, Relaxed);
        traffic.write_bytes.fetch_add(bytes, Relaxed);
        if mapped {
            traffic.mapped_write_bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// A read that gave `bytes`.
    pub fn read(&self, class: Class, bytes: u64) {
        let traffic = self.of(class);
        traffic.reads.fetch_add(1, Relaxed);
        traffic.read_bytes.fetch_add(bytes, Relaxed);
    }

    /// A copy of `bytes` into a file.
    pub fn copied(&self, class: Class, bytes: u64) {
        self.of(class).copied_bytes.fetch_add(bytes, Relaxed);
    }

    /// A sync that took `latency`.
    pub fn synced(&self, class: Class, latency: Duration) {
        let nanos = (latency.as_nanos() as u64).max(1);
        let traffic = self.of(class);
        traffic.syncs.fetch_add(1, Relaxed);
        traffic.sync_waited_ns.fetch_add(nanos, Relaxed);
        self.slots[class as usize].sync_latency.lock().saturating_record(nanos);
    }

    /// A sync of a directory, which has no class.
    pub fn synced_directory(&self) {
        self.directory_syncs.fetch_add(1, Relaxed);
    }

    /// Syncs of directories so far.
    pub fn directory_syncs(&self) -> u64 {
        self.directory_syncs.load(Relaxed)
    }

    /// A file that was made.
    pub fn created(&self, class: Class) {
        self.of(class).created.fetch_add(1, Relaxed);
    }

    /// A file that was removed.
    pub fn removed(&self, class: Class) {
        self.of(class).removed.fetch_add(1, Relaxed);
    }

    /// A request that failed.
    pub fn failed(&self, class: Class) {
        self.of(class).errors.fetch_add(1, Relaxed);
    }

    /// The counters of every class now.
    pub fn snapshot(&self) -> ClassTraffic {
        ClassTraffic::from_fn(|class| self.slots[class].traffic.snapshot())
    }

    /// Latencies of syncs, to 1 %: pairs of a value in nanoseconds and how often it occurred, ascending; in the order of [`Class::ALL`].
    pub fn sync_latencies(&self) -> Vec<Vec<(u64, u64)>> {
        let pairs = |slot: &Slot| {
            let latency = slot.sync_latency.lock();
            latency.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
        };
        self.slots.iter().map(pairs).collect()
    }
}
