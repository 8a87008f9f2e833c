//! Makes a disk fail on purpose: a decorator for tests, over the simulated disk or the real one.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};

/// A kind of request at the disk door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `read_at`.
    Read,
    /// `write_at`.
    Write,
    /// `File::sync`.
    Sync,
    /// `create`, `rename`, `remove`.
    Name,
    /// `sync_names`.
    SyncNames,
    /// `set_size`.
    SetSize,
    /// `allocate`.
    Allocate,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The `nth` request (from 0) that matches fails with `errno`, once.
    Fail {
        /// Only requests of this kind count, if given.
        kind: Option<Request>,
        /// Only requests of this purpose count, if given.
        purpose: Option<Purpose>,
        /// Number of matching requests that succeed first.
        nth: u64,
        /// Error number that the request fails with, such as `libc::EIO`.
        errno: i32,
    },
    /// Every write and allocation past this many written bytes fails with `ENOSPC`.
    FullAfter {
        /// Bytes that still fit.
        bytes: u64,
    },
    /// The `nth` read of `purpose` returns with one bit turned.
    FlipBit {
        /// Only reads of this purpose count, if given.
        purpose: Option<Purpose>,
        /// Number of matching reads that are left alone first.
        nth: u64,
        /// The bit of the answer to turn, modulo its length.
        bit: u64,
    },
    /// Every sync of this kind and purpose is acknowledged and not done, as by a drive that lies. A crash test that does
    /// not notice proves nothing.
    Lie {
        /// [`Request::Sync`] or [`Request::SyncNames`].
        kind: Request,
        /// Only syncs of this purpose, if given.
        purpose: Option<Purpose>,
    },
}

#[derive(Default)]
struct Plan {
    faults: Vec<Fault>,
    requests: u64,
    written_bytes: u64,
    hits: u64,
}

impl Plan {
    /// Counts one request; the error it must fail with, if any.
    fn pass(&mut self, kind: Request, purpose: Option<Purpose>, bytes: u64) -> io::Result<()> {
        self.requests += 1;
        for fault in &mut self.faults {
            match fault {
                Fault::Fail { kind: wanted, purpose: wanted_purpose, nth, errno } => {
                    if wanted.is_some_and(|wanted| wanted != kind)
                        || wanted_purpose.is_some_and(|wanted| Some(wanted) != purpose)
                        || *nth == u64::MAX
                    {
                        continue;
                    }
                    if *nth == 0 {
                        *nth = u64::MAX;
                        self.hits += 1;
                        return Err(io::Error::from_raw_os_error(*errno));
                    }
                    *nth -= 1;
                }
                Fault::FullAfter { bytes: limit } => {
                    if matches!(kind, Request::Write | Request::Allocate)
                        && self.written_bytes + bytes > *limit
                    {
                        self.hits += 1;
                        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                    }
                }
                Fault::FlipBit { .. } | Fault::Lie { .. } => {}
            }
        }
        if kind == Request::Write {
            self.written_bytes += bytes;
        }
        Ok(())
    }

    /// Whether this sync is to be acknowledged and not done.
    fn lies(&mut self, kind: Request, purpose: Option<Purpose>) -> bool {
        let lies = self.faults.iter().any(|fault| {
            matches!(fault, Fault::Lie { kind: about, purpose: wanted }
                if *about == kind && (wanted.is_none() || *wanted == purpose))
        });
        self.hits += u64::from(lies);
        lies
    }

    /// The bit to turn in the answer to a read of `length` bytes, if it is this read's turn.
    fn flip(&mut self, purpose: Purpose, length: usize) -> Option<usize> {
        for fault in &mut self.faults {
            if let Fault::FlipBit { purpose: wanted, nth, bit } = fault
                && wanted.is_none_or(|wanted| wanted == purpose)
                && *nth != u64::MAX
                && length > 0
            {
                if *nth == 0 {
                    *nth = u64::MAX;
                    self.hits += 1;
                    return Some((*bit % (length as u64 * 8)) as usize);
                }
                *nth -= 1;
            }
        }
        None
    }
}

/// A disk on which the planned faults happen.
pub struct Faulty {
    disk: Arc<dyn Disk>,
    plan: Arc<Mutex<Plan>>,
}

impl Faulty {
    /// A disk without faults so far.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Faulty> {
        Arc::new(Faulty { disk, plan: Arc::default() })
    }

    /// Adds a fault; its count starts now.
    pub fn inject(&self, fault: Fault) {
        self.plan.lock().faults.push(fault);
    }

    /// Removes every fault.
    pub fn heal(&self) {
        self.plan.lock().faults.clear();
    }

    /// Requests seen so far.
    pub fn requests(&self) -> u64 {
        self.plan.lock().requests
    }

    /// Number of faults that struck.
    pub fn hits(&self) -> u64 {
        self.plan.lock().hits
    }

    fn pass(&self, kind: Request) -> io::Result<()> {
        self.plan.lock().pass(kind, None, 0)
    }

    fn wrap(&self, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(FaultyFile { file: file?, plan: self.plan.clone() }))
    }
}

impl Disk for Faulty {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.pass(Request::Name)?;
        self.wrap(self.disk.create(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.wrap(self.disk.open(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.pass(Request::Name)?;
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.pass(Request::Name)?;
        self.disk.remove(name)
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> io::Result<()> {
        self.pass(Request::SyncNames)?;
        if self.plan.lock().lies(Request::SyncNames, None) { Ok(()) } else { self.disk.sync_names() }
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

struct FaultyFile {
    file: Arc<dyn File>,
    plan: Arc<Mutex<Plan>>,
}

impl File for FaultyFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.plan.lock().pass(Request::Read, Some(purpose), target.len() as u64)?;
        self.file.read_at(purpose, offset, target)?;
        if let Some(bit) = self.plan.lock().flip(purpose, target.len()) {
            target[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(())
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.plan.lock().pass(Request::Write, Some(purpose), source.len() as u64)?;
        self.file.write_at(purpose, offset, source)
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.plan.lock().pass(Request::Write, Some(purpose), bytes as u64)?;
        self.file.write_pieces_at(purpose, offset, pieces)
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        self.plan.lock().pass(Request::Sync, Some(purpose), 0)?;
        if self.plan.lock().lies(Request::Sync, Some(purpose)) { Ok(()) } else { self.file.sync(purpose) }
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.plan.lock().pass(Request::SetSize, None, 0)?;
        self.file.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let growth = bytes.saturating_sub(self.file.size()?);
        self.plan.lock().pass(Request::Allocate, None, growth)?;
        self.file.allocate(bytes)
    }
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        self.file.with_descriptor(look)
    }
}
