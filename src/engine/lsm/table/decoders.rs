//! The decoders of what a table is made of.

use bytes::Bytes;

use super::block::{Block, BlockBuilder, BlockCursor, Damaged, Raw};
use super::filter::{self, Filter};
use super::index::Index;
use super::partitions::TopIndex;
use super::{TableMeta, TableNumber, TableSizes};
use crate::base::decoder::Decoder;
use crate::engine::Lsn;

/// The decoders of what a table is made of.
pub const ALL: &[Decoder] = &[
    Decoder { name: "lsm_block", decode: block, valid: blocks },
    Decoder { name: "lsm_index", decode: index, valid: indexes },
    Decoder { name: "lsm_top_index", decode: top, valid: tops },
    Decoder { name: "lsm_filter", decode: filter, valid: filters },
    Decoder { name: "lsm_table_meta", decode: meta, valid: metas },
];

fn key(number: u64) -> Vec<u8> {
    format!("key{number:03}").into_bytes()
}

/// Looks for keys in a block and walks through it.
fn block(bytes: &[u8]) -> bool {
    let Ok(block) = Block::parse(Bytes::copy_from_slice(bytes)) else { return false };
    for wanted in [b"".to_vec(), key(7), key(31), vec![0xff; 9]] {
        let _ = block.get(&wanted);
        let mut cursor = BlockCursor::default();
        let walk = || -> Result<(), Damaged> {
            let mut entries = 0;
            let mut more = cursor.enter(block.clone(), &wanted)?;
            while more {
                assert!(
                    cursor.value().is_some_and(|value| value.len() <= bytes.len())
                        || cursor.value().is_none()
                );
                entries += 1;
                assert!(entries <= bytes.len(), "more entries than bytes");
                more = cursor.advance()?;
            }
            Ok(())
        };
        let _ = { walk }();
    }
    true
}

fn blocks() -> Vec<Vec<u8>> {
    let make = |interval, count| {
        let (mut builder, mut target) = (BlockBuilder::default(), Vec::new());
        builder.start(&target);
        for number in 0..count {
            let value = vec![number as u8; number as usize * 3];
            let raw = Raw { bytes: &value, is_pointer: number % 9 == 1 };
            builder.add(&mut target, interval, &key(number), (number % 5 > 0).then_some(raw));
        }
        builder.finish(&mut target);
        target
    };
    vec![make(16, 40), make(1, 3), make(4, 0)]
}

/// Uses an index as a reader does, at each of its fences.
fn index(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let Some(index) = Index::decode(&mut rest, 0) else { return false };
    for wanted in [b"".to_vec(), key(20), vec![0xff; 9]] {
        assert!(index.len() == 0 || index.find(&wanted) < index.len());
    }
    let mut again = Vec::new();
    index.encode(&mut again);
    let read = Index::decode(&mut &again[..], 0).expect("an index that was read can be written");
    assert_eq!(read.len(), index.len());
    for block in 0..index.len() {
        assert_eq!((read.start(block), read.fence(block)), (index.start(block), index.fence(block)));
    }
    true
}

fn index_of(blocks: u64) -> Index {
    let mut index = Index::new(0);
    for number in 0..blocks {
        index.push(&key(number * 10), &key(number * 10 + 5), (number + 1) * 4096);
    }
    index.complete();
    index
}

fn indexes() -> Vec<Vec<u8>> {
    let bytes = |blocks| {
        let mut target = Vec::new();
        index_of(blocks).encode(&mut target);
        target
    };
    vec![bytes(30), bytes(1)]
}

const TOP_INDEX_START: u64 = 4 * 4096 + 4 * 300;

fn top(bytes: &[u8]) -> bool {
    let Some(top) = TopIndex::decode(bytes, TOP_INDEX_START) else { return false };
    for wanted in [b"".to_vec(), key(20), vec![0xff; 9]] {
        let partition = top.find(&wanted);
        assert!(partition < top.partitions());
        let (filter, index) = (top.filter(partition), top.index(partition));
        assert!(filter.start <= filter.end && index.start <= index.end && index.end <= TOP_INDEX_START);
        let _ = (top.fence(partition), top.blocks_start(partition));
    }
    true
}

fn tops() -> Vec<Vec<u8>> {
    let places =
        (0..4).map(|partition| (4 * 4096 + partition * 300, 4 * 4096 + partition * 300 + 100)).collect();
    let mut target = Vec::new();
    TopIndex::new(index_of(4), places, TOP_INDEX_START).encode(&mut target);
    vec![target]
}

fn filter(bytes: &[u8]) -> bool {
    let Some(filter) = Filter::decode(bytes) else { return false };
    for number in 0..50 {
        let _ = filter.may_contain(filter::hash(&key(number)));
    }
    true
}

fn filters() -> Vec<Vec<u8>> {
    let hashes: Vec<u64> = (0..100).map(|number| filter::hash(&key(number))).collect();
    let mut target = Vec::new();
    Filter::build(&hashes, 10).encode(&mut target);
    vec![target]
}

fn meta(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let Some(meta) = TableMeta::decode(&mut rest, 4096) else { return false };
    let mut again = Vec::new();
    meta.encode(&mut again);
    assert_eq!(TableMeta::decode(&mut &again[..], 4096), Some(meta));
    true
}

/// A table's description as a manifest holds it.
pub fn table_meta(number: u64) -> TableMeta {
    TableMeta {
        number: TableNumber::new(number),
        bytes: 4096,
        entries: 100,
        tombstones: 3,
        logical_bytes: 9000,
        first_lsn: Lsn::new(7),
        last_lsn: Lsn::new(900),
        newest_seconds: 60,
        tombstone_seconds: 30,
        smallest: key(number * 10).into(),
        largest: key(number * 10 + 9).into(),
        values: vec![(Lsn::new(3), 400), (Lsn::new(9), 1)].into(),
        sizes: TableSizes { raw_bytes: 5000, data_bytes: 3000, filter_bytes: 200, index_bytes: 300 },
    }
}

fn metas() -> Vec<Vec<u8>> {
    let mut target = Vec::new();
    table_meta(1).encode(&mut target);
    vec![target]
}
