//! Limits, commands and settings.

use super::*;

#[test]
fn limits_answer_busy_with_their_cause_and_commands_what_they_are() {
    let engine = open_on(SimDisk::new(), &tiny()).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], vec![1; 5000]);
    let mut refused = None;
    for index in 0..100u8 {
        let mut batch = Batch::new(0);
        batch.put(vec![index], vec![1; 5000]);
        if let Err(Error::Busy { cause, .. }) = engine.apply(&batch, Tier::Memory) {
            refused = Some(cause);
            break;
        }
    }
    assert_eq!(refused, Some(Cause::LogSpace));
    assert_eq!(engine.shape().stalls.now, Some(Cause::LogSpace));
    let seen = engine.wake_signal().seen(WorkClass::Room);
    settle(&*engine).unwrap();
    assert!(engine.wake_signal().seen(WorkClass::Room) > seen);
    assert_eq!(engine.shape().memory.dirty_bytes.unwrap(), 0);
    engine.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(engine.shape().stalls.now, None);

    let engine = open_on(SimDisk::new(), &Options { checkpoint_log_bytes: 1 << 30, ..tiny() }).unwrap();
    let causes = (0..100u8).find_map(|index| {
        let mut batch = Batch::new(0);
        batch.put(vec![index], vec![1; 5000]);
        engine.apply(&batch, Tier::Memory).err()
    });
    assert!(matches!(causes, Some(Error::Busy { cause: Cause::DirtyPages, .. })), "{causes:?}");
    let mut long = Batch::new(0);
    long.put(vec![1; 2000], &b""[..]);
    assert!(matches!(engine.apply(&long, Tier::Disk), Err(Error::Invalid(_))));
}

#[test]
fn a_checkpoint_starts_when_changes_grow_old() {
    let clock = Arc::new(ManualClock::default());
    let engine = open(SimDisk::new(), clock.clone(), &tiny()).unwrap();
    assert_eq!(engine.work(WorkClass::Flush).unwrap(), Pending::Idle);
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], &b"value"[..]);
    apply(&engine, &batch).unwrap();
    assert_eq!(engine.work(WorkClass::Flush).unwrap(), Pending::After(Duration::from_secs(30)));
    clock.advance(Duration::from_secs(30));
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert_eq!((shape.tree.unwrap().checkpoints, shape.memory.dirty_bytes.unwrap()), (1, 0));
    assert_eq!(engine.work(WorkClass::Flush).unwrap(), Pending::Idle);
}

#[test]
fn the_stored_page_size_counts_and_a_missing_data_file_is_damage() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &Options { page_bytes: 8192, ..tiny() }).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], vec![5; 1500]);
    apply(&engine, &batch).unwrap();
    engine.close().unwrap();
    let engine = open_on(sim.clone(), &tiny()).unwrap();
    assert_eq!(engine.shape().tree.unwrap().page_bytes, 8192);
    assert_eq!(engine.get(b"key", Tier::Disk).unwrap().unwrap(), vec![5; 1500]);
    drop(engine);
    sim.remove(allocation_unit::FILE).unwrap();
    assert!(matches!(open_on(sim, &tiny()), Err(Error::Corrupt { .. })));
}
