//! Iologs of fio: after a line `fio version N iolog` one action a line, in version 3 behind its time in microseconds.
//!
//! | line | meaning |
//! |---|---|
//! | `FILE add`, `open`, `close` | the file begins, or ends, to be used |
//! | `FILE read OFFSET LENGTH`, `write`, `trim` | content is read, written, or becomes a hole |
//! | `FILE sync …`, `datasync …` | what was written becomes durable |
//! | `wait MICROSECONDS`, `FILE wait …` | version 2 alone: so much time goes by |
//!
//! Every read reaches the filesystem, as with direct I/O: what the page cache would have answered is not known. What was in a file before the work is
//! not known either; see [`Layout`].

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;

use super::{Imported, Layout, head, unreadable};
use crate::base::clock::ManualClock;
use crate::base::prng::Prng;
use crate::disk::Space;
use crate::engine::{self, MemEngine, MeteredEngine, Pending, Tier};
use crate::fs::operation::Op;
use crate::fs::types::{Caller, Ino, NewNode, ROOT};
use crate::fs::{self, FileSystem, Identity, Veil, keys};
use crate::recording::{self, Error, Head, Keeps, Meters, Recorder, Result, State, Writer};

/// Bytes that are written at once where a file is laid out; the kernel writes no more at once either.
const PIECE_BYTES: u64 = 1 << 20;
/// The kernel reads no more at once.
const READ_BYTES_MAX: u64 = 128 << 10;
/// No offset, length or time is larger: those of an iolog are of files and of days.
const INTEGER_MAX: u64 = 1 << 50;
/// The mode of `fallocate` that makes a hole.
const MAKE_HOLE: i32 = nix::libc::FALLOC_FL_PUNCH_HOLE | nix::libc::FALLOC_FL_KEEP_SIZE;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    /// When, in microseconds since the beginning.
    micros: u64,
    /// The file; empty for `wait`.
    file: String,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Open,
    Close,
    Read { offset: u64, length: u64 },
    Write { offset: u64, length: u64 },
    Trim { offset: u64, length: u64 },
    Sync { data_only: bool },
}

/// Calls `visit` with each action of the iolog `source`, which errors call `name`.
pub(super) fn parse(
    name: &str,
    source: impl Read,
    visit: &mut dyn FnMut(Action) -> Result<()>,
) -> Result<()> {
    let (mut version, mut waited_micros) = (0, 0);
    for (line, number) in BufReader::new(source).lines().zip(1u64..) {
        let line =
            line.map_err(|error| Error::Io { what: format!("reading {name}, line {number}"), error })?;
        let bad =
            |what: &str| unreadable(name, format_args!("line {number}"), format_args!("{what}: {line}"));
        if number == 1 {
            version = match line.trim() {
                "fio version 2 iolog" => 2,
                "fio version 3 iolog" => 3,
                _ => return Err(bad("an iolog begins with 'fio version 2 iolog' or 3")),
            };
            continue;
        }
        let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let integer = |word: Option<&&str>| {
            word.and_then(|word| word.parse::<u64>().ok()).filter(|number| *number <= INTEGER_MAX)
        };
        let micros = match version {
            3 => {
                let micros = integer(words.first()).ok_or_else(|| bad("no time"))?;
                words.remove(0);
                micros
            }
            _ => waited_micros,
        };
        if let Some(at) = words.iter().take(2).position(|word| *word == "wait") {
            let time = integer(words.get(at + 1)).ok_or_else(|| bad("no time to wait"))?;
            waited_micros = (waited_micros + time).min(INTEGER_MAX);
            continue;
        }
        let (Some(file), Some(action)) = (words.first(), words.get(1)) else { return Err(bad("no action")) };
        let range = || Some((integer(words.get(2))?, integer(words.get(3))?));
        let what = match *action {
            "add" => continue,
            "open" => What::Open,
            "close" => What::Close,
            "sync" | "datasync" => What::Sync { data_only: *action == "datasync" },
            "read" | "write" | "trim" => {
                let (offset, length) = range().ok_or_else(|| bad("no offset and length"))?;
                match *action {
                    "read" => What::Read { offset, length },
                    "write" => What::Write { offset, length },
                    _ => What::Trim { offset, length },
                }
            }
            _ => return Err(bad("an unknown action")),
        };
        visit(Action { micros, file: file.to_string(), what })?;
    }
    if version == 0 { Err(unreadable(name, "line 1", "it is empty")) } else { Ok(()) }
}

/// What the whole iolog does to a file.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    /// The end of what is read or written.
    end: u64,
    /// The end of what has been written, where writes began at 0 and left nothing out.
    written_end: u64,
    /// Whether something is read that was not written before.
    is_read_first: bool,
}

/// The files of the iolog, with what is done to each.
fn survey(name: &str, source: impl Read) -> Result<Vec<(String, Extent)>> {
    let mut files: Vec<(String, Extent)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    parse(name, source, &mut |action| {
        let place = *places.entry(action.file.clone()).or_insert_with(|| {
            files.push((action.file.clone(), Extent::default()));
            files.len() - 1
        });
        let extent = &mut files[place].1;
        match action.what {
            What::Read { offset, length } => {
                extent.end = extent.end.max(offset + length);
                extent.is_read_first |= offset + length > extent.written_end;
            }
            What::Write { offset, length } => {
                extent.end = extent.end.max(offset + length);
                if offset <= extent.written_end {
                    extent.written_end = extent.written_end.max(offset + length);
                }
            }
            What::Open | What::Close | What::Trim { .. } | What::Sync { .. } => {}
        }
        Ok(())
    })?;
    Ok(files)
}

/// A filesystem over a map in memory, on which an iolog is done again.
struct Bench {
    clock: Arc<ManualClock>,
    engine: Arc<MeteredEngine>,
    fs: Arc<FileSystem>,
    /// Bytes that do not compress; what is written are slices of it, so that the map holds no content.
    content: Bytes,
    files: HashMap<String, Ino>,
    micros: u64,
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

fn failed(error: fs::Error) -> Error {
    match error {
        fs::Error::Engine(error) => Error::Engine(error),
        other => Error::Engine(engine::Error::Invalid(other.to_string())),
    }
}

impl Bench {
    fn new() -> Result<Bench> {
        let clock = Arc::new(ManualClock::default());
        let engine = MeteredEngine::new(Arc::new(MemEngine::new()), keys::classify);
        let options = fs::Options::default();
        let identity = Identity::random().map_err(failed)?;
        FileSystem::format(&*engine, &*clock, &options, identity).map_err(failed)?;
        let space = || {
            let bytes = INTEGER_MAX;
            Ok(Space { total_bytes: bytes, free_bytes: bytes, ..Space::default() })
        };
        let fs = FileSystem::open(engine.clone(), clock.clone(), options, Arc::new(space)).map_err(failed)?;
        let mut noise = Prng::new(1);
        let content: Vec<u8> = (0..PIECE_BYTES / 8).flat_map(|_| noise.bits().to_le_bytes()).collect();
        Ok(Bench {
            clock,
            engine,
            fs,
            content: content.into(),
            files: HashMap::new(),
            micros: 0,
            written_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        })
    }

    /// The file's inode; a file that is not there is made.
    fn file(&mut self, name: &str) -> Result<Ino> {
        if let Some(ino) = self.files.get(name) {
            return Ok(*ino);
        }
        Op::Create.begin();
        // What fio calls a file may be a path of any length.
        let number = self.files.len().to_string();
        let base = name.rsplit('/').next().unwrap_or(name);
        let base = base.get(..base.len().min(200)).unwrap_or("file");
        let unique = format!("{number}-{base}");
        let made = self.fs.make(
            Tier::Disk,
            Op::Create,
            Caller::ROOT,
            ROOT,
            unique.as_bytes(),
            0o644,
            0,
            NewNode::File,
        );
        let ino = made.map_err(failed)?.ino;
        self.files.insert(name.to_string(), ino);
        Ok(ino)
    }

    fn write(&self, ino: Ino, offset: u64, length: u64) -> Result<()> {
        let mut at = offset;
        while at < offset + length {
            let piece = (offset + length - at).min(PIECE_BYTES);
            let data = self.content.slice(..piece as usize);
            self.fs.write(Tier::Disk, Caller::ROOT, ino, at, &data, false).map_err(failed)?;
            at += piece;
        }
        Ok(())
    }

    /// Lets time go by until `micros`, and does the work that the filesystem does beside its callers.
    fn advance(&mut self, micros: u64) -> Result<()> {
        let step = micros.saturating_sub(self.micros);
        if step > 0 {
            self.clock.advance(Duration::from_micros(step));
            self.micros = micros;
            Op::Reclaim.begin();
            while self.fs.work().map_err(failed)? == Pending::More {}
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<()> {
        self.advance(action.micros)?;
        let ino = self.file(&action.file)?;
        match action.what {
            What::Open => {
                Op::Open.begin();
                self.fs.open_file(Tier::Disk, ino).map_err(failed)
            }
            What::Close => {
                Op::Release.begin();
                self.fs.release_file(ino);
                Ok(())
            }
            What::Read { offset, length } => {
                Op::Read.begin();
                let mut at = offset;
                while at < offset + length {
                    let piece = (offset + length - at).min(READ_BYTES_MAX);
                    let read = self.fs.read(Tier::Disk, ino, at, piece as u32).map_err(failed)?;
                    self.read_bytes.fetch_add(read.len() as u64, Relaxed);
                    at += piece;
                }
                Ok(())
            }
            What::Write { offset, length } => {
                Op::Write.begin();
                self.written_bytes.fetch_add(length, Relaxed);
                self.write(ino, offset, length)
            }
            What::Trim { offset, length } => {
                Op::Fallocate.begin();
                let range = (offset, length);
                self.fs.allocate(Tier::Disk, Caller::ROOT, ino, range, MAKE_HOLE).map_err(failed)
            }
            What::Sync { data_only } => {
                Op::Fsync.begin();
                let moment = self.fs.moment_of(Tier::Disk, ino, data_only).map_err(failed)?;
                self.fs.sync_to(moment, |_| {});
                Ok(())
            }
        }
    }
}

/// Does the iolog that `open` gives again, and records it.
pub(super) fn import<W: Write + Send, R: Read>(
    name: &str,
    open: &dyn Fn() -> Result<R>,
    begin: impl FnOnce(Head) -> Result<Writer<W>>,
    layout: Layout,
) -> Result<Imported> {
    let mut bench = Bench::new()?;
    for (file, extent) in survey(name, open()?)? {
        let is_whole = match layout {
            Layout::Read => extent.is_read_first,
            Layout::All => true,
            Layout::Nothing => false,
        };
        if is_whole {
            let ino = bench.file(&file)?;
            bench.write(ino, 0, extent.end)?;
        }
    }
    bench.fs.write_times().map_err(failed)?;
    let names: Vec<&str> = Op::ALL.iter().map(|op| <&str>::from(*op)).collect();
    let kinds = keys::KIND_NAMES.iter().map(|name| name.to_string()).collect();
    let block = ("block_size".to_string(), fs::Options::default().block_bytes.to_string());
    let head = Head { kinds, options: vec![block], ..head("kvfs", &names) };
    let writer = begin(head)?;
    let veil = recording::Veil { hide: Box::new(Veil::new().into_hide()), kind_of: keys::classify };
    let recorder = Recorder::new(bench.clock.clone(), Keeps::default(), veil, true);
    let engine = bench.engine.clone();
    let (before, fs) = (engine.kinds(), bench.fs.clone());
    engine.tap().put(recorder.clone());
    let (written, read) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let meters = || Meters {
        app_write_bytes: Some(written.load(Relaxed)),
        app_read_bytes: Some(read.load(Relaxed)),
        live_bytes: Some(fs.usage().stored_bytes + fs.usage().record_bytes),
        kv_write_bytes: Some(
            engine
                .kinds()
                .iter()
                .zip(&before)
                .map(|(now, then)| now.put_bytes + now.delete_bytes - then.put_bytes - then.delete_bytes)
                .sum(),
        ),
        ..Meters::default()
    };
    let done = std::thread::scope(|scope| {
        let writing = scope.spawn(|| recorder.run(writer, &**engine.uncounted(), &meters));
        let mut replay = || -> Result<()> {
            while recorder.status().state == State::Image {
                std::thread::yield_now();
            }
            parse(name, open()?, &mut |action| {
                // It waits for nobody who asks, so whoever asks must not be faster.
                while recorder.is_full() {
                    std::thread::yield_now();
                }
                let acted = bench.act(&action);
                written.store(bench.written_bytes.load(Relaxed), Relaxed);
                read.store(bench.read_bytes.load(Relaxed), Relaxed);
                acted
            })
        };
        let done = replay();
        engine.tap().take_out(&recorder);
        recorder.end("the iolog ended");
        let ended = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and(ended)
    });
    done?;
    let status = recorder.status();
    Ok(Imported {
        entries: status.image_entries,
        events: status.events,
        bytes: status.bytes,
        ..Imported::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Asked, Recording};
    use std::collections::BTreeMap;

    const LOG: &str = "fio version 3 iolog\n0 /d/a add\n1 /d/a open\n10 /d/a read 0 8192\n20 /d/a write 4096 4096\n\
        2000030 /d/a sync 0 0\n2000040 /d/b open\n2000050 /d/b write 0 6000\n2000060 /d/b datasync\n2000070 /d/a trim 4096 4096\n\
        2000080 /d/b close\n";

    fn run(log: &'static str, layout: Layout) -> Result<(Imported, Recording)> {
        let mut bytes = Vec::new();
        let open = || Ok(log.as_bytes());
        let imported = import("log", &open, |head| Writer::new(&mut bytes, "test", head), layout)?;
        Ok((imported, Recording::of_bytes("test", bytes.into())?))
    }

    #[test]
    fn an_iolog_asks_what_a_mount_would_ask() {
        let (imported, recording) = run(LOG, Layout::Read).unwrap();
        // The root with its counters and superblock, and the file that is read before it is written: two blocks, an inode, a name.
        let blocks = recording.image().unwrap().filter(|entry| keys::is_block(&entry.as_ref().unwrap().key));
        assert_eq!(blocks.count(), 2);
        let events: Vec<_> = recording.events().unwrap().map(|event| event.unwrap()).collect();
        assert_eq!(imported.events, events.len() as u64);
        let mut by: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &events {
            *by.entry(recording.head().operation(event.tag)).or_default() += 1;
        }
        assert!(by["write"] >= 2 && by["read"] >= 1 && by["create"] >= 1 && by["fallocate"] >= 1, "{by:?}");
        let syncs = events.iter().filter(|event| matches!(event.asked, Asked::Sync { .. }));
        assert_eq!(syncs.map(|event| event.start_ns).collect::<Vec<_>>(), [2_000_030_000, 2_000_060_000]);
        let written = |event: &&recording::Event| match &event.asked {
            Asked::Batch { changes, .. } => changes.iter().any(|change| {
                keys::is_block(&change.key)
                    && change.value.as_ref().is_some_and(|value| value.length() == 4096)
            }),
            _ => false,
        };
        assert_eq!(events.iter().filter(written).count(), 2, "{events:?}");
        let meters = recording.meters().unwrap();
        assert_eq!((meters.app_write_bytes, meters.app_read_bytes), (Some(10_096), Some(8192)));
        // A block that became a hole is not live any more; the other one and 6000 bytes are, and what names them.
        assert!(meters.live_bytes > Some(10_096) && meters.live_bytes < Some(11_000), "{meters:?}");
        assert_eq!((imported.events, meters.dropped), (events.len() as u64, Some(0)));
        let share = meters.incompressible[usize::from(keys::classify(&keys::block(Ino(1), 0, 0)))];
        assert!(share.is_none_or(|share| share > 0.9), "{share:?}");
        let (nothing, _) = run(LOG, Layout::Nothing).unwrap();
        let (all, _) = run(LOG, Layout::All).unwrap();
        assert!(nothing.entries < imported.entries && imported.entries < all.entries);
    }

    #[test]
    fn lines_of_both_versions_are_understood_and_others_named() {
        let mut found = Vec::new();
        let old =
            "fio version 2 iolog\n/a add\n/a open\nwait 30\n/a read 1 2\n/a wait 5 0\n/a datasync 0 0\n";
        parse("log", old.as_bytes(), &mut |action| {
            found.push((action.micros, action.what));
            Ok(())
        })
        .unwrap();
        let wanted = [
            (0, What::Open),
            (30, What::Read { offset: 1, length: 2 }),
            (35, What::Sync { data_only: true }),
        ];
        assert_eq!(found, wanted);
        for (text, what) in [
            ("", "it is empty"),
            ("nonsense\n", "line 1"),
            ("fio version 2 iolog\n/a jump 0 1\n", "line 2: an unknown action: /a jump 0 1"),
            ("fio version 2 iolog\n/a read 0\n", "no offset and length"),
            ("fio version 3 iolog\n/a read 0 1\n", "no time"),
            ("fio version 3 iolog\n1 /a\n", "no action"),
            ("fio version 3 iolog\n1 /a read 0 99999999999999999\n", "no offset and length"),
        ] {
            let error = parse("log", text.as_bytes(), &mut |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains(what) && error.starts_with("log, line"), "{error}");
        }
    }
}
