//! The directory where a repair puts what has no name.

use std::collections::HashSet;

use super::super::dirent::Dirent;
use super::super::inode::Inode;
use super::super::keys::{self, name_hash};
use super::super::superblock::Superblock;
use super::super::types::{FileKind, Ino, ROOT, Time};
use super::findings::{Changes, Findings};

/// Its name.
const NAME: &[u8] = b"lost+found";

/// Facts about the directory.
#[derive(Default)]
pub(super) struct LostAndFound {
    /// It, once it was seen or made.
    home: Option<Ino>,
    /// Names in it.
    names: HashSet<Vec<u8>>,
    /// Names in the root that begin like its own.
    root_names: HashSet<Vec<u8>>,
}

impl LostAndFound {
    /// `name` lies in the directory `dir`.
    pub fn see_name(&mut self, dir: Ino, name: &[u8]) {
        if dir == ROOT && name.starts_with(NAME) {
            self.root_names.insert(name.to_vec());
        }
        if self.home == Some(dir) {
            self.names.insert(name.to_vec());
        }
    }

    /// `name` in `dir` is the living directory `ino`.
    pub fn see_directory(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        if dir == ROOT && name == NAME {
            self.home = Some(ino);
        }
    }

    /// Gives the inode `ino`, which has none, a name in here; the directory is made if there is none.
    pub fn reconnect(
        &mut self,
        ino: Ino,
        mended: &mut Inode,
        superblock: &mut Superblock,
        findings: &mut Findings<'_>,
    ) {
        let secret = superblock.identity.secret;
        let mut changes = Changes::new();
        let home = match self.home {
            Some(home) => home,
            None => {
                let home = superblock.next_ino;
                superblock.next_ino = home.next();
                let record =
                    Inode { parent: ROOT, ..Inode::new(FileKind::Directory, 0o700, 0, 0, Time::default()) };
                let name = free_name(NAME, &self.root_names);
                let entry = Dirent { ino: home, kind: FileKind::Directory };
                changes.push((keys::superblock(), Some(superblock.encode())));
                changes.push((keys::inode(home), Some(record.encode())));
                changes.push((keys::dirent(ROOT, name_hash(secret, &name), &name), Some(entry.encode())));
                self.home = Some(home);
                home
            }
        };
        let name = free_name(format!("#{ino}").as_bytes(), &self.names);
        let shown = name.escape_ascii().to_string();
        let entry = Dirent { ino, kind: mended.kind };
        changes.push((keys::dirent(home, name_hash(secret, &name), &name), Some(entry.encode())));
        self.names.insert(name);
        if mended.is_directory() {
            mended.parent = home;
        }
        findings.mend(format!("inode {ino}: name it lost+found/{shown}"), changes);
    }
}

/// `name`, with a number behind it if it is taken.
fn free_name(name: &[u8], taken: &HashSet<Vec<u8>>) -> Vec<u8> {
    let numbered = (1..).map(|number: u64| [name, format!(".{number}").as_bytes()].concat());
    let mut names = std::iter::once(name.to_vec()).chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}
