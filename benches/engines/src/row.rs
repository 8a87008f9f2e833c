//! One measured line.

use serde::{Deserialize, Serialize};

/// Cores used by others above which a line is marked: its figures are not worth comparing.
pub const NOISE_CORES: f64 = 0.3;

/// What one workload did on one engine. Bytes are bytes, times are in the unit that the name ends with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// The engine, with its options.
    pub engine: String,
    /// The size of values: `meta`, `b4k` or `b64k`.
    pub size: String,
    /// The workload, such as `fillrandom`; a part of one after a colon.
    pub workload: String,
    /// Operations done.
    pub ops: u64,
    /// Time they took.
    pub run_s: f64,
    /// Time until no background work was left after them; 0 where the workload does not wait for it.
    pub settle_s: f64,
    /// Operations a second while it ran.
    pub ops_per_s: f64,
    /// Operations a second with the time to settle: the rate that leaves no debt.
    pub sustained_per_s: f64,
    /// Median latency of a call.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The longest call.
    pub max_us: f64,
    /// Key and value bytes written, or returned by reads.
    pub logical_bytes: u64,
    /// `write_bytes` of /proc/self/io until settled.
    pub write_bytes: u64,
    /// `wchar` of it: bytes handed to write calls.
    pub written_bytes: u64,
    /// `read_bytes` of it.
    pub read_bytes: u64,
    /// Written by the device meanwhile, for everybody, the filesystem's event_log among it.
    pub device_bytes: u64,
    /// `write_bytes` a logical byte; 0 for reads.
    pub write_amp: f64,
    /// `device_bytes` a logical byte; 0 for reads.
    pub device_amp: f64,
    /// `read_bytes` a logical byte.
    pub read_amp: f64,
    /// Bytes that the store's files occupy afterwards.
    pub allocated_bytes: u64,
    /// Key and value bytes that are alive.
    pub live_bytes: u64,
    /// Allocated a live byte, afterwards.
    pub space_amp: f64,
    /// The same at its largest, sampled twice a second.
    pub space_peak: f64,
    /// Largest anonymous memory, less what the harness had before the engine was opened.
    pub memory_peak_bytes: u64,
    /// Time that writers were held back, all threads together; 0 for engines that do not say.
    pub stall_s: f64,
    /// CPU time of the process.
    pub cpu_s: f64,
    /// Cores used by everything else on the machine meanwhile, write-back by the kernel included.
    pub other_cores: f64,
    /// The time ran out before every operation was done.
    pub is_cut: bool,
}

impl Row {
    /// Marks that limit what the line says: `*` time ran out, `!` others used the machine.
    pub fn marks(&self) -> String {
        let cut = if self.is_cut { "*" } else { "" };
        let noise = if self.other_cores > NOISE_CORES { "!" } else { "" };
        format!("{cut}{noise}")
    }
}
