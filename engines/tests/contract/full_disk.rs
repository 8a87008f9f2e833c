//! A full disk is told as one, what was there before can be read, and what is promised of the time after it is kept.

use std::process::Command as Program;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::*;

/// Bytes of a value.
const VALUE_BYTES: usize = 32 << 10;
/// Bytes that others take of the disk until it is full.
const BALLAST_BYTES: usize = 8 << 20;
/// The number of a value that comes when there is room again.
const LATER: u32 = 5000;
/// Time within which every call has to be answered on a disk in memory.
const PATIENCE: Duration = Duration::from_secs(20);

/// A filesystem in memory of 32 MiB, mounted for as long as this lives; `None`, with a word, for who may not mount.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let home = tempfile::tempdir().unwrap();
        let mounted = Program::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "kvfs-test"])
            .arg(home.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Small(home)),
            other => {
                eprintln!("skipped: only root can mount a small filesystem: {other:?}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What cannot be unmounted is told by the directory that cannot be removed.
        let _ = Program::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Puts a value of its own under `number` and makes it durable.
fn put_durably(engine: &dyn Engine, number: u32) -> engine::Result<()> {
    let mut random = Prng::new(u64::from(number));
    let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.bits() as u8).collect();
    apply(engine, &put(number.to_be_bytes().to_vec(), value))?;
    engine::sync(engine)
}

/// Fills the disk with `writers` threads; the numbers that were acknowledged, and the first error of each writer.
fn fill(engine: &Arc<dyn Engine>, writers: u32, what: &str) -> (Vec<u32>, Vec<Error>) {
    let next = Arc::new(AtomicU32::new(0));
    let (sender, answers) = mpsc::channel();
    for _ in 0..writers {
        let (engine, next, sender) = (engine.clone(), next.clone(), sender.clone());
        std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            let error = loop {
                let number = next.fetch_add(1, Relaxed);
                assert!(number < 2000, "32 MiB took 64 MB");
                match put_durably(&*engine, number) {
                    Ok(()) => acknowledged.push(number),
                    Err(error) => break error,
                }
            };
            // It is opened again as soon as all have answered.
            drop(engine);
            // Who no longer waits has failed already.
            let _ = sender.send((acknowledged, error));
        });
    }
    drop(sender);
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    let until = Instant::now() + PATIENCE;
    for _ in 0..writers {
        let rest = until.saturating_duration_since(Instant::now());
        let answer = answers.recv_timeout(rest);
        let (acknowledged, error) =
            answer.unwrap_or_else(|_| panic!("{what}: a writer got no answer, {:?}", engine.shape().stalls));
        all.extend(acknowledged);
        errors.push(error);
    }
    (all, errors)
}

/// How many of `numbers` can be read; the sentence of whoever cannot.
fn readable(engine: &dyn Engine, numbers: &[u32]) -> (usize, Option<String>) {
    let (mut found, mut refused) = (0, None);
    for number in numbers {
        match engine.get(&number.to_be_bytes(), Tier::Disk) {
            Ok(Some(value)) if value.len() == VALUE_BYTES => found += 1,
            Ok(other) => panic!("{number} was acknowledged: {:?}", other.map(|value| value.len())),
            Err(error) => refused = Some(error.to_string()),
        }
    }
    (found, refused)
}

/// Whether the store says that it takes nothing until it is mounted anew.
fn is_anew(error: &Error) -> bool {
    error.to_string().contains("mounted anew")
}

#[test]
fn a_full_disk_is_told_as_one_and_afterwards_it_goes_on_or_says_what_to_do() {
    for kind in others() {
        for writers in [1, 4] {
            let Some(small) = Small::mount() else { return };
            let what = format!("{kind}, {writers} writers");
            let (store, ballast) = (small.0.path().join("store"), small.0.path().join("ballast"));
            std::fs::create_dir(&store).unwrap();
            std::fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
            let mut options = Options::tiny(kind);
            set_map(&mut options);
            let engine = open(kind, &options, &store);
            let (acknowledged, errors) = fill(&engine, writers, &what);
            assert!(errors.iter().any(|error| matches!(error, Error::NoSpace)), "{what}: {errors:?}");
            let promise = engine.promise();
            // Who comes behind another one's failure is told of that, where it ends what is taken.
            let is_told = |error: &Error| match promise.survives_full_disk {
                true => matches!(error, Error::NoSpace),
                false => matches!(error, Error::NoSpace) || is_anew(error),
            };
            assert!(errors.iter().all(is_told), "{what}: {errors:?}");
            assert!(acknowledged.len() >= 100, "{what} took {}", acknowledged.len());
            let (found, refused) = readable(&*engine, &acknowledged);
            if ["redb", "slatedb"].contains(&kind.name) {
                assert!(refused.is_none_or(|text| text.contains("mounted anew")), "{what}");
            } else {
                assert_eq!((found, refused), (acknowledged.len(), None), "{what}");
            }

            std::fs::remove_file(&ballast).unwrap();
            let until = Instant::now() + PATIENCE;
            let mut again = put_durably(&*engine, LATER);
            // RocksDB looks for room from time to time.
            while promise.survives_full_disk && again.is_err() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(100));
                again = put_durably(&*engine, LATER);
            }
            match promise.survives_full_disk {
                true => assert!(again.is_ok(), "{what}: {again:?}"),
                false => assert!(again.as_ref().is_err_and(is_anew), "{what}: {again:?}"),
            }
            let closed = engine.close();
            assert!(closed.is_ok() || !promise.survives_full_disk, "{what}: {closed:?}");
            drop(engine);
            let engine = open(kind, &options, &store);
            assert_eq!(readable(&*engine, &acknowledged), (acknowledged.len(), None), "{what}");
            put_durably(&*engine, LATER).unwrap();
            assert_eq!(readable(&*engine, &[LATER]), (1, None), "{what}");
            engine.close().unwrap();
        }
    }
}
