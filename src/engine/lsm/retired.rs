//! Memtables that were flushed and may still have readers. They are freed by background work, never by a reader or writer: that takes as
//! long as a hundred thousand batches.

use std::sync::Arc;

use parking_lot::Mutex;

use super::memtable::Memtable;

/// Flushed memtables that are not freed yet.
#[derive(Default)]
pub struct Retired(Mutex<Vec<Arc<Memtable>>>);

impl Retired {
    /// Takes a flushed memtable.
    pub fn add(&self, memtable: Arc<Memtable>) {
        self.0.lock().push(memtable);
    }

    /// Number of them.
    pub fn count(&self) -> u64 {
        self.0.lock().len() as u64
    }

    /// The memory that they take.
    pub fn bytes(&self) -> u64 {
        self.0.lock().iter().map(|memtable| memtable.bytes()).sum()
    }

    /// Frees those that nobody reads any more; whether there was any, and whether none is left.
    pub fn free_unread(&self) -> (bool, bool) {
        let mut retired = self.0.lock();
        let unread: Vec<_> = retired.extract_if(.., |memtable| Arc::strong_count(memtable) == 1).collect();
        let is_empty = retired.is_empty();
        // Others may add to the list while these are being freed.
        drop(retired);
        (!unread.is_empty(), is_empty)
    }
}
