//! Plain log: nothing is ever merged. The cheapest way to write; every table may have to be asked by a read, and no space comes
//! back. The other end of the scale from [`super::Eager`].

use bytes::Bytes;

use super::{Choice, Levels, Policy};
use crate::disk::LEVELS;

/// The policy.
pub struct NeverMerge;

impl Policy for NeverMerge {
    fn name(&self) -> &'static str {
        "log"
    }

    fn choose(&self, _: &Levels, _: &[Bytes; LEVELS]) -> Choice {
        Choice::Nothing
    }

    fn scores(&self, _: &Levels) -> [f64; LEVELS] {
        [0.0; LEVELS]
    }

    fn pending_bytes(&self, _: &Levels) -> u64 {
        0
    }

    fn lowers_l0(&self, _: &Levels) -> bool {
        false
    }
}
