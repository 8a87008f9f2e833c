//! The pager: the data file, and the pool of clean pages and values that were read from it or written to it.
//!
//! Dirty pages belong to the tree, which knows the pager only as its [`PageSource`].

mod pool;
mod read;
mod write;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::allocation_unit::{FILE, FIRST_UNIT, PageNumber, UNIT_BYTES, UnitNumber, Units};
use super::meta::{META_BYTES, Meta};
use super::page::{CompressedPage, Page};
use super::source::{PageSource, Piece};
use crate::disk::{File, Purpose};
use crate::engine::{
    Cache, ClassBytes, ClassMeter, Compression, CpuMeter, Error, Lookups, PageCause, PageKind, Pages, Result,
    TrafficMeter, Work,
};
use pool::Pool;
pub use read::StoredPage;

/// The data file with its pool.
pub struct Pager {
    file: Arc<dyn File>,
    page_bytes: usize,
    pool: Pool,
    reads: TrafficMeter,
    writes: TrafficMeter,
    cpu: CpuMeter,
    classes: ClassMeter,
    /// Bytes of the compressed pages that were written, before compression.
    raw_bytes: AtomicU64,
    /// Bytes of the same pages in the file.
    compressed_bytes: AtomicU64,
    /// The error after which nothing more is written.
    failed: Mutex<Option<Error>>,
}

fn context(what: &str, offset: u64) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(FILE, offset, "the file ends before"),
        _ => Error::io(format!("{what} {FILE} at byte {offset}"), error),
    }
}

impl Pager {
    /// A pager over `file` with an empty pool of `pool_bytes_max`.
    pub fn new(file: Arc<dyn File>, page_bytes: usize, pool_bytes_max: u64) -> Pager {
        Pager {
            file,
            page_bytes,
            pool: Pool::new(pool_bytes_max, page_bytes),
            reads: TrafficMeter::default(),
            writes: TrafficMeter::default(),
            cpu: CpuMeter::default(),
            classes: ClassMeter::default(),
            raw_bytes: AtomicU64::new(0),
            compressed_bytes: AtomicU64::new(0),
            failed: Mutex::new(None),
        }
    }

    /// The meter of processor time for pages.
    pub fn cpu(&self) -> &CpuMeter {
        &self.cpu
    }

    fn decode(&self, number: PageNumber, bytes: Vec<u8>) -> std::result::Result<Page, &'static str> {
        let length = bytes.len() as u64;
        if !number.is_compressed() {
            return self.cpu.sample(Work::Checksum, length, || Page::decode(number, bytes));
        }
        self.cpu.sample(Work::Checksum, length, || CompressedPage::check(number, &bytes))?;
        self.cpu.sample(Work::Expand, length, || CompressedPage::expand(&bytes, self.page_bytes))
    }

    /// Bytes of the page `number` in the file.
    fn stored_bytes(&self, number: PageNumber) -> usize {
        number.units(self.page_units()).bytes() as usize
    }

    /// The page in its compressed form; `None` if that would not save a unit.
    pub fn compress(&self, page: &Page, compression: Compression) -> Option<CompressedPage> {
        self.cpu.sample(Work::Compress, self.page_bytes as u64, || CompressedPage::new(page, compression))
    }

    /// Bytes of the compressed pages that checkpoints have written: before compression, and in the file.
    pub fn compressed_bytes(&self) -> (u64, u64) {
        (self.raw_bytes.load(Relaxed), self.compressed_bytes.load(Relaxed))
    }

    /// Appends a page as it is written in the place of `number`, checksum included.
    pub fn seal(&self, page: &Page, number: PageNumber, target: &mut Vec<u8>) {
        self.cpu.sample(Work::Checksum, self.page_bytes as u64, || page.seal(number, target));
    }

    /// The checksum of a value, or of a page of the free map.
    fn crc(&self, bytes: &[u8]) -> u32 {
        self.cpu.sample(Work::Checksum, bytes.len() as u64, || crc32fast::hash(bytes))
    }

    /// Bytes that checkpoints have written so far: pages, values, free map, meta pages, and the copies of pages that checkpoints make.
    pub fn checkpoint_bytes(&self) -> u64 {
        let written = self.writes.snapshot();
        let causes = PageCause::ALL.into_iter().filter(|cause| cause.is_write());
        let causes = causes.filter(|cause| !matches!(cause, PageCause::Image | PageCause::Recovery));
        causes.map(|cause| written.of_cause(cause).bytes).sum()
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Units of a page.
    pub fn page_units(&self) -> Units {
        Units::of_bytes(self.page_bytes as u64)
    }

    /// Puts a clean page or value into the pool.
    pub fn keep(&self, unit: UnitNumber, piece: Piece) {
        self.pool.keep(unit, piece);
    }

    /// Bytes of pages and values written so far, by class of key.
    pub fn classes(&self) -> ClassBytes {
        self.classes.snapshot()
    }

    /// Counts a write of pages, of parts of them, or of their copies.
    pub fn count_written(&self, kind: PageKind, cause: PageCause, pages: u64, bytes: u64) {
        self.writes.add(kind, cause, pages, bytes);
    }

    /// Counts a read of pages.
    pub fn count_read(&self, kind: PageKind, purpose: Purpose, pages: u64, bytes: u64) {
        let cause = match purpose {
            Purpose::Scan => PageCause::Scan,
            Purpose::Checkpoint => PageCause::Vacuum,
            Purpose::PageWrite => PageCause::Change,
            Purpose::Recovery => PageCause::Recovery,
            Purpose::Verify => PageCause::Verify,
            _ => PageCause::Get,
        };
        self.reads.add(kind, cause, pages, bytes);
    }

    /// Pages and bytes read and written so far.
    pub fn traffic(&self) -> Pages {
        Pages { read: self.reads.snapshot(), written: self.writes.snapshot() }
    }

    /// Writes a meta page into its slot, for `cause`.
    pub fn write_meta(&self, meta: &Meta, cause: PageCause) -> Result<()> {
        let (offset, bytes) = (meta.offset(), meta.encode());
        self.file.write_at(Purpose::Manifest, offset, &bytes).map_err(context("writing", offset))?;
        self.count_written(PageKind::Meta, cause, 1, bytes.len() as u64);
        Ok(())
    }

    /// Makes all writes durable. After a failure nothing is written any more.
    pub fn sync(&self, purpose: Purpose) -> Result<()> {
        self.check()?;
        let synced = self.file.sync(purpose).map_err(|error| Error::io(format!("sync of {FILE}"), error));
        synced.inspect_err(|error| self.fail(error))
    }

    /// Notes that a sync failed with `error`: nothing is written any more.
    pub fn fail(&self, error: &Error) {
        let cause = format!("the store is read-only since {error}; unmount, mend the disk and mount again");
        self.failed.lock().get_or_insert(Error::Poisoned(cause));
    }

    /// The error of a failed sync, if there was one.
    pub fn check(&self) -> Result<()> {
        self.failed.lock().clone().map_or(Ok(()), Err)
    }

    /// Allocates space up to `end`, and for `ahead` units more if the disk has room for them. Returns the new end of the file.
    pub fn grow(&self, end: UnitNumber, ahead: Units) -> Result<UnitNumber> {
        let allocate = |end: UnitNumber| match self.file.allocate(end.offset()) {
            Ok(()) => Ok(end),
            Err(error) => Err(Error::io(format!("growing {FILE}"), error)),
        };
        match allocate(end + ahead) {
            Err(Error::NoSpace) if !ahead.is_zero() => allocate(end),
            other => other,
        }
    }

    /// Cuts the file off at `end`.
    pub fn cut(&self, end: UnitNumber) -> Result<()> {
        self.file.set_size(end.offset()).map_err(|error| Error::io(format!("cutting {FILE}"), error))
    }

    /// Empties the pool; dirty pages are not in it.
    pub fn drop_pool(&self) {
        self.pool.clear();
    }

    /// The pool's size and hits, for reports.
    pub fn cache(&self) -> Cache {
        self.pool.cache()
    }

    /// Hits and misses of the pool for leaves, inner pages and values.
    pub fn lookups(&self) -> [Lookups; 3] {
        self.pool.lookups()
    }
}

impl PageSource for Pager {
    fn pooled(&self, unit: UnitNumber) -> Option<Piece> {
        self.pool.get(unit)
    }

    fn has(&self, unit: UnitNumber) -> bool {
        self.pool.has(unit)
    }

    fn forget(&self, unit: UnitNumber) {
        self.pool.forget(unit);
    }

    fn checksum(&self, value: &Bytes) -> u32 {
        self.crc(value)
    }
}

/// Byte offset of a unit that something refers to, which may be nonsense.
fn byte_offset(unit: UnitNumber) -> Result<u64> {
    match unit.offset() {
        offset if unit >= FIRST_UNIT && offset < 1 << 62 => Ok(offset),
        _ => Err(Error::corrupt(FILE, 0, format!("a reference to unit {unit}"))),
    }
}

/// Bytes that [`read_meta`] reads.
pub const META_SLOTS_BYTES: usize = UNIT_BYTES as usize + META_BYTES;

/// Reads the two meta slots of `file`.
pub fn read_meta(file: &dyn File) -> Result<Meta> {
    let mut slots = vec![0; META_SLOTS_BYTES];
    file.read_at(Purpose::Recovery, 0, &mut slots).map_err(context("reading", 0))?;
    Meta::newest(&slots)
}
