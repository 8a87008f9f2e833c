//! The log records of the B-tree besides batches: page images, and changes that are set aside.

use bytes::Bytes;

use super::allocation_unit::{PageNumber, UNIT_BYTES};
use super::meta::Meta;
use super::page::{LEVEL, SECTOR_BYTES};
use crate::engine::wal::{FIRST_KIND, RECORD_OVERHEAD_BYTES};
use crate::engine::{Batch, Error, Lsn, PageKind, Result};

/// Kind of a checkpoint's page image: page number (8 bytes), mask of the sectors that follow (16 bytes), these sectors.
pub const IMAGE_KIND: u8 = FIRST_KIND + 1;
/// Kind of a batch's page image: page number (8 bytes), whether the page is new (4 bytes), page.
pub const BATCH_IMAGE_KIND: u8 = FIRST_KIND + 2;
/// Kind of a batch of changes that are set aside, logged once more.
pub const ASIDE_KIND: u8 = FIRST_KIND + 3;

/// Kind of a batch of deletes that take entries out of a tree which is the upper half of a store: what lies below has them. Before the batch
/// stands the LSN up to which the log was durable when they came there (8 bytes).
pub const REMOVAL_KIND: u8 = FIRST_KIND + 4;

/// Bytes before the sectors of a checkpoint's image.
const IMAGE_HEADER_BYTES: usize = 24;
/// Bytes before the page of a batch's image.
const BATCH_IMAGE_HEADER_BYTES: usize = 12;

/// Appends a removal: entries that came down when the log was durable up to `lower_lsn`.
pub fn put_removal(target: &mut Vec<u8>, lower_lsn: Lsn, batch: &Batch) {
    target.extend_from_slice(&lower_lsn.number().to_le_bytes());
    batch.encode(target);
}

/// Decodes a removal in a record that ends at `lsn`.
pub fn removal(lsn: Lsn, payload: &Bytes) -> Result<(Lsn, Batch)> {
    let what = || Error::corrupt("log record", lsn.number(), "a removal that is too short");
    let lower = payload.first_chunk::<8>().ok_or_else(what)?;
    Ok((Lsn::new(u64::from_le_bytes(*lower)), Batch::decode(&payload.slice(8..))?))
}

/// Upper bound of the bytes of a record with a checkpoint's image of `page_bytes`.
pub fn image_record_bytes_max(page_bytes: usize) -> u64 {
    (page_bytes + IMAGE_HEADER_BYTES) as u64 + RECORD_OVERHEAD_BYTES
}

/// Payload bytes of a checkpoint's image with the sectors whose bits are set in `changed`.
pub fn image_bytes(changed: u128) -> usize {
    IMAGE_HEADER_BYTES + changed.count_ones() as usize * SECTOR_BYTES
}

/// Appends a checkpoint's image of the page `number`, which is `sealed`: the sectors whose bits are set in `changed`.
pub fn put_image(target: &mut Vec<u8>, number: PageNumber, changed: u128, sealed: &[u8]) {
    target.extend_from_slice(&number.to_le_bytes());
    target.extend_from_slice(&changed.to_le_bytes());
    for (index, sector) in sealed.chunks(SECTOR_BYTES).enumerate() {
        if changed >> index & 1 == 1 {
            target.extend_from_slice(sector);
        }
    }
}

/// Payload bytes of a batch's image of a page of `page_bytes`.
pub fn batch_image_bytes(page_bytes: usize) -> usize {
    BATCH_IMAGE_HEADER_BYTES + page_bytes
}

/// Appends what comes before the page `number` in a batch's image; the page is `fresh` if no durable state knows it.
pub fn put_batch_image_header(target: &mut Vec<u8>, number: PageNumber, fresh: bool) {
    target.extend_from_slice(&number.to_le_bytes());
    target.extend_from_slice(&u32::from(fresh).to_le_bytes());
}

/// A page image: sectors with their index in the file, and the kind of the page.
pub struct PageImage {
    /// Kind of the page.
    pub kind: PageKind,
    /// Indexes of sectors in the file, and their bytes.
    pub sectors: Vec<(u64, Bytes)>,
}

impl PageImage {
    /// Decodes the image in a record that ends at `lsn`; `None` if it does not belong to the state of `meta` or repairs nothing, an error if it
    /// is not valid.
    pub fn of_state(meta: &Meta, kind: u8, lsn: Lsn, payload: &Bytes) -> Result<Option<PageImage>> {
        let (header_bytes, changed) = match kind {
            IMAGE_KIND if lsn > meta.lsn && lsn <= meta.images_end => {
                let changed = payload.get(8..).and_then(|bytes| bytes.first_chunk());
                (IMAGE_HEADER_BYTES, changed.map_or(0, |bytes| u128::from_le_bytes(*bytes)))
            }
            // A new page is written before the commit and needs no repair; its units may have been used twice by then.
            BATCH_IMAGE_KIND if lsn <= meta.lsn && payload.get(8..12) == Some(&[0; 4]) => {
                let whole = u128::MAX >> (u128::BITS as usize - meta.page_bytes as usize / SECTOR_BYTES);
                (BATCH_IMAGE_HEADER_BYTES, whole)
            }
            _ => return Ok(None),
        };
        let sectors = sectors(payload, header_bytes, changed).ok_or_else(|| {
            Error::corrupt("log record", lsn.number(), "a page image that is not what it says")
        })?;
        // A changed page has a new checksum, so its first sector is always among them.
        let level = payload.get(header_bytes + LEVEL).copied().unwrap_or_default();
        Ok(Some(PageImage { kind: PageKind::of_level(level), sectors }))
    }
}

/// Decodes the sectors in `payload` behind `header` bytes, which are those set in `changed`; `None` if the lengths do not fit.
fn sectors(payload: &Bytes, header: usize, changed: u128) -> Option<Vec<(u64, Bytes)>> {
    let sectors = payload.get(header..).unwrap_or_default().chunks(SECTOR_BYTES);
    let fits = sectors.len() == changed.count_ones() as usize && payload.len() % SECTOR_BYTES == header;
    let (number, _) = payload.split_first_chunk::<8>().filter(|_| fits)?;
    let first = PageNumber::from_le_bytes(*number).unit().get();
    let first = first.saturating_mul(UNIT_BYTES / SECTOR_BYTES as u64);
    let places = (0..u128::BITS).filter(|index| changed >> index & 1 == 1);
    // Copies, since a slice would keep its whole segment in memory.
    let sector = |(index, bytes): (u32, &[u8])| {
        (first.saturating_add(u64::from(index)), Bytes::copy_from_slice(bytes))
    };
    Some(places.zip(sectors).map(sector).collect())
}
