//! Objects of the log in memory: each state of a reader reads the log anew, and of what it reads nearly all is as it was.
//!
//! An object of the log never changes, so what was read once is the object. It is read whole, since a log is read to its end.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// Folder of the log.
const FOLDER: &str = "wal";

/// An object store whose log is kept in memory.
pub struct LogCache {
    objects: Arc<dyn ObjectStore>,
    bytes_max: u64,
    kept: Mutex<Kept>,
}

/// Objects by name, which is by age.
#[derive(Default)]
struct Kept {
    objects: BTreeMap<Path, (ObjectMeta, Bytes)>,
    bytes: u64,
}

impl Kept {
    /// Keeps one, in the place of the oldest ones where there is no room.
    fn keep(&mut self, path: Path, meta: ObjectMeta, bytes: Bytes, bytes_max: u64) {
        self.bytes += bytes.len() as u64;
        if let Some((_, former)) = self.objects.insert(path, (meta, bytes)) {
            self.bytes -= former.len() as u64;
        }
        while self.bytes > bytes_max
            && let Some((_, (_, oldest))) = self.objects.pop_first()
        {
            self.bytes -= oldest.len() as u64;
        }
    }
}

impl LogCache {
    /// Keeps up to `bytes_max` of what it reads from `objects`.
    pub fn new(objects: Arc<dyn ObjectStore>, bytes_max: u64) -> LogCache {
        LogCache { objects, bytes_max, kept: Mutex::default() }
    }

    /// The whole object `path`.
    async fn whole(&self, path: &Path, options: &GetOptions) -> Result<(ObjectMeta, Bytes)> {
        if let Some(found) = self.kept.lock().objects.get(path) {
            return Ok(found.clone());
        }
        let options = GetOptions { range: None, head: false, ..options.clone() };
        let got = self.objects.get_opts(path, options).await?;
        let meta = got.meta.clone();
        let bytes = got.bytes().await?;
        self.kept.lock().keep(path.clone(), meta.clone(), bytes.clone(), self.bytes_max);
        Ok((meta, bytes))
    }
}

/// Whether `path` is an object of the log.
fn is_log(path: &Path) -> bool {
    let mut parts = path.as_ref().rsplit('/');
    parts.next().is_some_and(|name| name.ends_with(".sst")) && parts.next() == Some(FOLDER)
}

#[async_trait]
impl ObjectStore for LogCache {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if !is_log(path) {
            return self.objects.get_opts(path, options).await;
        }
        let (meta, bytes) = self.whole(path, &options).await?;
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range.as_range(meta.size).map_err(|error| object_store::Error::Generic {
                store: "the log in memory",
                source: Box::new(error),
            })?,
        };
        let part =
            if options.head { Bytes::new() } else { bytes.slice(range.start as usize..range.end as usize) };
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(part) }).boxed());
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Attributes::default(),
            extensions: Default::default(),
        })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if !is_log(path) {
            return self.objects.get_ranges(path, ranges).await;
        }
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            parts.push(self.get_opts(path, options).await?.bytes().await?);
        }
        Ok(parts)
    }

    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.objects.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

impl fmt::Debug for LogCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for LogCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with its log in memory", self.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn the_log_is_read_once_and_the_rest_each_time() {
        let below = Arc::new(InMemory::new());
        let (log, table) = (Path::from("a/db/wal/1.sst"), Path::from("a/db/compacted/1.sst"));
        for path in [&log, &table] {
            below.put(path, "0123456789".into()).await.unwrap();
        }
        let cache = LogCache::new(below.clone(), 15);
        for path in [&log, &table] {
            assert_eq!(cache.head(path).await.unwrap().size, 10);
            assert_eq!(cache.get_range(path, 2..5).await.unwrap(), "234");
            assert_eq!(cache.get_ranges(path, &[0..1, 9..10]).await.unwrap(), ["0", "9"]);
            below.delete(path).await.unwrap();
        }
        assert_eq!(cache.get(&log).await.unwrap().bytes().await.unwrap(), "0123456789");
        assert!(matches!(cache.get(&table).await, Err(object_store::Error::NotFound { .. })));
        assert!(cache.get_range(&log, 10..11).await.is_err());
        // Where there is no room for both, the oldest goes.
        let newer = Path::from("a/db/wal/2.sst");
        below.put(&newer, "abcdefghij".into()).await.unwrap();
        cache.get(&newer).await.unwrap();
        assert!(matches!(cache.get(&log).await, Err(object_store::Error::NotFound { .. })));
        assert_eq!(cache.kept.lock().bytes, 10);
    }
}
