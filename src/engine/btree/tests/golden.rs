//! The bytes of `btree.pages`, `btree.double` and of the B-tree's own records in the log, as `tests/fixtures/btree/golden.txt` has them: each
//! block is decoded, compared with the expected values, and encoded to the same bytes. Stores on disks consist of these bytes, so a change here
//! is a change of the format: it needs a new version, which still reads this one.
//!
//! `BLESS=1` writes the file anew. A block has a name, its number of bytes, and its rows of 16 bytes that are not all zero.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::*;
use crate::engine::btree::allocation_unit::literal::{page_number, unit_count, unit_number};
use crate::engine::btree::doublewrite::DoublewriteArea;
use crate::engine::btree::freemap::{FreeMap, GROUP_UNITS, GroupBits, MapEntry};
use crate::engine::btree::meta::{MapPlace, Meta, TreeCounts};
use crate::engine::btree::page::{CellValue, Extent, Page, inner_cell, leaf_cell};
use crate::engine::btree::records::{
    ASIDE_KIND, BATCH_IMAGE_KIND, IMAGE_KIND, PageImage, put_batch_image_header, put_image,
};
use crate::engine::wal::FIRST_KIND;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/btree/golden.txt");

/// A block as it stands in the file.
fn text(name: &str, bytes: &[u8]) -> String {
    let mut text = format!("{name}: {} bytes\n", bytes.len());
    for (nth, row) in bytes.chunks(16).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0)) {
        write!(text, "{:05x} ", nth * 16).unwrap();
        row.iter().for_each(|byte| write!(text, " {byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

/// The block called `name` of the file, whose bytes should be `encoded`.
fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    if std::env::var_os("BLESS").is_some() {
        return encoded.to_vec();
    }
    let file = std::fs::read_to_string(FIXTURE).unwrap();
    let block = file.split("\n\n").find_map(|block| block.trim_start().strip_prefix(&format!("{name}: ")));
    let (size, rows) = block.unwrap_or_else(|| panic!("no {name}")).split_once('\n').unwrap();
    let mut bytes = vec![0; size.strip_suffix(" bytes").unwrap().parse().unwrap()];
    for row in rows.lines() {
        let (at, row) = row.split_once("  ").unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        for (nth, byte) in row.split(' ').enumerate() {
            bytes[at + nth] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    assert_eq!(
        text(name, &bytes),
        text(name, encoded),
        "the format of {name} has changed: stores that exist have other bytes"
    );
    bytes
}

fn meta() -> Meta {
    Meta {
        sequence: 3,
        page_bytes: 4096,
        root: page_number(5),
        height: 2,
        lsn: Lsn::new(0x1111),
        recovery_lsn: Lsn::new(0x1001),
        replay_all: Lsn::new(0x0F0F),
        lower_lsn: Lsn::ZERO,
        images_start: Lsn::new(0x1010),
        images_end: Lsn::new(0x2222),
        doublewrite_bytes: 12288,
        end: unit_number(900),
        map: MapPlace::Pages(map_root()),
        counts: TreeCounts {
            saved_units: Units::ZERO,
            leaf_pages: 6,
            inner_pages: 1,
            leaf_bytes: 20_000,
            extent_units: unit_count(12),
        },
    }
}

fn map_root() -> MapEntry {
    MapEntry {
        unit: unit_number(77),
        side: unit_count(1),
        crc: 0x0102_0304,
        free_units: 33,
        longest_units: 9,
    }
}

fn leaf() -> Page {
    let mut page = Page::new(4096, 0, PageNumber::NONE);
    let cell = |key: &[u8], stored| leaf_cell(key, stored);
    assert!(page.insert(0, &cell(b"large", CellValue::Extent(extent()))));
    assert!(page.insert(1, &cell(b"small", CellValue::Inline(b"a value"))));
    assert!(page.insert(0, &cell(b"gone", CellValue::Inline(b"garbage"))));
    page.remove(0);
    assert!(page.insert(0, &cell(b"empty", CellValue::Inline(b""))));
    page
}

fn value() -> Vec<u8> {
    b"forty-two ".repeat(420)
}

fn extent() -> Extent {
    Extent { unit: unit_number(40), units: unit_count(2), bytes: 4200, crc: crc32fast::hash(&value()) }
}

fn inner() -> Page {
    let mut page = Page::new(4096, 1, page_number(9));
    assert!(page.insert(0, &inner_cell(b"m", page_number(0x0102_0304))));
    assert!(page.insert(1, &inner_cell(b"tree", page_number(11))));
    page
}

fn sealed(page: &Page, number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    page.seal(page_number(number), &mut bytes);
    bytes
}

fn map_group() -> GroupBits {
    let mut bits = GroupBits::none();
    bits.set(3, 6);
    bits.set(70, 71);
    bits
}

fn batch() -> Batch {
    let mut batch = Batch::new(2);
    batch.put(b"key".to_vec(), b"value".to_vec());
    batch.delete(b"other".to_vec());
    batch
}

fn encoded(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    batch.encode(&mut bytes);
    bytes
}

fn image(kind: u8, sectors: u128) -> Vec<u8> {
    let (mut bytes, page) = (Vec::new(), sealed(&leaf(), 9));
    if kind == IMAGE_KIND {
        put_image(&mut bytes, page_number(9), sectors, &page);
    } else {
        put_batch_image_header(&mut bytes, page_number(9), false);
        bytes.extend_from_slice(&page);
    }
    bytes
}

/// Two pages in the doublewrite area, as a checkpoint at the LSN of [`meta`] writes them.
fn area() -> (Arc<SimDisk>, Vec<u8>) {
    let sim = SimDisk::new();
    let area = DoublewriteArea::open(sim.clone()).unwrap();
    area.make_room(12288).unwrap();
    let pages = [(page_number(9), Arc::new(leaf())), (page_number(5), Arc::new(inner()))];
    assert_eq!(area.write(0, meta().lsn, &pages).unwrap(), 12288);
    let mut bytes = vec![0; 12288];
    sim.open(crate::engine::btree::doublewrite::FILE)
        .unwrap()
        .read_at(Purpose::Recovery, 0, &mut bytes)
        .unwrap();
    (sim, bytes)
}

fn map_pages() -> Vec<u8> {
    let mut bytes = Vec::new();
    map_root().encode(&mut bytes);
    MapEntry::default().encode(&mut bytes);
    MapEntry { unit: unit_number(79), ..MapEntry::default() }.lost().encode(&mut bytes);
    bytes.resize(4096, 0);
    bytes
}

/// All blocks of the file, in its order.
fn blocks() -> Vec<(&'static str, Vec<u8>)> {
    let runs = MapPlace::Runs { run: (unit_number(77), unit_count(1)), bytes: 33, crc: 5 };
    let mut large = value();
    large.resize(2 * 4096, 0);
    vec![
        ("meta slot 1 of btree.pages", meta().encode()),
        (
            "meta slot 1 of the version before",
            Meta { map: runs, replay_all: Lsn::new(0x1111), ..meta() }.encode(),
        ),
        ("leaf page at unit 9", sealed(&leaf(), 9)),
        ("inner page at unit 5", sealed(&inner(), 5)),
        ("extent at unit 40", large),
        ("free map, page of a group", map_group().encode()),
        ("free map, page above groups", map_pages()),
        ("log record of kind 2, batch", encoded(&batch())),
        ("log record of kind 3, image of a checkpoint", image(IMAGE_KIND, 0xFF)),
        ("log record of kind 4, image of a batch", image(BATCH_IMAGE_KIND, 0)),
        ("log record of kind 5, batch that was set aside", encoded(&batch())),
        ("btree.double, chunk of two pages", area().1),
    ]
}

#[test]
fn what_is_encoded_is_what_stores_have() {
    let blocks = blocks();
    if std::env::var_os("BLESS").is_some() {
        let all: Vec<String> = blocks.iter().map(|(name, bytes)| text(name, bytes)).collect();
        std::fs::write(FIXTURE, all.join("\n")).unwrap();
    }
    let file = std::fs::read_to_string(FIXTURE).unwrap();
    assert_eq!(file.split("\n\n").count(), blocks.len(), "a block that nothing makes");
    blocks.iter().for_each(|(name, bytes)| drop(golden(name, bytes)));
}

/// The bytes of a block of the file.
fn stored(name: &str) -> Vec<u8> {
    let (_, encoded) = blocks().into_iter().find(|(block, _)| block.starts_with(name)).unwrap();
    let name = blocks().into_iter().find(|(block, _)| block.starts_with(name)).unwrap().0;
    golden(name, &encoded)
}

#[test]
fn what_stores_have_is_understood() {
    assert_eq!(Meta::decode(&stored("meta slot 1 of btree.pages"), 4096), Some(meta()));
    let before = Meta::decode(&stored("meta slot 1 of the version before"), 4096).unwrap();
    assert_eq!(before.map, MapPlace::Runs { run: (unit_number(77), unit_count(1)), bytes: 33, crc: 5 });
    assert_eq!((before.replay_all, before.counts), (before.lsn, meta().counts));

    let leaf = Page::decode(page_number(9), stored("leaf page")).map_err(str::to_string).unwrap();
    let cells: Vec<_> = (0..leaf.count()).map(|index| (leaf.key(index), leaf.cell_value(index))).collect();
    let expected: [(&[u8], CellValue<'_>); 3] = [
        (b"empty", CellValue::Inline(b"")),
        (b"large", CellValue::Extent(extent())),
        (b"small", CellValue::Inline(b"a value")),
    ];
    assert_eq!(cells, expected);
    assert_eq!(leaf.level(), 0);
    let large = stored("extent");
    assert_eq!(crc32fast::hash(&large[..extent().bytes as usize]), extent().crc);

    let inner = Page::decode(page_number(5), stored("inner page")).map_err(str::to_string).unwrap();
    assert_eq!((inner.level(), inner.key(0), inner.key(1)), (1, b"m".as_slice(), b"tree".as_slice()));
    assert_eq!([0, 1, 2].map(|index| inner.child(index)), [9, 0x0102_0304, 11].map(page_number));

    let group = GroupBits::decode(&stored("free map, page of a group"));
    assert_eq!(group.runs().collect::<Vec<_>>(), [(3, 6), (70, 71)]);
    let entries = stored("free map, page above groups");
    assert_eq!(MapEntry::decode(&entries, unit_number(900)), Some(map_root()));
    assert_eq!(MapEntry::decode(&entries[16..], unit_number(900)), Some(MapEntry::default()));
    assert!(MapEntry::decode(&entries[32..], unit_number(900)).unwrap().is_lost());
    // The map reads three entries: a group with free units, an empty one, a lost one.
    let root = MapEntry { unit: unit_number(81), ..MapEntry::default() };
    let end = FIRST_UNIT + GROUP_UNITS * 3 - unit_count(2);
    let map =
        FreeMap::open(root, end, end, &mut |entry| Ok((entry.unit == root.unit).then(|| entries.clone())));
    let map = map.unwrap();
    assert_eq!((map.available_units(), map.lost_group().is_some()), (unit_count(33), true));

    assert_eq!((FIRST_KIND, IMAGE_KIND, BATCH_IMAGE_KIND, ASIDE_KIND), (2, 3, 4, 5));
    for kind in ["kind 2", "kind 5"] {
        let payload = Bytes::from(stored(&format!("log record of {kind}")));
        let decoded = Batch::decode(&payload).unwrap();
        assert_eq!((decoded.operations(), decoded.tag), (batch().operations(), 2));
        assert_eq!(encoded(&decoded), payload);
    }
    let page = stored("leaf page");
    let mut sectors = BTreeMap::new();
    for (kind, name, lsn) in [
        (IMAGE_KIND, "log record of kind 3", meta().images_end),
        (BATCH_IMAGE_KIND, "log record of kind 4", meta().lsn),
    ] {
        let payload = Bytes::from(stored(name));
        let image = PageImage::of_state(&meta(), kind, lsn, &payload).unwrap().unwrap();
        assert_eq!((image.kind, image.sectors.len()), (PageKind::Leaf, 8));
        sectors.extend(image.sectors);
        let at_its_place: Vec<u8> = sectors.values().flat_map(|sector| sector.iter().copied()).collect();
        assert_eq!((at_its_place, sectors.first_key_value().unwrap().0), (page.clone(), &(9 * 8)));
        let of_another = PageImage::of_state(&meta(), kind, meta().images_end + 1, &payload).unwrap();
        assert!(of_another.is_none(), "behind the state");
    }

    let (sim, _) = area();
    let file = sim.open(crate::engine::btree::doublewrite::FILE).unwrap();
    file.write_at(Purpose::DoubleWrite, 0, &stored("btree.double")).unwrap();
    let mut copies = Vec::new();
    DoublewriteArea::open(sim)
        .unwrap()
        .each(&meta(), &mut |number, page| {
            copies.push((number, page.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(copies, [(page_number(9), page), (page_number(5), stored("inner page"))]);
}
