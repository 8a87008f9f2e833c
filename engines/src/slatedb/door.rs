//! The door to the object store: every request passes here and is counted, with what it carries and what became of it.
//!
//! Counted are requests as the store is asked them: a listing is one for each thousand names, a large object one for each of its parts and one for
//! putting them together. What the HTTP client below tries again after an error of the connection is one request here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use kvfs::disk::{DiskCounters, Purpose, PurposeMeter};
use kvfs::engine::requests::{Outcome, RequestKind, RequestMeter, Requests};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use slatedb::object_store_tag::{ObjectStoreCallTag, SstType, TableStoreKind};
use slatedb_common::retry::NonRetryable;

use super::failure::is_final;

/// Names that one answer of a listing holds.
const NAMES_A_LISTING: u64 = 1000;

/// What has passed a door.
#[derive(Default)]
pub struct Meters {
    traffic: PurposeMeter,
    requests: RequestMeter,
}

impl Meters {
    /// What was written and read, by purpose.
    pub fn traffic(&self) -> DiskCounters {
        self.traffic.snapshot()
    }

    /// Requests by kind.
    pub fn requests(&self) -> Requests {
        self.requests.snapshot()
    }

    /// Counts a request, and hands its result on.
    fn count<T>(&self, kind: RequestKind, purpose: Purpose, sent_bytes: u64, result: Result<T>) -> Result<T> {
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            // The client says so itself, and sends nothing: SlateDB asks a directory for every object with attributes, then without.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => return result,
            Err(Error::NotFound { .. }) => Outcome::Missing,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }) => {
                Outcome::Refused
            }
            Err(_) => Outcome::Failed,
        };
        self.requests.count(kind, outcome);
        match (outcome, kind) {
            (Outcome::Failed, _) => self.traffic.failed(purpose),
            // What was refused was sent all the same.
            (Outcome::Done | Outcome::Refused, RequestKind::Put) => self.traffic.wrote(purpose, sent_bytes),
            _ => {}
        }
        // SlateDB tries for ever what it takes for an accident.
        result.map_err(|error| match is_final(&error) {
            true => Error::Generic { store: "kvfs", source: Box::new(NonRetryable(Box::new(error))) },
            false => error,
        })
    }
}

/// An object store that counts what passes to `objects`.
pub struct Door {
    objects: Arc<dyn ObjectStore>,
    meters: Arc<Meters>,
}

impl Door {
    /// Counts from zero what passes to `objects` from now on.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Door {
        Door { objects, meters: Arc::default() }
    }

    /// What has passed.
    pub fn meters(&self) -> Arc<Meters> {
        self.meters.clone()
    }
}

/// What a request is for. SlateDB says it of its tables and its log; the rest is told by names.
fn purpose_of(extensions: &Extensions, path: &Path, is_write: bool) -> Purpose {
    let Some(tag) = ObjectStoreCallTag::from_extensions(extensions) else { return purpose_of_path(path) };
    match (tag.kind, tag.sst_type) {
        (TableStoreKind::Compactor, _) => Purpose::Compact { into: 0 },
        (_, SstType::Wal) if is_write => Purpose::Wal,
        // The log is only read to begin with.
        (_, SstType::Wal) => Purpose::Recovery,
        (_, SstType::Compacted) if is_write => Purpose::Flush,
        (_, SstType::Compacted) => Purpose::Get,
    }
}

fn purpose_of_path(path: &Path) -> Purpose {
    match path.as_ref().rsplit('/').nth(1) {
        Some("wal") => Purpose::Recovery,
        Some("compacted") => Purpose::Get,
        _ => Purpose::Manifest,
    }
}

#[async_trait]
impl ObjectStore for Door {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let purpose = purpose_of(&options.extensions, path, true);
        let bytes = payload.content_length() as u64;
        let put = self.objects.put_opts(path, payload, options).await;
        self.meters.count(RequestKind::Put, purpose, bytes, put)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let purpose = purpose_of(&options.extensions, path, true);
        let begun = self.objects.put_multipart_opts(path, options).await;
        let upload = self.meters.count(RequestKind::Put, purpose, 0, begun)?;
        Ok(Box::new(Upload { upload, meters: self.meters.clone(), purpose }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let purpose = purpose_of(&options.extensions, path, false);
        let is_head = options.head;
        let kind = if is_head { RequestKind::Head } else { RequestKind::Get };
        let got = self.objects.get_opts(path, options).await;
        let got = self.meters.count(kind, purpose, 0, got)?;
        if !is_head {
            self.meters.traffic.read(purpose, got.range.end - got.range.start);
        }
        Ok(got)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let meters = self.meters.clone();
        let deleted = self.objects.delete_stream(paths);
        deleted.map(move |result| meters.count(RequestKind::Delete, Purpose::Manifest, 0, result)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.objects.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.objects.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.objects.list_with_delimiter(prefix).await;
        self.meters.count(RequestKind::List, Purpose::Manifest, 0, listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.objects.copy_opts(from, to, options).await;
        self.meters.count(RequestKind::Put, purpose_of_path(to), 0, copied)
    }
}

impl Door {
    /// Counts the requests of a listing as its names come.
    fn listing(
        &self,
        names: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let meters = self.meters.clone();
        meters.requests.count(RequestKind::List, Outcome::Done);
        let seen = AtomicU64::new(0);
        let count = move |result: Result<ObjectMeta>| match result {
            Ok(object) => {
                let before = seen.fetch_add(1, Relaxed);
                if before > 0 && before.is_multiple_of(NAMES_A_LISTING) {
                    meters.requests.count(RequestKind::List, Outcome::Done);
                }
                Ok(object)
            }
            Err(error) => meters.count(RequestKind::List, Purpose::Manifest, 0, Err(error)),
        };
        names.map(count).boxed()
    }
}

/// A large object that is sent in parts.
struct Upload {
    upload: Box<dyn MultipartUpload>,
    meters: Arc<Meters>,
    purpose: Purpose,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (meters, purpose, bytes) = (self.meters.clone(), self.purpose, payload.content_length() as u64);
        let put = self.upload.put_part(payload);
        Box::pin(async move { meters.count(RequestKind::Put, purpose, bytes, put.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.upload.complete().await;
        self.meters.count(RequestKind::Put, self.purpose, 0, completed)
    }

    async fn abort(&mut self) -> Result<()> {
        let aborted = self.upload.abort().await;
        self.meters.count(RequestKind::Delete, self.purpose, 0, aborted)
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, counted", self.upload)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, counted", self.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};
    use slatedb::{Db, WriteBatch};

    #[tokio::test]
    async fn each_request_is_counted_once_with_what_it_carries() {
        let door = Door::new(Arc::new(InMemory::new()));
        let meters = door.meters();
        let (log, table, other) =
            (Path::from("db/wal/1.sst"), Path::from("db/compacted/1.sst"), Path::from("STORE"));
        let tagged = |kind, sst| Extensions::from(ObjectStoreCallTag::new(kind, sst));
        let options =
            PutOptions { extensions: tagged(TableStoreKind::Main, SstType::Wal), ..PutOptions::default() };
        door.put_opts(&log, vec![1; 100].into(), options).await.unwrap();
        let options = PutMultipartOptions {
            extensions: tagged(TableStoreKind::Compactor, SstType::Compacted),
            ..PutMultipartOptions::default()
        };
        let mut upload = door.put_multipart_opts(&table, options).await.unwrap();
        for bytes in [5000, 3000] {
            upload.put_part(vec![2; bytes].into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        door.put_opts(&other, "one".into(), create()).await.unwrap();
        door.put_opts(&other, "two".into(), create()).await.unwrap_err();
        assert_eq!(door.get_range(&table, 10..50).await.unwrap().len(), 40);
        door.head(&table).await.unwrap();
        door.get(&Path::from("db/wal/2.sst")).await.unwrap_err();
        assert_eq!(door.list(None).collect::<Vec<_>>().await.len(), 3);
        door.delete(&log).await.unwrap();
        let counted = meters.requests();
        let expected =
            Requests { puts: 7, gets: 2, heads: 1, lists: 1, deletes: 1, missing: 1, refused: 1, failed: 0 };
        assert_eq!(counted, expected);
        let traffic = meters.traffic();
        let written = |purpose| (traffic.of(purpose).writes, traffic.of(purpose).write_bytes);
        assert_eq!(written(Purpose::Wal), (1, 100));
        assert_eq!(written(Purpose::Compact { into: 0 }), (4, 8000));
        assert_eq!(written(Purpose::Manifest), (2, 6));
        assert_eq!((traffic.of(Purpose::Get).reads, traffic.of(Purpose::Get).read_bytes), (1, 40));
        assert_eq!(
            (traffic.total().writes, traffic.total().reads),
            (counted.puts, counted.gets - counted.missing)
        );
    }

    #[tokio::test]
    async fn a_listing_is_a_request_for_each_thousand_names() {
        let door = Door::new(Arc::new(InMemory::new()));
        for name in 0..2500 {
            door.put(&Path::from(format!("{name}")), "".into()).await.unwrap();
        }
        assert_eq!(door.list(None).collect::<Vec<_>>().await.len(), 2500);
        assert_eq!(door.meters().requests().lists, 3);
    }

    /// A directory keeps no attributes, by which SlateDB knows its own objects again: it is asked a second time without.
    #[tokio::test(flavor = "multi_thread")]
    async fn in_a_directory_each_object_is_one_request() {
        let home = tempfile::tempdir().unwrap();
        let below = Arc::new(LocalFileSystem::new_with_prefix(home.path()).unwrap());
        let door = Arc::new(Door::new(below.clone()));
        let meters = door.meters();
        let db = Db::open("db", door).await.unwrap();
        for round in 0..20u8 {
            db.put([round], [round; 1000]).await.unwrap();
            db.flush().await.unwrap();
        }
        db.close().await.unwrap();
        let (requests, traffic) = (meters.requests(), meters.traffic());
        assert_eq!((requests.deletes, requests.refused), (0, 0), "each object was made once, and is there");
        let files = below.list(None).count().await as u64;
        assert_eq!((requests.puts, requests.failed, traffic.total().errors), (files, 0, 0));
    }

    /// What SlateDB sends is what lies there afterwards, as long as nothing was removed.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_database_sends_is_counted_by_its_purpose() {
        let below = Arc::new(InMemory::new());
        let door = Arc::new(Door::new(below.clone()));
        let meters = door.meters();
        let db = Db::open("db", door).await.unwrap();
        for round in 0..20u8 {
            let mut batch = WriteBatch::new();
            batch.put([round], vec![round; 1000]);
            db.write(batch).await.unwrap();
            db.flush().await.unwrap();
        }
        db.close().await.unwrap();
        let objects: Vec<_> = below.list(None).collect().await;
        let stored = |folder: &str| {
            let in_folder =
                objects.iter().flatten().filter(|object| object.location.as_ref().contains(folder));
            in_folder.map(|object| object.size).sum::<u64>()
        };
        let traffic = meters.traffic();
        let written = |purpose| traffic.of(purpose).write_bytes;
        assert_eq!(written(Purpose::Wal), stored("/wal/"));
        assert!(written(Purpose::Wal) > 20_000);
        assert_eq!(written(Purpose::Flush) + written(Purpose::Compact { into: 0 }), stored("/compacted/"));
        assert!(written(Purpose::Manifest) >= stored("/manifest/"));
        assert_eq!(traffic.total().writes, meters.requests().puts);
    }
}
