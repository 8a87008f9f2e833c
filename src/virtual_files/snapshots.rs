//! The texts of files at a moment: those that open handles are pinned to, and those that were made a moment ago.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Handle, VirtualFile};
use crate::base::clock::Clock;
use crate::fs::types::{Ino, Time};
use crate::fs::{Error, Result};

/// Greatest age of a text that is shown to somebody for whom no new one is made.
pub(super) const RECENT: Duration = Duration::from_millis(100);
/// Longest time from a lookup that told the size of a text to an open that takes that text.
pub(super) const TOLD: Duration = Duration::from_secs(1);

/// A text, and when it was made.
pub(super) struct Snapshot {
    pub text: Vec<u8>,
    pub time: Time,
}

/// Open handles of one file.
struct Pin {
    handles: usize,
    newest: Arc<Snapshot>,
}

#[derive(Default)]
struct Open {
    handle_last: u64,
    handles: HashMap<Handle, (Ino, Arc<Snapshot>)>,
    pins: HashMap<Ino, Pin>,
    /// The last text of each file that was made within [`RECENT`], and when.
    recent: HashMap<Ino, (Duration, Arc<Snapshot>)>,
    /// The last text of each file whose size a lookup has told within [`TOLD`], and when.
    told: HashMap<Ino, (Duration, Arc<Snapshot>)>,
}

/// The texts that are kept.
pub(super) struct Snapshots {
    clock: Arc<dyn Clock>,
    open: Mutex<Open>,
}

impl Snapshots {
    pub fn new(clock: Arc<dyn Clock>) -> Snapshots {
        Snapshots { clock, open: Mutex::default() }
    }

    /// The text whose size `stat` shows: the newest text that is pinned, or else a recent one.
    pub fn shown(&self, ino: Ino, file: &dyn VirtualFile) -> Arc<Snapshot> {
        let pinned = self.open.lock().pins.get(&ino).map(|pin| pin.newest.clone());
        pinned.unwrap_or_else(|| self.recent(ino, file))
    }

    /// A text that is not older than [`RECENT`].
    pub fn recent(&self, ino: Ino, file: &dyn VirtualFile) -> Arc<Snapshot> {
        let now = self.clock.elapsed();
        let known = self.open.lock().recent.get(&ino).cloned();
        match known {
            Some((made, snapshot)) if now.saturating_sub(made) < RECENT => snapshot,
            _ => self.fresh(ino, file),
        }
    }

    /// A new text.
    pub fn fresh(&self, ino: Ino, file: &dyn VirtualFile) -> Arc<Snapshot> {
        let time = self.clock.now().into();
        let snapshot = Arc::new(Snapshot { text: file.read(), time });
        let now = self.clock.elapsed();
        let recent = &mut self.open.lock().recent;
        recent.retain(|_, (made, _)| now.saturating_sub(*made) < RECENT);
        recent.insert(ino, (now, snapshot.clone()));
        snapshot
    }

    /// Notes that a lookup tells the size of `snapshot`.
    pub fn tell(&self, ino: Ino, snapshot: Arc<Snapshot>) {
        let now = self.clock.elapsed();
        let told = &mut self.open.lock().told;
        told.retain(|_, (at, _)| now.saturating_sub(*at) < TOLD);
        told.insert(ino, (now, snapshot));
    }

    /// The text whose size a lookup has told just now.
    pub fn told(&self, ino: Ino) -> Option<Arc<Snapshot>> {
        let now = self.clock.elapsed();
        let open = self.open.lock();
        let (at, snapshot) = open.told.get(&ino)?;
        (now.saturating_sub(*at) < TOLD).then(|| snapshot.clone())
    }

    /// Opens a handle that is pinned to `snapshot`.
    pub fn pin(&self, ino: Ino, snapshot: Arc<Snapshot>) -> Handle {
        let mut open = self.open.lock();
        open.handle_last += 1;
        let handle = Handle(open.handle_last);
        open.handles.insert(handle, (ino, snapshot.clone()));
        let pin = open.pins.entry(ino).or_insert_with(|| Pin { handles: 0, newest: snapshot.clone() });
        pin.handles += 1;
        if snapshot.time >= pin.newest.time {
            pin.newest = snapshot;
        }
        handle
    }

    /// The text that a handle is pinned to. `Stale` if it is not open.
    pub fn pinned(&self, handle: Handle) -> Result<Arc<Snapshot>> {
        match self.open.lock().handles.get(&handle) {
            Some((_, snapshot)) => Ok(snapshot.clone()),
            None => Err(Error::Stale),
        }
    }

    /// Closes a handle.
    pub fn unpin(&self, handle: Handle) {
        let mut open = self.open.lock();
        let Some((ino, _)) = open.handles.remove(&handle) else { return };
        if let Some(pin) = open.pins.get_mut(&ino) {
            pin.handles -= 1;
            if pin.handles == 0 {
                open.pins.remove(&ino);
            }
        }
    }
}
