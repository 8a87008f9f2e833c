//! Recordings of a live mount: `record on`, `record off`, `image`, the option `record=`, and what the report says of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::stats::Sample;
use super::{Control, Physical};
use crate::base::metric::{Since, metrics};
use crate::base::text::{BadText, Field, When};
use crate::disk::{create_outside, resolve_outside};
use crate::engine::{self, Engine};
use crate::fs::operation::Op;
use crate::fs::{Error, Result, Usage, Veil, keys};
use crate::recording::{self, Head, Keeps, Meters, Recorder, State, Writer};

metrics! {
    /// The recording of a mount that goes on, or went on last.
    pub struct RecordingSection witness "stats::recordings::a_recording_counts_what_it_holds_and_what_it_lacks" {
        /// `image`: what the store holds is being written, and what is asked of it already noted; `events`: what is asked is written; `ended`; `failed`: its
        /// file could not be written any more.
        text state: &'static str;
        /// Why it has ended or failed; null while it goes on.
        text cause: Option<String>;
        /// Its file.
        text path: String;
        /// What it keeps beside sizes and order: `nothing`, `names`, `values` or `all`.
        text keeps: &'static str;
        /// Bytes of its file.
        gauge bytes: u64 [Bytes];
        /// Entries of its image.
        gauge image_entries: u64 [Count];
        /// Batches, gets, scans and syncs noted.
        gauge events: u64 [Count];
        /// Those that are missing: they came faster than they could be written.
        gauge dropped: u64 [Count];
    }
}

/// Options of recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// File to record to from the start of the mount; `None` for none.
    pub record: Option<PathBuf>,
    /// What it keeps.
    pub record_keep: Keeps,
}

/// The text form of [`Options`].
pub const FIELDS: &[Field<Options>] = &[
    Field {
        name: "record",
        when: When::Once,
        help: "FILE: record what the store holds and all that is asked of it there, for kvfs replay and kvfs advise; sizes and order, no names, no contents; off.",
        set: |options, text| {
            options.record = match text {
                "off" => None,
                path if path.starts_with('/') => Some(PathBuf::from(path)),
                _ => return Err("it takes the absolute path of a file that is not there yet, or off".into()),
            };
            Ok(())
        },
        get: |options| options.record.as_ref().map_or("off".to_string(), |path| path.display().to_string()),
    },
    Field {
        name: "record_keep",
        when: When::Once,
        help: "nothing, names, values or all: what record= keeps beside sizes and order.",
        set: |options, text| {
            options.record_keep = parse_keeps(text)?;
            Ok(())
        },
        get: |options| name_of(options.record_keep).to_string(),
    },
];

/// Every value of `record_keep`.
const KEEPS: [(&str, Keeps); 4] = [
    ("nothing", Keeps { names: false, values: false }),
    ("names", Keeps { names: true, values: false }),
    ("values", Keeps { names: false, values: true }),
    ("all", Keeps { names: true, values: true }),
];

/// What a word says of what a recording keeps.
pub fn parse_keeps(text: &str) -> std::result::Result<Keeps, BadText> {
    let found = KEEPS.iter().find(|(name, _)| *name == text);
    found.map(|(_, keeps)| *keeps).ok_or_else(|| "it takes nothing, names, values or all".into())
}

fn name_of(keeps: Keeps) -> &'static str {
    KEEPS.iter().find(|(_, known)| *known == keeps).map_or("", |(name, _)| name)
}

/// The recorder at work, or the last one that was.
#[derive(Default)]
pub(super) struct Recordings {
    /// Held while a recording begins, which may wait for the disk.
    beginning: Mutex<()>,
    /// Held for a look only: reports look, too.
    running: Mutex<Option<Running>>,
}

struct Running {
    recorder: Arc<Recorder>,
    path: PathBuf,
    keeps: Keeps,
    is_image: bool,
    /// The thread that writes; `None` once somebody waits for its end.
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn is_over(&self) -> bool {
        matches!(self.recorder.status().state, State::Ended(_) | State::Failed(_))
    }
}

/// The doors' counts since `before`; those of reads since `imaged`, when the image was whole, which is read from the disk, too.
fn meters(before: &Sample, imaged: &Sample, now: &Sample, usage: &Usage, physical: &Physical) -> Meters {
    let (grown, read) = (now.since(before), now.since(imaged));
    let disk = grown.disk.total();
    Meters {
        app_write_bytes: Some(grown.app_write_bytes()),
        app_read_bytes: Some(read.app_read_bytes()),
        kv_write_bytes: Some(grown.kv_write_bytes()),
        disk_write_bytes: grown.metered(disk.write_bytes),
        disk_read_bytes: read.metered(read.disk.total().read_bytes),
        log_write_bytes: grown.metered(grown.log_write_bytes()),
        disk_syncs: grown.metered(disk.syncs),
        stalled_ns: Some(Duration::from_secs_f64(grown.shape.stalls.seconds()).as_nanos() as u64),
        physical_bytes: Some(physical.bytes).filter(|_| !physical.is_partial),
        live_bytes: Some(usage.stored_bytes + usage.record_bytes),
        ..Meters::default()
    }
}

/// A refusal with its sentence, which `.stats.d/ctl` and `kvfs ctl` show.
fn refused(text: String) -> Error {
    Error::Engine(engine::Error::Invalid(text))
}

impl Control {
    /// Begins a recording in the file `path`, which must not be there yet; with `is_image` it ends by itself once it has what the store holds.
    /// May wait for the disk.
    pub fn record(self: &Arc<Control>, path: &Path, keeps: Keeps, is_image: bool) -> Result<()> {
        let _one_at_a_time = self.recordings.beginning.lock();
        if let Some(other) = self.recordings.running.lock().as_ref().filter(|running| !running.is_over()) {
            let other = other.path.display();
            return Err(refused(format!("{other} is being recorded; 'record off' ends that")));
        }
        let path = self.place_of_recording(path)?;
        let show = path.display().to_string();
        let file = create_outside(&path).map_err(|error| {
            let way_out = match error.kind() {
                std::io::ErrorKind::AlreadyExists => "; a recording goes into a new file",
                _ => "",
            };
            refused(format!("making {show}: {error}{way_out}"))
        })?;
        let head = self.head_of_recording(keeps);
        let writer = Writer::new(file, &show, head).map_err(|error| refused(error.to_string()))?;
        let veil = recording::Veil { hide: Box::new(Veil::new().into_hide()), kind_of: keys::classify };
        let engine = self.parts.engine.clone();
        let recorder = Recorder::new(self.parts.clock.clone(), keeps, veil, !is_image);
        let before = self.sample();
        if !is_image {
            engine.tap().put(recorder.clone());
        }
        let (control, writing) = (self.clone(), recorder.clone());
        let thread = std::thread::spawn(move || {
            // The recorder asks for the first time when the image is whole.
            let imaged = OnceLock::new();
            let meters = || {
                let now = control.sample();
                let imaged = imaged.get_or_init(|| now.clone());
                meters(&before, imaged, &now, &(control.parts.usage)(), &control.physical.lock())
            };
            let result = writing.run(writer, &**control.parts.engine.uncounted(), &meters);
            if let Err(error) = result {
                log::error!("recording: {error}");
                control.note_failure(&error.to_string());
                control.parts.engine.tap().take_out(&writing);
            }
        });
        let running = Running { recorder, path, keeps, is_image, thread: Some(thread) };
        *self.recordings.running.lock() = Some(running);
        Ok(())
    }

    /// The recording's file without links; an error where it would record itself.
    fn place_of_recording(&self, path: &Path) -> Result<PathBuf> {
        let show = path.display();
        let path = resolve_outside(path).map_err(|error| refused(format!("{show}: {error}")))?;
        for (inside, what) in [
            (&self.mount.mount_path, "in the mount that is recorded"),
            (&self.mount.store_path, "in the store's directory"),
        ] {
            if !inside.is_empty() && path.starts_with(inside) {
                return Err(refused(format!("{show} lies {what}; give a place outside of it")));
            }
        }
        Ok(path)
    }

    fn head_of_recording(&self, keeps: Keeps) -> Head {
        let mount = &self.mount;
        let since = self.parts.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Head {
            program: mount.version.clone(),
            began_ms: since.as_millis() as u64,
            keys: "kvfs".to_string(),
            engine: self.parts.engine.kind().to_string(),
            options: mount.config.iter().filter(|(name, _)| !is_about_here(name)).cloned().collect(),
            operations: Op::ALL.iter().map(|op| <&str>::from(*op).to_string()).collect(),
            kinds: mount.kind_names.iter().map(|name| name.to_string()).collect(),
            keeps_names: keeps.names,
            keeps_values: keeps.values,
        }
    }

    /// Ends the recording that goes on, and waits until its file is whole. An error if there is none, or if it has failed.
    pub fn end_recording(&self, why: &str) -> Result<()> {
        let (recorder, thread) = {
            let mut running = self.recordings.running.lock();
            let running = running.as_mut().filter(|running| !running.is_over());
            let running = running.ok_or_else(|| refused("nothing is being recorded".to_string()))?;
            (running.recorder.clone(), running.thread.take())
        };
        self.parts.engine.tap().take_out(&recorder);
        recorder.end(why);
        self.join_recording(&recorder, thread)
    }

    /// Waits for the end of an image that [`Control::record`] has begun.
    pub(super) fn await_image(&self) -> Result<()> {
        let (recorder, thread) = {
            let mut running = self.recordings.running.lock();
            let running = running.as_mut().filter(|running| running.is_image);
            let running = running.ok_or_else(|| refused("no image is being made".to_string()))?;
            (running.recorder.clone(), running.thread.take())
        };
        self.join_recording(&recorder, thread)
    }

    fn join_recording(&self, recorder: &Recorder, thread: Option<JoinHandle<()>>) -> Result<()> {
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            return Err(refused("the recorder's thread panicked".to_string()));
        }
        match recorder.status().state {
            State::Failed(why) => Err(refused(why)),
            _ => Ok(()),
        }
    }

    /// What the report says.
    pub(super) fn recording(&self) -> Option<RecordingSection> {
        let running = self.recordings.running.lock();
        let Running { recorder, path, keeps, .. } = running.as_ref()?;
        let status = recorder.status();
        let (state, cause) = match status.state {
            State::Image => ("image", None),
            State::Events => ("events", None),
            State::Ended(why) => ("ended", Some(why)),
            State::Failed(why) => ("failed", Some(why)),
        };
        Some(RecordingSection {
            state,
            cause,
            path: path.display().to_string(),
            keeps: name_of(*keeps),
            bytes: status.bytes,
            image_entries: status.image_entries,
            events: status.events,
            dropped: status.dropped,
        })
    }

    fn note_failure(&self, what: &str) {
        let what = format!("recording: {what}");
        self.event_log.record(self.parts.clock.now(), "error", vec![("what", what.into())]);
    }
}

/// Whether an option says something of this machine, which a recording that others may see has no use for.
fn is_about_here(name: &str) -> bool {
    matches!(name, "metrics" | "record" | "record_keep")
}
