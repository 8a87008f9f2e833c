//! Ranges of keys whose blocks are fetched before anybody asks for them.
//!
//! A scan asks for what it needs and waits, and the next one begins after it, so requests of whoever reads on and on come one after another. What is
//! fetched ahead comes in requests of its own, as many at once as there are pieces, into the cache of blocks; a scan of what is under way waits for it
//! and does not ask again.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use kvfs::engine::{KeyRange, ReadAhead};
use parking_lot::Mutex;
use slatedb::manifest::SsTableId;
use slatedb::{CacheTarget, DbCacheManagerOps, DbMetadataOps};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::asking::carried;
use super::writer::bounds;

/// Bytes that one request brings: at some tens of megabytes a second and request, its way there and back is a small part of it.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces that are under way at most; a file is read with some of them, and several may be.
const PIECES_MAX: usize = 64;
/// Bytes ahead of one reader at most.
const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// What can be fetched from: a database that is open to write or to read.
pub trait Tables: DbCacheManagerOps + DbMetadataOps + Send + Sync + 'static {}
impl<T: DbCacheManagerOps + DbMetadataOps + Send + Sync + 'static> Tables for T {}

/// A range that is being fetched.
struct Piece {
    start: Bytes,
    end: Option<Bytes>,
    /// Closed when it is there, or could not be had.
    done: watch::Receiver<()>,
}

impl Piece {
    fn meets(&self, range: KeyRange<'_>) -> bool {
        range.is_before_end(&self.start) && self.end.as_ref().is_none_or(|end| range.start < &end[..])
    }
}

/// Fetches of one database.
pub struct Ahead {
    tables: Arc<dyn Tables>,
    runtime: Handle,
    window_bytes: u64,
    pieces: Arc<Mutex<Vec<Piece>>>,
}

impl Ahead {
    /// Fetches from `tables` into their cache, which holds up to `cache_bytes`.
    pub fn new(tables: Arc<dyn Tables>, runtime: Handle, cache_bytes: u64) -> Ahead {
        let window_bytes = (cache_bytes / 8).min(WINDOW_BYTES_MAX);
        Ahead { tables, runtime, window_bytes, pieces: Arc::default() }
    }

    /// Returns once nothing in `range` is being fetched.
    pub async fn arrived(&self, range: KeyRange<'_>) {
        let under_way: Vec<_> = {
            let pieces = self.pieces.lock();
            pieces.iter().filter(|piece| piece.meets(range)).map(|piece| piece.done.clone()).collect()
        };
        for mut done in under_way {
            // It is closed, and nothing is ever sent.
            let _ = done.changed().await;
        }
    }

    /// The same of one key.
    pub async fn arrived_at(&self, key: &[u8]) {
        if !self.pieces.lock().is_empty() {
            self.arrived(KeyRange { start: key, end: Some(&[key, b"\0"].concat()) }).await;
        }
    }

    /// Tables that may hold keys of `range`.
    fn tables_of(&self, range: KeyRange<'_>) -> Vec<SsTableId> {
        let Some(bounds) = bounds(range) else { return Vec::new() };
        let manifest = self.tables.status().current_manifest;
        let mut found = Vec::new();
        for segment in manifest.segments().iter().filter(|segment| range.start.starts_with(segment.prefix()))
        {
            let meets = |first: &Option<Bytes>, last: &Option<Bytes>| {
                first.as_ref().is_none_or(|first| range.is_before_end(first))
                    && last.as_ref().is_none_or(|last| range.start <= &last[..])
            };
            let unsorted = segment
                .l0()
                .iter()
                .filter(|view| meets(&view.sst.info.first_entry, &view.sst.info.last_entry));
            found.extend(unsorted.map(|view| view.sst.id));
            let sorted = segment.compacted().iter();
            found.extend(
                sorted.flat_map(|run| run.tables_covering_range(bounds.clone())).map(|view| view.sst.id),
            );
        }
        found
    }
}

impl ReadAhead for Ahead {
    fn piece_bytes(&self) -> u64 {
        PIECE_BYTES.min(self.window_bytes)
    }

    fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    fn fetch(&self, range: KeyRange<'_>) {
        let (Some(keys), tables) = (bounds(range), self.tables_of(range)) else { return };
        if tables.is_empty() {
            return;
        }
        let (arrived, done) = watch::channel(());
        let piece = Piece {
            start: Bytes::copy_from_slice(range.start),
            end: range.end.map(Bytes::copy_from_slice),
            done: done.clone(),
        };
        {
            let mut pieces = self.pieces.lock();
            if pieces.len() >= PIECES_MAX {
                return;
            }
            pieces.push(piece);
        }
        let (database, pieces) = (self.tables.clone(), self.pieces.clone());
        self.runtime.spawn(carried(async move {
            let targets = [CacheTarget::Data(keys)];
            let fetched = join_all(tables.into_iter().map(|table| database.warm_sst(table, &targets))).await;
            for error in fetched.into_iter().filter_map(Result::err) {
                log::debug!("fetching ahead: {error}");
            }
            pieces.lock().retain(|piece| !piece.done.same_channel(&done));
            drop(arrived);
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slatedb::cache::Blocks;
    use crate::slatedb::door::Door;
    use crate::slatedb::kinds::Kinds;
    use kvfs::disk::Purpose;
    use kvfs::engine::requests::Requests;
    use object_store::memory::InMemory;
    use slatedb::config::{FlushOptions, FlushType};
    use slatedb::{Db, DbReader, WriteBatch};

    const KEYS: u32 = 1024;
    const VALUE_BYTES: u64 = 4096;

    fn key(number: u32) -> Vec<u8> {
        [&[0x40], &number.to_be_bytes()[..]].concat()
    }

    /// A database with a table of [`KEYS`] in order, and its reader.
    async fn reader() -> (Arc<DbReader>, Arc<Door>) {
        let objects = Arc::new(InMemory::new());
        let db =
            Db::builder("db", objects.clone()).with_segment_extractor(Arc::new(Kinds)).build().await.unwrap();
        let mut batch = WriteBatch::new();
        (0..KEYS).for_each(|number| batch.put(key(number), [number as u8; VALUE_BYTES as usize]));
        db.write(batch).await.unwrap();
        db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.unwrap();
        db.close().await.unwrap();
        let door = Arc::new(Door::new(objects));
        let reader = DbReader::builder("db", door.clone())
            .with_segment_extractor(Arc::new(Kinds))
            .with_db_cache(Arc::new(Blocks::new(64 << 20)), 0)
            .build();
        (Arc::new(reader.await.unwrap()), door)
    }

    /// Requests for blocks; the reader itself looks for newer manifests meanwhile.
    fn sent(door: &Door) -> Requests {
        door.meter().shape(None, None).requests.of(Purpose::Get)
    }

    /// Keys that a scan finds, and the requests and bytes that it takes.
    async fn scan(ahead: &Ahead, reader: &DbReader, door: &Door, range: (u32, u32)) -> (u32, u64, u64) {
        let (start, end) = (key(range.0), key(range.1));
        let range = KeyRange { start: &start, end: Some(&end) };
        let (requests, bytes) = (sent(door), door.meter().traffic().of(Purpose::Get).read_bytes);
        ahead.arrived(range).await;
        let mut entries = reader.scan(start.clone()..end.clone()).await.unwrap();
        let mut count = 0;
        while entries.next().await.unwrap().is_some() {
            count += 1;
        }
        (count, sent(door).gets - requests.gets, door.meter().traffic().of(Purpose::Get).read_bytes - bytes)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_fetched_is_not_asked_for_again() {
        let (reader, door) = reader().await;
        let ahead = Ahead::new(reader.clone(), Handle::current(), 64 << 20);
        let (count, requests, _) = scan(&ahead, &reader, &door, (0, 32)).await;
        assert_eq!(count, 32);
        assert!(requests > 0);
        let before = sent(&door).gets;
        for piece in 1..4 {
            let (start, end) = (key(piece * 256), key((piece + 1) * 256));
            ahead.fetch(KeyRange { start: &start, end: Some(&end) });
        }
        // The first waits for what is under way, and the others find it.
        for start in (256..KEYS).step_by(32) {
            assert_eq!(scan(&ahead, &reader, &door, (start, start + 32)).await.0, 32);
        }
        assert_eq!(sent(&door).gets - before, 3, "one request for each piece");
        assert!(ahead.pieces.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_there_is_nothing_nothing_is_fetched() {
        let (reader, door) = reader().await;
        let ahead = Ahead::new(reader.clone(), Handle::current(), 64 << 20);
        let before = sent(&door);
        let (start, end) = (key(KEYS), key(2 * KEYS));
        ahead.fetch(KeyRange { start: &start, end: Some(&end) });
        ahead.fetch(KeyRange { start: &[0x50], end: Some(&[0x60]) });
        ahead.fetch(KeyRange { start: &end, end: Some(&start) });
        ahead.arrived(KeyRange::ALL).await;
        assert_eq!(sent(&door), before);
    }

    /// A fetch that fails is nobody's error: the scan asks itself.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_was_closed_keeps_nobody_waiting() {
        let (reader, _) = reader().await;
        let ahead = Ahead::new(reader.clone(), Handle::current(), 64 << 20);
        reader.close().await.unwrap();
        let (start, end) = (key(0), key(256));
        ahead.fetch(KeyRange { start: &start, end: Some(&end) });
        ahead.arrived(KeyRange::ALL).await;
        ahead.arrived_at(&start).await;
        assert!(ahead.pieces.lock().is_empty());
    }
}
