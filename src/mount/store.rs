//! An open store: every part up to the filesystem, and how it comes to be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::below::EngineWitness;
use super::errors::{fs_error, store_error};
use super::lock::{CLOSED, LEFT, LOST, lock};
use super::remote::{self, ReaderSeat};
use crate::base::clock::{Clock, SystemClock};
use crate::disk::{
    Access, Disk, Latch, LogFile, Metered, Opening, OsDisk, Overlay, Pool, ProcessIo, Space, Stock,
    process_io,
};
use crate::engine::remote::Site;
use crate::engine::{self, Engine, Followed, Home, Kind, MeteredEngine, Tier};
use crate::fs::states::States;
use crate::fs::types::{Caller, ROOT, SetAttributes};
use crate::fs::{self, FileSystem, Identity, keys};
use crate::repair;
use crate::store::{Description, Error, Given, Place, Settings, Terms, location};

/// Directory of an engine that reads and writes its files in ways of its own.
pub(super) const ENGINE_DIRECTORY: &str = "engine";
/// Shares of the cache that a view may take for the changes of its recovery: the first one that is enough.
const VIEW_SHARES: [u64; 2] = [16, 2];

/// An open store: every part up to the filesystem, no thread, no kernel.
pub struct Store {
    /// Its description of itself.
    pub description: Description,
    /// The settings in effect.
    pub settings: Settings,
    /// Door 3.
    pub disk: Arc<Metered>,
    /// Closes when a sync fails.
    pub latch: Arc<Latch>,
    /// Door 2.
    pub engine: Arc<MeteredEngine>,
    /// Door 1.
    pub fs: Arc<FileSystem>,
    /// Its states, of which that is the first one.
    pub(super) states: Arc<States>,
    /// The engine below door 2, if a copy has to follow its batches.
    pub(super) followed: Option<Arc<Followed>>,
    /// What its engine's files are seen through; behind everything that has them open, so that it goes after that.
    pub(super) witness: Option<Arc<EngineWitness>>,
    /// The place of a store at a URL; of others the directory is all there is.
    pub(super) site: Option<Arc<dyn Site>>,
    /// Goes with the store.
    pub(super) _reader_seat: Option<ReaderSeat>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) os: Arc<OsDisk>,
    pub(super) pool: Arc<Pool>,
    /// Its directory, or its URL.
    pub(super) path: PathBuf,
    /// Nothing below changes: what a recovery changes stays in memory, and no work is done.
    pub(super) is_view: bool,
    /// The kernel's counters of this process before the store was opened.
    pub(super) began: Option<ProcessIo>,
}

/// Makes a store in `path`, a directory that must be missing or empty, or a URL where nothing lies. It is durable when this returns.
pub fn make_store(path: &Path, given: &Given, terms: Terms) -> Result<(), Error> {
    if let Some(url) = location::url(path) {
        return remote::make(url, given)?.close();
    }
    if terms.look(path)? == Place::Store {
        return Err(Error::usage(format!("{} already holds a store", path.display())));
    }
    let store = open_store(path, given, terms)?;
    store.close()
}

/// Whether an engine of others is seen by a witness, where the options say so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// For a while that nobody asks about.
    Not,
    /// For as long as the store is mounted.
    AsGiven,
}

/// Opens the store in `path`; a missing or empty directory becomes a store with the `given` options, if `terms` let it. What is made
/// is durable when this returns.
///
/// For a read-only mount nothing below changes: a store that was not closed is recovered over a view in memory. Where that would take
/// more than half of the cache, it is recovered in place, as for a mount that writes; on a disk that cannot be written it is refused.
///
/// `path` may be a URL: then the store lies there, and what it needs on this machine in its seat.
///
/// An engine of others is not seen by a witness here: that is for a mount.
pub fn open_store(path: &Path, given: &Given, terms: Terms) -> Result<Store, Error> {
    open(path, given, terms, Seen::Not)
}

/// The same, with what `seen` says.
pub(super) fn open(path: &Path, given: &Given, terms: Terms, seen: Seen) -> Result<Store, Error> {
    if let Some(url) = location::url(path) {
        return remote::open(url, given, terms);
    }
    let show = path.display();
    let place = terms.look(path)?;
    // Options are looked at before anything is made. What a store's engine makes of them is seen when it is known which one that is.
    let is_read_only = match place {
        Place::Store => Settings::are_read_only(given)?,
        _ => Description::new(given)?.settings(given)?.fs.read_only,
    };
    if is_read_only && place != Place::Store {
        return Err(Error::usage(format!("{show} holds no store, and read-only none is made")));
    }
    let lock_for = |access| lock(path, Opening { access, any_owner: terms.any_owner });
    if is_read_only {
        let os = lock_for(Access::Read).map_err(|error| Error::system(&show, error))?;
        if let Some(store) = open_view(path, os, given)? {
            return Ok(store);
        }
    }
    match lock_for(Access::Write) {
        Ok(os) => {
            // Someone may have made a store while we waited for the lock.
            let place = terms.look(path)?;
            open_in_place(path, os, place, given, seen)
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && place == Place::Store => {
            let other = lock_for(Access::Read).ok().and_then(|os| engine_of_others(path, &os, given));
            let way_out = match (other, is_read_only) {
                (Some(kind), _) => format!(
                    "engine={kind} writes to its directory whenever it is opened, also with -o ro: mount a copy on a disk that can be written"
                ),
                (None, false) => "mount with -o ro".to_string(),
                (None, true) => {
                    "what its recovery changes does not fit into half of the cache: give a larger cache= or memory="
                        .to_string()
                }
            };
            Err(Error::refused(format!("{show}: the disk below is read-only; {way_out}")))
        }
        Err(error) => Err(Error::system(&show, error)),
    }
}

/// How what is below is used.
pub(super) enum Manner {
    /// Nothing of it changes.
    View,
    /// As it is, through a witness that the engine has.
    InPlace(Option<EngineWitness>),
    /// The store lies elsewhere.
    Remote(Arc<dyn Site>, Option<ReaderSeat>),
}

/// The parts of a store below the engine.
pub(super) struct Below {
    disk: Arc<Metered>,
    /// What the description is read through.
    pub latch: Arc<Latch>,
    stock: Arc<Stock>,
    pool: Arc<Pool>,
    /// The kernel's counters of this process before.
    began: Option<ProcessIo>,
}

impl Below {
    pub fn new(path: &Path, os: &Arc<OsDisk>) -> Result<Below, Error> {
        let began = process_io().ok();
        if repair::is_pending(&**os)? {
            return Err(Error::damaged(format!("{}: {}", path.display(), repair::PENDING)));
        }
        let pool = Pool::of_process(os.clone());
        let stock = Stock::new(pool.clone()).map_err(|error| Error::system(path.display(), error))?;
        let disk = Metered::new(stock.clone());
        Ok(Below { latch: Latch::new(disk.clone()), disk, stock, pool, began })
    }

    /// Opens the filesystem on an engine that `open` opens.
    pub fn open(
        self,
        path: &Path,
        os: Arc<OsDisk>,
        open: impl FnOnce(Arc<dyn Clock>) -> engine::Result<Arc<dyn Engine>>,
        (description, settings): (Description, Settings),
        manner: Manner,
    ) -> Result<Store, Error> {
        let (is_view, witness, site, reader_seat) = match manner {
            Manner::View => (true, None, None, None),
            Manner::InPlace(witness) => (false, witness, None, None),
            Manner::Remote(site, reader_seat) => (false, None, Some(site), reader_seat),
        };
        let Below { disk: metered, latch, pool, began, stock: _ } = self;
        let show = path.display();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let engine = open(clock.clone()).map_err(|error| store_error(&show, error, &*latch))?;
        let room: Room = match site.clone() {
            Some(site) => Arc::new(move || Ok(site.space())),
            None => {
                let disk = latch.clone();
                Arc::new(move || disk.space())
            }
        };
        let followed = (!engine.kind().has_snapshots && !is_view && !settings.fs.read_only)
            .then(|| Followed::new(engine.clone(), clock.clone()));
        let engine = followed.clone().map_or(engine, |followed| followed as Arc<dyn Engine>);
        let engine = MeteredEngine::new(engine, keys::classify);
        let is_followed = site.is_some() && settings.fs.read_only;
        let fs = match is_followed {
            true => FileSystem::look(engine.clone(), clock.clone(), settings.fs, room),
            false => open_fs(&engine, &clock, room, &description, &settings),
        };
        let fs = fs.map_err(|error| fs_error(&show, error, &*latch))?;
        let states = if is_followed { States::followed(fs.clone()) } else { States::only(fs.clone()) };
        let (disk, path) = (metered, path.to_path_buf());
        let witness = witness.map(Arc::new);
        Ok(Store {
            description,
            settings,
            disk,
            latch,
            engine,
            fs,
            states: Arc::new(states),
            followed,
            witness,
            site,
            _reader_seat: reader_seat,
            clock,
            os,
            pool,
            path,
            is_view,
            began,
        })
    }
}

/// Opens the engine that `options` are of where it lives: on `disk`, or in a directory of its own.
pub(super) fn open_engine(
    os: &OsDisk,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &engine::Options,
) -> engine::Result<Arc<dyn Engine>> {
    match options.kind().home {
        Home::Disk(_) => engine::open(disk, clock, options),
        Home::Directory(open) => {
            options.validate()?;
            open(&engine_directory(os)?, clock, options)
        }
    }
}

/// The directory of an engine that reads and writes in ways of its own.
fn engine_directory(os: &OsDisk) -> engine::Result<PathBuf> {
    os.directory(ENGINE_DIRECTORY).map_err(|error| engine::Error::io("making its directory", error))
}

fn open_in_place(
    path: &Path,
    os: Arc<OsDisk>,
    place: Place,
    given: &Given,
    seen: Seen,
) -> Result<Store, Error> {
    let show = path.display();
    let below = Below::new(path, &os)?;
    let (description, is_made) = match Description::load(&*below.latch)? {
        Some(description) => (description, false),
        None if place == Place::Store => {
            return Err(Error::refused(format!("{show}: its description cannot be opened")));
        }
        None => {
            let description = Description::new(given)?;
            if description.settings(given)?.engine.kind().writes_in_place
                && let Err(error) = os.write_in_place()
            {
                log::warn!("{show}: its pages are copied by the filesystem below when they change: {error}");
            }
            description.save(&*below.latch)?;
            (description, true)
        }
    };
    let settings = description.settings(given)?;
    let (disk, stock, options) = (below.latch.clone(), below.stock.clone(), settings.engine.clone());
    let witness = match settings.below_engine.witness && seen == Seen::AsGiven {
        true => {
            let own = engine_directory(&os).map_err(|error| store_error(&show, error, &*below.latch))?;
            let failed =
                |error| Error::system(format!("witness=on: the witness of {}", own.display()), error);
            Some(EngineWitness::start(&own, settings.engine.kind().name).map_err(failed)?)
        }
        false => None,
    };
    let below_it = os.clone();
    let open = |clock| open_engine(&below_it, disk, clock, &options);
    let store = below.open(path, os, open, (description, settings), Manner::InPlace(witness))?;
    // An engine with a directory of its own could not take them.
    if !store.settings.fs.read_only
        && matches!(store.settings.engine.kind().home, Home::Disk(_))
        && let Err(error) = stock.keep(engine::SPARE_FILES)
    {
        log::warn!("{show}: making spare files: {error}");
    }
    if is_made {
        store
            .os
            .sync_own_name()
            .map_err(|error| Error::system(format!("{show}: making its name durable"), error))?;
    }
    Ok(store)
}

/// Opens the store on `os`, which is there, so that nothing below changes. `None` if what is to be recovered does not fit into half of
/// the cache.
fn open_view(path: &Path, os: Arc<OsDisk>, given: &Given) -> Result<Option<Store>, Error> {
    // Little has to be kept of a store that was closed, so first little of the cache is given up for it.
    for share in VIEW_SHARES {
        let below = Below::new(path, &os)?;
        let description = Description::load(&*below.latch)?
            .ok_or_else(|| Error::refused(format!("{}: its description cannot be opened", path.display())))?;
        let settings = description.settings(given)?;
        let mut options = settings.engine.clone();
        let common = options.common_mut();
        let kept_bytes_max = common.cache_bytes / share;
        common.cache_bytes -= kept_bytes_max;
        common.memory_bytes = common.memory_bytes.saturating_sub(kept_bytes_max);
        if let Home::Directory(_) = options.kind().home {
            // Nothing of ours lies between it and its files.
            return Ok(None);
        }
        let overlay = Overlay::bounded(below.latch.clone(), kept_bytes_max);
        let disk = overlay.clone();
        let open = |clock| open_engine(&os, disk, clock, &options);
        match below.open(path, os.clone(), open, (description, settings), Manner::View) {
            Err(_) if overlay.is_exceeded() => {}
            other => return other.map(Some),
        }
    }
    Ok(None)
}

/// The engine of the store in `path` if it lives in a directory of its own.
fn engine_of_others(path: &Path, os: &Arc<OsDisk>, given: &Given) -> Option<Kind> {
    let below = Below::new(path, os).ok()?;
    let kind = Description::load(&*below.latch).ok()??.settings(given).ok()?.engine.kind();
    matches!(kind.home, Home::Directory(_)).then_some(kind)
}

/// Room for what is stored.
type Room = Arc<dyn Fn() -> io::Result<Space> + Send + Sync>;

/// Opens the filesystem on `engine`; an empty engine gets a new one, whose root belongs to whoever makes it, and which is durable
/// when this returns.
fn open_fs(
    engine: &Arc<MeteredEngine>,
    clock: &Arc<dyn Clock>,
    room: Room,
    description: &Description,
    settings: &Settings,
) -> fs::Result<Arc<FileSystem>> {
    let made = engine.get(&keys::superblock(), Tier::Disk)?.is_none();
    if made {
        let identity = Identity { uuid: description.uuid, ..Identity::random()? };
        FileSystem::format(&**engine, &**clock, &settings.fs, identity)?;
    }
    let fs = FileSystem::open(engine.clone(), clock.clone(), settings.fs, room)?;
    let user = nix::unistd::geteuid();
    if made && !user.is_root() && !settings.fs.read_only {
        let (uid, gid) = (Some(user.as_raw()), Some(nix::unistd::getegid().as_raw()));
        fs.setattr(Tier::Disk, Caller::ROOT, ROOT, &SetAttributes { uid, gid, ..SetAttributes::default() })?;
    }
    if made {
        engine::sync(&**engine)?;
    }
    Ok(fs)
}

impl Store {
    /// The directory of an engine that reads and writes there in ways of its own; `None` of one whose files are on the disk.
    pub fn engine_directory(&self) -> Option<PathBuf> {
        let has_own = matches!(self.settings.engine.kind().home, Home::Directory(_)) && self.site.is_none();
        has_own.then(|| self.path.join(ENGINE_DIRECTORY))
    }

    /// Its log, for a daemon; `None` where nothing can be written.
    pub fn log(&self) -> io::Result<Option<LogFile>> {
        if self.is_view { Ok(None) } else { self.os.log().map(Some) }
    }

    /// Writes who uses the store into its lock, if that can be written.
    pub fn name_holder(&self, what: &str) {
        if self.is_view {
            return;
        }
        let holder = format!("kvfs, process {}, {what}", std::process::id());
        if let Err(error) = self.os.name_holder(&holder) {
            log::warn!("writing the holder's name into the lock: {error}");
        }
        let Some(site) = self.site.as_ref().filter(|_| !self.settings.fs.read_only) else { return };
        // However it was closed, it writes no more.
        let is_over = what == CLOSED || what.starts_with(LEFT) || what.starts_with(LOST);
        let said = if is_over { site.release() } else { site.hold(what) };
        if let Err(error) = said {
            log::warn!("{}: saying who writes: {error}", self.path.display());
        }
    }

    /// Makes everything durable and closes the store. No thread may use it any more.
    pub fn close(&self) -> Result<(), Error> {
        if self.is_view {
            return Ok(());
        }
        let show = self.path.display();
        self.fs.close().map_err(|error| fs_error(&show, error, &*self.latch))?;
        self.engine.close().map_err(|error| store_error(&show, error, &*self.latch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    #[test]
    fn options_of_another_engine_have_no_effect_whatever_they_say() {
        let home = tempfile::tempdir().unwrap();
        let given = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let terms = Terms::default();
        open_store(home.path(), &given(&[("engine", "btree")]), terms).unwrap().close().unwrap();
        // The default engine takes 64 at most.
        open_store(home.path(), &given(&[("bloom_bits", "500")]), terms).unwrap().close().unwrap();
        assert!(open_store(home.path(), &given(&[("page_size", "fast")]), terms).is_err());
    }

    #[test]
    fn a_filesystem_that_was_made_survives_a_power_cut() {
        for kind in ["lsm", "btree"] {
            let given = [("engine".to_string(), kind.to_string())];
            let description = Description::new(&given).unwrap();
            let settings = description.settings(&given).unwrap();
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let open = |disk: Arc<SimDisk>| {
                let latch = Latch::new(disk);
                let engine = engine::open(latch.clone(), clock.clone(), &settings.engine).unwrap();
                (MeteredEngine::new(engine, keys::classify), latch)
            };
            let disk = SimDisk::new();
            description.save(&*disk).unwrap();
            let (engine, latch) = open(disk.clone());
            let room: Room = Arc::new(move || latch.space());
            open_fs(&engine, &clock, room, &description, &settings).unwrap();
            for seed in 0..32 {
                let after = disk.crash(seed);
                assert_eq!(Description::load(&*after).unwrap().as_ref(), Some(&description));
                let (engine, _) = open(after);
                for key in [keys::superblock().to_vec(), keys::inode(ROOT).to_vec()] {
                    assert!(
                        engine.get(&key, Tier::Disk).unwrap().is_some(),
                        "{kind}, {seed}: {key:?} is gone"
                    );
                }
            }
        }
    }
}
