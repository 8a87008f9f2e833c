//! What is garbage is kept for a while: mounts that only read see a state for a moment after it is obsolete, and tell nobody.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::path::Path;
use parking_lot::Mutex;
use slatedb::GcFilter;

/// Time for which an object that nothing refers to any more is kept at least.
pub const GRACE: Duration = Duration::from_secs(600);

/// Lets garbage go once it has been garbage for [`GRACE`].
///
/// Since when is known to this process alone: one that has just begun keeps everything for as long again.
pub struct Grace {
    grace: Duration,
    since: Mutex<HashMap<Path, Instant>>,
}

impl Default for Grace {
    fn default() -> Grace {
        Grace::of(GRACE)
    }
}

impl Grace {
    fn of(grace: Duration) -> Grace {
        Grace { grace, since: Mutex::default() }
    }

    /// Those of `garbage`, which is all there is of its kind, that have been long enough.
    fn ripe(&self, garbage: &HashSet<Path>, now: Instant) -> HashSet<Path> {
        let mut since = self.since.lock();
        let folder = |path: &Path| path.as_ref().rsplit_once('/').map(|(folder, _)| folder.to_string());
        let folders: HashSet<_> = garbage.iter().map(folder).collect();
        // Each kind is asked about by itself; what is not garbage any more was removed.
        since.retain(|path, _| garbage.contains(path) || !folders.contains(&folder(path)));
        let is_ripe =
            |path: &&Path| now.duration_since(*since.entry((*path).clone()).or_insert(now)) >= self.grace;
        garbage.iter().filter(is_ripe).cloned().collect()
    }
}

#[async_trait]
impl GcFilter for Grace {
    async fn filter(&self, candidates: HashSet<slatedb::ObjectMetadata>) -> HashSet<slatedb::ObjectMetadata> {
        let garbage = candidates.iter().map(|candidate| candidate.location.clone()).collect();
        let ripe = self.ripe(&garbage, Instant::now());
        candidates.into_iter().filter(|candidate| ripe.contains(&candidate.location)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_goes_once_it_has_been_garbage_for_a_while() {
        let grace = Grace::of(Duration::from_secs(60));
        let paths = |names: &[&str]| names.iter().map(|name| Path::from(*name)).collect::<HashSet<_>>();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(grace.ripe(&paths(&["wal/1"]), at(0)).is_empty());
        assert!(grace.ripe(&paths(&["wal/1", "wal/2"]), at(40)).is_empty());
        // Another kind says nothing of this one.
        assert!(grace.ripe(&paths(&["manifest/1"]), at(50)).is_empty());
        assert_eq!(grace.ripe(&paths(&["wal/1", "wal/2"]), at(60)), paths(&["wal/1"]));
        // It was removed, and nothing is remembered of it.
        assert_eq!(grace.ripe(&paths(&["wal/2"]), at(100)), paths(&["wal/2"]));
        assert!(!grace.since.lock().contains_key(&Path::from("wal/1")));
    }
}
