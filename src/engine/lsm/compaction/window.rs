//! Time windows: tables are merged only with those flushed in the same window of time, so that what was written together lies
//! together and old data is left alone. Made for data that arrives in the order of time and expires by age.
//!
//! 1. The current window is merged as in size-tiered compaction.
//! 2. A window that is over (*sealed*) is merged into one table, once.
//! 3. With a time to live, the oldest run is dropped unread when its newest batch is older than that; only ever the oldest, so that
//!    no overwritten value and no deleted key comes back.
//!
//! Keys carry no time: a point read may have to ask every window. Of a key that is written again in a later window both versions stay; to
//! find them, each entry of a flush would have to be looked up in every older table. Tables that other policies left below L0 count as
//! older than every window and stay as they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::tiered::Tiered;
use super::{
    Assessment, Choice, Descriptor, Levels, OwnPolicyOptions, Policy, PolicyKind, RunMerge, SortedRun,
    StuckTables, within_l0,
};
use crate::base::text::{BadText, Field, When, exact_duration, parse_duration};
use crate::disk::LEVELS;
use crate::engine::lsm::Options;

/// Its entry in the registry.
pub const POLICY: Descriptor = Descriptor {
    name: "time-window",
    aliases: &[],
    help: "only what was written in the same window of time",
    new: |options| Arc::new(TimeWindow::new(options)),
    fields: &[Field {
        name: "window",
        when: When::Mount,
        help: "Time-window: DURATION of a window, at least 1s.",
        set: |options, text| {
            options.policies.time_window.window = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.policies.time_window.window),
    }],
    model: None,
};

impl PolicyKind {
    /// Only what was written in the same window of time is merged.
    pub const TIME_WINDOW: PolicyKind = PolicyKind(&POLICY);
}

/// The options that this policy alone reads.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeWindowOptions {
    /// Length of a window.
    pub window: Duration,
    /// Age at which a sealed window is dropped; never on a mount, where files do not expire.
    pub ttl: Option<Duration>,
}

impl Default for TimeWindowOptions {
    fn default() -> TimeWindowOptions {
        TimeWindowOptions { window: Duration::from_secs(3600), ttl: None }
    }
}

impl OwnPolicyOptions for TimeWindowOptions {
    fn validate(&self) -> Result<(), BadText> {
        Ok(())
    }
}

/// The policy and its settings.
#[derive(Clone, Debug)]
pub struct TimeWindow {
    /// Length of a window.
    pub window_seconds: u64,
    /// Age from which data is dropped, if it ever is.
    pub ttl_seconds: Option<u64>,
    /// The policy by which the current window is merged.
    pub tiered: Tiered,
}

impl TimeWindow {
    /// The policy that `options` ask for.
    pub fn new(options: &Options) -> TimeWindow {
        let TimeWindowOptions { window, ttl } = options.policies.time_window;
        TimeWindow {
            window_seconds: window.as_secs().max(1),
            ttl_seconds: ttl.map(|ttl| ttl.as_secs()),
            tiered: Tiered::new(options),
        }
    }

    fn window(&self, run: &SortedRun<'_>) -> u64 {
        run.newest_seconds / self.window_seconds
    }

    /// The oldest run, if it is expired.
    fn expired<'r, 'a>(&self, runs: &'r [SortedRun<'a>], now_seconds: u64) -> Option<RunMerge<'r, 'a>> {
        let oldest = runs.last()?;
        let is_sealed = self.window(oldest) < now_seconds / self.window_seconds;
        let is_expired = oldest.newest_seconds.saturating_add(self.ttl_seconds?) < now_seconds;
        let runs = &runs[runs.len() - 1..];
        (is_sealed && is_expired).then_some(RunMerge { runs, into: oldest.level })
    }

    /// The runs to drop or to merge, given all `runs`.
    fn wanted<'r, 'a>(&self, levels: &Levels, runs: &'r [SortedRun<'a>]) -> Option<Wanted<'r, 'a>> {
        let expired = self.expired(runs, levels.now_seconds);
        let mut wanted: Vec<Wanted<'r, 'a>> = expired.map(Wanted::Drop).into_iter().collect();
        let upper = &runs[..levels.files(0)];
        let current = levels.now_seconds / self.window_seconds;
        let windows: Vec<&[SortedRun<'a>]> =
            upper.chunk_by(|a, b| self.window(a) == self.window(b)).collect();
        for window in windows.into_iter().rev() {
            let is_sealed = window.first().is_some_and(|run| self.window(run) < current);
            if is_sealed && window.len() > 1 {
                wanted.push(Wanted::Merge(within_l0(window)));
            } else if !is_sealed {
                let tiers = self.tiered.tiers(window).into_iter();
                wanted.extend(tiers.map(|(from, to)| Wanted::Merge(within_l0(&window[from..to]))));
            }
        }
        levels.first_unclaimed(wanted.into_iter().map(|it| (it.runs().claim(), it)))
    }
}

/// Runs to be dropped or merged.
enum Wanted<'r, 'a> {
    Drop(RunMerge<'r, 'a>),
    Merge(RunMerge<'r, 'a>),
}

impl<'r, 'a> Wanted<'r, 'a> {
    fn runs(&self) -> &RunMerge<'r, 'a> {
        match self {
            Wanted::Drop(runs) | Wanted::Merge(runs) => runs,
        }
    }
}

impl Policy for TimeWindow {
    fn choose(&self, levels: &Levels, _: &[Bytes; LEVELS]) -> Choice {
        match self.wanted(levels, &levels.runs()) {
            None => Choice::Nothing,
            Some(Wanted::Drop(runs)) => Choice::Drop(runs.compaction()),
            Some(Wanted::Merge(merge)) => Choice::Merge(merge.compaction()),
        }
    }

    fn assess(&self, levels: &Levels) -> Assessment {
        let runs = levels.runs();
        let Some(wanted) = self.wanted(levels, &runs) else { return Assessment::default() };
        let mut scores = [0.0; LEVELS];
        scores[0] = 1.0;
        let pending_bytes = if let Wanted::Merge(merge) = wanted { merge.bytes() } else { 0 };
        Assessment { scores, pending_bytes, lowers_l0: true, ..Assessment::default() }
    }

    fn stuck(&self) -> StuckTables {
        StuckTables::ByPolicy
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{choose, tables};
    use super::*;

    #[test]
    fn it_chooses_what_the_rules_say() {
        let policy = TimeWindow {
            window_seconds: 100,
            ttl_seconds: None,
            tiered: Tiered {
                merge_min: 2,
                ..Tiered::new(&Options { memtable_bytes: 2, ..Options::default() })
            },
        };
        for (text, now_seconds, wanted) in [
            ("", 50, "nothing"),
            ("0: a-z 10 @1", 50, "nothing"),
            // The current window, by size.
            ("0: a-z 10 @3, a-z 10 @2, a-z 90 @1", 50, "merge [(0, [1, 2])] into 0"),
            // A sealed one becomes one table whatever the sizes; the oldest first; what lies below stays.
            ("0: a-z 10 @210, a-z 10 @120, a-z 90 @110\n6: a-z 5 @1", 250, "merge [(0, [2, 3])] into 0"),
            ("0: a-z 10 @210, a-z 10 @120, a-z 10 @30, a-z 10 @20", 250, "merge [(0, [3, 4])] into 0"),
            // Windows are never merged with each other.
            ("0: a-z 10 @210, a-z 10 @110, a-z 10 @10", 250, "nothing"),
        ] {
            assert_eq!(choose(&policy, &tables(text), "", now_seconds), wanted, "{text}");
        }
        let policy = TimeWindow { ttl_seconds: Some(100), ..policy };
        for (text, now_seconds, wanted) in [
            // Expired, and the oldest.
            ("0: a-z 10 @210, a-z 10 @10", 250, "drop [(0, [2])]"),
            // Its newest batch is not old enough yet.
            ("0: a-z 10 @210, a-z 10 @160", 250, "nothing"),
            // Something older lies below and is not expired by itself: nothing above it may go.
            ("0: a-z 10 @10\n6: a-z 10 @240", 250, "nothing"),
        ] {
            assert_eq!(choose(&policy, &tables(text), "", now_seconds), wanted, "{text}");
        }
    }
}
