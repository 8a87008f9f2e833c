//! The states of a filesystem that another process changes, and which of them a request sees.
//!
//! Every request sees one state from its beginning to its end. Who has a file open sees it as it was when the first of those who have it open now
//! came: so it is read whole, in however many requests, and what the kernel keeps of it is of one state. That ends after [`HELD_MAX`], when what is
//! obsolete may be gone.
//!
//! A filesystem that this process alone changes has one state, which is always the newest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::FileSystem;
use super::types::Ino;

/// Longest time for which an open file holds its state.
pub const HELD_MAX: Duration = Duration::from_secs(300);

/// The states of a filesystem.
pub struct States {
    /// The only one; `None` of a filesystem that others change.
    only: Option<Arc<FileSystem>>,
    newest: RwLock<Arc<FileSystem>>,
    held: Mutex<HashMap<Ino, Held>>,
}

/// The state that the open files of an inode hold.
struct Held {
    fs: Arc<FileSystem>,
    opens: u64,
    /// On the clock of the filesystem.
    since: Duration,
}

impl States {
    /// Of a filesystem that nobody else changes.
    pub fn only(fs: Arc<FileSystem>) -> States {
        States { only: Some(fs.clone()), newest: RwLock::new(fs), held: Mutex::default() }
    }

    /// Of one that others change, beginning with a state.
    pub fn followed(first: Arc<FileSystem>) -> States {
        States { only: None, newest: RwLock::new(first), held: Mutex::default() }
    }

    /// Whether others change it.
    pub fn are_followed(&self) -> bool {
        self.only.is_none()
    }

    /// The newest one.
    pub fn newest(&self) -> Arc<FileSystem> {
        self.only.clone().unwrap_or_else(|| self.newest.read().clone())
    }

    /// The one in which `ino` is seen now.
    pub fn of(&self, ino: Ino) -> Arc<FileSystem> {
        self.held(ino).unwrap_or_else(|| self.newest())
    }

    /// The one in which `ino` is held; `None` if it is seen in the newest.
    pub fn held(&self, ino: Ino) -> Option<Arc<FileSystem>> {
        match self.only {
            Some(_) => None,
            None => self.held.lock().get(&ino).map(|held| held.fs.clone()),
        }
    }

    /// The one in which `ino` is seen from now on until it is let go as often as it was held.
    pub fn hold(&self, ino: Ino) -> Arc<FileSystem> {
        if let Some(only) = &self.only {
            return only.clone();
        }
        let mut all = self.held.lock();
        let held = all.entry(ino).or_insert_with(|| {
            let fs = self.newest();
            Held { opens: 0, since: fs.clock.elapsed(), fs }
        });
        held.opens += 1;
        held.fs.clone()
    }

    /// Lets go of it; the state in which it was held.
    pub fn let_go(&self, ino: Ino) -> Arc<FileSystem> {
        if let Some(only) = &self.only {
            return only.clone();
        }
        let mut all = self.held.lock();
        let Some(held) = all.get_mut(&ino) else { return self.newest() };
        let fs = held.fs.clone();
        held.opens -= 1;
        if held.opens == 0 {
            all.remove(&ino);
        }
        fs
    }

    /// Makes `fs` the newest one. Of inodes that have been held for too long it is the state from now on: these, so that what the kernel keeps
    /// of them can be forgotten.
    pub fn show(&self, fs: Arc<FileSystem>) -> Vec<Ino> {
        *self.newest.write() = fs.clone();
        let now = fs.clock.elapsed();
        let mut outdated = Vec::new();
        for (ino, held) in self.held.lock().iter_mut() {
            if now.saturating_sub(held.since) > HELD_MAX {
                (held.fs, held.since) = (fs.clone(), now);
                outdated.push(*ino);
            }
        }
        outdated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::engine::MemEngine;
    use crate::fs::operation::Op;
    use crate::fs::types::{Caller, NewNode, ROOT};
    use crate::fs::{Error, Options, Tier};

    fn state() -> Arc<FileSystem> {
        state_on(&Arc::default())
    }

    fn state_on(clock: &Arc<ManualClock>) -> Arc<FileSystem> {
        let space = Arc::new(|| Ok(crate::disk::Space::default()));
        FileSystem::open(Arc::new(MemEngine::new()), clock.clone(), Options::default(), space).unwrap()
    }

    #[test]
    fn an_open_file_is_seen_in_one_state_and_everything_else_in_the_newest() {
        let (first, second, third) = (state(), state(), state());
        let states = States::followed(first.clone());
        let (a, b) = (Ino(2), Ino(3));
        assert!(Arc::ptr_eq(&states.hold(a), &first));
        assert!(states.show(second.clone()).is_empty());
        assert!(Arc::ptr_eq(&states.of(a), &first) && Arc::ptr_eq(&states.of(b), &second));
        // Who opens it beside the first one sees what that sees.
        assert!(Arc::ptr_eq(&states.hold(a), &first) && Arc::ptr_eq(&states.hold(b), &second));
        states.show(third.clone());
        assert!(Arc::ptr_eq(&states.let_go(a), &first) && Arc::ptr_eq(&states.of(a), &first));
        assert!(Arc::ptr_eq(&states.let_go(a), &first) && Arc::ptr_eq(&states.of(a), &third));
        assert!(Arc::ptr_eq(&states.let_go(b), &second) && Arc::ptr_eq(&states.newest(), &third));
        // A state goes with the last who sees it.
        drop(states);
        assert_eq!([&first, &second, &third].map(Arc::strong_count), [1; 3]);
    }

    #[test]
    fn a_state_that_is_held_for_too_long_is_given_up() {
        let clock = Arc::default();
        let (first, second) = (state_on(&clock), state_on(&clock));
        let states = States::followed(first.clone());
        states.hold(Ino(2));
        clock.advance(HELD_MAX);
        assert!(states.show(first).is_empty());
        clock.advance(Duration::from_secs(1));
        assert_eq!(states.show(second.clone()), [Ino(2)]);
        assert!(Arc::ptr_eq(&states.of(Ino(2)), &second));
    }

    #[test]
    fn what_nobody_else_changes_has_one_state() {
        let fs = state();
        let states = States::only(fs.clone());
        for seen in [states.newest(), states.of(Ino(2)), states.hold(Ino(2)), states.let_go(Ino(2))] {
            assert!(Arc::ptr_eq(&seen, &fs));
        }
        assert!(states.held.lock().is_empty() && !states.are_followed());
    }

    /// A file that has lost its name while it was open is there until its content is taken away, which a state may show half done.
    #[test]
    fn what_is_being_taken_away_is_not_opened_in_a_state() {
        let engine = Arc::new(MemEngine::new());
        let space = Arc::new(|| Ok(crate::disk::Space::default()));
        let clock: Arc<ManualClock> = Arc::default();
        let writer =
            FileSystem::open(engine.clone(), clock.clone(), Options::default(), space.clone()).unwrap();
        let made =
            writer.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, b"a", 0o644, 0, NewNode::File).unwrap();
        writer.open_file(Tier::Disk, made.ino).unwrap();
        let before =
            FileSystem::look(engine.clone(), clock.clone(), Options::default(), space.clone()).unwrap();
        before.open_file(Tier::Disk, made.ino).unwrap();
        writer.unlink(Tier::Disk, ROOT, b"a").unwrap();
        let after = before.at(engine).unwrap();
        assert!(matches!(after.open_file(Tier::Disk, made.ino), Err(Error::Stale)));
    }
}
