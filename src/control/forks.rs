//! Forks: second stores that were made out of this one, and what they share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::event_log::{Event, Field};
use crate::base::metric::metrics;
use crate::base::text::human_size;
use crate::fs::Result;

metrics! {
    /// Second stores that were made out of this one since it was mounted (`kvfs fork`).
    #[derive(Copy, Eq)]
    pub struct Forks witness "mount::forks::what_is_counted_of_forks_is_what_they_say" {
        /// Forks that were made.
        counter made: u64 [Count];
        /// Forks that were begun and failed.
        counter failed: u64 [Count];
        /// Whether one is being made: 1, else 0.
        gauge running: u64 [Count];
        /// Bytes of their files whose blocks other files had, too, when they were made: those of this store, as a rule.
        counter shared_bytes: u64 [Bytes];
        /// Bytes that were written to their files, the one included that is being made; of an engine with a directory of its own the keys and values that were
        /// copied. They are no part of what this store writes.
        counter written_bytes: u64 [Bytes];
        /// Time for which writers of an engine without snapshots waited so that a copy could catch up with them; no stall of the engine has it.
        counter held: Duration [Milliseconds, key "held_ms"];
    }
}

/// Maker of forks.
pub trait Forking: Send + Sync {
    /// Makes a fork in `into`; the error is a sentence that names the place, the cause and the way out. It waits for the disk.
    fn fork(&self, into: &Path) -> Result<Forked>;

    /// What it has counted.
    fn forks(&self) -> Forks;

    /// Bytes of this store's files whose blocks other files have, too; `None` where that is not known. It may take a while.
    fn shared_bytes(&self) -> Option<u64>;
}

/// What became of one fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forked {
    /// Its directory.
    pub into: String,
    /// Bytes that its files occupy.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// Bytes of them whose blocks other files have, too.
    pub shared_bytes: u64,
    /// Bytes that were written to them.
    pub written_bytes: u64,
    /// Time that it took.
    pub took: Duration,
}

impl Forked {
    /// For the event log.
    pub(super) fn fields(&self) -> Vec<(&'static str, Field)> {
        vec![
            ("into", self.into.as_str().into()),
            ("bytes", self.bytes.into()),
            ("files", self.files.into()),
            ("shared_bytes", self.shared_bytes.into()),
            ("written_bytes", self.written_bytes.into()),
            ("took_ns", (self.took.as_nanos() as u64).into()),
        ]
    }
}

/// The fork that ended with `event`, as a sentence; `None` if it is another event.
pub(super) fn forked(event: &Arc<Event>) -> Option<String> {
    let find = |name: &str| event.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value);
    let count = |name: &str| match find(name)? {
        Field::Count(count) => Some(*count),
        Field::Text(_) => None,
    };
    let Field::Text(into) = find("into")? else { return None };
    Some(format!(
        "forked to {into}: {} in {} files, shared {}, written {}, {:.3} s",
        human_size(count("bytes")?),
        count("files")?,
        human_size(count("shared_bytes")?),
        human_size(count("written_bytes")?),
        Duration::from_nanos(count("took_ns")?).as_secs_f64()
    ))
}
