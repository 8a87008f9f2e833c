//! Pages against a map, byte by byte, and against nonsense.

use super::*;
use crate::base::prng::Prng;
use crate::engine::Compression;
use crate::engine::btree::allocation_unit::literal::{page_number, unit_count, unit_number};
use std::collections::BTreeMap;

fn inline(key: &[u8], value: &[u8]) -> Vec<u8> {
    leaf_cell(key, CellValue::Inline(value))
}

#[test]
fn a_leaf_of_two_cells_is_these_bytes_and_every_flip_is_refused() {
    let mut page = Page::new(4096, 0, PageNumber::NONE);
    let extent = Extent { unit: unit_number(7), units: unit_count(1), bytes: 4000, crc: 0xAABB_CCDD };
    assert!(page.insert(0, &leaf_cell(b"b", CellValue::Extent(extent))));
    assert!(page.insert(0, &inline(b"a", b"xyz")));
    let mut bytes = Vec::new();
    page.seal(page_number(9), &mut bytes);
    let slots = [0xDF, 0x0F, 0xE7, 0x0F];
    assert_eq!(
        bytes[4..32],
        [0xB7, 0, 2, 0, 0xDF, 0x0F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(bytes[32..36], slots);
    assert_eq!(bytes[4063..4071], [1, 0, 3, 0, b'a', b'x', b'y', b'z']);
    assert_eq!(
        bytes[4071..],
        [
            1, 0, 0xFF, 0xFF, b'b', 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xA0, 0x0F, 0, 0, 0xDD, 0xCC, 0xBB,
            0xAA
        ]
    );
    assert_eq!(u32_at(&bytes, 0), checksum(page_number(9), &bytes));
    let back = Page::decode(page_number(9), bytes.clone()).unwrap();
    assert_eq!(
        (back.cell_value(0), back.cell_value(1)),
        (CellValue::Inline(b"xyz"), CellValue::Extent(extent))
    );
    assert!(Page::decode(page_number(8), bytes.clone()).is_err(), "a page read at another place");
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Page::decode(page_number(9), bytes.clone()).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn nonsense_with_a_good_checksum_is_refused_without_a_panic() {
    let mut prng = Prng::new(3);
    let mut page = Page::new(4096, 0, PageNumber::NONE);
    (0..20u8).for_each(|key| assert!(page.insert(usize::from(key), &inline(&[key], &[key; 40]))));
    let mut good = Vec::new();
    page.seal(page_number(1), &mut good);
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..1 + prng.below(4) {
            let at = if prng.one_in(2) { prng.below(80) } else { prng.below(4096) } as usize;
            bytes[at] = prng.bits() as u8;
        }
        let crc = checksum(page_number(1), &bytes);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(page) = Page::decode(page_number(1), bytes) {
            for index in 0..page.count() {
                let _ = (page.key(index), page.is_leaf().then(|| page.cell_value(index)));
                let _ = (!page.is_leaf()).then(|| page.child(index));
            }
            let _ = page.search(&[7]);
        }
    }
}

#[test]
fn inserts_removes_and_splits_keep_a_map() {
    for seed in 0..30 {
        let mut prng = Prng::new(seed);
        let mut model = BTreeMap::new();
        let mut page = Page::new(4096, 0, PageNumber::NONE);
        loop {
            let key = vec![prng.bits() as u8; 1 + prng.below(30) as usize];
            let value = vec![prng.bits() as u8; prng.below(200) as usize];
            match page.search(&key) {
                Ok(index) => {
                    page.remove(index);
                    model.remove(&key);
                }
                Err(index) if page.insert(index, &inline(&key, &value)) => {
                    model.insert(key, value);
                }
                Err(index) => {
                    let (separator, right) = page.split(index, &inline(&key, &value));
                    model.insert(key, value);
                    let entries = |page: &Page| -> Vec<(Vec<u8>, Vec<u8>)> {
                        (0..page.count())
                            .map(|index| match page.cell_value(index) {
                                CellValue::Inline(value) => (page.key(index).to_vec(), value.to_vec()),
                                CellValue::Extent(_) | CellValue::Tombstone => panic!("only inline values"),
                            })
                            .collect()
                    };
                    let (left, right_entries) = (entries(&page), entries(&right));
                    assert!(!left.is_empty() && !right_entries.is_empty());
                    assert!(left.last().unwrap().0 < separator && separator <= right_entries[0].0);
                    let all: Vec<_> = left.into_iter().chain(right_entries).collect();
                    assert_eq!(all, model.into_iter().collect::<Vec<_>>(), "seed {seed}");
                    for (number, page) in [(page_number(1), &page), (page_number(2), &right)] {
                        let mut bytes = Vec::new();
                        page.seal(number, &mut bytes);
                        Page::decode(number, bytes).map_err(str::to_string).unwrap();
                    }
                    break;
                }
            }
        }
    }
}

#[test]
fn a_byte_that_differs_lies_in_a_changed_unit_and_few_units_change() {
    let mut prng = Prng::new(5);
    let mut page = Page::new(16 << 10, 0, PageNumber::NONE);
    let (mut changed, mut rounds) = (0, 0);
    for key in 0..60u8 {
        assert!(page.insert(usize::from(key), &inline(&[key], &[key; 200])));
    }
    for round in 0..2000 {
        let before = page.clone();
        page.begin_changes(PageCause::Change);
        let key = [prng.below(60) as u8];
        let value = vec![round as u8; if prng.one_in(4) { prng.below(200) as usize } else { 200 }];
        let cell = inline(&key, &value);
        match page.search(&key) {
            Ok(index) if page.replace(index, &cell) => {
                rounds += 1;
                changed += page.changed_units().count();
            }
            Ok(index) => drop(page.remove(index)),
            Err(index) => drop(page.insert(index, &cell)),
        }
        let units: Vec<usize> = page.changed_units().collect();
        let sectors = page.changed_sectors();
        assert_eq!(sectors.count_ones() as usize, units.len() * UNIT / SECTOR_BYTES);
        assert!(units.iter().all(|unit| sectors >> (unit * UNIT / SECTOR_BYTES) & 0xFF == 0xFF));
        for (unit, (old, new)) in before.bytes.chunks(UNIT).zip(page.bytes.chunks(UNIT)).enumerate() {
            assert!(old == new || units.contains(&unit), "round {round} unit {unit}");
        }
    }
    assert!(rounds > 300 && changed < rounds * 2, "{changed} units in {rounds} rounds");
}

#[test]
fn ascending_inserts_leave_full_pages_even_in_the_middle() {
    let mut page = Page::new(4096, 0, PageNumber::NONE);
    page.insert(0, &inline(b"z", b"last"));
    let mut key = 0u32;
    let (_, right) = loop {
        let cell = inline(&key.to_be_bytes(), &[0; 40]);
        let index = page.search(&key.to_be_bytes()).unwrap_err();
        if !page.insert(index, &cell) {
            break page.split(index, &cell);
        }
        key += 1;
    };
    assert_eq!((page.count(), right.count()), (key as usize, 2));
}

#[test]
fn a_compressed_page_is_these_bytes_and_every_flip_is_refused() {
    let mut page = Page::new(8192, 0, PageNumber::NONE);
    for number in 0..30u8 {
        assert!(page.insert(usize::from(number), &inline(&[number], &[number; 100])));
    }
    for (codec, compression) in [(1, Compression::Lz4), (2, Compression::Zstd)] {
        let form = CompressedPage::new(&page, compression).unwrap();
        assert_eq!(form.units(), unit_count(1));
        let number = PageNumber::compressed(unit_number(9), form.units());
        let mut bytes = Vec::new();
        form.seal(number, &mut bytes);
        assert_eq!((bytes.len(), &bytes[4..8]), (4096, &[0xB8, 0, codec, 0][..]));
        let length = u32_at(&bytes, 8) as usize;
        assert!(length > 100 && bytes[12 + length..].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&bytes, 0), checksum(number, &bytes));
        assert_eq!(CompressedPage::units_at(&bytes, unit_count(2)), Some(unit_count(1)));
        CompressedPage::check(number, &bytes).unwrap();
        let back = CompressedPage::expand(&bytes, 8192).unwrap();
        assert_eq!(back.bytes[4..], page.bytes[4..]);
        // At another place, of another length, of a store with other pages.
        for other in [page_number(9), PageNumber::compressed(unit_number(8), form.units())] {
            assert!(CompressedPage::check(other, &bytes).is_err());
        }
        assert!(CompressedPage::expand(&bytes, 4096).is_err());
        assert!(CompressedPage::expand(&bytes, 16384).is_err());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(CompressedPage::check(number, &bytes).is_err(), "bit {bit}");
            // No flip may panic, though most are noticed by the checksum alone.
            let _ = CompressedPage::expand(&bytes, 8192);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_page_that_saves_no_unit_is_not_compressed() {
    let mut prng = Prng::new(1);
    let mut page = Page::new(8192, 0, PageNumber::NONE);
    for number in 0..7u8 {
        let noise: Vec<u8> = (0..1000).map(|_| prng.bits() as u8).collect();
        assert!(page.insert(usize::from(number), &inline(&[number], &noise)));
    }
    assert!(CompressedPage::new(&page, Compression::Lz4).is_none());
    assert!(CompressedPage::new(&page, Compression::Zstd).is_none());
    let empty = Page::new(4096, 0, PageNumber::NONE);
    assert!(CompressedPage::new(&empty, Compression::Zstd).is_none(), "a page of one unit");
}
