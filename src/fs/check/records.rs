//! One key after the other, and what its record says.

use super::super::counters::{self, Change};
use super::super::dirent::Dirent;
use super::super::inode::{HAS_CAPABILITY, HAS_PENDING, HAS_XATTRS, Inode};
use super::super::keys::{self, Key, name_hash};
use super::super::ops::CAPABILITY;
use super::super::ranges::Range;
use super::super::types::{FileKind, Ino, NAME_BYTES_MAX, SIZE_MAX, STORED_END};
use super::{Checker, Missing, Seen};

impl Checker<'_> {
    fn missing(&mut self, ino: Ino) -> &mut Missing {
        self.missing.entry(ino).or_default()
    }

    pub fn range(&mut self, key: &[u8], value: &[u8]) {
        let Some(Key::Reclaim { ino, epoch, from }) = keys::parse(key) else { return };
        match Range::decode(from, value) {
            Ok(range) => self.ranges.entry((ino, epoch)).or_default().push(range),
            Err(error) => {
                self.findings.drop_key(
                    format!("inode {ino}: drop a range to reclaim that does not parse"),
                    key.to_vec(),
                );
                self.findings.problem(format!("inode {ino}, epoch {epoch}, from block {from}: {error}"));
            }
        }
    }

    pub fn key(&mut self, key: &[u8], value: &[u8]) {
        self.summary.keys += 1;
        let parsed = keys::parse(key);
        match &parsed {
            Some(
                Key::Inode { ino } | Key::Xattr { ino, .. } | Key::Block { ino, .. } | Key::Orphan { ino },
            )
            | Some(Key::Dirent { dir: ino, .. })
                if *ino < STORED_END =>
            {
                self.highest_ino = self.highest_ino.max(*ino);
            }
            _ => {}
        }
        match parsed {
            None => {
                self.findings.drop_key(format!("drop the key {}", key.escape_ascii()), key.to_vec());
                self.findings.problem(format!("a key that is not ours: {}", key.escape_ascii()));
            }
            Some(Key::Super) => {}
            Some(Key::Inode { ino }) => self.inode(ino, value),
            Some(Key::Dirent { dir, hash, name }) => self.name(dir, hash, name, value),
            Some(Key::Xattr { ino, name }) => self.xattr(ino, name, value),
            Some(Key::Block { ino, epoch, block }) => self.block(ino, epoch, block, value),
            Some(Key::Orphan { ino }) => match self.seen.get_mut(&ino) {
                Some(seen) => {
                    seen.is_orphan = true;
                    self.summary.orphans += 1;
                }
                None => {
                    self.missing(ino).is_orphan = true;
                    self.findings.problem(format!("an orphan record for inode {ino}, which does not exist"));
                }
            },
            Some(Key::Reclaim { ino, epoch, .. }) => match self.seen.get_mut(&ino) {
                Some(seen) if seen.record.epoch < epoch => {
                    self.findings
                        .drop_key(format!("inode {ino}: drop a range of epoch {epoch}"), key.to_vec());
                    self.findings
                        .problem(format!("inode {ino}: a range of epoch {epoch}, which has not begun"));
                }
                Some(seen) if seen.record.epoch == epoch && !seen.record.has(HAS_PENDING) => {
                    // Where the end of the range may be what was lost, the blocks are worth more than their deletion.
                    if self.evidence.is_some_and(|evidence| (evidence.is_lost)(key)) {
                        self.findings.drop_key(format!("inode {ino}: drop a range to reclaim"), key.to_vec());
                    } else {
                        seen.flags |= HAS_PENDING;
                    }
                    self.findings
                        .problem(format!("inode {ino}: its record does not announce a range to reclaim"));
                }
                _ => {}
            },
            Some(Key::Counter { name }) => {
                if name == counters::TOTAL {
                    self.totals.stored = counters::decode(value);
                }
            }
        }
    }

    fn inode(&mut self, ino: Ino, value: &[u8]) {
        self.summary.inodes += 1;
        let record = match Inode::decode(ino, value) {
            Ok(record) => record,
            Err(error) => {
                self.missing(ino).is_unreadable = true;
                return self.findings.problem(error.to_string());
            }
        };
        if self.superblock.is_some_and(|superblock| ino >= superblock.next_ino) {
            self.findings.problem(format!("inode {ino} has a number that is not given away yet"));
        }
        self.summary.directories += u64::from(record.is_directory());
        self.totals.counted = self.totals.counted.plus(Change::added(&record));
        let (epoch, flags) = (record.epoch, record.flags);
        let (names, subdirectories, home, stored_bytes, end_bytes) = (0, 0, None, 0, 0);
        let seen = Seen {
            record,
            names,
            subdirectories,
            home,
            stored_bytes,
            end_bytes,
            epoch,
            flags,
            is_orphan: false,
        };
        self.seen.insert(ino, seen);
    }

    fn name(&mut self, dir: Ino, hash: u64, name: &[u8], value: &[u8]) {
        self.summary.names += 1;
        self.totals.counted = self.totals.counted.plus(Change::records(Dirent::record_bytes(name) as i64));
        let place = format!("directory {dir}, name \"{}\"", name.escape_ascii());
        let key = keys::dirent(dir, hash, name);
        let dropped = format!("{place}: drop the name");
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.iter().any(|byte| b"/\0".contains(byte)) {
            self.findings.drop_key(dropped.clone(), key.clone());
            self.findings.problem(format!("{place}: no file can have this name"));
        } else if let Some(superblock) = self.superblock
            && name_hash(superblock.identity.secret, name) != hash
        {
            let right = keys::dirent(dir, name_hash(superblock.identity.secret, name), name);
            let changes = vec![(key.clone(), None), (right, Some(value.to_vec()))];
            self.findings.mend(format!("{place}: put it where it can be found"), changes);
            self.findings.problem(format!("{place}: it lies under the hash of another name"));
        }
        self.lost_and_found.see_name(dir, name);
        let entry = match Dirent::decode(value) {
            Ok(entry) => entry,
            Err(error) => {
                self.findings.drop_key(dropped, key);
                return self.findings.problem(format!("{place}: {error}"));
            }
        };
        match self.seen.get_mut(&dir) {
            Some(seen) if seen.record.is_directory() => {
                seen.subdirectories += u32::from(entry.kind == FileKind::Directory);
                if seen.record.links == 0 {
                    self.findings.drop_key(dropped.clone(), key.clone());
                    self.findings.problem(format!("{place}: the directory is removed"));
                }
            }
            Some(_) => {
                self.findings.drop_key(dropped.clone(), key.clone());
                self.findings.problem(format!("{place}: inode {dir} is not a directory"));
            }
            None => {
                self.missing(dir).entries.push(key.clone());
                self.findings.problem(format!("{place}: the directory does not exist"));
            }
        }
        match self.seen.get_mut(&entry.ino) {
            Some(seen) => {
                seen.names += 1;
                seen.home = Some(dir);
                let kind = seen.record.kind;
                if kind == FileKind::Directory {
                    self.directory_names.entry(entry.ino).or_default().push((dir, key.clone()));
                    if seen.record.links > 0 {
                        self.lost_and_found.see_directory(dir, name, entry.ino);
                    }
                }
                if kind != entry.kind {
                    let right = Dirent { kind, ..entry }.encode();
                    self.findings.mend(format!("{place}: say that it is {kind:?}"), vec![(key, Some(right))]);
                    self.findings.problem(format!(
                        "{place}: it says {:?}, inode {} is {kind:?}",
                        entry.kind, entry.ino
                    ));
                }
            }
            None => {
                let missing = self.missing(entry.ino);
                missing.kind = Some(entry.kind);
                missing.home = Some(dir);
                missing.names.push(key);
                self.findings.problem(format!("{place}: inode {} does not exist", entry.ino));
            }
        }
    }

    fn xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        self.summary.xattrs += 1;
        self.totals.counted =
            self.totals.counted.plus(Change::records((9 + name.len() + value.len()) as i64));
        let needed = if name == CAPABILITY { HAS_XATTRS | HAS_CAPABILITY } else { HAS_XATTRS };
        match self.seen.get_mut(&ino) {
            Some(seen) if seen.record.flags & needed == needed => {}
            Some(seen) => {
                seen.flags |= needed;
                let name = name.escape_ascii();
                self.findings.problem(format!("inode {ino}: its record does not announce attribute {name}"));
            }
            None => {
                let key = keys::xattr(ino, name);
                self.missing(ino).keys.push(key);
                self.findings.problem(format!("an extended attribute of inode {ino}, which does not exist"));
            }
        }
    }

    fn block(&mut self, ino: Ino, epoch: u32, block: u64, value: &[u8]) {
        let ranges = self.ranges.get(&(ino, epoch));
        if ranges.is_some_and(|ranges| ranges.iter().any(|range| range.from <= block && block < range.to)) {
            self.summary.reclaim_blocks += 1;
            return;
        }
        let length = value.len() as u64;
        let block_bytes = self.superblock.map_or(u64::MAX, |superblock| superblock.block_bytes);
        let key = keys::block(ino, epoch, block);
        let end = block.checked_mul(block_bytes).and_then(|start| start.checked_add(length.min(block_bytes)));
        let end = end.filter(|end| *end <= SIZE_MAX && length > 0);
        let Some(seen) = self.seen.get_mut(&ino) else {
            let missing = self.missing(ino);
            missing.keys.push(key);
            missing.blocks += 1;
            if let Some(end) = end {
                let before = if missing.epoch == epoch { missing.end_bytes } else { 0 };
                (missing.epoch, missing.end_bytes) = (epoch, end.max(before));
            }
            return self.findings.problem(format!("block {block} of inode {ino}, which does not exist"));
        };
        let (kind, current, size) = (seen.record.kind, seen.record.epoch, seen.record.size);
        let room = size.saturating_sub(block.saturating_mul(block_bytes)).min(block_bytes);
        if kind != FileKind::File {
            self.findings.drop_key(format!("drop block {block} of inode {ino}"), key);
            self.findings.problem(format!("block {block} of inode {ino}, which is not a file"));
        } else if epoch != current {
            match epoch < current {
                true => {
                    self.findings.drop_key(format!("drop block {block} of inode {ino}, epoch {epoch}"), key)
                }
                false => seen.epoch = seen.epoch.max(epoch),
            }
            self.findings.problem(format!("block {block} of inode {ino} is of epoch {epoch}, not {current}"));
        } else if length == 0 || length > room {
            match end {
                None => self.findings.drop_key(format!("drop block {block} of inode {ino}"), key),
                Some(_) if length > block_bytes => {
                    let cut = value[..block_bytes as usize].to_vec();
                    self.findings.mend(format!("cut block {block} of inode {ino}"), vec![(key, Some(cut))]);
                }
                Some(end) => seen.end_bytes = seen.end_bytes.max(end),
            }
            self.findings
                .problem(format!("block {block} of inode {ino} has {length} bytes where {room} may be"));
        } else {
            seen.stored_bytes += length;
            self.summary.blocks += 1;
            self.summary.stored_bytes += length;
        }
    }
}
