//! The form of a page in the file that takes fewer units than the page. `FORMAT.md` draws it.
//!
//! A page that would not save a unit is not compressed. The pool and everything above it know pages only as they are in memory.

use super::cell::u32_at;
use super::{LEVEL, Page, checksum};
use crate::engine::btree::allocation_unit::{PageNumber, UNIT_BYTES, Units};
use crate::engine::codec::{self, Compression};

/// Byte 4 of a compressed page; see [`super::MAGIC`].
const MAGIC: u8 = 0xB8;
const CODEC: usize = 6;
const LENGTH: usize = 8;
const HEADER_BYTES: usize = 12;
/// Bytes at the start of a page that are not compressed: its checksum.
const SKIPPED_BYTES: usize = 4;

/// A page as it is stored, without its checksum, which depends on its place.
pub struct CompressedPage {
    /// Whole units.
    bytes: Vec<u8>,
}

/// The codec with this number.
fn codec_of(number: u8) -> Option<Compression> {
    match number {
        1 => Some(Compression::Lz4),
        2 => Some(Compression::Zstd),
        _ => None,
    }
}

impl CompressedPage {
    /// The stored form of `page`; `None` if it would not save a unit.
    pub fn new(page: &Page, compression: Compression) -> Option<CompressedPage> {
        let number = match compression {
            Compression::None => return None,
            Compression::Lz4 => 1,
            Compression::Zstd => 2,
        };
        let page_units = Units::of_bytes(page.page_bytes());
        if page_units <= Units::ONE {
            return None;
        }
        let mut bytes = vec![0; HEADER_BYTES];
        if !codec::compress(compression, &page.bytes[SKIPPED_BYTES..], &mut bytes) {
            return None;
        }
        let units = Units::of_bytes(bytes.len() as u64);
        if units >= page_units {
            return None;
        }
        let length = (bytes.len() - HEADER_BYTES) as u32;
        (bytes[4], bytes[LEVEL], bytes[CODEC]) = (MAGIC, page.level(), number);
        bytes[LENGTH..LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        bytes.resize(units.bytes() as usize, 0);
        bytes.shrink_to_fit();
        Some(CompressedPage { bytes })
    }

    /// The page as its checked bytes in the file have it, if `compression` made them.
    pub fn of_stored(bytes: Vec<u8>, compression: Compression) -> Option<CompressedPage> {
        let codec = bytes.get(CODEC).and_then(|number| codec_of(*number));
        (codec == Some(compression)).then_some(CompressedPage { bytes })
    }

    /// Units that it takes.
    pub fn units(&self) -> Units {
        Units::of_bytes(self.bytes.len() as u64)
    }

    /// Appends the page as it is written in the place of `number`, checksum included.
    pub fn seal(&self, number: PageNumber, target: &mut Vec<u8>) {
        let at = target.len();
        target.extend_from_slice(&self.bytes);
        let crc = checksum(number, &self.bytes);
        target[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Units of the compressed page that begins with `bytes`, by its header alone; `None` if it is none, or none of less than `page_units`.
    pub fn units_at(bytes: &[u8], page_units: Units) -> Option<Units> {
        if bytes.len() < HEADER_BYTES || bytes[4] != MAGIC {
            return None;
        }
        let units = Units::of_bytes(HEADER_BYTES as u64 + u64::from(u32_at(bytes, LENGTH)));
        (units < page_units).then_some(units)
    }

    /// The stored bytes of the page, as the checksum of the page `number` covers them; the error says what is wrong.
    pub fn check(number: PageNumber, bytes: &[u8]) -> Result<(), &'static str> {
        if bytes.len() < UNIT_BYTES as usize || u32_at(bytes, 0) != checksum(number, bytes) {
            return Err("the page's checksum does not fit");
        }
        Ok(())
    }

    /// The page of `page_bytes` that checked bytes hold; the error says what is wrong with them.
    pub fn expand(bytes: &[u8], page_bytes: usize) -> Result<Page, &'static str> {
        let damaged = "not a compressed page";
        if bytes.len() < HEADER_BYTES || bytes[4] != MAGIC {
            return Err(damaged);
        }
        let length = u32_at(bytes, LENGTH) as usize;
        let payload = bytes[HEADER_BYTES..].get(..length).ok_or(damaged)?;
        let compression = codec_of(bytes[CODEC]).ok_or("a page of an unknown codec")?;
        // The length is that of every page of the store, so nothing in the file decides how much is allocated.
        let expanded = codec::expand(compression, payload, page_bytes - SKIPPED_BYTES).ok_or(damaged)?;
        let mut whole = Vec::with_capacity(page_bytes);
        whole.extend_from_slice(&[0; SKIPPED_BYTES]);
        whole.extend_from_slice(&expanded);
        let page = Page::of_bytes(whole)?;
        if page.level() != bytes[LEVEL] {
            return Err(damaged);
        }
        Ok(page)
    }
}
