//! Bytes written, by kind, cause and purpose.

use super::*;

/// Bytes that each mode writes for the same changes, and the purposes that count them.
#[test]
fn each_mode_writes_its_copies_where_it_says() {
    let written = |mode: Mode| {
        let sim = SimDisk::new();
        let metered = Metered::new(sim.clone());
        let options = Options { dirty_bytes_max: 4 << 20, checkpoint_log_bytes: 4 << 20, ..with(mode) };
        let engine = open_on(metered.clone(), &options).unwrap();
        let fill = |version: u8| {
            for key in 0..200u8 {
                let mut batch = Batch::new(0);
                batch.put(vec![key], vec![version; 100]);
                engine.apply(&batch, Tier::Disk).unwrap();
            }
        };
        fill(1);
        run(&*engine, Command::Checkpoint).unwrap();
        let before = metered.snapshot();
        fill(2);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(engine.shape().variant, with(mode).variant());
        let copied = [Purpose::PageImage, Purpose::DoubleWrite]
            .map(|purpose| metered.snapshot().of(purpose).write_bytes);
        assert_eq!(engine.shape().tree.unwrap().page_copies, u64::from(copied != [0, 0]), "{mode:?}");
        let snapshot = metered.snapshot().since(&before);
        [Purpose::PageImage, Purpose::DoubleWrite, Purpose::Checkpoint, Purpose::Wal]
            .map(|purpose| snapshot.of(purpose).write_bytes)
    };
    let [image, double, delta, cow, extent] = MODES.map(written);
    // Every mode writes the same pages in place; each changed unit has at least one copy.
    let home = delta[2];
    assert!(image[2] == home && double[2] == home && home > 4 * 4096);
    assert!((home / 2..home + home / 8).contains(&delta[0]) && delta[1] == 0, "{delta:?}");
    assert!((home..home + 2 * 4096).contains(&double[1]) && double[0] == 0, "{double:?}");
    assert!(image[0] >= 200 * 4096 && image[1] == 0, "{image:?}");
    // Every leaf whole, and the root, at new places.
    assert!(cow[2] > home && cow[2] <= home + 2 * 4096 && cow[..2] == [0, 0], "{cow:?} {home}");
    assert_eq!(extent, cow, "the same pages, together");
    // A segment header more or less.
    assert!(delta[3].abs_diff(double[3]) <= 64 << 10 && image[3] >= delta[3]);
}

#[test]
fn the_meter_equals_the_witness() {
    let sim = SimDisk::new();
    let metered = Metered::new(sim.clone());
    let disk: Arc<dyn Disk> = metered.clone();
    workload(&disk, 6, 200, &mut History::default()).unwrap();
    let engine = open_on(disk, &tiny()).unwrap();
    run(&*engine, Command::Verify).unwrap();
    let before = metered.snapshot();
    contents(&*engine).unwrap();
    let snapshot = metered.snapshot();
    let (total, witness) = (snapshot.total(), sim.witness());
    assert_eq!((total.reads, total.read_bytes), (witness.reads, witness.read_bytes));
    assert_eq!((total.writes, total.write_bytes), (witness.writes, witness.write_bytes));
    assert_eq!(total.syncs, witness.syncs);
    for purpose in [
        Purpose::Wal,
        Purpose::Checkpoint,
        Purpose::PageImage,
        Purpose::Manifest,
        Purpose::Get,
        Purpose::Verify,
    ] {
        let counters = snapshot.of(purpose);
        assert!(counters.writes + counters.reads > 0, "{purpose:?}");
    }
    let scanned = snapshot.since(&before);
    assert_eq!(scanned.total().reads, scanned.of(Purpose::Scan).reads);
    assert_eq!(scanned.total().writes, 0);
}

/// Bytes and pages of a direction, summed by kind and by cause, which must agree.
fn all_pages(traffic: &PageTraffic) -> PageCount {
    let sum = |counts: &[PageCount]| PageCount {
        pages: counts.iter().map(|count| count.pages).sum(),
        bytes: counts.iter().map(|count| count.bytes).sum(),
    };
    let by_kind = sum(&PageKind::ALL.map(|kind| traffic.of_kind(kind)));
    assert_eq!(by_kind, sum(&PageCause::ALL.map(|cause| traffic.of_cause(cause))));
    by_kind
}

#[test]
fn pages_by_kind_and_by_cause_add_up_to_what_the_disk_has_taken() {
    for mode in MODES {
        // With failures, which are not counted, and killed processes, so that opening repairs pages.
        let sim = SimDisk::new();
        for (round, fault) in [None, Some(40), Some(90), None].into_iter().enumerate() {
            let faulty = Faulty::new(sim.clone());
            let metered = Metered::new(faulty.clone());
            let disk: Arc<dyn Disk> = metered.clone();
            if let Some(nth) = fault {
                let kind = Some(Request::Write);
                faulty.inject(Fault::Fail { kind, purpose: None, nth, errno: libc::EIO });
            }
            let Ok(engine) = open_on(disk, &with(mode)) else { continue };
            let mut prng = Prng::new(round as u64);
            for step in 0..150 {
                let batch = random_batch(&mut prng);
                // Failures are expected here.
                drop(apply(&engine, &batch));
                match step % 40 {
                    9 | 19 => drop(run(&*engine, Command::Checkpoint)),
                    29 => drop(run(&*engine, Command::Compact)),
                    _ => drop(engine.work(WorkClass::Flush)),
                }
            }
            drop(contents(&*engine));
            drop(run(&*engine, Command::Verify));
            let tree = engine.shape().tree.unwrap();
            let door = metered.snapshot();
            let bytes = |purposes: &[Purpose], of: fn(&crate::disk::Counters) -> u64| -> u64 {
                purposes.iter().map(|purpose| of(&door.of(*purpose))).sum()
            };
            use Purpose::*;
            let written = bytes(&[Checkpoint, PageImage, DoubleWrite, Manifest, Recovery], |c| c.write_bytes);
            assert_eq!(all_pages(&tree.pages.written).bytes, written, "{mode:?} round {round}");
            let read = bytes(&[Checkpoint, Get, Scan, PageWrite, Verify], |c| c.read_bytes);
            let at_opening = tree.pages.read.of_cause(PageCause::Recovery).bytes;
            assert_eq!(all_pages(&tree.pages.read).bytes - at_opening, read, "{mode:?} round {round}");
            let copies = |cause| tree.pages.written.of_cause(cause).bytes;
            let images = copies(PageCause::Image) + copies(PageCause::Delta);
            assert_eq!(images, door.of(PageImage).write_bytes);
            assert_eq!(copies(PageCause::DoubleWrite), door.of(DoubleWrite).write_bytes);
            assert_eq!(copies(PageCause::Eviction), 0);
            let extents = tree.pages.written.of(PageKind::Extent, PageCause::Vacuum);
            assert!(extents.bytes % UNIT_BYTES == 0);
        }
    }
}

#[test]
fn a_split_is_at_least_three_page_writes() {
    for mode in MODES {
        let engine = open_on(SimDisk::new(), &with(mode)).unwrap();
        let tree = || engine.shape().tree.unwrap();
        let (mut splits, mut prng) = (0, Prng::new(3));
        for _ in 0..600 {
            let before = tree();
            let mut batch = Batch::new(0);
            batch.put(format!("k{:08}", prng.below(1 << 24)), vec![7; 100]);
            apply(&engine, &batch).unwrap();
            run(&*engine, Command::Checkpoint).unwrap();
            let after = tree();
            let split = after.splits - before.splits;
            let pages = after.pages.written.since(&before.pages.written).of_cause(PageCause::Split).pages;
            // Two splits in a row, of a leaf and of the page above it, share a page.
            assert!(
                pages >= if split > 0 { 2 * split + 1 } else { 0 },
                "{mode:?}: {pages} pages, {split} splits"
            );
            splits += split;
        }
        assert!(splits > 15, "{splits}");
    }
}

#[test]
fn what_is_to_settle_is_what_a_checkpoint_writes_and_opening_says_what_it_replayed() {
    for mode in MODES {
        let sim = SimDisk::new();
        let metered = Metered::new(sim.clone());
        let options = Options {
            page_bytes: 16 << 10,
            dirty_bytes_max: 4 << 20,
            checkpoint_log_bytes: 4 << 20,
            ..with(mode)
        };
        let engine = open_on(metered.clone(), &options).unwrap();
        fill(&engine, 60, 1500);
        run(&*engine, Command::Checkpoint).unwrap();
        fill(&engine, 3, 1500);
        fill(&engine, 2, 9000);
        let tree = engine.shape().tree.unwrap();
        let before = metered.snapshot();
        // Images of batches are in the log already.
        run(&*engine, Command::Checkpoint).unwrap();
        let written = metered.snapshot().since(&before);
        let of = |purpose| written.of(purpose).write_bytes;
        let counted = of(Purpose::Checkpoint) + of(Purpose::PageImage) + of(Purpose::DoubleWrite);
        match mode.compression {
            Compression::None => {
                assert!(tree.settle_bytes.abs_diff(counted) <= 4096 + 1000, "{mode:?} {counted} {tree:?}")
            }
            // An estimate.
            _ => assert!(
                (counted / 2..counted * 2).contains(&tree.settle_bytes),
                "{mode:?} {counted} {tree:?}"
            ),
        }
        assert_eq!(engine.shape().tree.unwrap().settle_bytes, 0);
        fill(&engine, 3, 1500);
        let tree = open_on(sim.kill(), &options).unwrap().shape().tree.unwrap();
        assert!(tree.recovery_bytes > 3 * 1500, "{tree:?}");
    }
}

/// Requests of the trace in their order, without places, and without those that only change the size of a file.
fn writes_and_syncs(sim: &SimDisk) -> Vec<String> {
    let trace = sim.trace();
    let sizes = |line: &&str| line.starts_with("allocate") || line.starts_with("set_size");
    trace
        .lines()
        .filter(|line| !sizes(line))
        .map(|line| line.split(" @").next().unwrap_or(line).to_string())
        .collect()
}

/// The requests of a checkpoint in their order are the crash protocol.
#[test]
fn a_checkpoint_makes_these_requests() {
    let sim = SimDisk::new();
    let engine = open_on(
        sim.clone(),
        &Options { common: Common { log_segment_bytes: 1 << 20, ..tiny().common }, ..tiny() },
    )
    .unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"a"[..], vec![1; 100]);
    batch.put(&b"b"[..], vec![1; 5000]);
    apply(&engine, &batch).unwrap();
    run(&*engine, Command::Checkpoint).unwrap();
    batch.put(&b"b"[..], vec![2; 5000]);
    apply(&engine, &batch).unwrap();
    sim.start_trace();
    run(&*engine, Command::Checkpoint).unwrap();
    // The image is record 3 of the log; the page is not new, but the value is, and the units of the old one are free then.
    assert_eq!(
        writes_and_syncs(&sim),
        [
            "write btree.pages checkpoint",
            "write btree.pages manifest",
            "write log.0 page_image",
            "sync btree.pages checkpoint",
            "sync log.0 wal",
            "write btree.pages manifest",
            "sync btree.pages manifest",
            "write btree.pages checkpoint",
            "sync btree.pages checkpoint",
            "write btree.pages manifest",
            "sync btree.pages manifest",
        ]
    );
}

/// Nothing that is live is overwritten, so one meta page ends the checkpoint.
#[test]
fn a_checkpoint_that_copies_on_write_makes_these_requests() {
    let sim = SimDisk::new();
    let options =
        Options { common: Common { log_segment_bytes: 1 << 20, ..tiny().common }, ..with(Mode::COW) };
    let engine = open_on(sim.clone(), &options).unwrap();
    fill(&engine, 60, 100);
    run(&*engine, Command::Checkpoint).unwrap();
    assert!(engine.shape().tree.unwrap().height >= 2);
    let (before, mut batch) = (engine.shape().tree.unwrap(), Batch::new(0));
    batch.put(long_key(7), vec![1; 100]);
    apply(&engine, &batch).unwrap();
    sim.start_trace();
    run(&*engine, Command::Checkpoint).unwrap();
    assert_eq!(
        writes_and_syncs(&sim),
        [
            "write btree.pages checkpoint",
            "write btree.pages manifest",
            "sync btree.pages checkpoint",
            "sync log.0 wal",
            "write btree.pages manifest",
            "sync btree.pages manifest",
        ]
    );
    let after = engine.shape().tree.unwrap();
    let written = after.pages.written.since(&before.pages.written);
    let pages = |kind, cause| written.of(kind, cause).pages;
    assert_eq!(pages(PageKind::Leaf, PageCause::Change), 1, "{written:?}");
    assert_eq!(pages(PageKind::Inner, PageCause::Path), before.height - 1, "{written:?}");
}

/// Bytes written per logical byte, settled before and after, with data eight times the dirty bound.
#[test]
#[ignore = "prints figures"]
fn write_amplification_of_each_mode() {
    for mode in MODES {
        let metered = Metered::new(SimDisk::new());
        let options = Options {
            dirty_bytes_max: 8 << 20,
            checkpoint_log_bytes: 16 << 20,
            page_bytes: 16 << 10,
            common: Common { log_segment_bytes: 1 << 20, cache_bytes: 8 << 20, ..with(mode).common },
            ..with(mode)
        };
        let engine = open_on(metered.clone(), &options).unwrap();
        let mut prng = Prng::new(1);
        let measure = |name: &str, puts: u64, value_bytes: usize, next: &mut dyn FnMut(u64) -> String| {
            run(&*engine, Command::Checkpoint).unwrap();
            let before = metered.snapshot();
            let mut logical_bytes = 0;
            for index in 0..puts {
                let mut batch = Batch::new(0);
                batch.put(next(index), vec![index as u8; value_bytes]);
                logical_bytes += batch.bytes();
                apply(&engine, &batch).unwrap();
                // About the work that a worker does beside the writer.
                if index % 16 == 0 {
                    engine.work(WorkClass::Flush).unwrap();
                }
            }
            run(&*engine, Command::Checkpoint).unwrap();
            let written = metered.snapshot().since(&before);
            let share = |purpose| written.of(purpose).write_bytes as f64 / logical_bytes as f64;
            let home = written.of(Purpose::Checkpoint);
            println!(
                "{:11} {name:24} W {:6.2}: log {:.2} images {:.2} double {:.2} home {:.2}, {} B a request",
                with(mode).variant(),
                written.total().write_bytes as f64 / logical_bytes as f64,
                share(Purpose::Wal),
                share(Purpose::PageImage),
                share(Purpose::DoubleWrite),
                share(Purpose::Checkpoint),
                home.write_bytes / home.writes.max(1),
            );
        };
        measure("sequential 4 KiB", 16 << 10, 4096, &mut |index| format!("b/file/{index:012}"));
        measure("random overwrite 4 KiB", 16 << 10, 4096, &mut |_| {
            format!("b/file/{:012}", prng.below(16 << 10))
        });
        let mut prng = Prng::new(2);
        let mut small = |_: u64| format!("k{:015}", prng.below(500_000));
        // An image of every change is slow to make, and the same for each.
        let (new, again) = if mode == Mode::IMAGE { (40_000, 4000) } else { (500_000, 100_000) };
        measure("random 100 B, new", new, 100, &mut small);
        measure("random 100 B, overwrite", again, 100, &mut small);
        let tree = engine.shape().tree.unwrap();
        println!(
            "{:11} {} leaves, fill {:.2}, {} splits",
            with(mode).variant(),
            tree.leaf_pages,
            tree.fill,
            tree.splits
        );
    }
}
