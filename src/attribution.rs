//! Attribution of content that is moved: bytes and calls by process and by top-level name, at door 1.
//!
//! 1. Each read, write and copy that succeeds is charged, where it is counted, to one process and to one name in the root.
//! 2. The kernel names the thread that called. Which process and command that is, a thread of its own finds out in
//!    `/proc` ([`Attribution::name_processes`]): nothing that serves a request waits for it. A process that has ended by then
//!    stays a number.
//! 3. Pages that the kernel's cache hands over carry no process: they are charged to the last one that opened the file for
//!    writing and has it open.
//!
//! # Invariants
//!
//! 1. The rows of a ranking and its `others` add up to the total, which is what door 1 counts of these calls.
//! 2. At most [`ROWS_MAX`] rows are kept: when they are full, the half that moved least is forgotten, and what it moved is in
//!    `others` from then on.
//!
//! A thread's number that is used again is taken for the thread that had it before.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::{Condvar, Mutex};

use crate::fs::types::{Ino, TopName};

/// Threads, and names, that are told apart at a time.
const ROWS_MAX: usize = 256;
/// Rows of a ranking.
const TOP: usize = 20;

/// Content moved by somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Content written.
    pub write_bytes: u64,
    /// Calls that wrote it.
    pub writes: u64,
    /// Content read.
    pub read_bytes: u64,
    /// Calls that read it.
    pub reads: u64,
}

impl Tally {
    /// One call that wrote so many bytes.
    pub fn written(bytes: u64) -> Tally {
        Tally { write_bytes: bytes, writes: 1, ..Tally::default() }
    }

    /// One call that read so many bytes.
    pub fn read(bytes: u64) -> Tally {
        Tally { read_bytes: bytes, reads: 1, ..Tally::default() }
    }

    /// Both directions.
    pub fn bytes(&self) -> u64 {
        self.write_bytes + self.read_bytes
    }

    fn combine(self, other: Tally, with: fn(u64, u64) -> u64) -> Tally {
        Tally {
            write_bytes: with(self.write_bytes, other.write_bytes),
            writes: with(self.writes, other.writes),
            read_bytes: with(self.read_bytes, other.read_bytes),
            reads: with(self.reads, other.reads),
        }
    }

    fn plus(self, other: Tally) -> Tally {
        self.combine(other, u64::saturating_add)
    }

    fn minus(self, other: Tally) -> Tally {
        self.combine(other, u64::saturating_sub)
    }
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Its number; that of a thread where `command` is empty.
    pub pid: u32,
    /// Its command's name as `ps` shows it; empty while or where it is not known.
    pub command: String,
}

/// A ranking of those who moved most, and the sum of all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking<K> {
    /// By bytes, most first; at most 20.
    pub rows: Vec<(K, Tally)>,
    /// Everybody else.
    pub others: Tally,
}

impl<K> Ranking<K> {
    /// Keeps `count` rows; those behind them join the others.
    pub fn fold_behind(&mut self, count: usize) {
        for (_, tally) in self.rows.drain(count.min(self.rows.len())..) {
            self.others = self.others.plus(tally);
        }
    }
}

/// All rows at one moment, or their growth between two.
#[derive(Clone, Debug, Default)]
pub struct Charges {
    total: Tally,
    threads: HashMap<u32, Tally>,
    processes: HashMap<u32, Process>,
    names: HashMap<TopName, Tally>,
}

impl Charges {
    /// Everything that was charged.
    pub fn total(&self) -> Tally {
        self.total
    }

    /// The growth from `earlier` to `self`.
    pub fn since(&self, earlier: &Charges) -> Charges {
        fn growth<K: Eq + Hash + Clone>(
            now: &HashMap<K, Tally>,
            old: &HashMap<K, Tally>,
        ) -> HashMap<K, Tally> {
            let less = |(key, tally): (&K, &Tally)| {
                (key.clone(), tally.minus(old.get(key).copied().unwrap_or_default()))
            };
            now.iter().map(less).filter(|(_, tally)| *tally != Tally::default()).collect()
        }
        Charges {
            total: self.total.minus(earlier.total),
            threads: growth(&self.threads, &earlier.threads),
            processes: self.processes.clone(),
            names: growth(&self.names, &earlier.names),
        }
    }

    /// By process: the threads of each together.
    pub fn by_process(&self) -> Ranking<Process> {
        let mut processes: HashMap<Process, Tally> = HashMap::new();
        for (&thread, &tally) in &self.threads {
            let process = self.processes.get(&thread).cloned();
            let process = process.unwrap_or(Process { pid: thread, command: String::new() });
            let row = processes.entry(process).or_default();
            *row = row.plus(tally);
        }
        rank(processes, self.total)
    }

    /// By name in the root.
    pub fn by_path(&self) -> Ranking<String> {
        let mut names: HashMap<String, Tally> = HashMap::new();
        for (name, &tally) in &self.names {
            let row = names.entry(String::from_utf8_lossy(name).into_owned()).or_default();
            *row = row.plus(tally);
        }
        rank(names, self.total)
    }
}

fn rank<K: Ord>(rows: HashMap<K, Tally>, total: Tally) -> Ranking<K> {
    let mut rows: Vec<(K, Tally)> = rows.into_iter().collect();
    rows.sort_by(|(key, tally), (other, more)| more.bytes().cmp(&tally.bytes()).then(key.cmp(other)));
    rows.truncate(TOP);
    let others = rows.iter().fold(total, |rest, (_, tally)| rest.minus(*tally));
    Ranking { rows, others }
}

/// Adds to a row. When a new one finds no room, the half that moved least makes it.
fn charge<K: Eq + Hash + Clone>(rows: &mut HashMap<K, Tally>, key: &K, tally: Tally) {
    if let Some(row) = rows.get_mut(key) {
        *row = row.plus(tally);
        return;
    }
    if rows.len() >= ROWS_MAX {
        let mut kept: Vec<(K, Tally)> = rows.drain().collect();
        kept.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.bytes()));
        rows.extend(kept.into_iter().take(ROWS_MAX / 2));
    }
    rows.insert(key.clone(), tally);
}

#[derive(Default)]
struct State {
    charges: Charges,
    /// Threads whose process is not known yet.
    unnamed: Vec<u32>,
    /// Nobody names processes any more.
    closed: bool,
}

/// Charges content to processes and names.
#[derive(Default)]
pub struct Attribution {
    state: Mutex<State>,
    /// Rings when there is a thread to name, or no more will come.
    fresh: Condvar,
    /// The thread that has a file open for writing: the last thread that opened it, and how many times it is open.
    writers: Mutex<HashMap<Ino, (u32, u64)>>,
}

impl Attribution {
    /// `thread` moved content below `name`.
    pub fn charge(&self, thread: u32, name: &TopName, tally: Tally) {
        let mut state = self.state.lock();
        let charges = &mut state.charges;
        charges.total = charges.total.plus(tally);
        charge(&mut charges.names, name, tally);
        let known = charges.threads.contains_key(&thread);
        charge(&mut charges.threads, &thread, tally);
        if !known && thread != 0 && !state.closed {
            // Names of threads that were forgotten go with them.
            let Charges { processes, threads, .. } = &mut state.charges;
            processes.retain(|thread, _| threads.contains_key(thread));
            if state.unnamed.len() < ROWS_MAX {
                state.unnamed.push(thread);
                self.fresh.notify_one();
            }
        }
    }

    /// `thread` opened `ino` for writing.
    pub fn opened(&self, ino: Ino, thread: u32) {
        let mut writers = self.writers.lock();
        let writer = writers.entry(ino).or_default();
        *writer = (thread, writer.1 + 1);
    }

    /// Ends one opening that [`Attribution::opened`] noted.
    pub fn closed(&self, ino: Ino) {
        let mut writers = self.writers.lock();
        if let Some(writer) = writers.get_mut(&ino) {
            writer.1 -= 1;
            if writer.1 == 0 {
                writers.remove(&ino);
            }
        }
    }

    /// The thread that has `ino` open for writing; 0 where there is none.
    pub fn writer(&self, ino: Ino) -> u32 {
        self.writers.lock().get(&ino).map_or(0, |(thread, _)| *thread)
    }

    /// Charges so far.
    pub fn charges(&self) -> Charges {
        self.state.lock().charges.clone()
    }

    /// Names each new thread's process by `identify`, until [`Attribution::close`].
    pub fn name_processes(&self, identify: impl Fn(u32) -> Option<Process>) {
        let mut state = self.state.lock();
        while !state.closed {
            let Some(thread) = state.unnamed.pop() else {
                self.fresh.wait(&mut state);
                continue;
            };
            let process = parking_lot::MutexGuard::unlocked(&mut state, || identify(thread));
            if let Some(process) = process {
                state.charges.processes.insert(thread, process);
            }
        }
    }

    /// Ends [`Attribution::name_processes`].
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.fresh.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn name(text: &str) -> TopName {
        text.as_bytes().into()
    }

    fn sum<K>(ranking: &Ranking<K>) -> Tally {
        ranking.rows.iter().fold(ranking.others, |sum, (_, tally)| sum.plus(*tally))
    }

    #[test]
    fn rows_and_others_are_the_total_however_many_there_are() {
        let attribution = Attribution::default();
        let mut random = crate::base::prng::Prng::new(7);
        let mut total = Tally::default();
        let mut mark = Charges::default();
        for step in 0..20_000_u64 {
            let (thread, bytes) =
                ((random.below(1000) * random.below(1000) / 300) as u32, random.below(9000));
            let tally = if step % 3 == 0 { Tally::read(bytes) } else { Tally::written(bytes) };
            attribution.charge(thread, &name(&format!("top{}", thread % 700)), tally);
            total = total.plus(tally);
            if step == 9_999 {
                mark = attribution.charges();
            }
        }
        let now = attribution.charges();
        assert_eq!(now.total(), total);
        assert!(now.threads.len() <= ROWS_MAX && now.names.len() <= ROWS_MAX);
        let growth = now.since(&mark);
        for charges in [&now, &growth] {
            let (processes, paths) = (charges.by_process(), charges.by_path());
            assert_eq!((processes.rows.len(), paths.rows.len()), (TOP, TOP));
            assert_eq!((sum(&processes), sum(&paths)), (charges.total(), charges.total()));
        }
        assert_eq!(growth.total(), total.minus(mark.total()));
    }

    #[test]
    fn threads_of_a_process_are_one_row_and_named_elsewhere() {
        let attribution = Arc::new(Attribution::default());
        for thread in [70, 71, 72] {
            attribution.charge(thread, &name("a"), Tally::written(10));
        }
        attribution.charge(90, &name("b"), Tally::read(5));
        let (sender, receiver) = std::sync::mpsc::channel();
        let namer = {
            let attribution = attribution.clone();
            std::thread::spawn(move || {
                attribution.name_processes(|thread| {
                    sender.send(thread).unwrap();
                    (thread < 80).then(|| Process { pid: 70, command: "dd".to_string() })
                });
            })
        };
        for _ in 0..4 {
            receiver.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        }
        attribution.close();
        namer.join().unwrap();
        let ranking = attribution.charges().by_process();
        let row = |pid, command: &str, tally| (Process { pid, command: command.to_string() }, tally);
        let dd = Tally { write_bytes: 30, writes: 3, ..Tally::default() };
        assert_eq!(ranking.rows, [row(70, "dd", dd), row(90, "", Tally::read(5))]);
        assert_eq!(ranking.others, Tally::default());
    }

    #[test]
    fn pages_of_the_cache_are_charged_to_whoever_has_the_file_open_for_writing() {
        let attribution = Attribution::default();
        attribution.opened(Ino(5), 70);
        attribution.opened(Ino(5), 71);
        assert_eq!((attribution.writer(Ino(5)), attribution.writer(Ino(6))), (71, 0));
        attribution.closed(Ino(5));
        assert_eq!(attribution.writer(Ino(5)), 71);
        attribution.closed(Ino(5));
        attribution.closed(Ino(5));
        assert_eq!(attribution.writer(Ino(5)), 0);
    }
}
