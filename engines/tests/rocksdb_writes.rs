//! What RocksDB says that it wrote is what the kernel counted: log, flushes and compactions together, blob files among the last two. In a process of
//! its own, since the kernel counts processes.

#![cfg(feature = "rocksdb")]

use std::sync::Arc;

use kvfs::base::clock::{Clock, SystemClock};
use kvfs::base::metric::Since;
use kvfs::base::prng::Prng;
use kvfs::disk::{ProcessIo, process_io};
use kvfs::engine::{self, Batch, Command, Error, Home, Kind, Shape, Tier};

/// Bytes of values that are put, a third of which overwrite others.
const BYTES: u64 = 96 << 20;
const VALUE_BYTES: u64 = 4000;
/// What the kernel may count beside them: the manifest, and the text log of RocksDB.
const SHARE_MAX: f64 = 0.004;

fn number(shape: &Shape, name: &str) -> u64 {
    shape.statistics.of(name).and_then(|statistic| statistic.value.number()).unwrap()
}

#[test]
fn log_flushes_and_compactions_are_what_the_kernel_counts() {
    kvfs_engines::register();
    let kind = Kind::parse("rocksdb").unwrap();
    let Home::Directory(open) = kind.home else { panic!("{kind} lives in a directory") };
    for list in
        ["compaction=leveled,blob=off", "compaction=universal,blob=off", "compaction=universal,blob=on"]
    {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = kind.default_options().with(&format!("memory=16M,{list}")).unwrap();
        let engine = open(home.path(), clock, &options).unwrap();
        let (began, before) = (process_io().unwrap(), engine.shape());
        let mut random = Prng::new(11);
        for _ in 0..BYTES / VALUE_BYTES {
            let mut batch = Batch::new(0);
            let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.bits() as u8).collect();
            batch.put(random.below(BYTES / VALUE_BYTES).to_be_bytes().to_vec(), value);
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                let Error::Busy { retry_after, .. } = error else { panic!("{error}") };
                std::thread::sleep(retry_after);
            }
        }
        engine::run(&*engine, Command::Flush).unwrap();
        let (ended, after) = (process_io().unwrap(), engine.shape());
        let grown = |name: &str| number(&after, name) - number(&before, name);
        // It has statistics of blob files where it has blob files.
        let [log, flush, compaction] =
            ["rocksdb.wal.bytes", "rocksdb.flush.write.bytes", "rocksdb.compact.write.bytes"].map(grown);
        let blobs = after
            .statistics
            .of("rocksdb.blobdb.blob.file.bytes.written")
            .map_or(0, |_| grown("rocksdb.blobdb.blob.file.bytes.written"));
        let own = log + flush + compaction;
        let ProcessIo { asked_write_bytes, write_bytes, .. } = ended.since(&began);
        let share = asked_write_bytes as f64 / own as f64 - 1.0;
        println!(
            "{list}: log {log} + flush {flush} + compaction {compaction} = {own}, blob files {blobs} among them; the kernel: wchar \
             {asked_write_bytes} ({:+.3} %), write_bytes {write_bytes} ({:+.3} %)",
            share * 100.0,
            (write_bytes as f64 / own as f64 - 1.0) * 100.0
        );
        assert!(log > BYTES && flush > 0 && compaction > 0, "{list}");
        assert_eq!(blobs > 0, list.ends_with("blob=on"), "{list}");
        assert!((0.0..SHARE_MAX).contains(&share), "{list}: {share}");
        engine.close().unwrap();
    }
}
