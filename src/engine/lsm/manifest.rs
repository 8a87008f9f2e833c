//! The manifest: which table files make up the store, as a list of edits in one file.
//!
//! The file begins with a header and an edit that describes the whole store; every later change is one more framed edit,
//! synced before anything relies on it. When the edits outgrow what they describe, and at every opening, a new file with a
//! single edit takes its place by a rename.
//!
//! # Invariants
//!
//! 1. An edit names only tables whose bytes and names are durable.
//! 2. Nothing that an edit stops to need (tables, log) is touched before the edit is durable.
//! 3. After a sync or rename that failed nothing is known about the file: no edit is accepted until the store is opened
//!    again.
//! 4. Reading stops at the first edit that does not check. An edit is written after the one before is durable, so if a later
//!    one checks, that is damage, not a torn end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::place;
use super::table::{Table, TableMeta, TableNumber};
use crate::base::varint;
use crate::disk::{Disk, File, LEVELS, Purpose, read_all};
use crate::engine::{Error, Lsn, Result, frame};

/// File name of the manifest.
pub const NAME: &str = "manifest";
const NEW_NAME: &str = "manifest.new";
const KIND_HEADER: u8 = 1;
const KIND_EDIT: u8 = 2;
const VERSION: u64 = 4;
/// The oldest version that is read: the same, without files of survivors.
const VERSION_OLDEST: u64 = 3;
const TITLE: &[u8] = b"kvfs lsm manifest";

const TAG_ADD: u64 = 1;
const TAG_REMOVE: u64 = 2;
const TAG_LOG_LSN: u64 = 3;
const TAG_NEXT_NUMBER: u64 = 4;
const TAG_CURSOR: u64 = 5;

fn put_all<const N: usize>(target: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.iter().for_each(|number| varint::put(target, *number));
}

/// One atomic change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// Tables that are no longer part of the store: level and number.
    pub removed: Vec<(usize, TableNumber)>,
    /// New tables and their levels.
    pub added: Vec<(usize, TableMeta)>,
    /// Batches up to here are in tables: the log before is not needed any more.
    pub log_lsn: Option<Lsn>,
    /// Every table so far has a number below.
    pub next_number: Option<TableNumber>,
    /// Levels, and where the last merge out of each ended.
    pub cursors: Vec<(usize, Bytes)>,
}

impl Edit {
    /// `added` tables in the place of those `removed`, with what is to be remembered of it; every table has a number below `next_number`.
    pub fn replace(
        removed: &[(usize, Arc<Table>)],
        added: &[(usize, Arc<Table>)],
        cursor: Option<&(usize, Bytes)>,
        next_number: TableNumber,
    ) -> Edit {
        Edit {
            removed: removed.iter().map(|(level, table)| (*level, table.number)).collect(),
            added: added.iter().map(|(level, table)| (*level, table.meta().clone())).collect(),
            next_number: Some(next_number),
            cursors: cursor.into_iter().cloned().collect(),
            ..Edit::default()
        }
    }

    /// Appends it.
    pub fn encode(&self, target: &mut Vec<u8>) {
        for (level, number) in &self.removed {
            put_all(target, [TAG_REMOVE, *level as u64, number.number()]);
        }
        for (level, meta) in &self.added {
            put_all(target, [TAG_ADD, *level as u64, meta.bytes]);
            meta.encode(target);
        }
        for (tag, number) in [
            (TAG_LOG_LSN, self.log_lsn.map(Lsn::number)),
            (TAG_NEXT_NUMBER, self.next_number.map(TableNumber::number)),
        ] {
            if let Some(number) = number {
                put_all(target, [tag, number]);
            }
        }
        for (level, key) in &self.cursors {
            put_all(target, [TAG_CURSOR, *level as u64]);
            varint::put_bytes(target, key);
        }
    }

    /// Reads what [`Edit::encode`] wrote; `None` if it is no edit.
    pub fn decode(mut source: &[u8]) -> Option<Edit> {
        let mut edit = Edit::default();
        while !source.is_empty() {
            let tag = varint::take(&mut source)?;
            let number = varint::take(&mut source)?;
            let level = usize::try_from(number).ok().filter(|level| *level < LEVELS);
            match tag {
                TAG_REMOVE => edit.removed.push((level?, TableNumber::new(varint::take(&mut source)?))),
                TAG_ADD => {
                    let bytes = varint::take(&mut source)?;
                    edit.added.push((level?, TableMeta::decode(&mut source, bytes)?));
                }
                TAG_LOG_LSN => edit.log_lsn = Some(Lsn::new(number)),
                TAG_NEXT_NUMBER => edit.next_number = Some(TableNumber::new(number)),
                TAG_CURSOR => {
                    edit.cursors.push((level?, Bytes::copy_from_slice(varint::take_bytes(&mut source)?)));
                }
                _ => return None,
            }
        }
        Some(edit)
    }
}

/// Contents of the manifest: the sum of all edits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ManifestState {
    /// Tables by level and number.
    pub tables: BTreeMap<(usize, TableNumber), TableMeta>,
    /// LSN at which replay of the log begins.
    pub log_lsn: Lsn,
    /// The next table's number at least.
    pub next_number: TableNumber,
    /// Per level, where the last merge out of it ended.
    pub cursors: [Bytes; LEVELS],
}

impl ManifestState {
    /// The sentence to show if an edit contradicts what came before.
    fn check(&self, edit: &Edit) -> std::result::Result<(), String> {
        let mut removed = BTreeSet::new();
        for key in &edit.removed {
            if !self.tables.contains_key(key) || !removed.insert(*key) {
                return Err(format!("removes table {} that is not there", key.1));
            }
        }
        let mut added = BTreeSet::new();
        for key in edit.added.iter().map(|(level, meta)| (*level, meta.number)) {
            if self.tables.contains_key(&key) && !removed.contains(&key) || !added.insert(key) {
                return Err(format!("adds table {} twice", key.1));
            }
        }
        Ok(())
    }

    /// Adds an edit that [checks](ManifestState::check). Costs what the edit is, not what is there.
    pub fn apply(&mut self, edit: &Edit) {
        self.adopt(edit);
        self.log_lsn = edit.log_lsn.unwrap_or(self.log_lsn);
        self.next_number = edit.next_number.unwrap_or(self.next_number);
        for (level, key) in &edit.cursors {
            self.cursors[*level] = key.clone();
        }
    }

    /// A whole manifest of `generation` that says the same.
    pub fn encode(&self, generation: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let at = frame::start(&mut bytes, KIND_HEADER);
        bytes.extend_from_slice(TITLE);
        put_all(&mut bytes, [VERSION, generation]);
        frame::finish(&mut bytes, at, 0);
        let at = frame::start(&mut bytes, KIND_EDIT);
        let edit = Edit {
            added: self.tables.iter().map(|((level, _), meta)| (*level, meta.clone())).collect(),
            log_lsn: Some(self.log_lsn),
            next_number: Some(self.next_number),
            cursors: self.cursors.iter().cloned().enumerate().filter(|(_, key)| !key.is_empty()).collect(),
            ..Edit::default()
        };
        edit.encode(&mut bytes);
        frame::finish(&mut bytes, at, place(generation, at as u64));
        bytes
    }

    /// Reads a whole manifest; also its generation.
    pub fn decode(bytes: &[u8]) -> Result<(ManifestState, u64)> {
        Self::read(bytes).map(|(state, generation, _)| (state, generation))
    }

    /// The same, and the end of its last edit.
    fn read(bytes: &[u8]) -> Result<(ManifestState, u64, u64)> {
        let damaged = |offset: usize, what: &str| Error::corrupt(NAME, offset as u64, what);
        let header = frame::decode(bytes, 0).and_then(|(kind, payload)| {
            let mut rest = payload.strip_prefix(TITLE).filter(|_| kind == KIND_HEADER)?;
            let numbers = (varint::take(&mut rest)?, varint::take(&mut rest)?);
            Some((numbers, frame::HEADER_BYTES + payload.len()))
        });
        let ((version, generation), mut offset) = header.ok_or_else(|| damaged(0, "no manifest header"))?;
        if !(VERSION_OLDEST..=VERSION).contains(&version) {
            return Err(Error::format(NAME, version, VERSION));
        }
        let mut state = ManifestState::default();
        // The first edit came with the file, whole.
        let mut whole = false;
        while let Some((kind, payload)) = frame::decode(&bytes[offset..], place(generation, offset as u64)) {
            let edit = Edit::decode(payload).filter(|_| kind == KIND_EDIT);
            let edit = edit.ok_or_else(|| damaged(offset, "an edit that does not parse"))?;
            state.check(&edit).map_err(|what| damaged(offset, &format!("an edit that {what}")))?;
            state.apply(&edit);
            offset += frame::HEADER_BYTES + payload.len();
            whole = true;
        }
        let later = (offset + 1..bytes.len())
            .find(|later| frame::decode(&bytes[*later..], place(generation, *later as u64)).is_some());
        if !whole || later.is_some() {
            return Err(damaged(offset, "an edit that does not check"));
        }
        Ok((state, generation, offset as u64))
    }
}

impl ManifestState {
    /// The contents as far as a damaged manifest shows them: every edit that checks, and the first, which describes the whole store, also
    /// if it only parses. Tables may be missing or be too many; only the tables are of use.
    pub fn guess(bytes: &[u8]) -> ManifestState {
        let mut state = ManifestState::default();
        let Some((generation, start)) = numbers(bytes) else { return state };
        let mut offset = start;
        while offset < bytes.len() {
            let checked = frame::decode(&bytes[offset..], place(generation, offset as u64));
            if let Some((_, payload)) = checked.filter(|(kind, _)| *kind == KIND_EDIT) {
                state.adopt(&Edit::decode(payload).unwrap_or_default());
                offset += frame::HEADER_BYTES + payload.len();
                continue;
            }
            if offset == start {
                let length = bytes.get(offset + 4..offset + 8).and_then(|four| four.try_into().ok());
                let length = length.map_or(usize::MAX, |four| u32::from_le_bytes(four) as usize);
                let from = offset + frame::HEADER_BYTES;
                let payload = from.checked_add(length).and_then(|end| bytes.get(from..end));
                state.adopt(&payload.and_then(Edit::decode).unwrap_or_default());
            }
            offset += 1;
        }
        state
    }

    /// Adds the tables of an edit and takes away those that it removes, whatever came before.
    fn adopt(&mut self, edit: &Edit) {
        edit.removed.iter().for_each(|key| drop(self.tables.remove(key)));
        self.tables.extend(edit.added.iter().map(|(level, meta)| ((*level, meta.number), meta.clone())));
    }
}

/// The generation that the header gives, whether it checks or not, and where it ends.
fn numbers(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut rest = bytes.get(frame::HEADER_BYTES + TITLE.len()..)?;
    let generation = (varint::take(&mut rest)?, varint::take(&mut rest)?).1;
    Some((generation, bytes.len() - rest.len()))
}

/// The manifest of an open store.
pub struct Manifest {
    disk: Arc<dyn Disk>,
    file: Arc<dyn File>,
    state: ManifestState,
    generation: u64,
    bytes: u64,
    /// Size of the file, as far as it was made longer ahead.
    taken_bytes: u64,
    /// Size at which it is written anew.
    bytes_max: u64,
    growth_bytes: u64,
    failed: Option<Error>,
}

impl Manifest {
    /// Reads the manifest of `disk`, or makes the first one if `is_new`, and writes it anew. It grows by at least
    /// `growth_bytes` before it is written anew again.
    pub fn open(disk: Arc<dyn Disk>, growth_bytes: u64, is_new: bool) -> Result<Manifest> {
        let (state, generation, old) = match disk.open(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_new => {
                (ManifestState::default(), 0, None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::corrupt(NAME, 0, "the store has tables or a log, but no manifest"));
            }
            Err(error) => return Err(Error::io("opening the manifest", error)),
            Ok(file) => {
                let bytes = read_all(&*file, Purpose::Recovery);
                let bytes = bytes.map_err(|error| Error::io("reading the manifest", error))?;
                let (state, generation, end) = ManifestState::read(&bytes)?;
                (state, generation, Some((file, end)))
            }
        };
        let bytes = state.encode(generation + 1);
        let prepared = prepare(&disk, &bytes).map_err(|error| Error::io("writing the manifest", error));
        let (file, generation, bytes) = match (prepared, old) {
            // No space for another: the old one goes on, without what a crash may have left behind its last edit.
            (Err(Error::NoSpace), Some((file, end))) => {
                // A leftover is removed when there is space for the next.
                let _ = disk.remove(NEW_NAME);
                let bytes = file.size().map_err(|error| Error::io("reading the manifest", error))?;
                file.set_size(end).map_err(|error| Error::io("cutting the manifest", error))?;
                // What it had for the next edits it shall have again.
                let _ = file.allocate(bytes);
                (file, generation, end)
            }
            (prepared, _) => {
                let file = prepared?;
                install(&disk).map_err(|error| Error::io("installing the manifest", error))?;
                (file, generation + 1, bytes.len() as u64)
            }
        };
        let bytes_max = bytes * 4 + growth_bytes;
        let mut manifest = Manifest {
            disk,
            file,
            state,
            generation,
            bytes,
            taken_bytes: 0,
            bytes_max,
            growth_bytes,
            failed: None,
        };
        manifest.take_ahead();
        Ok(manifest)
    }

    /// Makes the first manifest of `disk`: it says `state`, or after a crash is not there.
    pub fn create(disk: &Arc<dyn Disk>, state: &ManifestState) -> Result<()> {
        let made = prepare(disk, &state.encode(1)).and_then(|_| install(disk));
        made.map_err(|error| Error::io("writing the manifest", error))
    }

    /// Takes space for the next edits, so that one which gives space back needs none: the file is followed by zeros. Where there is no
    /// space, an edit that needs it says so.
    fn take_ahead(&mut self) {
        if self.taken_bytes < self.bytes + self.growth_bytes / 2 {
            let wanted_bytes = self.bytes + self.growth_bytes;
            if self.file.allocate(wanted_bytes).is_ok() {
                self.taken_bytes = wanted_bytes;
            }
        }
    }

    /// Its contents.
    pub fn state(&self) -> &ManifestState {
        &self.state
    }

    /// Makes `edit` durable. On an error from the write the edit has not happened; after a failed sync nobody knows, and
    /// every later edit fails.
    pub fn append(&mut self, edit: &Edit) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.state.check(edit).map_err(|what| Error::Invalid(format!("an edit that {what}")))?;
        let mut frame_bytes = Vec::new();
        let at = frame::start(&mut frame_bytes, KIND_EDIT);
        edit.encode(&mut frame_bytes);
        frame::finish(&mut frame_bytes, at, place(self.generation, self.bytes));
        let written = self.file.write_at(Purpose::Manifest, self.bytes, &frame_bytes);
        written.map_err(|error| Error::io("writing the manifest", error))?;
        if let Err(error) = self.file.sync(Purpose::Manifest) {
            return Err(self.fail(Error::io("sync of the manifest", error)));
        }
        self.bytes += frame_bytes.len() as u64;
        self.state.apply(edit);
        if self.bytes > self.bytes_max {
            self.rewrite()?;
        }
        self.take_ahead();
        Ok(())
    }

    /// Whether a sync or rename failed, so that the fate of the last edit is unknown.
    pub fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Puts a new file with one edit in place.
    fn rewrite(&mut self) -> Result<()> {
        let bytes = self.state.encode(self.generation + 1);
        self.bytes_max = self.bytes.max(bytes.len() as u64) * 4 + self.growth_bytes;
        let file = match prepare(&self.disk, &bytes) {
            Ok(file) => file,
            Err(error) => {
                // The old file is untouched and goes on.
                log::warn!("writing the manifest anew: {error}");
                return Ok(());
            }
        };
        if let Err(error) = install(&self.disk) {
            return Err(self.fail(Error::io("installing the manifest", error)));
        }
        (self.file, self.bytes, self.taken_bytes) = (file, bytes.len() as u64, 0);
        self.generation += 1;
        self.bytes_max = self.bytes * 4 + self.growth_bytes;
        Ok(())
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(error.clone());
        error
    }
}

/// Writes a manifest beside the one in place.
fn prepare(disk: &Arc<dyn Disk>, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
    match disk.remove(NEW_NAME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(NEW_NAME)?;
    file.write_at(Purpose::Manifest, 0, bytes)?;
    file.sync(Purpose::Manifest)?;
    Ok(file)
}

/// Puts what [`prepare`] wrote in place.
fn install(disk: &Arc<dyn Disk>) -> io::Result<()> {
    disk.rename(NEW_NAME, NAME)?;
    disk.sync_names()
}
