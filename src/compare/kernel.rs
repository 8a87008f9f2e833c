//! Counts of the kernel for this process, of the machine and of the device below: the counts for engines that door 3 does not see, and a
//! second opinion on those that it sees.

use std::path::Path;

use crate::disk::read_outside;

/// Ticks of the kernel's processor clocks a second, fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The unit of the kernel's counts of devices.
const SECTOR_BYTES: u64 = 512;

fn text_of(path: &str) -> String {
    let bytes = read_outside(Path::new(path)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Anonymous memory of this process in bytes; 0 if the kernel does not say.
pub fn anonymous_bytes() -> u64 {
    anonymous_in(&text_of("/proc/self/status"))
}

fn anonymous_in(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Gives freed heap memory back to the system, so that what is opened next begins without it.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes no pointer and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Bytes that the device below `path` has written since it exists, for everybody; `None` where the kernel does not say, as for a
/// filesystem in memory.
pub fn device_write_bytes(path: &Path) -> Option<u64> {
    let device = nix::sys::stat::stat(path).ok()?.st_dev;
    let (major, minor) = (libc::major(device), libc::minor(device));
    sectors_written(&text_of(&format!("/sys/dev/block/{major}:{minor}/stat")))
        .map(|sectors| sectors * SECTOR_BYTES)
}

/// `reads merged sectors ms, writes merged sectors ms, …`
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// Processor time so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processor {
    /// Seconds of this process.
    pub own: f64,
    /// Seconds of everything on the machine, with what the host took from it.
    pub all: f64,
}

impl Processor {
    /// The kernel's counts now.
    pub fn now() -> Processor {
        Processor { own: own_seconds(&text_of("/proc/self/stat")), all: all_seconds(&text_of("/proc/stat")) }
    }

    /// Counts since `earlier`.
    pub fn since(&self, earlier: &Processor) -> Processor {
        Processor { own: self.own - earlier.own, all: self.all - earlier.all }
    }
}

/// After the name in parentheses, the state is field 0, user and system time are 11 and 12.
fn own_seconds(stat: &str) -> f64 {
    seconds(stat.rsplit_once(')').map_or("", |(_, rest)| rest), &[11, 12])
}

/// `cpu user nice system idle iowait irq softirq steal …`
fn all_seconds(stat: &str) -> f64 {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
    seconds(line.unwrap_or_default(), &[0, 1, 2, 5, 6, 7])
}

fn seconds(text: &str, fields: &[usize]) -> f64 {
    let ticks: Vec<f64> = text.split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect();
    fields.iter().filter_map(|field| ticks.get(*field)).sum::<f64>() / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(anonymous_in("VmRSS:\t 9000 kB\nRssAnon:\t    1234 kB\nRssFile:\t 12 kB\n"), 1234 << 10);
        assert_eq!(anonymous_in("VmRSS:\t 9000 kB\n"), 0);
        assert_eq!(sectors_written("  100 2 300 4   500 6 700 8  0 9 10\n"), Some(700));
        assert_eq!(sectors_written(""), None);
        // A name may have blanks and parentheses in it.
        let own = "77 (a (b) c) S 1 1 1 0 -1 4194304 90 0 0 0 150 50 0 0 20 0 1 0 5000";
        assert_eq!(own_seconds(own), 2.0);
        assert_eq!(all_seconds("cpu  100 20 30 4000 500 6 7 8 9 9\ncpu0 1 1 1 1\n"), 1.71);
        assert_eq!((own_seconds(""), all_seconds("intr 1 2 3")), (0.0, 0.0));
    }

    #[test]
    fn the_kernel_says_it_of_this_process() {
        assert!(anonymous_bytes() > 100 << 10);
        let before = Processor::now();
        assert!(before.all > before.own);
        // Until the clock of ticks has gone on.
        let mut sum = 0u64;
        while Processor::now().since(&before).own < 0.03 {
            sum = (0..100_000u64).fold(sum, |sum, number| sum.wrapping_add(number));
        }
        let passed = Processor::now().since(&before);
        // The two are not read at the same moment, and other tests go on in between: but they count in one unit.
        assert!(sum > 0 && passed.all >= passed.own / 2.0, "{passed:?}");
    }
}
