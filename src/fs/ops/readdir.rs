//! Listing directories.
//!
//! A cookie is the hash of the last name seen, so a listing goes on right after it whatever has been made or removed
//! meanwhile: a name that exists throughout is listed once. Of names that share a hash all but the last
//! carry the cookie before them, so a reply that ends between them begins again with the first: none is lost.

use std::ops::ControlFlow;

use crate::engine::Tier;
use crate::fs::dirent::Dirent;
use crate::fs::error::damaged;
use crate::fs::keys::{self, HASH_MAX, Key};
use crate::fs::types::{Attributes, DirEntry, FileKind, Ino};
use crate::fs::{Error, FileSystem, Result};

/// Names read at a time.
const CHUNK: usize = 64;
/// Cookies of `.` and `..`.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl FileSystem {
    /// Visits the names of a directory behind `cookie` (0: from the start) until `visit` returns false because its
    /// buffer is full.
    pub fn readdir(
        &self,
        tier: Tier,
        ino: Ino,
        cookie: u64,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> Result<()> {
        self.list(tier, ino, cookie, &mut |entry| Ok(visit(entry)))
    }

    /// The same with attributes. The kernel has one more reference to each entry for which `visit` returned true, except
    /// to `.` and `..`.
    pub fn readdir_plus(
        &self,
        tier: Tier,
        ino: Ino,
        cookie: u64,
        visit: &mut dyn FnMut(DirEntry, &Attributes) -> bool,
    ) -> Result<()> {
        self.list(tier, ino, cookie, &mut |entry| {
            if entry.cookie <= DOT_DOT && matches!(&entry.name[..], b"." | b"..") {
                let attributes = self.getattr(tier, entry.ino)?;
                return Ok(visit(entry, &attributes));
            }
            let cell = match self.inodes.cell(entry.ino, tier) {
                Ok(cell) => cell,
                // Removed since its name was read.
                Err(Error::Stale) => return Ok(true),
                Err(error) => return Err(error),
            };
            cell.add_lookups(1);
            self.inodes.note_path(ino, &entry.name, &cell);
            let answer = match self.attributes_of(&cell, tier) {
                Ok(attributes) if attributes.links > 0 => match visit(entry, &attributes) {
                    true => return Ok(true),
                    false => Ok(false),
                },
                Ok(_) | Err(Error::Stale) => Ok(true),
                Err(error) => Err(error),
            };
            self.forget(cell.ino, 1);
            answer
        })
    }

    /// Reads names by the chunk and visits them without a lock. Once something was visited, what goes wrong only ends
    /// the reply: the next one starts there and reports it.
    fn list(
        &self,
        tier: Tier,
        ino: Ino,
        mut cookie: u64,
        visit: &mut dyn FnMut(DirEntry) -> Result<bool>,
    ) -> Result<()> {
        let cell = self.inodes.cell(ino, tier)?;
        let mut visited = false;
        loop {
            let chunk = (|| {
                let state = cell.read(tier)?;
                state.require_directory()?;
                self.names_after(ino, state.record.parent, cookie, tier)
            })();
            let chunk = match chunk {
                Err(_) if visited => return Ok(()),
                chunk => chunk?,
            };
            let Some(last) = chunk.last() else { break };
            cookie = last.cookie;
            for entry in chunk {
                match visit(entry) {
                    Ok(true) => visited = true,
                    Ok(false) => return Ok(()),
                    Err(_) if visited => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        if self.options.diratime
            && let Ok(state) = cell.read(tier)
        {
            let (atime, newest) = (state.record.atime, state.record.mtime.max(state.record.ctime));
            drop(state);
            self.touch(&cell, atime, newest);
        }
        Ok(())
    }

    /// The next names of a locked directory; never only some of those that share a hash.
    fn names_after(&self, ino: Ino, parent: Ino, mut cookie: u64, tier: Tier) -> Result<Vec<DirEntry>> {
        let mut chunk: Vec<DirEntry> = Vec::new();
        for (dot, name, ino) in [(DOT, &b"."[..], ino), (DOT_DOT, b"..", parent)] {
            if cookie < dot {
                chunk.push(DirEntry { ino, kind: FileKind::Directory, cookie: dot, name: name.to_vec() });
                cookie = dot;
            }
        }
        // The cookie before the names that share the hash of the last one.
        let mut before = cookie;
        let mut problem = None;
        self.engine.scan(keys::dirents_after(ino, cookie).range(), tier, &mut |key, value| {
            let Some(Key::Dirent { hash, name, .. }) = keys::parse(key) else {
                return ControlFlow::Break(());
            };
            if hash > HASH_MAX {
                // A listing could not go on behind it.
                problem = Some(damaged(format!("a name in directory {ino} has the hash {hash:x}")));
                return ControlFlow::Break(());
            }
            match chunk.last_mut() {
                Some(last) if last.cookie == hash => last.cookie = before,
                Some(last) => {
                    before = last.cookie;
                    if chunk.len() >= CHUNK {
                        return ControlFlow::Break(());
                    }
                }
                None => {}
            }
            match Dirent::decode(value) {
                Ok(entry) => {
                    let (ino, kind) = (entry.ino, entry.kind);
                    chunk.push(DirEntry { ino, kind, cookie: hash, name: name.to_vec() });
                }
                Err(error) => problem = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        problem.map_or(Ok(chunk), Err)
    }
}
