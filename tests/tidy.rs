//! The house rules that a machine can read: which room may know which, who may touch files, clocks and threads, and that every
//! option and purpose is documented.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kvfs::disk::Purpose;
use kvfs::store::Settings;

const LINES_MAX: usize = 800;

/// Room by room, what it may name of the others. A file at the top of `src` is a room of its own.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("disk", &["base"]),
    ("engine", &["base", "disk"]),
    ("fs", &["base", "disk", "engine"]),
    // Neither is POSIX over keys: they know the filesystem's words, not how it stores.
    ("attribution", &["base", "fs"]),
    ("virtual_files", &["base", "fs"]),
    // It passes a directory of others through: no store, no engine, no disk of ours.
    ("witness", &["base"]),
    // What was asked of an engine, whatever keys mean.
    ("recording", &["base", "disk", "engine"]),
    // What a mount would have asked, of a filesystem over a map in memory.
    ("import", &["base", "disk", "engine", "fs", "recording"]),
    ("control", &["attribution", "base", "disk", "engine", "fs", "recording", "virtual_files", "witness"]),
    ("compare", &["base", "disk", "engine", "recording"]),
    // Nobody but the command line asks it.
    ("advise", &["base", "disk", "engine", "recording"]),
    ("fuse", &["attribution", "base", "disk", "fs", "virtual_files", "witness"]),
    ("store", &["base", "disk", "engine", "fs", "fuse", "control", "witness"]),
];

/// What only some files may say, and why those may.
const ONLY_IN: &[(&str, &[(&str, &str)])] = &[
    (
        "std::fs",
        &[
            ("disk/os.rs", "the one door to files"),
            ("disk/outside.rs", "files that are no store's"),
            ("disk/tree.rs", "directories that engines of others fill in ways of their own"),
        ],
    ),
    ("std::{fs", &[]),
    (
        "Instant::now",
        &[
            ("base/clock.rs", "the machine's clock"),
            ("fuse/", "latencies and waiting times of requests"),
            ("control/clients.rs", "patience with a client"),
            ("engine/cpu.rs", "what work costs the processor"),
            ("mount/lock.rs", "patience with a holder of the lock"),
            ("mount/below.rs", "patience with a witness"),
            ("mount/closing.rs", "patience with a daemon that closes its store"),
            ("daemon.rs", "patience with the child"),
            ("daemon/", "how many lines a span may have"),
            ("cli.rs", "patience while unmounting, progress"),
            ("cli/", "patience while unmounting, progress"),
            ("compare/", "rates of a measurement"),
        ],
    ),
    ("SystemTime::now", &[("base/clock.rs", "the machine's clock"), ("fuse/", "the kernel's word for now")]),
    (
        "thread::Builder",
        &[
            ("engine/worker.rs", "the engine's background threads"),
            ("fuse/", "threads that may sleep for a request, signals"),
            ("mount/service.rs", "the filesystem's and the report's threads"),
            ("mount/below.rs", "the lines that a witness says"),
            ("mount/witness.rs", "the report's thread"),
            ("control/", "the socket's thread"),
        ],
    ),
    ("thread::spawn", &[("control/", "the socket's thread")]),
    ("mmap", &[]),
    (".owns(", &[("fuse/router.rs", "the one place that tells virtual inodes from stored ones")]),
    (
        "crate::virtual_files",
        &[
            ("control/", "what the files say"),
            ("fuse/mod.rs", "both sides"),
            ("fuse/router.rs", "both sides"),
            ("fuse/virtual_files.rs", "the requests that they answer"),
            ("mount/service.rs", "the composition root"),
        ],
    ),
];

fn source(path: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every source file that is not only tests: its path below `src`, its text, and its text without comments and tests.
fn files() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    source(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 50, "the sources are where they were");
    let mut files = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_string();
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|l| format!("{l}\n"))
            .collect();
        files.push((name, text, code));
    }
    files
}

fn fail_if_any(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn rooms_import_downward_only() {
    let mut problems = Vec::new();
    for (name, _, code) in files() {
        let room = name.split(['/', '.']).next().unwrap_or("");
        let Some((_, allowed)) = MAY_USE.iter().find(|(of, _)| *of == room) else { continue };
        for part in code.split("crate::").skip(1) {
            // `crate::room::…` or `crate::{room, room::…}`.
            let list = part.strip_prefix('{').and_then(|list| list.split("};").next()).unwrap_or(part);
            let items = if part.starts_with('{') { list.split(',').collect() } else { vec![list] };
            for item in items {
                let used: String =
                    item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != room && !allowed.contains(&used.as_str()) {
                    problems.push(format!("src/{name}: {room} must not know {used}"));
                }
            }
        }
        if room != "fuse" && code.contains("fuser::") {
            problems.push(format!("src/{name}: only fuse/ speaks the kernel's protocol"));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn files_clocks_and_threads_stay_in_their_places() {
    let mut problems = Vec::new();
    for (name, _, code) in files() {
        for (words, places) in ONLY_IN {
            if code.contains(words) && !places.iter().any(|(place, _)| name.starts_with(place)) {
                problems.push(format!("src/{name} says {words}, which only {places:?} may"));
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn sources_are_fit_to_read() {
    let mut problems = Vec::new();
    for (name, text, code) in files() {
        if !text.starts_with("//!") && !text.starts_with("#![doc") {
            problems.push(format!("src/{name} does not say what it is in its first line"));
        }
        if text.lines().count() > LINES_MAX {
            problems.push(format!("src/{name} has {} lines: is it one noun?", text.lines().count()));
        }
        for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "allow(dead_code)"] {
            if code.contains(word) {
                problems.push(format!("src/{name} says {word}"));
            }
        }
        for word in ["FIXME", "XXX"] {
            if text.contains(word) {
                problems.push(format!("src/{name} says {word}"));
            }
        }
        for line in code.lines().filter(|line| line.contains(".expect(\"")) {
            let reason = line.split(".expect(\"").nth(1).unwrap_or("");
            if reason.split('"').next().unwrap_or("").split_whitespace().count() < 2 {
                problems.push(format!("src/{name}: an expect that names no invariant: {}", line.trim()));
            }
        }
    }
    fail_if_any(&problems);
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

#[test]
fn every_purpose_and_every_option_is_documented() {
    let (stats, tuning) = (document("stats.md"), document("tuning.md"));
    let mut problems = Vec::new();
    for purpose in Purpose::all() {
        let name = purpose.name();
        let family = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if !stats.contains(name)
            && !stats.contains(&format!("{family}N"))
            && !stats.contains(&format!("{family}0"))
        {
            problems.push(format!("docs/stats.md does not know the purpose {name}"));
        }
    }
    let known: BTreeSet<&str> = Settings::all().iter().map(|setting| setting.name).collect();
    for name in &known {
        if !tuning.contains(&format!("`{name}`")) {
            problems.push(format!("docs/tuning.md does not know the option {name}"));
        }
    }
    // Rows of the table start with an option's name.
    for line in tuning.lines() {
        if let Some(name) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next())
            && !known.contains(name)
        {
            problems.push(format!("docs/tuning.md describes {name}, which is no option"));
        }
    }
    fail_if_any(&problems);
}

/// `docs/medium.md` names the test that shows each of its claims: each must be there.
#[test]
fn the_page_about_the_disk_below_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    source(&root.join("src"), &mut paths);
    source(&root.join("tests"), &mut paths);
    let mut tests = BTreeSet::new();
    for path in paths {
        let text = fs::read_to_string(path).unwrap();
        for part in text.split("#[test]").skip(1) {
            let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            tests.extend(name.map(str::to_string));
        }
    }
    let text = document("medium.md");
    // A name of four words or more is a test's.
    let named: Vec<&str> =
        text.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() >= 3).collect();
    assert!(named.len() > 15, "{named:?}");
    let missing: Vec<String> = named
        .iter()
        .filter(|name| !tests.contains(**name))
        .map(|name| format!("docs/medium.md names {name}, which is no test"))
        .collect();
    fail_if_any(&missing);
    // And where the last column is empty, nobody has shown anything.
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
    for row in rows.filter(|row| !row.contains("shown by")) {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or("");
        assert!(last.contains('`') || last.trim() == "below", "docs/medium.md shows nothing for: {row}");
    }
}
