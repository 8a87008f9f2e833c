//! What the kernel says of this process, of the machine and of a directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::engines::Result;

/// Ticks of the kernel's CPU clocks a second, fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// `/proc/self/io`, in bytes.
#[derive(Clone, Copy, Default)]
pub struct Io {
    /// Fetched from the device.
    pub read_bytes: u64,
    /// Made dirty in the page cache or written around it, counted once until written back: whole pages, or whole folios of
    /// up to megabytes where the kernel holds the file in such.
    pub write_bytes: u64,
    /// Handed to write calls.
    pub written_bytes: u64,
}

impl Io {
    /// The counters now.
    pub fn now() -> Result<Io> {
        let text = fs::read_to_string("/proc/self/io")?;
        let field = |name| number_after(&text, name).ok_or_else(|| format!("/proc/self/io has no {name}"));
        Ok(Io {
            read_bytes: field("\nread_bytes:")?,
            write_bytes: field("\nwrite_bytes:")?,
            written_bytes: field("\nwchar:")?,
        })
    }
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}

/// Anonymous memory of this process in bytes; 0 if the kernel does not say.
pub fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    number_after(&status, "RssAnon:").unwrap_or(0) * 1024
}

/// Gives freed heap memory back to the system, so that the next measurement begins without it.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes no pointer and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Bytes that the device below `directory` has written since it exists, for everybody; 0 if the kernel does not say.
pub fn device_written_bytes(directory: &Path) -> u64 {
    const SECTOR_BYTES: u64 = 512;
    let Ok(metadata) = fs::metadata(directory) else { return 0 };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    // reads merged sectors ms, writes merged sectors ms, …
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    text.split_whitespace().nth(6).and_then(|sectors| sectors.parse().ok()).unwrap_or(0) * SECTOR_BYTES
}

/// CPU seconds used by this process, and by everything on the machine with what the host took from it.
pub fn cpu_seconds() -> (f64, f64) {
    let process = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks =
        |text: &str| -> Vec<f64> { text.split_whitespace().map(|x| x.parse().unwrap_or(0.0)).collect() };
    // After the name in parentheses: state is field 0, user and system time are 11 and 12.
    let own = ticks(process.rsplit_once(')').map_or("", |(_, rest)| rest));
    // user nice system idle iowait irq softirq steal
    let all = ticks(machine.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default());
    let sum = |times: &[f64], fields: &[usize]| {
        fields.iter().filter_map(|&field| times.get(field)).sum::<f64>() / TICKS_PER_SECOND
    };
    (sum(&own, &[11, 12]), sum(&all, &[0, 1, 2, 5, 6, 7]))
}

/// Bytes that the files below `directory` occupy.
pub fn allocated_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        // A file that was removed since the listing occupies nothing.
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { allocated_bytes(&entry.path()) } else { metadata.blocks() * 512 })
    });
    sizes.sum()
}

/// Drops the files below `directory`, which nobody may have open or mapped, from the page cache. Needs no privilege and
/// leaves the other engines' files alone.
pub fn drop_from_cache(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            drop_from_cache(&path)?;
        } else {
            let file = fs::File::open(&path)?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}
