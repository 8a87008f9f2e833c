//! What a recording asks for, ready to be done: events with their turn among the writes and how many were under way when they began.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::latencies::Latencies;
use crate::recording::{Asked, Change, Event};
use bytes::Bytes;

/// Events that are looked at together to see which were under way at the same time. At the borders some are missed.
const BLOCK: usize = 8192;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Apply changes, when it is this turn's.
    Batch {
        /// Its turn among the writes.
        turn: u64,
        /// The changes.
        changes: Vec<Change>,
    },
    /// Read a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Read a range.
    Scan {
        /// The first key.
        start: Bytes,
        /// The first key behind it.
        end: Option<Bytes>,
        /// Entries to visit.
        entries: u64,
    },
    /// Begin to make durable what the writes before this turn have done.
    Sync {
        /// Counts the syncs.
        number: u64,
        /// The turn of the next write.
        turn: u64,
    },
    /// Nothing that was answered later begins before the sync of this number has ended.
    AwaitSync {
        /// Of its [`Step::Sync`].
        number: u64,
    },
}

/// A step and when it was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Cue {
    /// The file operation.
    pub tag: u8,
    /// The thread that took it.
    pub thread: u32,
    /// When it began, in nanoseconds since the recording began.
    pub start_ns: u64,
    /// Operations that were under way when it began.
    pub others: u64,
    /// What to do.
    pub step: Step,
}

/// Takes events in their order and gives cues in the same order.
#[derive(Default)]
pub struct Script {
    turn: u64,
    /// Ends of operations that may still be under way.
    ends: BinaryHeap<Reverse<u64>>,
    /// Beginnings of syncs that have not ended.
    syncs: HashMap<u64, u64>,
    /// How long each took when it was recorded.
    pub recorded: Latencies,
    /// Events that the recorder left out.
    pub missing: u64,
    /// Bytes of keys and values that batches put, and of keys that they deleted.
    pub kv_write_bytes: u64,
}

impl Script {
    /// The cues of `events`, block by block, each to `take`, until it says no.
    pub fn run<E>(
        &mut self,
        events: impl Iterator<Item = Result<Event, E>>,
        take: &mut dyn FnMut(Cue) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut events = events.peekable();
        while events.peek().is_some() {
            let block = events.by_ref().take(BLOCK).collect::<Result<Vec<Event>, E>>()?;
            for (event, others) in self.others(block) {
                let Some(cue) = self.cue(event, others) else { continue };
                if !take(cue)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How many operations were under way when each of `block` began.
    fn others(&mut self, block: Vec<Event>) -> Vec<(Event, u64)> {
        let mut order: Vec<usize> = (0..block.len()).collect();
        order.sort_by_key(|at| block[*at].start_ns);
        let mut others = vec![0; block.len()];
        for at in order {
            let event = &block[at];
            while self.ends.peek().is_some_and(|Reverse(end)| *end <= event.start_ns) {
                self.ends.pop();
            }
            others[at] = self.ends.len() as u64;
            if matches!(event.asked, Asked::Batch { .. } | Asked::Get { .. } | Asked::Scan { .. }) {
                self.ends.push(Reverse(event.start_ns + event.duration_ns));
            }
        }
        block.into_iter().zip(others).collect()
    }

    fn cue(&mut self, event: Event, others: u64) -> Option<Cue> {
        let Event { tag, thread, start_ns, duration_ns, asked } = event;
        let step = match asked {
            Asked::Batch { changes, .. } => {
                self.recorded.batch.record(duration_ns);
                let bytes = |change: &Change| {
                    change.key.len() as u64 + change.value.as_ref().map_or(0, |value| value.length())
                };
                self.kv_write_bytes += changes.iter().map(bytes).sum::<u64>();
                self.turn += 1;
                Step::Batch { turn: self.turn - 1, changes }
            }
            Asked::Get { key, .. } => {
                self.recorded.get.record(duration_ns);
                Step::Get { key }
            }
            Asked::Scan { start, end, entries, .. } => {
                self.recorded.scan.record(duration_ns);
                Step::Scan { start, end, entries }
            }
            Asked::Sync { number } => {
                self.syncs.insert(number, start_ns);
                Step::Sync { number, turn: self.turn }
            }
            Asked::Synced { number } => {
                // One that had begun before the recording is nobody's here.
                let begun = self.syncs.remove(&number)?;
                self.recorded.sync.record(start_ns.saturating_sub(begun));
                Step::AwaitSync { number }
            }
            Asked::Gap { events } => {
                self.missing += events;
                return None;
            }
        };
        Some(Cue { tag, thread, start_ns, others, step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Content;

    fn event(start_ns: u64, duration_ns: u64, asked: Asked) -> Result<Event, ()> {
        Ok(Event { tag: 1, thread: 2, start_ns, duration_ns, asked })
    }

    fn get(start_ns: u64, duration_ns: u64) -> Result<Event, ()> {
        event(start_ns, duration_ns, Asked::Get { key: Bytes::from_static(b"k"), found: None })
    }

    fn batch(start_ns: u64, lsn: u64) -> Result<Event, ()> {
        let change = Change { key: Bytes::from_static(b"key"), value: Some(Content::Length(100)) };
        event(start_ns, 5, Asked::Batch { lsn, changes: vec![change] })
    }

    #[test]
    fn cues_know_their_turn_and_who_was_under_way() {
        // In the order of their ends: the second get began first.
        let events = [
            batch(0, 1),
            get(20, 5),
            get(10, 40),
            batch(22, 2),
            event(30, 0, Asked::Sync { number: 7 }),
            event(31, 0, Asked::Synced { number: 6 }),
            event(90, 0, Asked::Synced { number: 7 }),
            event(91, 0, Asked::Gap { events: 3 }),
            batch(95, 3),
        ];
        let (mut script, mut cues) = (Script::default(), Vec::new());
        script
            .run(events.into_iter(), &mut |cue| {
                cues.push(cue);
                Ok(true)
            })
            .unwrap();
        let others: Vec<u64> = cues.iter().map(|cue| cue.others).collect();
        assert_eq!(others, [0, 1, 0, 2, 1, 0, 0]);
        let turns: Vec<u64> = cues
            .iter()
            .filter_map(|cue| match cue.step {
                Step::Batch { turn, .. } | Step::Sync { turn, .. } => Some(turn),
                _ => None,
            })
            .collect();
        assert_eq!(turns, [0, 1, 2, 2]);
        assert_eq!(cues[5].step, Step::AwaitSync { number: 7 });
        assert_eq!((script.missing, script.kv_write_bytes), (3, 309));
        let recorded = &script.recorded;
        assert_eq!((recorded.get.count(), recorded.batch.count(), recorded.sync.count()), (2, 3, 1));
        assert_eq!(recorded.sync.quantile_ns(0.5), Some(60));
    }

    #[test]
    fn who_says_no_gets_no_more_and_an_error_is_handed_on() {
        let mut taken = 0;
        let run = |events: Vec<Result<Event, ()>>, taken: &mut u64| {
            Script::default().run(events.into_iter(), &mut |_| {
                *taken += 1;
                Ok(*taken < 2)
            })
        };
        run((0..5).map(|at| get(at, 1)).collect(), &mut taken).unwrap();
        assert_eq!(taken, 2);
        assert_eq!(run(vec![get(0, 1), Err(())], &mut taken), Err(()));
    }
}
