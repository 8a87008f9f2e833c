//! What can be switched while the store is open: the policy, and whether work begins by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::LsmEngine;
use super::compaction::{Levels, Policy, policy};
use super::report::Totals;
use super::version::{Owed, Version};
use crate::base::text::{parse_size, parse_switch};
use crate::engine::{Class, Error, Options, Result};

/// Whether work begins by itself.
pub struct Switches {
    /// Full memtables are flushed at once; off: only when memory is full, or by command.
    pub auto_flush: AtomicBool,
    /// The policy is asked, and segments of the log are emptied; off: only commands merge.
    pub auto_compact: AtomicBool,
    /// Merges rest, also those of commands and the one that runs.
    pub paused: AtomicBool,
}

impl Default for Switches {
    fn default() -> Switches {
        Switches {
            auto_flush: AtomicBool::new(true),
            auto_compact: AtomicBool::new(true),
            paused: AtomicBool::new(false),
        }
    }
}

impl LsmEngine {
    /// The policy in force.
    pub(super) fn policy(&self) -> Arc<dyn Policy> {
        self.policy.read().clone()
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
        if self.switches.paused.load(Relaxed) {
            Some("paused".to_string())
        } else if !self.switches.auto_compact.load(Relaxed) {
            Some("auto_compact=off".to_string())
        } else if !version.lowers_l0 {
            Some(format!("policy={}", self.policy().name()))
        } else {
            None
        }
    }

    /// Changes a setting.
    pub(super) fn change(&self, name: &str, value: &str) -> Result<()> {
        let invalid = |problem: String| Error::Invalid(format!("{name}={value}: {problem}"));
        let switch = |target: &AtomicBool| -> Result<()> {
            target.store(parse_switch(value).map_err(invalid)?, Relaxed);
            Ok(())
        };
        match name {
            "policy" => {
                let kind = value.parse().map_err(invalid)?;
                self.change_policy(&Options { policy: kind, ..self.options.clone() });
            }
            "rate" => self.rates.set_bytes(parse_size(value).map_err(invalid)?),
            "iops" => {
                let rate = value.parse().map_err(|_| invalid("takes a whole number".to_string()))?;
                self.rates.set_requests(rate);
            }
            "auto_flush" => switch(&self.switches.auto_flush)?,
            "auto_compact" => switch(&self.switches.auto_compact)?,
            "paused" => switch(&self.switches.paused)?,
            _ => return Err(Error::Invalid(format!("{name} cannot be changed while the store is mounted"))),
        }
        // A full memtable may be due now, writers may go on, merges may begin.
        self.make_due();
        for class in [Class::Flush, Class::Merge, Class::Room] {
            self.bell.ring(class);
        }
        Ok(())
    }

    /// Puts the policy of `options` in force. The merge that runs goes on: its result is right under any policy.
    fn change_policy(&self, options: &Options) {
        let new = policy(options);
        let (from, to) = (self.policy().name(), new.name());
        *self.policy.write() = new;
        self.forgive();
        self.journal.record(self.clock.now(), "policy", vec![("from", from.into()), ("to", to.into())]);
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
