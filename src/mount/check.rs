//! Looking at a store that is not mounted, and mending it.

use std::path::Path;
use std::sync::Arc;

use super::errors::{fs_error, store_error};
use super::lock::lock;
use super::remote;
use super::store::open_engine;
use crate::base::clock::{Clock, SystemClock};
use crate::disk::{Access, Disk, Opening, Overlay, Pool};
use crate::engine::{self, Command, Engine};
use crate::fs::{self, CheckSummary};
use crate::repair;
use crate::store::{Description, Error, Place, location, look};

/// Findings of a check.
#[derive(Debug, Default)]
pub struct Findings {
    /// Each broken promise, as a sentence.
    pub damage: Vec<String>,
    /// Summary of the filesystem, unless damage ended the check before.
    pub summary: Option<CheckSummary>,
}

/// Checks the store in `path`, which nobody may have open: every checksum, then every invariant of the filesystem. Nothing
/// is written: a store that was not closed is recovered over a view in memory; only an engine with a directory of its own recovers there in
/// its own way. `progress` is told what is done next.
///
/// A store at a URL is looked at as it is durable now, whoever has it mounted.
pub fn check(path: &Path, progress: &mut dyn FnMut(&str)) -> Result<Findings, Error> {
    let show = path.display();
    let mut findings = Findings::default();
    if let Some(url) = location::url(path) {
        progress("opening");
        let store = remote::look(url)?;
        examine(&show, &**store.engine.uncounted(), &*store.disk, progress, &mut findings)?;
        store.close()?;
        return Ok(findings);
    }
    match look(path)? {
        Place::Store => {}
        Place::Missing | Place::Empty => return Err(Error::usage(format!("{show} holds no store"))),
    }
    progress("opening");
    // A daemon that was just killed may hold the store for a moment yet.
    let os = lock(path, Access::Read).map_err(|error| Error::system(&show, error))?;
    let disk: Arc<dyn Disk> = Overlay::new(Pool::of_process(os.clone()));
    if repair::is_pending(&*disk)? {
        findings.damage.push(repair::PENDING.to_string());
        return Ok(findings);
    }
    let found = Description::load(&*disk)?
        .ok_or_else(|| Error::refused(format!("{show}: its description cannot be opened")))?;
    let settings = found.settings(&[])?;
    let kind = settings.engine.kind();
    if !kind.keeps {
        return Err(Error::usage(format!(
            "{show} was made with engine={kind}, which keeps nothing to check"
        )));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let engine = match open_engine(&os, disk.clone(), clock, &settings.engine) {
        Ok(engine) => engine,
        Err(error) if error.is_damage() => {
            findings.damage.push(error.to_string());
            return Ok(findings);
        }
        Err(error) => return Err(store_error(&show, error, &*disk)),
    };
    examine(&show, &*engine, &*disk, progress, &mut findings)?;
    Ok(findings)
}

/// Verifies every checksum, then every invariant of the filesystem.
fn examine(
    show: &impl std::fmt::Display,
    engine: &dyn Engine,
    disk: &dyn Disk,
    progress: &mut dyn FnMut(&str),
    findings: &mut Findings,
) -> Result<(), Error> {
    progress("verifying every checksum");
    match engine::run(engine, Command::Verify) {
        Ok(()) => {}
        Err(error) if error.is_damage() => findings.damage.push(error.to_string()),
        Err(error) => return Err(store_error(show, error, disk)),
    }
    progress("verifying every name, inode and block");
    let damage = &mut findings.damage;
    match fs::check(engine, &mut |problem| damage.push(problem.what)) {
        Ok(summary) => findings.summary = Some(summary),
        Err(error) => match &error {
            fs::Error::Damaged(_) => damage.push(error.to_string()),
            fs::Error::Engine(below) if below.is_damage() => {
                // The verification has mostly named it.
                let sentence = error.to_string();
                if !damage.iter().any(|known| known.contains(&sentence)) {
                    damage.push(sentence);
                }
            }
            _ => return Err(fs_error(show, error, disk)),
        },
    }
    Ok(())
}

/// Repairs the store in `path`, which nobody may have open; unless it is opened for writing, only says what it would do.
pub fn repair(
    path: &Path,
    opening: Opening,
    progress: &mut dyn FnMut(&str),
) -> Result<repair::Report, Error> {
    let show = path.display();
    if location::url(path).is_some() {
        return Err(Error::usage(format!(
            "{show}: a store at a URL is not mended here; kvfs check says what is damaged, and what can still be read can be copied from \
             a mount with -o ro"
        )));
    }
    if look(path)? != Place::Store {
        return Err(Error::usage(format!("{show} holds no store")));
    }
    let os = lock(path, opening).map_err(|error| Error::system(&show, error))?;
    repair::repair(Pool::of_process(os), opening.access == Access::Write, progress)
        .map_err(|error| error.at(show))
}
