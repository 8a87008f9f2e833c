//! The door to the object store: every request passes here and is counted, with what it carries, what became of it, and who pays for it.
//!
//! Counted are requests as the store is asked them: a listing is one for each thousand names, a large object one for each of its parts and one for
//! putting them together. What the HTTP client below tries again after an error of the connection is one request here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use kvfs::disk::Purpose;
use kvfs::engine::charges::{Payer, Share};
use kvfs::engine::requests::{ObjectMeter, Outcome, Passed, RequestKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use slatedb::object_store_tag::{ObjectStoreCallTag, SstType, TableStoreKind};
use slatedb_common::retry::NonRetryable;

use super::asking::operation;
use super::failure::is_final;

/// Names that one answer of a listing holds.
const NAMES_A_LISTING: u64 = 1000;
/// Listings look for what is new, what is obsolete, and what is there when a store is opened.
const LISTING: (Purpose, Payer) = (Purpose::Manifest, Payer::Nobody);

/// A request that is under way.
struct Asked {
    kind: RequestKind,
    purpose: Purpose,
    /// Who pays for it.
    share: Share,
    /// Bytes that are sent with it.
    bytes: u64,
}

/// Counts a request, and hands its result on; `carried` says how many bytes came with it.
fn count<T>(
    meter: &ObjectMeter,
    asked: &Asked,
    result: Result<T>,
    carried: impl FnOnce(&T) -> u64,
) -> Result<T> {
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
    let Asked { kind, purpose, ref share, bytes } = *asked;
    let read_bytes = result.as_ref().map_or(0, carried);
    meter.count(Passed { kind, purpose, outcome, write_bytes: bytes, read_bytes }, share);
    // SlateDB tries for ever what it takes for an accident.
    result.map_err(|error| match is_final(&error) {
        true => Error::Generic { store: "kvfs", source: Box::new(NonRetryable(Box::new(error))) },
        false => error,
    })
}

/// Of what brings no content.
fn nothing<T>(_: &T) -> u64 {
    0
}

/// An object store that counts what passes to `objects`.
pub struct Door {
    objects: Arc<dyn ObjectStore>,
    meter: Arc<ObjectMeter>,
}

impl Door {
    /// Counts from zero what passes to `objects` from now on.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Door {
        Door { objects, meter: Arc::default() }
    }

    /// What has passed.
    pub fn meter(&self) -> Arc<ObjectMeter> {
        self.meter.clone()
    }
}

/// What a request is for, and who pays for it. SlateDB says it of its tables and its log; the rest is told by names.
fn reason_of(extensions: &Extensions, path: &Path, is_write: bool) -> (Purpose, Payer) {
    let whoever_waits = operation().map_or(Payer::Nobody, Payer::Operation);
    let Some(tag) = ObjectStoreCallTag::from_extensions(extensions) else {
        return match (folder(path), is_write) {
            ("wal", _) => (Purpose::Recovery, whoever_waits),
            ("compacted", _) => (Purpose::Get, whoever_waits),
            ("manifest", true) => (Purpose::Manifest, Payer::Manifest),
            ("compactions", true) => (Purpose::Manifest, Payer::Merge(None)),
            _ => (Purpose::Manifest, whoever_waits),
        };
    };
    // The first byte of a key is its class, and the tree that it belongs to ([`super::kinds`]).
    let class = tag.segment.as_ref().and_then(|prefix| prefix.first().copied());
    match (tag.kind, tag.sst_type) {
        (TableStoreKind::Compactor, _) => (Purpose::Compact { into: 0 }, Payer::Merge(class)),
        (_, SstType::Wal) if is_write => (Purpose::Wal, Payer::Log),
        // The log is only read to begin with.
        (_, SstType::Wal) => (Purpose::Recovery, whoever_waits),
        (_, SstType::Compacted) if is_write => (Purpose::Flush, Payer::Table(class)),
        (_, SstType::Compacted) => (Purpose::Get, whoever_waits),
    }
}

/// The same of an object that is removed.
fn reason_of_removal(path: Option<&Path>) -> (Purpose, Payer) {
    match path.map_or("", folder) {
        "wal" => (Purpose::Wal, Payer::Merge(None)),
        "compacted" => (Purpose::Compact { into: 0 }, Payer::Merge(None)),
        "manifest" | "compactions" => (Purpose::Manifest, Payer::Merge(None)),
        _ => (Purpose::Manifest, Payer::Nobody),
    }
}

/// The folder that `path` is in.
fn folder(path: &Path) -> &str {
    path.as_ref().rsplit('/').nth(1).unwrap_or_default()
}

impl Door {
    /// A request that is sent now.
    fn ask(&self, kind: RequestKind, (purpose, payer): (Purpose, Payer), bytes: u64) -> Asked {
        Asked { kind, purpose, share: self.meter.share(payer), bytes }
    }
}

#[async_trait]
impl ObjectStore for Door {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let reason = reason_of(&options.extensions, path, true);
        let asked = self.ask(RequestKind::Put, reason, payload.content_length() as u64);
        let put = self.objects.put_opts(path, payload, options).await;
        count(&self.meter, &asked, put, nothing)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let asked = self.ask(RequestKind::Put, reason_of(&options.extensions, path, true), 0);
        let begun = self.objects.put_multipart_opts(path, options).await;
        let upload = count(&self.meter, &asked, begun, nothing)?;
        Ok(Box::new(Upload { upload, meter: self.meter.clone(), asked }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let kind = if is_head { RequestKind::Head } else { RequestKind::Get };
        let asked = self.ask(kind, reason_of(&options.extensions, path, false), 0);
        let got = self.objects.get_opts(path, options).await;
        count(&self.meter, &asked, got, |got| if is_head { 0 } else { got.range.end - got.range.start })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let meter = self.meter.clone();
        let deleted = self.objects.delete_stream(paths);
        let note = move |result: Result<Path>| {
            let (purpose, payer) = reason_of_removal(result.as_ref().ok());
            let asked = Asked { kind: RequestKind::Delete, purpose, share: meter.share(payer), bytes: 0 };
            count(&meter, &asked, result, nothing)
        };
        deleted.map(note).boxed()
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
        let asked = self.ask(RequestKind::List, LISTING, 0);
        let listed = self.objects.list_with_delimiter(prefix).await;
        count(&self.meter, &asked, listed, nothing)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let asked = self.ask(RequestKind::Put, reason_of(&options.extensions, to, true), 0);
        let copied = self.objects.copy_opts(from, to, options).await;
        count(&self.meter, &asked, copied, nothing)
    }
}

impl Door {
    /// Counts the requests of a listing as its names come.
    fn listing(
        &self,
        names: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let meter = self.meter.clone();
        let asked = self.ask(RequestKind::List, LISTING, 0);
        let _ = count(&meter, &asked, Ok(()), nothing);
        let seen = AtomicU64::new(0);
        let note = move |result: Result<ObjectMeta>| match result {
            Ok(object) => {
                let before = seen.fetch_add(1, Relaxed);
                match before > 0 && before.is_multiple_of(NAMES_A_LISTING) {
                    true => count(&meter, &asked, Ok(object), nothing),
                    false => Ok(object),
                }
            }
            Err(error) => count(&meter, &asked, Err(error), nothing),
        };
        names.map(note).boxed()
    }
}

/// A large object that is sent in parts.
struct Upload {
    upload: Box<dyn MultipartUpload>,
    meter: Arc<ObjectMeter>,
    /// How it was begun.
    asked: Asked,
}

impl Upload {
    /// A request for a part of it, or for its end.
    fn ask(&self, kind: RequestKind, bytes: u64) -> Asked {
        Asked { kind, bytes, share: self.asked.share.clone(), purpose: self.asked.purpose }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (meter, asked) =
            (self.meter.clone(), self.ask(RequestKind::Put, payload.content_length() as u64));
        let put = self.upload.put_part(payload);
        Box::pin(async move { count(&meter, &asked, put.await, nothing) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let asked = self.ask(RequestKind::Put, 0);
        let completed = self.upload.complete().await;
        count(&self.meter, &asked, completed, nothing)
    }

    async fn abort(&mut self) -> Result<()> {
        let asked = self.ask(RequestKind::Delete, 0);
        let aborted = self.upload.abort().await;
        count(&self.meter, &asked, aborted, nothing)
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
    use kvfs::engine::requests::Requests;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};
    use slatedb::{Db, WriteBatch};

    #[tokio::test]
    async fn each_request_is_counted_once_with_what_it_carries() {
        let door = Door::new(Arc::new(InMemory::new()));
        let meter = door.meter();
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
        let shape = meter.shape(None, None);
        let counted = shape.requests.total();
        let expected =
            Requests { puts: 7, gets: 2, heads: 1, lists: 1, deletes: 1, missing: 1, refused: 1, failed: 0 };
        assert_eq!(counted, expected);
        let of_log = Requests { puts: 1, deletes: 1, ..Requests::default() };
        assert_eq!(shape.requests.of(Purpose::Wal), of_log);
        let traffic = meter.traffic();
        for purpose in Purpose::all() {
            assert_eq!(traffic.of(purpose).writes, shape.requests.of(purpose).puts, "{}", purpose.name());
        }
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
        assert_eq!(door.meter().shape(None, None).requests.total().lists, 3);
    }

    /// A directory keeps no attributes, by which SlateDB knows its own objects again: it is asked a second time without.
    #[tokio::test(flavor = "multi_thread")]
    async fn in_a_directory_each_object_is_one_request() {
        let home = tempfile::tempdir().unwrap();
        let below = Arc::new(LocalFileSystem::new_with_prefix(home.path()).unwrap());
        let door = Arc::new(Door::new(below.clone()));
        let meter = door.meter();
        let db = Db::open("db", door).await.unwrap();
        for round in 0..20u8 {
            db.put([round], [round; 1000]).await.unwrap();
            db.flush().await.unwrap();
        }
        db.close().await.unwrap();
        let (requests, traffic) = (meter.shape(None, None).requests.total(), meter.traffic());
        assert_eq!((requests.deletes, requests.refused), (0, 0), "each object was made once, and is there");
        let files = below.list(None).count().await as u64;
        assert_eq!((requests.puts, requests.failed, traffic.total().errors), (files, 0, 0));
    }

    /// What SlateDB sends is what lies there afterwards, as long as nothing was removed.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_database_sends_is_counted_by_its_purpose() {
        let below = Arc::new(InMemory::new());
        let door = Arc::new(Door::new(below.clone()));
        let meter = door.meter();
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
        let traffic = meter.traffic();
        let written = |purpose| traffic.of(purpose).write_bytes;
        assert_eq!(written(Purpose::Wal), stored("/wal/"));
        assert!(written(Purpose::Wal) > 20_000);
        assert_eq!(written(Purpose::Flush) + written(Purpose::Compact { into: 0 }), stored("/compacted/"));
        assert!(written(Purpose::Manifest) >= stored("/manifest/"));
        assert_eq!(traffic.total().writes, meter.shape(None, None).requests.total().puts);
    }
}
