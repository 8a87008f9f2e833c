//! Tables and segments of the log that background work could not read, or that were missing or damaged when the store was opened. They are *set aside*: merges go around such a table
//! ([`super::compaction::Around`]), collection leaves the values of such a segment where they are. Nothing is dropped: what can be
//! read of them is still read, the rest is an error for who asks for it.
//!
//! A request that failed is tried again a few times, later and later; bytes that do not check stay what they are. What is set aside
//! for good stays so until the store is opened again: then the damage is found again, or is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::LsmEngine;
use super::survivors::lost_segment;
use super::table::{Table, table_name, table_number};
use super::version::Version;
use crate::engine::wal::Segment;
use crate::engine::{Error, Position};

/// When to try again what the disk refused to read, after each failure; then it is set aside for good.
const RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// One of them.
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

/// What is set aside.
#[derive(Default)]
pub struct SetAside {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By number.
    tables: BTreeMap<u64, Entry>,
    /// By the position where they start.
    segments: BTreeMap<Position, Entry>,
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

impl SetAside {
    /// Numbers of the tables that merges go around at clock time `now`.
    pub fn tables(&self, now: Duration) -> BTreeSet<u64> {
        let state = self.state.lock();
        state.tables.iter().filter(|(_, entry)| entry.is_aside(now)).map(|(number, _)| *number).collect()
    }

    /// Why the first of `numbers` that is set aside is.
    pub fn why(&self, numbers: impl Iterator<Item = u64>, now: Duration) -> Option<Error> {
        let state = self.state.lock();
        let mut entries = numbers.filter_map(|number| state.tables.get(&number));
        entries.find(|entry| entry.is_aside(now)).map(|entry| entry.error.clone())
    }

    /// Whether values of the segment that starts at `start` stay where they are.
    pub fn has_segment(&self, start: Position, now: Duration) -> bool {
        self.state.lock().segments.get(&start).is_some_and(|entry| entry.is_aside(now))
    }

    /// How long until something is tried again, if it will be.
    pub fn next_try(&self, now: Duration) -> Option<Duration> {
        let state = self.state.lock();
        let waits = state.tables.values().chain(state.segments.values()).filter_map(|entry| entry.until);
        waits.filter(|until| now < *until).min().map(|until| until - now)
    }

    /// Forgets tables that are `gone`, and segments that `version`, the newest, does not need.
    pub fn forget(&self, gone: &[&Arc<Table>], version: &Version) {
        let mut state = self.state.lock();
        gone.iter().for_each(|table| drop(state.tables.remove(&table.number)));
        state.segments.retain(|start, _| version.needed().has(*start));
    }

    /// What rests now, for reports; `None` if that is nothing.
    pub fn sentence(&self, now: Duration) -> Option<String> {
        let state = self.state.lock();
        let entries = state.tables.values().chain(state.segments.values());
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

/// What the store was opened without.
#[derive(Default)]
pub struct Lost {
    tables: Vec<(u64, Error)>,
    /// By the position where they start.
    segments: BTreeMap<Position, Arc<Segment>>,
}

impl Lost {
    /// Table `number` cannot be read, or a part of it.
    pub fn add_table(&mut self, number: u64, error: Error) {
        self.tables.push((number, error));
    }

    /// What stands for the segment that starts at `start` and is missing.
    pub fn segment(&mut self, start: Position) -> Arc<Segment> {
        self.segments.entry(start).or_insert_with(|| Arc::new(lost_segment(start))).clone()
    }
}

impl LsmEngine {
    /// Sets aside what the store was opened without, until it is opened again.
    pub(super) fn set_lost_aside(&self, lost: Lost) {
        for (number, error) in lost.tables {
            self.set_aside.state.lock().tables.insert(number, Entry::for_good(&error));
            self.record_set_aside(&table_name(number), &error, None);
        }
        for (start, segment) in lost.segments {
            if let Some(error) = segment.loss() {
                self.set_aside.state.lock().segments.insert(start, Entry::for_good(&error));
                self.record_set_aside(error.unread_file().unwrap_or("the log"), &error, None);
            }
        }
    }

    /// What of the store is damaged, for reports; `None` if nothing is.
    pub(super) fn damage(&self) -> Option<String> {
        self.set_aside.sentence(self.clock.elapsed()).or_else(|| {
            let flaws = self.shelf.flaws();
            let (_, error) = flaws.first()?;
            let more = match flaws.len() {
                1 => String::new(),
                all => format!(", and {} more like this", all - 1),
            };
            Some(format!("{error}{more}; nothing is lost by it: a merge writes the table anew"))
        })
    }

    /// Sets the table aside whose damage `error` reports, if it is part of the store; whether it is.
    pub(super) fn set_table_aside(&self, error: &Error) -> bool {
        let Some(file) = error.unread_file() else { return false };
        let version = self.view().version.clone();
        let found = table_number(file).filter(|it| version.tables().any(|(_, table)| table.number == *it));
        let Some(number) = found else { return false };
        let wait = note(&mut self.set_aside.state.lock().tables, number, error, self.clock.elapsed());
        self.record_set_aside(file, error, wait);
        self.reassess();
        true
    }

    /// Sets a segment of the log aside of which a value could not be read.
    pub(super) fn set_segment_aside(&self, start: Position, error: &Error) {
        let wait = note(&mut self.set_aside.state.lock().segments, start, error, self.clock.elapsed());
        self.record_set_aside(error.unread_file().unwrap_or("the log"), error, wait);
    }

    fn record_set_aside(&self, file: &str, error: &Error, wait: Option<Duration>) {
        match wait {
            Some(wait) => log::warn!("{file} is set aside for {wait:?}: {error}"),
            None => log::error!(
                "{file} is set aside until the store is mounted again: {error}; `kvfs check --repair` saves what can be read"
            ),
        }
        let retry_ns = wait.map_or(0, |wait| wait.as_nanos() as u64);
        let fields =
            vec![("file", file.into()), ("what", error.to_string().into()), ("retry_ns", retry_ns.into())];
        self.journal.record(self.clock.now(), "set_aside", fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_tried_again_later_and_later_and_damage_never() {
        let aside = SetAside::default();
        let io = Error::io("reading table.7", std::io::Error::from_raw_os_error(libc::EIO));
        let mut now = Duration::from_secs(5);
        let fail = |error: &Error, now| note(&mut aside.state.lock().tables, 7, error, now);
        for wait in RETRIES {
            assert_eq!(fail(&io, now), Some(wait));
            assert_eq!(aside.next_try(now), Some(wait));
            assert_eq!((aside.tables(now), aside.tables(now + wait)), ([7].into(), [].into()));
            now += wait;
        }
        assert_eq!(fail(&io, now), None);
        assert_eq!(aside.next_try(now), None);
        assert_eq!(aside.tables(now + Duration::from_secs(1 << 30)), [7].into());
        assert_eq!(note(&mut aside.state.lock().tables, 8, &Error::corrupt("table.8", 0, "it"), now), None);
        assert!(aside.sentence(now).unwrap().contains("and 1 more"));
    }
}
