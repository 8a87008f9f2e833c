//! Description of a store: the file `STORE`, and the settings that it remembers.
//!
//! ```text
//! kvfs store 1                       format version
//! uuid=3f0c…                         32 hexadecimal digits
//! engine=lsm                         one line an option, in the text form of -o
//! …
//! crc32=0a1b2c3d                     of everything above
//! ```
//!
//! It is written first when a store is made, so a store without it is no store, and one whose making was interrupted is
//! finished at the next mount. It is replaced as a whole, never changed in place.

pub mod decoders;
pub mod location;

use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::base::text::{self, BadText, When};
use crate::control::{metrics, recordings};
use crate::disk::{self, Disk, Purpose};
use crate::engine::{Home, Setting};
use crate::{engine, fs, fuse, witness};

/// Name of the description in the store's directory.
pub const DESCRIPTION: &str = "STORE";
/// Name of the description of a store that is being made as a fork of another one: it gets its own when everything else is durable.
const UNFINISHED: &str = "STORE.fork";
/// No description is longer.
const DESCRIPTION_BYTES_MAX: u64 = 1 << 20;
/// First line of a description, up to its version.
const MAGIC: &str = "kvfs store ";
/// Version of the format that this program reads and writes.
const VERSION: &str = "1";

/// The settings of every room.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Of the engine.
    pub engine: engine::Options,
    /// Of the filesystem.
    pub fs: fs::Options,
    /// Of the kernel side.
    pub fuse: fuse::Options,
    /// Of what is served beside the mount.
    pub metrics: metrics::Options,
    /// Of what is recorded.
    pub recordings: recordings::Options,
    /// Of the witness below the engine.
    pub below_engine: witness::BelowEngine,
}

impl Settings {
    /// Every option that counts with the engine of these settings, as it is.
    pub fn list(&self) -> Vec<Setting> {
        let mut all = self.engine.list();
        all.extend(Setting::list(fs::FIELDS, &self.fs));
        all.extend(Setting::list(fuse::session::FIELDS, &self.fuse));
        all.extend(Setting::list(metrics::FIELDS, &self.metrics));
        all.extend(Setting::list(recordings::FIELDS, &self.recordings));
        all.extend(Setting::list(witness::BELOW_ENGINE, &self.below_engine));
        all
    }

    /// Every option there is, with its default: those of any store, then those that one engine alone has.
    pub fn all() -> Vec<Setting> {
        let own = engine::Kind::all().flat_map(|kind| kind.default_options().list());
        let of_any = Settings::default().list().into_iter().filter(|setting| setting.owner.is_none());
        of_any.chain(own.filter(|setting| setting.owner.is_some())).collect()
    }

    /// Sets one option. `None` if there is none of that name; the error is a sentence. One that only another engine has is looked at
    /// and has no effect, so that one line of options serves several stores.
    pub fn set(&mut self, name: &str, value: &str) -> Option<Result<(), BadText>> {
        text::set(fs::FIELDS, &mut self.fs, name, value)
            .or_else(|| text::set(fuse::session::FIELDS, &mut self.fuse, name, value))
            .or_else(|| text::set(metrics::FIELDS, &mut self.metrics, name, value))
            .or_else(|| text::set(recordings::FIELDS, &mut self.recordings, name, value))
            .or_else(|| text::set(witness::BELOW_ENGINE, &mut self.below_engine, name, value))
            .or_else(|| self.engine.set_if_known(name, value))
    }

    /// Whether `given` asks for a mount that changes nothing, whichever engine they are for.
    pub fn are_read_only(given: &Given) -> Result<bool, Error> {
        let mut any = fs::Options::default();
        for (_, value) in given.iter().filter(|(name, _)| name == "read_only") {
            text::set(fs::FIELDS, &mut any, "read_only", value).unwrap_or(Ok(())).map_err(Error::usage)?;
        }
        Ok(any.read_only)
    }

    /// Whether the options can be had together; the error is a sentence.
    fn validate(&self) -> Result<(), BadText> {
        let kind = self.engine.kind();
        if self.below_engine.witness && matches!(kind.home, Home::Disk(_)) {
            return Err(format!(
                "witness=on with engine={kind}: whatever it reads and writes passes the disk door of kvfs, which counts each byte already \
                 (disk in .stats.d/json); a witness is for engines that write in ways of their own: leave the option out"
            )
            .into());
        }
        if self.below_engine.witness && kind.remote.is_some() {
            return Err(format!(
                "witness=on with engine={kind}: whatever it writes and reads passes a door of its own, which counts each request (disk and requests in \
                 .stats.d/json): leave the option out"
            )
            .into());
        }
        self.engine.validate()
    }

    /// The current value of an option as text.
    pub fn get(&self, name: &str) -> Option<String> {
        self.list().into_iter().find(|setting| setting.name == name).map(|setting| setting.value)
    }
}

/// Options as they were given: names and values, later ones count.
pub type Given = [(String, String)];

/// Description of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Tells stores apart; the filesystem's superblock holds the same.
    pub uuid: [u8; 16],
    /// Options given when it was made, and all that cannot change; in the order of [`Settings::list`].
    pub options: Vec<(String, String)>,
}

/// Whose fault it is that a store cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request cannot be met.
    Usage,
    /// Stored bytes are damaged.
    Damage,
    /// The system below refuses.
    System,
}

/// Reason for which a store cannot be used: a sentence to show, and the error below it where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// Whose fault it is.
    pub blame: Blame,
    text: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    fn new(blame: Blame, text: impl Into<String>) -> Error {
        Error { blame, text: text.into(), source: None }
    }

    /// The request cannot be met.
    pub fn usage(text: impl Into<String>) -> Error {
        Error::new(Blame::Usage, text)
    }

    /// Stored bytes are damaged.
    pub fn damaged(text: impl Into<String>) -> Error {
        Error::new(Blame::Damage, text)
    }

    /// The state of the system below is what refuses.
    pub fn refused(text: impl Into<String>) -> Error {
        Error::new(Blame::System, text)
    }

    /// The system's answer, with what was being done.
    pub fn system(
        what: impl std::fmt::Display,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let error = error.into();
        Error::refused(format!("{what}: {error}")).because(error)
    }

    /// The same sentence, with the error that it tells of.
    pub fn because(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error { source: Some(error.into()), ..self }
    }

    /// The same, with the place in front of the sentence.
    pub fn at(self, place: impl std::fmt::Display) -> Error {
        Error { text: format!("{place}: {}", self.text), ..self }
    }
}

impl Description {
    /// A description of a new store made with `given` options.
    pub fn new(given: &Given) -> Result<Description, Error> {
        let mut settings = Settings::default();
        apply(&mut settings, given)?;
        let keep = |option: &Setting| {
            let is_given = || given.iter().any(|(name, _)| name == option.name);
            match option.when {
                When::Format => true,
                When::Mount => is_given(),
                When::Once => false,
            }
        };
        let line = |option: Setting| (option.name.to_string(), option.value);
        let options = settings.list().into_iter().filter(keep).map(line).collect();
        let uuid =
            fs::Identity::random().map_err(|error| Error::system("an identity for the store", error))?.uuid;
        Ok(Description { uuid, options })
    }

    /// The description of a fork of this store: another store, with the same options.
    pub fn fork(&self) -> Result<Description, Error> {
        Ok(Description { uuid: Description::new(&[])?.uuid, ..self.clone() })
    }

    /// Begins a store on `disk` that is nobody's to open before [`Description::finish`].
    pub fn begin(&self, disk: &dyn Disk) -> Result<(), Error> {
        disk::replace(disk, Purpose::Manifest, UNFINISHED, self.encode().as_bytes())
            .map_err(|error| Error::system(format!("writing {UNFINISHED}"), error))
    }

    /// Makes what was begun on `disk` a store.
    pub fn finish(disk: &dyn Disk) -> Result<(), Error> {
        let named = disk.rename(UNFINISHED, DESCRIPTION).and_then(|()| disk.sync_names());
        named.map_err(|error| Error::system(format!("renaming {UNFINISHED} to {DESCRIPTION}"), error))
    }

    /// The settings of a mount with `given` options: defaults, then what the store remembers, then what is given.
    /// A value that was fixed when the store was made cannot be changed.
    pub fn settings(&self, given: &Given) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        apply(&mut settings, &self.options)?;
        let made = settings.clone();
        apply(&mut settings, given)?;
        for Setting { name, value: then, .. } in made.list().into_iter().filter(|it| it.when == When::Format)
        {
            if let Some(now) = settings.get(name)
                && now != then
            {
                return Err(Error::usage(format!(
                    "the store was made with {name}={then}, which cannot become {name}={now}; leave the option out, or \
                     make a new store and copy the files"
                )));
            }
        }
        Ok(settings)
    }

    /// The uuid as 32 hexadecimal digits.
    pub fn uuid_text(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.uuid))
    }

    /// Its text.
    pub fn encode(&self) -> String {
        let mut text = format!("{MAGIC}{VERSION}\nuuid={}\n", self.uuid_text());
        for (name, value) in &self.options {
            let _ = writeln!(text, "{name}={value}");
        }
        let crc = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc32={crc:08x}");
        text
    }

    /// The one whose text `bytes` are.
    pub fn decode(bytes: &[u8]) -> Result<Description, Error> {
        let damaged = |what: &str| Error::damaged(format!("{DESCRIPTION} is damaged: {what}"));
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let version = text.strip_prefix(MAGIC).and_then(|rest| rest.lines().next());
        let end = text.rfind("crc32=").ok_or_else(|| damaged("it has no checksum"))?;
        let (body, checksum) = text.split_at(end);
        let fits = checksum == format!("crc32={:08x}\n", crc32fast::hash(body.as_bytes()));
        match version {
            Some(VERSION) if fits => {}
            Some(VERSION) => return Err(damaged("its checksum does not fit")),
            Some(other) if fits => {
                return Err(Error::usage(format!(
                    "the store has format {other}; this program knows format {VERSION}: use the version of kvfs that made it, \
                     or copy the files with it to a new store"
                )));
            }
            Some(other) => {
                return Err(damaged(&format!(
                    "it says format {other}, and its checksum does not fit; if another version wrote it, use the version of kvfs \
                     that made it"
                )));
            }
            None => return Err(damaged("it does not begin with its name")),
        }
        let mut options = Vec::new();
        let mut uuid = None;
        for line in body.lines().skip(1) {
            match line.split_once('=') {
                Some(("uuid", value)) => {
                    let number = u128::from_str_radix(value, 16);
                    uuid = Some(number.map_err(|_| damaged("its uuid is no number"))?.to_be_bytes());
                }
                Some((name, value)) => options.push((name.to_string(), value.to_string())),
                None => return Err(damaged("a line is no option")),
            }
        }
        Ok(Description { uuid: uuid.ok_or_else(|| damaged("it has no uuid"))?, options })
    }

    /// The rest of a damaged description of the store on `disk`: every line that makes sense, and the `engine` whose files
    /// are there. Without a whole uuid the store gets a new one.
    pub fn rebuild(disk: &dyn Disk, engine: engine::Kind) -> Result<Description, Error> {
        let bytes = match disk.open(DESCRIPTION) {
            Ok(file) if file.size().is_ok_and(|bytes| bytes <= DESCRIPTION_BYTES_MAX) => {
                disk::read_all(&*file, Purpose::Recovery).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut scratch = Settings::default();
        let mut given: Vec<(String, String)> = Vec::new();
        let mut uuid = None;
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if name == "uuid" && value.len() == 32 {
                uuid = u128::from_str_radix(value, 16).ok();
            } else if name != "engine" && matches!(scratch.set(name, value), Some(Ok(()))) {
                given.push((name.to_string(), value.to_string()));
            }
        }
        given.push(("engine".to_string(), engine.to_string()));
        // Options that contradict each other are worth less than none.
        let engine_alone = given.split_off(given.len() - 1);
        let all = [&given[..], &engine_alone].concat();
        let made = Description::new(&all).or_else(|_| Description::new(&engine_alone))?;
        Ok(Description { uuid: uuid.map_or(made.uuid, u128::to_be_bytes), ..made })
    }

    /// The description of the store on `disk`; `None` if there is none.
    pub fn load(disk: &dyn Disk) -> Result<Option<Description>, Error> {
        let bytes = match disk.open(DESCRIPTION) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(file) if file.size().is_ok_and(|bytes| bytes > DESCRIPTION_BYTES_MAX) => {
                return Err(Error::damaged(format!("{DESCRIPTION} is damaged: it is too long")));
            }
            other => other.and_then(|file| disk::read_all(&*file, Purpose::Recovery)),
        };
        let bytes = bytes.map_err(|error| Error::system(format!("reading {DESCRIPTION}"), error))?;
        Description::decode(&bytes).map(Some)
    }

    /// Makes it the description of the store on `disk`.
    pub fn save(&self, disk: &dyn Disk) -> Result<(), Error> {
        disk::replace(disk, Purpose::Manifest, DESCRIPTION, self.encode().as_bytes())
            .map_err(|error| Error::system(format!("writing {DESCRIPTION}"), error))
    }
}

/// Sets all `options`: first the engine, which decides what the others mean.
fn apply(settings: &mut Settings, options: &Given) -> Result<(), Error> {
    let engine = options.iter().filter(|(name, _)| name == "engine");
    for (name, value) in engine.chain(options.iter().filter(|(name, _)| name != "engine")) {
        settings
            .set(name, value)
            .unwrap_or_else(|| Err(format!("there is no option {name}").into()))
            .map_err(Error::usage)?;
    }
    settings.validate().map_err(Error::usage)
}

/// Content of a path where a store may be or be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Missing,
    /// A directory without files.
    Empty,
    /// A store.
    Store,
}

/// Under which terms a store is opened; said each time and never remembered, because what a store says of itself is the word of
/// whoever wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Only a store that is there: none is made.
    pub must_exist: bool,
    /// Also if others than the effective user can change what is in its directory.
    pub any_owner: bool,
}

impl Terms {
    /// [`look`]s at `path`, and refuses what these terms do not allow.
    pub fn look(&self, path: &Path) -> Result<Place, Error> {
        match look(path)? {
            place @ (Place::Missing | Place::Empty) if self.must_exist => {
                let what = if place == Place::Missing { "is missing" } else { "is empty" };
                Err(Error::refused(format!(
                    "{} {what}, and with nocreate no store is made there; is its disk mounted?",
                    path.display()
                )))
            }
            place => Ok(place),
        }
    }
}

/// Looks at `path` without changing anything. What is neither free nor a store is refused.
pub fn look(path: &Path) -> Result<Place, Error> {
    let show = path.display();
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    let mut directory = match nix::dir::Dir::open(path, flags, nix::sys::stat::Mode::empty()) {
        Ok(directory) => directory,
        Err(nix::errno::Errno::ENOENT) => return Ok(Place::Missing),
        Err(nix::errno::Errno::ENOTDIR) => {
            return Err(Error::usage(format!("{show} is not a directory; a store is a directory")));
        }
        Err(error) => return Err(Error::system(show, error.desc())),
    };
    let (mut foreign, mut is_unfinished) = (None, false);
    for entry in directory.iter() {
        let entry = entry.map_err(|error| Error::system(show.to_string(), error.desc()))?;
        match entry.file_name().to_bytes() {
            name if name == DESCRIPTION.as_bytes() => return Ok(Place::Store),
            // The lock stays behind where making a store was interrupted, and so may the half-written description.
            b"." | b".." | b"LOCK" | b"STORE.new" | b"lost+found" => {}
            name if name == disk::LOG.as_bytes() || name == disk::LOG_BEFORE.as_bytes() => {}
            name if name.starts_with(UNFINISHED.as_bytes()) => is_unfinished = true,
            name => foreign = Some(std::ffi::OsStr::from_bytes(name).to_os_string()),
        }
    }
    if is_unfinished {
        return Err(Error::usage(format!(
            "{show} is a fork that was not finished, and no store; remove the directory and fork again: the store that it comes from has \
             everything"
        )));
    }
    match foreign {
        None => Ok(Place::Empty),
        Some(name) => Err(Error::usage(format!(
            "{show} is neither a store nor empty (it holds {}); give an empty or missing directory to make a store",
            name.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    fn given(options: &[(&str, &str)]) -> Vec<(String, String)> {
        options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn names_of_options_are_unique() {
        for kind in engine::Kind::all() {
            let settings = Settings { engine: kind.default_options(), ..Settings::default() };
            let mut names: Vec<_> = settings.list().iter().map(|option| option.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn a_store_remembers_what_it_was_made_with() {
        let disk = SimDisk::new();
        assert_eq!(Description::load(&*disk).unwrap(), None);
        let made = Description::new(&given(&[("engine", "btree"), ("cache", "8M")])).unwrap();
        made.save(&*disk).unwrap();
        let found = Description::load(&*disk).unwrap().unwrap();
        assert_eq!(found, made);
        let settings = found.settings(&[]).unwrap();
        assert_eq!(settings.engine.kind(), engine::Kind::BTREE);
        assert_eq!(settings.engine.common().cache_bytes, 8 << 20);
        let settings = found.settings(&given(&[("cache", "16M"), ("engine", "btree")])).unwrap();
        assert_eq!(settings.engine.common().cache_bytes, 16 << 20);
        let refused = found.settings(&given(&[("engine", "lsm")])).unwrap_err().to_string();
        assert!(refused.contains("engine=btree") && refused.contains("engine=lsm"), "{refused}");
        assert_eq!(found.settings(&given(&[("colour", "red")])).unwrap_err().blame, Blame::Usage);
    }

    #[test]
    fn what_is_for_one_mount_is_not_remembered() {
        let asked = given(&[("record", "/tmp/a.rec"), ("record_keep", "all"), ("metrics", "127.0.0.1:9")]);
        let made = Description::new(&asked).unwrap();
        assert!(made.settings(&asked).unwrap().recordings.record.is_some());
        let later = made.settings(&[]).unwrap();
        assert_eq!(later.recordings, recordings::Options::default());
        assert!(later.metrics.metrics.is_some());
        assert!(Description::new(&given(&[("record", "relative")])).is_err());
    }

    #[test]
    fn a_witness_is_refused_below_an_engine_that_the_disk_door_counts() {
        for kind in ["lsm", "btree"] {
            let refused = Description::new(&given(&[("witness", "on"), ("engine", kind)])).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains(&format!("engine={kind}")) && text.contains("the disk door"), "{text}");
            assert_eq!(refused.blame, Blame::Usage);
            let made = Description::new(&given(&[("engine", kind)])).unwrap();
            assert!(made.settings(&given(&[("witness", "off")])).is_ok());
            assert!(made.settings(&given(&[("witness", "on")])).is_err());
        }
    }

    #[test]
    fn every_flip_is_noticed_and_other_versions_are_refused() {
        let made = Description::new(&[]).unwrap();
        let text = made.encode();
        assert_eq!(Description::decode(text.as_bytes()).unwrap(), made);
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Description::decode(&bytes).is_err(), "bit {bit}");
        }
        let other = text.replace("kvfs store 1", "kvfs store 2");
        assert!(Description::decode(other.as_bytes()).unwrap_err().to_string().contains("format 2"));
    }

    #[test]
    fn an_error_keeps_what_it_tells_of() {
        let below = engine::Error::NoSpace;
        let error = Error::system("making a store", below).at("/srv/s");
        assert_eq!(
            (error.blame, error.to_string().starts_with("/srv/s: making a store: no space")),
            (Blame::System, true)
        );
        let source = std::error::Error::source(&error).unwrap();
        assert!(matches!(source.downcast_ref(), Some(engine::Error::NoSpace)), "{source:?}");
    }

    #[test]
    fn only_free_places_and_stores_are_accepted() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        assert_eq!(look(&path).unwrap(), Place::Missing);
        let disk = crate::disk::OsDisk::open(&path, crate::disk::Access::Write).unwrap();
        assert_eq!(look(&path).unwrap(), Place::Empty, "a lock alone is nothing");
        disk.create("holiday.jpg").unwrap();
        assert!(look(&path).unwrap_err().to_string().contains("holiday.jpg"));
        Description::new(&[]).unwrap().save(&*disk).unwrap();
        assert_eq!(look(&path).unwrap(), Place::Store);
    }
}
