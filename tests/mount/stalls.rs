//! Nothing waits for what it does not need: a large delete returns at once, an open file outlives its name, and a writer
//! that the engine holds back holds back nobody else.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::host::{Engine, Mount, able, both_engines, every_engine, until};

/// unlink and O_TRUNC of 512 MiB return within a second, and the space comes back: to the disk from an LSM-tree, to the
/// next file from a B-tree, which keeps its own file.
fn large_delete(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    let small = mount.store_bytes();
    // What runs in the background (a merge holds its inputs until its outputs are durable) is not what a file costs.
    let settle = || {
        mount.ctl(&["sync"]);
        mount.ctl(if engine == Engine::Lsm { &["compact", "wait"] } else { &["checkpoint", "wait"] });
    };
    for how in ["unlink", "truncate"] {
        let path = mount.mnt().join("large");
        mount.sh(r#"dd if=/dev/urandom of="$MNT/large" bs=1M count=512 conv=fsync 2>/dev/null"#);
        assert!(mount.store_bytes() > 512 << 20, "{} bytes for 512 MiB", mount.store_bytes());
        // The second file lies where the first one lay.
        let fits = until(Duration::from_secs(90), || {
            settle();
            mount.store_bytes() < small + (712 << 20)
        });
        assert!(fits, "{how}: {} bytes in the store for a file of 512 MiB", mount.store_bytes());
        let began = Instant::now();
        match how {
            "unlink" => fs::remove_file(&path).unwrap(),
            _ => drop(File::create(&path).unwrap()),
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{how} took {took:?}");
        assert_eq!(fs::metadata(&path).map_or(0, |meta| meta.len()), 0);
        // Reclaim runs in the background; the LSM gives space back when a merge meets the deletes.
        let back = until(Duration::from_secs(90), || {
            settle();
            let json = mount.json();
            let live = json["space"]["live_bytes"].as_u64().expect("space.live_bytes");
            let returned = engine == Engine::Btree || mount.store_bytes() < small + (200 << 20);
            live < 16 << 20 && returned
        });
        assert!(back, "{how}: {} bytes in the store, {:#}", mount.store_bytes(), mount.json()["space"]);
    }
    mount.stop_clean();
}

/// A file without a name is read and written until it is closed, and is gone afterwards.
fn open_and_unlinked(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    let path = mount.mnt().join("file");
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    file.write_all(&vec![42; 2_000_000]).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a new file of the same name").unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    mount.ctl(&["sync"]);
    let mut bytes = vec![];
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert!(
        bytes.len() == 2_000_004 && bytes.ends_with(b"more") && bytes[..2_000_000].iter().all(|b| *b == 42)
    );
    drop(file);
    // An orphan at the moment of a kill is drained at the next mount.
    let orphan = File::create(mount.mnt().join("orphan")).unwrap();
    orphan.set_len(1 << 20).unwrap();
    (&orphan).write_all(&vec![1; 500_000]).unwrap();
    fs::remove_file(mount.mnt().join("orphan")).unwrap();
    mount.ctl(&["sync"]);
    mount.kill();
    drop(orphan);
    mount.start();
    assert_eq!(fs::read_to_string(&path).unwrap(), "a new file of the same name");
    assert_eq!(fs::read_dir(mount.mnt()).unwrap().count(), 1);
    mount.stop_clean();
}

/// While a writer is held back by limits that are far too small, others read files and `/.stats`.
fn a_stalled_writer_stalls_nobody_else(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let options = match engine {
        Engine::Btree => "dirty_max=1M,checkpoint_log=1M,log_segment=256K",
        Engine::Other(_) => "memory=8M",
        _ => "memtable=128K,table=128K,level_base=256K,l0_trigger=1,l0_slowdown=1,l0_stop=2,log_segment=256K",
    };
    let mount = Mount::new(engine, options);
    let (data, known) = (mount.mnt().join("data"), mount.mnt().join("known"));
    fs::write(&known, vec![5; 100_000]).unwrap();
    let over = AtomicBool::new(false);
    let mut worst = Duration::ZERO;
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let (over, path) = (&over, data.with_extension(writer.to_string()));
            scope.spawn(move || {
                let file = File::create(path).unwrap();
                let mut offset = 0u64;
                while !over.load(Ordering::Relaxed) {
                    use std::os::unix::fs::FileExt;
                    file.write_all_at(&[9; 128 << 10], offset % (64 << 20)).unwrap();
                    offset += 31 * (128 << 10);
                }
            });
        }
        // The scope joins the writers: whatever goes wrong here must end them first.
        let readers = std::panic::catch_unwind(|| {
            let mut worst = Duration::ZERO;
            let end = Instant::now() + Duration::from_secs(6);
            while Instant::now() < end {
                let began = Instant::now();
                let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
                assert!(text.starts_with("kvfs "));
                // The same without the mount.
                let mut socket =
                    std::os::unix::net::UnixStream::connect(mount.store().join("stats.sock")).unwrap();
                socket.write_all(b"\n").unwrap();
                let mut answer = String::new();
                socket.read_to_string(&mut answer).unwrap();
                assert_eq!(answer.lines().nth(1), text.lines().nth(1), "{answer}");
                // Dropping the pages makes the read a request.
                let file = File::open(&known).unwrap();
                nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                    .unwrap();
                let mut bytes = vec![];
                (&file).read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, vec![5; 100_000]);
                fs::metadata(mount.mnt().join("absent")).unwrap_err();
                worst = worst.max(began.elapsed());
                std::thread::sleep(Duration::from_millis(10));
            }
            worst
        });
        over.store(true, Ordering::Relaxed);
        worst = readers.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{engine:?}: slowest look during a stall {worst:?}");
    assert!(worst < Duration::from_secs(2), "a reader waited {worst:?} for the writers");
    // One of others may let writers wait within its own calls, and knows no cause.
    if matches!(engine, Engine::Other(_)) {
        return mount.stop_clean();
    }
    let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
    assert!(text.contains("STALL"), "{text}");
    let stalls = mount.json()["stalls"].clone();
    let count = |value: &serde_json::Value| -> u64 {
        // Objects by cause, whatever they are called: some number in there must have moved.
        fn sum(value: &serde_json::Value) -> u64 {
            match value {
                serde_json::Value::Object(map) => map.values().map(sum).sum(),
                serde_json::Value::Array(list) => list.iter().map(sum).sum(),
                other => other.as_u64().unwrap_or(0),
            }
        }
        sum(value)
    };
    assert!(count(&stalls) > 0, "the writers were never held back, so nothing was tested: {stalls}");
    mount.stop_clean();
}

both_engines!(large_delete);
every_engine!(open_and_unlinked, a_stalled_writer_stalls_nobody_else);
