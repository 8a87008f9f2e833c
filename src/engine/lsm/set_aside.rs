//! Tables and segments of the log that background work could not read, or that were missing or damaged when the store was opened. They are
//! *set aside*: compactions go around such a table ([`super::compaction::PolicyInForce`]), collection leaves the values of such a segment
//! where they are. Nothing is dropped: whatever can be read of them is still read, the rest is an error for the caller who asks for it.
//!
//! A request that failed is tried again a few times, later and later; bytes that do not check stay what they are. What is set aside
//! for good stays so until the store is opened again: then the damage is found again, or is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::core::Core;
use super::survivors::lost_segment;
use super::table::{Table, TableNumber};
use super::version::Version;
use crate::engine::wal::Segment;
use crate::engine::{Error, Lsn};

/// Times after which a read that the disk refused is tried again, one after each failure; after the last one it is set aside for good.
const RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// A table or a segment that is set aside.
#[derive(Clone, Debug)]
struct Entry {
    error: Error,
    failures: usize,
    /// Clock time from which it is tried again; `None` never.
    until: Option<Duration>,
}

impl Entry {
    fn for_good(error: &Error) -> Entry {
        Entry { error: error.clone(), failures: 0, until: None }
    }

    fn is_aside(&self, now: Duration) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Tables and segments that are set aside.
pub struct SetAside {
    core: Arc<Core>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By number.
    tables: BTreeMap<TableNumber, Entry>,
    /// By the LSN where they start.
    segments: BTreeMap<Lsn, Entry>,
}

/// Notes a failure; how long what failed rests now, `None` for good.
fn note<Key: Ord>(
    entries: &mut BTreeMap<Key, Entry>,
    key: Key,
    error: &Error,
    now: Duration,
) -> Option<Duration> {
    let entry = entries.entry(key).or_insert(Entry { error: error.clone(), failures: 0, until: None });
    let is_final = matches!(error, Error::Corrupt { .. });
    let wait = RETRIES.get(entry.failures).copied().filter(|_| !is_final);
    (entry.error, entry.until) = (error.clone(), wait.map(|wait| now + wait));
    entry.failures += 1;
    wait
}

impl State {
    fn tables(&self, now: Duration) -> BTreeSet<TableNumber> {
        self.tables.iter().filter(|(_, entry)| entry.is_aside(now)).map(|(number, _)| *number).collect()
    }

    fn next_try(&self, now: Duration) -> Option<Duration> {
        let waits = self.tables.values().chain(self.segments.values()).filter_map(|entry| entry.until);
        waits.filter(|until| now < *until).min().map(|until| until - now)
    }

    fn sentence(&self, now: Duration) -> Option<String> {
        let entries = self.tables.values().chain(self.segments.values());
        let errors: Vec<String> =
            entries.filter(|entry| entry.is_aside(now)).map(|entry| entry.error.to_string()).collect();
        let more = match errors.len() {
            0 => return None,
            1 => String::new(),
            all => format!(", and {} more like this", all - 1),
        };
        Some(format!(
            "{}{more}; merges go around it, `kvfs check --repair` saves what can be read",
            errors[0]
        ))
    }
}

impl SetAside {
    /// Nothing is set aside yet.
    pub fn new(core: Arc<Core>) -> SetAside {
        SetAside { core, state: Mutex::default() }
    }

    fn now(&self) -> Duration {
        self.core.clock.elapsed()
    }

    /// Numbers of the tables that merges go around now.
    pub fn tables(&self) -> BTreeSet<TableNumber> {
        self.state.lock().tables(self.now())
    }

    /// The error of the first of `numbers` that is set aside.
    pub fn why(&self, numbers: impl Iterator<Item = TableNumber>) -> Option<Error> {
        let (state, now) = (self.state.lock(), self.now());
        let mut entries = numbers.filter_map(|number| state.tables.get(&number));
        entries.find(|entry| entry.is_aside(now)).map(|entry| entry.error.clone())
    }

    /// Whether values of the segment that starts at `start` stay where they are.
    pub fn has_segment(&self, start: Lsn) -> bool {
        self.state.lock().segments.get(&start).is_some_and(|entry| entry.is_aside(self.now()))
    }

    /// Time until something is tried again; `None` if nothing will be.
    pub fn next_try(&self) -> Option<Duration> {
        self.state.lock().next_try(self.now())
    }

    /// Sentence for reports on what is set aside now; `None` if nothing is.
    pub fn sentence(&self) -> Option<String> {
        self.state.lock().sentence(self.now())
    }

    /// Forgets tables that are `gone`, and segments that `version`, the newest, does not need.
    pub fn forget(&self, gone: &[&Arc<Table>], version: &Version) {
        let mut state = self.state.lock();
        gone.iter().for_each(|table| drop(state.tables.remove(&table.number)));
        state.segments.retain(|start, _| version.needed().has(*start));
    }

    /// Sets a table aside for which `error` was met.
    pub fn note_table(&self, number: TableNumber, error: &Error) {
        let wait = note(&mut self.state.lock().tables, number, error, self.now());
        self.record(&number.file_name(), error, wait);
    }

    /// Sets a segment of the log aside of which a value could not be read.
    pub fn note_segment(&self, start: Lsn, error: &Error) {
        let wait = note(&mut self.state.lock().segments, start, error, self.now());
        self.record(error.unread_file().unwrap_or("the log"), error, wait);
    }

    /// Sets aside what is `lost`, until the store is opened again.
    pub fn add_lost(&self, lost: Lost) {
        for (number, error) in lost.tables {
            self.state.lock().tables.insert(number, Entry::for_good(&error));
            self.record(&number.file_name(), &error, None);
        }
        for (start, segment) in lost.segments {
            if let Some(error) = segment.loss() {
                self.state.lock().segments.insert(start, Entry::for_good(&error));
                self.record(error.unread_file().unwrap_or("the log"), &error, None);
            }
        }
    }

    fn record(&self, file: &str, error: &Error, wait: Option<Duration>) {
        match wait {
            Some(wait) => log::warn!("{file} is set aside for {wait:?}: {error}"),
            None => log::error!(
                "{file} is set aside until the store is mounted again: {error}; `kvfs check --repair` saves what can be read"
            ),
        }
        let retry_ns = wait.map_or(0, |wait| wait.as_nanos() as u64);
        let fields =
            vec![("file", file.into()), ("what", error.to_string().into()), ("retry_ns", retry_ns.into())];
        self.core.record("set_aside", fields);
    }
}

/// Tables and segments that the store was opened without.
#[derive(Default)]
pub struct Lost {
    tables: Vec<(TableNumber, Error)>,
    /// By the LSN where they start.
    segments: BTreeMap<Lsn, Arc<Segment>>,
}

impl Lost {
    /// Table `number` cannot be read, or a part of it.
    pub fn add_table(&mut self, number: TableNumber, error: Error) {
        self.tables.push((number, error));
    }

    /// The placeholder for the missing segment that starts at `start`.
    pub fn segment(&mut self, start: Lsn) -> Arc<Segment> {
        self.segments.entry(start).or_insert_with(|| Arc::new(lost_segment(start))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_tried_again_later_and_later_and_damage_never() {
        let mut aside = State::default();
        let io = Error::io("reading table.7", std::io::Error::from_raw_os_error(libc::EIO));
        let mut now = Duration::from_secs(5);
        let fail = |aside: &mut State, now| note(&mut aside.tables, TableNumber::new(7), &io, now);
        for wait in RETRIES {
            assert_eq!(fail(&mut aside, now), Some(wait));
            assert_eq!(aside.next_try(now), Some(wait));
            assert_eq!(
                (aside.tables(now), aside.tables(now + wait)),
                ([TableNumber::new(7)].into(), [].into())
            );
            now += wait;
        }
        assert_eq!(fail(&mut aside, now), None);
        assert_eq!(aside.next_try(now), None);
        assert_eq!(aside.tables(now + Duration::from_secs(1 << 30)), [TableNumber::new(7)].into());
        assert_eq!(
            note(&mut aside.tables, TableNumber::new(8), &Error::corrupt("table.8", 0, "it"), now),
            None
        );
        assert!(aside.sentence(now).unwrap().contains("and 1 more"));
    }
}
