//! The space guard: keeps a reserve of free space and of free inodes on the disk below, so that a full disk refuses new data while deletes and
//! background work continue.

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
/// Number of files that could still be made below which new data is refused.
const GROWTH_FILES: u64 = SPARE_FILES / 2;
/// Number of files that could still be made from which on inodes are not counted.
const MANY_FILES: u64 = 2 * SPARE_FILES;

/// Share of the disk that is kept free if that is more than the option asks for, one part in so many; at most [`SHARE_BYTES_MAX`].
const SHARE: u64 = 100;
/// Largest reserve by [`SHARE`]: the space that merges need does not grow with the disk.
const SHARE_BYTES_MAX: u64 = 1 << 30;
/// Largest share of the disk for the reserve, one part in so many; [`SMALL_BYTES`] are allowed in any case.
const SHARE_MAX: u64 = 16;
/// Reserve that is allowed on a disk of any size.
const SMALL_BYTES: u64 = 1 << 20;
/// Largest part of the reserve that batches which give space back must leave: room for the merge that does it.
const RELEASE_BYTES_MAX: u64 = 32 << 20;
/// Admitted bytes after which free space is looked up again; when it is short, at every batch.
const RECHECK_BYTES: i64 = 16 << 20;

/// The claim of a batch on the disk's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceClaim {
    /// New data, for which files grow.
    Growth,
    /// New data that fits into free places of files; the disk is needed only for records for which the files of the log have no room.
    Inside,
    /// A batch that gives space back.
    Release,
}

impl SpaceClaim {
    /// The part of a reserve of `reserve_bytes` that must stay free: the more a batch helps, the more it may use.
    fn leaves(self, reserve_bytes: u64) -> u64 {
        match self {
            SpaceClaim::Growth => reserve_bytes,
            SpaceClaim::Inside => reserve_bytes / 4 * 3,
            SpaceClaim::Release => (reserve_bytes / 2).min(RELEASE_BYTES_MAX),
        }
    }
}

/// The reserve on a disk of `total_bytes` (0 if unknown) if the option asks for `wanted_bytes`.
fn reserve_bytes(wanted_bytes: u64, total_bytes: u64) -> u64 {
    let most = if total_bytes == 0 { u64::MAX } else { (total_bytes / SHARE_MAX).max(SMALL_BYTES) };
    wanted_bytes.max((total_bytes / SHARE).min(SHARE_BYTES_MAX)).min(most)
}

/// The size that a ballast of `held_bytes` is to get where `wanted_bytes` are wanted, at most half of the reserve; `None` if it stays as it is,
/// since small differences are ignored.
pub fn ballast_change(wanted_bytes: u64, held_bytes: u64, reserve_bytes: u64) -> Option<u64> {
    let wanted_bytes = wanted_bytes.min(reserve_bytes / 2);
    let is_near = (wanted_bytes - wanted_bytes / 4..=2 * wanted_bytes).contains(&held_bytes);
    (!is_near).then_some(wanted_bytes)
}

/// Whether so few files can be made that none should be made without need.
pub fn is_short_of_files(space: &Space) -> bool {
    space.room_files() < MANY_FILES
}

/// Whether so few files can be made that new data is refused, however much is free.
pub fn lacks_files(space: &Space) -> bool {
    space.room_files() < GROWTH_FILES
}

/// The sentence that explains why a disk with free bytes refuses new data if it lacks inodes; empty otherwise.
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

/// Admits batches while there is space for them and for the work that they cause.
pub struct SpaceGuard {
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    /// Bytes that even a small batch may allocate at once: a new segment of the log.
    grain_bytes: u64,
    /// Bytes that may still be admitted before the disk is asked again.
    allowance: AtomicI64,
    /// The part of the reserve that is allocated.
    ballast: Ballast,
}

impl SpaceGuard {
    /// A guard that keeps `wanted_bytes` of `disk` free, or 1 % of it up to 1 GiB if that is more, but never more than a sixteenth. Space is
    /// allocated in pieces of `grain_bytes`.
    pub fn new(disk: Arc<dyn Disk>, wanted_bytes: u64, grain_bytes: u64) -> Result<SpaceGuard> {
        let space = disk.space().map_err(|error| Error::io("reading free space", error))?;
        let reserve_bytes = reserve_bytes(wanted_bytes, space.total_bytes);
        let ballast = Ballast::open(disk.clone());
        Ok(SpaceGuard { disk, reserve_bytes, grain_bytes, allowance: AtomicI64::new(0), ballast })
    }

    /// Bytes that batches which give space back must leave free.
    pub fn release_bytes(&self) -> u64 {
        SpaceClaim::Release.leaves(self.reserve_bytes)
    }

    /// Bytes of the reserve.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Free bytes beyond the reserve; 0 if unknown.
    pub fn spare_bytes(&self) -> u64 {
        let free = self.disk.space().map_or(0, |space| self.room_bytes(&space));
        free.saturating_sub(SpaceClaim::Growth.leaves(self.reserve_bytes))
    }

    /// Free bytes of the disk; 0 if unknown.
    pub fn free_bytes(&self) -> u64 {
        self.disk.space().map_or(0, |space| space.room_bytes())
    }

    /// Makes the ballast `wanted_bytes` large, at most half of the reserve, as far as so much is free beside `owed_bytes` that must still be
    /// written.
    pub fn keep_ballast(&self, wanted_bytes: u64, owed_bytes: u64) {
        let Some(wanted_bytes) = ballast_change(wanted_bytes, self.ballast.bytes(), self.reserve_bytes)
        else {
            return;
        };
        if let Ok(space) = self.disk.space() {
            self.ballast.keep(wanted_bytes, owed_bytes, &space);
        }
    }

    /// Frees `bytes` of the ballast, or the rest of it, for work that gives space back and finds none. True if any were freed.
    pub fn give_ballast(&self, bytes: u64) -> bool {
        self.ballast.give(bytes)
    }

    /// Bytes of the ballast.
    pub fn ballast_bytes(&self) -> u64 {
        self.ballast.bytes()
    }

    /// Whether there is no room for new data.
    pub fn is_full(&self) -> bool {
        self.disk.space().is_ok_and(|space| self.room_bytes(&space) <= self.reserve_bytes)
    }

    /// Free bytes, the ballast included.
    fn room_bytes(&self, space: &Space) -> u64 {
        space.room_bytes().saturating_add(self.ballast.bytes())
    }

    /// Bytes of the reserve that work leaves alone which gives no space back: what deletes may take.
    pub fn kept_bytes(&self) -> u64 {
        SpaceClaim::Inside.leaves(self.reserve_bytes)
    }

    /// Makes the next batch look up the free space, since work has begun that will write.
    pub fn look_again(&self) {
        self.allowance.store(0, Relaxed);
    }

    /// Whether a batch of `bytes` of new data would be admitted beside `owed_bytes` once `returned_bytes`, which are taken now, are given back.
    pub fn fits(&self, bytes: u64, owed_bytes: u64, returned_bytes: u64) -> bool {
        self.disk.space().is_ok_and(|space| {
            let room = self.room_bytes(&space).saturating_add(returned_bytes);
            let kept = SpaceClaim::Growth.leaves(self.reserve_bytes).saturating_add(owed_bytes);
            !lacks_files(&space) && room.saturating_sub(kept) >= bytes
        })
    }

    /// Admits a batch of `bytes` while `owed_bytes` (unflushed memory, the rest of a merge) must still be written, or refuses it with
    /// [`Error::NoSpace`].
    pub fn admit(&self, bytes: u64, owed_bytes: u64, claim: SpaceClaim) -> Result<()> {
        if self.allowance.fetch_sub(bytes as i64, Relaxed) >= bytes as i64 {
            return Ok(());
        }
        let space = self.disk.space().map_err(|error| Error::io("reading free space", error))?;
        let free = self.room_bytes(&space);
        let room = |claim: SpaceClaim| {
            free.saturating_sub(claim.leaves(self.reserve_bytes)).saturating_sub(owed_bytes)
        };
        // A quarter of the room, since admitted bytes are written more than once. When room is short, every batch is checked.
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
        for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
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
        for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
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
        assert!(guard.fits(400, 0, 0) && !guard.fits(600, 0, 0) && !guard.fits(400, 200, 0));
        assert!(guard.fits(600, 0, 200) && guard.fits(400, 200, 200), "what a merge will have given back");
        guard.admit(600, 0, SpaceClaim::Inside).unwrap();
        assert!(matches!(guard.admit(1600, 0, SpaceClaim::Inside), Err(Error::NoSpace)));
        guard.admit(1600, 0, SpaceClaim::Release).unwrap();
        disk.remove("a").unwrap();
        guard.admit(600, 0, SpaceClaim::Growth).unwrap();
    }
}
