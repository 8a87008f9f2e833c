//! The data file and the pool of clean pages and values that were read from it or written to it.
//!
//! The pool is keyed by first unit and weighed in bytes. It holds only what equals the file; dirty pages live in the tree, which
//! knows the pool as its [`PageSource`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache as Pool;

use super::meta::{META_BYTES, Meta};
use super::page::{Extent, LEVEL, Page, SECTOR_BYTES};
use super::source::{Miss, PageSource, Piece, is_unreadable};
use super::units::{FILE, FIRST_UNIT, UNIT_BYTES};
use super::value::Value;
use crate::disk::{File, Purpose};
use crate::engine::{
    Cache, ClassBytes, ClassMeter, CpuMeter, Error, LookupMeter, Lookups, PageCause, PageKind, Pages, Result,
    Shares, TrafficMeter, Work,
};

/// Adjacent pages and extents are written in pieces of at most this size.
const WRITE_BYTES: usize = 1 << 20;

/// A part of a write: kind, cause, pages, bytes.
type Part = (PageKind, PageCause, u64, u64);

/// What a write consists of; counted once it succeeds.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
    /// Bytes by class of key.
    classes: Vec<(u8, u64)>,
}

impl Parts {
    /// `bytes` of a page are written.
    fn add_page(&mut self, page: &Page, count: u64, bytes: u64) {
        self.parts.push((page.kind(), page.cause(), count, bytes));
        if page.is_leaf() {
            let mut shares = Shares::default();
            (0..page.count()).for_each(|index| shares.add(page.key(index), page.cell_bytes(index) as u64));
            self.classes.extend(shares.divide(bytes, page.page_bytes()));
        }
    }
}

/// Weighs pieces by their bytes.
#[derive(Clone)]
struct Weight {
    page_bytes: u64,
}

impl Weighter<u64, Piece> for Weight {
    fn weight(&self, _: &u64, piece: &Piece) -> u64 {
        match piece {
            Piece::Page(_) => self.page_bytes,
            // The key and the bookkeeping count a little, so that tiny values do not come for free.
            Piece::Value(value) => value.bytes.len() as u64 + 64,
        }
    }
}

/// The data file with its pool.
pub struct Pager {
    file: Arc<dyn File>,
    page_bytes: usize,
    pool: Pool<u64, Piece, Weight>,
    pool_bytes_max: u64,
    /// Leaves, inner pages, values.
    lookups: [LookupMeter; 3],
    reads: TrafficMeter,
    writes: TrafficMeter,
    cpu: CpuMeter,
    classes: ClassMeter,
    /// Why the file takes no more writes.
    failed: Mutex<Option<Error>>,
}

/// Index of values in `lookups`; that of a page is 0 for a leaf and 1 else.
const VALUES: usize = 2;

fn context(what: &str, offset: u64) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(FILE, offset, "the file ends before"),
        _ => Error::io(format!("{what} {FILE} at byte {offset}"), error),
    }
}

impl Pager {
    /// A pager over `file` with an empty pool of `pool_bytes_max`.
    pub fn new(file: Arc<dyn File>, page_bytes: usize, pool_bytes_max: u64) -> Pager {
        let items = (pool_bytes_max / UNIT_BYTES).clamp(16, 1 << 24) as usize;
        Pager {
            file,
            page_bytes,
            pool: Pool::with_weighter(items, pool_bytes_max, Weight { page_bytes: page_bytes as u64 }),
            pool_bytes_max,
            lookups: Default::default(),
            reads: TrafficMeter::default(),
            writes: TrafficMeter::default(),
            cpu: CpuMeter::default(),
            classes: ClassMeter::default(),
            failed: Mutex::new(None),
        }
    }

    /// Measures what pages cost the processor.
    pub fn cpu(&self) -> &CpuMeter {
        &self.cpu
    }

    fn decode(&self, unit: u64, bytes: Vec<u8>) -> std::result::Result<Page, &'static str> {
        self.cpu.sample(Work::Checksum, bytes.len() as u64, || Page::decode(unit, bytes))
    }

    /// Appends a page as it belongs at `unit`, checksum included.
    pub fn seal(&self, page: &Page, unit: u64, target: &mut Vec<u8>) {
        self.cpu.sample(Work::Checksum, self.page_bytes as u64, || page.seal(unit, target));
    }

    /// The checksum of bytes of the file that are no page.
    fn crc(&self, bytes: &[u8]) -> u32 {
        self.cpu.sample(Work::Checksum, bytes.len() as u64, || crc32fast::hash(bytes))
    }

    /// Bytes that checkpoints have written so far: pages, values, maps, meta pages and those copies that they make.
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
    pub fn page_units(&self) -> u64 {
        self.page_bytes as u64 / UNIT_BYTES
    }

    /// Puts a clean piece into the pool.
    pub fn keep(&self, unit: u64, piece: Piece) {
        // Removed first: a piece too heavy for the pool must not leave an older one behind.
        self.pool.remove(&unit);
        self.pool.insert(unit, piece);
    }

    /// Reads and checks what a search missed; returns its first unit, too.
    pub fn read(&self, miss: Miss, purpose: Purpose) -> Result<(u64, Piece)> {
        match miss {
            Miss::Page(unit) => Ok((unit, Piece::Page(self.read_page(unit, purpose)?))),
            Miss::Value(extent) => {
                let bytes = self.read_values(&[extent], purpose)?.pop().unwrap_or_default();
                Ok((extent.unit, Piece::Value(Value::new(bytes, &extent))))
            }
        }
    }

    /// Counts what a reader's search missed; opening, verification and compaction are none.
    fn count_misses(&self, kind: usize, count: u64, purpose: Purpose) {
        if matches!(purpose, Purpose::Get | Purpose::Scan) {
            self.lookups[kind].misses.fetch_add(count, Relaxed);
        }
    }

    /// Reads and checks the page at `unit`.
    pub fn read_page(&self, unit: u64, purpose: Purpose) -> Result<Arc<Page>> {
        let offset = byte_offset(unit)?;
        let mut bytes = vec![0; self.page_bytes];
        self.file.read_at(purpose, offset, &mut bytes).map_err(context("reading", offset))?;
        self.count_read(PageKind::of_level(bytes[LEVEL]), purpose, 1, bytes.len() as u64);
        match self.decode(unit, bytes) {
            Ok(page) => {
                self.count_misses(usize::from(!page.is_leaf()), 1, purpose);
                Ok(Arc::new(page))
            }
            Err(what) => Err(Error::corrupt(FILE, offset, what)),
        }
    }

    /// Reads and checks `count` pages that lie one behind the other from `unit` on, with one request.
    pub fn read_pages(&self, unit: u64, count: usize, purpose: Purpose) -> Result<Vec<(u64, Piece)>> {
        let offset = byte_offset(unit)?;
        let mut bytes = vec![0; self.page_bytes * count];
        self.file.read_at(purpose, offset, &mut bytes).map_err(context("reading", offset))?;
        for page in bytes.chunks(self.page_bytes) {
            self.count_read(PageKind::of_level(page[LEVEL]), purpose, 1, page.len() as u64);
        }
        let mut pieces = Vec::with_capacity(count);
        for (nth, bytes) in (0..).zip(bytes.chunks(self.page_bytes)) {
            let unit = unit + nth * self.page_units();
            match self.decode(unit, bytes.to_vec()) {
                Ok(page) => {
                    self.count_misses(usize::from(!page.is_leaf()), 1, purpose);
                    pieces.push((unit, Piece::Page(Arc::new(page))));
                }
                Err(what) => return Err(Error::corrupt(FILE, unit * UNIT_BYTES, what)),
            }
        }
        Ok(pieces)
    }

    /// Reads and checks the values of extents that lie one behind the other, or nearly so, with one request.
    pub fn read_values(&self, extents: &[Extent], purpose: Purpose) -> Result<Vec<Bytes>> {
        self.count_misses(VALUES, extents.len() as u64, purpose);
        self.read_extents(extents, PageKind::Extent, purpose)
    }

    fn read_extents(&self, extents: &[Extent], kind: PageKind, purpose: Purpose) -> Result<Vec<Bytes>> {
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(Vec::new()) };
        let start = byte_offset(first.unit)?;
        let length = byte_offset(last.unit)?.saturating_sub(start) + u64::from(last.bytes);
        let mut bytes = vec![0; length as usize];
        self.file.read_at(purpose, start, &mut bytes).map_err(context("reading", start))?;
        self.count_read(kind, purpose, extents.len() as u64, length);
        let single = extents.len() == 1;
        let bytes = Bytes::from(bytes);
        extents
            .iter()
            .map(|extent| {
                let at = ((extent.unit - first.unit) * UNIT_BYTES) as usize;
                let value = bytes.slice(at..at + extent.bytes as usize);
                if self.crc(&value) != extent.crc {
                    let offset = extent.unit * UNIT_BYTES;
                    return Err(Error::corrupt(FILE, offset, "the value's checksum does not fit"));
                }
                // A copy of its own, so that a small value does not hold the memory of its neighbours.
                Ok(if single { value } else { Bytes::copy_from_slice(&value) })
            })
            .collect()
    }

    /// Reads a free map of `bytes` from `unit` on that is a list of runs.
    pub fn read_runs(&self, unit: u64, bytes: u64, crc: u32, purpose: Purpose) -> Result<Bytes> {
        let bytes = u32::try_from(bytes).map_err(|_| {
            Error::corrupt(FILE, unit.saturating_mul(UNIT_BYTES), "a free map of impossible size")
        })?;
        let extent = Extent { unit, units: 0, bytes, crc };
        Ok(self.read_extents(&[extent], PageKind::FreeMap, purpose)?.pop().unwrap_or_default())
    }

    /// Reads and checks the page of the free map at `unit`, whose checksum is `crc`.
    pub fn check_map_page(&self, unit: u64, crc: u32, purpose: Purpose) -> Result<Vec<u8>> {
        let offset = byte_offset(unit)?;
        let mut bytes = vec![0; UNIT_BYTES as usize];
        self.file.read_at(purpose, offset, &mut bytes).map_err(context("reading", offset))?;
        self.count_read(PageKind::FreeMap, purpose, 1, bytes.len() as u64);
        match self.crc(&bytes) == crc {
            true => Ok(bytes),
            false => Err(Error::corrupt(FILE, offset, "the checksum of a page of the free map does not fit")),
        }
    }

    /// The same; `None` if it cannot be read, not even at a second try: what it said would be lost for good.
    pub fn read_map_page(&self, unit: u64, crc: u32, purpose: Purpose) -> Result<Option<Vec<u8>>> {
        let read =
            self.check_map_page(unit, crc, purpose).or_else(|_| self.check_map_page(unit, crc, purpose));
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_unreadable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes pieces in ascending order, adjacent ones together, from index `at` on until `bytes_max` are written. Values at
    /// the units in `moved` are written because they were moved; `classes` are those of values' keys, by unit. Returns the index
    /// of the first piece that is left.
    pub fn write_pieces(
        &self,
        pieces: &[(u64, Piece)],
        mut at: usize,
        bytes_max: usize,
        moved: &HashSet<u64>,
        classes: &HashMap<u64, u8>,
    ) -> Result<usize> {
        let mut written = 0;
        let mut buffer = Vec::new();
        let mut parts = Parts::default();
        while at < pieces.len() && written < bytes_max {
            buffer.clear();
            let first = pieces[at].0;
            let mut next = at;
            while let Some((unit, piece)) = pieces.get(next)
                && first + buffer.len() as u64 / UNIT_BYTES == *unit
                && (next == at || buffer.len() < WRITE_BYTES)
            {
                let before = buffer.len();
                match piece {
                    Piece::Page(page) => self.seal(page, *unit, &mut buffer),
                    Piece::Value(value) => buffer.extend_from_slice(&value.bytes),
                }
                buffer.resize(buffer.len().next_multiple_of(UNIT_BYTES as usize), 0);
                let bytes = (buffer.len() - before) as u64;
                match piece {
                    Piece::Page(page) => parts.add_page(page, 1, bytes),
                    Piece::Value(_) => {
                        let is_moved = moved.contains(unit);
                        let cause = if is_moved { PageCause::Compaction } else { PageCause::Change };
                        parts.parts.push((PageKind::Extent, cause, 1, bytes));
                        parts.classes.extend(classes.get(unit).map(|class| (*class, bytes)));
                    }
                }
                next += 1;
            }
            self.write(first, &buffer, Purpose::Checkpoint, &mut parts)?;
            written += buffer.len();
            at = next;
        }
        Ok(at)
    }

    /// Writes the changed units of pages in ascending order, as [`Pager::write_pieces`] does whole ones.
    pub fn write_changed(
        &self,
        pages: &[(u64, Arc<Page>)],
        mut at: usize,
        bytes_max: usize,
    ) -> Result<usize> {
        let (mut written, mut first) = (0, 0);
        let (mut buffer, mut sealed, mut parts) = (Vec::new(), Vec::new(), Parts::default());
        while let Some((unit, page)) = pages.get(at)
            && written < bytes_max
        {
            sealed.clear();
            self.seal(page, *unit, &mut sealed);
            for (nth, index) in page.changed_units().enumerate() {
                let here = unit + index as u64;
                if first + buffer.len() as u64 / UNIT_BYTES != here || buffer.len() >= WRITE_BYTES {
                    if !buffer.is_empty() {
                        self.write(first, &buffer, Purpose::Checkpoint, &mut parts)?;
                    }
                    buffer.clear();
                    first = here;
                }
                buffer.extend_from_slice(&sealed[index * UNIT_BYTES as usize..][..UNIT_BYTES as usize]);
                parts.add_page(page, u64::from(nth == 0), UNIT_BYTES);
                written += UNIT_BYTES as usize;
            }
            at += 1;
        }
        if !buffer.is_empty() {
            self.write(first, &buffer, Purpose::Checkpoint, &mut parts)?;
        }
        Ok(at)
    }

    /// Writes `bytes` at `unit`, which are what `parts` says; empties that.
    fn write(&self, unit: u64, bytes: &[u8], purpose: Purpose, parts: &mut Parts) -> Result<()> {
        let offset = byte_offset(unit)?;
        self.file.write_at(purpose, offset, bytes).map_err(context("writing", offset))?;
        for (kind, cause, pages, bytes) in parts.parts.drain(..) {
            self.count_written(kind, cause, pages, bytes);
        }
        for (class, bytes) in parts.classes.drain(..) {
            self.classes.add(class, bytes);
        }
        Ok(())
    }

    /// Writes a page of the free map.
    pub fn write_map(&self, unit: u64, bytes: &[u8]) -> Result<()> {
        let part = (PageKind::FreeMap, PageCause::Checkpoint, 1, bytes.len() as u64);
        self.write(unit, bytes, Purpose::Manifest, &mut Parts { parts: vec![part], classes: Vec::new() })
    }

    /// Writes a whole page that a crash may have torn.
    pub fn repair_page(&self, unit: u64, bytes: &[u8]) -> Result<()> {
        let kind = PageKind::of_level(bytes.get(LEVEL).copied().unwrap_or_default());
        let part = (kind, PageCause::Recovery, 1, bytes.len() as u64);
        self.write(unit, bytes, Purpose::Recovery, &mut Parts { parts: vec![part], classes: Vec::new() })
    }

    /// Bytes of pages and values that were written, by class of key.
    pub fn classes(&self) -> ClassBytes {
        self.classes.snapshot()
    }

    /// Something of the file, or a copy of it, was written.
    pub fn count_written(&self, kind: PageKind, cause: PageCause, pages: u64, bytes: u64) {
        self.writes.add(kind, cause, pages, bytes);
    }

    /// Something of it was read.
    pub fn count_read(&self, kind: PageKind, purpose: Purpose, pages: u64, bytes: u64) {
        let cause = match purpose {
            Purpose::Scan => PageCause::Scan,
            Purpose::Checkpoint => PageCause::Compaction,
            Purpose::PageWrite => PageCause::Change,
            Purpose::Recovery => PageCause::Recovery,
            Purpose::Verify => PageCause::Verify,
            _ => PageCause::Get,
        };
        self.reads.add(kind, cause, pages, bytes);
    }

    /// What was read and what was written so far.
    pub fn traffic(&self) -> Pages {
        Pages { read: self.reads.snapshot(), written: self.writes.snapshot() }
    }

    /// Writes `bytes`, whole sectors, from the `sector`-th of the file on. The caller counts them.
    pub fn write_sectors(&self, sector: u64, bytes: &[u8], purpose: Purpose) -> Result<()> {
        let per_unit = UNIT_BYTES / SECTOR_BYTES as u64;
        let offset = byte_offset(sector / per_unit)? + sector % per_unit * SECTOR_BYTES as u64;
        self.file.write_at(purpose, offset, bytes).map_err(context("writing", offset))
    }

    /// Writes a meta page into its slot, for `cause`.
    pub fn write_meta(&self, meta: &Meta, cause: PageCause) -> Result<()> {
        let (offset, bytes) = (meta.offset(), meta.encode());
        self.file.write_at(Purpose::Manifest, offset, &bytes).map_err(context("writing", offset))?;
        self.count_written(PageKind::Meta, cause, 1, bytes.len() as u64);
        Ok(())
    }

    /// Makes everything written durable; a failure is final.
    pub fn sync(&self, purpose: Purpose) -> Result<()> {
        self.check()?;
        let synced = self.file.sync(purpose).map_err(|error| Error::io(format!("sync of {FILE}"), error));
        synced.inspect_err(|error| self.fail(error))
    }

    /// A sync failed with `error`: nothing is written any more.
    pub fn fail(&self, error: &Error) {
        let cause = format!("the store is read-only since {error}; unmount, mend the disk and mount again");
        self.failed.lock().get_or_insert(Error::Poisoned(cause));
    }

    /// Why the file takes no more writes, if a sync failed.
    pub fn check(&self) -> Result<()> {
        self.failed.lock().clone().map_or(Ok(()), Err)
    }

    /// Takes space so that the file has `units`, and `ahead` more if there is room for them. Returns its new size in units.
    pub fn grow(&self, units: u64, ahead: u64) -> Result<u64> {
        let allocate = |units: u64| match self.file.allocate(units * UNIT_BYTES) {
            Ok(()) => Ok(units),
            Err(error) => Err(Error::io(format!("growing {FILE}"), error)),
        };
        match allocate(units + ahead) {
            Err(Error::NoSpace) if ahead > 0 => allocate(units),
            other => other,
        }
    }

    /// Gives back to the disk what lies behind `units`.
    pub fn cut(&self, units: u64) -> Result<()> {
        self.file.set_size(units * UNIT_BYTES).map_err(|error| Error::io(format!("cutting {FILE}"), error))
    }

    /// Forgets what the pool holds; dirty pages are not in it.
    pub fn drop_pool(&self) {
        self.pool.clear();
    }

    /// The pool in figures.
    pub fn cache(&self) -> Cache {
        let all = self.lookups().into_iter().fold(Lookups::default(), |sum, lookups| sum + lookups);
        Cache { bytes: self.pool.weight(), bytes_max: self.pool_bytes_max, all, ..Cache::default() }
    }

    /// Its answers for leaves, inner pages and values.
    pub fn lookups(&self) -> [Lookups; 3] {
        self.lookups.each_ref().map(LookupMeter::snapshot)
    }
}

impl PageSource for Pager {
    fn pooled(&self, unit: u64) -> Option<Piece> {
        let found = self.pool.get(&unit);
        if let Some(piece) = &found {
            let kind = match piece {
                Piece::Page(page) => usize::from(!page.is_leaf()),
                Piece::Value(_) => VALUES,
            };
            self.lookups[kind].hits.fetch_add(1, Relaxed);
        }
        found
    }

    fn has(&self, unit: u64) -> bool {
        self.pool.peek(&unit).is_some()
    }

    fn forget(&self, unit: u64) {
        self.pool.remove(&unit);
    }

    fn checksum(&self, value: &Bytes) -> u32 {
        self.crc(value)
    }
}

fn byte_offset(unit: u64) -> Result<u64> {
    match unit.checked_mul(UNIT_BYTES) {
        Some(offset) if unit >= FIRST_UNIT && offset < 1 << 62 => Ok(offset),
        _ => Err(Error::corrupt(FILE, 0, format!("a reference to unit {unit}"))),
    }
}

/// What [`read_meta`] reads.
pub const META_SLOTS_BYTES: usize = UNIT_BYTES as usize + META_BYTES;

/// Reads the two meta slots of `file`.
pub fn read_meta(file: &dyn File) -> Result<Meta> {
    let mut slots = vec![0; META_SLOTS_BYTES];
    file.read_at(Purpose::Recovery, 0, &mut slots).map_err(context("reading", 0))?;
    Meta::newest(&slots)
}
