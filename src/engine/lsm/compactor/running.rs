//! The jobs that run, and their subcompactions.

use super::Throttle;
use super::job::{CompactionJob, JobId};
use super::subcompaction::Subcompaction;
use crate::engine::lsm::compaction::CompactionClaim;
use crate::engine::lsm::table::TableStore;
use crate::engine::{Error, Result};

/// The running jobs of a store.
#[derive(Default)]
pub struct RunningJobs {
    /// The jobs, in the order of their start.
    pub jobs: Vec<CompactionJob>,
    /// Begun subcompactions between two steps, the one that rested longest first.
    pub resting: Vec<Subcompaction>,
    /// Begun subcompactions of which a step is being done.
    pub stepping: u64,
    last_id: JobId,
    /// Whether tables that are worth cleaning waited for the end of a job when it was last looked for one.
    pub cleaning_waits: bool,
    /// Sentence on a compaction that waits for space; `None` if none does.
    pub waiting: Option<String>,
    /// Use of the rate limits.
    pub throttle: Throttle,
    /// Whether the log has warned already that compactions may soon not fit.
    pub is_warned: bool,
}

impl RunningJobs {
    /// The claims of all jobs.
    pub fn claims(&self) -> Vec<CompactionClaim> {
        self.jobs.iter().flat_map(CompactionJob::claims).collect()
    }

    /// Adds a job; it gets its number here.
    pub fn add(&mut self, mut job: CompactionJob) {
        self.last_id = self.last_id.next();
        job.id = self.last_id;
        self.jobs.push(job);
    }

    /// The job of that number; `None` if it was given up.
    pub fn job(&self, id: JobId) -> Option<&CompactionJob> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// The same, to be changed.
    pub fn job_mut(&mut self, id: JobId) -> Option<&mut CompactionJob> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    /// Number of subcompactions that are begun.
    pub fn begun_subcompactions(&self) -> u64 {
        self.resting.len() as u64 + self.stepping
    }

    /// Bytes that the jobs may still take.
    pub fn owed_bytes(&self) -> u64 {
        self.jobs.iter().map(CompactionJob::owed_bytes).sum()
    }

    /// Bytes that are free on the disk beside those that the jobs may still take.
    pub fn free_bytes(&self, table_store: &TableStore) -> Result<u64> {
        Ok(table_store.space()?.room_bytes().saturating_sub(self.owed_bytes()))
    }

    /// The reason why nothing is merged, if that is so: while a job runs, it may make space.
    pub fn trouble(&self) -> Option<Error> {
        self.waiting.as_ref().filter(|_| self.jobs.is_empty()).map(|_| Error::NoSpace)
    }

    /// Gives up a job.
    pub fn give_up(&mut self, id: JobId) {
        self.jobs.retain(|job| job.id != id);
        self.resting
            .extract_if(.., |subcompaction| subcompaction.job == id)
            .for_each(|subcompaction| subcompaction.abandon());
    }

    /// Gives up all jobs; nobody may be working on them.
    pub fn give_all_up(&mut self) {
        self.jobs.clear();
        self.resting.drain(..).for_each(|subcompaction| subcompaction.abandon());
    }
}
