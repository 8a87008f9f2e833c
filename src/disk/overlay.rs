//! A view of another disk that can be changed without changing it: every write stays in memory.
//!
//! `kvfs check` and a read-only mount recover a store whose daemon was killed over such a view, so that looking writes nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};

use super::{Disk, File, FileInfo, Purpose, Space};

/// Bytes kept in memory as one piece.
const PIECE_BYTES: u64 = 4096;

/// Limit of the bytes that an overlay keeps.
#[derive(Default)]
struct Budget {
    bytes_max: u64,
    bytes: AtomicU64,
    is_exceeded: AtomicBool,
}

impl Budget {
    fn take(&self) -> io::Result<()> {
        if self.bytes.fetch_add(PIECE_BYTES, Relaxed) + PIECE_BYTES <= self.bytes_max {
            return Ok(());
        }
        self.give(1);
        self.is_exceeded.store(true, Relaxed);
        let text = format!("more than {} bytes of changes would have to be kept in memory", self.bytes_max);
        Err(io::Error::new(io::ErrorKind::OutOfMemory, text))
    }

    fn give(&self, pieces: usize) {
        self.bytes.fetch_sub(pieces as u64 * PIECE_BYTES, Relaxed);
    }
}

/// `disk` as it is, plus changes in memory.
pub struct Overlay {
    disk: Arc<dyn Disk>,
    budget: Arc<Budget>,
    /// Names that differ from the disk below: the file, or `None` where it was removed.
    names: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
}

impl Overlay {
    /// A view of `disk` without changes so far.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Overlay> {
        Overlay::bounded(disk, u64::MAX)
    }

    /// The same, which keeps at most `bytes_max` of changes: a write beyond fails with `OutOfMemory`.
    pub fn bounded(disk: Arc<dyn Disk>, bytes_max: u64) -> Arc<Overlay> {
        let budget = Budget { bytes_max, ..Budget::default() };
        Arc::new(Overlay { disk, budget: Arc::new(budget), names: Mutex::default() })
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.budget.bytes.load(Relaxed)
    }

    /// Whether a write was refused because too much would have been kept.
    pub fn is_exceeded(&self) -> bool {
        self.budget.is_exceeded.load(Relaxed)
    }

    fn find(&self, name: &str) -> io::Result<Arc<OverlayFile>> {
        let mut names = self.names.lock();
        if let Some(found) = names.get(name) {
            return found.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let below = self.disk.open(name)?;
        let bytes = below.size()?;
        let file = Arc::new(OverlayFile {
            below: Some(below),
            budget: self.budget.clone(),
            state: RwLock::new(Pieces { bytes, below_bytes: bytes, pieces: BTreeMap::new() }),
        });
        names.insert(name.to_string(), Some(file.clone()));
        Ok(file)
    }
}

impl Disk for Overlay {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if self.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let budget = self.budget.clone();
        let file = Arc::new(OverlayFile { below: None, budget, state: RwLock::default() });
        self.names.lock().insert(name.to_string(), Some(file.clone()));
        Ok(file)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.find(name)?)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut names = self.names.lock();
        names.insert(from.to_string(), None);
        names.insert(to.to_string(), Some(file));
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.names.lock().insert(name.to_string(), None);
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let mut files: BTreeMap<String, FileInfo> =
            self.disk.list()?.into_iter().map(|info| (info.name.clone(), info)).collect();
        for (name, file) in self.names.lock().iter() {
            match file {
                Some(file) => {
                    let bytes = file.state.read().bytes;
                    // What is kept in memory takes nothing on the device.
                    let bytes_allocated = files.get(name).map_or(0, |below| below.bytes_allocated);
                    files.insert(name.clone(), FileInfo { name: name.clone(), bytes, bytes_allocated });
                }
                None => {
                    files.remove(name);
                }
            }
        }
        Ok(files.into_values().collect())
    }
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
    /// Nothing that is written here takes space below.
    fn space(&self) -> io::Result<Space> {
        let space = self.disk.space()?;
        Ok(Space { free_bytes: space.total_bytes, ..space })
    }
}

#[derive(Default)]
struct Pieces {
    bytes: u64,
    /// Bytes of the file below that still show: a cut hides the rest for good.
    below_bytes: u64,
    pieces: BTreeMap<u64, Box<[u8]>>,
}

struct OverlayFile {
    below: Option<Arc<dyn File>>,
    budget: Arc<Budget>,
    state: RwLock<Pieces>,
}

impl Drop for OverlayFile {
    fn drop(&mut self) {
        self.budget.give(self.state.get_mut().pieces.len());
    }
}

impl OverlayFile {
    /// Fills `target` from the file below, zeros where that ends.
    fn read_below(
        &self,
        purpose: Purpose,
        below_bytes: u64,
        offset: u64,
        target: &mut [u8],
    ) -> io::Result<()> {
        let present = below_bytes.saturating_sub(offset).min(target.len() as u64) as usize;
        let (head, tail) = target.split_at_mut(present);
        tail.fill(0);
        match &self.below {
            Some(below) if !head.is_empty() => below.read_at(purpose, offset, head),
            _ => Ok(()),
        }
    }
}

/// Splits `offset..offset + length` at piece borders: (piece, start in piece, start in range, length).
fn spans(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PIECE_BYTES) as usize;
        let count = (PIECE_BYTES as usize - within).min(length - done);
        let span = (at / PIECE_BYTES, within, done, count);
        done += count;
        (count > 0).then_some(span)
    })
}

impl File for OverlayFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        let state = self.state.read();
        if offset.checked_add(target.len() as u64).is_none_or(|end| end > state.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_below(purpose, state.below_bytes, offset, target)?;
        if !state.pieces.is_empty() {
            for (piece, within, start, count) in spans(offset, target.len()) {
                if let Some(bytes) = state.pieces.get(&piece) {
                    target[start..start + count].copy_from_slice(&bytes[within..within + count]);
                }
            }
        }
        Ok(())
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        let mut state = self.state.write();
        for (piece, within, start, count) in spans(offset, source.len()) {
            if !state.pieces.contains_key(&piece) {
                let mut bytes = vec![0; PIECE_BYTES as usize].into_boxed_slice();
                self.read_below(purpose, state.below_bytes, piece * PIECE_BYTES, &mut bytes)?;
                self.budget.take()?;
                state.pieces.insert(piece, bytes);
            }
            if let Some(bytes) = state.pieces.get_mut(&piece) {
                bytes[within..within + count].copy_from_slice(&source[start..start + count]);
            }
        }
        state.bytes = state.bytes.max(offset + source.len() as u64);
        Ok(())
    }
    /// In memory the copy is all that a write costs.
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.write_at(purpose, offset, &pieces.concat())
    }
    fn sync(&self, _: Purpose) -> io::Result<()> {
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.state.read().bytes)
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.write();
        if bytes < state.bytes {
            state.below_bytes = state.below_bytes.min(bytes);
            self.budget.give(state.pieces.split_off(&bytes.div_ceil(PIECE_BYTES)).len());
            if let Some(last) = state.pieces.get_mut(&(bytes / PIECE_BYTES)) {
                last[(bytes % PIECE_BYTES) as usize..].fill(0);
            }
        }
        state.bytes = bytes;
        Ok(())
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.write();
        state.bytes = state.bytes.max(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use crate::disk::{SimDisk, read_all};

    #[test]
    fn changes_show_above_and_never_below() {
        let below = SimDisk::new();
        below.create("a").unwrap().write_at(Purpose::Wal, 0, &[1; 10_000]).unwrap();
        let requests = below.requests();
        let overlay = Overlay::new(below.clone());
        let file = overlay.open("a").unwrap();
        let mut model = vec![1u8; 10_000];
        let mut prng = Prng::new(3);
        for step in 0..500 {
            let offset = prng.below(12_000) as usize;
            if prng.one_in(5) {
                model.resize(offset, 0);
                file.set_size(offset as u64).unwrap();
            } else {
                let bytes = vec![step as u8; prng.below(6000) as usize];
                model.resize(model.len().max(offset + bytes.len()), 0);
                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                file.write_at(Purpose::Wal, offset as u64, &bytes).unwrap();
            }
            assert_eq!(read_all(&*file, Purpose::Get).unwrap(), model);
        }
        overlay.rename("a", "b").unwrap();
        overlay.create("a").unwrap();
        overlay.remove("a").unwrap();
        assert_eq!(overlay.list().unwrap().iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(below.requests(), requests);
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let below = SimDisk::new();
        below.create("a").unwrap().write_at(Purpose::Wal, 0, &[1; 10_000]).unwrap();
        let overlay = Overlay::bounded(below, 3 * PIECE_BYTES);
        let file = overlay.open("a").unwrap();
        file.write_at(Purpose::Wal, 4000, &[2; 200]).unwrap();
        file.write_at(Purpose::Wal, 4000, &[3; 200]).unwrap();
        assert_eq!(overlay.bytes(), 2 * PIECE_BYTES);
        file.write_at(Purpose::Wal, 9000, &[2; 10]).unwrap();
        assert!(!overlay.is_exceeded());
        let refused = file.write_at(Purpose::Wal, 50_000, &[2; 10]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::OutOfMemory);
        assert!(overlay.is_exceeded() && overlay.bytes() == 3 * PIECE_BYTES);
        // What goes gives room.
        file.set_size(5000).unwrap();
        assert_eq!(overlay.bytes(), 2 * PIECE_BYTES);
        let other = overlay.create("b").unwrap();
        other.write_at(Purpose::Wal, 0, &[2; 10]).unwrap();
        drop(other);
        overlay.remove("b").unwrap();
        assert_eq!(overlay.bytes(), 2 * PIECE_BYTES);
    }
}
