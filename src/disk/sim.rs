//! A simulated disk that keeps exactly the durability contract of the room, and can lose power at any request.
//!
//! Per file it holds the durable image and the unsynced writes in order, and the same for names.
//! [`SimDisk::crash`] returns the disk that a power cut would leave: each unsynced write kept, dropped or torn
//! as a [`Tear`] says, each unsynced name change kept or not. [`SimDisk::stop_at`] makes every request from the nth on
//! fail, as if power had gone just before it. The disk counts its own bytes (the [`Witness`]) and can write a
//! trace of its requests as text.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, File, FileInfo, Purpose, Space};
use crate::base::prng::Prng;

/// Result of a power cut for a write that was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tear {
    /// Each sector of 512 bytes is as it was or as it shall be.
    #[default]
    Sectors,
    /// Each sector of 4096 bytes is as it was, as it shall be, or has become nonsense, as far as the write covers it.
    Nonsense,
}

impl Tear {
    /// A write tears only between sectors of this size.
    fn sector_bytes(self) -> usize {
        match self {
            Tear::Sectors => 512,
            Tear::Nonsense => 4096,
        }
    }
}

/// The disk's own totals, to hold the meter against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes they filled.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes they wrote.
    pub write_bytes: u64,
    /// File syncs that succeeded.
    pub syncs: u64,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetSize(usize),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(bytes);
            }
            Change::SetSize(bytes) => image.resize(*bytes, 0),
        }
    }

    /// Applies what survives of the change when power is lost: all, nothing, or some sectors of it.
    fn survive(&self, image: &mut Vec<u8>, prng: &mut Prng, tear: Tear) {
        match (self, prng.below(3)) {
            (_, 0) => {}
            (_, 1) | (Change::SetSize(_), _) => self.apply(image),
            (Change::Write { offset, bytes }, _) => {
                let (mut start, sector_bytes) = (0, tear.sector_bytes());
                while start < bytes.len() {
                    // Sectors are counted from the start of the file, as the device sees them.
                    let end =
                        (((offset + start) / sector_bytes + 1) * sector_bytes - offset).min(bytes.len());
                    let left = match tear {
                        _ if prng.one_in(2) => Some(bytes[start..end].to_vec()),
                        Tear::Nonsense if prng.one_in(2) => {
                            Some((start..end).map(|_| prng.bits() as u8).collect())
                        }
                        Tear::Sectors | Tear::Nonsense => None,
                    };
                    if let Some(bytes) = left {
                        Change::Write { offset: offset + start, bytes }.apply(image);
                    }
                    start = end;
                }
            }
        }
    }
}

#[derive(Clone, Default)]
struct Body {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    current: Vec<u8>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create(name, body) => {
                names.insert(name.clone(), *body);
            }
            NameChange::Rename(from, to) => {
                if let Some(body) = names.remove(from) {
                    names.insert(to.clone(), body);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

/// The disk, its limits and the plan of its end, which every request looks at under one lock.
#[derive(Default)]
struct State {
    bodies: BTreeMap<u64, Body>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    next_body: u64,
    requests: u64,
    stop_at: Option<u64>,
    capacity_bytes: Option<u64>,
    files_max: Option<u64>,
    open_files: u64,
    open_files_max: Option<u64>,
    witness: Witness,
    trace: Option<String>,
}

impl State {
    /// Counts one changing request; fails if power is already gone.
    fn request(&mut self, text: impl FnOnce() -> String) -> io::Result<()> {
        self.powered()?;
        self.requests += 1;
        if let Some(trace) = &mut self.trace {
            trace.push_str(&text());
            trace.push('\n');
        }
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        match self.stop_at {
            Some(limit) if self.requests >= limit => Err(io::Error::other("the simulated power is off")),
            _ => Ok(()),
        }
    }

    fn may_open(&self) -> io::Result<()> {
        match self.open_files_max {
            Some(max) if self.open_files >= max => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|body| self.bodies[body].current.len() as u64).sum()
    }

    fn take(&self, growth: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if growth > 0 && self.used_bytes() + growth > capacity => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            _ => Ok(()),
        }
    }
}

/// The simulated disk. Clones of the `Arc` are the same disk.
#[derive(Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk without limits.
    pub fn new() -> Arc<SimDisk> {
        Arc::new(SimDisk::default())
    }

    /// Changing requests so far (writes, syncs, names, sizes); reads are not counted.
    pub fn requests(&self) -> u64 {
        self.state.lock().requests
    }

    /// Power goes just before changing request number `request`: from there every request fails.
    pub fn stop_at(&self, request: u64) {
        self.state.lock().stop_at = Some(request);
    }

    /// Limits the sum of file sizes; what goes over fails with `ENOSPC`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Limits how many files there may be; what goes over fails with `ENOSPC`. Without a limit the disk does not count them.
    pub fn set_files_max(&self, files: Option<u64>) {
        self.state.lock().files_max = files;
    }

    /// Limits how many files may be open at once; what goes over fails with `EMFILE`.
    pub fn set_open_files_max(&self, files: Option<u64>) {
        self.state.lock().open_files_max = files;
    }

    /// Files that are open.
    pub fn open_files(&self) -> u64 {
        self.state.lock().open_files
    }

    /// The disk's own totals.
    pub fn witness(&self) -> Witness {
        self.state.lock().witness
    }

    /// Starts (or restarts) a text trace of changing requests.
    pub fn start_trace(&self) {
        self.state.lock().trace = Some(String::new());
    }

    /// The trace so far.
    pub fn trace(&self) -> String {
        self.state.lock().trace.clone().unwrap_or_default()
    }

    /// The disk as a power cut would leave it now; `seed` decides what of the unsynced survives. Writes tear between sectors.
    pub fn crash(&self, seed: u64) -> Arc<SimDisk> {
        self.crash_as(seed, Tear::Sectors)
    }

    /// The same, with writes that tear as `tear` says.
    pub fn crash_as(&self, seed: u64, tear: Tear) -> Arc<SimDisk> {
        let state = self.state.lock();
        let mut prng = Prng::new(seed);
        let mut names = state.durable_names.clone();
        for change in &state.unsynced_names {
            if prng.one_in(2) {
                change.apply(&mut names);
            }
        }
        let mut bodies = BTreeMap::new();
        for body in names.values() {
            let source = &state.bodies[body];
            let mut image = source.durable.clone();
            for change in &source.unsynced {
                change.survive(&mut image, &mut prng, tear);
            }
            bodies.insert(*body, Body { durable: image.clone(), unsynced: Vec::new(), current: image });
        }
        Self::restart(names, bodies, &state)
    }

    /// The disk as `kill -9` of the process leaves it: every request that was made has happened.
    pub fn kill(&self) -> Arc<SimDisk> {
        let state = self.state.lock();
        let bodies = state.names.values().map(|body| (*body, state.bodies[body].clone())).collect();
        let disk = Self::restart(state.names.clone(), bodies, &state);
        {
            let mut new = disk.state.lock();
            new.durable_names = state.durable_names.clone();
            new.unsynced_names = state.unsynced_names.clone();
            for (id, body) in &state.bodies {
                new.bodies.entry(*id).or_insert_with(|| body.clone());
            }
        }
        disk
    }

    fn restart(names: BTreeMap<String, u64>, bodies: BTreeMap<u64, Body>, old: &State) -> Arc<SimDisk> {
        let state = State {
            durable_names: names.clone(),
            names,
            bodies,
            next_body: old.next_body,
            capacity_bytes: old.capacity_bytes,
            files_max: old.files_max,
            ..State::default()
        };
        Arc::new(SimDisk { state: Arc::new(Mutex::new(state)) })
    }

    /// Changes one bit of a file in place, as a failing medium would. False if the file has no such bit.
    pub fn flip_bit(&self, name: &str, bit: u64) -> bool {
        let mut state = self.state.lock();
        let Some(body) = state.names.get(name).copied() else { return false };
        let Some(body) = state.bodies.get_mut(&body) else { return false };
        let byte = (bit / 8) as usize;
        if byte >= body.current.len() {
            return false;
        }
        body.current[byte] ^= 1 << (bit % 8);
        if byte < body.durable.len() {
            body.durable[byte] ^= 1 << (bit % 8);
        }
        true
    }

    /// Opens a file; `state` is that of this disk.
    fn file(&self, state: &mut State, name: &str, body: u64) -> Arc<dyn File> {
        state.open_files += 1;
        Arc::new(SimFile { name: name.to_string(), body, state: self.state.clone() })
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.request(|| format!("create {name}"))?;
        state.may_open()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.files_max.is_some_and(|max| state.names.len() as u64 >= max) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let body = state.next_body;
        state.next_body += 1;
        state.bodies.insert(body, Body::default());
        let change = NameChange::Create(name.to_string(), body);
        change.apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(self.file(&mut state, name, body))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.powered()?;
        let body = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.may_open()?;
        Ok(self.file(&mut state, name, body))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.request(|| format!("rename {from} {to}"))?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.to_string(), to.to_string());
        change.apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.request(|| format!("remove {name}"))?;
        let change = NameChange::Remove(name.to_string());
        change.apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let state = self.state.lock();
        state.powered()?;
        let info = |(name, body): (&String, &u64)| {
            let bytes = state.bodies[body].current.len() as u64;
            FileInfo { name: name.clone(), bytes, bytes_allocated: bytes }
        };
        Ok(state.names.iter().map(info).collect())
    }
    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.request(|| "sync_names".to_string())?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
    fn space(&self) -> io::Result<Space> {
        let state = self.state.lock();
        let total_bytes = state.capacity_bytes.unwrap_or(1 << 40);
        let total_files = state.files_max.unwrap_or(0);
        Ok(Space {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(state.used_bytes()),
            total_files,
            free_files: total_files.saturating_sub(state.names.len() as u64),
        })
    }
}

struct SimFile {
    name: String,
    body: u64,
    state: Arc<Mutex<State>>,
}

impl SimFile {
    fn change(&self, state: &mut State, change: Change) -> io::Result<()> {
        let body = state.bodies.get_mut(&self.body).ok_or(io::ErrorKind::NotFound)?;
        change.apply(&mut body.current);
        body.unsynced.push(change);
        Ok(())
    }

    fn length(&self, state: &State) -> usize {
        state.bodies.get(&self.body).map_or(0, |body| body.current.len())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.state.lock().open_files -= 1;
    }
}

impl File for SimFile {
    fn read_at(&self, _: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        state.powered()?;
        let body = state.bodies.get(&self.body).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(target.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        target.copy_from_slice(body.current.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        state.witness.reads += 1;
        state.witness.read_bytes += target.len() as u64;
        Ok(())
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        state.request(|| format!("write {} {} @{offset} +{}", self.name, purpose.name(), source.len()))?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        state.take((offset + source.len()).saturating_sub(self.length(&state)) as u64)?;
        self.change(&mut state, Change::Write { offset, bytes: source.to_vec() })?;
        state.witness.writes += 1;
        state.witness.write_bytes += source.len() as u64;
        Ok(())
    }
    /// In memory the copy is all that a write costs.
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.write_at(purpose, offset, &pieces.concat())
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        let mut state = self.state.lock();
        state.request(|| format!("sync {} {}", self.name, purpose.name()))?;
        let body = state.bodies.get_mut(&self.body).ok_or(io::ErrorKind::NotFound)?;
        let Body { durable, unsynced, .. } = body;
        unsynced.drain(..).for_each(|change| change.apply(durable));
        state.witness.syncs += 1;
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        let state = self.state.lock();
        state.powered()?;
        Ok(self.length(&state) as u64)
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.request(|| format!("set_size {} {bytes}", self.name))?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        state.take(bytes.saturating_sub(self.length(&state)) as u64)?;
        self.change(&mut state, Change::SetSize(bytes))
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.request(|| format!("allocate {} {bytes}", self.name))?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let length = self.length(&state);
        state.take(bytes.saturating_sub(length) as u64)?;
        if bytes > length { self.change(&mut state, Change::SetSize(bytes)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Metered, read_all, replace};

    /// Runs `rounds` replacements of one file and crashes before every request; counts the images that hold
    /// neither the last acknowledged content nor a later one.
    fn violations(install: impl Fn(&dyn Disk, &[u8]) -> io::Result<()>, seeds: u64) -> u64 {
        let (mut broken, mut stop) = (0, 0);
        loop {
            let disk = SimDisk::new();
            disk.stop_at(stop);
            let mut acknowledged = 0;
            for round in 1..=4u8 {
                if install(&*disk, &vec![round; 1500]).is_err() {
                    break;
                }
                acknowledged = round;
            }
            for seed in 0..seeds {
                let after = disk.crash(seed);
                let found = after.open("f").and_then(|file| read_all(&*file, Purpose::Recovery));
                let whole = match found {
                    Ok(bytes) => {
                        bytes.len() == 1500
                            && bytes.iter().all(|b| *b == bytes[0])
                            && bytes[0] >= acknowledged
                    }
                    Err(_) => acknowledged == 0,
                };
                broken += u64::from(!whole);
            }
            if acknowledged == 4 {
                return broken;
            }
            stop += 1;
        }
    }

    #[test]
    fn replace_survives_every_crash_and_its_broken_variants_do_not() {
        assert_eq!(violations(|disk, bytes| replace(disk, Purpose::Manifest, "f", bytes), 64), 0);
        let without_file_sync = |disk: &dyn Disk, bytes: &[u8]| {
            let _ = disk.remove("f.new");
            let file = disk.create("f.new")?;
            file.write_at(Purpose::Manifest, 0, bytes)?;
            disk.rename("f.new", "f")?;
            disk.sync_names()
        };
        assert!(violations(without_file_sync, 64) > 100);
        let without_name_sync = |disk: &dyn Disk, bytes: &[u8]| {
            let _ = disk.remove("f.new");
            let file = disk.create("f.new")?;
            file.write_at(Purpose::Manifest, 0, bytes)?;
            file.sync(Purpose::Manifest)?;
            disk.rename("f.new", "f")
        };
        assert!(violations(without_name_sync, 64) > 100);
        let in_place = |disk: &dyn Disk, bytes: &[u8]| {
            let file = disk.open("f").or_else(|_| disk.create("f"))?;
            disk.sync_names()?;
            file.write_at(Purpose::Manifest, 0, bytes)?;
            file.sync(Purpose::Manifest)
        };
        assert!(violations(in_place, 64) > 100);
    }

    #[test]
    fn kill_keeps_what_crash_may_drop_and_the_meter_agrees_with_the_witness() {
        let sim = SimDisk::new();
        let disk = Metered::new(sim.clone());
        let file = disk.create("a").unwrap();
        file.write_at(Purpose::Wal, 0, &[7; 2000]).unwrap();
        file.write_at(Purpose::Flush, 2000, &[8; 100]).unwrap();
        file.read_at(Purpose::Get, 10, &mut [0; 50]).unwrap();
        file.sync(Purpose::Wal).unwrap();
        file.write_at(Purpose::Wal, 0, &[9; 1]).unwrap();
        let (total, witness) = (disk.snapshot().total(), sim.witness());
        assert_eq!((total.writes, total.write_bytes), (witness.writes, witness.write_bytes));
        assert_eq!((total.reads, total.read_bytes), (witness.reads, witness.read_bytes));
        assert_eq!((total.syncs, disk.snapshot().of(Purpose::Flush).write_bytes), (witness.syncs, 100));
        let killed = sim.kill();
        assert_eq!(read_all(&*killed.open("a").unwrap(), Purpose::Get).unwrap()[0], 9);
        let lost = (0..64).filter(|seed| killed.crash(*seed).open("a").is_err()).count();
        assert!(
            (16..48).contains(&lost),
            "an unsynced name vanishes in about half the crashes: {lost} of 64"
        );
    }

    #[test]
    fn a_full_disk_refuses_what_does_not_fit_and_nothing_else() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1000));
        let file = disk.create("a").unwrap();
        file.allocate(900).unwrap();
        file.write_at(Purpose::Wal, 0, &[1; 900]).unwrap();
        assert_eq!(
            file.write_at(Purpose::Wal, 900, &[1; 101]).unwrap_err().raw_os_error(),
            Some(libc::ENOSPC)
        );
        file.write_at(Purpose::Wal, 900, &[1; 100]).unwrap();
        assert_eq!(disk.space().unwrap().free_bytes, 0);
    }
}
