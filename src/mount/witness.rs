//! A directory passed through from its opening to its end: [`Directory`] ← [`WitnessAdapter`] ← kernel, and beside it `/.stats`.
//!
//! It is a process of its own, never a thread of the program whose files pass: a process that is killed while its threads wait for a
//! filesystem which it serves itself never ends.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::service::Stop;
use crate::base::clock::{Clock, SystemClock};
use crate::base::metric::Since;
use crate::control::{WitnessControl, WitnessInfo};
use crate::disk::process_io;
use crate::fuse::WitnessAdapter;
use crate::fuse::session::{self, End, MountFlags};
use crate::store::Error;
use crate::witness::{Directory, ENGINES, FIELDS, Options, Patterns};

/// A request to pass a directory through.
pub struct WitnessRequest<'a> {
    /// The directory, absolute and without links.
    pub directory: &'a Path,
    /// The mount point, absolute and without links; it may be the directory itself.
    pub mount_point: &'a Path,
    /// Options of the witness.
    pub options: &'a Options,
    /// Nothing may be changed through it.
    pub read_only: bool,
    /// Flags of mount(8) that every filesystem has.
    pub flags: &'a MountFlags,
    /// It ends with standard input, and at no signal.
    pub until_input_ends: bool,
}

/// The patterns that `options` ask for, as they are applied and as text.
pub fn patterns(options: &Options) -> Result<(Patterns, String), Error> {
    let Some(path) = &options.patterns else {
        let wanted =
            ENGINES.iter().filter(|(name, _)| options.engine.as_deref().is_none_or(|it| it == *name));
        return Ok((Patterns::built_in(options.engine.as_deref()), wanted.map(|(_, text)| *text).collect()));
    };
    let show = path.display();
    let wrong = |problem: String| Error::usage(format!("option patterns={show}: {problem}"));
    let text = crate::disk::read_outside(path).map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| wrong("it is not text in UTF-8".to_string()))?;
    let patterns = Patterns::parse(&show.to_string(), &text).map_err(|bad| Error::usage(bad.to_string()))?;
    Ok((patterns, text))
}

/// Passes a directory through until it is unmounted. `opened` is called when it is open, `ready` when programs can use the mount; an error of theirs
/// ends it. All that was written is on the disk when this returns `Ok`.
///
/// Signals must be blocked ([`session::block_signals`]), and no other thread may run.
pub fn serve_witness(
    request: &WitnessRequest<'_>,
    opened: impl FnOnce() -> io::Result<()>,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), Error> {
    let WitnessRequest { directory: path, mount_point, options, read_only, flags, until_input_ends } =
        *request;
    let occupied = |error| Error::system(mount_point.display(), error);
    if session::make_way(mount_point).map_err(occupied)? {
        log::warn!("{}: detached a mount whose daemon had died", mount_point.display());
    }
    let (patterns, text) = patterns(options)?;
    raise_open_files();
    let began = process_io().ok();
    let failed = |error: io::Error| Error::system(path.display(), error);
    let directory = Arc::new(Directory::open(path, patterns).map_err(|error| failed(error.into()))?);
    opened().map_err(|error| Error::system("starting", error))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let process = move || Some(process_io().ok()?.since(began.as_ref()?));
    let info = info(request, text);
    let control = WitnessControl::new(info, directory.clone(), clock, Box::new(process));
    let (events, received) = channel();
    let watch = if until_input_ends { session::watch_input } else { session::watch_signals };
    watch(events.clone()).map_err(|error| Error::system("starting a thread", error))?;
    let stop = Arc::new(Stop::default());
    let ticking = {
        let (stop, control) = (stop.clone(), control.clone());
        let tick = move || {
            control.tick();
            while stop.sleep(Duration::from_secs(1)) {
                control.tick();
            }
        };
        std::thread::Builder::new().name("kvfs-control".to_string()).spawn(tick)
    };
    let ticking = ticking.map_err(|error| Error::system("starting a thread", error))?;
    let end = WitnessAdapter::witness(directory.clone(), control.tree(), options, read_only, events)
        .and_then(|adapter| session::run(adapter, path, mount_point, flags, &received, ready));
    stop.tell();
    if ticking.join().is_err() {
        log::error!("a background thread panicked");
    }
    let end = end.map_err(|error| Error::system(format!("mounting at {}", mount_point.display()), error))?;
    if !read_only {
        directory.sync_all().map_err(|error| failed(error.into()))?;
    }
    match end {
        End::Unmounted => log::info!("{}: unmounted; everything is synced", mount_point.display()),
        End::Forced => {
            log::warn!(
                "{}: ended with files open; everything written so far is synced",
                mount_point.display()
            );
        }
        End::Abandoned => {
            let text = "ended while the kernel still kept data of open files; what had arrived is synced";
            return Err(Error::refused(format!("{}: {text}", mount_point.display())));
        }
    }
    Ok(())
}

fn info(request: &WitnessRequest<'_>, patterns_text: String) -> WitnessInfo {
    let options = request.options;
    let patterns = match (&options.patterns, &options.engine) {
        (Some(path), _) => path.display().to_string(),
        (None, engine) => engine.clone().unwrap_or_else(|| "all".to_string()),
    };
    WitnessInfo {
        version: env!("CARGO_PKG_VERSION").to_string(),
        directory: request.directory.display().to_string(),
        mount_path: request.mount_point.display().to_string(),
        patterns,
        patterns_text,
        pid: std::process::id(),
        owner: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        config: FIELDS.iter().map(|field| (field.name.to_string(), (field.get)(options))).collect(),
    }
}

/// Lets this process have as many files open as it may: each file that the kernel knows is one.
fn raise_open_files() {
    if let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, most, most)
    {
        log::warn!("at most {now} files can be open, for raising that to {most}: {error}");
    }
}
