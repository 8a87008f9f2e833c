//! `.stats` of a witness: what it counted, for people and machines, and the words that are written to it.
//!
//! It is [`super::Control`] with one door instead of three and no engine: nothing is made durable, flushed or merged by command. Latencies do not subtract, so a mark
//! remembers their distributions.

mod command;
mod document;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::{json, prometheus};
use crate::base::clock::Clock;
use crate::base::metric::{Each, Since as _, ratio};
use crate::disk::ProcessIo;
use crate::fs::meter::{Latency, growth};
use crate::fs::types::{Caller, ROOT};
use crate::fs::{Error, Result};
use crate::virtual_files::{Done, VirtualDirectory, VirtualFile, VirtualTree};
use crate::witness::sizes::{self, Sizes};
use crate::witness::{Class, ClassTraffic, Directory, FileTraffic};
use command::Action;
pub use document::WitnessDocument;
use document::{Amplification, ClassRow, FileRow, Process, Total};

/// Marks that may be there at a time.
const MARKS_MAX: usize = 64;
/// Files that are listed.
const FILES_MAX: usize = 20;
/// A look at the directory takes at most this share of the time: one in so many.
const WALK_SHARE: u32 = 20;

/// Facts that do not change while a directory is passed through.
#[derive(Clone, Debug, Default)]
pub struct WitnessInfo {
    /// Version of the program.
    pub version: String,
    /// The directory.
    pub directory: String,
    /// The mount point.
    pub mount_path: String,
    /// Whose patterns tell classes.
    pub patterns: String,
    /// The patterns, as they are in force.
    pub patterns_text: String,
    /// The process that serves the mount.
    pub pid: u32,
    /// User and group who mounted; the virtual files belong to them.
    pub owner: (u32, u32),
    /// Effective options, for `.stats.d/config`.
    pub config: Vec<(String, String)>,
}

/// Everything that is counted, at one moment.
#[derive(Clone, Default)]
struct Sample {
    elapsed: Duration,
    traffic: ClassTraffic,
    latencies: Vec<Vec<(u64, u64)>>,
    directory_syncs: u64,
    user_bytes: u64,
    files: HashMap<Option<Vec<u8>>, FileTraffic>,
    process: Option<ProcessIo>,
}

/// Answers `.stats` of a witness.
pub struct WitnessControl {
    info: WitnessInfo,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    process: Box<dyn Fn() -> Option<ProcessIo> + Send + Sync>,
    started: Duration,
    user_bytes: AtomicU64,
    live_bytes: AtomicU64,
    marks: Mutex<BTreeMap<String, Arc<Sample>>>,
    /// What lies there, and when it is to be looked at again.
    sizes: Mutex<(Sizes, Duration)>,
    stats_reads: AtomicU64,
}

impl WitnessControl {
    /// Reports on `directory` from now on; `process` asks for the kernel's counters of this process since it began.
    pub fn new(
        info: WitnessInfo,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        process: Box<dyn Fn() -> Option<ProcessIo> + Send + Sync>,
    ) -> Arc<WitnessControl> {
        let started = clock.elapsed();
        Arc::new(WitnessControl {
            info,
            directory,
            clock,
            process,
            started,
            user_bytes: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            marks: Mutex::default(),
            sizes: Mutex::default(),
            stats_reads: AtomicU64::new(0),
        })
    }

    /// To be called once a second, on a thread that may wait for the disk: looks at what lies in the directory, unless that takes too much of the time.
    pub fn tick(&self) {
        let begun = self.clock.elapsed();
        if begun < self.sizes.lock().1 {
            return;
        }
        match sizes::walk(&self.directory) {
            Ok(sizes) => {
                let ended = self.clock.elapsed();
                *self.sizes.lock() = (sizes, ended + ended.saturating_sub(begun) * WALK_SHARE);
            }
            // The last figures stand; what made the look fail shows where it hurts.
            Err(error) => log::debug!("looking at the directory: {error}"),
        }
    }

    fn sample(&self) -> Sample {
        let meter = self.directory.meter();
        Sample {
            elapsed: self.clock.elapsed().saturating_sub(self.started),
            traffic: meter.snapshot(),
            latencies: meter.sync_latencies(),
            directory_syncs: meter.directory_syncs(),
            user_bytes: self.user_bytes.load(Relaxed),
            files: self.directory.inodes().traffic(),
            process: (self.process)(),
        }
    }

    /// Everything now, with counters from the mount on.
    pub fn document(&self) -> WitnessDocument {
        self.compose("mount", &Sample::default())
    }

    /// The same with counters from a mark on; `None` if there is no such mark.
    pub fn document_since(&self, name: &str) -> Option<WitnessDocument> {
        let mark = self.marks.lock().get(name).cloned()?;
        Some(self.compose(name, &mark))
    }

    fn compose(&self, since: &str, base: &Sample) -> WitnessDocument {
        let now = self.sample();
        let sizes = self.sizes.lock().0;
        let traffic = now.traffic.since(&base.traffic);
        let none = Vec::new();
        let latency = |class: usize| {
            let before = base.latencies.get(class).unwrap_or(&none);
            Latency::of(&growth(now.latencies.get(class).unwrap_or(&none), before))
        };
        let by_class = Each::from_fn(|class| {
            let of = Class::ALL[class];
            ClassRow { traffic: traffic.of(of), sync_latency: latency(class), size: sizes.by_class.of(of) }
        });
        let (sum, lying) = (traffic.total(), sizes.by_class.iter());
        let [files, length_bytes, disk_bytes] = lying.fold([0; 3], |[files, length, disk], (_, size)| {
            [files + size.files, length + size.length_bytes, disk + size.disk_bytes]
        });
        let user_bytes = now.user_bytes - base.user_bytes;
        let process = match (&now.process, &base.process) {
            (Some(now), Some(base)) => Some(now.since(base)),
            (now, _) => *now,
        };
        WitnessDocument {
            schema: "kvfs.witness/1",
            version: self.info.version.clone(),
            time: self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            uptime: now.elapsed,
            since: since.to_string(),
            elapsed: now.elapsed.saturating_sub(base.elapsed),
            directory: self.info.directory.clone(),
            mount_path: self.info.mount_path.clone(),
            patterns: self.info.patterns.clone(),
            stats_reads: self.stats_reads.fetch_add(1, Relaxed),
            user_bytes,
            directory_syncs: now.directory_syncs - base.directory_syncs,
            known_inodes: self.directory.inodes().known(),
            is_partial: sizes.is_partial,
            total: Total {
                write_bytes: sum.write_bytes,
                writes: sum.writes,
                mapped_write_bytes: sum.mapped_write_bytes,
                read_bytes: sum.read_bytes,
                reads: sum.reads,
                copied_bytes: sum.copied_bytes,
                syncs: sum.syncs,
                errors: sum.errors,
                files,
                length_bytes,
                disk_bytes,
            },
            by_class,
            files: self.file_rows(&now, base),
            amplification: Amplification {
                write: ratio(sum.write_bytes, user_bytes),
                log_write: ratio(traffic.of(Class::Log).write_bytes, user_bytes),
                space: ratio(disk_bytes, self.live_bytes.load(Relaxed)),
            },
            process: Process {
                pid: self.info.pid,
                write_bytes: process.map(|process| process.write_bytes),
                read_bytes: process.map(|process| process.read_bytes),
            },
        }
    }

    /// The files that were written most between two samples.
    fn file_rows(&self, now: &Sample, base: &Sample) -> Vec<FileRow> {
        let grown = now.files.iter().map(|(path, traffic)| {
            (path, base.files.get(path).map_or(*traffic, |before| traffic.since(before)))
        });
        let mut files: Vec<_> = grown.filter(|(_, traffic)| !traffic.is_empty()).collect();
        let weight = |traffic: &FileTraffic| (traffic.write_bytes, traffic.syncs, traffic.read_bytes);
        files.sort_by(|(path, a), (other, b)| weight(b).cmp(&weight(a)).then_with(|| path.cmp(other)));
        let row = |(path, traffic): (&Option<Vec<u8>>, FileTraffic)| FileRow {
            class: path.as_ref().map_or(Class::Other, |path| self.directory.inodes().class(path)).name(),
            path: path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned()),
            write_bytes: traffic.write_bytes,
            writes: traffic.writes,
            read_bytes: traffic.read_bytes,
            syncs: traffic.syncs,
        };
        files.into_iter().take(FILES_MAX).map(row).collect()
    }

    /// The report for Prometheus.
    pub fn prometheus(&self) -> String {
        let latencies = self.directory.meter().sync_latencies();
        let named: Vec<_> = Class::ALL.iter().map(|class| class.name()).zip(&latencies).collect();
        prometheus::of_witness(&self.document(), &self.info.version, &named)
    }

    /// Does what `text` says, one command a line.
    fn execute(&self, caller: Caller, text: &[u8]) -> Result<()> {
        let actions = command::parse(text)?;
        log::info!("commands of user {} process {}: {actions:?}", caller.uid, caller.pid);
        for action in actions {
            match action {
                Action::Help => {}
                Action::Mark(name) => {
                    let sample = Arc::new(self.sample());
                    let mut marks = self.marks.lock();
                    if marks.len() == MARKS_MAX && !marks.contains_key(&name) {
                        log::error!("mark {name}: there are {MARKS_MAX} marks already");
                        return Err(Error::Invalid);
                    }
                    marks.insert(name, sample);
                }
                Action::Unmark(name) => _ = self.marks.lock().remove(&name),
                Action::UserBytes(bytes) => _ = self.user_bytes.fetch_add(bytes, Relaxed),
                Action::LiveBytes(bytes) => self.live_bytes.store(bytes, Relaxed),
            }
        }
        Ok(())
    }

    /// The virtual files. One tree a mount: it knows the open handles.
    pub fn tree(self: &Arc<WitnessControl>) -> Arc<VirtualTree> {
        let (uid, gid) = self.info.owner;
        let mut tree = VirtualTree::new(Caller { uid, gid, pid: 0 }, self.clock.clone());
        let file = |mode, text: fn(&WitnessControl) -> String| -> Arc<dyn VirtualFile> {
            Arc::new(Part { control: self.clone(), mode, text })
        };
        tree.add_file(ROOT, ".stats", file(0o644, |control| text::text(&control.document())));
        let parts = tree.add_directory(ROOT, ".stats.d");
        tree.add_file(parts, "json", file(0o444, |control| json::rows(&control.document())));
        tree.add_file(parts, "prom", file(0o444, |control| control.prometheus()));
        tree.add_file(parts, "patterns", file(0o444, |control| control.info.patterns_text.clone()));
        tree.add_file(parts, "config", file(0o400, config));
        tree.add_file(parts, "help", file(0o444, |_| help()));
        tree.add_dynamic(parts, "since", Arc::new(Marks(self.clone())));
        Arc::new(tree)
    }
}

/// A file of which the text is made from the control.
struct Part {
    control: Arc<WitnessControl>,
    mode: u32,
    text: fn(&WitnessControl) -> String,
}

impl VirtualFile for Part {
    fn read(&self) -> Vec<u8> {
        (self.text)(&self.control).into_bytes()
    }
    fn mode(&self) -> u32 {
        self.mode
    }
    fn write(&self, caller: Caller, text: &[u8], done: Done) {
        done(self.control.execute(caller, text));
    }
}

/// `.stats.d/since`: `NAME` and `NAME.json` for each mark.
struct Marks(Arc<WitnessControl>);

/// The report from a mark on.
struct Growth {
    control: Arc<WitnessControl>,
    mark: String,
    print: fn(&WitnessDocument) -> String,
}

impl VirtualDirectory for Marks {
    fn names(&self) -> Vec<Vec<u8>> {
        let names: Vec<String> = self.0.marks.lock().keys().cloned().collect();
        names.into_iter().flat_map(|name| [format!("{name}.json").into_bytes(), name.into_bytes()]).collect()
    }

    fn file(&self, name: &[u8]) -> Option<Arc<dyn VirtualFile>> {
        let name = std::str::from_utf8(name).ok()?;
        let (mark, print): (&str, fn(&WitnessDocument) -> String) = match name.strip_suffix(".json") {
            Some(mark) => (mark, json::rows),
            None => (name, text::text),
        };
        let is_there = self.0.marks.lock().contains_key(mark);
        let growth = Growth { control: self.0.clone(), mark: mark.to_string(), print };
        is_there.then(|| Arc::new(growth) as Arc<dyn VirtualFile>)
    }
}

impl VirtualFile for Growth {
    fn read(&self) -> Vec<u8> {
        // Empty if the mark went away since the file was found.
        let document = self.control.document_since(&self.mark);
        document.map(|document| (self.print)(&document)).unwrap_or_default().into_bytes()
    }
}

fn config(control: &WitnessControl) -> String {
    let info = &control.info;
    let fixed = [
        ("version", info.version.clone()),
        ("directory", info.directory.clone()),
        ("mount", info.mount_path.clone()),
        ("pid", info.pid.to_string()),
    ];
    let options = info.config.iter().map(|(name, value)| (name.as_str(), value.clone()));
    fixed.into_iter().chain(options).map(|(name, value)| format!("{name} {value}\n")).collect()
}

fn help() -> String {
    let mut text = String::from("Write one command a line to .stats.\n\n");
    for (form, what) in command::HELP {
        text += &format!("  {form:<22} {what}\n");
    }
    text += "\nFiles:\n";
    for (name, what) in [
        (".stats", "the report for people"),
        (".stats.d/json", "everything, integers in base units (kvfs.witness/1)"),
        (".stats.d/prom", "the same for Prometheus, text format 0.0.4"),
        (".stats.d/patterns", "the patterns that tell classes, the first that fits decides"),
        (".stats.d/config", "effective options and paths"),
        (".stats.d/since/NAME", "the report with counters that begin at 'mark NAME'"),
        (".stats.d/since/NAME.json", "the same for machines"),
    ] {
        text += &format!("  {name:<25} {what}\n");
    }
    text
}
