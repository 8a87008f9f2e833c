//! Whether a store can do what one writer at a time stands on: of several who create an object at once, one succeeds.
//!
//! A store that takes the condition for a wish has two writers at once sooner or later, each with its syncs answered. So it is asked before anything
//! is written, each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use kvfs::engine::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::creation;
use super::failure::of_store;

/// Races, and who takes part in each.
const RACES: u64 = 5;
const RACERS: u64 = 8;

/// How thoroughly a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One after the other: finds a store that ignores the condition.
    Twice,
    /// At once as well: finds one that looks first and writes then. Who loses may be kept waiting, by SeaweedFS for five seconds.
    Races,
}

/// Asks the store in `folder`, where nothing is left. [`Error::Invalid`] for one that cannot do it.
pub async fn probe(objects: &Arc<dyn ObjectStore>, folder: &Path, depth: Depth) -> Result<()> {
    // Names that no other process asks with, or has left.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let number = NUMBER.fetch_add(1, Relaxed);
    let object = |race: u64| folder.clone().join(format!("{}-{now}-{number}-{race}", std::process::id()));
    let races = if depth == Depth::Races { RACES } else { 0 };
    let paths: Vec<Path> = (0..=races).map(object).collect();
    let found = ask(objects, &paths).await;
    for path in &paths {
        // What cannot be removed is a few bytes that nobody reads.
        if let Err(error) = objects.delete(path).await {
            log::debug!("removing {path}: {error}");
        }
    }
    found
}

/// Creates the first of `paths` twice, and each other one as often as there are racers.
async fn ask(objects: &Arc<dyn ObjectStore>, paths: &[Path]) -> Result<()> {
    let Some((first, raced)) = paths.split_first() else { return Ok(()) };
    if !create(objects, first).await? {
        return Err(lacking("an object that is not there was not created"));
    }
    if create(objects, first).await? {
        return Err(lacking("an object was created a second time, over the first one"));
    }
    let races = raced.iter().map(|path| async move {
        let racers = (0..RACERS).map(|_| create(objects, path));
        let won: Result<Vec<bool>> = join_all(racers).await.into_iter().collect();
        Ok::<_, Error>(won?.into_iter().filter(|won| *won).count())
    });
    for winners in join_all(races).await {
        let winners = winners?;
        if winners != 1 {
            return Err(lacking(&format!("of {RACERS} who created one object at once {winners} succeeded")));
        }
    }
    Ok(())
}

/// Creates an object if there is none, and says whether it did.
async fn create(objects: &Arc<dyn ObjectStore>, path: &Path) -> Result<bool> {
    // The names of a probe are its own, so a number tells those apart who create one object in it.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let bytes = format!("probe {}", NUMBER.fetch_add(1, Relaxed));
    match creation::create(objects, path, bytes.into_bytes()).await {
        Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
            Err(lacking("it says so itself"))
        }
        created => created.map_err(|error| {
            of_store("asking the store whether it keeps two from creating one object", error)
        }),
    }
}

fn lacking(what: &str) -> Error {
    Error::Invalid(format!(
        "this object store does not keep two from creating one object (If-None-Match: * of S3): {what}. Two mounts would write at once and each lose what \
         the other does: use a server that honours it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use futures::stream::{BoxStream, StreamExt};
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
        PutOptions, PutPayload, PutResult,
    };

    /// What a store does with a condition.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        /// It overwrites though it was told to create.
        Always,
        /// The same of who comes while another is at it.
        AtOnce,
        /// It creates, but the answer is lost, and the next try finds the object.
        AnswersLost,
    }

    #[derive(Debug)]
    struct Careless {
        objects: InMemory,
        fault: Fault,
    }

    impl std::fmt::Display for Careless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(
            &self,
            path: &Path,
            payload: PutPayload,
            options: PutOptions,
        ) -> object_store::Result<PutResult> {
            match self.fault {
                Fault::Always => return self.objects.put(path, payload).await,
                Fault::AnswersLost => {
                    let _ = self.objects.put_opts(path, payload.clone(), options.clone()).await;
                    return self.objects.put_opts(path, payload, options).await;
                }
                Fault::AtOnce => {}
            }
            let is_there = self.objects.head(path).await.is_ok();
            tokio::task::yield_now().await;
            if is_there {
                self.objects.put_opts(path, payload, options).await
            } else {
                self.objects.put(path, payload).await
            }
        }
        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            self.objects.put_multipart_opts(path, options).await
        }
        async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
            self.objects.get_opts(path, options).await
        }
        fn delete_stream(
            &self,
            paths: BoxStream<'static, object_store::Result<Path>>,
        ) -> BoxStream<'static, object_store::Result<Path>> {
            self.objects.delete_stream(paths)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.objects.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
            self.objects.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
            self.objects.copy_opts(from, to, options).await
        }
    }

    async fn asked(objects: Arc<dyn ObjectStore>, depth: Depth) -> Result<()> {
        let found = probe(&objects, &Path::from("prefix/probe"), depth).await;
        assert_eq!(objects.list(None).count().await, 0, "nothing is left");
        found
    }

    #[tokio::test]
    async fn a_store_that_does_not_keep_two_apart_is_refused_in_words() {
        let refused = |fault, depth| async move {
            asked(Arc::new(Careless { objects: InMemory::new(), fault }), depth)
                .await
                .unwrap_err()
                .to_string()
        };
        for depth in [Depth::Twice, Depth::Races] {
            asked(Arc::new(InMemory::new()), depth).await.unwrap();
        }
        let always = refused(Fault::Always, Depth::Twice).await;
        assert!(always.contains("If-None-Match") && always.contains("a second time"), "{always}");
        let racing = refused(Fault::AtOnce, Depth::Races).await;
        assert!(racing.contains("of 8 who created one object at once 8 succeeded"), "{racing}");
    }

    #[tokio::test]
    async fn a_store_whose_answers_are_lost_is_none_that_lacks_something() {
        for depth in [Depth::Twice, Depth::Races] {
            let careless = Careless { objects: InMemory::new(), fault: Fault::AnswersLost };
            asked(Arc::new(careless), depth).await.unwrap();
        }
    }
}
