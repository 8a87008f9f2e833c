//! State of a store whose disk is short of room: who waits for room, which flush or compaction failed for want of it, and whether
//! background work may still give some back.
//!
//! Writers, flushes and compactions tell each other through it. Each note is made in one step, and nothing here waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::engine::Error;

/// Bytes that an edit of the manifest and the filesystem's own records take beside the bytes of files, at most.
pub const RECORDS_BYTES: u64 = 64 << 10;

/// The reason why a flush or a compaction failed.
#[derive(Clone)]
pub struct Trouble {
    /// The error.
    pub error: Error,
    /// Bytes that were free on the disk below then.
    pub free_bytes: u64,
}

/// Failures of the last flush and of the last compaction.
#[derive(Clone, Default)]
pub struct Troubles {
    /// Failure of the last flush, if it failed.
    pub flush: Option<Trouble>,
    /// Failure of the last compaction, if it failed.
    pub merge: Option<Trouble>,
}

/// The prospects of writers who find no space: whether compactions may give some back.
#[derive(Clone, Copy, Default)]
pub struct Outlook {
    /// The last look for a compaction found none, or no space for it.
    pub is_idle: bool,
    /// No running compaction gives space back, and the last look found no other.
    pub is_exhausted: bool,
    /// Somebody has looked since the last change.
    is_known: bool,
    /// Number of changes after which there may be more to merge.
    changes: u64,
}

impl Outlook {
    /// Notes a change: nobody has looked since.
    fn change(&mut self) {
        *self = Outlook { changes: self.changes + 1, ..Outlook::default() };
    }

    /// Notes the result of a look that began after `changes` changes, unless there was another change meanwhile, which the look may not
    /// have seen.
    fn note(&mut self, changes: u64, is_idle: bool, is_exhausted: bool) {
        if changes == self.changes {
            (self.is_idle, self.is_exhausted, self.is_known) = (is_idle, is_exhausted, true);
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

    /// Sets whether tables are cleaned although no batch was refused.
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

    /// The prospects of writers who find no space.
    pub fn outlook(&self) -> Outlook {
        *self.outlook.lock()
    }

    /// Number of changes before a look for a compaction: to be handed to [`Shortage::note_look`] after it.
    pub fn changes(&self) -> u64 {
        self.outlook.lock().changes
    }

    /// Notes the result of a look that began after so many changes.
    pub fn note_look(&self, changes: u64, is_idle: bool, is_exhausted: bool) {
        self.outlook.lock().note(changes, is_idle, is_exhausted);
    }

    /// Failures of the last flush and of the last compaction. That a compaction found no space counts once somebody has looked since the
    /// last change: what was found before says nothing of what there is now.
    pub fn troubles(&self) -> Troubles {
        let is_known = self.outlook().is_known;
        let mut troubles = self.troubles.lock().clone();
        troubles.merge.take_if(|trouble| !is_known && matches!(trouble.error, Error::NoSpace));
        troubles
    }

    /// Whether the last flush could not be done.
    pub fn has_flush_trouble(&self) -> bool {
        self.troubles.lock().flush.is_some()
    }

    /// Whether the last merge could not be done; see [`Shortage::troubles`].
    pub fn has_merge_trouble(&self) -> bool {
        self.troubles().merge.is_some()
    }

    /// Notes the failure of a flush, or its success; returns that of the one before.
    pub fn note_flush(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        std::mem::replace(&mut self.troubles.lock().flush, trouble)
    }

    /// Notes the failure of a compaction, or that there is none.
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
        shortage.note_merge(Some(Trouble { error: Error::NoSpace, free_bytes: 0 }));
        assert!(
            !shortage.outlook().is_idle && !shortage.outlook().is_exhausted && !shortage.has_merge_trouble(),
            "a flush came while it was looked"
        );
        shortage.note_look(shortage.changes(), true, true);
        assert!(
            shortage.outlook().is_idle && shortage.outlook().is_exhausted && shortage.has_merge_trouble()
        );
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
