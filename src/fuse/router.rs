//! Routing of a request to the store or to the virtual tree. The only place that tells their inodes apart; behind it nobody asks.
//!
//! The two meet at the root, which is the store's: the names that the tree takes there are the tree's, and `..` of what lies
//! right below is the store's root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::INodeNo;

use crate::fs::types::{Ino, ROOT};
use crate::virtual_files::VirtualTree;

/// The side that serves an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The store.
    Stored(Ino),
    /// The virtual tree.
    Virtual(Ino),
}

/// The side that serves an inode.
pub(super) fn side(tree: &VirtualTree, ino: INodeNo) -> Side {
    let ino = Ino(ino.0);
    if tree.owns(ino) { Side::Virtual(ino) } else { Side::Stored(ino) }
}

/// The side that serves `name` in `parent`, and the name and directory under which that side knows it.
pub(super) fn side_of_name<'a>(tree: &VirtualTree, parent: INodeNo, name: &'a OsStr) -> (Side, &'a OsStr) {
    match side(tree, parent) {
        Side::Stored(ROOT) if tree.takes_at_root(name.as_bytes()) => (Side::Virtual(ROOT), name),
        Side::Virtual(directory) if name == ".." && tree.parent(directory) == Some(ROOT) => {
            (Side::Stored(ROOT), OsStr::new("."))
        }
        side => (side, name),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::ManualClock;
    use crate::fs::types::Caller;
    use crate::virtual_files::VirtualFile;

    const FILE: Ino = Ino(7);
    const LAST: Ino = Ino(u64::MAX);

    struct Empty;

    impl VirtualFile for Empty {
        fn read(&self) -> Vec<u8> {
            Vec::new()
        }
    }

    #[test]
    fn inodes_and_names_go_to_their_side() {
        let mut tree = VirtualTree::new(Caller::ROOT, Arc::new(ManualClock::default()));
        tree.add_file(ROOT, ".stats", Arc::new(Empty));
        let directory = tree.add_directory(ROOT, ".stats.d");
        let below = tree.add_directory(directory, "since");
        tree.add_file(directory, "json", Arc::new(Empty));
        let of = |ino: Ino| side(&tree, INodeNo(ino.0));
        assert_eq!([of(ROOT), of(FILE)], [Side::Stored(ROOT), Side::Stored(FILE)]);
        assert_eq!([of(directory), of(LAST)], [Side::Virtual(directory), Side::Virtual(LAST)]);
        for (parent, name, expected) in [
            // The root is the store's, but for the names that the tree takes there.
            (ROOT, ".stats", (Side::Virtual(ROOT), ".stats")),
            (ROOT, ".stats.d", (Side::Virtual(ROOT), ".stats.d")),
            (ROOT, ".stats.", (Side::Stored(ROOT), ".stats.")),
            (ROOT, "json", (Side::Stored(ROOT), "json")),
            (ROOT, ".", (Side::Stored(ROOT), ".")),
            (ROOT, "..", (Side::Stored(ROOT), "..")),
            // Nowhere else.
            (FILE, ".stats", (Side::Stored(FILE), ".stats")),
            (directory, "json", (Side::Virtual(directory), "json")),
            (directory, "absent", (Side::Virtual(directory), "absent")),
            (directory, ".", (Side::Virtual(directory), ".")),
            // What lies above the tree is the root.
            (directory, "..", (Side::Stored(ROOT), ".")),
            (below, "..", (Side::Virtual(below), "..")),
        ] {
            let (side, known) = side_of_name(&tree, INodeNo(parent.0), OsStr::new(name));
            assert_eq!((side, known), (expected.0, OsStr::new(expected.1)), "{name} in {parent}");
        }
    }
}
