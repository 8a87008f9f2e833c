//! The daemon's log lines: to standard error until there is a log, then there; so many in a span and no more, because what
//! fails may fail again thousands of times a second.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::dup2_stderr;
use parking_lot::Mutex;

use crate::disk::LogFile;

/// Lines that may come at once.
const LINES_MAX: u32 = 500;
/// Interval after which one more line may come.
const PAUSE: Duration = Duration::from_millis(100);

/// Destination of log lines. Copies are the same log.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    file: Option<LogFile>,
    allowance: Allowance,
}

impl Lines {
    /// From now on to `file`, and standard error with it: what panics say goes there.
    pub fn turn_to(&self, file: LogFile) -> io::Result<()> {
        let mut state = self.0.lock();
        dup2_stderr(file.file())?;
        state.file = Some(file);
        Ok(())
    }
}

impl Write for Lines {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let Some(left_out) = state.allowance.take(Instant::now()) else { return Ok(line.len()) };
        let note = match left_out {
            0 => String::new(),
            count => format!("({count} lines were left out here: more than one in {PAUSE:?})\n"),
        };
        let text = [note.as_bytes(), line].concat();
        match &mut state.file {
            Some(file) => {
                if file.append(&text)? {
                    dup2_stderr(file.file())?;
                }
            }
            None => io::stderr().write_all(&text)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So many at once, and then one a pause.
#[derive(Default)]
struct Allowance {
    /// Taken and not yet given back by time.
    taken: u32,
    /// When one was last given back.
    at: Option<Instant>,
    left_out: u64,
}

impl Allowance {
    /// Takes one. `None` if there is none; else how many were refused before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let at = *self.at.get_or_insert(now);
        let back =
            (now.saturating_duration_since(at).as_millis() / PAUSE.as_millis()).min(u128::from(u32::MAX));
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.at = Some(at + PAUSE * back);
        self.taken = self.taken.saturating_sub(back);
        if self.taken >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.taken += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_never_ends_fills_no_disk() {
        let start = Instant::now();
        let mut allowance = Allowance::default();
        // An hour of a line every millisecond.
        let lines: Vec<u64> =
            (0..3_600_000).filter_map(|n| allowance.take(start + Duration::from_millis(n))).collect();
        let most = u64::from(LINES_MAX) + 3_600_000 / PAUSE.as_millis() as u64;
        assert!((most - 1..=most).contains(&(lines.len() as u64)), "{} of {most}", lines.len());
        assert_eq!(
            lines.len() as u64 + lines.iter().sum::<u64>() + allowance.left_out,
            3_600_000,
            "none is lost in silence"
        );
        // After a rest everything goes through again.
        let later = start + Duration::from_secs(2 * 3600);
        assert_eq!((0..LINES_MAX).filter_map(|_| allowance.take(later)).count(), LINES_MAX as usize);
        assert_eq!(allowance.take(later), None);
    }

    #[test]
    fn lines_reach_the_log() {
        let home = tempfile::tempdir().unwrap();
        let disk = crate::disk::OsDisk::open(home.path(), crate::disk::Access::Write).unwrap();
        // Not by turn_to, which would take the standard error of the tests along.
        let lines = Lines::default();
        lines.0.lock().file = Some(disk.log().unwrap());
        for n in 0..2 * LINES_MAX {
            lines.clone().write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        let text = std::fs::read_to_string(home.path().join(crate::disk::LOG)).unwrap();
        let count = text.lines().count() as u32;
        assert!(
            text.starts_with("line 0\nline 1\n") && (LINES_MAX..2 * LINES_MAX).contains(&count),
            "{count}"
        );
    }
}
