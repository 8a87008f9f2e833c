//! Keeps a reserve of free space and of files below, so that a full disk refuses new data while deletes and background work go on.

mod ballast;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{Error, Result};
use crate::disk::{Disk, Space};

use ballast::Ballast;
pub use ballast::NAME as BALLAST_NAME;

/// Spare files that a mount keeps ([`crate::disk::Stock`]): enough for a flush, a segment of the log, a manifest and the merges that
/// give space back.
pub const SPARE_FILES: u64 = 24;
/// New data leaves as many files to be made.
const GROWTH_FILES: u64 = SPARE_FILES / 2;
/// From so many on, files are no matter.
const MANY_FILES: u64 = 2 * SPARE_FILES;

/// This part of the disk is kept free where that is more than what is asked for, but no more than [`SHARE_BYTES_MAX`].
const SHARE: u64 = 100;
/// See there: what merges need does not grow with the disk.
const SHARE_BYTES_MAX: u64 = 1 << 30;
/// The reserve is at most this part of a disk, or [`SMALL_BYTES`] if that is more.
const SHARE_MAX: u64 = 16;
/// See there.
const SMALL_BYTES: u64 = 1 << 20;
/// What gives space back leaves half of the reserve, but no more than this: room for the merge that does it.
const RELEASE_BYTES_MAX: u64 = 32 << 20;
/// Free space is asked for again after this many admitted bytes, or at every batch once it is short.
const RECHECK_BYTES: i64 = 16 << 20;

/// What a batch asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceClaim {
    /// New data: files grow.
    Growth,
    /// New data that fits into free places of files: of the disk it needs no more than the log has no room for in its files.
    Inside,
    /// It gives space back.
    Release,
}

impl SpaceClaim {
    /// Of a reserve of `reserve_bytes`, what it must leave: whoever helps more may use more.
    fn leaves(self, reserve_bytes: u64) -> u64 {
        match self {
            SpaceClaim::Growth => reserve_bytes,
            SpaceClaim::Inside => reserve_bytes / 4 * 3,
            SpaceClaim::Release => (reserve_bytes / 2).min(RELEASE_BYTES_MAX),
        }
    }
}

/// What is kept free of a disk of `total_bytes` (0 if that is not known) where `wanted_bytes` are asked for.
fn reserve_bytes(wanted_bytes: u64, total_bytes: u64) -> u64 {
    let most = if total_bytes == 0 { u64::MAX } else { (total_bytes / SHARE_MAX).max(SMALL_BYTES) };
    wanted_bytes.max((total_bytes / SHARE).min(SHARE_BYTES_MAX)).min(most)
}

/// Whether so few files can be made that none should be made which need not be.
pub fn is_short_of_files(space: &Space) -> bool {
    space.room_files() < MANY_FILES
}

/// Whether so few files can be made that new data is refused, however much is free.
pub fn lacks_files(space: &Space) -> bool {
    space.room_files() < GROWTH_FILES
}

/// The sentence that says why a disk with free bytes refuses new data, if it is for want of files; empty otherwise.
pub fn shortage(space: &Space) -> String {
    if !lacks_files(space) {
        return String::new();
    }
    let files = space.room_files();
    format!(
        "; the disk below has no inodes left: {files} more files can be made there, where new data needs {GROWTH_FILES} \
         (df -i shows them)"
    )
}

/// Admits batches while there is space for them and for the work they cause.
pub struct SpaceGuard {
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    /// What a batch may take at once, however small it is: a new segment of the log.
    grain_bytes: u64,
    /// Bytes that may still be admitted before the disk is asked again.
    allowance: AtomicI64,
    /// A part of the reserve that is taken.
    ballast: Ballast,
}

impl SpaceGuard {
    /// Keeps `wanted_bytes` of `disk` free, or 1 % of it up to 1 GiB if that is more, but never more than a sixteenth; space is taken
    /// in pieces of `grain_bytes`.
    pub fn new(disk: Arc<dyn Disk>, wanted_bytes: u64, grain_bytes: u64) -> Result<SpaceGuard> {
        let space = disk.space().map_err(|error| Error::io("reading free space", error))?;
        let reserve_bytes = reserve_bytes(wanted_bytes, space.total_bytes);
        let ballast = Ballast::open(disk.clone());
        Ok(SpaceGuard { disk, reserve_bytes, grain_bytes, allowance: AtomicI64::new(0), ballast })
    }

    /// What whoever gives space back leaves free.
    pub fn release_bytes(&self) -> u64 {
        SpaceClaim::Release.leaves(self.reserve_bytes)
    }

    /// What is kept free, in bytes.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// What is free beside the reserve, in bytes; 0 where that is not known.
    pub fn spare_bytes(&self) -> u64 {
        let free = self.disk.space().map_or(0, |space| self.room_bytes(&space));
        free.saturating_sub(SpaceClaim::Growth.leaves(self.reserve_bytes))
    }

    /// Bytes of the disk that can be taken now; 0 if it does not say.
    pub fn free_bytes(&self) -> u64 {
        self.disk.space().map_or(0, |space| space.room_bytes())
    }

    /// Takes `wanted_bytes` of the reserve as ballast, at most half of it, if so much is free beside `owed_bytes` that must still be
    /// written; what is there already counts.
    pub fn keep_ballast(&self, wanted_bytes: u64, owed_bytes: u64) {
        let wanted_bytes = wanted_bytes.min(self.reserve_bytes / 2);
        // Not for each trifle.
        let held_bytes = self.ballast.bytes();
        if (wanted_bytes - wanted_bytes / 4..=2 * wanted_bytes).contains(&held_bytes) {
            return;
        }
        if let Ok(space) = self.disk.space() {
            self.ballast.keep(wanted_bytes, owed_bytes, &space);
        }
    }

    /// Gives up `bytes` of the ballast, or all that is left of it, to work that gives space back and has none; whether that is anything.
    pub fn give_ballast(&self, bytes: u64) -> bool {
        self.ballast.give(bytes)
    }

    /// Bytes of the reserve that are taken.
    pub fn ballast_bytes(&self) -> u64 {
        self.ballast.bytes()
    }

    /// Whether new data finds no room.
    pub fn is_full(&self) -> bool {
        self.disk.space().is_ok_and(|space| self.room_bytes(&space) <= self.reserve_bytes)
    }

    /// Bytes that are free, or would be without ballast.
    fn room_bytes(&self, space: &Space) -> u64 {
        space.room_bytes().saturating_add(self.ballast.bytes())
    }

    /// Looks at the disk at the next batch: work has begun that owes bytes.
    pub fn look_again(&self) {
        self.allowance.store(0, Relaxed);
    }

    /// Whether a batch of `bytes` may come in while `owed_bytes` (unflushed memory, the rest of a merge) must still be written.
    pub fn admit(&self, bytes: u64, owed_bytes: u64, claim: SpaceClaim) -> Result<()> {
        if self.allowance.fetch_sub(bytes as i64, Relaxed) >= bytes as i64 {
            return Ok(());
        }
        let space = self.disk.space().map_err(|error| Error::io("reading free space", error))?;
        let free = self.room_bytes(&space);
        let room = |claim: SpaceClaim| {
            free.saturating_sub(claim.leaves(self.reserve_bytes)).saturating_sub(owed_bytes)
        };
        // A quarter of what is there for anyone: what is admitted is written more than once. Near the end every batch is looked at.
        let allowance = room(SpaceClaim::Growth).saturating_sub(4 * self.grain_bytes) / 4;
        let allowance = if is_short_of_files(&space) { 0 } else { allowance };
        self.allowance.store(allowance.min(RECHECK_BYTES as u64) as i64, Relaxed);
        if claim != SpaceClaim::Release && lacks_files(&space) {
            return Err(Error::NoSpace);
        }
        if room(claim) < bytes && bytes > 0 { Err(Error::NoSpace) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Purpose, SimDisk};

    #[test]
    fn the_reserve_fits_the_disk() {
        let of = |wanted, total| reserve_bytes(wanted, total) >> 20;
        assert_eq!(of(64 << 20, 100 << 30), 1 << 10, "1 %");
        assert_eq!([of(64 << 20, 500 << 30), of(1 << 20, 100 << 40)], [1 << 10, 1 << 10], "a GiB at most");
        assert_eq!(of(4 << 30, 500 << 30), 4 << 10, "or what was asked for");
        assert_eq!(of(64 << 20, 400 << 20), 25, "a part of a small disk");
        assert_eq!(of(64 << 20, 0), 64, "of a disk that does not say how large it is");
        assert_eq!(SpaceClaim::Release.leaves(5 << 30), 32 << 20);
        assert_eq!(SpaceClaim::Release.leaves(25 << 20), 25 << 19);
    }

    #[test]
    fn a_disk_of_unknown_size_is_not_full() {
        struct Silent(Arc<SimDisk>);
        impl Disk for Silent {
            fn create(&self, name: &str) -> std::io::Result<Arc<dyn crate::disk::File>> {
                self.0.create(name)
            }
            fn open(&self, name: &str) -> std::io::Result<Arc<dyn crate::disk::File>> {
                self.0.open(name)
            }
            fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
                self.0.rename(from, to)
            }
            fn remove(&self, name: &str) -> std::io::Result<()> {
                self.0.remove(name)
            }
            fn list(&self) -> std::io::Result<Vec<crate::disk::FileInfo>> {
                self.0.list()
            }
            fn sync_names(&self) -> std::io::Result<()> {
                self.0.sync_names()
            }
            fn space(&self) -> std::io::Result<crate::disk::Space> {
                Ok(crate::disk::Space { total_bytes: 0, free_bytes: 0, ..crate::disk::Space::default() })
            }
        }
        use crate::engine::{Kind, Options, Tier, open, settle};
        for kind in [Kind::LSM, Kind::BTREE] {
            let disk = Arc::new(Silent(SimDisk::new()));
            let clock = Arc::new(crate::base::clock::ManualClock::default());
            let engine = open(disk, clock, &Options::tiny(kind)).unwrap();
            for number in 0..200u32 {
                let mut batch = crate::engine::Batch::new(0);
                batch.put(number.to_be_bytes().to_vec(), vec![7; 200]);
                while let Err(error) = engine.apply(&batch, Tier::Disk) {
                    assert!(matches!(error, Error::Busy { .. }), "{kind}: {error}");
                    settle(&*engine).unwrap();
                }
            }
            settle(&*engine).unwrap();
            assert!(engine.shape().debt.l0_files < 4, "{kind}: merges run");
        }
    }

    /// Puts `count` values from `first` on; how many were taken before the disk was full.
    fn fill(engine: &dyn crate::engine::Engine, first: u32, count: u32) -> u32 {
        use crate::engine::{Batch, Tier, settle};
        for number in 0..count {
            let mut batch = Batch::new(0);
            batch.put((first + number).to_be_bytes().to_vec(), vec![7; 200]);
            loop {
                match engine.apply(&batch, Tier::Disk) {
                    Ok(_) => break,
                    Err(Error::Busy { .. }) => settle(engine).unwrap(),
                    Err(Error::NoSpace) => return number,
                    Err(error) => panic!("{number}: {error}"),
                }
            }
        }
        count
    }

    fn keys(engine: &dyn crate::engine::Engine) -> Vec<u32> {
        let mut keys = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| {
            keys.push(u32::from_be_bytes(key.try_into().unwrap()));
            std::ops::ControlFlow::Continue(())
        };
        engine.scan(crate::engine::KeyRange::ALL, crate::engine::Tier::Disk, visit).unwrap();
        keys
    }

    #[test]
    fn without_an_inode_left_a_store_is_opened_and_emptied() {
        use crate::disk::Stock;
        use crate::engine::{Batch, Command, Kind, Options, Tier, open, run, settle};
        for kind in [Kind::LSM, Kind::BTREE] {
            let open = |disk: &Arc<SimDisk>| {
                let stock = Stock::new(disk.clone()).unwrap();
                let clock = Arc::new(crate::base::clock::ManualClock::default());
                let engine = open(stock.clone(), clock, &Options::tiny(kind))
                    .unwrap_or_else(|error| panic!("{kind}: {error}"));
                stock.keep(SPARE_FILES).unwrap();
                engine
            };
            let others_take_all = |disk: &SimDisk| {
                disk.set_files_max(Some(disk.list().unwrap().len() as u64));
            };
            let mut disk = SimDisk::new();
            disk.set_files_max(Some(1000));
            let mut engine = open(&disk);
            let mut count = fill(&*engine, 0, 1500);
            assert_eq!(count, 1500, "{kind}");
            others_take_all(&disk);
            // The B-tree grows in the files that it has; an LSM-tree makes new ones.
            let more = fill(&*engine, count, 1500);
            assert!(kind == Kind::BTREE || more < 1500, "{kind}: {more} more are taken");
            count += more;
            let mut first = 0;
            for life in 0..8 {
                assert_eq!(keys(&*engine), (first..count).collect::<Vec<_>>(), "{kind}, life {life}");
                let last = if life < 7 { first + (count - first) / 4 } else { count };
                for number in first..last {
                    let mut batch = Batch::new(0);
                    batch.uses_reserve = true;
                    batch.delete(number.to_be_bytes().to_vec());
                    while let Err(error) = engine.apply(&batch, Tier::Disk) {
                        assert!(
                            matches!(error, Error::Busy { .. }),
                            "{kind}, life {life}, {number}: {error}"
                        );
                        settle(&*engine).unwrap();
                    }
                }
                first = last;
                if life < 7 {
                    // What was not synced is lost in a power cut, and nobody is told that it was deleted.
                    crate::engine::sync(&*engine).unwrap();
                    drop(engine);
                    disk = if life % 2 == 0 { disk.kill() } else { disk.crash(life) };
                    others_take_all(&disk);
                    engine = open(&disk);
                }
            }
            run(&*engine, Command::Verify).unwrap();
            run(&*engine, Command::Compact).unwrap();
            settle(&*engine).unwrap();
            assert_eq!(fill(&*engine, 0, 100), 100, "{kind}: written after the deletes");
            assert_eq!(keys(&*engine), (0..100).collect::<Vec<_>>(), "{kind}");
        }
    }

    #[test]
    fn data_is_refused_before_deletes_are() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(10_000));
        let guard = SpaceGuard::new(disk.clone(), 4_000, 100).unwrap();
        guard.admit(1_000, 0, SpaceClaim::Growth).unwrap();
        disk.create("a").unwrap().write_at(Purpose::Wal, 0, &[0; 5_500]).unwrap();
        let guard = SpaceGuard::new(disk.clone(), 4_000, 100).unwrap();
        guard.admit(400, 0, SpaceClaim::Growth).unwrap();
        assert!(matches!(guard.admit(600, 0, SpaceClaim::Growth), Err(Error::NoSpace)));
        assert!(matches!(guard.admit(400, 200, SpaceClaim::Growth), Err(Error::NoSpace)));
        guard.admit(600, 0, SpaceClaim::Inside).unwrap();
        assert!(matches!(guard.admit(1600, 0, SpaceClaim::Inside), Err(Error::NoSpace)));
        guard.admit(1600, 0, SpaceClaim::Release).unwrap();
        disk.remove("a").unwrap();
        guard.admit(600, 0, SpaceClaim::Growth).unwrap();
    }
}
