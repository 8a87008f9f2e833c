//! What a store shows before and after it was repaired.

use super::*;

/// What can be seen of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub kind: FileKind,
    pub permissions: u32,
    pub links: u32,
    pub content: Vec<u8>,
    pub note: Option<Vec<u8>>,
}

pub fn walk(fs: &FileSystem, dir: Ino, path: &str, seen: &mut BTreeMap<Ino, Seen>) {
    let mut entries = Vec::new();
    fs.readdir(TIER, dir, 0, &mut |entry| {
        entries.push(entry.name.to_vec());
        true
    })
    .unwrap();
    for name in entries.into_iter().filter(|name| name != b"." && name != b"..") {
        let Attributes { ino, kind, permissions, links, size, .. } = fs.lookup(TIER, dir, &name).unwrap();
        let path = format!("{path}/{}", name.escape_ascii());
        let content = match kind {
            FileKind::File => fs.read(TIER, ino, 0, size as u32).unwrap(),
            FileKind::Symlink => fs.readlink(TIER, ino).unwrap().to_vec(),
            _ => Vec::new(),
        };
        let note = fs.getxattr(TIER, ino, b"user.note").ok().map(|value| value.to_vec());
        let links = if kind == FileKind::Directory { 0 } else { links };
        seen.insert(ino, Seen { path: path.clone(), kind, permissions, links, content, note });
        if kind == FileKind::Directory {
            walk(fs, ino, &path, seen);
        }
    }
}

/// Every file by its inode.
pub fn contents(disk: &Arc<SimDisk>) -> BTreeMap<Ino, Seen> {
    let open = Open::new(&disk.kill());
    let mut seen = BTreeMap::new();
    walk(&open.fs, ROOT, "", &mut seen);
    seen
}

pub fn repair(disk: &Arc<SimDisk>, apply: bool) -> Report {
    repair::repair(disk.clone(), apply, &mut |_| ()).unwrap_or_else(|error| panic!("{error}"))
}

/// Repairs, and looks again. The dry run before says the same and writes nothing.
pub fn repaired(disk: &Arc<SimDisk>, what: &str) -> Report {
    let requests = disk.requests();
    let dry = repair(disk, false);
    assert_eq!(disk.requests(), requests, "{what}: a dry run writes nothing");
    let report = repair(disk, true);
    assert_eq!((&dry.losses, &dry.affected), (&report.losses, &report.affected), "{what}");
    assert_eq!(dry.is_clean(), report.is_clean(), "{what}");
    assert!(report.left.is_empty(), "{what}:\n{report}");
    let again = repair(disk, false);
    assert!(again.is_clean(), "{what}: a second look\n{again}\nafter\n{report}");
    let left: Vec<String> = disk.list().unwrap().into_iter().map(|info| info.name).collect();
    assert!(!left.iter().any(|name| name.starts_with("repair.") || name == "REPAIRED"), "{what}: {left:?}");
    report
}

/// Holds what is there to what was: whatever the report does not name is as before. Returns whether anything could be held.
pub fn compare(before: &BTreeMap<Ino, Seen>, disk: &Arc<SimDisk>, report: &Report, what: &str) -> bool {
    if report.losses.iter().any(|loss| loss.keys.is_none()) {
        return false;
    }
    let after = contents(disk);
    let named: BTreeSet<Ino> = report.affected.iter().map(|part| part.ino).collect();
    let moved = |path: &str| {
        let above = |part: &&kvfs::fs::Affected| {
            matches!(part.part, Part::Names | Part::Attributes)
                && (part.path == "/" || path.starts_with(&format!("{}/", part.path)))
        };
        path.starts_with("/lost+found/") || report.affected.iter().any(|part| above(&part))
    };
    let names_lost = report.affected.iter().any(|part| part.part == Part::Names);
    for (ino, old) in before.iter().filter(|(ino, _)| !named.contains(ino)) {
        if old.path == format!("/{LAST}") {
            continue;
        }
        let Some(new) = after.get(ino) else {
            // Both its name and its record: then nothing is left that says its path.
            assert!(moved(&old.path), "{what}: {} is gone and not named\n{report}", old.path);
            continue;
        };
        if old.path != new.path {
            assert!(
                moved(&old.path) || moved(&new.path),
                "{what}: {} is at {}\n{report}",
                old.path,
                new.path
            );
        }
        let links = if names_lost { old.links } else { new.links };
        let same = Seen { path: old.path.clone(), links, ..new.clone() };
        assert!(same == *old, "{what}: {} is not as it was and not named\n{report}", old.path);
    }
    true
}
