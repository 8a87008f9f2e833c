//! The place of a store: an object store, and a prefix there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kvfs::base::clock::Clock;
use kvfs::disk::Space;
use kvfs::engine::remote::{Access, Site};
use kvfs::engine::requests::ObjectMeter;
use kvfs::engine::{Engine, Error, Options, Price, Result};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::asking;
use super::creation::create;
use super::door::Door;
use super::failure::of_store;
use super::holder::Holder;
use super::options::SlateOptions;
use super::probe::{Depth, probe};
use super::reader::{self, Reading};
use super::{profile, staged, writer};

/// Object that describes the store.
const DESCRIPTION: &str = "STORE";
/// Object that says who writes.
const WRITER: &str = "WRITER";
/// Folder in which a store is asked what it can do.
const PROBE: &str = "probe";
/// What lies below is SlateDB's.
const DATABASE: &str = "db";
/// Threads of the runtime: most of what they do is to wait for the network.
const THREADS: usize = 2;
/// Time in which an attempt at a connection has succeeded or never will.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time in which a request has been answered or never will. That a condition is not met may take a server several seconds to find out.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Room that an object store says to have: a pebibyte.
const ROOM_BYTES: u64 = 1 << 50;

/// The place of a store.
#[derive(Clone)]
pub struct Place {
    url: String,
    pub runtime: Arc<Runtime>,
    pub objects: Arc<dyn ObjectStore>,
    /// What has passed to it.
    pub meter: Arc<ObjectMeter>,
    prefix: Path,
    /// The objects are files of a directory.
    pub is_local: bool,
    /// What requests and storage cost, if somebody said so, or why that is not known.
    price: Result<Option<Price>>,
    holder: Arc<Mutex<Option<Holder>>>,
    /// Of a mount that follows another one.
    reading: Arc<Mutex<Option<Arc<Reading>>>>,
    refresh: Duration,
}

impl Place {
    /// The place that `url` names.
    pub fn connect(url: &str, options: &SlateOptions) -> Result<Place> {
        let (below, prefix) = object_store(url, options)?;
        let door = Door::new(below);
        let meter = door.meter();
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("kvfs-slatedb")
            .enable_all()
            .build()
            .map_err(|error| Error::io("starting threads for the object store", error))?;
        Ok(Place {
            url: url.to_string(),
            runtime: Arc::new(runtime),
            objects: Arc::new(door),
            meter,
            prefix,
            is_local: url.starts_with("file:"),
            price: options.prices(),
            holder: Arc::default(),
            reading: Arc::default(),
            refresh: options.refresh,
        })
    }

    /// Waits for what is done with the object store, for the operation for which this thread asks.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let _begun = asking::begin();
        self.runtime.block_on(work)
    }

    /// What requests and storage cost, if somebody said so. Whoever only looks does not need it.
    pub fn price(&self, access: Access) -> Result<Option<Price>> {
        match (&self.price, access) {
            (Err(_), Access::Look) => Ok(None),
            (price, _) => price.clone(),
        }
    }

    /// Where SlateDB's objects are.
    pub fn database(&self) -> Path {
        self.prefix.clone().join(DATABASE)
    }

    /// Who writes, as far as it has said so.
    pub fn writer(&self) -> Result<Option<Holder>> {
        let found = self.read(WRITER)?;
        // What makes no sense keeps nobody away.
        Ok(found.and_then(|bytes| Holder::decode(&bytes)))
    }

    fn object(&self, name: &'static str) -> Path {
        self.prefix.clone().join(name)
    }

    fn read(&self, name: &'static str) -> Result<Option<Vec<u8>>> {
        let path = self.object(name);
        let read = async { self.objects.get(&path).await?.bytes().await };
        match self.wait(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(of_store(&format!("reading {path}"), error)),
        }
    }

    /// Refuses a store that cannot keep two writers apart. A directory can: two names of one file are the system's to refuse.
    fn require_able(&self, depth: Depth) -> Result<()> {
        match self.is_local {
            true => Ok(()),
            false => self.wait(probe(&self.objects, &self.object(PROBE), depth)),
        }
    }

    /// Removes from a directory what a writer that died was making.
    fn sweep(&self) {
        let parsed = Url::parse(&self.url).ok().filter(|_| self.is_local);
        let Some(directory) = parsed.and_then(|url| url.to_file_path().ok()) else { return };
        match staged::sweep(&directory) {
            Ok((0, _)) => {}
            Ok((files, bytes)) => {
                log::info!("{}: removed {files} objects of {bytes} bytes that were never finished", self.url)
            }
            Err(error) => log::warn!("{}: looking for objects that were never finished: {error}", self.url),
        }
    }

    /// Refuses to write where somebody else does.
    fn require_free(&self, options: &SlateOptions) -> Result<()> {
        let Some(holder) = self.writer()?.filter(|holder| !holder.has_ended()) else { return Ok(()) };
        if holder.is_same(&Holder::this("")) {
            return Ok(());
        }
        if !options.takeover {
            return Err(Error::Invalid(format!(
                "it is written by {holder}. Unmount it there; or mount with -o ro to read beside it; or, if that mount is dead or may lose what it \
                 has not synced, with -o takeover"
            )));
        }
        log::warn!("{}: taken over from {holder}", self.url);
        Ok(())
    }
}

impl Site for Place {
    fn description(&self) -> Result<Option<Vec<u8>>> {
        self.read(DESCRIPTION)
    }

    fn foreign(&self) -> Result<Option<String>> {
        // Somebody may have made the description since it was looked for.
        let own = self.object(DESCRIPTION);
        let first = async {
            let mut objects = self.objects.list(Some(&self.prefix));
            loop {
                match objects.next().await {
                    Some(Ok(object)) if object.location == own => {}
                    other => return other,
                }
            }
        };
        match self.wait(first) {
            Some(Ok(object)) => Ok(Some(object.location.to_string())),
            Some(Err(object_store::Error::NotFound { .. })) | None => Ok(None),
            Some(Err(error)) => Err(of_store(&format!("listing {}", self.prefix), error)),
        }
    }

    fn describe(&self, text: &[u8]) -> Result<bool> {
        // Before the store remembers an option with which it does not open.
        self.price(Access::Write)?;
        self.require_able(Depth::Races)?;
        let path = self.object(DESCRIPTION);
        // Its uuid is nobody else's.
        self.wait(create(&self.objects, &path, text.to_vec()))
            .map_err(|error| of_store(&format!("making {path}"), error))
    }

    fn open(&self, access: Access, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
        let own = options.own::<SlateOptions>()?;
        match access {
            Access::Write => {
                self.require_free(own)?;
                self.require_able(Depth::Twice)?;
                self.sweep();
                let engine = writer::open(self.clone(), clock, options)?;
                self.hold("opening it")?;
                Ok(engine)
            }
            Access::Follow | Access::Look => {
                // What is followed holds the place, not itself.
                let place = Place { reading: Arc::default(), ..self.clone() };
                let (reading, state) = reader::open(place, access, clock, options)?;
                *self.reading.lock() = (access == Access::Follow).then_some(reading);
                Ok(state)
            }
        }
    }

    fn newer(&self) -> Result<Option<Arc<dyn Engine>>> {
        let reading = self.reading.lock().clone();
        reading.map_or(Ok(None), |reading| reading.newer())
    }

    fn refresh(&self) -> Duration {
        self.refresh
    }

    fn hold(&self, what: &str) -> Result<()> {
        let holder = self.holder.lock().get_or_insert_with(|| Holder::this(what)).doing(what);
        let path = self.object(WRITER);
        let put = self.wait(self.objects.put(&path, holder.encode().into()));
        put.map(drop).map_err(|error| of_store(&format!("writing {path}"), error))
    }

    fn release(&self) -> Result<()> {
        let Some(own) = self.holder.lock().take() else { return Ok(()) };
        // It may be the name of who has taken the store over.
        if self.writer()?.is_some_and(|holder| holder.is_same(&own)) {
            let path = self.object(WRITER);
            self.wait(self.objects.delete(&path))
                .map_err(|error| of_store(&format!("removing {path}"), error))?;
        }
        Ok(())
    }

    fn space(&self) -> Space {
        Space { total_bytes: ROOM_BYTES, free_bytes: ROOM_BYTES, total_files: 0, free_files: 0 }
    }
}

/// The object store that `url` names, and the prefix there.
fn object_store(url: &str, options: &SlateOptions) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let invalid = |what: &str, error: &dyn std::fmt::Display| Error::Invalid(format!("{what}: {error}"));
    let parsed = Url::parse(url).map_err(|error| invalid("it is no URL", &error))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(Error::Invalid(
            "credentials do not belong in a URL, which the mount table shows to everyone: put them into the environment (AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY) or into ~/.aws/credentials"
                .to_string(),
        ));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(Error::Invalid(
            "a URL of a store has no ? and no #: it is scheme://bucket/prefix".to_string(),
        ));
    }
    let prefix = Path::from_url_path(parsed.path()).map_err(|error| invalid("its path", &error))?;
    let client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
    let bucket = parsed.host_str().unwrap_or_default();
    if bucket.is_empty() && parsed.scheme() != "file" {
        return Err(Error::Invalid(format!("it names no bucket: {}://bucket/prefix", parsed.scheme())));
    }
    let has_endpoint = !options.endpoint.is_empty();
    let objects: Arc<dyn ObjectStore> = match parsed.scheme() {
        "s3" => {
            let mut builder = profile::s3()?.with_bucket_name(bucket).with_client_options(client);
            if has_endpoint {
                builder = builder.with_endpoint(&options.endpoint);
            }
            if !options.region.is_empty() {
                builder = builder.with_region(&options.region);
            }
            let endpoint = builder.get_config_value(&object_store::aws::AmazonS3ConfigKey::Endpoint);
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build().map_err(|error| invalid("S3", &error))?)
        }
        "gs" => {
            let mut builder =
                GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_client_options(client);
            if has_endpoint {
                builder = builder.with_base_url(&options.endpoint);
            }
            Arc::new(builder.build().map_err(|error| invalid("Google Cloud Storage", &error))?)
        }
        "az" => {
            let mut builder =
                MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_client_options(client);
            if has_endpoint {
                builder = builder
                    .with_endpoint(options.endpoint.clone())
                    .with_allow_http(options.endpoint.starts_with("http://"));
            }
            Arc::new(builder.build().map_err(|error| invalid("Azure", &error))?)
        }
        "file" => {
            let directory = parsed
                .to_file_path()
                .map_err(|()| Error::Invalid("it names no directory of this machine".to_string()))?;
            std::fs::create_dir_all(&directory)
                .map_err(|error| Error::io(format!("making {}", directory.display()), error))?;
            let local = LocalFileSystem::new_with_prefix(&directory)
                .map_err(|error| invalid("its directory", &error))?;
            // Without, an object that was acknowledged is not on the disk.
            return Ok((Arc::new(local.with_fsync(true)), Path::default()));
        }
        scheme => return Err(Error::Invalid(format!("there are no stores at {scheme}: URLs"))),
    };
    Ok((objects, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        object_store(url, &SlateOptions::default()).err().unwrap().to_string()
    }

    #[test]
    fn urls_that_make_no_sense_are_refused_and_say_what_does() {
        assert!(refused("s3:///prefix").contains("s3://bucket/prefix"));
        assert!(refused("ftp://a/b").contains("ftp"));
        assert!(refused("s3://bucket/a?x=1").contains("no ?"));
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_shown() {
        let text = refused("s3://name:word@bucket/prefix");
        assert!(text.contains("environment") && !text.contains("word@"), "{text}");
    }

    #[test]
    fn a_description_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let url = kvfs::engine::remote::url_of(home.path());
        let place = Place::connect(&url, &SlateOptions::default()).unwrap();
        assert_eq!((place.description().unwrap(), place.foreign().unwrap()), (None, None));
        assert!(place.describe(b"one").unwrap() && !place.describe(b"two").unwrap());
        assert_eq!(place.description().unwrap().unwrap(), b"one");
        assert_eq!(place.foreign().unwrap(), None);
        std::fs::write(home.path().join("holiday.jpg"), "").unwrap();
        assert_eq!(place.foreign().unwrap().as_deref(), Some("holiday.jpg"));
    }
}
