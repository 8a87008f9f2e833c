//! The witness below an engine (`witness=on`): what it counted, taken from its report.

use std::time::Duration;

use serde_json::Value;

use crate::base::metric::metrics;
use crate::witness::{Class, ClassTraffic, Traffic};

metrics! {
    /// What the witness below an engine counted, as it was when it was asked last.
    pub struct BelowEngine witness "stats::below_engine::what_a_witness_counted_is_in_every_output" {
        /// Whether it runs. Where it does not, whatever the engine asks of its files fails.
        gauge is_running: bool [None, family "kvfs_engine_witness_is_running"];
        /// How it ended, if it did before it was told to.
        text end: Option<String>;
        /// Its process.
        gauge pid: u32 [None];
        /// Time since it was asked, which is done once a second; null before its first answer.
        gauge age: Option<Duration> [Milliseconds, key "age_ms", family "kvfs_engine_witness_age_seconds"];
        /// Syncs of directories.
        counter directory_syncs: u64 [Count, family "kvfs_witness_directory_syncs_total"];
        /// `write_bytes` of its `/proc/PID/io`: the kernel's own count of what it wrote, in whole folios of the page cache; null where there is none.
        counter kernel_write_bytes: Option<u64> [Bytes, family "kvfs_witness_self_io_write_bytes_total"];
        /// `read_bytes` of it: fetched from the device.
        counter kernel_read_bytes: Option<u64> [Bytes, family "kvfs_witness_self_io_read_bytes_total"];
        /// Traffic by class of file, as in `docs/witness.md`.
        part by_class: ClassTraffic;
        derived {
            /// Bytes written, all classes together.
            write_bytes: u64 [Bytes] = |below| below.by_class.total().write_bytes;
            /// Write requests.
            writes: u64 [Count] = |below| below.by_class.total().writes;
            /// Bytes read that the page cache had not.
            read_bytes: u64 [Bytes] = |below| below.by_class.total().read_bytes;
            /// Read requests.
            reads: u64 [Count] = |below| below.by_class.total().reads;
            /// Syncs of files.
            syncs: u64 [Count] = |below| below.by_class.total().syncs;
            /// Requests that failed.
            errors: u64 [Count] = |below| below.by_class.total().errors;
        }
    }
}

impl BelowEngine {
    /// The counters of a witness's report for machines (`kvfs.witness/1`), which runs and was asked now.
    pub fn of_report(report: &Value) -> BelowEngine {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let traffic = |class: Class| {
            let row = &report["by_class"][class.name()];
            let count = |name: &str| number(&row[name]);
            Traffic {
                write_bytes: count("write_bytes"),
                writes: count("writes"),
                mapped_write_bytes: count("mapped_write_bytes"),
                read_bytes: count("read_bytes"),
                reads: count("reads"),
                copied_bytes: count("copied_bytes"),
                syncs: count("syncs"),
                sync_waited_ns: count("sync_waited_ns"),
                created: count("created"),
                removed: count("removed"),
                errors: count("errors"),
            }
        };
        let process = &report["process"];
        BelowEngine {
            is_running: true,
            end: None,
            pid: process["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
            age: Some(Duration::ZERO),
            directory_syncs: number(&report["directory_syncs"]),
            kernel_write_bytes: process["write_bytes"].as_u64(),
            kernel_read_bytes: process["read_bytes"].as_u64(),
            by_class: ClassTraffic::from_fn(|class| traffic(Class::ALL[class])),
        }
    }
}
