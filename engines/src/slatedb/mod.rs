//! SlateDB: an LSM-tree whose tables and log are objects of an object store, so that a store may be anywhere, larger than any disk, with one mount that
//! writes and any number that read.
//!
//! ```text
//! PREFIX/STORE      the description of the store (kvfs)
//! PREFIX/WRITER     who writes, for whoever else comes (holder)
//! PREFIX/probe/…    while a store is asked whether it can keep two writers apart (probe)
//! PREFIX/db/…       SlateDB's: manifest/, wal/, compacted/, compactions/, gc/
//! ```
//!
//! In a directory it works as well, as `file://` there: without a server, and with what a test of any engine asks.

mod ahead;
mod asking;
mod cache;
mod creation;
mod door;
mod failure;
mod garbage;
mod holder;
mod kinds;
mod log_cache;
mod options;
mod probe;
mod profile;
mod reader;
mod site;
mod staged;
mod statistics;
mod still_clock;
mod writer;

use std::path::Path;
use std::sync::Arc;

use kvfs::base::clock::Clock;
use kvfs::engine::remote::{Access, Remote, Site, url_of};
use kvfs::engine::{Descriptor, Engine, Error, Home, Kind, Options, OwnOptions, Result};

use options::SlateOptions;
use site::Place;

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "slatedb",
    help: "SlateDB, an LSM-tree on an object store",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), SlateOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), SlateOptions::tiny()),
    home: Home::Directory(open),
    remote: Some(&Urls),
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: false,
    variants: &[],
};

/// Opens the store in `directory`, of which whoever opens it has seen to that nobody else does.
fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let mut own = options.own::<SlateOptions>()?.clone();
    own.takeover = true;
    let place = Place::connect(&url_of(directory), &own)?;
    place.open(Access::Write, clock, &Options::new(Kind::of(&ENGINE), own))
}

/// The way to stores at URLs.
struct Urls;

impl Remote for Urls {
    fn schemes(&self) -> &'static [&'static str] {
        &["s3", "gs", "az", "file"]
    }

    fn connect(&self, url: &str, options: &Options) -> Result<Arc<dyn Site>> {
        let own = options.own::<SlateOptions>()?;
        own.validate().map_err(Error::from)?;
        Ok(Arc::new(Place::connect(url, own)?))
    }
}
