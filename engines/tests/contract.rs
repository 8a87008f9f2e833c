//! What kvfs asks of every engine, asked of those that are built in.

#[path = "../../tests/support/contract.rs"]
#[allow(dead_code, reason = "of syncs and options more is asked here")]
mod shared;

#[path = "contract/damage.rs"]
mod damage;
#[path = "contract/full_disk.rs"]
mod full_disk;
#[path = "contract/options.rs"]
mod options;
#[path = "contract/promise.rs"]
mod promise;
#[path = "contract/statistics.rs"]
mod statistics;
#[path = "contract/tiers.rs"]
mod tiers;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Once};

use bytes::Bytes;
use kvfs::base::clock::{Clock, SystemClock};
use kvfs::base::prng::Prng;
use kvfs::engine::{
    self, Batch, Command, Engine, Error, Home, KeyRange, Kind, Options, Pending, Tier, WorkClass,
};

use shared::{apply, contents, open, set_map};

fn others() -> Vec<Kind> {
    static ONCE: Once = Once::new();
    ONCE.call_once(kvfs_engines::register);
    kvfs_engines::ENGINES.iter().map(|descriptor| Kind::of(descriptor)).collect()
}

/// A batch that puts one key.
fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::new(0);
    batch.put(key, value);
    batch
}

#[test]
fn it_agrees_with_a_map_before_and_after_it_is_opened_again() {
    others().into_iter().for_each(shared::it_agrees_with_a_map_before_and_after_it_is_opened_again);
}

#[test]
fn it_is_compared_at_a_point() {
    others().into_iter().for_each(shared::it_is_compared_at_a_point);
}

#[test]
fn it_settles() {
    others().into_iter().for_each(shared::it_settles);
}
