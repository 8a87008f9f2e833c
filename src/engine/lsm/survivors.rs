//! Survivors: values that collection has moved out of the log. They lie in files of their own, `values.N`, never among new values. A value
//! that has outlived its neighbours will likely outlive others; beside new ones it would be moved again with each of their generations, or
//! keep their space. So each file of survivors is emptied only when enough values in it have died themselves.
//!
//! # Invariants
//!
//! 1. A file grows at its end only, and none is begun again: a value that a durable table points to stays as it is.
//! 2. It is synced, and its name, before the edit that names a table with pointers into it.
//! 3. It is removed when no version needs it and the last reader is gone. What no table of the manifest needs when the store is opened is
//!    left over, and removed once the log has been read.
//! 4. Their LSNs are above those of the log: each file has a range of its own.
//! 5. The live bytes of a file are known only when everyone who wrote to it has come to an end: until then it looks emptier than it is,
//!    and values that were just moved would be moved again for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, Purpose};
use crate::engine::wal::Segment;
use crate::engine::{Error, Lsn, Result};

const PREFIX: &str = "values.";
/// LSNs of survivors begin here: more than any log will ever have.
const FIRST: Lsn = Lsn::new(1 << 62);
/// LSNs of a file.
const FILE_SPAN: u64 = 1 << 32;
/// A file is longer only for the sake of a single value.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The number of a file of survivors; never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValuesNumber(u64);

impl ValuesNumber {
    /// The number of the file of survivors that is called `name`; `None` if that is none.
    pub fn of_file(name: &str) -> Option<ValuesNumber> {
        let number = name.strip_prefix(PREFIX)?.parse().ok();
        number.filter(|number| *number < FIRST.number() / FILE_SPAN).map(ValuesNumber)
    }

    /// The number of the file that has `lsn`; `None` if that is one of the log.
    fn at(lsn: Lsn) -> Option<ValuesNumber> {
        Some(ValuesNumber(lsn.checked_bytes_since(FIRST)? / FILE_SPAN))
    }

    /// The name of the file.
    fn file_name(self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// The LSN of its first byte.
    fn start(self) -> Lsn {
        FIRST + self.0 * FILE_SPAN
    }

    /// The number that follows.
    const fn next(self) -> ValuesNumber {
        ValuesNumber(self.0 + 1)
    }
}

/// Whether `lsn` is one of a survivor.
pub fn is_survivor(lsn: Lsn) -> bool {
    lsn >= FIRST
}

/// The placeholder for the missing segment, or file of survivors, that starts at `start`.
pub fn lost_segment(start: Lsn) -> Segment {
    match ValuesNumber::at(start) {
        Some(number) => Segment::lost_file(PREFIX, number.0, start),
        None => Segment::lost(start),
    }
}

/// A file of survivors.
struct Values {
    segment: Arc<Segment>,
    /// Bytes in it.
    bytes: u64,
    /// Others hold it while what they wrote is not part of the store.
    writing: WriterToken,
}

/// Kept by who has written to a file until what was written is part of the store, or given up.
pub type WriterToken = Arc<()>;

/// A value that was moved.
pub struct MovedValue {
    /// Its LSN now.
    pub lsn: Lsn,
    /// The file that holds it.
    pub segment: Arc<Segment>,
    /// To be kept until a table that points to it is part of the store.
    pub writing: WriterToken,
}

#[derive(Default)]
struct State {
    /// By number.
    files: BTreeMap<ValuesNumber, Values>,
    /// The one that grows.
    growing: Option<ValuesNumber>,
    is_dirty: bool,
    next_number: ValuesNumber,
}

/// The survivors of a store.
pub struct Survivors {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    state: Mutex<State>,
}

/// The files of survivors on `disk`, by where each starts.
pub fn files(disk: &dyn Disk) -> Result<BTreeMap<Lsn, Arc<Segment>>> {
    let mut found = BTreeMap::new();
    for info in disk.list().map_err(|error| Error::io("listing the store", error))? {
        let Some(number) = ValuesNumber::of_file(&info.name) else { continue };
        let file =
            match disk.open(&info.name).map_err(|error| Error::io(format!("opening {}", info.name), error)) {
                Err(error) if error.is_damage() => continue,
                other => other?,
            };
        let segment = Segment::of_file(PREFIX, number.0, number.start(), file, info.bytes);
        found.insert(number.start(), Arc::new(segment));
    }
    Ok(found)
}

impl Survivors {
    /// Opens those files on `disk` that start at an LSN of `needed`, which are those that tables need. New files end when they have
    /// `file_bytes`.
    pub fn open(disk: Arc<dyn Disk>, file_bytes: u64, needed: &BTreeSet<Lsn>) -> Result<Survivors> {
        let found = files(&*disk)?;
        let numbers = found.keys().chain(needed).filter_map(|start| ValuesNumber::at(*start));
        let mut state = State {
            next_number: numbers.max().map_or(ValuesNumber::default(), ValuesNumber::next),
            ..State::default()
        };
        for (start, segment) in found.into_iter().filter(|(start, _)| needed.contains(start)) {
            let bytes = segment.capacity_bytes();
            state.files.extend(
                ValuesNumber::at(start)
                    .map(|number| (number, Values { segment, bytes, writing: WriterToken::default() })),
            );
        }
        Ok(Survivors { disk, file_bytes: file_bytes.min(FILE_BYTES_MAX), state: Mutex::new(state) })
    }

    /// The file that starts at `start`.
    pub fn segment(&self, start: Lsn) -> Option<Arc<Segment>> {
        let state = self.state.lock();
        state.files.get(&ValuesNumber::at(start)?).map(|values| values.segment.clone())
    }

    /// Removes the files of `disk` that are not among them: leftovers of collections that did not end.
    pub fn remove_others(&self) -> Result<()> {
        for info in self.disk.list().map_err(|error| Error::io("listing the store", error))? {
            let number = ValuesNumber::of_file(&info.name);
            if number.is_some_and(|number| !self.state.lock().files.contains_key(&number)) {
                self.remove(&info.name);
            }
        }
        Ok(())
    }

    /// Appends a value.
    pub fn append(&self, value: &[u8]) -> Result<MovedValue> {
        let mut state = self.state.lock();
        let bytes = value.len() as u64;
        let fits = |values: &&Values| values.bytes == 0 || values.bytes + bytes <= self.file_bytes;
        let growing = state.growing.filter(|number| state.files.get(number).as_ref().is_some_and(fits));
        let number = match growing {
            Some(number) => number,
            None => self.begin(&mut state, bytes)?,
        };
        let values =
            state.files.get_mut(&number).ok_or_else(|| Error::Invalid("no file of values".to_string()))?;
        let lsn = number.start() + values.bytes;
        values.segment.append(Purpose::ValueLogGc, lsn, value)?;
        values.bytes += bytes;
        let moved = MovedValue { lsn, segment: values.segment.clone(), writing: values.writing.clone() };
        state.is_dirty = true;
        Ok(moved)
    }

    /// Begins the next file, for a value of `bytes` and others, and ends the one that grows.
    fn begin(&self, state: &mut State, bytes: u64) -> Result<ValuesNumber> {
        self.sync_growing(state)?;
        if let Some(values) = state.growing.take().and_then(|number| state.files.get(&number)) {
            values.segment.end(values.bytes)?;
        }
        let number = state.next_number;
        let name = number.file_name();
        let file = self.disk.create(&name).map_err(|error| Error::io(format!("making {name}"), error))?;
        let capacity_bytes = self.file_bytes.max(bytes);
        let segment = Segment::of_file(PREFIX, number.0, number.start(), file, capacity_bytes);
        let values = Values { segment: Arc::new(segment), bytes: 0, writing: WriterToken::default() };
        state.files.insert(number, values);
        (state.growing, state.next_number) = (Some(number), number.next());
        Ok(number)
    }

    /// Makes the bytes of everything that was appended durable, not yet the names of files.
    pub fn sync(&self) -> Result<()> {
        self.sync_growing(&mut self.state.lock())
    }

    fn sync_growing(&self, state: &mut State) -> Result<()> {
        let growing = state.growing.filter(|_| state.is_dirty).and_then(|number| state.files.get(&number));
        if let Some(values) = growing {
            values.segment.sync(Purpose::ValueLogGc)?;
        }
        state.is_dirty = false;
        Ok(())
    }

    /// Files that do not grow any more, that others hold, and whose live bytes are known: the start of each, and the bytes in it.
    pub fn kept(&self) -> Vec<(Lsn, u64)> {
        let state = self.state.lock();
        let whole = state.files.iter().filter(|(number, _)| Some(**number) != state.growing);
        let held = whole.filter(|(_, values)| {
            Arc::strong_count(&values.segment) > 1 && Arc::strong_count(&values.writing) == 1
        });
        held.map(|(number, values)| (number.start(), values.bytes)).collect()
    }

    /// Number of files, and their bytes.
    pub fn size(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.files.len() as u64, state.files.values().map(|values| values.bytes).sum())
    }

    /// Removes files that nobody holds any more.
    pub fn reclaim(&self) {
        let mut state = self.state.lock();
        // Only holders make new holders, but of the one that grows.
        let free: Vec<ValuesNumber> = state
            .files
            .iter()
            .filter(|(_, values)| values.bytes > 0 && Arc::strong_count(&values.segment) == 1)
            .map(|(number, _)| *number)
            .collect();
        for number in &free {
            state.files.remove(number);
            state.growing = state.growing.filter(|growing| growing != number);
        }
        drop(state);
        free.iter().for_each(|number| self.remove(&number.file_name()));
    }

    /// A failure costs only space: the next opening removes it again.
    fn remove(&self, name: &str) {
        if let Err(error) = self.disk.remove(name) {
            log::warn!("removing {name}: {error}");
        }
    }
}
