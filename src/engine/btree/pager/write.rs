//! Writes to the data file. They are counted once they have succeeded.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Pager, byte_offset, context};
use crate::disk::Purpose;
use crate::engine::btree::allocation_unit::{PageNumber, UNIT_BYTES, UnitMap, UnitNumber, UnitSet, Units};
use crate::engine::btree::page::{CompressedPage, LEVEL, Page, SECTOR_BYTES};
use crate::engine::btree::source::Piece;
use crate::engine::{PageCause, PageKind, Result, Shares, Work};

/// Adjacent pages and extents are written together up to about this size.
const WRITE_BYTES: usize = 1 << 20;

/// A part of a write that is not counted yet: kind, cause, pages, bytes.
type PendingCount = (PageKind, PageCause, u64, u64);

/// The parts of a write, to be counted once it has succeeded.
#[derive(Default)]
struct PendingCounts {
    pages: Vec<PendingCount>,
    /// Bytes by class of key.
    classes: Vec<(u8, u64)>,
    /// Bytes of compressed pages before compression, and as they are written.
    raw_bytes: u64,
    compressed_bytes: u64,
}

impl PendingCounts {
    /// Adds `bytes` of a page.
    fn add_page(&mut self, page: &Page, count: u64, bytes: u64) {
        self.pages.push((page.kind(), page.cause(), count, bytes));
        if page.is_leaf() {
            let mut shares = Shares::default();
            (0..page.count()).for_each(|index| shares.add(page.key(index), page.cell_bytes(index) as u64));
            self.classes.extend(shares.divide(bytes, page.page_bytes()));
        }
    }
}

impl Pager {
    /// Writes pages and values, which are sorted by unit, from index `at` on until `bytes_max` are written; adjacent ones go into one
    /// request. Values at the units in `moved` are counted as moved; `classes` has the class of each value's key, by unit; `compressed` has the
    /// pages that are written in that form. Returns the index of the first piece that is left.
    pub fn write_pieces(
        &self,
        pieces: &[(UnitNumber, Piece)],
        mut at: usize,
        bytes_max: usize,
        moved: &UnitSet,
        classes: &UnitMap<u8>,
        compressed: &UnitMap<CompressedPage>,
    ) -> Result<usize> {
        let mut written = 0;
        let mut buffer = Vec::new();
        let mut counts = PendingCounts::default();
        while at < pieces.len() && written < bytes_max {
            buffer.clear();
            let first = pieces[at].0;
            let mut next = at;
            while let Some((unit, piece)) = pieces.get(next)
                && first + Units::of_bytes(buffer.len() as u64) == *unit
                && (next == at || buffer.len() < WRITE_BYTES)
            {
                let before = buffer.len();
                let form = compressed.get(unit);
                match piece {
                    Piece::Page(page) => self.seal_form(page, form, *unit, &mut buffer),
                    Piece::Value(value) => buffer.extend_from_slice(&value.bytes),
                }
                buffer.resize(buffer.len().next_multiple_of(UNIT_BYTES as usize), 0);
                let bytes = (buffer.len() - before) as u64;
                match piece {
                    Piece::Page(page) => {
                        counts.add_page(page, 1, bytes);
                        if form.is_some() {
                            counts.raw_bytes += page.page_bytes();
                            counts.compressed_bytes += bytes;
                        }
                    }
                    Piece::Value(_) => {
                        let is_moved = moved.contains(unit);
                        let cause = if is_moved { PageCause::Vacuum } else { PageCause::Change };
                        counts.pages.push((PageKind::Extent, cause, 1, bytes));
                        counts.classes.extend(classes.get(unit).map(|class| (*class, bytes)));
                    }
                }
                next += 1;
            }
            self.write(first, &buffer, Purpose::Checkpoint, &mut counts)?;
            written += buffer.len();
            at = next;
        }
        Ok(at)
    }

    /// Appends a page at `unit` as it is written: in its compressed `form`, if it has one.
    fn seal_form(&self, page: &Page, form: Option<&CompressedPage>, unit: UnitNumber, target: &mut Vec<u8>) {
        match form {
            None => self.seal(page, PageNumber::at(unit), target),
            Some(form) => {
                let (number, bytes) = (PageNumber::compressed(unit, form.units()), form.units().bytes());
                self.cpu.sample(Work::Checksum, bytes, || form.seal(number, target));
            }
        }
    }

    /// Writes the changed units of pages in place, otherwise as [`Pager::write_pieces`].
    pub fn write_changed(
        &self,
        pages: &[(PageNumber, Arc<Page>)],
        mut at: usize,
        bytes_max: usize,
    ) -> Result<usize> {
        let (mut written, mut first) = (0, UnitNumber::NONE);
        let (mut buffer, mut sealed, mut counts) = (Vec::new(), Vec::new(), PendingCounts::default());
        while let Some((number, page)) = pages.get(at)
            && written < bytes_max
        {
            sealed.clear();
            self.seal(page, *number, &mut sealed);
            for (nth, index) in page.changed_units().enumerate() {
                let here = number.unit() + Units::new(index as u64);
                if first + Units::of_bytes(buffer.len() as u64) != here || buffer.len() >= WRITE_BYTES {
                    if !buffer.is_empty() {
                        self.write(first, &buffer, Purpose::Checkpoint, &mut counts)?;
                    }
                    buffer.clear();
                    first = here;
                }
                buffer.extend_from_slice(&sealed[index * UNIT_BYTES as usize..][..UNIT_BYTES as usize]);
                counts.add_page(page, u64::from(nth == 0), UNIT_BYTES);
                written += UNIT_BYTES as usize;
            }
            at += 1;
        }
        if !buffer.is_empty() {
            self.write(first, &buffer, Purpose::Checkpoint, &mut counts)?;
        }
        Ok(at)
    }

    /// Writes `bytes` at `unit`, then counts and empties `counts`.
    fn write(
        &self,
        unit: UnitNumber,
        bytes: &[u8],
        purpose: Purpose,
        counts: &mut PendingCounts,
    ) -> Result<()> {
        let offset = byte_offset(unit)?;
        self.file.write_at(purpose, offset, bytes).map_err(context("writing", offset))?;
        for (kind, cause, pages, bytes) in counts.pages.drain(..) {
            self.count_written(kind, cause, pages, bytes);
        }
        for (class, bytes) in counts.classes.drain(..) {
            self.classes.add(class, bytes);
        }
        self.raw_bytes.fetch_add(std::mem::take(&mut counts.raw_bytes), Relaxed);
        self.compressed_bytes.fetch_add(std::mem::take(&mut counts.compressed_bytes), Relaxed);
        Ok(())
    }

    /// Writes a page of the free map.
    pub fn write_map(&self, unit: UnitNumber, bytes: &[u8]) -> Result<()> {
        let count = (PageKind::FreeMap, PageCause::Checkpoint, 1, bytes.len() as u64);
        self.write(
            unit,
            bytes,
            Purpose::Manifest,
            &mut PendingCounts { pages: vec![count], ..PendingCounts::default() },
        )
    }

    /// Overwrites a whole page that a crash may have torn.
    pub fn repair_page(&self, number: PageNumber, bytes: &[u8]) -> Result<()> {
        let kind = PageKind::of_level(bytes.get(LEVEL).copied().unwrap_or_default());
        let count = (kind, PageCause::Recovery, 1, bytes.len() as u64);
        self.write(
            number.unit(),
            bytes,
            Purpose::Recovery,
            &mut PendingCounts { pages: vec![count], ..PendingCounts::default() },
        )
    }

    /// Writes `bytes`, which are whole sectors, from sector `sector` of the file on. The caller counts them.
    pub fn write_sectors(&self, sector: u64, bytes: &[u8], purpose: Purpose) -> Result<()> {
        let per_unit = UNIT_BYTES / SECTOR_BYTES as u64;
        let offset =
            byte_offset(UnitNumber::new(sector / per_unit))? + sector % per_unit * SECTOR_BYTES as u64;
        self.file.write_at(purpose, offset, bytes).map_err(context("writing", offset))
    }
}
