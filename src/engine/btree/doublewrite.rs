//! The doublewrite area: copies of the pages that a checkpoint overwrites, in a file of their own.
//!
//! Each checkpoint writes the area from its start, in chunks of one request: a unit with the numbers of the pages, then the pages as they are
//! written in place. The meta page of the commit says how many bytes are valid. `FORMAT.md` draws the area.
//!
//! Some space is kept for it whatever `torn` is ([`kept_bytes`]): with it, an opening can write what it replays in place, part by part, when
//! other programs have taken every byte of the disk and the log has no room for all copies at once.
//!
//! # Invariants
//!
//! 1. The area is not written while a durable meta page refers to it.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::allocation_unit::{PageNumber, UNIT_BYTES};
use super::meta::Meta;
use super::page::Page;
use crate::disk::{Disk, File, Purpose};
use crate::engine::{Error, Lsn, Result, frame};

/// Name of its file.
pub const FILE: &str = "btree.double";
/// Bytes of pages in a chunk, about.
const CHUNK_BYTES: usize = 4 << 20;
/// Largest number of pages in a chunk, whose numbers fit into one unit.
pub const CHUNK_PAGES_MAX: usize = 500;
const KIND: u8 = 1;

/// Number of pages for which space is kept in any mode.
const KEPT_PAGES: usize = 64;
/// Largest share of the reserve that the kept space takes: one part in so many.
const KEPT_SHARE: u64 = 2;

/// Bytes that are kept for the area while it is not needed, on a disk with a reserve of `reserve_bytes`.
pub fn kept_bytes(page_bytes: usize, reserve_bytes: u64) -> u64 {
    area_bytes(KEPT_PAGES, page_bytes, chunk_pages(page_bytes)).min(reserve_bytes / KEPT_SHARE)
}

/// Number of pages of `page_bytes` in a chunk.
pub fn chunk_pages(page_bytes: usize) -> usize {
    (CHUNK_BYTES / page_bytes).clamp(1, CHUNK_PAGES_MAX)
}

/// Bytes of the area for the copies of `pages` pages, in chunks of `chunk_pages`.
pub fn area_bytes(pages: usize, page_bytes: usize, chunk_pages: usize) -> u64 {
    pages as u64 * page_bytes as u64 + pages.div_ceil(chunk_pages) as u64 * UNIT_BYTES
}

/// The doublewrite area.
pub struct DoublewriteArea {
    disk: Arc<dyn Disk>,
    /// The file, if it exists, and the bytes that are allocated for it.
    file: Mutex<Option<(Arc<dyn File>, u64)>>,
}

fn context(what: &str) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(FILE, 0, "the file ends before"),
        _ => Error::io(format!("{what} {FILE}"), error),
    }
}

impl DoublewriteArea {
    /// Opens the area on `disk`, whether its file exists or not.
    pub fn open(disk: Arc<dyn Disk>) -> Result<DoublewriteArea> {
        let file = match disk.open(FILE) {
            Ok(file) => {
                let bytes = file.size().map_err(context("size of"))?;
                Some((file, bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(context("opening")(error)),
        };
        Ok(DoublewriteArea { disk, file: Mutex::new(file) })
    }

    /// Cuts the area down to `bytes`. No meta page that could be the newest after a power cut may refer to it.
    pub fn cut(&self, bytes: u64) -> Result<()> {
        if let Some((file, allocated_bytes)) = self.file.lock().as_mut()
            && *allocated_bytes > bytes
        {
            file.set_size(bytes).map_err(context("cutting"))?;
            *allocated_bytes = bytes;
        }
        Ok(())
    }

    /// Bytes that are allocated for the area.
    pub fn allocated_bytes(&self) -> u64 {
        self.file.lock().as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    /// Allocates `bytes`, and makes the file if it does not exist.
    pub fn make_room(&self, bytes: u64) -> Result<()> {
        let mut guard = self.file.lock();
        if guard.is_none() {
            let file = self.disk.create(FILE).map_err(context("making"))?;
            *guard = Some((file, 0));
        }
        if let Some((file, allocated_bytes)) = guard.as_mut()
            && *allocated_bytes < bytes
        {
            file.allocate(bytes).map_err(context("taking space for"))?;
            self.disk.sync_names().map_err(context("naming"))?;
            *allocated_bytes = bytes;
        }
        Ok(())
    }

    fn file(&self) -> Result<Arc<dyn File>> {
        let file = self.file.lock().as_ref().map(|(file, _)| file.clone());
        file.ok_or_else(|| Error::corrupt(FILE, 0, "it is missing, but pages are needed from it"))
    }

    /// Writes a chunk of at most [`CHUNK_PAGES_MAX`] pages of the checkpoint at `lsn` to `offset`; returns its bytes.
    pub fn write(&self, offset: u64, lsn: Lsn, pages: &[(PageNumber, Arc<Page>)]) -> Result<u64> {
        let mut chunk = Vec::new();
        let at = frame::start(&mut chunk, KIND);
        chunk.extend_from_slice(&lsn.to_le_bytes());
        for (number, _) in pages {
            chunk.extend_from_slice(&number.to_le_bytes());
        }
        frame::finish(&mut chunk, at, offset);
        chunk.resize(UNIT_BYTES as usize, 0);
        for (number, page) in pages {
            page.seal(*number, &mut chunk);
        }
        self.file()?.write_at(Purpose::DoubleWrite, offset, &chunk).map_err(context("writing"))?;
        Ok(chunk.len() as u64)
    }

    /// Makes everything written durable.
    pub fn sync(&self) -> Result<()> {
        self.file()?.sync(Purpose::DoubleWrite).map_err(context("sync of"))
    }

    /// Calls `visit` with the number and the checked bytes of every page that belongs to the state of `meta`.
    pub fn each(&self, meta: &Meta, visit: &mut dyn FnMut(PageNumber, &[u8]) -> Result<()>) -> Result<()> {
        let file = self.file()?;
        let page_bytes = meta.page_bytes;
        let mut offset = 0;
        while offset < meta.doublewrite_bytes {
            let mut names = vec![0; UNIT_BYTES as usize];
            file.read_at(Purpose::Recovery, offset, &mut names).map_err(context("reading"))?;
            let numbers = match frame::decode(&names, offset) {
                Some((KIND, payload)) if payload.starts_with(&meta.lsn.to_le_bytes()) => &payload[8..],
                _ => return Err(Error::corrupt(FILE, offset, "not a chunk of the state that needs it")),
            };
            offset += UNIT_BYTES;
            for number in numbers.chunks_exact(8).filter_map(|bytes| bytes.first_chunk()) {
                let number = PageNumber::from_le_bytes(*number);
                let mut page = vec![0; page_bytes as usize];
                file.read_at(Purpose::Recovery, offset, &mut page).map_err(context("reading"))?;
                if let Err(what) = Page::decode(number, page.clone()) {
                    return Err(Error::corrupt(FILE, offset, what));
                }
                visit(number, &page)?;
                offset += page_bytes;
            }
        }
        Ok(())
    }
}
