//! Forks: a snapshot becomes a store of its own.

use super::*;

/// A store after `batches` random ones, what it holds, and its generator.
fn filled(options: &Variant, batches: u64) -> (Arc<LsmEngine>, Model, Prng) {
    let engine = open_with(SimDisk::new(), options).unwrap();
    let (mut prng, mut model) = (Prng::new(batches), Model::new());
    for number in 1..=batches {
        go_on(&engine, &mut model, &mut prng, number);
    }
    (engine, model, prng)
}

/// One more batch, and now and then background work.
fn go_on(engine: &LsmEngine, model: &mut Model, prng: &mut Prng, number: u64) {
    let batch = random_batch(prng, number);
    apply_patiently(engine, &batch).unwrap();
    apply_to(model, &batch);
    match prng.below(12) {
        0 => run(engine, Command::Compact).unwrap(),
        1..4 => settle(engine).unwrap(),
        _ => {}
    }
}

#[test]
fn a_fork_and_what_it_comes_from_go_their_own_ways() {
    let mut with_values = 0;
    for options in variants().iter().chain(&policies()) {
        let (engine, mut model, mut prng) = filled(options, 150);
        let disk = SimDisk::new();
        let (mut fork_model, snapshot) = (model.clone(), engine.snapshot().unwrap());
        // What is written and merged in between is not part of it.
        (151..180).for_each(|number| go_on(&engine, &mut model, &mut prng, number));
        snapshot.fork(&(disk.clone() as Arc<dyn Disk>)).unwrap();
        let lsn = snapshot.lsn();
        drop(snapshot);
        // Durable, whatever else happens to the disk.
        let mut disk = disk.crash(7);
        with_values += u64::from(disk.list().unwrap().iter().any(|info| wal::is_segment(&info.name)));
        let mut fork = open_with(disk.clone(), options).unwrap();
        assert_eq!(contents(&*fork).unwrap(), fork_model);
        assert_eq!(fork.lsn(), lsn);
        run(&*fork, Command::Verify).unwrap();
        for number in 180..300 {
            go_on(&engine, &mut model, &mut prng, number);
            go_on(&fork, &mut fork_model, &mut prng, number);
            if number % 40 == 0 {
                sync(&*fork).unwrap();
                disk = disk.crash(number);
                fork = open_with(disk.clone(), options).unwrap();
            }
        }
        for (engine, model) in [(&engine, model), (&fork, fork_model)] {
            assert_eq!(contents(&**engine).unwrap(), model);
            run(&**engine, Command::Compact).unwrap();
            run(&**engine, Command::Verify).unwrap();
            assert_eq!(contents(&**engine).unwrap(), model);
        }
        check_space(&fork, &disk);
    }
    assert!(with_values > 2, "{with_values} forks took values of the log along");
}

#[test]
fn a_fork_that_a_crash_interrupts_is_whole_or_does_not_open() {
    for options in variants() {
        let (engine, model, _) = filled(&options, 90);
        let snapshot = engine.snapshot().unwrap();
        let (mut whole, mut refused) = (0, 0);
        for stop in 0.. {
            let disk = SimDisk::new();
            disk.stop_at(stop);
            let forked = snapshot.fork(&(disk.clone() as Arc<dyn Disk>));
            let after = disk.crash_as(stop, Tear::Nonsense);
            // Where no name is left, what opens is a new store.
            let names: Vec<String> = after.list().unwrap().into_iter().map(|info| info.name).collect();
            match open_with(after, &options) {
                Ok(fork) if names.iter().any(|name| name != "manifest.new") => {
                    assert!(contents(&*fork).unwrap() == model, "stop {stop}: {names:?}");
                    whole += 1;
                }
                Ok(_) => assert!(forked.is_err(), "stop {stop}"),
                Err(error) => {
                    assert!(forked.is_err() && error.is_damage(), "stop {stop}: {error}");
                    refused += 1;
                }
            }
            if forked.is_ok() {
                break;
            }
        }
        assert!(whole > 0 && refused > 5, "{whole} whole, {refused} refused");
    }
}

#[test]
fn a_fork_goes_to_an_empty_place_alone_and_says_what_failed() {
    let (engine, ..) = filled(&variants()[0], 60);
    let snapshot = engine.snapshot().unwrap();
    let disk: Arc<dyn Disk> = SimDisk::new();
    disk.create("manifest").unwrap();
    let error = snapshot.fork(&disk).unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("manifest")), "{error}");
    // What is nobody's store harms none.
    let disk: Arc<dyn Disk> = SimDisk::new();
    disk.create("something").unwrap();
    snapshot.fork(&disk).unwrap();
    let faulty = Faulty::new(SimDisk::new());
    faulty.inject(Fault::Fail { kind: None, purpose: Some(Purpose::Fork), nth: 1, errno: libc::ENOSPC });
    let error = snapshot.fork(&(faulty as Arc<dyn Disk>)).unwrap_err();
    assert!(matches!(error, Error::NoSpace), "{error}");
    // What it comes from is as it was.
    run(&*engine, Command::Verify).unwrap();
}
