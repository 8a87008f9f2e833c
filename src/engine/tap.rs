//! A tap at door 2: whoever is there sees every request once it is answered, in an order in which changes of one key are those of the engine.
//!
//! Without a tap a request costs one relaxed load more.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::RwLock;

use super::{Batch, KeyRange, Lsn};

/// The tag of requests that no operation of the filesystem has made.
pub const NO_TAG: u8 = u8::MAX;

thread_local! {
    static ASKING: Cell<u8> = const { Cell::new(NO_TAG) };
}

/// From now on this thread asks for the operation of the filesystem with this tag. It says nothing to engines.
pub fn asking_for(tag: u8) {
    ASKING.set(tag);
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
    is_taken: AtomicBool,
    tap: RwLock<Option<Arc<dyn Tap>>>,
}

impl TapSlot {
    /// Puts a tap in, or takes it out. When this returns, whoever was there before sees nothing more.
    pub fn set(&self, tap: Option<Arc<dyn Tap>>) {
        let mut slot = self.tap.write();
        self.is_taken.store(tap.is_some(), Relaxed);
        *slot = tap;
    }

    /// Begins a request; `None` without a tap.
    pub(super) fn begin(&self) -> Option<Tapped> {
        if !self.is_taken.load(Relaxed) {
            return None;
        }
        let tap = self.tap.read().clone()?;
        let start_ns = tap.now_ns();
        Some(Tapped { tap, start_ns })
    }

    /// Has the tap note a request that `began` before it, unless it is there no more.
    pub(super) fn note(&self, began: &Option<Tapped>, tell: impl FnOnce(&dyn Tap, Request)) {
        let Some(Tapped { tap, start_ns }) = began else { return };
        // Held while it notes, so that nothing is noted once it was taken out.
        let slot = self.tap.read();
        if slot.as_ref().is_some_and(|there| Arc::ptr_eq(there, tap)) {
            let duration_ns = tap.now_ns().saturating_sub(*start_ns);
            tell(&**tap, Request { tag: ASKING.get(), start_ns: *start_ns, duration_ns });
        }
    }
}

/// A request that has begun while a tap was there.
pub(super) struct Tapped {
    pub tap: Arc<dyn Tap>,
    start_ns: u64,
}
