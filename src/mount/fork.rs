//! A second store out of a mounted one: `kvfs fork`.
//!
//! # How it works
//!
//! 1. Times that wait are written, so that everything which was answered is in the engine.
//! 2. The place is made and locked, and gets the description of an unfinished store.
//! 3. Where the engine has snapshots, one is forked: its files are taken over, their blocks shared where the filesystem below can. Else the
//!    keys are copied into a new store of the same kind while writers go on ([`Followed`]).
//! 4. The new store gets an identity of its own, is closed, and last its description: until then nobody opens it.
//!
//! What was open or deleted but in use at that moment is as after a crash of the first store: the first mount of the fork buries it.
//!
//! # Invariants
//!
//! 1. The first store is only read, but for step 1 and for what a snapshot flushes.
//! 2. A fork that fails leaves nothing in the place that it was to have.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::errors::{fs_error, store_error};
use super::lock::{CLOSED, lock};
use super::store::{ENGINE_DIRECTORY, Store, open_engine};
use crate::base::clock::Clock;
use crate::control::{Forked, Forking, Forks};
use crate::disk::{Access, Disk, FileInfo, Latch, Metered, OsDisk, Pool, occupied};
use crate::engine::{self, Engine, Followed, Home, MeteredEngine, Options};
use crate::fs::{self, FileSystem};
use crate::store::{Blame, DESCRIPTION, Description, Error, Place, look};

/// Cache and memory of the new store's engine while it is made.
const CACHE_BYTES: u64 = 8 << 20;

/// Makes forks of a mounted store, one at a time.
pub(super) struct Forker {
    description: Description,
    options: Options,
    engine: Arc<MeteredEngine>,
    /// The engine below, where it has no snapshots.
    followed: Option<Arc<Followed>>,
    fs: Arc<FileSystem>,
    latch: Arc<Latch>,
    os: Arc<OsDisk>,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    mount_point: PathBuf,
    is_view: bool,
    /// Held while one is made.
    one: Mutex<()>,
    is_ending: AtomicBool,
    made: AtomicU64,
    failed: AtomicU64,
    shared_bytes: AtomicU64,
    written_bytes: AtomicU64,
    running: Mutex<Option<Running>>,
}

/// What is known of the fork that is being made.
struct Running {
    /// Its files; `None` of an engine with a directory of its own.
    disk: Option<Arc<Metered>>,
    /// Bytes of keys and values that were taken over.
    taken_bytes: u64,
}

impl Running {
    fn written_bytes(&self) -> u64 {
        self.disk.as_ref().map_or(self.taken_bytes, |disk| disk.snapshot().total().write_bytes)
    }
}

/// The place of a fork.
struct Site {
    os: Arc<OsDisk>,
    latch: Arc<Latch>,
    metered: Arc<Metered>,
}

impl Forker {
    /// Of `store`, mounted at `mount_point`.
    pub fn new(store: &Store, mount_point: &Path) -> Arc<Forker> {
        let mut options = store.settings.engine.clone();
        let common = options.common_mut();
        common.cache_bytes = common.cache_bytes.min(CACHE_BYTES);
        Arc::new(Forker {
            description: store.description.clone(),
            options,
            engine: store.engine.clone(),
            followed: store.followed.clone(),
            fs: store.fs.clone(),
            latch: store.latch.clone(),
            os: store.os.clone(),
            clock: store.clock.clone(),
            path: store.path.clone(),
            mount_point: mount_point.to_path_buf(),
            is_view: store.is_view || store.settings.fs.read_only,
            one: Mutex::default(),
            is_ending: AtomicBool::new(false),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            shared_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            running: Mutex::default(),
        })
    }

    /// Lets no other fork begin, and waits for the one that is being made: one that is copied key by key ends soon, one that takes over
    /// files ends when they are there.
    pub fn end(&self) {
        self.is_ending.store(true, Relaxed);
        drop(self.one.lock());
    }

    /// Makes a store in `into`, which must be missing or empty, of what the mounted one holds when this is called, or, where the engine
    /// has no snapshots, of what it holds shortly before this returns. It is durable then.
    fn make_one(&self, into: &Path) -> Result<Forked, Error> {
        let show = into.display();
        let Some(_one) = self.one.try_lock() else {
            return Err(Error::refused(format!(
                "{show}: another fork of this store is under way: wait for it"
            )));
        };
        let begun = self.clock.elapsed();
        self.require(into)?;
        let forked = self.make(into);
        let running = self.running.lock().take();
        self.written_bytes.fetch_add(running.as_ref().map_or(0, Running::written_bytes), Relaxed);
        match forked {
            Ok((bytes, files, shared_bytes)) => {
                self.made.fetch_add(1, Relaxed);
                self.shared_bytes.fetch_add(shared_bytes, Relaxed);
                Ok(Forked {
                    into: show.to_string(),
                    bytes,
                    files,
                    shared_bytes,
                    written_bytes: running.as_ref().map_or(0, Running::written_bytes),
                    took: self.clock.elapsed().saturating_sub(begun),
                })
            }
            Err(error) => {
                self.failed.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }

    /// Refuses places where no store can be made, before anything is.
    fn require(&self, into: &Path) -> Result<(), Error> {
        let show = into.display();
        let kind = self.options.kind();
        let refuse = |text: String| Err(Error::usage(format!("{show}: {text}")));
        if self.is_ending.load(Relaxed) {
            return Err(Error::refused(format!(
                "{show}: the mount is about to end: fork again when it is back"
            )));
        }
        if self.is_view {
            return refuse(
                "the mount is read-only, and a fork writes what is still in memory: mount without -o ro"
                    .into(),
            );
        }
        if !kind.keeps {
            return refuse(format!(
                "engine={kind} keeps nothing that a second store could have: copy the files"
            ));
        }
        if !into.is_absolute() {
            return refuse(
                "the path must be absolute, because the daemon has a working directory of its own".into(),
            );
        }
        if into.components().any(|part| part == Component::ParentDir) {
            return refuse("give a path without ..".into());
        }
        let is_there = |path: &&Path| nix::sys::stat::lstat(*path).is_ok();
        let parent = into.ancestors().find(is_there).unwrap_or(Path::new("/"));
        let resolved =
            |path: &Path| path.canonicalize().map_err(|error| Error::system(path.display(), error));
        let (place, store) = (resolved(parent)?, resolved(&self.path)?);
        if place.starts_with(&store) {
            return refuse(format!(
                "it lies in the directory of the store itself, {}: give a place outside",
                store.display()
            ));
        }
        let device = |path: &Path| {
            let found =
                nix::sys::stat::stat(path).map_err(|errno| Error::system(path.display(), errno.desc()))?;
            Ok::<_, Error>(found.st_dev)
        };
        if device(&place)? == device(&self.mount_point)? {
            return refuse(format!(
                "it lies in the mount itself, {}: give a place outside",
                self.mount_point.display()
            ));
        }
        match look(into)? {
            Place::Missing | Place::Empty => Ok(()),
            Place::Store => refuse("there is a store already: give an empty or missing directory".into()),
        }
    }

    /// The bytes and files of the new store, and how many bytes it shares with the old one.
    fn make(&self, into: &Path) -> Result<(u64, u64, u64), Error> {
        let show = into.display();
        self.fs.write_times().map_err(|error| fs_error(&self.path.display(), error, &*self.latch))?;
        let was_there = nix::sys::stat::stat(into).is_ok();
        let os = lock(into, Access::Write).map_err(|error| Error::system(&show, error))?;
        let metered = Metered::new(Pool::of_process(os.clone()));
        let site = Site { latch: Latch::new(metered.clone()), os, metered };
        let is_on_disk = matches!(self.options.kind().home, Home::Disk(_));
        let disk = is_on_disk.then(|| site.metered.clone());
        *self.running.lock() = Some(Running { disk, taken_bytes: 0 });
        let made = self.fill(into, &site);
        if made.is_err() {
            self.clear(into, &site.os, was_there);
        }
        made
    }

    fn fill(&self, into: &Path, site: &Site) -> Result<(u64, u64, u64), Error> {
        let show = into.display();
        let failed = |error: engine::Error| store_error(&show, error, &*site.latch);
        let description = self.description.fork()?;
        if self.options.kind().writes_in_place
            && let Err(error) = site.os.write_in_place()
        {
            log::warn!("{show}: its pages are copied by the filesystem below when they change: {error}");
        }
        description.begin(&*site.latch).map_err(|error| error.at(&show))?;
        let disk: Arc<dyn Disk> = site.latch.clone();
        let open = || open_engine(&site.os, disk.clone(), self.clock.clone(), &self.options).map_err(failed);
        let (new, taken_over) = match &self.followed {
            None => {
                let of_first = |error| store_error(&self.path.display(), error, &*self.latch);
                self.engine.snapshot().map_err(of_first)?.fork(&disk).map_err(failed)?;
                // What opening adds is made at any first mount, and is not the first store's.
                let size = self.size_of(into, site)?;
                (open()?, Some(size))
            }
            Some(followed) => {
                let new = open()?;
                let note = &mut |bytes| {
                    if let Some(running) = &mut *self.running.lock() {
                        running.taken_bytes = bytes;
                    }
                    match self.is_ending.load(Relaxed) {
                        true => {
                            Err(engine::Error::Invalid("the mount ends: fork again when it is back".into()))
                        }
                        false => Ok(()),
                    }
                };
                followed.copy_into(&*new, note).map_err(failed)?;
                (new, None)
            }
        };
        fs::set_uuid(&*new, description.uuid).map_err(|error| fs_error(&show, error, &*site.latch))?;
        // Durable then. Its merges are left to the first mount: they would only write what is shared.
        new.close().map_err(failed)?;
        drop(new);
        let size = taken_over.map_or_else(|| self.size_of(into, site), Ok)?;
        Description::finish(&*site.latch).map_err(|error| error.at(&show))?;
        site.os
            .sync_own_name()
            .map_err(|error| Error::system(format!("{show}: making its name durable"), error))?;
        if let Err(error) = site.os.name_holder(CLOSED) {
            log::warn!("{show}: writing into its lock: {error}");
        }
        Ok(size)
    }

    /// Bytes and number of the files in a place, and how many bytes the filesystem below says to be shared.
    fn size_of(&self, into: &Path, site: &Site) -> Result<(u64, u64, u64), Error> {
        let failed = |error| Error::system(into.display(), error);
        let files = site.os.list().map_err(failed)?;
        let (own_bytes, own_files) = match self.options.kind().home {
            Home::Disk(_) => (0, 0),
            Home::Directory(_) => occupied(&into.join(ENGINE_DIRECTORY)).map_err(failed)?,
        };
        let bytes = files.iter().map(|file| file.bytes_allocated).sum::<u64>() + own_bytes;
        let shared_bytes = site.os.shared_bytes().map_err(failed)?.unwrap_or(0);
        Ok((bytes, files.len() as u64 + own_files, shared_bytes))
    }

    /// Takes away what was made in a place, as far as that goes.
    fn clear(&self, into: &Path, os: &OsDisk, was_there: bool) {
        let removed = match was_there {
            false => crate::disk::remove_tree(into),
            true => {
                // What says that it is unfinished goes last.
                let is_last = |info: &FileInfo| info.name.starts_with(DESCRIPTION);
                let (last, first): (Vec<_>, Vec<_>) =
                    os.list().unwrap_or_default().into_iter().partition(is_last);
                let own = crate::disk::remove_tree(&into.join(ENGINE_DIRECTORY));
                own.and(first.iter().chain(&last).try_for_each(|info| os.remove(&info.name)))
            }
        };
        if let Err(error) = removed {
            log::warn!("{}: taking away an unfinished fork: {error}; remove the directory", into.display());
        }
    }
}

impl Forking for Forker {
    fn fork(&self, into: &Path) -> fs::Result<Forked> {
        self.make_one(into).map_err(|error| {
            let sentence = error.to_string();
            fs::Error::Engine(match error.blame {
                Blame::Usage => engine::Error::Invalid(sentence),
                Blame::System | Blame::Damage => engine::Error::io("fork", std::io::Error::other(sentence)),
            })
        })
    }

    fn forks(&self) -> Forks {
        let running = self.running.lock();
        Forks {
            made: self.made.load(Relaxed),
            failed: self.failed.load(Relaxed),
            running: u64::from(running.is_some()),
            shared_bytes: self.shared_bytes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed)
                + running.as_ref().map_or(0, Running::written_bytes),
            held: self.followed.as_ref().map_or(Duration::ZERO, |followed| followed.held()),
        }
    }

    fn shared_bytes(&self) -> Option<u64> {
        match self.options.kind().home {
            Home::Disk(_) => self.os.shared_bytes().ok().flatten(),
            Home::Directory(_) => None,
        }
    }
}
