//! The copies of pages that checkpoints make. A page that is overwritten in place may be torn, so a copy of it is made durable first.
//!
//! | `torn`        | the copy                                                        | written                             |
//! |---------------|-----------------------------------------------------------------|-------------------------------------|
//! | `delta`       | in the log, behind the batches of the checkpoint                | once a checkpoint                   |
//! | `doublewrite` | in `btree.double`, from its start                               | once a checkpoint, and a sync more  |
//! | `image`       | in the log, behind the batch; of new pages, too                 | as often as batches change the page |
//!
//! If the disk has no room for the doublewrite area, the copies go to the log, whose files may have room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::age::CheckpointAge;
use super::allocation_unit::{PageNumber, UNIT_BYTES};
use super::doublewrite::{self, DoublewriteArea};
use super::meta::Meta;
use super::options::Torn;
use super::page::Page;
use super::pager::Pager;
use super::records::{IMAGE_KIND, image_bytes, image_record_bytes_max, put_image};
use crate::disk::Purpose;
use crate::engine::wal::{Log, RECORD_OVERHEAD_BYTES};
use crate::engine::{Error, Lsn, PageCause, PageKind, Result};

/// The place for copies, and the number that the running checkpoint has yet to make.
pub struct PageCopies {
    area: DoublewriteArea,
    /// `None` if no page is written in place.
    torn: Option<Torn>,
    page_bytes: usize,
    /// Upper bound of the bytes of the log that these copies take.
    left_bytes: AtomicU64,
}

impl PageCopies {
    /// Copies in mode `torn`, if pages are written in place, of pages of `page_bytes`; `area` is the doublewrite area.
    pub fn new(area: DoublewriteArea, torn: Option<Torn>, page_bytes: usize) -> PageCopies {
        PageCopies { area, torn, page_bytes, left_bytes: AtomicU64::new(0) }
    }

    /// Whether copies of `pages` pages need no room in the log: there are none, or the doublewrite area is long enough for them.
    pub fn has_area_for(&self, pages: u64) -> bool {
        if self.torn.is_none() {
            return true;
        }
        let bytes = doublewrite::area_bytes(
            pages as usize,
            self.page_bytes,
            doublewrite::chunk_pages(self.page_bytes),
        );
        self.torn == Some(Torn::Doublewrite) && self.area.allocated_bytes() >= bytes
    }

    /// Upper bound of the bytes of the log that one copy takes.
    pub fn record_bytes_max(&self) -> u64 {
        image_record_bytes_max(self.page_bytes)
    }

    /// Upper bound of the bytes of the log that the copies of `pages` pages take; 0 if they go to the doublewrite area, or there are none.
    pub fn log_bytes_max(&self, pages: u64) -> u64 {
        match self.torn {
            None | Some(Torn::Doublewrite) => 0,
            Some(Torn::Delta | Torn::Image) => pages * self.record_bytes_max(),
        }
    }

    /// Upper bound of the bytes of the log that the running checkpoint still takes for copies.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes.load(Relaxed)
    }

    /// Notes that the running checkpoint has yet to make copies of `images`, from the `at`-th on.
    pub fn set_left(&self, images: &[(PageNumber, Arc<Page>)], at: usize) {
        let record = |(_, page): &(PageNumber, Arc<Page>)| {
            image_record_bytes_max(page.changed_units().count() * UNIT_BYTES as usize)
        };
        let left_bytes = match self.has_area_for(images.len() as u64) {
            true => 0,
            false => images[at..].iter().map(record).sum(),
        };
        self.left_bytes.store(left_bytes, Relaxed);
    }

    /// Makes copies of the next few of `images`, from the `at`-th on, and notes their place in `meta`; returns the index of the next one. Bytes
    /// that are logged are added to `logged_bytes`.
    pub fn write_some(
        &self,
        (pager, log, age): (&Pager, &Log, &CheckpointAge),
        meta: &mut Meta,
        images: &[(PageNumber, Arc<Page>)],
        at: usize,
        logged_bytes: &mut u64,
    ) -> Result<usize> {
        let end = (at + doublewrite::chunk_pages(self.page_bytes)).min(images.len());
        let is_in_area = at < end && self.write_to_area(pager, meta, &images[at..], end - at)?;
        if !is_in_area {
            for (number, page) in &images[at..end] {
                let (lsn, bytes) = self.write_to_log(pager, log, *number, page)?;
                age.add_image(bytes);
                meta.images_end = lsn;
                *logged_bytes += bytes;
            }
        }
        self.set_left(images, end);
        Ok(end)
    }

    /// Writes the first `count` pages of `left` to the area, at `doublewrite_bytes`, which grows by that. False if the copies go to the log: in
    /// other modes, or if the disk has no room for the area.
    fn write_to_area(
        &self,
        pager: &Pager,
        meta: &mut Meta,
        left: &[(PageNumber, Arc<Page>)],
        count: usize,
    ) -> Result<bool> {
        if self.torn != Some(Torn::Doublewrite) {
            return Ok(false);
        }
        let left_bytes =
            doublewrite::area_bytes(left.len(), self.page_bytes, doublewrite::chunk_pages(self.page_bytes));
        // A chunk that fails is written again to the same place.
        let offset = meta.doublewrite_bytes;
        match self.area.make_room(offset + left_bytes) {
            Err(Error::NoSpace) => return Ok(false),
            other => other?,
        }
        meta.doublewrite_bytes += self.area.write(offset, meta.lsn, &left[..count])?;
        count_doublewrite(pager, &left[..count]);
        Ok(true)
    }

    /// Logs a copy of `page`; returns the end of the log behind it, and its bytes.
    fn write_to_log(&self, pager: &Pager, log: &Log, number: PageNumber, page: &Page) -> Result<(Lsn, u64)> {
        let changed = page.changed_sectors();
        let bytes = image_bytes(changed);
        let mut sealed = Vec::with_capacity(self.page_bytes);
        pager.seal(page, number, &mut sealed);
        let lsn = log.append(IMAGE_KIND, Purpose::PageImage, bytes, |target| {
            put_image(target, number, changed, &sealed);
        })?;
        let bytes = bytes as u64 + RECORD_OVERHEAD_BYTES;
        pager.count_written(page.kind(), PageCause::Delta, 1, bytes);
        Ok((lsn, bytes))
    }

    /// Makes the copies in the area durable.
    pub fn sync_area(&self) -> Result<()> {
        self.area.sync()
    }
}

/// Counts a chunk of `pages` that was written to the doublewrite area.
pub fn count_doublewrite(pager: &Pager, pages: &[(PageNumber, Arc<Page>)]) {
    pager.count_written(PageKind::Meta, PageCause::DoubleWrite, 1, UNIT_BYTES);
    for (_, page) in pages {
        pager.count_written(page.kind(), PageCause::DoubleWrite, 1, pager.page_bytes() as u64);
    }
}
