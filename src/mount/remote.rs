//! Stores at URLs: what is there, and what is of them on this machine.
//!
//! The description lies beside the engine's objects, and a copy of it in the seat, so that the endpoint and whatever else leads there is said
//! once on a machine. Which of two writers is the one that writes is for the engine to say, not for the lock of a seat: that only keeps two
//! mounts of one machine from sharing a log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::errors::store_error;
use super::lock::lock;
use super::store::{Below, Manner, Store};
use crate::disk::{self, Access as SeatAccess, Opening, OsDisk};
use crate::engine::Kind;
use crate::engine::remote::{Access, Remote, Site, remote_of};
use crate::store::location::Seats;
use crate::store::{Description, Error, Given, Settings, Terms};

/// Makes a store at `url`, where nothing may lie. It is durable when this returns.
pub(super) fn make(url: &str, given: &Given) -> Result<Store, Error> {
    let place = Place::connect(url, given, Access::Write)?;
    if place.found.is_some() {
        return Err(Error::usage(format!("{url} already holds a store")));
    }
    place.open()
}

/// Opens the store at `url`; where nothing lies it becomes a store with the `given` options, if `terms` let it.
pub(super) fn open(url: &str, given: &Given, terms: Terms) -> Result<Store, Error> {
    let is_read_only = Settings::are_read_only(given)?;
    let place = Place::connect(url, given, if is_read_only { Access::Follow } else { Access::Write })?;
    match (&place.found, is_read_only) {
        (None, true) => Err(Error::usage(format!("{url} holds no store, and read-only none is made"))),
        (None, false) if terms.must_exist => {
            Err(Error::refused(format!("{url} holds no store, and with nocreate none is made there")))
        }
        _ => place.open(),
    }
}

/// Opens the store at `url` to look at what is durable now; nothing of it changes, also while somebody writes.
pub(super) fn look(url: &str) -> Result<Store, Error> {
    let read_only = [("read_only".to_string(), "on".to_string())];
    let place = Place::connect(url, &read_only, Access::Look)?;
    if place.found.is_none() {
        return Err(Error::usage(format!("{url} holds no store")));
    }
    place.open()
}

/// The place that a URL names, seen from this machine.
struct Place<'a> {
    url: &'a str,
    given: Vec<(String, String)>,
    access: Access,
    seat: Arc<OsDisk>,
    /// What is taken away at the end.
    reader_seat: Option<ReaderSeat>,
    below: Below,
    site: Arc<dyn Site>,
    /// The description that is there.
    found: Option<Description>,
}

impl<'a> Place<'a> {
    fn connect(url: &'a str, given: &Given, access: Access) -> Result<Place<'a>, Error> {
        let (kind, remote) = remote_of(url).map_err(|error| Error::usage(format!("{url}: {error}")))?;
        let mut given = given.to_vec();
        if !given.iter().any(|(name, _)| name == "engine") {
            given.push(("engine".to_string(), kind.name.to_string()));
        }
        let seats = Seats::of(url).map_err(|error| Error::system(url, error))?;
        let remembered = remembered(&seats.writer())?;
        let (seat, reader_seat) = take_seat(&seats, access).map_err(|error| Error::system(url, error))?;
        let below = Below::new(Path::new(url), &seat)?;
        let site = reach(url, kind, remote, remembered.as_ref(), &given)?;
        let text = site.description().map_err(|error| Error::system(url, error))?;
        let found = text.map(|text| Description::decode(&text)).transpose().map_err(|error| error.at(url))?;
        Ok(Place { url, given, access, seat, reader_seat, below, site, found })
    }

    /// Opens what is there, or makes it.
    fn open(self) -> Result<Store, Error> {
        let Place { url, given, access, seat, reader_seat, below, site, found } = self;
        let failed = |error| Error::system(url, error);
        let description = match found {
            Some(description) => description,
            None => {
                if let Some(name) = site.foreign().map_err(failed)? {
                    return Err(Error::usage(format!(
                        "{url} is neither a store nor empty (it holds {name}); give a prefix of which nothing is there"
                    )));
                }
                let made = Description::new(&given)?;
                made.settings(&given)?;
                match site
                    .describe(made.encode().as_bytes())
                    .map_err(|error| store_error(&url, error, &*below.latch))?
                {
                    true => made,
                    false => {
                        return Err(Error::refused(format!(
                            "{url}: somebody else is making a store there just now"
                        )));
                    }
                }
            }
        };
        // A copy for the next mount from this machine.
        description.save(&*below.latch)?;
        let settings = description.settings(&given)?;
        let options = settings.engine.clone();
        let to = site.clone();
        below.open(
            Path::new(url),
            seat,
            |clock| to.open(access, clock, &options),
            (description, settings),
            Manner::Remote(site, reader_seat),
        )
    }
}

/// The description that the last mount from this machine has left in its seat.
fn remembered(seat: &Path) -> Result<Option<Description>, Error> {
    let path = seat.join(crate::store::DESCRIPTION);
    match disk::read_outside(&path) {
        Ok(text) => Description::decode(&text).map(Some).map_err(|error| error.at(path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::system(path.display(), error)),
    }
}

fn reach(
    url: &str,
    kind: Kind,
    remote: &'static dyn Remote,
    remembered: Option<&Description>,
    given: &Given,
) -> Result<Arc<dyn Site>, Error> {
    let settings = match remembered {
        Some(description) => description.settings(given)?,
        None => Description::new(given)?.settings(given)?,
    };
    if settings.engine.kind() != kind {
        return Err(Error::usage(format!(
            "{url}: a store at such a URL has engine={kind}, not engine={}; leave the option out",
            settings.engine.kind()
        )));
    }
    remote.connect(url, &settings.engine).map_err(|error| Error::usage(format!("{url}: {error}")))
}

/// The seat of a process that reads; it goes with it.
pub(super) struct ReaderSeat(PathBuf);

impl Drop for ReaderSeat {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_tree(&self.0) {
            log::warn!("{}: taking away the seat of a reader: {error}", self.0.display());
        }
    }
}

/// Takes the seat of a mount that writes, or one for this process alone.
fn take_seat(seats: &Seats, access: Access) -> io::Result<(Arc<OsDisk>, Option<ReaderSeat>)> {
    let opening = Opening { access: SeatAccess::Write, any_owner: false };
    if access == Access::Write {
        return Ok((lock(&seats.writer(), opening)?, None));
    }
    // Those of processes that were killed.
    for seat in seats.readers()? {
        if OsDisk::open(&seat, opening).is_ok() {
            drop(ReaderSeat(seat));
        }
    }
    let path = seats.reader();
    Ok((lock(&path, opening)?, Some(ReaderSeat(path))))
}
