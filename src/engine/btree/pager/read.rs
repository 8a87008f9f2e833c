//! Reads of the data file, with their checks.

use std::sync::Arc;

use bytes::Bytes;

use super::pool::PieceKind;
use super::{Pager, byte_offset, context};
use crate::disk::Purpose;
use crate::engine::btree::allocation_unit::{FILE, PageNumber, UNIT_BYTES, UnitNumber, Units};
use crate::engine::btree::freemap::UnitRun;
use crate::engine::btree::page::{CompressedPage, Extent, LEVEL, Page};
use crate::engine::btree::source::{LoadedPieces, Miss, Piece, is_unreadable};
use crate::engine::btree::value::Value;
use crate::engine::{Error, PageKind, Result};

/// A page with its bytes in the file.
pub struct StoredPage {
    /// Its number.
    pub number: PageNumber,
    /// The page.
    pub page: Arc<Page>,
    /// Its bytes in the file, which are fewer if it is compressed.
    pub stored: Vec<u8>,
}

/// Adjacent leaves that one request reads at most.
const READ_PAGES: usize = 16;

impl Pager {
    /// Reads and checks what a search missed; returns it with its first unit.
    pub fn read(&self, miss: Miss, purpose: Purpose) -> Result<(UnitNumber, Piece)> {
        match miss {
            Miss::Page(number) => Ok((number.unit(), Piece::Page(self.read_page(number, purpose)?))),
            Miss::Value(extent) => {
                let bytes = self.read_values(&[extent], purpose)?.pop().unwrap_or_default();
                Ok((extent.unit, Piece::Value(Value::new(bytes, &extent))))
            }
        }
    }

    /// Counts misses of readers; opening, verification and vacuum are not counted.
    fn count_misses(&self, kind: PieceKind, count: u64, purpose: Purpose) {
        if matches!(purpose, Purpose::Get | Purpose::Scan) {
            self.pool.count_misses(kind, count);
        }
    }

    /// Reads and checks a page.
    pub fn read_page(&self, number: PageNumber, purpose: Purpose) -> Result<Arc<Page>> {
        let offset = byte_offset(number.unit())?;
        self.check_length(number)?;
        let mut bytes = vec![0; self.stored_bytes(number)];
        self.file.read_at(purpose, offset, &mut bytes).map_err(context("reading", offset))?;
        self.count_read(PageKind::of_level(bytes[LEVEL]), purpose, 1, bytes.len() as u64);
        match self.decode(number, bytes) {
            Ok(page) => {
                self.count_misses(PieceKind::of_page(&page), 1, purpose);
                Ok(Arc::new(page))
            }
            Err(what) => Err(Error::corrupt(FILE, offset, what)),
        }
    }

    /// Checks that `number`, which may be nonsense, is that of no longer page than there are.
    fn check_length(&self, number: PageNumber) -> Result<()> {
        if number.is_compressed() && number.saved_units(self.page_units()).is_zero() {
            let what = "a reference to a compressed page that is as long as one that is not";
            return Err(Error::corrupt(FILE, number.offset(), what));
        }
        Ok(())
    }

    /// Reads and checks the page at `unit`, whose length nobody knows; returns it with its number.
    pub fn find_page(&self, unit: UnitNumber, purpose: Purpose) -> Result<(PageNumber, Arc<Page>)> {
        let offset = byte_offset(unit)?;
        let mut first = vec![0; UNIT_BYTES as usize];
        self.file.read_at(purpose, offset, &mut first).map_err(context("reading", offset))?;
        let number =
            self.page_number(unit, &first).ok_or_else(|| Error::corrupt(FILE, offset, "not a page"))?;
        Ok((number, self.read_page(number, purpose)?))
    }

    /// The number of the page at `unit`, which begins with `bytes`; `None` if that does not look like a page.
    fn page_number(&self, unit: UnitNumber, bytes: &[u8]) -> Option<PageNumber> {
        if Page::is_like(bytes) {
            return Some(PageNumber::at(unit));
        }
        let units = CompressedPage::units_at(bytes, self.page_units())?;
        Some(PageNumber::compressed(unit, units))
    }

    /// Reads and checks the pages `numbers`, each adjacent to the one before, with one request.
    pub fn read_pages(&self, numbers: &[PageNumber], purpose: Purpose) -> Result<Vec<(UnitNumber, Piece)>> {
        let Some(first) = numbers.first() else { return Ok(Vec::new()) };
        let offset = byte_offset(first.unit())?;
        numbers.iter().try_for_each(|number| self.check_length(*number))?;
        let mut all = vec![0; numbers.iter().map(|number| self.stored_bytes(*number)).sum()];
        self.file.read_at(purpose, offset, &mut all).map_err(context("reading", offset))?;
        let mut rest = &all[..];
        let mut stored = Vec::with_capacity(numbers.len());
        for number in numbers {
            let (bytes, others) = rest.split_at(self.stored_bytes(*number));
            rest = others;
            self.count_read(PageKind::of_level(bytes[LEVEL]), purpose, 1, bytes.len() as u64);
            stored.push((*number, bytes));
        }
        let mut pieces = Vec::with_capacity(numbers.len());
        for (number, bytes) in stored {
            match self.decode(number, bytes.to_vec()) {
                Ok(page) => {
                    self.count_misses(PieceKind::of_page(&page), 1, purpose);
                    pieces.push((number.unit(), Piece::Page(Arc::new(page))));
                }
                Err(what) => return Err(Error::corrupt(FILE, number.offset(), what)),
            }
        }
        Ok(pieces)
    }

    /// Reads a run of units with one request; returns the valid pages in it, whether anything refers to them or not, each with its bytes in the
    /// file.
    pub fn read_extent(&self, (start, units): UnitRun, purpose: Purpose) -> Result<Vec<StoredPage>> {
        let offset = byte_offset(start)?;
        let mut bytes = vec![0; units.bytes() as usize];
        self.file.read_at(purpose, offset, &mut bytes).map_err(context("reading", offset))?;
        let (mut pages, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let number = self.page_number(start + Units::of_bytes(at as u64), &bytes[at..]);
            let found = number.and_then(|number| {
                let stored = bytes.get(at..at + self.stored_bytes(number))?.to_vec();
                let page = Arc::new(self.decode(number, stored.clone()).ok()?);
                Some(StoredPage { number, page, stored })
            });
            at += found.as_ref().map_or(UNIT_BYTES as usize, |page: &StoredPage| page.stored.len());
            pages.extend(found);
        }
        let mut others = bytes.len() as u64;
        for kind in [PageKind::Leaf, PageKind::Inner] {
            let of = pages.iter().filter(|page| page.page.kind() == kind);
            let page_bytes = of.clone().map(|page| page.stored.len() as u64).sum();
            self.count_read(kind, purpose, of.count() as u64, page_bytes);
            others -= page_bytes;
        }
        // Values and free units between them.
        self.count_read(PageKind::Extent, purpose, u64::from(others > 0), others);
        Ok(pages)
    }

    /// Reads and checks the values of extents that are adjacent, or nearly so, with one request.
    pub fn read_values(&self, extents: &[Extent], purpose: Purpose) -> Result<Vec<Bytes>> {
        self.count_misses(PieceKind::Value, extents.len() as u64, purpose);
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
                let at = (extent.unit - first.unit).bytes() as usize;
                let value = bytes.slice(at..at + extent.bytes as usize);
                if self.crc(&value) != extent.crc {
                    let offset = extent.unit.offset();
                    return Err(Error::corrupt(FILE, offset, "the value's checksum does not fit"));
                }
                // A copy, so that a small value does not keep the memory of its neighbours.
                Ok(if single { value } else { Bytes::copy_from_slice(&value) })
            })
            .collect()
    }

    /// Reads a free map of version 1, a list of runs, of `bytes` from `unit` on.
    pub fn read_runs(&self, unit: UnitNumber, bytes: u64, crc: u32, purpose: Purpose) -> Result<Bytes> {
        let bytes = u32::try_from(bytes)
            .map_err(|_| Error::corrupt(FILE, unit.offset(), "a free map of impossible size"))?;
        let extent = Extent { unit, units: Units::ZERO, bytes, crc };
        Ok(self.read_extents(&[extent], PageKind::FreeMap, purpose)?.pop().unwrap_or_default())
    }

    /// Reads and checks the page of the free map at `unit`, whose checksum is `crc`.
    pub fn check_map_page(&self, unit: UnitNumber, crc: u32, purpose: Purpose) -> Result<Vec<u8>> {
        let offset = byte_offset(unit)?;
        let mut bytes = vec![0; UNIT_BYTES as usize];
        self.file.read_at(purpose, offset, &mut bytes).map_err(context("reading", offset))?;
        self.count_read(PageKind::FreeMap, purpose, 1, bytes.len() as u64);
        match self.crc(&bytes) == crc {
            true => Ok(bytes),
            false => Err(Error::corrupt(FILE, offset, "the checksum of a page of the free map does not fit")),
        }
    }

    /// As [`Pager::check_map_page`], but tries twice, since the content of the page would be lost for good; `None` if it cannot be read.
    pub fn read_map_page(&self, unit: UnitNumber, crc: u32, purpose: Purpose) -> Result<Option<Vec<u8>>> {
        let read =
            self.check_map_page(unit, crc, purpose).or_else(|_| self.check_map_page(unit, crc, purpose));
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_unreadable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads leaves, adjacent ones with one request, into `loaded`. They are not put into the pool, which is for readers.
    pub fn load_leaves(
        &self,
        epoch: u64,
        mut numbers: Vec<PageNumber>,
        purpose: Purpose,
        loaded: &mut LoadedPieces,
    ) -> Result<()> {
        numbers.sort_unstable_by_key(|number| number.unit());
        numbers.dedup();
        let is_next = |a: &PageNumber, b: &PageNumber| a.unit() + a.units(self.page_units()) == b.unit();
        for run in numbers.chunk_by(is_next).flat_map(|run| run.chunks(READ_PAGES)) {
            match self.read_pages(run, purpose) {
                Ok(pages) => pages.into_iter().for_each(|(unit, piece)| loaded.add(epoch, unit, piece)),
                Err(error) if is_unreadable(&error) => {
                    for number in run {
                        match self.read_page(*number, purpose) {
                            Ok(page) => loaded.add(epoch, number.unit(), Piece::Page(page)),
                            Err(error) if is_unreadable(&error) => loaded.fail(epoch, number.unit(), error),
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
