//! Repairs a store that is not mounted: what the engine has lost below, then what the filesystem makes of it.
//!
//! 1. If an earlier repair was interrupted while it put its result in place, that is finished first.
//! 2. The engine is opened over an [`Overlay`] and verified. If it is whole, the filesystem is mended in place.
//! 3. If it is not, everything that can still be read is written to a new store beside it, in files called `repair.…`, and mended
//!    there. The damaged store is only read.
//! 4. The new store is made durable and verified. The file `REPAIRED`, which lists its files, is the point of no return: from
//!    there on they take the places of the old ones.
//!
//! A dry run does the same in memory: blocks of files count there, but have no content.
//!
//! # Invariants
//!
//! 1. Until `REPAIRED` is durable the damaged store is as it was; after it the new store is whole. So a repair may be interrupted
//!    anywhere and begun again, and a store with that file is not mounted.
//! 2. A dry run writes nothing.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::clock::{Clock, SystemClock};
use crate::disk::{self, Disk, Latch, Overlay, Prefixed, Purpose};
use crate::engine::salvage::{self, Loss, Writer};
use crate::engine::{self, Command, Engine, MemEngine, Operation, Options};
use crate::fs::types::Ino;
use crate::fs::{self, Affected, CheckSummary, Described, keys};
use crate::store::{Blame, DESCRIPTION, Description, Error};

/// Prefix of the names of a new store's files until it is in its place.
const PREFIX: &str = "repair.";
/// Lists the files of a new store that is whole.
const MARK: &str = "REPAIRED";
/// The most bytes that a block of a file has.
const ZEROS: &[u8] = &[0; fs::BLOCK_BYTES_MAX as usize];

/// Report of a repair, or in a dry run of what it would do.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Nothing was written.
    pub is_dry: bool,
    /// An earlier repair was finished first.
    pub was_interrupted: bool,
    /// Damage that the engine reports.
    pub damage: Vec<String>,
    /// Ranges that could not be read.
    pub losses: Vec<Loss>,
    /// Parts of files that may be missing or older than they were.
    pub affected: Vec<Affected>,
    /// Findings of the filesystem's check: after the salvage, if there was one.
    pub problems: Vec<String>,
    /// Changes made.
    pub mends: Vec<String>,
    /// Problems that are left.
    pub left: Vec<String>,
    /// Summary of the store now.
    pub summary: CheckSummary,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty() && self.problems.is_empty() && !self.was_interrupted
    }

    /// As JSON.
    pub fn json(&self) -> serde_json::Value {
        let losses: Vec<serde_json::Value> = self
            .losses
            .iter()
            .map(|loss| serde_json::json!({ "file": loss.file, "offset": loss.offset, "what": loss.what }))
            .collect();
        let affected: Vec<serde_json::Value> = self
            .affected
            .iter()
            .map(|part| serde_json::json!({ "path": part.path, "ino": part.ino.0, "part": part_text(part) }))
            .collect();
        serde_json::json!({
            "clean": self.is_clean(),
            "dry_run": self.is_dry,
            "was_interrupted": self.was_interrupted,
            "damage": self.damage,
            "losses": losses,
            "affected": affected,
            "problems": self.problems,
            "mends": self.mends,
            "left": self.left,
            "summary": summary_json(&self.summary),
        })
    }
}

/// A summary as JSON.
pub fn summary_json(summary: &CheckSummary) -> serde_json::Value {
    serde_json::json!({
        "keys": summary.keys,
        "inodes": summary.inodes,
        "directories": summary.directories,
        "names": summary.names,
        "xattrs": summary.xattrs,
        "blocks": summary.blocks,
        "stored_bytes": summary.stored_bytes,
        "reclaim_blocks": summary.reclaim_blocks,
        "orphans": summary.orphans,
    })
}

fn part_text(part: &Affected) -> String {
    let text = part.to_string();
    text.strip_prefix(&format!("{}: ", part.path)).map(str::to_string).unwrap_or(text)
}

impl fmt::Display for Report {
    /// One finding a line, each with its kind in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.was_interrupted {
            writeln!(f, "damage: a repair was interrupted; its result was put in place first")?;
        }
        self.damage.iter().try_for_each(|what| writeln!(f, "damage: {what}"))?;
        for Loss { file, offset, what, keys } in &self.losses {
            let unknown = if keys.is_none() { "; nobody can say of which files" } else { "" };
            writeln!(f, "lost: {file} at byte {offset}: {what}{unknown}")?;
        }
        self.affected.iter().try_for_each(|part| writeln!(f, "may be lost or old: {part}"))?;
        self.problems.iter().try_for_each(|what| writeln!(f, "problem: {what}"))?;
        let verb = if self.is_dry { "would mend" } else { "mended" };
        self.mends.iter().try_for_each(|what| writeln!(f, "{verb}: {what}"))?;
        self.left.iter().try_for_each(|what| writeln!(f, "left: {what}"))
    }
}

fn system(what: &str, error: io::Error) -> Error {
    Error::system(what, error)
}

/// Whether a repair of the store on `disk` was interrupted at a point where only a repair may go on.
pub fn is_pending(disk: &dyn Disk) -> Result<bool, Error> {
    match disk.open(MARK) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(system("looking for an interrupted repair", error)),
    }
}

/// The sentence for a store that [`is_pending`].
pub const PENDING: &str = "a repair of this store was interrupted: kvfs check --repair --yes finishes it";

/// Repairs the store on `disk`, which nobody else may use; unless `apply`, only says what it would do.
pub fn repair(disk: Arc<dyn Disk>, apply: bool, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let disk: Arc<dyn Disk> = if apply { disk } else { Overlay::new(disk) };
    let mut report = Report { is_dry: !apply, ..Report::default() };
    if is_pending(&*disk)? {
        report.was_interrupted = true;
        put_in_place(&*disk).map_err(|error| system("finishing the interrupted repair", error))?;
    }
    let stage: Arc<dyn Disk> = Prefixed::new(disk.clone(), PREFIX);
    clear(&*stage).map_err(|error| system("removing what an earlier repair left", error))?;
    let (description, is_rebuilt) = describe(&disk, &mut report)?;
    let settings = description.settings(&[])?;
    let kind = settings.engine.kind();
    if !kind.keeps {
        return Err(Error::usage(format!(
            "the store was made with engine={kind}, which keeps nothing to repair"
        )));
    }
    if kind.salvage.is_none() {
        let text = "whose files only its own tools can repair";
        return Err(Error::usage(format!("the store was made with engine={kind}, {text}")));
    }
    let options = &settings.engine;
    let described = Described { block_bytes: settings.fs.block_bytes, uuid: description.uuid };
    progress("verifying every checksum");
    let overlay: Arc<dyn Disk> = Overlay::new(disk.clone());
    let uuid = match verified(overlay.clone(), options)? {
        Ok(engine) => {
            progress("verifying every name, inode and block");
            let mut problems = 0;
            fs::check(&*engine, &mut |_| problems += 1).map_err(fs_error).map(|summary| {
                report.summary = summary;
            })?;
            let mut uuid = fs::stored_uuid(&*engine);
            if problems > 0 {
                let engine = match apply {
                    true => {
                        drop(engine);
                        open(Latch::new(disk.clone()), options)?
                    }
                    false => engine,
                };
                mend(&*engine, described, &mut report)?;
                uuid = fs::stored_uuid(&*engine);
                if apply {
                    close(&*engine)?;
                }
            }
            uuid
        }
        Err(damage) => {
            report.damage.push(damage);
            progress("salvaging what can be read");
            rebuild(&disk, overlay, apply, options, described, &mut report)?
        }
    };
    if is_rebuilt {
        let description = Description { uuid: uuid.unwrap_or(description.uuid), ..description };
        description.save(&*disk)?;
    }
    Ok(report)
}

/// The store's description, and whether it was put together from a damaged one.
fn describe(disk: &Arc<dyn Disk>, report: &mut Report) -> Result<(Description, bool), Error> {
    let damage = match Description::load(&**disk) {
        Ok(Some(description)) => return Ok((description, false)),
        Ok(None) => format!("{DESCRIPTION} is missing"),
        Err(error) if error.blame == Blame::Damage => error.to_string(),
        Err(error) => return Err(error),
    };
    let kind = salvage::kind_of(&**disk).map_err(engine_error)?;
    let kind =
        kind.ok_or_else(|| Error::damaged(format!("{damage}, and no engine's files are there alone")))?;
    report.damage.push(damage);
    Ok((Description::rebuild(&**disk, kind)?, true))
}

fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<dyn Engine>, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    engine::open(disk, clock, options).map_err(engine_error)
}

/// The engine on `disk` if every checksum in it fits; else a sentence about the first that does not.
fn verified(disk: Arc<dyn Disk>, options: &Options) -> Result<Result<Arc<dyn Engine>, String>, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let opened = engine::open(disk, clock, options)
        .and_then(|engine| engine::run(&*engine, Command::Verify).map(|()| engine));
    match opened {
        Ok(engine) => Ok(Ok(engine)),
        Err(error @ engine::Error::Invalid(_)) => Err(engine_error(error)),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn mend(engine: &dyn Engine, described: Described, report: &mut Report) -> Result<(), Error> {
    let before = fs::affected(engine, &report.losses).map_err(fs_error)?;
    let repaired = fs::repair(engine, described, &report.losses).map_err(fs_error)?;
    report.problems = repaired.problems;
    report.mends = repaired.mends;
    report.left = repaired.left;
    report.summary = repaired.summary;
    // With the paths that they have now; what could not be kept, with those that it had.
    report.affected = fs::affected(engine, &report.losses).map_err(fs_error)?;
    let kept: HashSet<Ino> = report.affected.iter().map(|part| part.ino).collect();
    report.affected.extend(before.into_iter().filter(|part| !kept.contains(&part.ino)));
    Ok(())
}

fn close(engine: &dyn Engine) -> Result<(), Error> {
    engine::sync(engine).and_then(|()| engine.close()).map_err(engine_error)
}

/// Writes what can be read of the damaged store to a new one, mends that and puts it in place. Returns the uuid in it.
fn rebuild(
    disk: &Arc<dyn Disk>,
    damaged: Arc<dyn Disk>,
    apply: bool,
    options: &Options,
    described: Described,
    report: &mut Report,
) -> Result<Option<[u8; 16]>, Error> {
    // What the attempt to open it has changed is only in memory, but need not be right.
    drop(damaged);
    let damaged: Arc<dyn Disk> = Overlay::new(disk.clone());
    let stage: Arc<dyn Disk> = Prefixed::new(disk.clone(), PREFIX);
    let target: Arc<dyn Engine> = match apply {
        true => open(Latch::new(stage.clone()), options)?,
        false => Arc::new(MemEngine::new()),
    };
    let mut writer = Writer::new(&*target);
    let mut sink = |operation: Operation| match operation {
        Operation::Put { key, value } if !apply && keys::is_block(&key) && value.len() <= ZEROS.len() => {
            writer.add(Operation::Put { key, value: Bytes::from_static(ZEROS).slice(..value.len()) })
        }
        other => writer.add(other),
    };
    report.losses = salvage::salvage(damaged, options, &mut sink).map_err(engine_error)?;
    writer.finish().map_err(engine_error)?;
    mend(&*target, described, report)?;
    let uuid = fs::stored_uuid(&*target);
    if apply {
        engine::sync(&*target)
            .and_then(|()| engine::run(&*target, Command::Verify))
            .and_then(|()| target.close())
            .map_err(engine_error)?;
        drop(target);
        mark(&**disk, &*stage).map_err(|error| system(&format!("writing {MARK}"), error))?;
        put_in_place(&**disk).map_err(|error| system("putting the repaired store in place", error))?;
    }
    Ok(uuid)
}

/// Removes every file of an unfinished new store.
fn clear(stage: &dyn Disk) -> io::Result<()> {
    let files = stage.list()?;
    files.iter().try_for_each(|info| stage.remove(&info.name))?;
    if files.is_empty() { Ok(()) } else { stage.sync_names() }
}

/// Says that the new store is whole.
fn mark(disk: &dyn Disk, stage: &dyn Disk) -> io::Result<()> {
    stage.sync_names()?;
    let names: Vec<String> = stage.list()?.into_iter().map(|info| info.name).collect();
    disk::replace(disk, Purpose::Manifest, MARK, names.join("\n").as_bytes())
}

/// Puts the files of a new store that is whole in the places of the old ones. May be interrupted and done again.
fn put_in_place(disk: &dyn Disk) -> io::Result<()> {
    let text = disk::read_all(&*disk.open(MARK)?, Purpose::Recovery)?;
    let text = String::from_utf8_lossy(&text);
    let new: Vec<&str> = text.lines().collect();
    let there: Vec<String> = disk.list()?.into_iter().map(|info| info.name).collect();
    for name in &new {
        let staged = format!("{PREFIX}{name}");
        // It is in its place already where this was done before.
        if there.contains(&staged) {
            disk.rename(&staged, name)?;
        }
    }
    for name in there.iter().filter(|name| salvage::is_engine_file(name) && !new.contains(&name.as_str())) {
        disk.remove(name)?;
    }
    disk.sync_names()?;
    disk.remove(MARK)?;
    disk.sync_names()
}

fn engine_error(error: engine::Error) -> Error {
    match error {
        engine::Error::Invalid(sentence) => Error::usage(sentence),
        engine::Error::Corrupt { .. } => Error::damaged(error.to_string()).because(error),
        engine::Error::NoSpace => Error::refused(
            "no space left: a store with damage below is written anew beside the damaged one, which takes as much as its \
             live data"
                .to_string(),
        )
        .because(error),
        other => Error::refused(other.to_string()).because(other),
    }
}

fn fs_error(error: fs::Error) -> Error {
    match error {
        fs::Error::Engine(error) => engine_error(error),
        other => Error::damaged(other.to_string()).because(other),
    }
}
