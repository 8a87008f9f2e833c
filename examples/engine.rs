//! An engine of somebody else, whole: the `kvfs` command with `engine=journal` beside its own. `src/engine/README.md` walks through it.
//!
//! ```sh
//! cargo run --release --example engine -- mount /srv/s /mnt/kv -o engine=journal,journal_max=1G
//! ```
//!
//! Everything is in memory, and every batch is a record at the end of a file. Whoever opens the store reads the file and writes what is in use to a
//! new one. Damage in the middle of it is taken for its end: an engine for data that matters has to tell one from the other.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use kvfs::base::clock::Clock;
use kvfs::base::text::{self, BadText, Field, When};
use kvfs::engine::{
    Background, Batch, Command, Common, Descriptor, Done, Engine, Error, Home, KeyRange, Kind, Lsn,
    MemEngine, Options, OwnOptions, Pending, Promise, Result, Sync, Tier, Visit, WakeSignal, WorkClass,
};
use parking_lot::Mutex;

/// What kvfs must know of the engine before it is open: its line in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "journal",
    help: "a map in memory and a file of batches",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), JournalOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), JournalOptions::default()),
    home: Home::Directory(|directory, clock, options| {
        Ok(Arc::new(Journal::open(directory, clock, options)?))
    }),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: false,
    variants: &[],
};

/// Options of its own, beside those that every engine has.
#[derive(Clone, Debug, PartialEq)]
struct JournalOptions {
    common: Common,
    bytes_max: u64,
}

impl Default for JournalOptions {
    fn default() -> JournalOptions {
        JournalOptions { common: Common::default(), bytes_max: 4 << 30 }
    }
}

impl OwnOptions for JournalOptions {
    const FIELDS: &'static [Field<JournalOptions>] = &[Field {
        name: "journal_max",
        when: When::Mount,
        help: "Bytes of the file at most: what does not fit finds no space until the store is opened anew.",
        set: |options, value| text::bounded_size(value).map(|bytes| options.bytes_max = bytes),
        get: |options| text::exact_size(options.bytes_max),
    }];

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        if self.bytes_max < 1 << 20 { Err("journal_max is less than 1M".into()) } else { Ok(()) }
    }
}

/// Length and checksum before each record.
const HEAD_BYTES: usize = 8;
/// Bytes of a record of the new file, about.
const RECORD_BYTES: u64 = 1 << 20;

/// What waits for a sync.
#[derive(Default)]
struct Owed {
    waiters: Vec<Done>,
    /// When the oldest batch was applied that no sync covers.
    oldest: Option<Duration>,
    /// After a failed sync nobody knows what the disk holds: nothing more is taken.
    failed: Option<Error>,
}

/// The engine.
struct Journal {
    map: MemEngine,
    file: File,
    /// The place behind the last record; held while one is written, so that map and file have one order.
    end: Mutex<u64>,
    owed: Mutex<Owed>,
    wake_signal: Arc<WakeSignal>,
    clock: Arc<dyn Clock>,
    options: JournalOptions,
}

/// The system's error as the engine's: a full disk is told from the rest.
fn failed(error: std::io::Error) -> Error {
    Error::io("the journal", error)
}

/// Of a record that lies at `offset`, so that no other is taken for it.
fn checksum(body: &[u8], offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Writes a batch to `file` at `end`; the place behind it.
fn write(file: &File, end: u64, batch: &Batch) -> std::io::Result<u64> {
    let mut body = Vec::new();
    batch.encode(&mut body);
    let head = [(body.len() as u32).to_le_bytes(), checksum(&body, end).to_le_bytes()].concat();
    file.write_all_at(&[&head[..], &body].concat(), end).map(|()| end + (HEAD_BYTES + body.len()) as u64)
}

/// Applies the records of a file to `map`, up to the first one that is not whole: a crash has torn it.
fn read(mut bytes: Bytes, map: &MemEngine) -> Result<()> {
    let mut offset = 0;
    while bytes.len() > HEAD_BYTES {
        let (length, sum) = (bytes.get_u32_le() as usize, bytes.get_u32_le());
        if length > bytes.len() || checksum(&bytes[..length], offset) != sum {
            break;
        }
        map.apply(&Batch::decode(&bytes.split_to(length))?, Tier::Disk)?;
        offset += (HEAD_BYTES + length) as u64;
    }
    Ok(())
}

impl Journal {
    fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Journal> {
        let (path, new) = (directory.join("journal"), directory.join("journal.new"));
        let map = MemEngine::new();
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            bytes => read(bytes.map_err(failed)?.into(), &map)?,
        }
        // The new file takes the place of the old one when all of it is durable, and so is then its name.
        let file = File::create(&new).map_err(failed)?;
        let (mut batch, mut written) = (Batch::new(0), Ok(0));
        map.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
            batch.put(key.to_vec(), value.to_vec());
            if batch.bytes() >= RECORD_BYTES {
                let full = std::mem::replace(&mut batch, Batch::new(0));
                written = written
                    .as_ref()
                    .map_err(|_| ErrorKind::Other.into())
                    .and_then(|end| write(&file, *end, &full));
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let end = written.and_then(|end| write(&file, end, &batch)).map_err(failed)?;
        file.sync_all().and_then(|()| fs::rename(&new, &path)).map_err(failed)?;
        File::open(directory).and_then(|names| names.sync_all()).map_err(failed)?;
        let (options, end) = (options.own::<JournalOptions>()?.clone(), Mutex::new(end));
        Ok(Journal { map, file, end, owed: Mutex::default(), wake_signal: Arc::default(), clock, options })
    }

    /// Makes everything applied so far durable, for everyone who waits.
    fn sync(&self) -> Result<()> {
        let (waiters, failed_before) = {
            let mut owed = self.owed.lock();
            owed.oldest = None;
            (std::mem::take(&mut owed.waiters), owed.failed.clone())
        };
        // Whoever comes from here on waits for the next one.
        let result = failed_before.map_or_else(|| self.file.sync_data().map_err(failed), Err);
        if let Err(error) = &result {
            self.owed.lock().failed = Some(error.clone());
        }
        waiters.into_iter().for_each(|done| done(result.clone()));
        result
    }
}

impl Engine for Journal {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    // Everything is in memory, so that reads answer in any tier.
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        self.map.get(key, tier)
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.map.scan(range, tier, visit)
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        if batch.is_empty() {
            return Ok(self.lsn());
        }
        let mut end = match tier {
            Tier::Memory => self.end.try_lock().ok_or(Error::WouldBlock)?,
            Tier::Disk => self.end.lock(),
        };
        if let Some(error) = &self.owed.lock().failed {
            return Err(error.clone());
        }
        if *end + (HEAD_BYTES + batch.encoded_bytes_max()) as u64 > self.options.bytes_max {
            return Err(Error::NoSpace);
        }
        // Where it fails a part may be there, and the next record must not have it behind itself.
        *end = write(&self.file, *end, batch)
            .map_err(|error| failed(self.file.set_len(*end).err().unwrap_or(error)))?;
        let lsn = self.map.apply(batch, tier)?;
        self.owed.lock().oldest.get_or_insert_with(|| self.clock.elapsed());
        Ok(lsn)
    }

    fn lsn(&self) -> Lsn {
        self.map.lsn()
    }

    fn sync_to(&self, _: Lsn, done: Done) {
        // The next sync covers it, whichever it is. This call may be made where nothing may wait.
        self.owed.lock().waiters.push(done);
        self.wake_signal.notify(WorkClass::Log);
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn close(&self) -> Result<()> {
        self.sync()
    }

    fn background(&self) -> Option<&dyn Background> {
        Some(self)
    }
}

impl Background for Journal {
    fn wake_signal(&self) -> &Arc<WakeSignal> {
        &self.wake_signal
    }

    fn work(&self, class: WorkClass) -> Result<Pending> {
        if class != WorkClass::Log {
            return Ok(Pending::Idle);
        }
        let (is_asked, oldest) = {
            let owed = self.owed.lock();
            (!owed.waiters.is_empty(), owed.oldest)
        };
        let wait = match (self.options.common.sync, oldest) {
            _ if is_asked => Duration::ZERO,
            (Sync::Interval(every), Some(oldest)) => (oldest + every).saturating_sub(self.clock.elapsed()),
            // A batch wakes nobody: look again after each interval.
            (Sync::Interval(every), None) => every,
            _ => return Ok(Pending::Idle),
        };
        if wait.is_zero() { self.sync().map(|()| Pending::More) } else { Ok(Pending::After(wait)) }
    }

    fn run(&self, command: Command, done: Done) {
        match command {
            Command::Flush | Command::Checkpoint | Command::Compact => self.sync_to(self.lsn(), done),
            // What is in memory was verified when it was read.
            Command::Verify => done(Ok(())),
            Command::DropCaches | Command::CompactLevel(_) | Command::Demote => {
                done(Err(Error::Invalid("engine=journal has no cache and no levels".to_string())));
            }
        }
    }
}

/// Every engine that this program adds.
pub static ENGINES: [&Descriptor; 1] = [&ENGINE];

fn main() -> std::process::ExitCode {
    kvfs::engine::register(&ENGINES);
    kvfs::cli::main()
}
