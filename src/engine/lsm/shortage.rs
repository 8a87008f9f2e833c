//! What is known while the disk is short of room: who waits for it, what could not be done, and what background work may still give back.
//!
//! Writers, flushes and merges tell each other through it; each note is made in one step, and nothing here waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::engine::Error;

/// What an edit of the manifest and the filesystem's own records take beside the bytes of files, at most.
pub const RECORDS_BYTES: u64 = 64 << 10;

/// Why something could not be done.
#[derive(Clone)]
pub struct Trouble {
    /// The error.
    pub error: Error,
    /// What was free on the disk below then, in bytes.
    pub free_bytes: u64,
}

/// Why the last flush and the last merge could not be done, if they could not.
#[derive(Clone, Default)]
pub struct Troubles {
    /// Of the last flush.
    pub flush: Option<Trouble>,
    /// Of the last merge.
    pub merge: Option<Trouble>,
}

/// What merges may be expected to do, as writers see it who find no space.
#[derive(Clone, Copy, Default)]
pub struct Outlook {
    /// When it was last looked for, there was nothing to merge, or no space to.
    pub is_idle: bool,
    /// No merge runs that gives space back, and it was looked for one.
    pub is_exhausted: bool,
    /// How often something changed after which there may be more to merge.
    changes: u64,
}

impl Outlook {
    /// Something changed: nobody has looked since.
    fn change(&mut self) {
        *self = Outlook { changes: self.changes + 1, ..Outlook::default() };
    }

    /// What was found by one who began to look after `changes` changes; not if there was another one meanwhile, which they may not
    /// have seen.
    fn note(&mut self, changes: u64, is_idle: bool, is_exhausted: bool) {
        if changes == self.changes {
            (self.is_idle, self.is_exhausted) = (is_idle, is_exhausted);
        }
    }
}

/// The state of a store that is short of room.
#[derive(Default)]
pub struct Shortage {
    /// A batch was refused for want of space, and since then none found enough.
    is_refused: AtomicBool,
    /// More is deleted than is free: tables are cleaned although no batch waits for it.
    cleans_unasked: AtomicBool,
    /// Something was deleted since it was last looked how much.
    watches_deletes: AtomicBool,
    /// Tombstones of the mutable memtable, as they were then.
    seen_tombstones: AtomicU64,
    outlook: Mutex<Outlook>,
    troubles: Mutex<Troubles>,
}

impl Shortage {
    /// A batch was refused; whether it is the first one.
    pub fn note_refusal(&self) -> bool {
        !self.is_refused.swap(true, Relaxed)
    }

    /// A batch that takes space found enough.
    pub fn note_room(&self) {
        if self.is_refused.load(Relaxed) {
            self.is_refused.store(false, Relaxed);
        }
    }

    /// Whether a batch was refused, and since then none found enough.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    /// Has tables cleaned although no batch was refused, or no longer.
    pub fn set_unasked(&self, cleans: bool) {
        self.cleans_unasked.store(cleans, Relaxed);
    }

    /// Whether tables are to be cleaned.
    pub fn is_cleaning_wanted(&self) -> bool {
        self.is_refused() || self.cleans_unasked.load(Relaxed)
    }

    /// There may be something to clean that nobody has looked for yet.
    pub fn expect_space(&self) {
        self.outlook.lock().change();
        self.forget_merge_shortage();
    }

    /// Forgets that the last merge had no space; any other trouble stays.
    pub fn forget_merge_shortage(&self) {
        self.troubles.lock().merge.take_if(|trouble| matches!(trouble.error, Error::NoSpace));
    }

    /// What merges may be expected to do.
    pub fn outlook(&self) -> Outlook {
        *self.outlook.lock()
    }

    /// Before it is looked for a merge: to be handed to [`Shortage::note_look`] after it.
    pub fn changes(&self) -> u64 {
        self.outlook.lock().changes
    }

    /// What was found by one who began to look after so many changes.
    pub fn note_look(&self, changes: u64, is_idle: bool, is_exhausted: bool) {
        self.outlook.lock().note(changes, is_idle, is_exhausted);
    }

    /// What could not be done.
    pub fn troubles(&self) -> Troubles {
        self.troubles.lock().clone()
    }

    /// Whether the last flush could not be done.
    pub fn has_flush_trouble(&self) -> bool {
        self.troubles.lock().flush.is_some()
    }

    /// Whether the last merge could not be done.
    pub fn has_merge_trouble(&self) -> bool {
        self.troubles.lock().merge.is_some()
    }

    /// What came of a flush; what had come of the one before.
    pub fn note_flush(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        std::mem::replace(&mut self.troubles.lock().flush, trouble)
    }

    /// What came of a merge.
    pub fn note_merge(&self, trouble: Option<Trouble>) {
        self.troubles.lock().merge = trouble;
    }

    /// Forgets what could not be done for want of space if more is free than was then; whether a flush and a merge may be tried again.
    pub fn forget_past(&self, free_bytes: u64) -> (bool, bool) {
        let is_past = |trouble: &mut Trouble| {
            matches!(trouble.error, Error::NoSpace)
                && free_bytes > trouble.free_bytes.saturating_add(RECORDS_BYTES)
        };
        let mut troubles = self.troubles.lock();
        (troubles.flush.take_if(is_past).is_some(), troubles.merge.take_if(is_past).is_some())
    }

    /// Something was deleted; whether nobody watches yet.
    pub fn note_delete(&self) -> bool {
        !self.watches_deletes.load(Relaxed) && !self.watches_deletes.swap(true, Relaxed)
    }

    /// One look at the deletes of the mutable memtable, which has so many tombstones now: whether none came since the look before. `None` if
    /// nothing was deleted.
    pub fn deletes_have_ended(&self, tombstones: u64) -> Option<bool> {
        if !self.watches_deletes.swap(false, Relaxed) {
            return None;
        }
        let have_ended = self.seen_tombstones.swap(tombstones, Relaxed) == tombstones;
        if !have_ended {
            self.watches_deletes.store(true, Relaxed);
        }
        Some(have_ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looked_before_a_change_says_nothing_of_what_came_after_it() {
        let shortage = Shortage::default();
        let before = shortage.changes();
        shortage.expect_space();
        shortage.note_look(before, true, true);
        assert!(
            !shortage.outlook().is_idle && !shortage.outlook().is_exhausted,
            "a flush came while it was looked"
        );
        shortage.note_look(shortage.changes(), true, true);
        assert!(shortage.outlook().is_idle && shortage.outlook().is_exhausted);
        shortage.expect_space();
        assert!(!shortage.outlook().is_idle && !shortage.outlook().is_exhausted);
    }

    #[test]
    fn what_failed_for_want_of_space_is_forgotten_once_there_is_more() {
        let shortage = Shortage::default();
        let trouble = |error| Some(Trouble { error, free_bytes: 1 << 20 });
        shortage.note_flush(trouble(Error::NoSpace));
        shortage.note_merge(trouble(Error::Invalid("another reason".to_string())));
        assert_eq!(shortage.forget_past((1 << 20) + RECORDS_BYTES), (false, false));
        assert_eq!(shortage.forget_past((1 << 20) + RECORDS_BYTES + 1), (true, false));
        assert!(!shortage.has_flush_trouble() && shortage.has_merge_trouble());
        shortage.expect_space();
        assert!(shortage.has_merge_trouble(), "that was not for want of space");
    }

    #[test]
    fn deletes_have_ended_when_a_second_look_finds_no_more() {
        let shortage = Shortage::default();
        assert_eq!(shortage.deletes_have_ended(5), None);
        assert!(shortage.note_delete() && !shortage.note_delete());
        assert_eq!(shortage.deletes_have_ended(5), Some(false));
        assert_eq!(shortage.deletes_have_ended(7), Some(false));
        assert_eq!(shortage.deletes_have_ended(7), Some(true));
        assert_eq!(shortage.deletes_have_ended(7), None);
    }

    #[test]
    fn one_refusal_is_the_first_until_there_was_room() {
        let shortage = Shortage::default();
        assert!(shortage.note_refusal() && !shortage.note_refusal() && shortage.is_cleaning_wanted());
        shortage.note_room();
        assert!(!shortage.is_cleaning_wanted() && shortage.note_refusal());
    }
}
