//! What the policy in force thinks of the store, noted in its newest version: what merges owe, and which limits of writers count.

use std::sync::Arc;

use super::LsmEngine;
use super::compaction::{Levels, Policy};
use super::report::Totals;
use super::version::{Owed, Version};
use crate::engine::{Class, Result};

impl LsmEngine {
    /// The policy in force.
    pub(super) fn policy(&self) -> Arc<dyn Policy> {
        self.mutable_options.policy()
    }

    /// Seconds since 1970.
    pub(super) fn now_seconds(&self) -> u64 {
        super::flush::seconds(self.clock.now())
    }

    /// What the policy sees of a version now.
    pub(super) fn picture(&self, version: &Version) -> Levels {
        let mut levels = version.picture(self.now_seconds());
        levels.aside = self.set_aside.tables(self.clock.elapsed());
        levels
    }

    /// Notes in a version what the policy thinks of it. Asked after every edit: policies look at sums of levels and at runs, not at every
    /// table.
    pub(super) fn assess(&self, version: &mut Version) {
        let policy = self.policy();
        let picture = self.picture(version);
        let (pending_bytes, lowers_l0) = (policy.pending_bytes(&picture), policy.lowers_l0(&picture));
        let totals = Totals::of(&picture, version.needed().bytes(), &*policy);
        (version.pending_bytes, version.lowers_l0, version.totals) = (pending_bytes, lowers_l0, totals);
        let (owed, forgiven) = (version.owed(), version.forgiven);
        version.forgiven = Owed {
            l0_files: owed.l0_files.min(forgiven.l0_files),
            pending_bytes: owed.pending_bytes.min(forgiven.pending_bytes),
        };
    }

    /// Why the limits of L0 files and pending bytes do not count now, if they do not: no merge would bring them down.
    pub(super) fn limits_off(&self, version: &Version) -> Option<String> {
        if self.mutable_options.is_paused() {
            Some("paused".to_string())
        } else if !self.mutable_options.auto_compact() {
            Some("auto_compact=off".to_string())
        } else if !version.lowers_l0 {
            Some(format!("policy={}", self.policy().name()))
        } else {
            None
        }
    }

    /// Changes a setting.
    pub(super) fn change(&self, name: &str, value: &str) -> Result<()> {
        if let Some((from, to)) = self.mutable_options.set(name, value, &self.options)? {
            // The merge that runs goes on: its result is right under any policy.
            self.forgive();
            self.journal.record(self.clock.now(), "policy", vec![("from", from.into()), ("to", to.into())]);
        }
        // A full memtable may be due now, writers may go on, merges may begin.
        self.make_due();
        for class in [Class::Flush, Class::Merge, Class::Room] {
            self.bell.ring(class);
        }
        Ok(())
    }

    /// Lets writers go on whatever another policy left to the one in force, which has just come: what is over a limit now does not
    /// count for it, as long as it is there.
    pub(super) fn forgive(&self) {
        self.versions.change().revise(|version| {
            version.forgiven = Owed { l0_files: u64::MAX, pending_bytes: u64::MAX };
            self.assess(version);
            let (options, owed) = (&self.options, version.forgiven);
            let over = |amount: u64, limit: u64| if amount >= limit { amount } else { 0 };
            version.forgiven = Owed {
                l0_files: over(owed.l0_files, options.l0_slowdown),
                pending_bytes: over(owed.pending_bytes, options.pending_slowdown_bytes),
            };
        });
    }

    /// Notes in the newest version what the policy thinks of it.
    pub(super) fn reassess(&self) {
        self.versions.change().revise(|version| self.assess(version));
    }
}
