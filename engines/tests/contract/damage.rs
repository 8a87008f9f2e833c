//! Damaged files are found by the engine's own verification.

use super::*;

/// The largest file below `path`, journals aside, which are long before anything is in them, and texts; and objects of a log, which are kept for a
/// while after everything in them is in tables, and that nobody reads again.
fn largest(path: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| !path.ends_with("wal"));
    let files = entries.map(|path| if path.is_dir() { largest(&path) } else { path });
    let files =
        files.filter(|path| path.extension().is_none_or(|end| end != "jnl") && !path.ends_with("LOG"));
    files.max_by_key(|path| path.metadata().map_or(0, |found| found.len())).unwrap_or_default()
}

/// LMDB keeps no checksums, so that it finds what breaks its pages, and not what changes a value.
#[test]
fn it_is_found_by_who_keeps_checksums() {
    // Built for development, redb panics at what it tells as an error otherwise.
    let is_told = |kind: &Kind| kind.name != "lmdb" && (kind.name != "redb" || !cfg!(debug_assertions));
    for kind in others().into_iter().filter(is_told) {
        let home = tempfile::tempdir().unwrap();
        let options = Options::tiny(kind);
        let engine = open(kind, &options, home.path());
        for number in 0u32..2000 {
            apply(&*engine, &put(number.to_be_bytes().to_vec(), vec![number as u8 | 1; 1000])).unwrap();
        }
        for command in [Command::Flush, Command::Compact, Command::Flush, Command::Verify] {
            engine::run(&*engine, command).unwrap_or_else(|error| panic!("{kind} {command:?}: {error}"));
        }
        engine.close().unwrap();
        drop(engine);

        // Whole pages, in the middle of the data.
        let path = largest(home.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..(middle + 4096)].iter_mut().for_each(|byte| *byte = !*byte);
        std::fs::write(&path, bytes).unwrap();

        let Home::Directory(open) = kind.home else { panic!("{kind} lives in a directory") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let found = open(home.path(), clock, &options).and_then(|engine| {
            let verified = engine::run(&*engine, Command::Verify);
            // What is damaged may not be fit to be closed.
            let _ = engine.close();
            verified
        });
        let error = found.err().unwrap_or_else(|| panic!("{kind} finds nothing in {}", path.display()));
        assert!(error.is_damage(), "{kind}: {error:?}");
    }
}
