//! The copies of pages that checkpoints owe: what is overwritten in place may be torn, so a copy of it is durable first.
//!
//! | `torn`        | the copy                                                        | written                             |
//! |---------------|-----------------------------------------------------------------|-------------------------------------|
//! | `delta`       | in the log, behind the batches of the checkpoint                | once a checkpoint                   |
//! | `doublewrite` | in `btree.double`, from its start                               | once a checkpoint, and a sync more  |
//! | `image`       | in the log, behind the batch; new pages, too, for the same cost | as often as batches change the page |
//!
//! Where the disk has no room for the area, they go to the log, whose files may have it.

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

/// Where copies go, and how many the checkpoint on its way has yet to make.
pub struct PageCopies {
    area: DoublewriteArea,
    torn: Torn,
    page_bytes: usize,
    /// Bytes that they take of the log, at most.
    left_bytes: AtomicU64,
}

impl PageCopies {
    /// As `torn` says, of pages of `page_bytes`; `area` is the doublewrite area.
    pub fn new(area: DoublewriteArea, torn: Torn, page_bytes: usize) -> PageCopies {
        PageCopies { area, torn, page_bytes, left_bytes: AtomicU64::new(0) }
    }

    /// Whether `pages` copies go to the doublewrite area, and that is long enough.
    pub fn has_area_for(&self, pages: u64) -> bool {
        let bytes = doublewrite::area_bytes(
            pages as usize,
            self.page_bytes,
            doublewrite::chunk_pages(self.page_bytes),
        );
        self.torn == Torn::Doublewrite && self.area.allocated_bytes() >= bytes
    }

    /// Bytes of the log that one takes at most.
    pub fn record_bytes_max(&self) -> u64 {
        image_record_bytes_max(self.page_bytes)
    }

    /// Bytes of the log that those of `pages` pages take at most, as far as they belong there.
    pub fn log_bytes_max(&self, pages: u64) -> u64 {
        match self.torn {
            Torn::Doublewrite => 0,
            Torn::Delta | Torn::Image => pages * self.record_bytes_max(),
        }
    }

    /// Bytes of the log that the checkpoint on its way still takes for copies, at most.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes.load(Relaxed)
    }

    /// The checkpoint on its way has yet to make copies of `images`, from the `at`-th on.
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

    /// Copies the next few of `images`, from the `at`-th on, for the state of `meta`, which says where they are then; returns the first
    /// that is left. What the log takes is added to `logged_bytes`.
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

    /// Writes the first `count` of `left` to the area: at `doublewrite_bytes`, which grows by it. False if they belong into the log: so they
    /// do where the disk has no room for the area, as the files of the log may have.
    fn write_to_area(
        &self,
        pager: &Pager,
        meta: &mut Meta,
        left: &[(PageNumber, Arc<Page>)],
        count: usize,
    ) -> Result<bool> {
        if self.torn != Torn::Doublewrite {
            return Ok(false);
        }
        let left_bytes =
            doublewrite::area_bytes(left.len(), self.page_bytes, doublewrite::chunk_pages(self.page_bytes));
        // One chunk that fails is written again to the same place.
        let offset = meta.doublewrite_bytes;
        match self.area.make_room(offset + left_bytes) {
            Err(Error::NoSpace) => return Ok(false),
            other => other?,
        }
        meta.doublewrite_bytes += self.area.write(offset, meta.lsn, &left[..count])?;
        count_doublewrite(pager, &left[..count]);
        Ok(true)
    }

    /// Where the log ends behind the copy of `page`, and what it took.
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

    /// Makes those in the area durable.
    pub fn sync_area(&self) -> Result<()> {
        self.area.sync()
    }
}

/// A chunk of `pages` was written to the doublewrite area.
pub fn count_doublewrite(pager: &Pager, pages: &[(PageNumber, Arc<Page>)]) {
    pager.count_written(PageKind::Meta, PageCause::DoubleWrite, 1, UNIT_BYTES);
    for (_, page) in pages {
        pager.count_written(page.kind(), PageCause::DoubleWrite, 1, pager.page_bytes() as u64);
    }
}
