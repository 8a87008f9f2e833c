//! For whom the object store is asked: the operation of the filesystem goes along with what SlateDB does for it.
//!
//! SlateDB fetches in tasks of its own, and gives them the subscriber of `tracing` that whoever begins them has. So each operation has one, which listens to
//! nothing and says at the door whose request it is.

use std::future::{Future, poll_fn};
use std::sync::LazyLock;

use kvfs::engine::{TAGS, asking};
use tracing_core::dispatcher::{self, DefaultGuard, Dispatch};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::subscriber::{Interest, Subscriber};
use tracing_core::{Event, LevelFilter, Metadata};

/// The subscriber of an operation: its tag.
struct Operation(u8);

impl Subscriber for Operation {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::never()
    }
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::OFF)
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// One for each tag.
static OPERATIONS: LazyLock<Vec<Dispatch>> =
    LazyLock::new(|| (0..TAGS as u8).map(|tag| Dispatch::new(Operation(tag))).collect());

/// Until it is dropped, what this thread begins is for the operation for which it asks, if there is one.
pub fn begin() -> Option<DefaultGuard> {
    OPERATIONS.get(usize::from(asking())).map(dispatcher::set_default)
}

/// `work` for the operation for which this thread asks, wherever it is done.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let operation = OPERATIONS.get(usize::from(asking()));
    let mut work = Box::pin(work);
    poll_fn(move |context| {
        let _begun = operation.map(dispatcher::set_default);
        work.as_mut().poll(context)
    })
}

/// The operation for which this is done; `None` for none.
pub fn operation() -> Option<u8> {
    dispatcher::get_default(|current| current.downcast_ref::<Operation>().map(|operation| operation.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use kvfs::engine::{NO_TAG, asking_for};

    #[test]
    fn what_a_thread_begins_is_for_whom_it_asks() {
        assert_eq!(operation(), None);
        asking_for(7);
        {
            let _begun = begin();
            assert_eq!(operation(), Some(7));
        }
        assert_eq!(operation(), None);
        let work = carried(async { operation() });
        asking_for(NO_TAG);
        assert_eq!(block_on(work), Some(7), "whoever does it");
        assert!(begin().is_none() && operation().is_none());
    }
}
