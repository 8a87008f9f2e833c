//! The registry: which engines there are, and what the rest of kvfs must know of each before it is open.
//!
//! `mkfs`, `mount`, `check`, `repair`, `compare`, the tests and the help go by it; nothing else names an engine that it does not mean.

use crate::base::text::BadText;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::options::{Common, Options};
use super::remote::Remote;
use super::salvage::{Loss, Sink};
use super::{Engine, MemEngine, Result, btree, hybrid, lsm};
use crate::base::clock::Clock;
use crate::base::words::one_of;
use crate::disk::Disk;

/// Function that opens an engine on a disk.
pub type OpenOnDisk = fn(Arc<dyn Disk>, Arc<dyn Clock>, &Options) -> Result<Arc<dyn Engine>>;
/// Function that opens an engine in a directory, which is there.
pub type OpenInDirectory = fn(&Path, Arc<dyn Clock>, &Options) -> Result<Arc<dyn Engine>>;
/// Function that reads the entries of a damaged store.
pub type Salvage = fn(Arc<dyn Disk>, &Options, &mut Sink<'_>) -> Result<Vec<Loss>>;

/// Where an engine keeps what it is given, and how it is opened there, recovering what was not closed. Where nothing is yet, it makes a
/// new, empty store.
#[derive(Clone, Copy)]
pub enum Home {
    /// Files on a [`Disk`]: every byte passes door 3, and a simulated disk serves as well.
    Disk(OpenOnDisk),
    /// A directory of its own, which it reads and writes in its own ways: door 3 sees nothing of it.
    Directory(OpenInDirectory),
}

/// An option that chooses a variant, and its values.
pub type Choice = (&'static str, fn() -> Vec<&'static str>);

/// Everything that must be known of an engine before it is open.
pub struct Descriptor {
    /// Its name, as in `engine=NAME`.
    pub name: &'static str,
    /// The engine in a few words.
    pub help: &'static str,
    /// Whether anything is left when it is closed. What keeps nothing cannot be checked or repaired.
    pub keeps: bool,
    /// Its options, with their defaults.
    pub options: fn() -> Options,
    /// The same, small everywhere; see [`super::OwnOptions::tiny`].
    pub tiny: fn() -> Options,
    /// Where it lives.
    pub home: Home,
    /// Its way to stores at URLs; `None` if it has none.
    pub remote: Option<&'static dyn Remote>,
    /// Whether a file of this name is its own, the log aside, which several engines share.
    pub is_file: fn(&str) -> bool,
    /// Reads what can still be read of a damaged store; see [`super::salvage::salvage`]. `None` if nothing can.
    pub salvage: Option<Salvage>,
    /// Whether [`Engine::snapshot`] gives one. What takes over a store of another engine follows its batches ([`super::Followed`]).
    pub has_snapshots: bool,
    /// Whether it changes its files in place, so that a filesystem below that copies what is overwritten should not.
    pub writes_in_place: bool,
    /// The options that choose a variant of it, each with the values to compare it in. No value is that of two options.
    pub variants: &'static [Choice],
}

/// The engines of this program, in the order of lists; the first one is the default.
static OURS: [&Descriptor; 4] = [&lsm::ENGINE, &btree::ENGINE, &hybrid::ENGINE, &MEM];

static MEM: Descriptor = Descriptor {
    name: "mem",
    help: "nothing is kept (a baseline)",
    keeps: false,
    options: || Options::new(Kind::MEM, Common::default()),
    tiny: || Options::new(Kind::MEM, Common::tiny()),
    home: Home::Disk(|_, _, _| Ok(Arc::new(MemEngine::new()))),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: true,
    writes_in_place: false,
    variants: &[],
};

/// Engines of others, from the program around this library.
static OTHERS: OnceLock<&'static [&'static Descriptor]> = OnceLock::new();

/// Adds engines of others behind those of this library; once, before anything else. Whether it was the first time.
pub fn register(others: &'static [&'static Descriptor]) -> bool {
    OTHERS.set(others).is_ok()
}

/// Which engine.
#[derive(Clone, Copy)]
pub struct Kind(&'static Descriptor);

impl Kind {
    /// The LSM-tree.
    pub const LSM: Kind = Kind(&lsm::ENGINE);
    /// The B-tree.
    pub const BTREE: Kind = Kind(&btree::ENGINE);
    /// The B-tree over the levels of an LSM-tree.
    pub const HYBRID: Kind = Kind(&hybrid::ENGINE);
    /// A map in memory: the model of the tests, and a baseline to measure the rest of the way.
    pub const MEM: Kind = Kind(&MEM);

    /// Every one, in the order of lists.
    pub fn all() -> impl Iterator<Item = Kind> {
        OURS.into_iter().chain(OTHERS.get().into_iter().flat_map(|others| others.iter().copied())).map(Kind)
    }

    /// The one of this name; the error says which there are.
    pub fn parse(name: &str) -> std::result::Result<Kind, BadText> {
        let names: Vec<&str> = Kind::all().map(|kind| kind.name).collect();
        Kind::all().find(|kind| kind.name == name).ok_or_else(|| format!("takes {}", one_of(&names)).into())
    }

    /// All of them in one sentence.
    pub fn help() -> String {
        let each: Vec<String> = Kind::all().map(|kind| format!("{}: {}", kind.name, kind.help)).collect();
        format!("{}.", each.join("; "))
    }

    /// The kind that a registered descriptor stands for.
    pub const fn of(descriptor: &'static Descriptor) -> Kind {
        Kind(descriptor)
    }

    /// The variants to compare it in, each as an option and its value.
    pub fn variants(self) -> Vec<(&'static str, &'static str)> {
        let of = |(option, values): &Choice| {
            let option = *option;
            values().into_iter().map(move |value| (option, value))
        };
        self.variants.iter().flat_map(of).collect()
    }

    /// Its options, with their defaults.
    pub fn default_options(self) -> Options {
        (self.options)()
    }
}

impl Default for Kind {
    fn default() -> Kind {
        Kind(OURS[0])
    }
}

impl Deref for Kind {
    type Target = Descriptor;
    fn deref(&self) -> &Descriptor {
        self.0
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
