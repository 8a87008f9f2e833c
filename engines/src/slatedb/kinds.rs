//! A tree of its own for each kind of key, within one database: what merges file blocks never reads an inode, and what merges names never reads a block.

use slatedb::{PrefixExtractor, PrefixTarget};

/// Says that the first byte of a key, which is its kind, is the tree that it belongs to.
///
/// Blocks of a file that is written from its beginning to its end then come in order, with nothing between them, and tables that do not overlap are
/// moved and not merged: 1 GiB of such blocks was sent twice (log and table) and read never, with one tree for everything it was sent three times
/// and read once.
#[derive(Debug)]
pub struct Kinds;

impl PrefixExtractor for Kinds {
    /// Part of the format: it is in every manifest, and a database of another one does not open.
    fn name(&self) -> &str {
        "kvfs-kind"
    }

    fn prefix_len(&self, target: &PrefixTarget) -> Option<usize> {
        let (PrefixTarget::Point(key) | PrefixTarget::Prefix(key)) = target;
        (!key.is_empty()).then_some(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use slatedb::config::{FlushOptions, FlushType};
    use slatedb::{Db, WriteBatch};

    use super::*;
    use crate::slatedb::options::SlateOptions;

    fn block(number: u64) -> Vec<u8> {
        [&[0x40][..], &7u64.to_be_bytes(), &number.to_be_bytes()].concat()
    }

    /// Each batch has blocks and the inode beside them, as a write has.
    async fn written_in_order(options: &SlateOptions) -> Db {
        let db = Db::builder("db", Arc::new(InMemory::new()))
            .with_settings(options.settings())
            .with_segment_extractor(Arc::new(Kinds))
            .build()
            .await
            .unwrap();
        for part in 0..4 {
            let mut batch = WriteBatch::new();
            (0..8).for_each(|number| batch.put(block(part * 8 + number), [1; 4096]));
            batch.put([0x10, 7], [part as u8; 100]);
            db.write(batch).await.unwrap();
            db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.unwrap();
        }
        db
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_kind_is_a_tree_and_blocks_in_order_do_not_overlap() {
        let db = written_in_order(&SlateOptions::default()).await;
        let manifest = db.status().current_manifest;
        assert_eq!(manifest.segment_extractor_name(), Some("kvfs-kind"));
        let prefixes: Vec<&[u8]> = manifest.segments().iter().map(|segment| &segment.prefix()[..]).collect();
        assert_eq!(prefixes, [&[0x10][..], &[0x40]]);
        let blocks = manifest.segment(&[0x40]).unwrap();
        assert!(manifest.l0().is_empty() && blocks.l0().len() + blocks.compacted().len() > 0);
        for number in 0..32 {
            assert_eq!(db.get(block(number)).await.unwrap().unwrap(), [1; 4096][..]);
        }
        db.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_database_without_them_is_refused() {
        let objects = Arc::new(InMemory::new());
        let settings = SlateOptions::default().settings();
        let other = Db::builder("db", objects.clone()).with_settings(settings.clone()).build().await.unwrap();
        other.close().await.unwrap();
        let opened = Db::builder("db", objects)
            .with_settings(settings)
            .with_segment_extractor(Arc::new(Kinds))
            .build()
            .await;
        assert!(opened.err().unwrap().to_string().contains("kvfs-kind"));
    }
}
