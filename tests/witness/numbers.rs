//! Counts are exact: what a program does is what the report says.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::Value;

use crate::host::{Engine, Mount, able, until};

/// A number of the report.
pub fn number(report: &Value, path: &str) -> u64 {
    let found = path.split('.').fold(report, |value, name| &value[name]);
    found.as_u64().unwrap_or_else(|| panic!("{path} is {found}"))
}

/// A number of a class, as each of the names.
fn numbers<const N: usize>(report: &Value, class: &str, names: [&str; N]) -> [u64; N] {
    names.map(|name| number(report, &format!("by_class.{class}.{name}")))
}

/// Names of what is written and read.
fn traffic() -> [&'static str; 4] {
    ["write_bytes", "writes", "read_bytes", "reads"]
}

#[test]
fn bytes_and_requests_are_counted_as_they_come() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    let mnt = mount.mnt();
    let log = File::create(mnt.join("000001.log")).unwrap();
    for place in 0..100 {
        log.write_all_at(&[7; 4096], place * 4096).unwrap();
    }
    assert_eq!(numbers(&mount.json(), "log", traffic()), [409_600, 100, 0, 0]);
    // Bytes are exact also where the kernel cuts a write at the end of a page that it has only a part of.
    log.write_all_at(&[7; 5000], 409_600 + 10).unwrap();
    let [written, writes, ..] = numbers(&mount.json(), "log", traffic());
    assert!(written == 414_600 && [101, 102].contains(&writes), "{written} in {writes}");
    // The kernel cuts what is larger than a request.
    let table = File::create(mnt.join("000002.sst")).unwrap();
    table.write_all_at(&vec![1; 3 << 20], 0).unwrap();
    assert_eq!(numbers(&mount.json(), "table", traffic()), [3 << 20, 3, 0, 0]);
    // What was written is in the page cache, but for a page here and there of which the kernel could copy a part alone at first.
    let mut content = Vec::new();
    File::open(mnt.join("000002.sst")).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![1; 3 << 20]);
    let [written, writes, missed, reads] = numbers(&mount.json(), "table", traffic());
    assert_eq!([written, writes], [3 << 20, 3]);
    assert!(missed <= 64 << 10 && reads <= 16, "{missed} bytes in {reads} reads");
    table.sync_all().unwrap();
    posix_fadvise(&table, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    File::open(mnt.join("000002.sst")).unwrap().read_to_end(&mut content).unwrap();
    let [_, _, read_bytes, reads_then] = numbers(&mount.json(), "table", traffic());
    assert!(
        read_bytes - missed == 3 << 20 && reads_then > reads,
        "{read_bytes} bytes in {reads_then} reads after {missed} in {reads}"
    );
    let reads = reads_then;
    // A direct request is one, of so many bytes.
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(mnt.join("000002.sst"))
        .unwrap();
    let mut memory = vec![0u8; 12288];
    let start = memory.as_ptr().align_offset(4096);
    for place in 0..10 {
        direct.read_exact_at(&mut memory[start..start + 4096], place * 8192).unwrap();
        direct.write_all_at(&memory[start..start + 8192], place * 8192).unwrap();
    }
    let [written, writes, read, requests] = numbers(&mount.json(), "table", traffic());
    assert_eq!(
        [written - (3 << 20), writes - 3, read - read_bytes, requests - reads],
        [81_920, 10, 40_960, 10]
    );
    let report = mount.json();
    for name in traffic() {
        let classes = report["by_class"].as_object().unwrap().keys();
        let sum: u64 = classes.map(|class| numbers(&report, class, [name])[0]).sum();
        assert_eq!(number(&report, &format!("total.{name}")), sum, "{name}");
    }
    drop((log, table, direct));
    mount.stop();
}

#[test]
fn pages_of_a_mapping_are_counted_when_they_are_written() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=lmdb");
    let path = mount.mnt().join("data.mdb");
    fs::write(&path, vec![0; 64 << 12]).unwrap();
    let mapped = |report: &Value| number(report, "by_class.data.mapped_write_bytes");
    assert_eq!(mapped(&mount.json()), 0);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // SAFETY: a new mapping of the file, at a place that the kernel chooses.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            64 << 12,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(map, libc::MAP_FAILED);
    for page in [3, 4, 5, 20, 63] {
        // SAFETY: it lies in the mapping.
        unsafe { map.cast::<u8>().add(page << 12).write(9) };
    }
    let before = number(&mount.json(), "by_class.data.syncs");
    // SAFETY: the mapping.
    assert_eq!(unsafe { libc::msync(map, 64 << 12, libc::MS_SYNC) }, 0);
    let report = mount.json();
    assert_eq!(mapped(&report), 5 << 12);
    assert_eq!(number(&report, "total.mapped_write_bytes"), 5 << 12);
    assert_eq!(number(&report, "total.write_bytes"), (64 << 12) + (5 << 12));
    assert_eq!(number(&report, "by_class.data.syncs"), before + 1);
    let below = fs::read(mount.store().join("data.mdb")).unwrap();
    assert_eq!(below.iter().filter(|byte| **byte == 9).count(), 5);
    // SAFETY: nobody uses it any more.
    unsafe { libc::munmap(map, 64 << 12) };
    drop(file);
    mount.stop();
}

#[test]
fn copies_and_syncs_and_files_are_counted() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    let mnt = mount.mnt();
    let (source, target) =
        (File::create(mnt.join("000001.log")).unwrap(), File::create(mnt.join("000002.sst")).unwrap());
    source.write_all_at(&[5; 100_000], 0).unwrap();
    drop(source);
    let source = File::open(mnt.join("000001.log")).unwrap();
    let copied = rustix::fs::copy_file_range(&source, None, &target, None, 100_000).unwrap();
    let report = mount.json();
    assert_eq!(numbers(&report, "table", ["copied_bytes", "write_bytes"]), [copied as u64, 0]);
    assert_eq!(number(&report, "total.copied_bytes"), copied as u64);
    for _ in 0..3 {
        target.sync_all().unwrap();
    }
    for _ in 0..2 {
        target.sync_data().unwrap();
    }
    let synced =
        OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(mnt.join("000002.sst")).unwrap();
    for place in 0..4 {
        synced.write_all_at(&[1; 10], place * 10).unwrap();
    }
    File::open(&mnt).unwrap().sync_all().unwrap();
    let report = mount.json();
    let [syncs, sync_waited_ns] = numbers(&report, "table", ["syncs", "sync_waited_ns"]);
    assert_eq!((syncs, number(&report, "total.syncs"), number(&report, "directory_syncs")), (9, 9, 1));
    let [sync_p50_ns, sync_p99_ns, sync_p999_ns, sync_max_ns] =
        numbers(&report, "table", ["sync_p50_ns", "sync_p99_ns", "sync_p999_ns", "sync_max_ns"]);
    assert!(0 < sync_p50_ns && sync_p50_ns <= sync_p99_ns && sync_p99_ns <= sync_p999_ns);
    assert!(sync_p999_ns <= sync_max_ns && sync_max_ns <= sync_waited_ns * 102 / 100, "{report}");
    fs::write(mnt.join("000003.sst"), "").unwrap();
    fs::remove_file(mnt.join("000003.sst")).unwrap();
    // A file under its temporary name is temporary, and afterwards what it has become.
    fs::write(mnt.join("000004.dbtmp"), "MANIFEST-1").unwrap();
    fs::rename(mnt.join("000004.dbtmp"), mnt.join("CURRENT")).unwrap();
    OpenOptions::new().append(true).open(mnt.join("CURRENT")).unwrap().write_all(b"\n").unwrap();
    let report = mount.json();
    assert_eq!(numbers(&report, "table", ["created", "removed"]), [2, 1]);
    assert_eq!(numbers(&report, "temporary", ["created", "write_bytes"]), [1, 10]);
    assert_eq!(numbers(&report, "manifest", ["created", "write_bytes"]), [0, 1]);
    drop((source, target, synced));
    mount.stop();
}

#[test]
fn what_fails_is_an_error_and_moves_nothing() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    let path = mount.mnt().join("000001.log");
    fs::write(&path, vec![1; 8192]).unwrap();
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    // Neither the place nor the length is one that a disk has.
    let refused = direct.write_at(&[2; 100], 1).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    let report = mount.json();
    assert_eq!(numbers(&report, "log", ["write_bytes", "errors"]), [8192, 1]);
    assert_eq!(number(&report, "total.errors"), 1);
    drop(direct);
    assert_eq!(fs::read(&path).unwrap(), vec![1; 8192]);
    mount.stop();
}

fn lies(path: &Path) -> [u64; 2] {
    let found = fs::metadata(path).unwrap();
    [found.len(), found.blocks() * 512]
}

#[test]
fn what_lies_there_is_what_the_filesystem_says() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    let mnt = mount.mnt();
    fs::create_dir_all(mnt.join("a/b")).unwrap();
    for (name, bytes) in [("a/000001.sst", 10_000), ("a/b/000002.sst", 70_000), ("000003.log", 5_000)] {
        let file = File::create(mnt.join(name)).unwrap();
        (&file).write_all(&vec![3; bytes]).unwrap();
        file.sync_all().unwrap();
    }
    // A hole, a second name, and something that is no file.
    File::create(mnt.join("000009.log")).unwrap().set_len(1 << 30).unwrap();
    fs::hard_link(mnt.join("a/000001.sst"), mnt.join("a/000011.sst")).unwrap();
    std::os::unix::fs::symlink("000003.log", mnt.join("000012.log")).unwrap();
    let names = ["files", "length_bytes", "disk_bytes"];
    let sum = |paths: [&str; 2]| {
        let [one, other] = paths.map(|path| lies(&mount.store().join(path)));
        [2, one[0] + other[0], one[1] + other[1]]
    };
    let (tables, logs) = (sum(["a/000001.sst", "a/b/000002.sst"]), sum(["000003.log", "000009.log"]));
    let is_seen = || {
        let report = mount.json();
        numbers(&report, "table", names) == tables && numbers(&report, "log", names) == logs
    };
    assert!(until(Duration::from_secs(20), is_seen), "{tables:?} {logs:?} {:#}", mount.json());
    let report = mount.json();
    for (place, name) in names.iter().enumerate() {
        assert_eq!(number(&report, &format!("total.{name}")), tables[place] + logs[place]);
    }
    mount.stop();
}
