//! `kvfs mount`, in its two forms and as the helper of mount(8), and `kvfs umount`.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;

use super::options::{MountOptions, split};
use super::{Failure, absolute, code, start_log};
use crate::daemon::{self, Lines, Outcome, Side};
use crate::disk::LogFile;
use crate::fuse::session;
use crate::fuse::table::{self, Answer};
use crate::mount::{self, Closed, Closing, Request};
use crate::store::location;

#[derive(Debug, Args)]
pub struct MountArgs {
    /// Directory of the store
    dir: PathBuf,
    /// Mount point, an existing directory
    mount_point: PathBuf,
    /// Options, separated by commas; \, is a comma in a value
    #[arg(short, value_name = "OPTION[=VALUE],…")]
    options: Vec<String>,
    /// Stay in the foreground
    #[arg(short)]
    foreground: bool,
    /// Stay in the foreground and log everything
    #[arg(short)]
    debug: bool,
    /// Tolerate unknown options
    #[arg(short)]
    sloppy: bool,
    /// Say more
    #[arg(short)]
    verbose: bool,
    /// Accepted for mount(8): there is no table to leave alone
    #[arg(short)]
    no_table: bool,
    /// Check the options, but do not mount
    #[arg(long)]
    fake: bool,
    /// Accepted for mount(8): the type that it was given
    #[arg(short = 't', hide = true)]
    kind: Option<String>,
}

/// Mounts, and returns when the mount answers; in the foreground, when it has ended.
pub fn run(arguments: &MountArgs) -> Result<(), Failure> {
    let usage = |text: String| Failure::new(code::USAGE, text);
    let words: Vec<String> = arguments.options.iter().flat_map(|list| split(list)).collect();
    if words.iter().any(|word| word == "remount") {
        return remount(&arguments.mount_point, &words, arguments.fake);
    }
    let options =
        MountOptions::parse(&arguments.options, arguments.sloppy).map_err(|bad| usage(bad.into()))?;
    let store = absolute(&arguments.dir)?;
    let mount_point = table::resolve(&arguments.mount_point)
        .map_err(|error| usage(format!("mount point {}: {error}", arguments.mount_point.display())))?;
    let failed =
        |error: std::io::Error| Failure::new(code::MOUNT, format!("{}: {error}", mount_point.display()));
    // What is mounted there already may not answer; that is seen to when it is asked with a limit.
    let is_covered = table::mounted_at(&mount_point).map_err(failed)?.is_some_and(|mount| mount.is_fuse());
    if !is_covered && !mount_point.is_dir() {
        return Err(usage(format!("mount point {} is a file; it takes a directory", mount_point.display())));
    }
    if store.starts_with(&mount_point) {
        let (store, mount_point) = (store.display(), mount_point.display());
        return Err(usage(format!(
            "the store {store} would be hidden below its own mount point {mount_point}"
        )));
    }
    // A store that cannot be used is told before anything starts. Of one at a URL nothing is known before it is asked, by the process that
    // will serve it.
    if location::url(&store).is_none() {
        options.terms.look(&store).map_err(|error| Failure::of(&error, code::MOUNT))?;
    }
    if arguments.fake {
        return Ok(());
    }
    let request = Request {
        store: &store,
        mount_point: &mount_point,
        given: &options.given,
        terms: options.terms,
        flags: &options.flags,
    };
    let manner = Manner {
        foreground: arguments.foreground,
        debug: arguments.debug,
        says_so: arguments.verbose.then_some(true),
    };
    let done = format!("{} is mounted at {}", store.display(), mount_point.display());
    manner.run(&done, |reports| {
        mount::serve(&request, |store| reports.opened(|| store.log()), || reports.ready())
    })
}

/// How a mount is served: by this process while it stays in the foreground, or by one in the background.
pub(super) struct Manner {
    pub foreground: bool,
    pub debug: bool,
    /// Whether success is announced; on a terminal where nothing is said.
    pub says_so: Option<bool>,
}

/// What a mount tells about its beginning, and to whom.
pub(super) struct Reports<'a> {
    /// The process in the background, and what it has logged so far.
    child: Option<(&'a daemon::Child, &'a Lines)>,
    is_ready: Cell<bool>,
}

impl Reports<'_> {
    /// What is served is open. In the background `log` is where lines go from now on.
    pub fn opened(&self, log: impl FnOnce() -> io::Result<Option<LogFile>>) -> io::Result<()> {
        self.child.map_or(Ok(()), |(child, lines)| child.opened(log()?, lines))
    }

    /// Programs can use the mount.
    pub fn ready(&self) -> io::Result<()> {
        self.is_ready.set(true);
        self.child.map_or_else(daemon::notify_ready, |(child, _)| child.ready())
    }
}

impl Manner {
    /// Has `serve` serve, and returns when the mount answers; in the foreground, when it has ended. `done` is what is announced.
    pub fn run(
        &self,
        done: &str,
        serve: impl FnOnce(&Reports<'_>) -> Result<(), crate::store::Error>,
    ) -> Result<(), Failure> {
        let system =
            |error: io::Error| Failure::new(code::SYSTEM, format!("going to the background: {error}"));
        if self.foreground || self.debug {
            let level = if self.debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
            start_log(level, None);
            session::block_signals().map_err(system)?;
            let served = serve(&Reports { child: None, is_ready: Cell::new(false) });
            return served.map_err(|error| Failure::of(&error, code::MOUNT));
        }
        match daemon::daemonize().map_err(system)? {
            Side::Parent(parent) => match parent.wait().map_err(system)? {
                Outcome::Ready => {
                    if self.says_so.unwrap_or_else(|| io::stdout().is_terminal()) {
                        println!("{done}");
                    }
                    Ok(())
                }
                Outcome::Failed(code, text) => Err(Failure::new(code, text)),
            },
            Side::Child(child) => {
                let lines = Lines::default();
                start_log(log::LevelFilter::Info, Some(lines.clone()));
                session::block_signals().map_err(system)?;
                let reports = Reports { child: Some((&child, &lines)), is_ready: Cell::new(false) };
                serve(&reports).map_err(|error| {
                    let failure = Failure::of(&error, code::MOUNT);
                    if reports.is_ready.get() {
                        log::error!("{}", failure.text);
                    } else {
                        child.failed(failure.code, &failure.text);
                    }
                    // Said to whom it concerns; standard error is the log by now.
                    Failure::new(failure.code, "")
                })
            }
        }
    }
}

/// `mount -o remount`: mount(8) adds to `options` whatever the mount table says, so what is not understood is passed over.
fn remount(path: &Path, options: &[String], fake: bool) -> Result<(), Failure> {
    let show = path.display();
    let failed = |error: std::io::Error| Failure::new(code::MOUNT, format!("{show}: {error}"));
    let mount_point = table::resolve(path).map_err(failed)?;
    let mounted = table::mounted_at(&mount_point).map_err(failed)?;
    match mounted.filter(table::Mount::is_fuse) {
        Some(mounted) => match table::ask(&mount_point).map_err(failed)? {
            Answer::Kvfs { .. } => {}
            Answer::Closed if mounted.is_ours() => {}
            Answer::Silent => return Err(failed(session::silent(&mount_point, &mounted))),
            _ => return Err(Failure::new(code::USAGE, format!("{show} is no living mount of kvfs"))),
        },
        None => return Err(nothing_there(&mount_point)),
    }
    if fake { Ok(()) } else { session::remount(&mount_point, options).map_err(failed) }
}

/// The failure of whoever takes `mount_point` for a mount of ours.
fn nothing_there(mount_point: &Path) -> Failure {
    let show = mount_point.display();
    let elsewhere = table::elsewhere(mount_point).map_or(String::new(), |pid| {
        format!(
            "; process {pid} has one there in another mount namespace: nsenter -m -t {pid} kvfs umount {show}"
        )
    });
    Failure::new(code::USAGE, format!("{show}: no kvfs is mounted there{elsewhere}"))
}

/// Unmounts, and unless `lazy` waits until the store is closed.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), Failure> {
    let show = path.display();
    let failed = |error: std::io::Error| Failure::new(code::MOUNT, format!("{show}: {error}"));
    let mount_point = table::resolve(path)
        .map_err(|error| Failure::new(code::USAGE, format!("mount point {show}: {error}")))?;
    let mounted = table::mounted_at(&mount_point).map_err(failed)?;
    let Some(mounted) = mounted.filter(table::Mount::is_fuse) else {
        return Err(nothing_there(&mount_point));
    };
    // With -l nobody wants to know whether it answers.
    if lazy && mounted.is_ours() {
        return session::detach(&mount_point, true).map_err(failed);
    }
    let (store, pid) = match table::ask(&mount_point).map_err(failed)? {
        Answer::Dead if mounted.is_ours() => return session::detach(&mount_point, true).map_err(failed),
        Answer::Kvfs { store, pid } => (store, u32::try_from(pid).ok()),
        // Root may not look into a user's mount, but may take it away.
        Answer::Closed if mounted.is_ours() => (Some(mounted.source), None),
        Answer::Silent => return Err(failed(session::silent(&mount_point, &mounted))),
        Answer::Dead | Answer::Closed => {
            let text = format!(
                "{show}: nobody can say whether the {} there is a kvfs; umount -l takes it away",
                mounted.kind
            );
            return Err(Failure::new(code::USAGE, text));
        }
        Answer::Other => return Err(nothing_there(&mount_point)),
    };
    let closing = if lazy { None } else { Some(Closing::of(store.as_deref(), pid)) };
    let detached = if lazy { session::detach(&mount_point, true) } else { session::unmount(&mount_point) };
    detached.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(
            code::MOUNT,
            format!("{show} is in use; close what uses it (fuser -vm {show} lists it), or unmount with -l"),
        ),
        _ => failed(error),
    })?;
    // The kernel is done now, the daemon is not: whoever waits for us wants the store closed.
    match closing.map_or(Closed::Whole, |closing| closing.wait()) {
        Closed::Whole => Ok(()),
        Closed::Left(what) => Err(Failure::new(
            code::MOUNT,
            format!(
                "{show} is unmounted and nothing is lost, but its store was not closed whole, so the next mount has work to do first: \
                 {what}"
            ),
        )),
        Closed::Lost(what) => {
            let text = format!("{show} is unmounted; what was synced is there, what was not is lost: {what}");
            Err(Failure::new(code::MOUNT, text))
        }
        Closed::InUse => {
            Err(Failure::new(code::MOUNT, format!("{show} is unmounted, but its store is still in use")))
        }
    }
}
