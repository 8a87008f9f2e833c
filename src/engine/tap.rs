//! A tap at door 2: whoever is there sees every request once it is answered, in an order in which changes of one key are those of the engine.
//!
//! Without a tap a request costs one relaxed load more.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use super::{Batch, KeyRange, Lsn};

/// The tag of requests that no operation of the filesystem has made.
pub const NO_TAG: u8 = u8::MAX;

thread_local! {
    static ASKING: Cell<u8> = const { Cell::new(NO_TAG) };
}

/// From now on this thread asks for the operation of the filesystem with this tag. No engine answers otherwise for it; one that pays for what it asks of
/// others notes for whom.
pub fn asking_for(tag: u8) {
    ASKING.set(tag);
}

/// The operation for which this thread asks, or [`NO_TAG`].
pub fn asking() -> u8 {
    ASKING.get()
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The operation that asked, or [`NO_TAG`].
    pub tag: u8,
    /// When it began, by [`Tap::now_ns`].
    pub start_ns: u64,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
}

/// Whoever sees the requests. It must not wait, and not ask the engine.
pub trait Tap: Send + Sync {
    /// Its clock, in nanoseconds.
    fn now_ns(&self) -> u64;
    /// A batch was applied, up to `lsn`.
    fn batch(&self, request: Request, batch: &Batch, lsn: Lsn);
    /// A key was read, and a value of so many bytes found.
    fn get(&self, request: Request, key: &[u8], found: Option<usize>);
    /// A range was read, as far as the reader wanted: entries, and bytes of their keys and values.
    fn scan(&self, request: Request, range: KeyRange<'_>, entries: u64, bytes: u64);
    /// A sync begins; the number for [`Tap::synced`].
    fn sync(&self, request: Request) -> u64;
    /// The sync with that number has ended.
    fn synced(&self, number: u64);
}

/// The place for a tap.
#[derive(Default)]
pub struct TapSlot {
    /// Counts the taps that were put in; 0 while there is none.
    current: AtomicU64,
    taps: AtomicU64,
    tap: RwLock<Option<Arc<dyn Tap>>>,
}

impl TapSlot {
    /// Puts a tap in, in the place of one that is there, which sees nothing more when this returns.
    pub fn put(&self, tap: Arc<dyn Tap>) {
        let mut slot = self.tap.write();
        self.current.store(self.taps.fetch_add(1, Relaxed) + 1, Relaxed);
        *slot = Some(tap);
    }

    /// Takes `tap` out, which sees nothing more when this returns. Nothing happens if another one is there by now.
    pub fn take_out<T: Tap>(&self, tap: &Arc<T>) {
        let mut slot = self.tap.write();
        if slot.as_ref().is_some_and(|there| Arc::as_ptr(there).addr() == Arc::as_ptr(tap).addr()) {
            self.current.store(0, Relaxed);
            *slot = None;
        }
    }

    /// Begins a request; `None` without a tap.
    pub(super) fn begin(&self) -> Option<Began> {
        match self.current.load(Relaxed) {
            0 => None,
            number => Some(Began { number, start_ns: self.tap.read().as_ref()?.now_ns() }),
        }
    }

    /// Has the tap note a request that `began` before it, unless it is there no more.
    pub(super) fn note(&self, began: Option<Began>, tell: impl FnOnce(&dyn Tap, Request)) {
        let Some(Began { number, start_ns }) = began else { return };
        // Held while it notes, so that nothing is noted once it was taken out.
        let slot = self.tap.read();
        if let Some(tap) = slot.as_ref()
            && self.current.load(Relaxed) == number
        {
            let duration_ns = tap.now_ns().saturating_sub(start_ns);
            tell(&**tap, Request { tag: ASKING.get(), start_ns, duration_ns });
        }
    }

    /// Has the tap note that a sync begins; the tap and its number for the end of it.
    pub(super) fn note_sync(&self) -> Option<(Arc<dyn Tap>, u64)> {
        let mut number = None;
        let began = self.begin()?;
        self.note(Some(began), |tap, request| number = Some(tap.sync(request)));
        let tap = self.tap.read().clone()?;
        // Another one may be there by now, which does not know the number.
        (self.current.load(Relaxed) == began.number).then_some((tap, number?))
    }
}

/// A request that has begun while a tap was there.
#[derive(Clone, Copy)]
pub(super) struct Began {
    /// The tap's.
    number: u64,
    start_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Gets(AtomicU64);

    impl Tap for Gets {
        fn now_ns(&self) -> u64 {
            7
        }
        fn batch(&self, _: Request, _: &Batch, _: Lsn) {}
        fn get(&self, request: Request, _: &[u8], _: Option<usize>) {
            assert_eq!((request.tag, request.start_ns, request.duration_ns), (NO_TAG, 7, 0));
            self.0.fetch_add(1, Relaxed);
        }
        fn scan(&self, _: Request, _: KeyRange<'_>, _: u64, _: u64) {}
        fn sync(&self, _: Request) -> u64 {
            3
        }
        fn synced(&self, _: u64) {}
    }

    #[test]
    fn who_is_late_takes_no_other_tap_out_and_notes_nothing_to_it() {
        let slot = TapSlot::default();
        assert!(slot.begin().is_none() && slot.note_sync().is_none());
        let (first, second) = (Arc::new(Gets::default()), Arc::new(Gets::default()));
        slot.put(first.clone());
        let began = slot.begin();
        slot.note(began, |tap, request| tap.get(request, b"", None));
        slot.put(second.clone());
        // It began while the first one was there.
        slot.note(began, |tap, request| tap.get(request, b"", None));
        slot.take_out(&first);
        slot.note(slot.begin(), |tap, request| tap.get(request, b"", None));
        assert_eq!(slot.note_sync().map(|(_, number)| number), Some(3));
        slot.take_out(&second);
        assert!(slot.begin().is_none());
        assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (1, 1));
    }
}
