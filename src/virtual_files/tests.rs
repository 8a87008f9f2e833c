use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::snapshots::{RECENT, TOLD};
use super::*;
use crate::base::clock::ManualClock;
use crate::fs::types::{FileKind, ROOT};

/// Its text says how often it was read, in a length that grows.
#[derive(Default)]
struct Counting(Mutex<usize>, Mutex<Vec<Vec<u8>>>);

impl VirtualFile for Counting {
    fn read(&self) -> Vec<u8> {
        let mut reads = self.0.lock();
        *reads += 1;
        vec![b'0' + (*reads % 10) as u8; *reads * 100]
    }
    fn mode(&self) -> u32 {
        0o644
    }
    fn write(&self, _: Caller, text: &[u8], done: Done) {
        self.1.lock().push(text.to_vec());
        done(Ok(()));
    }
}

struct Fixed(&'static str);

impl VirtualFile for Fixed {
    fn read(&self) -> Vec<u8> {
        self.0.into()
    }
}

#[derive(Default)]
struct Changing(Mutex<BTreeMap<Vec<u8>, &'static str>>);

impl VirtualDirectory for Changing {
    fn names(&self) -> Vec<Vec<u8>> {
        self.0.lock().keys().cloned().collect()
    }
    fn file(&self, name: &[u8]) -> Option<Arc<dyn VirtualFile>> {
        self.0.lock().get(name).map(|text| Arc::new(Fixed(text)) as Arc<dyn VirtualFile>)
    }
}

struct Rig {
    clock: Arc<ManualClock>,
    file: Arc<Counting>,
    changing: Arc<Changing>,
    tree: VirtualTree,
    directory: Ino,
}

const OWNER: Caller = Caller { uid: 7, gid: 8, pid: 9 };

fn rig() -> Rig {
    let clock = Arc::new(ManualClock::default());
    let (file, changing) = (Arc::new(Counting::default()), Arc::new(Changing::default()));
    let mut tree = VirtualTree::new(OWNER, clock.clone());
    tree.add_file(ROOT, ".stats", file.clone());
    let directory = tree.add_directory(ROOT, ".stats.d");
    tree.add_file(directory, "fixed", Arc::new(Fixed("text")));
    tree.add_dynamic(directory, "since", changing.clone());
    Rig { clock, file, changing, tree, directory }
}

fn list(tree: &VirtualTree, ino: Ino, cookie: u64) -> Vec<(String, Ino, u64)> {
    let mut found = Vec::new();
    tree.readdir(ino, cookie, &mut |entry| {
        found.push((String::from_utf8(entry.name).unwrap(), entry.ino, entry.cookie));
        true
    })
    .unwrap();
    found
}

#[test]
fn the_size_is_that_of_the_pinned_text_while_a_handle_is_open() {
    let Rig { clock, file, tree, .. } = rig();
    let ino = tree.lookup(ROOT, b".stats", OWNER).unwrap().ino;
    let size = || tree.getattr(ino).unwrap().size;
    let before = size();
    clock.advance(RECENT);
    assert!(before < size(), "without a handle a look is a recent one");
    clock.advance(TOLD);
    let first = tree.open(ino, OWNER).unwrap();
    let pinned = size();
    let time = tree.getattr(ino).unwrap().mtime;
    clock.advance(TOLD);
    assert_eq!((size(), tree.getattr(ino).unwrap().mtime), (pinned, time));
    let whole = tree.read(first, 0, u32::MAX).unwrap();
    assert_eq!(whole.len() as u64, pinned);
    // A second handle has a newer text; the first keeps its own, in any order and beyond the end.
    let second = tree.open(ino, OWNER).unwrap();
    assert_eq!(size(), pinned + 100);
    assert_ne!(tree.getattr(ino).unwrap().mtime, time);
    assert_eq!(tree.read(first, 250, 100).unwrap(), whole[250..].to_vec()[..(whole.len() - 250).min(100)]);
    assert_eq!(tree.read(first, 10, 5).unwrap(), whole[10..15]);
    assert_eq!(tree.read(first, 0, u32::MAX).unwrap(), whole);
    for offset in [pinned, pinned + 1, u64::MAX] {
        assert_eq!(tree.read(first, offset, 10).unwrap(), b"");
    }
    tree.release(second);
    assert_eq!(size(), pinned + 100, "the newest pinned text, while any handle is open");
    let reads = *file.0.lock();
    tree.release(first);
    tree.release(first);
    clock.advance(RECENT);
    assert!(size() > pinned && *file.0.lock() == reads + 1);
    assert!(matches!(tree.read(first, 0, 1), Err(Error::Stale)));
}

/// Between a lookup and its open time passes and others look, so that texts grow: what is read is as long as the lookup has told.
#[test]
fn an_open_takes_the_text_whose_size_the_lookup_told() {
    let stranger = Caller { uid: 1000, gid: 7, pid: 1 };
    let Rig { clock, tree, .. } = rig();
    let long_open = tree.open(tree.lookup(ROOT, b".stats", OWNER).unwrap().ino, OWNER).unwrap();
    for caller in [OWNER, stranger, Caller::ROOT] {
        clock.advance(TOLD);
        let told = tree.lookup(ROOT, b".stats", caller).unwrap();
        clock.advance(TOLD - Duration::from_nanos(1));
        tree.getattr(told.ino).unwrap();
        let handle = tree.open(told.ino, caller).unwrap();
        assert_eq!(tree.read(handle, 0, u32::MAX).unwrap().len() as u64, told.size);
        assert_eq!(tree.getattr(told.ino).unwrap().size, told.size);
        // The lookup of the next open makes a text of its own.
        clock.advance(RECENT);
        assert!(tree.lookup(ROOT, b".stats", caller).unwrap().size > told.size);
        tree.release(handle);
    }
    tree.release(long_open);
}

/// A text is made for who commands the mount, as often as he opens the file; for anybody else, and for a look at the size, ten
/// times a second.
#[test]
fn strangers_do_not_make_texts_as_fast_as_they_ask() {
    let stranger = Caller { uid: 1000, gid: 7, pid: 1 };
    let Rig { clock, file, tree, .. } = rig();
    let made = || *file.0.lock();
    let ino = tree.lookup(ROOT, b".stats", stranger).unwrap().ino;
    let before = made();
    for _ in 0..1000 {
        tree.getattr(ino).unwrap();
        tree.lookup(ROOT, b".stats", stranger).unwrap();
        tree.release(tree.open(ino, stranger).unwrap());
    }
    assert_eq!(made(), before);
    for _ in 0..20 {
        clock.advance(RECENT / 2);
        tree.getattr(ino).unwrap();
        tree.release(tree.open(ino, stranger).unwrap());
    }
    assert_eq!(made(), before + 10);
    for caller in [Caller::ROOT, OWNER] {
        clock.advance(TOLD);
        let before = made();
        let (first, second) = (tree.open(ino, caller).unwrap(), tree.open(ino, caller).unwrap());
        assert_eq!(made(), before + 2);
        assert_ne!(tree.read(first, 0, u32::MAX).unwrap(), tree.read(second, 0, u32::MAX).unwrap());
        tree.release(first);
        tree.release(second);
    }
}

/// The kernel looks up `.` and `..` of a node that it knows by number alone.
#[test]
fn numbers_lead_to_a_file_and_to_what_it_lies_in() {
    let Rig { changing, tree, directory, .. } = rig();
    changing.0.lock().insert(b"a".into(), "12345");
    let since = tree.lookup(directory, b"since", OWNER).unwrap().ino;
    let file = tree.lookup(since, b"a", OWNER).unwrap();
    assert_eq!(tree.lookup(file.ino, b".", OWNER), Some(file));
    assert_eq!(tree.lookup(file.ino, b"..", OWNER).unwrap().ino, since);
    assert_eq!(tree.lookup(since, b".", OWNER).unwrap().ino, since);
    assert_eq!(tree.lookup(since, b"..", OWNER).unwrap().ino, directory);
    // The root is the store's.
    assert_eq!((tree.parent(directory), tree.lookup(directory, b"..", OWNER)), (Some(ROOT), None));
    changing.0.lock().clear();
    assert_eq!((tree.lookup(file.ino, b".", OWNER), tree.parent(file.ino)), (None, None));
}

#[test]
fn writes_reach_the_file_from_those_who_may() {
    let Rig { file, tree, directory, .. } = rig();
    let write = |ino, uid| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let caller = Caller { uid, gid: 0, pid: 1 };
        tree.write(ino, caller, b"word", Box::new(move |result| sender.send(result).unwrap()));
        receiver.try_recv().unwrap().map_err(|error| error.errno())
    };
    let ino = tree.lookup(ROOT, b".stats", OWNER).unwrap().ino;
    assert_eq!([write(ino, 0), write(ino, 7), write(ino, 8)], [Ok(()), Ok(()), Err(libc::EPERM)]);
    assert_eq!(file.1.lock().len(), 2);
    let fixed = tree.lookup(directory, b"fixed", OWNER).unwrap().ino;
    assert_eq!([write(fixed, 0), write(directory, 0)], [Err(libc::EPERM), Err(libc::EISDIR)]);
    assert_eq!(write(FIRST_VIRTUAL.plus(1000), 0), Err(libc::ESTALE));
}

#[test]
fn names_are_found_and_listed_but_not_in_the_root() {
    let Rig { changing, tree, directory, .. } = rig();
    assert!(
        tree.takes_at_root(b".stats") && tree.takes_at_root(b".stats.d") && !tree.takes_at_root(b"fixed")
    );
    assert!(tree.lookup(ROOT, b"fixed", OWNER).is_none() && tree.lookup(Ino(5), b".stats", OWNER).is_none());
    assert!(tree.owns(directory) && !tree.owns(ROOT));
    let attributes = tree.getattr(directory).unwrap();
    assert_eq!((attributes.kind, attributes.uid, attributes.gid), (FileKind::Directory, 7, 8));
    let names: Vec<String> = list(&tree, directory, 0).into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, [".", "..", "fixed", "since"]);
    assert_eq!(list(&tree, directory, 0)[1].1, ROOT);

    let since = tree.lookup(directory, b"since", OWNER).unwrap().ino;
    for name in ["a", "b", "c", "d"] {
        changing.0.lock().insert(name.into(), "12345");
    }
    let all = list(&tree, since, 0);
    assert_eq!(all.len(), 6);
    for (name, ino, cookie) in &all[2..] {
        assert_eq!(tree.lookup(since, name.as_bytes(), OWNER).unwrap().ino, *ino);
        assert_eq!(tree.getattr(*ino).unwrap().size, 5);
        // Going on from an entry works whatever comes and goes meanwhile.
        let rest: Vec<String> = list(&tree, since, *cookie).into_iter().map(|entry| entry.0).collect();
        let place = all.iter().position(|entry| entry.0 == *name).unwrap();
        assert_eq!(rest, all[place + 1..].iter().map(|entry| entry.0.clone()).collect::<Vec<_>>());
    }
    let (gone, ino, cookie) = all[3].clone();
    changing.0.lock().remove(gone.as_bytes());
    assert_eq!(list(&tree, since, cookie).len(), 2);
    assert!(tree.lookup(since, gone.as_bytes(), OWNER).is_none());
    assert!(
        matches!(tree.getattr(ino), Err(Error::Stale)) && matches!(tree.open(ino, OWNER), Err(Error::Stale))
    );
    changing.0.lock().insert(gone.clone().into_bytes(), "again");
    assert_eq!(tree.lookup(since, gone.as_bytes(), OWNER).unwrap().ino, ino, "a name keeps its number");
    // A reader that takes one entry at a time sees each once.
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let before = seen.len();
        tree.readdir(since, cookie, &mut |entry| {
            cookie = entry.cookie;
            seen.push(entry.name);
            false
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
    }
    assert_eq!(seen.len(), 6);
    assert!(matches!(tree.readdir(FIRST_VIRTUAL, 0, &mut |_| true), Err(Error::NotDirectory)));
}
