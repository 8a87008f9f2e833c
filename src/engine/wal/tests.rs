use std::collections::BTreeSet;

use super::segment::{SEGMENTS, SPARES_IDLE, suitable_bytes};
use super::*;
use crate::base::clock::ManualClock;
use crate::base::prng::Prng;
use crate::disk::{Fault, Faulty, Latch, Metered, Request, SimDisk, Tear};
use crate::engine::Pending;

type Records = Vec<(Lsn, Bytes)>;

fn open(disk: Arc<dyn Disk>, from: Lsn) -> Result<(Log, Records)> {
    open_with(disk, from, 4096)
}

fn open_with(disk: Arc<dyn Disk>, from: Lsn, segment_bytes: u64) -> Result<(Log, Records)> {
    let mut records = Vec::new();
    let clock = Arc::new(ManualClock::default());
    let log = Log::open(
        disk,
        clock,
        Arc::new(WakeSignal::new()),
        Sync::Fsync,
        segment_bytes,
        from,
        &BTreeSet::new(),
        &mut |kind, end, payload| {
            assert_eq!(kind, FIRST_KIND);
            records.push((end, payload));
            Ok(())
        },
    )?;
    Ok((log, records))
}

fn append(log: &Log, payload: &[u8]) -> Result<Lsn> {
    log.append(FIRST_KIND, Purpose::Wal, payload.len(), |target| target.extend_from_slice(payload))
}

fn payload(prng: &mut Prng, index: u64) -> Vec<u8> {
    let length = if prng.one_in(20) { 6000 } else { prng.below(400) };
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.resize(8 + length as usize, index as u8);
    bytes
}

/// Appends, syncs, releases and reopens until power goes; returns what was appended and the last LSN known durable.
fn workload(disk: Arc<dyn Disk>, seed: u64) -> (Records, Lsn, Lsn) {
    let mut prng = Prng::new(seed);
    let (mut history, mut synced, mut released) = (Records::new(), 0, 0);
    let Ok((mut log, _)) = open(disk.clone(), Lsn::ZERO) else { return (history, Lsn::ZERO, Lsn::ZERO) };
    for index in 0..120 {
        let bytes = payload(&mut prng, index);
        // The bytes may be whole in the file although the append failed.
        match append(&log, &bytes) {
            Ok(lsn) => history.push((lsn, bytes.into())),
            Err(_) => return (history, Lsn::new(synced), Lsn::new(released)),
        }
        if prng.one_in(5) {
            if log.sync_now().is_err() {
                return (history, Lsn::new(synced), Lsn::new(released));
            }
            synced = log.synced().number();
        }
        if prng.one_in(9) && synced > 0 {
            let durable: Vec<Lsn> =
                history.iter().map(|(end, _)| *end).filter(|end| *end <= Lsn::new(synced)).collect();
            released = released.max(durable[prng.below(durable.len() as u64) as usize].number());
            log.release(Lsn::new(released));
        }
        if prng.one_in(30) {
            match open(disk.clone(), Lsn::new(released)) {
                Ok((again, records)) => {
                    let expected: Records =
                        history.iter().filter(|(end, _)| *end > Lsn::new(released)).cloned().collect();
                    assert_eq!(records, expected, "reopening loses nothing and invents nothing");
                    log = again;
                }
                Err(_) => return (history, Lsn::new(synced), Lsn::new(released)),
            }
        }
    }
    (history, Lsn::new(synced), Lsn::new(released))
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_that_holds_every_synced_record() {
    let whole = SimDisk::new();
    workload(whole.clone(), 1);
    for stop in 0..=whole.requests() {
        let disk = SimDisk::new();
        disk.stop_at(stop);
        let (history, synced, released) = workload(disk.clone(), 1);
        for seed in 0..8 {
            let image = disk.crash_as(seed, [Tear::Sectors, Tear::Nonsense][seed as usize % 2]);
            let (log, records) =
                open(image.clone(), released).unwrap_or_else(|e| panic!("stop {stop} seed {seed}: {e}"));
            let wanted: Records = history.iter().filter(|(end, _)| *end > released).cloned().collect();
            let common = records.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
            // One record beyond the acknowledged history may have reached the disk.
            assert!(
                records.len() <= common + 1 && (records.len() == common || common == wanted.len()),
                "stop {stop} seed {seed}"
            );
            assert!(log.end() >= synced, "stop {stop} seed {seed}: {} < {synced}", log.end());
            // What is written after a recovery survives the next crash; what was lost stays lost.
            let end = append(&log, b"after").unwrap();
            log.sync_now().unwrap();
            let (_, again) = open(image.crash(seed), released).unwrap();
            assert_eq!(again.len(), records.len() + 1, "stop {stop} seed {seed}");
            assert_eq!(again.last().unwrap(), &(end, Bytes::from_static(b"after")));
        }
    }
}

#[test]
fn damage_below_a_synced_lsn_is_an_error_and_never_a_shorter_log() {
    let disk = SimDisk::new();
    let (log, _) = open(disk.clone(), Lsn::ZERO).unwrap();
    let mut ends = Vec::new();
    for index in 0..12 {
        ends.push(append(&log, &[index; 200]).unwrap());
        log.sync_now().unwrap();
    }
    let (_, whole) = open(disk.kill(), Lsn::ZERO).unwrap();
    // The records but the last: later ones claim that they were synced.
    for bit in (HEADER_BYTES * 8..(HEADER_BYTES + ends[10].number()) * 8).step_by(37) {
        let damaged = disk.kill();
        assert!(damaged.flip_bit("log.0", bit));
        match open(damaged, Lsn::ZERO) {
            Err(Error::Corrupt { .. }) => {}
            other => panic!("bit {bit}: {:?} records", other.map(|(_, records)| records.len())),
        }
    }
    // Either copy of the header may be damaged.
    for bit in (0..HEADER_BYTES * 8).step_by(11) {
        let damaged = disk.kill();
        assert!(damaged.flip_bit("log.0", bit));
        assert_eq!(open(damaged, Lsn::ZERO).unwrap().1, whole, "bit {bit}");
    }
}

#[test]
fn segments_are_used_again_and_long_records_get_their_own() {
    let disk = SimDisk::new();
    let (log, _) = open(disk.clone(), Lsn::ZERO).unwrap();
    let files = || disk.list().unwrap().len();
    for round in 0..50u8 {
        let end = append(&log, &vec![round; 3000]).unwrap();
        log.sync_now().unwrap();
        log.release(end);
    }
    assert_eq!(files(), 2, "what was synced is used again at once");
    for round in 0..50u8 {
        let end = append(&log, &vec![round; 3000]).unwrap();
        log.release(end);
    }
    assert_eq!(files(), SEGMENTS, "what is still dirty rests");
    log.sync_now().unwrap();
    log.work().unwrap();
    assert_eq!(files(), SEGMENTS);
    log.work().unwrap();
    assert_eq!(files(), 1 + SPARES_IDLE, "an idle log gives back what it does not need");
    let end = append(&log, &vec![7; 50_000]).unwrap();
    let (_, records) = open(disk.kill(), end.back_by(50_000 + RECORD_OVERHEAD_BYTES)).unwrap();
    assert_eq!(records, [(end, Bytes::from(vec![7; 50_000]))]);
}

#[test]
fn one_sync_answers_every_waiter_and_a_failed_one_poisons_the_log() {
    let sim = SimDisk::new();
    let faulty = Faulty::new(sim.clone());
    let latch = Latch::new(faulty.clone());
    let (log, _) = open(latch.clone(), Lsn::ZERO).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    for byte in 0..3 {
        let end = append(&log, &[byte]).unwrap();
        let sender = sender.clone();
        log.sync_to(end, Box::new(move |result| sender.send(result.is_ok()).unwrap()));
    }
    let before = sim.witness().syncs;
    assert_eq!(log.work().unwrap(), Pending::More);
    assert_eq!(sim.witness().syncs, before + 1);
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [true, true, true]);
    assert_eq!(log.work().unwrap(), Pending::Idle);

    faulty.inject(Fault::Fail { kind: Some(Request::Sync), purpose: None, nth: 0, errno: libc::EIO });
    let end = append(&log, b"lost").unwrap();
    log.sync_to(end, Box::new(move |result| sender.send(result.is_ok()).unwrap()));
    assert!(matches!(log.work(), Err(Error::Poisoned(_))));
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [false]);
    assert!(latch.cause().unwrap().contains("sync of log."));
    assert!(matches!(append(&log, b"more"), Err(Error::Poisoned(_))));
    assert_eq!(sim.witness().syncs, before + 1, "a failed sync is not tried again");
}

/// Records of 20 KiB, each waited for if `is_waited_for`; returns those that were acknowledged, and what was released.
fn small_syncs(disk: Arc<dyn Disk>, is_waited_for: bool) -> (Records, Lsn) {
    let (mut done, mut released) = (Records::new(), Lsn::ZERO);
    let Ok((log, _)) = open_with(disk, Lsn::ZERO, 256 << 10) else { return (done, Lsn::ZERO) };
    for index in 0..90u8 {
        let bytes = vec![index; 20 << 10];
        let Ok(end) = append(&log, &bytes) else { break };
        let acknowledged = Arc::new(Mutex::new(!is_waited_for));
        if is_waited_for {
            let told = acknowledged.clone();
            log.sync_to(end, Box::new(move |result| *told.lock() = result.is_ok()));
        }
        let synced = if is_waited_for { log.work().map(drop) } else { log.sync_now() };
        if synced.is_err() || !*acknowledged.lock() {
            break;
        }
        done.push((end, bytes.into()));
        if index == 80 {
            // From here on segments are used again.
            log.release(end);
            released = end;
        }
    }
    (done, Lsn::new(released.number()))
}

#[test]
fn zeros_run_ahead_of_small_records_that_programs_wait_for() {
    let counted = |is_waited_for| {
        let meter = Metered::new(SimDisk::new());
        small_syncs(meter.clone(), is_waited_for);
        let all = meter.snapshot();
        (all.of(Purpose::Wal).write_bytes, all.of(Purpose::LogPrepare).write_bytes)
    };
    let (records, zeros) = counted(false);
    assert_eq!(zeros, 0, "nobody waits");
    let (again, zeros) = counted(true);
    assert_eq!(again, records);
    // Behind the first MiB about as much as the records, and a segment at most too much.
    let behind = records - (1 << 20);
    assert!(
        (behind / 2..behind + (256 << 10)).contains(&zeros),
        "{zeros} bytes of zeros for {records} of records"
    );
}

#[test]
fn a_crash_beside_the_zeros_loses_nothing() {
    let whole = SimDisk::new();
    assert_eq!(small_syncs(whole.clone(), true).0.len(), 90);
    for stop in (0..=whole.requests()).step_by(7) {
        let disk = SimDisk::new();
        disk.stop_at(stop);
        let (mut done, released) = small_syncs(disk.clone(), true);
        done.retain(|(end, _)| *end > released);
        for seed in 0..4 {
            let (_, found) = open_with(disk.crash(seed), released, 256 << 10).unwrap();
            // One that nobody was told of may be there.
            let told = found.get(..done.len());
            assert!(
                told == Some(&done[..]) && found.len() <= done.len() + 1,
                "stop {stop} seed {seed}: {} of {} records",
                found.len(),
                done.len()
            );
        }
    }
}

#[test]
fn a_full_disk_refuses_the_record_and_nothing_else() {
    let disk = SimDisk::new();
    let (log, _) = open(disk.clone(), Lsn::ZERO).unwrap();
    disk.set_capacity(Some(4096 + 100));
    let mut accepted = 0;
    let refused = loop {
        match append(&log, &[1; 500]) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoSpace) && accepted == 5, "{refused} after {accepted}");
    disk.set_capacity(None);
    append(&log, &[2; 500]).unwrap();
    log.sync_now().unwrap();
    assert_eq!(open(disk.crash(1), Lsn::ZERO).unwrap().1.len(), 6);
}

/// Opens the log again and again, each time for a few records; returns those that were appended, the last LSN known durable, and
/// what was released.
fn many_lives(disk: &Arc<SimDisk>) -> (Records, Lsn, Lsn) {
    let (mut history, mut synced, mut released) = (Records::new(), 0, 0);
    for life in 0..14u8 {
        let Ok((log, records)) = open(disk.clone(), Lsn::new(released)) else {
            return (history, Lsn::new(synced), Lsn::new(released));
        };
        let wanted: Records = history.iter().filter(|(end, _)| *end > Lsn::new(released)).cloned().collect();
        assert_eq!(records, wanted, "life {life}");
        for index in 0..=life % 3 {
            let bytes = vec![life; 40 + 300 * usize::from(index)];
            match append(&log, &bytes) {
                Ok(end) => history.push((end, bytes.into())),
                Err(_) => return (history, Lsn::new(synced), Lsn::new(released)),
            }
        }
        if log.sync_now().is_err() {
            return (history, Lsn::new(synced), Lsn::new(released));
        }
        synced = log.synced().number();
        if life == 7 {
            // In the middle of a segment.
            released = history[history.len() - 2].0.number();
        }
    }
    (history, Lsn::new(synced), Lsn::new(released))
}

#[test]
fn a_crash_while_short_segments_are_gathered_loses_nothing() {
    let whole = SimDisk::new();
    assert_eq!(many_lives(&whole).0.len(), 27);
    let segments = whole.list().unwrap().len();
    assert!(segments <= 6, "{segments} segments");
    for stop in 0..=whole.requests() {
        let disk = SimDisk::new();
        disk.stop_at(stop);
        let (history, synced, released) = many_lives(&disk);
        let wanted: Records = history.iter().filter(|(end, _)| *end > released).cloned().collect();
        for seed in 0..8 {
            let again = open(disk.crash(seed), released);
            let (log, records) = again.unwrap_or_else(|error| panic!("stop {stop} seed {seed}: {error}"));
            let common = records.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
            // One record beyond the acknowledged history may have reached the disk.
            assert!(
                records.len() <= common + 1 && (records.len() == common || common == wanted.len()),
                "stop {stop} seed {seed}"
            );
            assert!(log.end() >= synced, "stop {stop} seed {seed}");
        }
    }
}

#[test]
fn a_thousand_crashes_take_no_segment() {
    let mut disk = SimDisk::new();
    let mut wanted = Records::new();
    for life in 0..1000u64 {
        let (log, records) = open(disk.clone(), Lsn::ZERO).unwrap();
        assert_eq!(records, wanted, "life {life}");
        let bytes = life.to_le_bytes().to_vec();
        let end = append(&log, &bytes).unwrap();
        wanted.push((end, bytes.into()));
        if life % 3 == 0 {
            log.sync_now().unwrap();
            disk = disk.crash(life);
        }
        // Each but the last few is half full at least, a quarter of which is the header; some are free.
        let (files, records_bytes) = (disk.list().unwrap().len() as u64, 33 * life);
        assert!(files <= records_bytes / 1024 + 8, "{files} files after {life} lives");
    }
}

#[test]
fn a_full_disk_can_be_opened_and_no_lost_future_comes_back() {
    let mut went_on = 0;
    for seed in 0..60 {
        let disk = SimDisk::new();
        let (log, _) = open(disk.clone(), Lsn::ZERO).unwrap();
        let mut wanted = Records::new();
        for index in 0..8u8 {
            wanted.push((append(&log, &[index; 100]).unwrap(), vec![index; 100].into()));
            if index == 2 {
                log.sync_now().unwrap();
            }
        }
        // Of the last five records any may have survived, those behind a lost one as well.
        let image = disk.crash(seed);
        let used = image.list().unwrap().iter().map(|info| info.bytes).sum();
        image.set_capacity(Some(used));
        let (log, records) = open(image.clone(), Lsn::ZERO).unwrap();
        assert_eq!(records, wanted[..records.len()]);
        assert!(records.len() >= 3 && log.fits(100));
        went_on += u64::from(records.len() < 8);
        wanted.truncate(records.len());
        wanted.push((append(&log, &[99; 100]).unwrap(), vec![99; 100].into()));
        for _ in 0..3 {
            assert_eq!(open(image.kill(), Lsn::ZERO).unwrap().1, wanted, "seed {seed}");
        }
        log.sync_now().unwrap();
        assert_eq!(open(image.crash(seed), Lsn::ZERO).unwrap().1, wanted, "seed {seed}");
    }
    assert!(went_on > 10, "{went_on}");
}

#[test]
fn segments_of_a_small_disk_are_small() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(400 << 20));
    let (log, _) = open_with(disk.clone(), Lsn::ZERO, 16 << 20).unwrap();
    assert_eq!(disk.list().unwrap()[0].bytes, 2 << 20);
    let end = append(&log, &vec![7; 5 << 20]).unwrap();
    assert_eq!(open_with(disk.kill(), Lsn::ZERO, 16 << 20).unwrap().1.last().unwrap().0, end);
    assert_eq!(suitable_bytes(16 << 20, 0), 16 << 20, "a size that is not known");
    assert_eq!(suitable_bytes(16 << 20, 1 << 30), 4 << 20);
    assert_eq!(suitable_bytes(16 << 20, 1 << 40), 16 << 20);
}

#[test]
fn the_timer_syncs_what_is_old_enough() {
    let disk = SimDisk::new();
    let clock = Arc::new(ManualClock::default());
    let every = Duration::from_secs(1);
    let log = Log::open(
        disk,
        clock.clone(),
        Arc::new(WakeSignal::new()),
        Sync::Interval(every),
        4096,
        Lsn::ZERO,
        &BTreeSet::new(),
        &mut |_, _, _| Ok(()),
    )
    .unwrap();
    assert_eq!(log.work().unwrap(), Pending::After(every));
    clock.advance(Duration::from_secs(5));
    let end = append(&log, b"young").unwrap();
    assert_eq!(log.work().unwrap(), Pending::After(every));
    clock.advance(Duration::from_millis(400));
    assert_eq!(log.work().unwrap(), Pending::After(Duration::from_millis(600)));
    assert_eq!(log.shape().oldest_unsynced, Duration::from_millis(400));
    clock.advance(Duration::from_millis(600));
    assert_eq!(log.work().unwrap(), Pending::More);
    assert_eq!((log.synced(), log.shape().unsynced_bytes), (end, 0));
}

#[test]
fn a_batch_with_large_values_comes_back() {
    let disk = SimDisk::new();
    let mut batch = Batch::new(3);
    for (index, bytes) in [10, SHARED_BYTES, SHARED_BYTES - 1, 3 * SHARED_BYTES].into_iter().enumerate() {
        batch.put(vec![index as u8], vec![index as u8; bytes]);
        batch.delete(vec![100 + index as u8]);
    }
    let mut whole = Vec::new();
    batch.encode(&mut whole);
    let mut found = Vec::new();
    for _ in 0..2 {
        found.clear();
        let log = Log::open(
            disk.clone(),
            Arc::new(ManualClock::default()),
            Arc::new(WakeSignal::new()),
            Sync::Fsync,
            64 << 10,
            Lsn::ZERO,
            &BTreeSet::new(),
            &mut |_, _, payload| {
                found.push(payload);
                Ok(())
            },
        )
        .unwrap();
        log.append_batch(FIRST_KIND, Purpose::Wal, &batch).unwrap();
        log.sync_now().unwrap();
    }
    assert_eq!(found, [Bytes::from(whole)]);
}

/// Cost of copying a large batch, and of a sync in a segment that is new and in one that is used again.
#[test]
#[ignore = "long: a measurement"]
fn appends_and_syncs_measured() {
    use crate::base::clock::SystemClock;
    use crate::disk::{Access, OsDisk};
    let home = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
    let disk: Arc<dyn Disk> = OsDisk::open(home.path(), Access::Write).unwrap();
    let clock = Arc::new(SystemClock::new());
    let wake_signal = Arc::new(WakeSignal::new());
    let log = Log::open(
        disk.clone(),
        clock.clone(),
        wake_signal,
        Sync::Fsync,
        16 << 20,
        Lsn::ZERO,
        &BTreeSet::new(),
        &mut |_, _, _| Ok(()),
    )
    .unwrap();
    let mut batch = Batch::new(0);
    (0..256u32).for_each(|index| batch.put(index.to_be_bytes().to_vec(), vec![index as u8; 4096]));
    let (mut copied, mut shared) = (Duration::ZERO, Duration::ZERO);
    for round in 0..1000 {
        let began = clock.elapsed();
        let end = if round % 2 == 0 {
            let fill = |target: &mut Vec<u8>| batch.encode(target);
            log.append(FIRST_KIND, Purpose::Wal, batch.encoded_bytes_max(), fill).unwrap()
        } else {
            log.append_batch(FIRST_KIND, Purpose::Wal, &batch).unwrap()
        };
        *if round % 2 == 0 { &mut copied } else { &mut shared } += clock.elapsed() - began;
        if round % 17 == 0 {
            log.sync_now().unwrap();
            log.release(end);
        }
    }
    println!("a batch of 1 MiB: {:?} copied, {:?} in pieces", copied / 500, shared / 500);
    for name in ["grown", "allocated", "used again"] {
        let file = disk.create(name).unwrap();
        if name != "grown" {
            file.allocate(4 << 20).unwrap();
        }
        if name == "used again" {
            file.write_at(Purpose::Wal, 0, &vec![1; 4 << 20]).unwrap();
        }
        file.sync(Purpose::Wal).unwrap();
        let mut times: Vec<Duration> = (0..2000)
            .map(|index| {
                let began = clock.elapsed();
                file.write_at(Purpose::Wal, index * 140, &[7; 140]).unwrap();
                file.sync(Purpose::Wal).unwrap();
                clock.elapsed() - began
            })
            .collect();
        times.sort();
        println!("append and sync, {name}: p50 {:?}, p99 {:?}", times[1000], times[1980]);
    }
}

/// A disk that looks at a log when a file is removed.
struct Watched {
    disk: Arc<SimDisk>,
    log: std::sync::OnceLock<std::sync::Weak<Log>>,
    removed: std::sync::atomic::AtomicU64,
}

impl Disk for Watched {
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn crate::disk::File>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn crate::disk::File>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        if let Some(log) = self.log.get().and_then(std::sync::Weak::upgrade) {
            assert!(log.state.try_lock().is_some(), "{name} is removed while every writer waits");
            self.removed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.disk.remove(name)
    }
    fn list(&self) -> std::io::Result<Vec<crate::disk::FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> std::io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> std::io::Result<crate::disk::Space> {
        self.disk.space()
    }
}

#[test]
fn no_file_is_removed_under_the_lock_of_the_log() {
    let disk =
        Arc::new(Watched { disk: SimDisk::new(), log: Default::default(), removed: Default::default() });
    let log = Arc::new(open(disk.clone(), Lsn::ZERO).unwrap().0);
    disk.log.set(Arc::downgrade(&log)).unwrap();
    let removed = || disk.removed.load(std::sync::atomic::Ordering::Relaxed);
    let mut held = Vec::new();
    for _ in 0..2 * SEGMENTS {
        let end = append(&log, &[7; 3000]).unwrap();
        held.push(log.segment_at(end.back_by(1)).unwrap());
    }
    log.sync_now().unwrap();
    // Some released and let go of, some let go of later; then an idle log, and a full disk.
    held.truncate(SEGMENTS);
    log.release(log.end());
    let first = removed();
    held.clear();
    log.reuse();
    let second = removed();
    assert!((0..3).all(|_| log.work().is_ok()));
    let third = removed();
    log.give_back();
    assert!(0 < first + second && second < third && third < removed(), "{first} {second} {third}");
}

/// Bytes as lines of sixteen in hexadecimal; of a line that comes again only the first is shown, with how often.
fn hex(bytes: &[u8]) -> String {
    let lines: Vec<String> =
        bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    let runs = lines.chunk_by(|a, b| a == b);
    runs.map(|run| format!("{} x{}\n", run[0], run.len())).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let line = |line: &str| -> Vec<u8> {
        let (hex, times) = line.split_once(" x").unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        (0..hex.len() / 2).map(byte).collect::<Vec<u8>>().repeat(times.parse().unwrap())
    };
    text.lines().flat_map(line).collect()
}

/// `BLESS=1` writes the file anew: a format that changes gets a new version that reads this one.
#[test]
fn a_segment_lies_on_the_disk_byte_for_byte_as_it_always_did() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/log/segment.hex");
    let mut batches = vec![Batch::new(3), Batch::new(0), Batch::new(59)];
    batches[0].put(&b"key"[..], &b"value"[..]);
    batches[0].delete(&b"gone"[..]);
    batches[1].put(&b""[..], vec![7; 300]);
    batches[2].put(vec![0xff; 40], &b""[..]);
    let disk = SimDisk::new();
    let (log, _) = open_with(disk.clone(), Lsn::ZERO, 4096).unwrap();
    let mut end = Lsn::ZERO;
    for batch in &batches {
        end = log.append_batch(FIRST_KIND, Purpose::Wal, batch).unwrap();
        // So the next one says up to where the log is durable.
        log.sync_now().unwrap();
    }
    let name = segment_name(0);
    let written = crate::disk::read_all(&*disk.open(&name).unwrap(), Purpose::Verify).unwrap();
    let written = &written[..(HEADER_BYTES + end.number()) as usize];
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, hex(written)).unwrap();
    }
    let golden = from_hex(&std::fs::read_to_string(path).unwrap());
    assert!(written == golden, "what is written now:\n{}", hex(written));
    // And what lies there is read.
    let disk = SimDisk::new();
    let file = disk.create(&name).unwrap();
    file.write_at(Purpose::Wal, 0, &golden).unwrap();
    let (_, records) = open(disk, Lsn::ZERO).unwrap();
    let read: Vec<Batch> = records.iter().map(|(_, payload)| Batch::decode(payload).unwrap()).collect();
    let same = |(a, b): (&Batch, &Batch)| a.tag == b.tag && a.operations() == b.operations();
    assert!(read.len() == batches.len() && read.iter().zip(&batches).all(same));
    assert_eq!(records.last().unwrap().0, Lsn::new(end.number()));
}
