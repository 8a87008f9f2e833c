//! Calls side by side.

use std::sync::atomic::AtomicBool;

use super::*;

/// Threads that work on names and files of their own and on shared ones; every call answers, and the check is silent.
#[test]
fn threads_do_not_disturb_each_other() {
    let bench = Bench::new();
    let shared: Vec<Ino> = (0..3).map(|index| bench.mkdir(ROOT, &format!("s{index}"))).collect();
    let log = bench.create(ROOT, "log");
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !stop.load(Relaxed) {
                bench.fs.work().unwrap();
                bench.clock.advance(Duration::from_millis(50));
                std::thread::yield_now();
            }
        });
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let (fs, shared, moved) = (&bench.fs, &shared, &moved);
                scope.spawn(move || {
                    let mut random = Prng::new(thread);
                    let own = Caller { uid: thread as u32, gid: 0, pid: 0 };
                    let mut pick = |count: u64| random.below(count);
                    for round in 0..400u64 {
                        let (from, to) = (shared[pick(3) as usize], shared[pick(3) as usize]);
                        let (name, other) = (format!("n{}", pick(5)), format!("n{}", pick(5)));
                        let (name, other) = (name.as_bytes(), other.as_bytes());
                        let node = if pick(3) == 0 { NewNode::Directory } else { NewNode::File };
                        let made = ask(|tier| fs.make(tier, Op::Create, own, from, name, 0o700, 0, node));
                        if let Ok(made) = made {
                            if made.kind == FileKind::File {
                                let data = Bytes::from(vec![thread as u8; 300_000]);
                                ask(|tier| fs.write(tier, own, made.ino, round % 3 * 4096, &data, false))
                                    .unwrap();
                            }
                            fs.forget(made.ino, 1);
                        }
                        let renamed =
                            ask(|tier| fs.rename(tier, (from, name), (to, other), RenameMode::Replace, None))
                                .is_ok();
                        moved.fetch_add(u64::from(renamed), Relaxed);
                        // Two directories that are moved into each other: never both.
                        let (a, b) = (shared[0], shared[1]);
                        let into = if thread % 2 == 0 { (b"s0", a, b) } else { (b"s1", b, a) };
                        let _ = ask(|tier| {
                            fs.rename(tier, (ROOT, into.0), (into.2, b"inner"), RenameMode::NoReplace, None)
                        });
                        let _ = ask(|tier| {
                            fs.rename(tier, (into.2, b"inner"), (ROOT, into.0), RenameMode::NoReplace, None)
                        });
                        let _ = ask(|tier| fs.unlink(tier, to, name));
                        let _ = ask(|tier| fs.rmdir(tier, to, other));
                        let record = Bytes::from(vec![thread as u8 + 1; 16]);
                        let place = (round * 4 + thread) * 16;
                        ask(|tier| fs.write(tier, own, log, place, &record, false)).unwrap();
                        ask(|tier| {
                            fs.readdir_plus(tier, from, 0, &mut |entry, _| {
                                if entry.cookie > 2 {
                                    fs.forget(entry.ino, 1);
                                }
                                true
                            })
                        })
                        .unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, Relaxed);
        worker.join().unwrap();
    });
    assert!(moved.load(Relaxed) > 100, "{moved:?}");
    let content = bench.read_all(log);
    assert_eq!(content.len(), 400 * 4 * 16);
    for (index, record) in content.chunks(16).enumerate() {
        assert!(record.iter().all(|&byte| u64::from(byte) == index as u64 % 4 + 1), "record {index}");
    }
    while bench.fs.work().unwrap() == Pending::More {}
    bench.fs.close().unwrap();
    assert_eq!(check(&*bench.map), Vec::<String>::new());
}

/// An engine whose batches wait at a gate.
struct Gate {
    engine: Arc<MemEngine>,
    closed: parking_lot::Mutex<bool>,
    opened: parking_lot::Condvar,
    waiting: AtomicBool,
}

impl Engine for Gate {
    hand_on!(Engine engine: kind, get, scan, lsn, sync_to, promise, close);

    fn apply(&self, batch: &Batch, tier: Tier) -> EngineResult<Lsn> {
        if tier == Tier::Disk {
            let mut closed = self.closed.lock();
            self.waiting.store(*closed, Relaxed);
            self.opened.wait_while(&mut closed, |closed| *closed);
        }
        self.engine.apply(batch, tier)
    }
}

#[test]
fn a_call_in_memory_does_not_wait_for_one_on_the_disk() {
    let (engine, clock) = (Arc::new(MemEngine::new()), Arc::new(ManualClock::default()));
    let (closed, opened) = (parking_lot::Mutex::new(false), parking_lot::Condvar::new());
    let gate = Arc::new(Gate { engine, closed, opened, waiting: AtomicBool::new(false) });
    let fs = FileSystem::open(gate.clone(), clock, OPTIONS, space()).unwrap();
    let make = |name| fs.make(Tier::Memory, Op::Create, Caller::ROOT, ROOT, name, 0o644, 0, NewNode::File);
    let (slow, quick) = (make(b"slow").unwrap().ino, make(b"quick").unwrap().ino);
    let data = Bytes::from_static(b"data");
    *gate.closed.lock() = true;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| fs.write(Tier::Disk, Caller::ROOT, slow, 0, &data, false));
        while !gate.waiting.load(Relaxed) {
            std::thread::yield_now();
        }
        assert!(fs.read(Tier::Memory, slow, 0, 10).unwrap_err().would_block());
        assert!(fs.getattr(Tier::Memory, slow).unwrap_err().would_block());
        assert!(fs.lookup(Tier::Memory, ROOT, b"slow").unwrap_err().would_block());
        fs.write(Tier::Memory, Caller::ROOT, quick, 0, &data, false).unwrap();
        assert_eq!(fs.read(Tier::Memory, quick, 0, 10).unwrap(), b"data");
        *gate.closed.lock() = false;
        gate.opened.notify_all();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(fs.read(Tier::Memory, slow, 0, 10).unwrap(), b"data");
}
