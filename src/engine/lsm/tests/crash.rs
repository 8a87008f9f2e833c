//! Crashes and failures at every request, and while recovering from one.

use super::*;

#[test]
fn a_crash_at_any_request_leaves_a_prefix_that_holds_every_synced_batch() {
    for options in variants() {
        crash_at_every_request(&options, 110);
    }
}

#[test]
fn a_crash_at_any_request_under_any_policy_leaves_a_prefix_that_holds_every_synced_batch() {
    for options in policies() {
        crash_at_every_request(&options, 60);
    }
}

#[test]
fn any_request_may_fail_under_any_policy_and_nothing_accepted_is_lost() {
    policies().iter().for_each(|options| fail_every_request(options, 35));
}

#[test]
fn recovering_under_any_policy_may_be_cut_off_anywhere() {
    policies().iter().for_each(crash_while_recovering);
}

fn crash_at_every_request(options: &Variant, batches: u64) {
    let open_tiny = |disk| open_with(disk, options);
    let whole = SimDisk::new();
    whole.start_trace();
    workload(whole.clone(), options, 1, batches, false);
    // Short runs of the other policies need not come by everything.
    let values = match options.value_log {
        _ if batches < 100 => &[][..],
        true => &["value_log", "value_log_gc"],
        false => &["compact_1"],
    };
    let merges = stuck(options.policy) != StuckTables::Stay;
    for wanted in ["flush", "rename manifest.new", "remove table."].iter().chain(values) {
        if *wanted == "remove table." && !merges {
            continue;
        }
        assert!(whole.trace().contains(wanted), "the workload does without {wanted}");
    }
    for stop in 0..=whole.requests() {
        let disk = SimDisk::new();
        disk.stop_at(stop);
        let history = workload(disk.clone(), options, 1, batches, false);
        for image in 0..2 {
            // Every second power cut leaves nonsense where it tears.
            let after = disk.crash_as(stop * 31 + image, [Tear::Sectors, Tear::Nonsense][image as usize]);
            let engine =
                open_tiny(after.clone()).unwrap_or_else(|e| panic!("stop {stop} image {image}: {e}"));
            history.check(&*engine, history.synced);
            assert_eq!(table_bytes(&after), level_bytes(&engine), "nothing is left over");
            // The recovered store goes on: what is synced now survives the next crash.
            let mut batch = Batch::new(0);
            batch.put(&b"after"[..], &b"the crash"[..]);
            apply_patiently(&*engine, &batch).unwrap();
            sync(&*engine).unwrap();
            let found = contents(&*engine).unwrap();
            assert_eq!(contents(&*open_tiny(after.crash(stop)).unwrap()).unwrap(), found, "stop {stop}");
        }
        let killed = open_tiny(disk.kill()).unwrap();
        history.check(&*killed, history.applied);
        run(&*killed, Command::Verify).unwrap();
    }
}

#[test]
fn a_crash_while_recovering_loses_nothing_more() {
    variants().iter().for_each(crash_while_recovering);
}

fn crash_while_recovering(options: &Variant) {
    let open_tiny = |disk| open_with(disk, options);
    let disk = SimDisk::new();
    let history = workload(disk.clone(), options, 3, 100, false);
    let image = disk.crash(9);
    let whole = image.kill();
    drop(open_tiny(whole.clone()).unwrap());
    for stop in 0..=whole.requests() {
        let again = image.kill();
        again.stop_at(stop);
        drop(open_tiny(again.clone()));
        history.check(&*open_tiny(again.crash(stop)).unwrap(), history.synced);
    }
}

#[test]
fn any_request_may_fail_and_nothing_accepted_is_lost() {
    variants().iter().for_each(|options| fail_every_request(options, 50));
}

fn fail_every_request(options: &Variant, batches: u64) {
    let open_tiny = |disk| open_with(disk, options);
    let whole = Faulty::new(SimDisk::new());
    workload(whole.clone(), options, 5, batches, true);
    for nth in 0..whole.requests() {
        for errno in [libc::EIO, libc::ENOSPC] {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            faulty.inject(Fault::Fail { kind: None, purpose: None, nth, errno });
            let history = workload(Latch::new(faulty), options, 5, batches, true);
            history.check(
                &*open_tiny(sim.kill()).unwrap_or_else(|e| panic!("request {nth}: {e}")),
                history.applied,
            );
            history.check(
                &*open_tiny(sim.crash(nth)).unwrap_or_else(|e| panic!("request {nth}: {e}")),
                history.synced,
            );
        }
    }
}
