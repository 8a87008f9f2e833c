//! A design as a model of sizes: what it makes of steps, in bytes.

use std::time::Duration;

use super::btree::BtreeModel;
use super::lsm::LsmModel;
use super::steps::{Step, Steps};
use crate::engine::{Error, Options, Result, btree, lsm};

/// What a model has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes written to the disk.
    pub written_bytes: u64,
    /// Of these, to the log.
    pub log_bytes: u64,
    /// Bytes that gets and scans have read.
    pub read_bytes: u64,
    /// Their requests.
    pub read_requests: u64,
    /// Bytes that work in the background has read.
    pub background_read_bytes: u64,
    /// Bytes of all files now, and of those of the log.
    pub space_bytes: u64,
    /// See there.
    pub log_file_bytes: u64,
    /// The most bytes of all files at once.
    pub space_bytes_peak: u64,
}

impl Sizes {
    /// Notes that all files take so many bytes.
    pub fn note_space(&mut self, bytes: u64) {
        self.space_bytes_peak = self.space_bytes_peak.max(bytes);
    }

    /// Bytes to and from the disk.
    pub fn moved_bytes(&self) -> u64 {
        self.written_bytes + self.read_bytes + self.background_read_bytes
    }

    /// What was counted since `earlier`; space is what it is.
    pub fn since(&self, earlier: &Sizes) -> Sizes {
        Sizes {
            written_bytes: self.written_bytes - earlier.written_bytes,
            log_bytes: self.log_bytes - earlier.log_bytes,
            read_bytes: self.read_bytes - earlier.read_bytes,
            read_requests: self.read_requests - earlier.read_requests,
            background_read_bytes: self.background_read_bytes - earlier.background_read_bytes,
            ..*self
        }
    }
}

/// A store of which only sizes are known. After each batch the work is done that it causes.
pub trait Model {
    /// A put of the batch that is open.
    fn put(&mut self, rank: u32, value_bytes: u64);
    /// A delete of the batch that is open.
    fn delete(&mut self, rank: u32);
    /// The end of the batch, and the time behind it.
    fn end_batch(&mut self, elapsed: Duration) -> Result<()>;
    /// A read of a key, and whether it is there.
    fn get(&mut self, rank: u32, is_found: bool);
    /// A read of the keys in `from..=to`.
    fn scan(&mut self, from: u32, to: u32);
    /// A program waits until everything is durable.
    fn sync(&mut self);
    /// Writes out what is buffered, until nothing is owed.
    fn settle(&mut self) -> Result<()>;
    /// What was counted.
    fn sizes(&mut self) -> Sizes;
    /// From here on peaks are those of what comes.
    fn forget_peaks(&mut self);
}

/// Which time passes between two batches.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// That of the recording; work in the background goes on beside the writers.
    Recorded,
    /// Always the same; a batch is followed by the work that it causes.
    Steady(Duration),
}

/// What a design makes of a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Behind the image, up to the last step.
    pub unsettled: Sizes,
    /// Behind the image, up to where nothing is owed any more.
    pub settled: Sizes,
}

/// The model of a design, empty; an error for an engine that has none.
pub fn open(options: &Options, steps: &Steps, clock: Clock) -> Result<Box<dyn Model>> {
    let (keys, is_live) = (&steps.keys, matches!(clock, Clock::Recorded));
    match options.kind().name {
        "lsm" => Ok(Box::new(LsmModel::new(options.own::<lsm::Options>()?, keys, is_live))),
        "btree" => Ok(Box::new(BtreeModel::new(options.own::<btree::Options>()?, keys)?)),
        name => Err(Error::Invalid(format!("engine={name} has no model of sizes"))),
    }
}

/// Whether engines of `name` have a model.
pub fn has_model(name: &str) -> bool {
    matches!(name, "lsm" | "btree")
}

/// Passes the steps that `takes` wants through the model of a design.
pub fn run(
    options: &Options,
    steps: &Steps,
    clock: Clock,
    mut takes: impl FnMut(&Step) -> bool,
) -> Result<Outcome> {
    let mut model = open(options, steps, clock)?;
    let mut mark = Sizes::default();
    for step in steps.iter().filter(|step| takes(step)) {
        match step {
            Step::Put { rank, value_bytes } => model.put(rank, value_bytes),
            Step::Delete { rank } => model.delete(rank),
            Step::Batch { nanos } => model.end_batch(match clock {
                Clock::Recorded => Duration::from_nanos(nanos),
                Clock::Steady(tick) => tick,
            })?,
            Step::Get { rank, is_found } => model.get(rank, is_found),
            Step::Scan { from, to } => model.scan(from, to),
            Step::Sync => model.sync(),
            Step::Mark => {
                model.settle()?;
                model.forget_peaks();
                mark = model.sizes();
            }
        }
    }
    let unsettled = model.sizes().since(&mark);
    model.settle()?;
    let settled = model.sizes().since(&mark);
    Ok(Outcome { unsettled, settled })
}
