//! Other programs fill the disk to the last byte while the store is closed: the space that the file and the log have already is enough to
//! delete everything, and to write it again.

use super::*;

/// How a life of the store ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Killed,
    /// Power fails once everything is synced.
    Crashed,
}

const CAPACITY_BYTES: u64 = 12 << 20;
/// Number of repetitions.
const SMALL_BYTES: u64 = 4 << 20;

/// Pages of the usual size on a small disk: one segment of the log takes the copies of few of them.
fn options(mode: Mode) -> Options {
    mode.of(Options {
        page_bytes: 16 << 10,
        checkpoint_log_bytes: 512 << 10,
        dirty_bytes_max: 2 << 20,
        common: Common {
            reserve_bytes: 768 << 10,
            log_segment_bytes: 128 << 10,
            cache_bytes: 1 << 20,
            ..tiny().common
        },
        ..tiny()
    })
}

/// A store and its model.
struct Store {
    sim: Arc<SimDisk>,
    engine: Arc<BtreeEngine>,
    model: Map,
    options: Options,
    seed: u64,
}

impl Store {
    fn new(mode: Mode, seed: u64, capacity_bytes: u64) -> Store {
        let (sim, options) = (SimDisk::new(), options(mode));
        sim.set_capacity(Some(capacity_bytes));
        let engine = open_on(sim.clone(), &options).unwrap();
        Store { sim, engine, model: Map::new(), options, seed }
    }

    fn what(&self) -> String {
        format!("{:?} seed {}", self.options.variant(), self.seed)
    }

    /// From here on no byte of the disk is free, except those that the store gives back.
    fn others_take_all(&self) {
        self.sim.set_capacity(None);
        let used_bytes: u64 = self.sim.list().unwrap().iter().map(|info| info.bytes).sum();
        self.sim.set_capacity(Some(used_bytes));
    }

    /// Ends this life of the store and begins another, on a disk that others have filled.
    fn live_again(&mut self, end: End) {
        match end {
            End::Closed => self.engine.close().unwrap_or_else(|error| panic!("{}: {error}", self.what())),
            End::Killed => self.sim = self.sim.kill(),
            End::Crashed => {
                sync(&*self.engine).unwrap();
                self.sim = self.sim.crash(self.seed);
            }
        }
        self.others_take_all();
        let opened = open_on(self.sim.clone(), &self.options);
        self.engine = opened.unwrap_or_else(|error| panic!("{} {end:?}: {error}", self.what()));
        assert!(contents(&*self.engine).unwrap() == self.model, "{} {end:?}", self.what());
    }

    fn apply(&mut self, batch: &Batch) -> Result<()> {
        for _ in 0..2000 {
            match self.engine.apply(batch, Tier::Disk) {
                Err(Error::Busy { .. }) => _ = self.engine.work(WorkClass::Flush),
                other => {
                    other?;
                    follow(&mut self.model, batch);
                    return Ok(());
                }
            }
        }
        panic!("{}: a batch waits for ever", self.what());
    }

    fn bytes(&self) -> usize {
        self.model.values().map(Vec::len).sum()
    }

    /// Puts values of a few sizes until the disk is full.
    fn fill(&mut self, life: u8) {
        let mut prng = Prng::new(self.seed + u64::from(life));
        for number in 0u32.. {
            let mut batch = Batch::new(1);
            for part in 0..4u8 {
                let value = vec![number as u8 ^ life; [90, 3000, 4096, 9000][prng.below(4) as usize]];
                batch.put([&number.to_be_bytes()[..], &[part]].concat(), value);
            }
            match self.apply(&batch) {
                Ok(()) => {}
                Err(Error::NoSpace) => return,
                Err(error) => panic!("{}: put {number}: {error}", self.what()),
            }
            if number % 64 == 0 {
                self.engine.work(WorkClass::Log).unwrap();
            }
        }
    }

    /// Deletes the first `count` keys, `at_once` in a batch.
    fn delete(&mut self, count: usize, at_once: usize) {
        self.try_delete(count, at_once).unwrap_or_else(|error| panic!("{}: deletes: {error}", self.what()));
    }

    fn try_delete(&mut self, count: usize, at_once: usize) -> Result<()> {
        let keys: Vec<Vec<u8>> = self.model.keys().take(count).cloned().collect();
        keys.chunks(at_once).try_for_each(|part| {
            let mut batch = Batch::new(1);
            batch.uses_reserve = true;
            part.iter().for_each(|key| batch.delete(key.clone()));
            self.apply(&batch)
        })
    }
}

#[test]
fn what_others_took_is_not_needed_to_delete_and_to_write_again() {
    for mode in MODES {
        for (seed, ends) in (0..).zip([
            [End::Closed, End::Crashed, End::Closed],
            [End::Killed, End::Killed, End::Crashed],
            [End::Crashed, End::Closed, End::Killed],
        ]) {
            let mut store = Store::new(mode, seed, CAPACITY_BYTES);
            store.fill(1);
            let (count, bytes) = (store.model.len(), store.bytes());
            assert!(bytes > 7 << 20, "{}: full at {bytes}", store.what());
            store.live_again(ends[0]);
            store.delete(1, 1);
            store.delete(count / 2, 100);
            store.live_again(ends[1]);
            store.delete(count, 100);
            assert!(store.model.is_empty());
            store.fill(2);
            let again = store.bytes();
            assert!(again > bytes / 10 * 8, "{}: {again} bytes again of {bytes}", store.what());
            store.live_again(ends[2]);
            run(&*store.engine, Command::Verify).unwrap();
            // Several times.
            store.delete(count * 2, 7);
            assert!(store.model.is_empty());
            store.live_again(End::Closed);
        }
    }
}

/// The steps of a mount after a `kill -9`, on a disk of which other programs have taken every byte since: it opens the store, puts a record,
/// reads everything and deletes it.
fn survive_kill(store: &Store, moment: &str) {
    let killed = Store {
        sim: store.sim.kill(),
        engine: store.engine.clone(),
        model: store.model.clone(),
        options: store.options.clone(),
        seed: store.seed,
    };
    killed.others_take_all();
    let what = format!("{}: {moment}", store.what());
    let engine =
        open_on(killed.sim.clone(), &killed.options).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut killed = Store { engine, ..killed };
    assert!(contents(&*killed.engine).unwrap() == killed.model, "{what}");
    let mut batch = Batch::new(1);
    batch.uses_reserve = true;
    batch.put(vec![0], vec![1; 100]);
    killed.apply(&batch).unwrap_or_else(|error| panic!("{what}: the first record: {error}"));
    killed.delete(usize::MAX, 100);
    assert!(killed.model.is_empty(), "{what}");
}

#[test]
fn a_store_that_is_killed_at_any_moment_is_opened_and_emptied_without_a_free_byte() {
    for mode in MODES {
        for seed in 0..3 {
            let mut store = Store::new(mode, seed, CAPACITY_BYTES);
            let mut prng = Prng::new(seed);
            'fill: for number in 0u32.. {
                let mut batch = Batch::new(1);
                for part in 0..4u8 {
                    let value = vec![number as u8; [90, 3000, 4096, 9000][prng.below(4) as usize]];
                    let number =
                        if prng.one_in(4) { prng.below(u64::from(number) + 1) as u32 } else { number };
                    batch.put([&number.to_be_bytes()[..], &[part]].concat(), value);
                }
                loop {
                    if prng.one_in(40) {
                        survive_kill(&store, &format!("batch {number}"));
                    }
                    match store.engine.apply(&batch, Tier::Disk) {
                        Err(Error::Busy { .. }) => _ = store.engine.work(WorkClass::Flush),
                        Err(Error::NoSpace) => break 'fill,
                        other => {
                            other.unwrap();
                            follow(&mut store.model, &batch);
                            break;
                        }
                    }
                }
                if number % 64 == 0 {
                    store.engine.work(WorkClass::Log).unwrap();
                }
            }
            survive_kill(&store, "full");
        }
    }
}

/// Deletes half of `model` in batches and puts other values until power fails. Returns every state that was reached; the first is the
/// oldest that may be found afterwards.
fn work_on(sim: &Arc<SimDisk>, options: &Options, model: &Map) -> Vec<Map> {
    let mut states = vec![model.clone()];
    let Ok(engine) = open_on(sim.clone(), options) else { return states };
    let keys: Vec<Vec<u8>> = model.keys().step_by(2).cloned().collect();
    for (nth, part) in keys.chunks(60).enumerate() {
        for is_delete in [true, false] {
            let mut batch = Batch::new(1);
            batch.uses_reserve = is_delete;
            match is_delete {
                true => part.iter().for_each(|key| batch.delete(key.clone())),
                false => part.iter().take(9).for_each(|key| batch.put(key.clone(), vec![nth as u8; 3000])),
            }
            let applied = (0..2000).find_map(|_| match engine.apply(&batch, Tier::Disk) {
                // Without power it fails. A vacuum ends if it finds no room.
                Err(Error::Busy { .. }) => engine
                    .work(WorkClass::Flush)
                    .err()
                    .filter(|error| !matches!(error, Error::NoSpace))
                    .map(Err),
                applied => Some(applied),
            });
            let mut next = states.last().unwrap().clone();
            follow(&mut next, &batch);
            match applied.expect("a batch waits for ever") {
                Ok(_) => states.push(next),
                // There may not be room for it yet.
                Err(Error::NoSpace) if !is_delete => {}
                // The part that was logged may be there.
                Err(error) => {
                    assert!(
                        !matches!(error, Error::NoSpace),
                        "{:?}: deletes of part {nth}: {error}",
                        options.variant()
                    );
                    states.push(next);
                    return states;
                }
            }
        }
        if run(engine.as_ref(), Command::Checkpoint).is_ok() {
            states.drain(..states.len() - 1);
        }
    }
    states
}

#[test]
fn power_may_go_at_any_request_while_others_have_every_byte() {
    for mode in MODES {
        let mut store = Store::new(mode, 5, SMALL_BYTES);
        store.fill(1);
        store.live_again(End::Closed);
        store.engine.close().unwrap();
        store.others_take_all();
        let whole = store.sim.kill();
        assert_eq!(work_on(&whole, &store.options, &store.model).len(), 1, "{mode:?}: all of it can be done");
        for stop in (0..whole.requests()).step_by(2) {
            let sim = store.sim.kill();
            sim.stop_at(stop);
            let states = work_on(&sim, &store.options, &store.model);
            let crashed = sim.crash(stop);
            let opened = open_on(crashed.clone(), &store.options);
            let engine = opened.unwrap_or_else(|error| panic!("{mode:?} stop {stop}: {error}"));
            let found = contents(&*engine).unwrap();
            assert!(states.contains(&found), "{mode:?} stop {stop}: not a state that there was");
            run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{mode:?} stop {stop}: {error}"));
            let mut left = Store { sim: crashed, engine, model: found, ..Store::new(mode, 5, SMALL_BYTES) };
            left.delete(usize::MAX, 100);
            assert!(left.model.is_empty());
        }
    }
}

#[test]
fn deletes_go_on_when_others_take_every_byte_of_a_store_that_is_open() {
    for mode in MODES {
        for seed in 0..16 {
            let mut store = Store::new(mode, seed, CAPACITY_BYTES);
            let mut prng = Prng::new(seed);
            // Pages all over the tree are dirty when the others come; copies of them all need files that the log does not have yet.
            for number in 0..150 + 30 * seed as u32 {
                let mut batch = Batch::new(1);
                for _ in 0..20 {
                    let value = vec![number as u8; [90, 90, 90, 90, 3000][prng.below(5) as usize]];
                    batch.put((prng.below(10_000) as u32).to_be_bytes().to_vec(), value);
                }
                store.apply(&batch).unwrap_or_else(|error| panic!("{}: put {number}: {error}", store.what()));
            }
            store.others_take_all();
            match store.try_delete(usize::MAX, 20) {
                // The doublewrite area may be too short for copies of all dirty pages; opening writes them part by part.
                Err(Error::NoSpace) if mode == Mode::DOUBLEWRITE => {
                    store.live_again(End::Killed);
                    store.delete(usize::MAX, 20);
                }
                deleted => deleted.unwrap_or_else(|error| panic!("{}: {error}", store.what())),
            }
            assert!(store.model.is_empty(), "{}", store.what());
            store.live_again(End::Closed);
            store.fill(2);
        }
    }
}
