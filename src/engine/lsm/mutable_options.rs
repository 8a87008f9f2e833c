//! Options that can be changed while the store is open: the policy, the rates of merges, and whether work begins by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::RwLock;

use super::compaction::PolicyInForce;
use super::throttle::Rates;
use crate::base::text::{BadText, parse_size, parse_switch};
use crate::engine::lsm::{Options, PolicyKind};
use crate::engine::{Error, Result};

/// The options that can be changed, as they are now.
pub struct MutableOptions {
    auto_flush: AtomicBool,
    auto_compact: AtomicBool,
    is_paused: AtomicBool,
    policy: RwLock<Arc<PolicyInForce>>,
    rates: Rates,
}

impl MutableOptions {
    /// The values that `options` give; work begins by itself.
    pub fn new(options: &Options) -> MutableOptions {
        MutableOptions {
            auto_flush: AtomicBool::new(true),
            auto_compact: AtomicBool::new(true),
            is_paused: AtomicBool::new(false),
            policy: RwLock::new(Arc::new(PolicyInForce::new(options))),
            rates: Rates::new(options),
        }
    }

    /// Whether full memtables are flushed at once; if not, only when memory is full, or by command.
    pub fn auto_flush(&self) -> bool {
        self.auto_flush.load(Relaxed)
    }

    /// Whether the policy is asked, and segments of the log are emptied; if not, only commands merge.
    pub fn auto_compact(&self) -> bool {
        self.auto_compact.load(Relaxed)
    }

    /// Whether compactions rest, also those of commands and those that run.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Relaxed)
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<PolicyInForce> {
        self.policy.read().clone()
    }

    /// The rate limits of compaction.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Why the limits of L0 files and pending bytes do not count now, if they do not: no merge would bring them down. `lowers_l0` is
    /// what the policy says of the newest version.
    pub fn limits_off(&self, lowers_l0: bool) -> Option<String> {
        if self.is_paused() {
            Some("paused".to_string())
        } else if !self.auto_compact() {
            Some("auto_compact=off".to_string())
        } else if !lowers_l0 {
            Some(format!("policy={}", self.policy().name()))
        } else {
            None
        }
    }

    /// Changes `name` to `value`; the rest of `options` holds for a new policy. The names of the old and the new policy, if that was changed.
    pub fn set(
        &self,
        name: &str,
        value: &str,
        options: &Options,
    ) -> Result<Option<(&'static str, &'static str)>> {
        let invalid = |bad: BadText| Error::Invalid(format!("{name}={value}: {bad}"));
        let switch = |target: &AtomicBool| -> Result<()> {
            target.store(parse_switch(value).map_err(invalid)?, Relaxed);
            Ok(())
        };
        match name {
            "policy" => {
                let policy = PolicyKind::parse(value).map_err(invalid)?;
                let new = Arc::new(PolicyInForce::new(&Options { policy, ..options.clone() }));
                let to = new.name();
                let old = std::mem::replace(&mut *self.policy.write(), new);
                return Ok(Some((old.name(), to)));
            }
            "rate" => self.rates.set_bytes(parse_size(value).map_err(invalid)?),
            "iops" => {
                let rate = value.parse().map_err(|_| invalid("takes a whole number".into()))?;
                self.rates.set_requests(rate);
            }
            "auto_flush" => switch(&self.auto_flush)?,
            "auto_compact" => switch(&self.auto_compact)?,
            "paused" => switch(&self.is_paused)?,
            _ => return Err(Error::Invalid(format!("{name} cannot be changed while the store is mounted"))),
        }
        Ok(None)
    }
}
