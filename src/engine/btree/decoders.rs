//! The decoders of the B-tree, for tests and fuzzing.

use super::allocation_unit::{PageNumber, UNIT_BYTES, UnitNumber, Units};
use super::freemap::{MapEntry, read_runs};
use super::meta::{self, META_BYTES, Meta, TreeCounts};
use super::page::{self, CellValue, CompressedPage, Page, inner_cell, leaf_cell};
use crate::base::decoder::Decoder;
use crate::base::varint;
use crate::engine::{Compression, Lsn, frame};

/// The decoders of the B-tree.
pub const ALL: &[Decoder] = &[
    Decoder { name: "btree_page", decode: page, valid: pages },
    Decoder { name: "btree_compressed_page", decode: compressed_page, valid: compressed_pages },
    Decoder { name: "btree_meta", decode: meta, valid: metas },
    Decoder { name: "btree_free_map_entry", decode: entry, valid: entries },
    Decoder { name: "btree_free_map_runs", decode: runs, valid: run_lists },
];

const NUMBER: PageNumber = PageNumber::at(UnitNumber::new(12));
const END: UnitNumber = UnitNumber::new(1 << 20);

/// Decodes a page, after setting its checksum, and uses its cells as a search and a scan do.
fn page(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    if bytes.len() < 4 {
        assert!(Page::decode(NUMBER, bytes).is_err());
        return false;
    }
    let crc = page::checksum(NUMBER, &bytes);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let Ok(page) = Page::decode(NUMBER, bytes.clone()) else { return false };
    for index in 0..page.count() {
        assert_eq!(page.search(page.key(index)), Ok(index));
        let _ = page.cell_bytes(index);
        if page.is_leaf() {
            let _ = page.cell_value(index);
        } else {
            let _ = page.child(index + 1);
        }
    }
    let _ = (page.search(b"key7"), page.used_bytes(), page.is_sparse(), page.free_bytes(), page.kind());
    let mut again = Vec::new();
    page.seal(NUMBER, &mut again);
    assert_eq!(again, bytes);
    true
}

fn pages() -> Vec<Vec<u8>> {
    let key = |number: u64| format!("key{number}").into_bytes();
    let child = |number: u64| PageNumber::at(UnitNumber::new(number));
    let mut leaf = Page::new(4096, 0, PageNumber::NONE);
    let mut inner = Page::new(4096, 1, child(40));
    for number in 0..9 {
        let value = vec![number as u8; number as usize * 7];
        leaf.insert(leaf.count(), &leaf_cell(&key(number), CellValue::Inline(&value)));
        inner.insert(inner.count(), &inner_cell(&key(number), child(44 + number * 4)));
    }
    leaf.remove(3);
    let sealed = |page: &Page| {
        let mut target = Vec::new();
        page.seal(NUMBER, &mut target);
        target
    };
    [leaf, inner, Page::new(4096, 0, PageNumber::NONE)].iter().map(sealed).collect()
}

/// Expands a compressed page of 8 KiB, after setting its checksum.
fn compressed_page(bytes: &[u8]) -> bool {
    let units = Units::of_bytes(COMPRESSED_BYTES as u64);
    let mut bytes = bytes.to_vec();
    bytes.resize(UNIT_BYTES as usize, 0);
    let number = PageNumber::compressed(NUMBER.unit(), Units::ONE);
    let crc = page::checksum(number, &bytes);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    assert!(CompressedPage::check(number, &bytes).is_ok());
    assert!(CompressedPage::units_at(&bytes, units).is_none_or(|found| found < units));
    let Ok(page) = CompressedPage::expand(&bytes, COMPRESSED_BYTES) else { return false };
    assert_eq!(page.page_bytes(), COMPRESSED_BYTES as u64);
    (0..page.count()).for_each(|index| assert_eq!(page.search(page.key(index)), Ok(index)));
    true
}

/// Bytes of the pages of the sample.
const COMPRESSED_BYTES: usize = 8 << 10;

fn compressed_pages() -> Vec<Vec<u8>> {
    let mut leaf = Page::new(COMPRESSED_BYTES, 0, PageNumber::NONE);
    for number in 0..40u8 {
        leaf.insert(leaf.count(), &leaf_cell(&[b'k', number], CellValue::Inline(&[number; 90])));
    }
    let form = |codec| {
        let form = CompressedPage::new(&leaf, codec)?;
        let mut target = Vec::new();
        form.seal(PageNumber::compressed(NUMBER.unit(), form.units()), &mut target);
        Some(target)
    };
    [Compression::Lz4, Compression::Zstd].into_iter().filter_map(form).collect()
}

/// Decodes the words of a meta page, in a valid frame.
fn meta(bytes: &[u8]) -> bool {
    let words = &bytes[..bytes.len().min(META_BYTES - frame::HEADER_BYTES)];
    let mut is_read = false;
    for slot in 0..2 {
        let offset = slot * UNIT_BYTES;
        let Some(meta) = Meta::decode(&frame::encode(meta::KIND, offset, words), offset) else { continue };
        // A meta page of an earlier version is encoded in the present one.
        let again = meta.encode();
        assert_eq!(again.len(), META_BYTES);
        if meta.offset() == offset {
            assert!(Meta::decode(&again, offset).is_some());
        }
        is_read = true;
    }
    is_read
}

fn metas() -> Vec<Vec<u8>> {
    let meta = Meta {
        sequence: 8,
        page_bytes: 16 << 10,
        root: PageNumber::at(UnitNumber::new(24)),
        height: 2,
        lsn: Lsn::new(900),
        recovery_lsn: Lsn::new(900),
        images_start: Lsn::new(900),
        end: UnitNumber::new(4000),
        counts: TreeCounts {
            leaf_pages: 7,
            inner_pages: 1,
            leaf_bytes: 70_000,
            extent_units: Units::new(3),
            ..TreeCounts::default()
        },
        ..Meta::default()
    };
    let mut compressed = meta;
    compressed.root = PageNumber::compressed(UnitNumber::new(24), Units::new(2));
    compressed.counts.saved_units = Units::new(9);
    let payload = |meta: &Meta| {
        let framed = meta.encode();
        frame::decode(&framed, meta.offset()).map(|(_, payload)| payload.to_vec())
    };
    [meta, compressed].iter().filter_map(payload).collect()
}

fn entry(bytes: &[u8]) -> bool {
    let Some(entry) = MapEntry::decode(bytes, END) else { return false };
    let mut again = Vec::new();
    entry.encode(&mut again);
    assert_eq!(again, bytes[..again.len()]);
    assert!(entry.home().is_none_or(|(unit, units)| unit + units <= END));
    true
}

fn entries() -> Vec<Vec<u8>> {
    let mut target = Vec::new();
    let entry =
        MapEntry { unit: UnitNumber::new(41), side: Units::ONE, crc: 7, free_units: 9, longest_units: 4 };
    entry.encode(&mut target);
    vec![target]
}

fn runs(bytes: &[u8]) -> bool {
    let Some(runs) = read_runs(bytes, END) else { return false };
    let ends: Vec<UnitNumber> = runs.iter().map(|(start, units)| *start + *units).collect();
    assert!(ends.is_sorted() && ends.last().is_none_or(|end| *end <= END));
    true
}

fn run_lists() -> Vec<Vec<u8>> {
    let mut target = Vec::new();
    for number in [3, 20, 4, 100, 1, 0, 9] {
        varint::put(&mut target, number);
    }
    vec![target]
}
