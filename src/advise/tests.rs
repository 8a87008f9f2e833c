//! Models beside the engines: the same generated work goes through both, at the simulated pace, and the bytes that each says are compared.

use std::sync::Arc;
use std::time::Duration;

use super::front::tau;
use super::grid;
use super::model::{Clock, Outcome, run};
use super::steps::StepBuilder;
use crate::base::prng::Prng;
use crate::compare::subject::{Pace, Subject};
use crate::disk::{Disk, DiskCounters, Purpose, SimDisk};
use crate::engine::{Batch, Kind, Options, Sync};

/// How far models and engines may differ in the bytes of all files, per cent. A B-tree takes room ahead for the splits that may come, which in
/// stores of a few mebibytes is much; its model has only what was split.
fn space_percent(name: &str) -> f64 {
    if name == "btree" { 25.0 } else { 5.0 }
}
/// The same in the bytes that gets and scans read: engines keep what is used often, models what was used last.
const READ_PERCENT: f64 = 30.0;
/// The time that a batch takes at the simulated pace.
const TICK: Duration = Duration::from_millis(1);

/// Something that a program does.
#[derive(Clone)]
enum Act {
    Put(Vec<u8>, usize),
    Delete(Vec<u8>),
    EndBatch,
    Get(Vec<u8>),
    Scan(Vec<u8>, u64),
    Sync,
    /// The end of the image.
    Mark,
}

/// A key as the filesystem's are: a kind, an inode, a block.
fn key(inode: u64, block: u64) -> Vec<u8> {
    let mut key = vec![4];
    key.extend_from_slice(&inode.to_be_bytes());
    key.extend_from_slice(&(block as u32).to_be_bytes());
    key
}

/// Work of `count` changes, a few a batch, with a sync each `sync_every` batches; `next` says what is changed.
fn work(count: u64, sync_every: u64, mut next: impl FnMut(u64) -> Act) -> Vec<Act> {
    let mut acts = Vec::new();
    for number in 0..count {
        acts.push(next(number));
        if number % 3 == 2 || number + 1 == count {
            acts.push(Act::EndBatch);
            if sync_every > 0 && number / 3 % sync_every == 0 {
                acts.push(Act::Sync);
            }
        }
    }
    acts
}

/// The rank of one of `count`, by a law that takes low ones far more often.
fn zipf(prng: &mut Prng, count: u64) -> u64 {
    let uniform = (prng.below(1 << 30) + 1) as f64 / (1u64 << 30) as f64;
    // The inverse of the distribution function for an exponent near 1.
    let rank = ((count as f64).powf(uniform) - 1.0) as u64;
    // Spread over the key space.
    (rank.min(count - 1)).wrapping_mul(0x9E37_79B9) % count
}

/// The work of a name.
fn acts(name: &str) -> Vec<Act> {
    let mut prng = Prng::new(11);
    let filled = |count: u64, bytes: usize| -> Vec<Act> {
        let mut acts = work(count, 0, |number| Act::Put(key(number / 64, number % 64), bytes));
        acts.push(Act::Mark);
        acts
    };
    match name {
        "fill" => work(15_000, 0, |number| Act::Put(key(number / 64, number % 64), 100)),
        "overwrite" => {
            let mut acts = filled(10_000, 100);
            acts.extend(work(20_000, 0, |_| {
                let number = prng.below(10_000);
                Act::Put(key(number / 64, number % 64), 100)
            }));
            acts
        }
        "zipf" => {
            let mut acts = filled(10_000, 100);
            acts.extend(work(20_000, 0, |_| {
                let number = zipf(&mut prng, 10_000);
                Act::Put(key(number / 64, number % 64), 100)
            }));
            acts
        }
        "random insert" => {
            work(15_000, 0, |_| Act::Put(key(prng.below(1 << 40), 0), 60 + prng.below(80) as usize))
        }
        "fill and delete" => {
            let mut acts = filled(10_000, 100);
            acts.extend(work(15_000, 0, |number| {
                if number % 2 == 0 {
                    return Act::Put(key((10_000 + number) / 64, (10_000 + number) % 64), 100);
                }
                Act::Delete(key(number / 2 / 64, number / 2 % 64))
            }));
            acts
        }
        "synced" => {
            let mut acts = filled(5_000, 60);
            acts.extend(work(15_000, 2, |_| {
                let number = prng.below(5_000);
                Act::Put(key(number / 64, number % 64), 60)
            }));
            acts
        }
        "small records" => {
            let mut acts = filled(15_000, 20);
            acts.extend(work(30_000, 0, |_| {
                Act::Put(key(prng.below(250), prng.below(64)), 10 + prng.below(20) as usize)
            }));
            acts
        }
        "blocks" => {
            let mut acts = filled(800, 4096);
            acts.extend(work(1600, 0, |_| {
                let number = prng.below(800);
                Act::Put(key(number / 64, number % 64), 4096)
            }));
            acts
        }
        "large blocks" => {
            let mut acts = filled(100, 65_536);
            acts.extend(work(200, 4, |_| {
                let number = prng.below(100);
                Act::Put(key(number / 64, number % 64), 65_536)
            }));
            acts
        }
        // More than a cache of some hundred pages: which of fewer stay depends on hashes, which are other ones in every process.
        "reads" => {
            let mut acts = filled(40_000, 100);
            for number in 0..20_000 {
                let at = zipf(&mut prng, 40_000);
                match number % 10 {
                    0 => acts.extend([Act::Put(key(at / 64, at % 64), 100), Act::EndBatch]),
                    1 => acts.push(Act::Scan(key(at / 64, 0), 64)),
                    2 => acts.push(Act::Get(key(at / 64, 64))),
                    _ => acts.push(Act::Get(key(at / 64, at % 64))),
                }
            }
            acts
        }
        _ => panic!("no such work: {name}"),
    }
}

/// Every work there is.
const WORKS: [&str; 9] = [
    "fill",
    "overwrite",
    "zipf",
    "random insert",
    "fill and delete",
    "synced",
    "small records",
    "blocks",
    "large blocks",
];

/// What an engine and its model say of the same work.
struct Both {
    engine: DiskCounters,
    engine_unsettled: DiskCounters,
    space_bytes: u64,
    model: Outcome,
    logical_bytes: u64,
}

impl Both {
    /// How many per cent the model is off in what is written until nothing is owed, and before.
    fn write_percent_off(&self) -> (f64, f64) {
        let off = |model: u64, engine: u64| (model as f64 / engine as f64 - 1.0) * 100.0;
        (
            off(self.model.settled.written_bytes, self.engine.total().write_bytes),
            off(self.model.unsettled.written_bytes, self.engine_unsettled.total().write_bytes),
        )
    }
}

fn both(options: &Options, acts: &[Act]) -> Both {
    let subject = Subject::open((SimDisk::new() as Arc<dyn Disk>).into(), options, Pace::Simulated).unwrap();
    let mut builder = StepBuilder::default();
    if !acts.iter().any(|act| matches!(act, Act::Mark)) {
        builder.mark();
    }
    let (mut batch, mut mark) = (Batch::new(0), subject.counts().unwrap());
    for act in acts {
        match act {
            Act::Put(key, bytes) => {
                batch.put(key.clone(), vec![7; *bytes]);
                builder.put(key, *bytes as u64);
            }
            Act::Delete(key) => {
                batch.delete(key.clone());
                builder.delete(key);
            }
            Act::EndBatch => {
                subject.apply(&std::mem::replace(&mut batch, Batch::new(0))).unwrap();
                builder.end_batch(0);
            }
            Act::Get(key) => {
                subject.get(key).unwrap();
                builder.get(key);
            }
            Act::Scan(key, entries) => {
                subject.scan(key, *entries).unwrap();
                builder.scan(key, *entries);
            }
            Act::Sync => {
                subject.sync().unwrap();
                builder.sync();
            }
            Act::Mark => {
                subject.settle().unwrap();
                mark = subject.counts().unwrap();
                builder.mark();
            }
        }
    }
    let unsettled = subject.counts().unwrap().since(&mark);
    subject.settle().unwrap();
    let settled = subject.counts().unwrap().since(&mark);
    let space_bytes = subject.occupied().unwrap().bytes;
    subject.close().unwrap();
    let steps = builder.finish();
    let model = run(options, &steps, Clock::Steady(TICK), |_| true).unwrap();
    Both {
        engine: settled.door.unwrap(),
        engine_unsettled: unsettled.door.unwrap(),
        space_bytes,
        model,
        logical_bytes: steps.totals.logical_bytes,
    }
}

/// Options of `name` with `settings`, for `memory_bytes`.
fn options(name: &str, settings: &str, memory_bytes: u64) -> Options {
    let mut options = Kind::parse(name).unwrap().default_options();
    options.divide(memory_bytes);
    options.common_mut().sync = Sync::Fsync;
    options.common_mut().reserve_bytes = 1 << 20;
    for setting in settings.split(',').filter(|it| !it.is_empty()) {
        let (name, value) = setting.split_once('=').unwrap();
        options.set(name, value).unwrap().unwrap();
    }
    options
}

/// Holds the model of a design to the engine in every work; `wider` has the works in which it may be off by more, and by how many per cent.
fn hold(name: &str, settings: &str, memory_bytes: u64, wider: &[(&str, f64)]) {
    let options = options(name, settings, memory_bytes);
    let mut problems = Vec::new();
    for work in WORKS {
        let both = both(&options, &acts(work));
        let (settled, unsettled) = both.write_percent_off();
        let space = both.model.settled.space_bytes as f64 / both.space_bytes as f64 * 100.0 - 100.0;
        let amplification = both.engine.total().write_bytes as f64 / both.logical_bytes as f64;
        println!(
            "{name} {settings:24} {work:16} {amplification:6.2}x: written {settled:+6.1} % (before the end {unsettled:+6.1} %), space {space:+6.1} %"
        );
        let most = wider.iter().find(|(named, _)| *named == work).map_or(10.0, |(_, most)| *most);
        if settled.abs() > most {
            problems.push(format!("{work}: written {settled:+.1} %"));
        }
        if space.abs() > space_percent(name) {
            problems.push(format!("{work}: space {space:+.1} %"));
        }
    }
    assert!(problems.is_empty(), "{name} {settings}: {problems:?}");
}

#[test]
fn a_btree_in_place_writes_what_its_model_says() {
    hold("btree", "page_size=4K", 1 << 20, &[]);
}

#[test]
fn a_btree_of_default_pages_writes_what_its_model_says() {
    hold("btree", "", 2 << 20, &[]);
}

#[test]
fn a_btree_larger_than_its_memory_writes_what_its_model_says() {
    hold("btree", "page_size=4K", 256 << 10, &[]);
}

#[test]
fn a_btree_that_copies_pages_writes_what_its_model_says() {
    hold("btree", "page_size=4K,pages=cow", 1 << 20, &[]);
}

#[test]
fn a_btree_with_a_doublewrite_area_writes_what_its_model_says() {
    hold("btree", "torn=doublewrite", 1 << 20, &[]);
}

#[test]
fn a_leveled_lsm_writes_what_its_model_says() {
    hold("lsm", "", 512 << 10, &[]);
}

#[test]
fn a_leveled_lsm_with_little_memory_writes_what_its_model_says() {
    hold("lsm", "level_multiplier=4,dynamic_levels=on", 128 << 10, &[]);
}

#[test]
fn a_tiered_lsm_writes_what_its_model_says() {
    hold("lsm", "policy=tiered", 256 << 10, &[]);
}

#[test]
fn an_eager_lsm_writes_what_its_model_says() {
    hold("lsm", "policy=eager", 1 << 20, &[]);
}

#[test]
fn gets_and_scans_read_what_models_say() {
    let acts = acts("reads");
    let mut problems = Vec::new();
    for (name, settings, memory_bytes) in [
        ("lsm", "", 2 << 20),
        ("lsm", "policy=tiered", 1 << 20),
        ("btree", "page_size=4K", 2 << 20),
        ("btree", "page_size=16K", 4 << 20),
    ] {
        let both = both(&options(name, settings, memory_bytes), &acts);
        let reads = [Purpose::Get, Purpose::Scan].map(|purpose| both.engine.of(purpose).read_bytes);
        let engine: u64 = reads.iter().sum();
        let model = both.model.settled.read_bytes;
        let off = (model as f64 / engine as f64 - 1.0) * 100.0;
        println!("{name} {settings}: {engine} read, {off:+.1} %");
        if off.abs() > READ_PERCENT {
            problems.push(format!("{name} {settings}: {engine} bytes read, the model says {model}"));
        }
    }
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn models_put_designs_in_the_order_of_engines() {
    for work in ["overwrite", "small records", "blocks"] {
        let acts = acts(work);
        let (mut models, mut engines) = (Vec::new(), Vec::new());
        for mut design in grid::all(&grid::Base::default()) {
            design.options.divide(512 << 10);
            for (name, value) in design.text.split(',').skip(1).filter_map(|word| word.split_once('=')) {
                design.options.set(name, value).unwrap().unwrap();
            }
            design.options.common_mut().reserve_bytes = 1 << 20;
            design.options.common_mut().sync = Sync::Fsync;
            let both = both(&design.options, &acts);
            models.push(both.model.settled.written_bytes as f64);
            engines.push(both.engine.total().write_bytes as f64);
            let (off, _) = both.write_percent_off();
            assert!(off.abs() <= 10.0, "{work}: {}: {off:+.1} %", design.text);
        }
        let tau = tau(&models, &engines).unwrap();
        println!("{work}: {} designs, tau {tau:.3}", models.len());
        assert!(tau >= 0.8, "{work}: {tau}");
    }
}
