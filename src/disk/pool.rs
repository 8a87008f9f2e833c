//! Files that are open as long as somebody uses them: a store may have more files than its process may have descriptors.
//!
//! A file of the pool is a name and, while there is room, an open file of the disk below. When more than the pool may have
//! are open, it closes those that nobody used for a while; who comes back to one opens it again, by its name.
//!
//! # Invariants
//!
//! 1. A file with bytes that were not synced stays open: an error of writing them back must reach the one who syncs.
//! 2. A file whose name was removed, or given to another, stays open: it could not be found again.
//! 3. No more files than the limit are open, but for those. So what is left of the process's descriptors is for sockets, threads
//!    and the kernel's door.
//! 4. Locks: that of one file before that of the state; of another file only if it is free.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};
use crate::base::metric::metrics;

/// Descriptors that are left to everything but the store's files, at least; of very few, half are.
const OTHERS: u64 = 64;
/// More files are not kept open, whatever the limit: each takes memory of the kernel that nobody counts.
const OPEN_MAX: u64 = 1 << 16;

metrics! {
    /// Open files of the pool.
    #[derive(Copy, Eq)]
    pub struct OpenFiles witness "kvfs::disk::pool::tests::more_files_are_used_than_are_open" {
        /// Open files of the store.
        gauge open: u64 [Count, key "open_files"];
        /// Limit of open files of the store, a share of the process's limit (`ulimit -Hn`) and at most 65,536; more are open only while they have
        /// bytes that are not synced.
        gauge open_max: u64 [Count, key "open_files_max", witness "kvfs::disk::pool::tests::some_descriptors_are_left_to_others"];
        /// Files opened again after they had been closed to stay below the limit; if this happens many times a second, raise the limit or make tables
        /// larger (`table=`).
        counter reopened: u64 [Count, key "reopened_files"];
    }
}

/// A disk that keeps no more than so many files of `disk` open.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    open_max: u64,
    reopened: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    /// Files that are open, by number.
    open: BTreeMap<u64, Weak<PooledFile>>,
    /// Every file that somebody has, open or not, by its name.
    names: HashMap<String, Vec<Weak<PooledFile>>>,
    /// Position from which the search for a file to close goes on.
    hand: u64,
}

struct PooledFile {
    id: u64,
    me: Weak<PooledFile>,
    shared: Arc<Shared>,
    slot: RwLock<Slot>,
    /// It was used since the search for a file to close came by.
    is_used: AtomicBool,
    /// It may have bytes that were not synced.
    is_dirty: AtomicBool,
}

struct Slot {
    name: String,
    file: Option<Arc<dyn File>>,
    /// The name leads to it no more.
    is_pinned: bool,
}

/// Files taken out of the pool, to be dropped after the lock of the state is released.
type Closed = Vec<(Arc<PooledFile>, Option<Arc<dyn File>>)>;

/// The share of `limit` descriptors that is for the store's files.
fn share_of(limit: u64) -> u64 {
    (limit / 2).max(limit.saturating_sub((limit / 8).max(OTHERS))).clamp(1, OPEN_MAX)
}

impl Pool {
    /// A pool of at most `open_max` open files, at least one.
    pub fn new(disk: Arc<dyn Disk>, open_max: u64) -> Arc<Pool> {
        let (open_max, reopened, state) = (open_max.max(1), AtomicU64::new(0), Mutex::default());
        Arc::new(Pool { shared: Arc::new(Shared { disk, open_max, reopened, state }) })
    }

    /// A pool for as many files as this process may have open, less what others need of them. Raises the process's soft limit of
    /// descriptors to the hard one.
    pub fn of_process(disk: Arc<dyn Disk>) -> Arc<Pool> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((OTHERS, OTHERS));
        let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        Pool::new(disk, share_of(if raised { hard } else { soft }))
    }

    /// Counters of open files now.
    pub fn open_files(&self) -> OpenFiles {
        let Shared { open_max, reopened, state, .. } = &*self.shared;
        let open = state.lock().open.len() as u64;
        OpenFiles { open, open_max: *open_max, reopened: reopened.load(Relaxed) }
    }

    fn add(
        &self,
        name: &str,
        open: impl Fn(&dyn Disk) -> io::Result<Arc<dyn File>>,
    ) -> io::Result<Arc<dyn File>> {
        let file = self.shared.open(open)?;
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let pooled = Arc::new_cyclic(|me| PooledFile {
            id,
            me: me.clone(),
            shared: shared.clone(),
            slot: RwLock::new(Slot { name: name.to_string(), file: Some(file), is_pinned: false }),
            is_used: AtomicBool::new(true),
            is_dirty: AtomicBool::new(false),
        });
        state.open.insert(id, pooled.me.clone());
        state.names.entry(name.to_string()).or_default().push(pooled.me.clone());
        drop(state);
        Ok(pooled)
    }

    /// The files that somebody has under a name, each open and to stay so.
    fn pin(&self, name: &str) -> io::Result<Vec<Arc<PooledFile>>> {
        let state = self.shared.state.lock();
        let files = state.names.get(name).into_iter().flatten().filter_map(Weak::upgrade);
        let files: Vec<Arc<PooledFile>> = files.collect();
        drop(state);
        for file in &files {
            let mut slot = file.slot.write();
            file.reopen(&mut slot)?;
            slot.is_pinned = true;
        }
        Ok(files)
    }
}

impl Shared {
    /// Opens a file of the disk below. Others are closed before, so that it finds room in the pool, or, where all of the process's
    /// or the system's descriptors are in use, after a first try.
    fn open(&self, open: impl Fn(&dyn Disk) -> io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        let have = self.state.lock().open.len() as u64;
        self.close((have + 1).saturating_sub(self.open_max));
        loop {
            let error = match open(&*self.disk) {
                Err(error) if is_out_of_descriptors(&error) => error,
                other => return other,
            };
            let have = self.state.lock().open.len() as u64;
            if self.close((have / 4).max(1)) == 0 {
                let text = "no descriptor is left and every idle file of the store is closed; raise the limit of \
                            open files (ulimit -Hn, LimitNOFILE=)";
                return Err(io::Error::new(error.kind(), format!("{error}: {text}")));
            }
        }
    }

    /// Closes up to `count` files that were not used for a while and may be closed; how many.
    fn close(&self, count: u64) -> u64 {
        let mut closed = Closed::new();
        let mut left = count;
        let mut state = self.state.lock();
        // The first time around may only find that all were used.
        let mut steps = 2 * state.open.len();
        while left > 0 && steps > 0 {
            steps -= 1;
            let State { open, hand, .. } = &mut *state;
            let next = open.range(*hand..).next().or_else(|| open.first_key_value());
            let Some((id, file)) = next.map(|(id, file)| (*id, file.upgrade())) else { break };
            *hand = id + 1;
            // Who is being dropped takes itself out.
            let Some(file) = file else { continue };
            let taken = file.close();
            if taken.is_some() {
                open.remove(&id);
                left -= 1;
            }
            closed.push((file, taken));
        }
        drop(state);
        count - left
    }
}

/// Whether the process or the system can open nothing more.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl Disk for Pool {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.add(name, |disk| disk.create(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.add(name, |disk| disk.open(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (moved, _replaced) = (self.pin(from)?, self.pin(to)?);
        let result = self.shared.disk.rename(from, to);
        let mut state = self.shared.state.lock();
        if result.is_ok() {
            state.names.remove(to);
            if let Some(files) = state.names.remove(from) {
                state.names.insert(to.to_string(), files);
            }
        }
        drop(state);
        for file in moved {
            let mut slot = file.slot.write();
            if result.is_ok() {
                slot.name = to.to_string();
            }
            slot.is_pinned = false;
        }
        result
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let _kept = self.pin(name)?;
        self.shared.disk.remove(name)?;
        self.shared.state.lock().names.remove(name);
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.shared.disk.list()
    }
    fn sync_names(&self) -> io::Result<()> {
        self.shared.disk.sync_names()
    }
    fn space(&self) -> io::Result<Space> {
        self.shared.disk.space()
    }
}

impl PooledFile {
    /// Opens it again if it was closed.
    fn reopen(&self, slot: &mut Slot) -> io::Result<()> {
        if slot.file.is_none() {
            slot.file = Some(self.shared.open(|disk| disk.open(&slot.name))?);
            self.shared.reopened.fetch_add(1, Relaxed);
            self.shared.state.lock().open.insert(self.id, self.me.clone());
        }
        Ok(())
    }

    /// Takes the open file out, if nobody needs it just now and it can be opened again.
    fn close(&self) -> Option<Arc<dyn File>> {
        if self.is_used.swap(false, Relaxed) {
            return None;
        }
        let mut slot = self.slot.try_write()?;
        if slot.is_pinned || self.is_dirty.load(SeqCst) {
            return None;
        }
        slot.file.take()
    }

    /// Makes a call on the open file, which stays open meanwhile. `changes` says that the call leaves something to sync.
    fn call<T>(&self, changes: bool, call: impl FnOnce(&dyn File) -> io::Result<T>) -> io::Result<T> {
        if !self.is_used.load(Relaxed) {
            self.is_used.store(true, Relaxed);
        }
        let mut slot = self.slot.read();
        if slot.file.is_none() {
            drop(slot);
            let mut again = self.slot.write();
            self.reopen(&mut again)?;
            slot = RwLockWriteGuard::downgrade(again);
        }
        let Some(file) = &slot.file else { return Err(io::Error::other("a file that is not open")) };
        let result = call(&**file);
        // Behind the call: a sync that ended before it has not covered it.
        if changes {
            self.is_dirty.store(true, SeqCst);
        }
        result
    }
}

impl File for PooledFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.call(false, |file| file.read_at(purpose, offset, target))
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.call(true, |file| file.write_at(purpose, offset, source))
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.call(true, |file| file.write_pieces_at(purpose, offset, pieces))
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        self.call(false, |file| {
            // Before the sync: what is written from here on is not covered by it.
            self.is_dirty.store(false, SeqCst);
            file.sync(purpose).inspect_err(|_| self.is_dirty.store(true, SeqCst))
        })
    }
    fn size(&self) -> io::Result<u64> {
        self.call(false, |file| file.size())
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.call(true, |file| file.set_size(bytes))
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.call(true, |file| file.allocate(bytes))
    }
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        self.call(false, |file| file.with_descriptor(look))
    }
}

impl Drop for PooledFile {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.open.remove(&self.id);
        if let Some(files) = state.names.get_mut(&self.slot.get_mut().name) {
            files.retain(|file| file.strong_count() > 0);
            if files.is_empty() {
                state.names.remove(&self.slot.get_mut().name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use crate::disk::{SimDisk, read_all};

    fn content(file: &Arc<dyn File>) -> Vec<u8> {
        read_all(&**file, Purpose::Get).unwrap()
    }

    /// Some files, written and synced.
    fn files(pool: &Pool, count: u64) -> Vec<Arc<dyn File>> {
        let file = |number: u64| {
            let file = pool.create(&number.to_string()).unwrap();
            file.write_at(Purpose::Flush, 0, &number.to_le_bytes()).unwrap();
            file.sync(Purpose::Flush).unwrap();
            file
        };
        (0..count).map(file).collect()
    }

    #[test]
    fn more_files_are_used_than_are_open() {
        let disk = SimDisk::new();
        disk.set_open_files_max(Some(8));
        let pool = Pool::new(disk.clone(), 8);
        let files = files(&pool, 100);
        let mut prng = Prng::new(1);
        for _ in 0..1000 {
            let number = prng.below(100);
            assert_eq!(content(&files[number as usize]), number.to_le_bytes());
            assert!(disk.open_files() <= 8);
            assert_eq!(pool.open_files().open, disk.open_files());
        }
        assert!(pool.open_files().reopened > 800, "{:?}", pool.open_files());
        // One that is used again and again stays open.
        let before = pool.open_files().reopened;
        for number in 1..100 {
            content(&files[0]);
            content(&files[number]);
        }
        assert!(pool.open_files().reopened - before <= 101, "{:?}", pool.open_files());
        drop(files);
        assert_eq!((disk.open_files(), pool.open_files().open), (0, 0));
        assert!(pool.shared.state.lock().names.is_empty());
    }

    #[test]
    fn a_file_with_unsynced_bytes_stays_open() {
        let disk = SimDisk::new();
        let pool = Pool::new(disk.clone(), 2);
        let dirty: Vec<_> = (0..5).map(|number| pool.create(&format!("dirty{number}")).unwrap()).collect();
        dirty.iter().for_each(|file| file.write_at(Purpose::Wal, 0, b"new").unwrap());
        let clean = files(&pool, 5);
        assert_eq!(pool.open_files().open, 5 + 1, "the limit gives way");
        assert_eq!(clean.iter().map(content).count(), 5);
        assert!(pool.open_files().reopened >= 4);
        let before = pool.open_files().reopened;
        dirty.iter().for_each(|file| assert_eq!(content(file), b"new"));
        assert_eq!(pool.open_files().reopened, before);
        // A sync that fails leaves them as they are.
        disk.stop_at(disk.requests());
        dirty.iter().for_each(|file| assert!(file.sync(Purpose::Wal).is_err()));
        disk.stop_at(u64::MAX);
        clean.iter().for_each(|file| drop(content(file)));
        assert_eq!(disk.open_files(), 5 + 1);
        dirty.iter().for_each(|file| file.sync(Purpose::Wal).unwrap());
        clean.iter().for_each(|file| drop(content(file)));
        assert!(disk.open_files() <= 2);
    }

    #[test]
    fn files_without_a_name_and_with_another_are_read_as_before() {
        let disk = SimDisk::new();
        let pool = Pool::new(disk.clone(), 1);
        let files = files(&pool, 6);
        assert_eq!(disk.open_files(), 1);
        pool.remove("0").unwrap();
        pool.rename("1", "2").unwrap();
        pool.rename("3", "a").unwrap();
        files.iter().zip(0u64..).for_each(|(file, number)| assert_eq!(content(file), number.to_le_bytes()));
        assert_eq!(disk.open_files(), 3, "the removed, the replaced, and the last");
        for (name, number) in [("2", 1u64), ("a", 3)] {
            assert_eq!(content(&pool.open(name).unwrap()), number.to_le_bytes());
        }
        assert!(pool.open("0").is_err() && pool.open("1").is_err() && pool.remove("0").is_err());
        drop(files);
        assert_eq!(disk.open_files(), 0);
    }

    #[test]
    fn where_descriptors_are_few_the_pool_takes_fewer() {
        let disk = SimDisk::new();
        disk.set_open_files_max(Some(4));
        let pool = Pool::new(disk.clone(), 1000);
        let clean = files(&pool, 20);
        clean.iter().zip(0u64..).for_each(|(file, number)| assert_eq!(content(file), number.to_le_bytes()));
        let dirty: Vec<_> = (0..4).map(|number| pool.create(&format!("dirty{number}")).unwrap()).collect();
        dirty.iter().for_each(|file| file.write_at(Purpose::Wal, 0, b"new").unwrap());
        let error = clean[7].size().unwrap_err();
        assert!(error.to_string().contains("ulimit"), "{error}");
        drop(dirty);
        assert_eq!(content(&clean[7]), 7u64.to_le_bytes());
    }

    #[test]
    fn files_are_closed_beside_readers_and_writers() {
        let pool = Pool::new(SimDisk::new(), 3);
        let files = files(&pool, 12);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (files, pool) = (&files, &pool);
                scope.spawn(move || {
                    let mut prng = Prng::new(thread);
                    for round in 0..2000u64 {
                        let number = prng.below(12);
                        assert_eq!(content(&files[number as usize])[..8], number.to_le_bytes());
                        if round % 8 == thread {
                            let own = &files[thread as usize];
                            own.write_at(Purpose::Wal, 8, &round.to_le_bytes()).unwrap();
                            assert_eq!(content(own)[8..], round.to_le_bytes());
                            own.sync(Purpose::Wal).unwrap();
                            let name = format!("new{thread}");
                            let new = pool.create(&name).unwrap();
                            pool.remove(&name).unwrap();
                            assert_eq!(new.size().unwrap(), 0);
                        }
                    }
                });
            }
        });
        assert!(pool.open_files().open <= 3 && pool.open_files().reopened > 0);
    }

    #[test]
    fn some_descriptors_are_left_to_others() {
        assert_eq!([2, 128, 1024, 4096].map(share_of), [1, 64, 896, 3584]);
        assert_eq!(share_of(u64::MAX), OPEN_MAX);
        // Raised once, the limit is not raised again.
        let of_process = || Pool::of_process(SimDisk::new()).open_files().open_max;
        assert_eq!(of_process(), of_process());
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
