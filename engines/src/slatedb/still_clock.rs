//! A clock on which time passes and nothing ever falls due: a state of the store that looked for a newer one would be another.
//!
//! A reader of SlateDB looks for what is newer when its ticker says so, and the first tick of any ticker comes at once, whatever its interval: what was
//! read before it and what is read after it may be of two states.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use slatedb_common::{DefaultSystemClock, SystemClock, SystemClockTicker};

/// The clock.
#[derive(Debug, Default)]
pub struct StillClock {
    time: DefaultSystemClock,
    never: Never,
}

impl SystemClock for StillClock {
    fn now(&self) -> DateTime<Utc> {
        self.time.now()
    }

    /// Who waits before another try is not kept waiting.
    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.time.sleep(duration)
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(&self.never, duration)
    }
}

/// The clock of tickers that never tick.
#[derive(Debug, Default)]
struct Never(DefaultSystemClock);

impl SystemClock for Never {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }

    fn sleep<'a>(&'a self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::pending())
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use slatedb::{Db, DbReader, DbReaderMode};
    use std::sync::Arc;

    /// Opened between two writes, a state shows the first one for as long as it is there.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_shows_what_it_was_opened_on() {
        let objects = Arc::new(InMemory::new());
        let db = Db::open("db", objects.clone()).await.unwrap();
        for number in 0..50u8 {
            db.put(b"key", [number]).await.unwrap();
            db.flush().await.unwrap();
            let state = DbReader::builder("db", objects.clone())
                .with_reader_mode(DbReaderMode::FollowLatest)
                .with_system_clock(Arc::new(StillClock::default()))
                .build()
                .await
                .unwrap();
            db.put(b"key", [100]).await.unwrap();
            db.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(state.get(b"key").await.unwrap().unwrap()[..], [number]);
            state.close().await.unwrap();
        }
        db.close().await.unwrap();
    }
}
