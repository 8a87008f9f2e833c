//! The tree of directories: each has one name, and going up ends at the root.

use std::collections::{BTreeSet, HashSet};

use super::super::inode::Inode;
use super::super::types::{Ino, ROOT};
use super::{Checker, Seen};

impl Checker<'_> {
    pub fn end_directory(&mut self, ino: Ino, seen: &Seen, mended: &mut Inode, problems: &mut Vec<String>) {
        let names = self.directory_names.remove(&ino).unwrap_or_default();
        // One stays: the one that the record knows of, or else the first. Of the root, none.
        let kept = match ino {
            ROOT => None,
            _ => names.iter().find(|(home, _)| *home == seen.record.parent).or(names.first()),
        };
        let kept_key = kept.map(|(_, key)| key.clone());
        mended.parent = if ino == ROOT { ROOT } else { kept.map_or(seen.record.parent, |(home, _)| *home) };
        if ino == ROOT && (!names.is_empty() || seen.record.parent != ROOT) {
            problems.push("the root has a name or a parent".to_string());
        } else if names.len() > 1 {
            problems.push(format!("directory {ino} has {} names", names.len()));
        } else if mended.parent != seen.record.parent {
            problems.push(format!("directory {ino} is not in {}, as it says", seen.record.parent));
        }
        for (home, key) in names.iter().filter(|(_, key)| Some(key) != kept_key.as_ref()) {
            self.findings
                .drop_key(format!("directory {ino}: drop its name in directory {home}"), key.clone());
        }
        self.directory_names.insert(ino, names);
    }

    /// Directories that lie in themselves.
    pub fn end_directories(&mut self, problems: &mut Vec<String>) {
        let above = |ino: Ino| {
            let seen = self.seen.get(&ino).filter(|seen| ino != ROOT && seen.record.links > 0)?;
            // A directory without a name is a way out: it gets a name elsewhere.
            (seen.names > 0).then_some(seen.record.parent)
        };
        // Those from which going up ends.
        let mut sound: HashSet<Ino> = HashSet::new();
        let mut cut: BTreeSet<Ino> = BTreeSet::new();
        let directories = self.seen.iter().filter(|(_, seen)| seen.record.is_directory());
        let mut inos: Vec<Ino> = directories.map(|(ino, _)| *ino).collect();
        inos.sort_unstable();
        for ino in inos {
            let (mut way, mut at) = (Vec::new(), Some(ino));
            let mut on_way = HashSet::new();
            while let Some(here) = at.filter(|here| !sound.contains(here) && on_way.insert(*here)) {
                way.push(here);
                at = above(here);
            }
            if let Some(again) = at.filter(|here| on_way.contains(here)) {
                problems.push(format!("the directories above {ino} form a cycle"));
                let from = way.iter().position(|here| *here == again).unwrap_or(0);
                cut.extend(way[from..].iter().min());
            } else {
                sound.extend(way);
            }
        }
        // Only when parents are right: what else is wrong comes first.
        if self.findings.mends.is_empty() {
            for ino in cut {
                let names = self.directory_names.remove(&ino).unwrap_or_default();
                let changes = names.into_iter().map(|(_, key)| (key, None)).collect();
                self.findings
                    .mend(format!("directory {ino}: take it out of the directories below it"), changes);
            }
        }
    }
}
