//! An engine of somebody else, that of `examples/engine.rs`: it lives in a directory of its own, reads and writes there as it likes, and has
//! options of its own. Nothing else of kvfs knows it.

#[path = "support/contract.rs"]
mod contract;
#[path = "../examples/engine.rs"]
#[allow(dead_code, reason = "its main is the example's")]
mod example;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Once};

use bytes::Bytes;
use example::{ENGINE, ENGINES};
use kvfs::base::clock::Clock;
use kvfs::base::prng::Prng;
use kvfs::compare::contender::Contender;
use kvfs::compare::matrix::plan::Plan;
use kvfs::compare::matrix::work::Work;
use kvfs::compare::workloads::stage::Stage;
use kvfs::compare::{self, matrix, workloads};
use kvfs::disk::{Access, Opening, SimDisk};
use kvfs::engine::{self, Engine, KeyRange, Kind, Tier};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Caller, NewNode, ROOT};
use kvfs::mount::{self, Store};
use kvfs::store::{Settings, Terms};

fn given(list: &str) -> Vec<(String, String)> {
    let pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn open(path: &Path, list: &str) -> Store {
    mount::open_store(path, &given(list), Terms::default()).unwrap()
}

/// Makes it known, once for all tests of this file.
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| assert!(engine::register(&ENGINES)));
    assert!(!engine::register(&ENGINES), "once is all");
}

/// The same as of the engines in `engines/`.
#[test]
fn it_keeps_the_contract() {
    register();
    let kind = Kind::of(&ENGINE);
    contract::it_agrees_with_a_map_before_and_after_it_is_opened_again(kind);
    contract::nothing_waits_where_nothing_may_and_syncs_are_shared(kind);
    contract::its_options_read_what_they_print_and_nonsense_is_named(kind);
    contract::it_settles(kind);
    contract::it_is_compared_at_a_point(kind);
}

/// What a crash leaves of its file is a prefix of the batches, and so is what a turned bit leaves.
#[test]
fn a_torn_record_is_the_end_of_its_history() {
    register();
    let kind = Kind::of(&ENGINE);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (whole, torn) = (home.path().join("whole"), home.path().join("torn"));
    std::fs::create_dir(&whole).unwrap();
    std::fs::create_dir(&torn).unwrap();
    let options = kind.default_options();
    let engine = contract::open(kind, &options, &whole);
    let file = whole.join("journal");
    let bytes_of = || std::fs::metadata(&file).unwrap().len();
    // The length of the file and what is in it after each batch.
    let (mut history, mut model) = (vec![(bytes_of(), BTreeMap::new())], BTreeMap::new());
    let mut random = Prng::new(11);
    for _ in 0..30 {
        engine.apply(&contract::change(&mut random, &mut model), Tier::Disk).unwrap();
        history.push((bytes_of(), model.clone()));
    }
    // The process ends without a word.
    drop(engine);
    let bytes = std::fs::read(&file).unwrap();
    let first = history[0].0;
    for round in 0..200 {
        let at = first + random.below(bytes.len() as u64 - first);
        let mut left = bytes.clone();
        if round % 2 == 0 {
            left.truncate(at as usize);
        } else {
            left[at as usize] ^= 1 << (round % 8);
        }
        std::fs::write(torn.join("journal"), left).unwrap();
        let (_, expected) = history.iter().rev().find(|(length, _)| *length <= at).unwrap();
        let engine = contract::open(kind, &options, &torn);
        let found = contract::contents(&*engine, KeyRange::ALL);
        assert_eq!(found, expected.clone().into_iter().collect::<Vec<_>>(), "torn at {at}");
    }
}

#[test]
fn it_is_made_opened_checked_and_refused_like_ours() {
    register();
    assert!(Kind::help().contains("journal: a map in memory and a file of batches"), "{}", Kind::help());
    assert!(
        Settings::all()
            .iter()
            .any(|setting| setting.name == "journal_max" && setting.owner == Some(Kind::of(&ENGINE)))
    );

    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = home.path().join("store");
    let refused = mount::make_store(&path, &given("engine=journal,journal_max=7K"), Terms::default());
    assert!(refused.unwrap_err().to_string().contains("journal_max is less than 1M"));
    // `page_size` is another engine's.
    mount::make_store(&path, &given("engine=journal,journal_max=64M,page_size=8K"), Terms::default())
        .unwrap();

    // What was made is remembered, and the store is the same when it is opened again.
    let store = open(&path, "");
    assert_eq!(store.settings.get("journal_max").as_deref(), Some("64M"));
    assert_eq!(store.settings.get("page_size"), None);
    let new =
        store.fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, b"file", 0o644, 0, NewNode::File).unwrap();
    store
        .fs
        .write(Tier::Disk, Caller::ROOT, new.ino, 0, &Bytes::from_static(b"what is written"), false)
        .unwrap();
    store.close().unwrap();
    drop(store);
    assert!(path.join("engine/journal").is_file(), "in a directory of its own");
    assert!(!path.join("spare.0").exists(), "which no spare file serves");
    let store = open(&path, "journal_max=32M");
    let found = store.fs.lookup(Tier::Disk, ROOT, b"file").unwrap();
    assert_eq!(store.fs.read(Tier::Disk, found.ino, 0, 100).unwrap(), b"what is written");
    assert_eq!(store.engine.shape().engine, "journal");
    store.close().unwrap();
    drop(store);

    // Read-only it is opened in its place: there is nothing of ours between it and its files.
    let store = open(&path, "read_only=on");
    assert_eq!(store.fs.lookup(Tier::Disk, ROOT, b"file").unwrap().size, 15);
    store.close().unwrap();
    drop(store);

    let findings = mount::check(&path, &mut |_| ()).unwrap();
    assert!(findings.damage.is_empty(), "{findings:?}");
    assert_eq!(findings.summary.unwrap().inodes, 2);
    let opening = Opening { access: Access::Write, any_owner: false };
    let refused = mount::repair(&path, opening, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("engine=journal, whose files only its own tools can repair"), "{refused}");

    // No disk of ours will do.
    let clock: Arc<dyn Clock> = Arc::new(kvfs::base::clock::SystemClock::new());
    let refused = engine::open(SimDisk::new(), clock, &Kind::of(&ENGINE).default_options()).err().unwrap();
    assert!(refused.to_string().contains("engine=journal needs a directory of its own"), "{refused}");
}

/// Its directory is one, and no way to somewhere else.
#[test]
fn through_a_link_nothing_is_written() {
    register();
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, elsewhere) = (home.path().join("store"), home.path().join("elsewhere"));
    mount::make_store(&path, &given("engine=journal"), Terms::default()).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir_all(path.join("engine")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, path.join("engine")).unwrap();
    let refused = mount::open_store(&path, &[], Terms::default()).err().unwrap().to_string();
    assert!(refused.contains("engine is a link or a file"), "{refused}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    arguments: compare::Arguments,
}

fn arguments(line: &str) -> compare::Arguments {
    let words = ["compare", "--dir", "unused"].into_iter().chain(line.split_whitespace());
    <Line as clap::Parser>::try_parse_from(words).unwrap().arguments
}

/// The matrix has it beside ours. What no meter of ours saw is nowhere made up, and where syncs are real the kernel speaks of both.
#[test]
fn it_is_compared_with_ours_by_what_was_measured_of_both() {
    register();
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = home.path().join("store");
    for is_synced in [false, true] {
        let line = "--puts 300 --memory 256K --sizes 20K,100K --values 100 --updates 50 --gets 20 --engines lsm:leveled,journal";
        let plan =
            Plan::new(&arguments(&format!("{line}{}", if is_synced { " --sync" } else { "" }))).unwrap();
        let measure = |contender: &Contender, work: &Work| matrix::measure_at(&store, &plan, contender, work);
        let rows = matrix::run(&plan, measure).unwrap();
        let of = |name: &str| {
            rows.iter().find(|row| row.contender == name && row.data_bytes == 100 << 10).unwrap()
        };
        let (ours, journal) = (of("lsm:leveled"), of("journal"));
        assert!(!store.exists() && rows.len() == 4);
        assert!(ours.settled_bytes.unwrap() > ours.logical_bytes && ours.log_file_bytes.is_some());
        let doors =
            [journal.settled_bytes, journal.unsettled_bytes, journal.requests, journal.syncs, journal.reads];
        assert!(
            doors.iter().chain([&journal.read_bytes, &journal.log_file_bytes]).all(Option::is_none),
            "{journal:?}"
        );
        assert_eq!(
            (journal.puts, journal.gets, journal.logical_bytes),
            (ours.puts, ours.gets, ours.logical_bytes)
        );
        // Its file holds every batch that it was ever given, so it takes more than the keys.
        assert!(journal.physical_bytes > journal.live_bytes, "{journal:?}");
        let text = matrix::report(&plan, &rows).unwrap();
        let own_line = text.lines().find(|line| line.contains("  journal  ")).unwrap();
        assert_eq!(own_line.matches(" - ").count(), 8, "{own_line}");
        assert!(text.contains("journal       - (in a directory of its own it passes no meter)"), "{text}");
        let crossover =
            text.lines().find(|line| line.starts_with("crossover lsm:leveled / journal")).unwrap();
        match is_synced {
            false => assert!(crossover.contains("none: nobody counts what both write"), "{crossover}"),
            // A filesystem in memory counts nothing.
            true if journal.kernel_write_amp().is_none() => {}
            true => assert!(crossover.contains(" by the kernel's count: "), "{crossover}"),
        }
    }
}

/// So do the workloads, with every answer checked.
#[test]
fn every_workload_runs_on_it() {
    register();
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let line =
        "--workloads all --memory 256K --sizes 40K --values 100 --puts 200 --gets 200 --engines journal";
    let plan = workloads::plan::Plan::new(&arguments(line)).unwrap();
    let mut stage = Stage::new(&plan, &plan.contenders[0], plan.sizes[0], home.path()).unwrap();
    for workload in &plan.workloads {
        let rows = stage.run(workload).unwrap();
        assert!(!rows.is_empty(), "{workload}");
        for row in rows {
            assert!(
                row.contender == "journal" && row.workload.starts_with(workload) && row.ops > 0,
                "{row:?}"
            );
            assert_eq!((row.door_write_bytes, row.door_reads, row.write_amp()), (None, None, None));
            assert_eq!((row.keeps_prefix, row.occupied_bytes > 0), (1, true), "{row:?}");
        }
    }
    stage.finish().unwrap();
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the stores are gone");
}
