//! One line on a terminal that says how far it is; nothing elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Characters of the bar.
const WIDTH: usize = 24;

/// The line.
pub struct Progress {
    started: Instant,
    total: usize,
    is_shown: bool,
}

impl Progress {
    /// Of `total` steps; shown if standard error is a terminal.
    pub fn new(total: usize) -> Progress {
        Progress { started: Instant::now(), total, is_shown: std::io::stderr().is_terminal() }
    }

    /// Sets the number of steps, where that has become known.
    pub fn set(&mut self, total: usize) -> &Progress {
        self.total = total;
        self
    }

    /// `done` steps are done, and now comes `what`.
    pub fn show(&self, done: usize, what: &str) {
        if self.is_shown {
            // Nobody needs a progress line that cannot be shown.
            let _ =
                write!(std::io::stderr(), "\r\x1b[K{}", line(done, self.total, self.started.elapsed(), what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, total: usize, elapsed: Duration, what: &str) -> String {
    let filled = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    let left = match done {
        0 => String::new(),
        _ => {
            format!("  {:.0} s left", elapsed.as_secs_f64() / done as f64 * total.saturating_sub(done) as f64)
        }
    };
    format!("[{}{}] {done}/{total}{left}  {what}", "#".repeat(filled), "-".repeat(WIDTH - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is() {
        let second = Duration::from_secs(1);
        assert_eq!(line(0, 4, second, "a"), format!("[{}] 0/4  a", "-".repeat(24)));
        assert_eq!(
            line(1, 4, second, "b"),
            format!("[{}{}] 1/4  3 s left  b", "#".repeat(6), "-".repeat(18))
        );
        assert_eq!(line(4, 4, second, ""), format!("[{}] 4/4  0 s left  ", "#".repeat(24)));
        assert_eq!(line(0, 0, second, ""), format!("[{}] 0/0  ", "#".repeat(24)));
    }
}
