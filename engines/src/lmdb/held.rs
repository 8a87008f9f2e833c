//! Changes that LMDB has not been given yet: what the next durable commit takes, seen by every read meanwhile.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::engine::{Batch, KeyRange, Operation};
use parking_lot::RwLock;

/// Bytes of a page: LMDB takes those of the operating system.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes that an entry takes in memory beside its key and its value: its place in the map and two heads of bytes, about.
const ENTRY_BYTES: u64 = 128;
/// Pages that a change may take beside those of a large value: its leaf, what that leaf is split into, and two pages above it.
const PAGES_OF_A_CHANGE: u64 = 4;

/// A key's new value; `None` where it is removed.
pub type Change = (Bytes, Option<Bytes>);

/// The last change of each key.
#[derive(Clone, Default)]
pub struct Changes {
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: u64,
    pages: u64,
}

/// Bytes of memory and pages of the file that a change may take.
fn size(key: &[u8], value: Option<&Bytes>) -> (u64, u64) {
    let value_bytes = value.map_or(0, Bytes::len) as u64;
    let bytes = key.len() as u64 + value_bytes + ENTRY_BYTES;
    (bytes, PAGES_OF_A_CHANGE + value_bytes.div_ceil(PAGE_BYTES))
}

/// Pages of the file that `batch` may take.
pub fn pages(batch: &Batch) -> u64 {
    batch.operations().iter().map(|operation| size(operation.key(), operation.value()).1).sum()
}

impl Changes {
    fn insert(&mut self, key: Bytes, value: Option<Bytes>) {
        let (bytes, pages) = size(&key, value.as_ref());
        self.bytes += bytes;
        self.pages += pages;
        if let Some(before) = self.changes.insert(key.clone(), value) {
            let (bytes, pages) = size(&key, before.as_ref());
            self.bytes -= bytes;
            self.pages -= pages;
        }
    }

    /// Those of one batch. Memory of their own: a batch may be a slice of something much larger.
    pub fn of(batch: &Batch) -> Changes {
        let mut changes = Changes::default();
        for operation in batch.operations() {
            let key = Bytes::copy_from_slice(operation.key());
            match operation {
                Operation::Put { value, .. } => changes.insert(key, Some(Bytes::copy_from_slice(value))),
                Operation::Delete { .. } => changes.insert(key, None),
            }
        }
        changes
    }

    /// Pages of the file that they may take.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// All of them, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.changes.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// How many remove a key.
    pub fn deletes(&self) -> usize {
        self.changes.values().filter(|value| value.is_none()).count()
    }
}

#[derive(Default)]
struct State {
    /// What came since the last commit began.
    young: Changes,
    /// What is being committed, or was to be and could not.
    old: Arc<Changes>,
}

/// Changes that are held.
#[derive(Default)]
pub struct Held(RwLock<State>);

/// Part of a scan: changes, and whether they are the last ones of its range.
pub struct Part {
    /// Changes in the order of keys.
    pub changes: Vec<Change>,
    /// Whether none follow in the range.
    pub is_last: bool,
}

impl Held {
    /// Adds changes, all at once.
    pub fn add(&self, changes: Changes) {
        let mut state = self.0.write();
        for (key, value) in changes.changes {
            state.young.insert(key, value);
        }
    }

    /// What `key` was changed to, if a change of it is held.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let state = self.0.read();
        state.young.changes.get(key).or_else(|| state.old.changes.get(key)).cloned()
    }

    /// Bytes of memory that all changes take.
    pub fn bytes(&self) -> u64 {
        let state = self.0.read();
        state.young.bytes + state.old.bytes
    }

    /// Bytes of memory of what came since the last commit began.
    pub fn young_bytes(&self) -> u64 {
        self.0.read().young.bytes
    }

    /// Pages of the file that all changes may take.
    pub fn pages(&self) -> u64 {
        let state = self.0.read();
        state.young.pages + state.old.pages
    }

    /// Up to `count` changes of the range from `start` on, and what `look` finds at the same moment: nothing leaves for the tree in between.
    pub fn part<T>(
        &self,
        start: &Bound<Vec<u8>>,
        range: KeyRange<'_>,
        count: usize,
        look: impl FnOnce() -> T,
    ) -> (Part, T) {
        let state = self.0.read();
        let from = start.as_ref().map(Vec::as_slice);
        let bounds = (from, Bound::Unbounded);
        let mut young = state.young.changes.range::<[u8], _>(bounds).peekable();
        let mut old = state.old.changes.range::<[u8], _>(bounds).peekable();
        let (mut changes, mut is_last) = (Vec::new(), true);
        loop {
            let is_young = match (young.peek(), old.peek()) {
                (Some((young, _)), Some((old, _))) => young <= old,
                (young, None) => young.is_some(),
                (None, Some(_)) => false,
            };
            let next = if is_young { young.next() } else { old.next() };
            let Some((key, value)) = next.filter(|(key, _)| range.is_before_end(key)) else { break };
            if is_young {
                // The younger change of a key counts.
                old.next_if(|(older, _)| *older == key);
            }
            if changes.len() == count {
                is_last = false;
                break;
            }
            changes.push((key.clone(), value.clone()));
        }
        (Part { changes, is_last }, look())
    }

    /// Everything that is held, to be committed; it is held on until [`Held::forget`]. For one at a time.
    pub fn take(&self) -> Arc<Changes> {
        let mut state = self.0.write();
        let young = std::mem::take(&mut state.young);
        if state.old.is_empty() {
            state.old = Arc::new(young);
        } else {
            // An earlier commit found no room.
            let old = Arc::make_mut(&mut state.old);
            for (key, value) in young.changes {
                old.insert(key, value);
            }
        }
        state.old.clone()
    }

    /// Lets go of what was taken: the tree has it.
    pub fn forget(&self) {
        let old = std::mem::take(&mut self.0.write().old);
        // Outside the lock: it may be much.
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(list: &[(&'static str, Option<&'static str>)]) -> Changes {
        let mut batch = Batch::new(0);
        for (key, value) in list {
            match value {
                Some(value) => batch.put(key.as_bytes(), value.as_bytes()),
                None => batch.delete(key.as_bytes()),
            }
        }
        Changes::of(&batch)
    }

    fn part(held: &Held, start: &str, end: Option<&str>, count: usize) -> (Vec<Change>, bool) {
        let range = KeyRange { start: start.as_bytes(), end: end.map(str::as_bytes) };
        let (part, ()) = held.part(&Bound::Included(start.as_bytes().to_vec()), range, count, || ());
        (part.changes, part.is_last)
    }

    fn change(key: &'static str, value: Option<&'static str>) -> Change {
        (Bytes::from(key), value.map(Bytes::from))
    }

    #[test]
    fn the_youngest_change_counts_before_and_while_it_is_committed() {
        let held = Held::default();
        held.add(changes(&[("a", Some("1")), ("b", Some("1")), ("c", None)]));
        assert_eq!(held.take().iter().count(), 3);
        held.add(changes(&[("a", None), ("d", Some("2"))]));
        assert_eq!(held.get(b"a"), Some(None));
        assert_eq!(held.get(b"b"), Some(Some("1".into())));
        assert_eq!(held.get(b"e"), None);
        let all = [("a", None), ("b", Some("1")), ("c", None), ("d", Some("2"))].map(|(k, v)| change(k, v));
        assert_eq!(part(&held, "", None, 9), (all.to_vec(), true));
        assert_eq!(part(&held, "", None, 4), (all.to_vec(), true));
        assert_eq!(part(&held, "b", None, 2), (all[1..3].to_vec(), false));
        assert_eq!(part(&held, "b", Some("d"), 2), (all[1..3].to_vec(), true));
        // The commit failed: the next one takes both, the younger ones over the older.
        let taken = held.take();
        assert_eq!((taken.iter().count(), taken.deletes()), (4, 2));
        held.forget();
        assert_eq!((held.bytes(), held.pages(), held.get(b"b")), (0, 0, None));
    }

    #[test]
    fn what_is_overwritten_takes_nothing_any_more() {
        let held = Held::default();
        let batch = |value_bytes: usize| {
            let mut batch = Batch::new(0);
            batch.put(&b"key"[..], vec![1; value_bytes]);
            batch
        };
        held.add(Changes::of(&batch(9000)));
        assert_eq!((held.young_bytes(), held.pages()), (9003 + ENTRY_BYTES, PAGES_OF_A_CHANGE + 3));
        held.add(Changes::of(&batch(10)));
        assert_eq!((held.bytes(), held.pages()), (13 + ENTRY_BYTES, pages(&batch(10))));
    }
}
