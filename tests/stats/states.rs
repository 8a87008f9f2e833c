//! What the state says: whenever changes are not taken, it says why, whatever the reason.

use kvfs::control::State;
use kvfs::disk::{Fault, Faulty, Request};
use kvfs::engine::{Error, Options, WorkClass};

use super::*;

/// What keeps changes from being taken.
#[derive(Clone, Copy, Debug)]
enum Reason {
    /// The disk has no room.
    Full,
    /// Requests of this kind and purpose fail.
    Fails(Request, Purpose),
}

/// A store on a disk that can be made to fail.
fn failing(options: &Options) -> (Rig, Arc<Faulty>) {
    let mut kept = None;
    let rig = rig_on(
        |sim| {
            let faulty = Faulty::new(sim);
            kept = Some(faulty.clone());
            faulty
        },
        |disk, clock| engine::open(disk, clock, options).unwrap(),
    );
    (rig, kept.unwrap())
}

/// Applies batches, and does background work between them, until one is refused, or waits through much work; whether one was.
fn write_until_refused(rig: &Rig, count: u64) -> bool {
    for number in 0..count {
        let mut batch = Batch::new(1);
        batch.put([&[1][..], &(number * 7919 % 500).to_be_bytes()].concat(), vec![number as u8; 300]);
        let mut waits = 0;
        loop {
            match rig.engine.apply(&batch, Tier::Disk) {
                Ok(_) => break,
                Err(Error::Busy { .. }) if waits < 300 => waits += 1,
                Err(_) => return true,
            }
            // Errors are for those who apply.
            let _ = [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim]
                .map(|class| rig.engine.work(class));
        }
        if number % 5 == 0 {
            let _ = [WorkClass::Flush, WorkClass::Merge].map(|class| rig.engine.work(class));
        }
    }
    false
}

#[test]
fn the_state_is_never_ok_while_changes_are_refused() {
    use Reason::{Fails, Full};
    let lsm = Options::tiny(Kind::LSM);
    let values = lsm.clone().with("value_log=on,value_gc_percent=90").unwrap();
    let btree = Options::tiny(Kind::BTREE);
    for (options, reason, heals) in [
        (&lsm, Full, true),
        (&lsm, Fails(Request::Write, Purpose::Wal), false),
        (&lsm, Fails(Request::Write, Purpose::Flush), true),
        (&lsm, Fails(Request::Sync, Purpose::Flush), false),
        (&lsm, Fails(Request::Write, Purpose::Compact { into: 1 }), true),
        (&lsm, Fails(Request::Write, Purpose::Manifest), true),
        (&lsm, Fails(Request::Sync, Purpose::Manifest), false),
        (&values, Fails(Request::Write, Purpose::ValueLog), false),
        (&values, Fails(Request::Write, Purpose::ValueLogGc), false),
        (&btree, Full, true),
        (&btree, Fails(Request::Write, Purpose::Wal), false),
        (&btree, Fails(Request::Write, Purpose::PageImage), false),
        (&btree, Fails(Request::Write, Purpose::Checkpoint), true),
        (&btree, Fails(Request::Sync, Purpose::Checkpoint), false),
    ] {
        let (rig, faulty) = failing(options);
        assert!(!write_until_refused(&rig, 300), "{reason:?}");
        assert_eq!(rig.control.report().state, State::Ok, "{reason:?}");
        match reason {
            Full => {
                let used: u64 = rig.sim.list().unwrap().iter().map(|info| info.bytes).sum();
                rig.sim.set_capacity(Some(used));
            }
            Fails(kind, purpose) => (0..2000).for_each(|_| {
                let (kind, purpose) = (Some(kind), Some(purpose));
                faulty.inject(Fault::Fail { kind, purpose, nth: 0, errno: libc::EIO });
            }),
        }
        assert!(write_until_refused(&rig, 5000), "{:?} {reason:?} refuses nothing", options.kind());
        let report = rig.control.report();
        assert_ne!(report.state, State::Ok, "{:?} {reason:?}", options.kind());
        let (name, cause) = (report.state.name(), report.state.cause().unwrap_or_default());
        assert!(!cause.is_empty() && text(&report).contains(&format!("state={name}")), "{name} {cause}");
        assert_eq!(name == "READONLY", !heals, "{:?} {reason:?}: {name} {cause}", options.kind());
        if heals {
            rig.sim.set_capacity(None);
            faulty.heal();
            write_until_refused(&rig, 1);
            engine::settle(&*rig.engine).unwrap();
            assert!(!write_until_refused(&rig, 3), "{:?} {reason:?}", options.kind());
            assert_eq!(rig.control.report().state, State::Ok, "{:?} {reason:?}", options.kind());
        }
    }
}

#[test]
fn a_closed_latch_is_shown() {
    let clock: Arc<ManualClock> = Arc::default();
    let sim = SimDisk::new();
    let disk = Metered::new(sim.clone());
    let latch = Latch::new(disk.clone());
    let control = Control::new(Sources {
        mount: MountInfo::default(),
        clock,
        meter: Arc::new(Meter::new()),
        attribution: Arc::default(),
        engine: MeteredEngine::new(Arc::new(MemEngine::new()), classify),
        disk,
        engine_directory: None,
        witness: None,
        latch: latch.clone(),
        write_times: Box::new(|| Ok(())),
        open_files: Box::new(OpenFiles::default),
        forking: None,
        usage: Box::new(Usage::default),
        process: Box::new(|| None),
    });
    let file = latch.create("log").unwrap();
    file.write_at(Purpose::Wal, 0, b"x").unwrap();
    assert_eq!(control.report().state, State::Ok);
    sim.set_capacity(Some(0));
    file.write_at(Purpose::Wal, 1 << 20, &[1; 4096]).unwrap_err();
    let report = control.report();
    assert!(report.state.cause().unwrap().contains("log"), "{:?}", report.state);
    let text = text(&report);
    assert!(
        text.contains("  state=READONLY\n") && text.contains("\nREADONLY  write to the log log failed: "),
        "{text}"
    );
    let report: Value = serde_json::from_str(&json(&report)).unwrap();
    assert_eq!(report["read_only"], true);
}
