//! `/.stats`: every reader, every command, the keys that other programs rely on, and the meter against the kernel's.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use serde_json::Value;

use crate::host::{Engine, Mount, able, both_engines, until};

/// Found by name, absent from every listing, and as long as its attributes say.
fn readers(engine: Engine) {
    if !able(&["rsync"]) {
        return;
    }
    let mount = Mount::new(engine, "");
    let stats = mount.mnt().join(".stats");
    assert_eq!(fs::read_dir(mount.mnt()).unwrap().count(), 0, ".stats must not appear in a listing");
    let meta = fs::metadata(&stats).unwrap();
    assert!(meta.is_file() && meta.mode() & 0o7777 == 0o644, "{meta:?}");
    assert!(fs::metadata(mount.mnt().join(".stats.d")).unwrap().is_dir());

    // The snapshot is pinned while a handle is open, and its size is exact.
    let mut file = File::open(&stats).unwrap();
    let size = file.metadata().unwrap().len();
    assert_eq!(size, fs::metadata(&stats).unwrap().len());
    fs::write(mount.mnt().join("work"), vec![7; 3 << 20]).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text.len() as u64, size, "{text}");
    assert_eq!(size, file.metadata().unwrap().len());
    let mut again = vec![0; text.len()];
    file.read_exact_at(&mut again, 0).unwrap();
    assert_eq!(again, text.as_bytes(), "the same snapshot at a lower offset");
    drop(file);
    assert!(text.starts_with("kvfs ") && text.ends_with('\n') && text.is_ascii(), "{text}");
    assert!(text.lines().all(|line| line.len() <= 110 && line.trim_end() == line), "{text}");
    for word in ["AMPLIFICATION", "write", "read", "space", "DEBT"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }

    for (how, text) in [("sendfile", sent(&stats)), ("splice", spliced(&stats))] {
        assert!(
            text.starts_with("kvfs ") && text.ends_with('\n') && text.lines().count() >= 8,
            "{how}: {text}"
        );
    }

    // Programs that trust the size, and programs that do not; each must see the whole report.
    mount.sh(
        r#"
        whole() {
            head -c 5 "$1" | grep -q '^kvfs '
            test -z "$(tail -c1 "$1")"
            test "$(wc -l < "$1")" -ge 8
        }
        for i in 1 2 3; do
            cat "$MNT/.stats" > cat.txt; whole cat.txt
            cp "$MNT/.stats" cp.txt; whole cp.txt
            dd if="$MNT/.stats" of=dd.txt bs=7 2>/dev/null; whole dd.txt
            dd if="$MNT/.stats" of=dd.txt bs=1M 2>/dev/null; whole dd.txt
            rsync "$MNT/.stats" rsync.txt; whole rsync.txt
            tar cf stats.tar -C "$MNT" .stats; tar xf stats.tar; whole .stats
            tac "$MNT/.stats" | tac > tac.txt; whole tac.txt
            grep -c . "$MNT/.stats" > /dev/null; sort "$MNT/.stats" > /dev/null; head -n 3 "$MNT/.stats" | grep -q kvfs
            test "$(wc -c < "$MNT/.stats")" -gt 500; test "$(wc -l < "$MNT/.stats")" -ge 8
            test -n "$(tail -n 3 "$MNT/.stats")"
            exec 9< "$MNT/.stats"; test "$(stat -c %s "$MNT/.stats")" = "$(cat <&9 | wc -c)"; exec 9<&-
        done
        # Whatever walks a tree neither meets these files nor waits for one.
        for walk in 'find .' 'du -a .' 'ls -lAR .' 'grep -rac . .' 'tar cf - .' 'diff -r . .'; do
            (cd "$MNT"; timeout 60 $walk > "$HOST/walk.txt"); fails grep -q stats walk.txt
        done
        cp -r "$MNT" copy; rsync -a "$MNT/" mirror; test "$(ls -A copy)" = work; test "$(ls -A mirror)" = work
        test "$(ls -A "$MNT")" = work; ls "$MNT/.stats" "$MNT/.stats.d/json" "$MNT/.stats.d/config" "$MNT/.stats.d/help" > /dev/null
        cat "$MNT/.stats.d/config" | grep -q engine; test -s "$MNT/.stats.d/help"
        "$KVFS" stats "$MNT" | grep -q '^kvfs '; "$KVFS" stats "$MNT" --json | head -c 1 | grep -q '{'
        fails rm -f "$MNT/.stats"; fails mv "$MNT/work" "$MNT/.stats"
        test -f "$MNT/.stats"; rm -rf "$MNT"/*; test -z "$(ls -A "$MNT")"
        "#,
    );
    mount.stop_clean();
}

/// What sendfile(2) gets, which believes the size: a server's way to copy.
fn sent(path: &std::path::Path) -> String {
    let (file, mut target) = (File::open(path).unwrap(), tempfile::tempfile().unwrap());
    // SAFETY: both descriptors are open, and there is no offset to write to.
    while unsafe { libc::sendfile(target.as_raw_fd(), file.as_raw_fd(), std::ptr::null_mut(), 1 << 20) } > 0 {
    }
    let mut text = String::new();
    target.seek(SeekFrom::Start(0)).unwrap();
    target.read_to_string(&mut text).unwrap();
    text
}

/// What splice(2) gets into a pipe: the way of newer versions of cat.
fn spliced(path: &std::path::Path) -> String {
    let (file, (mut reader, writer)) = (File::open(path).unwrap(), std::io::pipe().unwrap());
    let drain = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let splice = || {
        let null = std::ptr::null_mut();
        // SAFETY: both descriptors are open, and there are no offsets to write to.
        unsafe { libc::splice(file.as_raw_fd(), null, writer.as_raw_fd(), null, 1 << 20, 0) }
    };
    while splice() > 0 {}
    drop(writer);
    drain.join().unwrap()
}

/// A write is a command, however it arrives; a word that is none is EINVAL.
fn commands(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    let more = match engine {
        Engine::Lsm => {
            "pause resume 'rate 100M' 'rate off' 'iops 9000' 'iops off' 'auto_flush on' 'auto_compact on' 'set rate=90M' 'compact 0' 'compact L1 wait'"
        }
        _ => "",
    };
    let script = r#"
        head -c 3000000 /dev/urandom > "$MNT/data"
        for word in sync flush 'flush wait' checkpoint 'checkpoint wait' drop-caches help compact 'compact wait' 'compact full wait' vacuum 'vacuum now' 'vacuum wait' 'trace on' 'trace on 9' 'trace off' 'explain 1' \
            'explain 2 1' 'unmark other' MORE 'mark before'; do
            echo "$word" > "$MNT/.stats"; echo "$word" >> "$MNT/.stats"; printf '%s' "$word" > "$MNT/.stats"
            printf '%s\n\n' "$word" > "$MNT/.stats"; (echo "$word"; echo sync) > "$MNT/.stats"
            "$KVFS" ctl "$MNT" $word
        done
        head -c 1000000 /dev/urandom > "$MNT/more"; "$KVFS" ctl "$MNT" sync
        grep -q '^kvfs ' "$MNT/.stats.d/since/before"; "$KVFS" stats "$MNT" --since before | grep -q '^kvfs '
        fails cat "$MNT/.stats.d/since/never"; fails "$KVFS" stats "$MNT" --since never
        fails "$KVFS" ctl "$MNT" nonsense
        "#;
    mount.sh(&script.replace("MORE", more));
    let stats = mount.mnt().join(".stats");
    for words in [
        "nonsense",
        "flush everything now",
        "mark",
        "mark a/b",
        "\0",
        "compact 6",
        "trace on 0",
        "sync\nnonsense",
    ] {
        let error = fs::write(&stats, words).expect_err(words);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{words:?}: {error}");
    }
    fs::write(&stats, "compact wait").unwrap();
    assert!(fs::write(mount.mnt().join(".stats.d/json"), "flush").is_err(), "json is not a command file");

    // Since the mark, and nothing from before it.
    let mnt = mount.mnt();
    let output = mount.kvfs(&["stats", mnt.to_str().unwrap(), "--json", "--since", "before"]);
    let since: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(since["app"]["write_bytes"], 1_000_000, "{since:#}");
    let whole = mount.json();
    assert_eq!(whole["app"]["write_bytes"], 4_000_000, "{whole:#}");
    assert_eq!(fs::metadata(mount.mnt().join("data")).unwrap().len(), 3_000_000);
    mount.stop_clean();
}

/// Who neither is root nor mounted reads the report, and gives no command.
fn strangers(engine: Engine) {
    if !able(&[]) || !nix::unistd::geteuid().is_root() {
        return;
    }
    let mount = Mount::new(engine, "allow_other");
    let open = |path: &std::path::Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    mount.mnt().ancestors().take_while(|path| open(path).is_ok()).skip(1).take(1).for_each(drop);
    let run = |script: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).env("MNT", mount.mnt()).current_dir("/").uid(65534).gid(65534);
        command.output().unwrap()
    };
    for file in [".stats", ".stats.d/json", ".stats.d/prom", ".stats.d/events"] {
        let output = run(&format!("head -c 1 \"$MNT/{file}\""));
        assert!(output.status.success() && output.stdout.len() == 1, "{file}: {output:?}");
    }
    for script in [
        "echo flush > \"$MNT/.stats\"",
        "echo flush >> \"$MNT/.stats\"",
        "printf flush > \"$MNT/.stats.d/ctl\"",
        "cat \"$MNT/.stats.d/config\"",
        "cat \"$MNT/.stats.d/trace\"",
        "cat \"$MNT/.stats.d/ctl\"",
    ] {
        let output = run(script);
        assert!(!output.status.success() && output.stdout.is_empty(), "{script}: {output:?}");
    }
    let events = fs::read_to_string(mount.mnt().join(".stats.d/events")).unwrap();
    assert!(!events.contains("\"flush\",\"uid\":65534"), "{events}");
    mount.stop_clean();
}

/// The names that other programs rely on, and what must hold between them.
fn json_keys(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("data"), vec![1; 5_000_000]).unwrap();
    fs::read(mount.mnt().join("data")).unwrap();
    mount.ctl(&["sync"]);
    let json = settled(&mount);
    let number = |pointer: &str| {
        let value = json.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing in {json:#}"));
        value.as_u64().unwrap_or_else(|| panic!("{pointer} is {value}, not a whole number"))
    };
    assert_eq!(json["schema"], "kvfs.stats/1");
    assert_eq!(json["engine"], engine.name());
    for pointer in [
        "/app/write_bytes /app/read_bytes /kv/put_bytes /kv/get_bytes /disk/write_bytes /disk/read_bytes",
        "/space/apparent_bytes /space/live_bytes /space/physical_bytes /space/temporary_bytes /space/temporary_peak_bytes",
        "/debt/l0_files /debt/pending_compaction_bytes /debt/dirty_bytes /debt/unsynced_bytes",
        "/process/pid /process/write_bytes /process/read_bytes",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    {
        number(pointer);
    }
    for name in ["write", "fs_write", "engine_write", "read", "space"] {
        let value =
            json.pointer(&format!("/amplification/{name}")).unwrap_or_else(|| panic!("{name}: {json:#}"));
        assert!(
            value.is_null() || value.as_f64().is_some_and(|v| v >= 0.0),
            "amplification.{name} is {value}"
        );
    }
    assert!(json["levels"].is_array(), "{json:#}");
    let purposes = json["disk"]["by_purpose"].as_object().unwrap_or_else(|| panic!("{json:#}"));
    let sum = |name: &str| -> u64 {
        purposes.values().map(|p| p[name].as_u64().unwrap_or_else(|| panic!("{name} in {p}"))).sum()
    };
    for name in ["writes", "reads", "syncs"] {
        sum(name);
    }
    assert_eq!(sum("write_bytes"), number("/disk/write_bytes"));
    assert_eq!(sum("read_bytes"), number("/disk/read_bytes"));
    assert_eq!(number("/process/pid"), mount.pid() as u64);
    assert_eq!(number("/app/write_bytes"), 5_000_000);
    let ratio = number("/disk/write_bytes") as f64 / 5_000_000.0;
    let write = json["amplification"]["write"].as_f64().unwrap();
    assert!((write / ratio - 1.0).abs() < 0.01, "amplification.write is {write}, the bytes say {ratio}");
    let product = json["amplification"]["fs_write"].as_f64().unwrap()
        * json["amplification"]["engine_write"].as_f64().unwrap();
    assert!((write / product - 1.0).abs() < 0.01, "write is {write}, fs * engine is {product}");
    assert_eq!(number("/debt/unsynced_bytes"), 0, "after a sync");
    assert!(number("/space/apparent_bytes") >= 5_000_000, "{json:#}");
    mount.stop_clean();
}

/// The report once background work has come to rest.
fn settled(mount: &Mount) -> Value {
    let mut last = mount.json();
    let still = until(Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(400));
        let now = mount.json();
        let same = now["disk"] == last["disk"];
        last = now;
        same
    });
    assert!(still, "the disk does not come to rest: {last:#}");
    last
}

/// What we count at our door is what the kernel counts for the process.
fn meter_against_the_kernel(engine: Engine) {
    if !able(&[]) {
        return;
    }
    // An interval would leave timestamps to be written at any time.
    let mount = Mount::new(engine, "");
    mount.sh(r#"dd if=/dev/urandom of="$MNT/large" bs=1M count=256 conv=fsync 2>/dev/null"#);
    mount.ctl(&["sync"]);
    let json = settled(&mount);
    let number = |pointer: &str| json.pointer(pointer).and_then(Value::as_f64).expect(pointer);
    let (app, ours, kernel) =
        (number("/app/write_bytes"), number("/disk/write_bytes"), number("/process/write_bytes"));
    assert_eq!(app, 256.0 * 1048576.0, "the program's bytes");
    assert!(ours >= app, "{ours} bytes at the disk for {app} of the program");
    assert!((ours / kernel - 1.0).abs() < 0.1, "we count {ours}, the kernel {kernel}: {json:#}");
    println!("{engine:?}: app {app}, disk {ours}, kernel {kernel}");
    mount.stop_clean();
}

/// "Who wrote this?": bytes by command and by the first name of the path; the rows are all of door 1.
fn attribution(engine: Engine) {
    if !able(&[]) {
        return;
    }
    for options in ["", "writeback_cache=on"] {
        let mount = Mount::new(engine, options);
        mount.sh(r#"
            mkdir -p "$MNT/first/below" "$MNT/second"
            dd if=/dev/zero of="$MNT/first/below/file" bs=64K count=40 conv=fsync 2>/dev/null
            head -c 100000 /dev/zero > "$MNT/second/file"; sync "$MNT/second/file"
            cat "$MNT/first/below/file" > /dev/null
            "#);
        let json = mount.json();
        for list in ["by_process", "by_path"] {
            let rows = json[list].as_array().unwrap();
            for way in ["write_bytes", "read_bytes"] {
                let sum: u64 = rows.iter().map(|row| row[way].as_u64().unwrap()).sum();
                assert_eq!(sum, json["app"][way].as_u64().unwrap(), "{list} {way} {rows:#?}");
            }
        }
        let written = |list: &str, name: &str, value: &str| -> u64 {
            let rows = json[list].as_array().unwrap().iter();
            rows.filter(|row| row[name] == value).map(|row| row["write_bytes"].as_u64().unwrap()).sum()
        };
        assert_eq!(written("by_path", "path", "first"), 40 << 16, "{options} {:#}", json["by_path"]);
        assert!(written("by_path", "path", "second") >= 100_000, "{options} {:#}", json["by_path"]);
        assert_eq!(written("by_process", "command", "dd"), 40 << 16, "{options} {:#}", json["by_process"]);
        let summary = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
        assert!(summary.contains("\nBY ") && summary.contains("dd["), "{summary}");
        mount.stop_clean();
    }
}

/// `metrics=` answers over HTTP what the file says, on this machine only; `explain` says where blocks lie.
fn metrics_and_places(engine: Engine) {
    if !able(&[]) {
        return;
    }
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mount = Mount::new(engine, &format!("metrics={address}"));
    fs::write(mount.mnt().join("data"), vec![1; 50_000]).unwrap();
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    // Families come in one order; values move on between the two.
    let families = |text: &str| {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_string).collect::<Vec<_>>()
    };
    let file = fs::read_to_string(mount.mnt().join(".stats.d/prom")).unwrap();
    assert_eq!(families(body), families(&file));
    assert!(body.contains("\nkvfs_app_write_bytes_total 50000\n"), "{body}");
    assert!(body.contains("kvfs_path_write_bytes{path=\"/data\"} 50000\n"), "{body}");
    assert!(get("/nothing").starts_with("HTTP/1.1 404 "));
    assert!(get("/metrics?x=1").starts_with("HTTP/1.1 200 OK\r\n"));
    let raw = |text: &[u8]| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(text).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let head = raw(b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(raw(b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(raw(b"\x16\x03\x01\x02\x00\x01\r\n\r\n").starts_with("HTTP/1.1 400 "));

    mount.ctl(&["flush", "wait"]);
    let trace = mount.sh(r#""$KVFS" explain "$MNT/data""#);
    let places = trace.lines().skip_while(|line| !line.starts_with("13 blocks")).nth(1);
    assert!(places.is_some_and(|line| line.trim_start().starts_with("0-")), "{trace}");
    let offsets =
        trace.lines().filter(|line| line.starts_with("    at ")).flat_map(|line| line.split(' ').skip(5));
    let offsets: Vec<u64> = offsets.map(|word| word.parse().unwrap()).collect();
    let data = fs::metadata(mount.mnt().join("data")).unwrap().len().div_ceil(4096);
    assert_eq!(offsets.len() as u64, data, "one for each block: {trace}");
    mount.stop_clean();
}

both_engines!(
    metrics_and_places,
    strangers,
    readers,
    commands,
    json_keys,
    meter_against_the_kernel,
    attribution
);
