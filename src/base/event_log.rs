//! Recent events: a ring that the engine, the mount and the control room write to.
//!
//! An [`Event`] has a number that only grows, the wall time, a name and a few fields. The newest [`EVENTS_MAX`] are kept. One is
//! recorded where something begins or ends that takes milliseconds or more, never once an operation, so a short lock
//! around the ring is cheap enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

/// Events that are kept.
pub const EVENTS_MAX: usize = 4096;

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A count, a number of bytes or of nanoseconds, as its name says.
    Count(u64),
    /// Words.
    Text(String),
}

impl From<u64> for Field {
    fn from(count: u64) -> Field {
        Field::Count(count)
    }
}

impl From<&str> for Field {
    fn from(text: &str) -> Field {
        Field::Text(text.to_string())
    }
}

impl From<String> for Field {
    fn from(text: String) -> Field {
        Field::Text(text)
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts events from 1; a gap says that older ones have left the ring.
    pub number: u64,
    /// Wall time.
    pub time: SystemTime,
    /// What, such as `merge_end`.
    pub name: &'static str,
    /// Details.
    pub fields: Vec<(&'static str, Field)>,
}

/// The ring of events.
#[derive(Default)]
pub struct EventLog {
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    number_last: u64,
    events: VecDeque<Arc<Event>>,
}

impl EventLog {
    /// Adds an event; the oldest one leaves if the ring is full.
    pub fn record(&self, time: SystemTime, name: &'static str, fields: Vec<(&'static str, Field)>) {
        let mut ring = self.ring.lock();
        ring.number_last += 1;
        let event = Event { number: ring.number_last, time, name, fields };
        if ring.events.len() == EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::new(event));
    }

    /// The events in the ring, oldest first.
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.ring.lock().events.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_and_numbers_go_on() {
        let event_log = EventLog::default();
        for n in 0..EVENTS_MAX as u64 + 10 {
            event_log.record(SystemTime::UNIX_EPOCH, "tick", vec![("n", n.into())]);
        }
        let events = event_log.events();
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!((events[0].number, &events[0].fields[0].1), (11, &Field::Count(10)));
        assert_eq!(events[EVENTS_MAX - 1].number, EVENTS_MAX as u64 + 10);
    }
}
