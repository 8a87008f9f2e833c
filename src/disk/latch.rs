//! After a failed sync, or a failed write to the log, nobody knows what the disk holds. The latch then
//! refuses every further change until the store is opened again; reads go on.
//!
//! A sync that failed is never tried again: the kernel may have dropped the dirty pages and would report
//! success for bytes that are gone.
//!
//! A failed read concerns only who asked. It is logged here, where file and offset are known.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};

/// The error behind every call that a closed latch refuses.
#[derive(Clone, Debug)]
struct Poisoned(Arc<String>);

impl fmt::Display for Poisoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store is read-only since {}; unmount, mend the disk and mount again", self.0)
    }
}

impl std::error::Error for Poisoned {}

/// Whether `error` comes from a latch that has closed.
pub fn is_poisoned(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Poisoned>())
}

#[derive(Clone, Default)]
struct State(Arc<OnceLock<Arc<String>>>);

impl State {
    fn check(&self) -> io::Result<()> {
        match self.0.get() {
            Some(cause) => Err(io::Error::other(Poisoned(cause.clone()))),
            None => Ok(()),
        }
    }

    fn close(&self, what: &str, name: &str, error: &io::Error) -> io::Error {
        let cause = self.0.get_or_init(|| {
            let cause = format!("{what} {name} failed: {error}");
            log::error!("{cause}; the store is read-only from here on");
            Arc::new(cause)
        });
        io::Error::other(Poisoned(cause.clone()))
    }
}

/// A disk that refuses changes after a sync of it failed.
pub struct Latch {
    disk: Arc<dyn Disk>,
    state: State,
}

impl Latch {
    /// An open latch in front of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Latch> {
        Arc::new(Latch { disk, state: State::default() })
    }

    /// Cause for which the latch closed, if it did: one sentence.
    pub fn cause(&self) -> Option<String> {
        self.state.0.get().map(|cause| cause.to_string())
    }

    fn wrap(&self, name: &str, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LatchedFile { name: name.to_string(), file: file?, state: self.state.clone() }))
    }
}

impl Disk for Latch {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.state.check()?;
        self.wrap(name, self.disk.create(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.wrap(name, self.disk.open(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state.check()?;
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.state.check()?;
        self.disk.remove(name)
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> io::Result<()> {
        self.state.check()?;
        self.disk.sync_names().map_err(|error| self.state.close("sync of", "the directory", &error))
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

struct LatchedFile {
    name: String,
    file: Arc<dyn File>,
    state: State,
}

impl LatchedFile {
    /// Consequence of a failed write.
    fn judge(&self, purpose: Purpose, error: io::Error) -> io::Error {
        match purpose {
            // A hole in the log would hide every record behind it, whatever the record was to hold.
            Purpose::Wal | Purpose::PageImage | Purpose::ValueLog | Purpose::ValueLogGc => {
                self.state.close("write to the log", &self.name, &error)
            }
            _ => error,
        }
    }
}

impl File for LatchedFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.file.read_at(purpose, offset, target).inspect_err(|error| {
            log::error!("reading {} bytes at {offset} of {}: {error}", target.len(), self.name);
        })
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.state.check()?;
        self.file.write_at(purpose, offset, source).map_err(|error| self.judge(purpose, error))
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.state.check()?;
        self.file.write_pieces_at(purpose, offset, pieces).map_err(|error| self.judge(purpose, error))
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        self.state.check()?;
        self.file.sync(purpose).map_err(|error| self.state.close("sync of", &self.name, &error))
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.state.check()?;
        self.file.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.state.check()?;
        self.file.allocate(bytes)
    }
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        self.state.check()?;
        self.file.with_descriptor(look)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, Faulty, Request, SimDisk};
    use super::*;

    #[test]
    fn a_failed_write_closes_it_if_it_was_to_the_log_whatever_for() {
        for purpose in Purpose::all() {
            let faulty = Faulty::new(SimDisk::new());
            let latch = Latch::new(faulty.clone());
            let file = latch.create("a file").unwrap();
            let (kind, errno) = (Some(Request::Write), libc::EIO);
            faulty.inject(Fault::Fail { kind, purpose: Some(purpose), nth: 0, errno });
            file.write_at(purpose, 0, b"x").unwrap_err();
            // What prepares the log is no record; and it is only zeros.
            let is_log = matches!(purpose.name(), "wal" | "value_log" | "value_log_gc" | "page_image");
            assert_eq!(latch.cause().is_some(), is_log, "{}", purpose.name());
            assert_eq!(file.write_at(purpose, 0, b"x").is_err(), is_log, "{}", purpose.name());
        }
    }
}
