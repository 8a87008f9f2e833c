//! Random calls to the filesystem and to its model.

use kvfs::fs::types::{SIZE_MAX, SetTime};

use super::*;

impl Run {
    /// One random call to both.
    pub fn step(&mut self) {
        self.clock.advance(Duration::from_millis(self.random.below(400)));
        self.model.now = self.clock.now().into();
        let fs = self.fs.clone();
        let caller =
            Caller { uid: self.random.below(2) as u32 * 1000, gid: self.random.below(3) as u32, pid: 1 };
        let choice = self.random.below(100);
        match choice {
            0..=19 => {
                let (parent, name) = (self.directory(), self.name());
                let (mode, umask) = (self.random.bits() as u32 & 0o7777, self.random.bits() as u32 & 0o77);
                let target = vec![b't'; [0, 1, 300, 5000][self.random.below(4) as usize]];
                let full = self.model.nodes.len() > 40;
                let (op, node) = match self.random.below(10) {
                    _ if full => return,
                    0..=4 => (Op::Create, NewNode::File),
                    5..=7 => (Op::Mkdir, NewNode::Directory),
                    8 => (Op::Symlink, NewNode::Symlink(&target)),
                    _ => (Op::Mknod, NewNode::Special { kind: FileKind::CharDevice, rdev: 7 }),
                };
                self.log.push(format!("make {node:?} {parent} {}", name.escape_ascii()));
                let real = ask(|tier| fs.make(tier, op, caller, parent, &name, mode, umask, node));
                let ino = real.as_ref().map_or(Ino(0), |attributes| attributes.ino);
                let model = self.model.make(ino, caller, parent, &name, mode, umask, node);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
                fs.forget(ino, 1);
            }
            20..=24 => {
                let (ino, parent, name) = (self.pick(|_| true), self.directory(), self.name());
                self.log.push(format!("link {ino} {parent} {}", name.escape_ascii()));
                let real = ask(|tier| fs.link(tier, ino, parent, &name));
                if real.is_ok() {
                    fs.forget(ino, 1);
                }
                let model = self.model.link(ino, parent, &name);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
            }
            25..=34 => {
                let (mut parent, mut name, rmdir) = (self.directory(), self.name(), self.random.one_in(2));
                // Files that are open lose their names often enough to matter.
                if self.random.one_in(3)
                    && let Some(place) = self.name_of_open()
                {
                    (parent, name) = place;
                }
                self.log.push(format!("remove {parent} {} rmdir={rmdir}", name.escape_ascii()));
                let real = ask(|tier| match rmdir {
                    true => fs.rmdir(tier, parent, &name),
                    false => fs.unlink(tier, parent, &name),
                });
                let model = self.model.remove(parent, &name, rmdir);
                self.same(real, model);
            }
            35..=49 => {
                let (parent, name) = (self.directory(), self.name());
                let new_parent = if self.random.one_in(2) { parent } else { self.directory() };
                let new_name = self.name();
                let modes =
                    [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = modes[self.random.below(4) as usize];
                let whiteout = self.random.one_in(4).then_some(caller);
                let (from, to) = (name.escape_ascii(), new_name.escape_ascii());
                self.log.push(format!("rename {parent} {from} {new_parent} {to} {mode:?} {whiteout:?}"));
                let old = self.model.nodes[&parent].names.get(&name).copied();
                let (from, to) = ((parent, &name[..]), (new_parent, &new_name[..]));
                let real = ask(|tier| fs.rename(tier, from, to, mode, whiteout));
                let left = ask(|tier| fs.lookup(tier, parent, &name)).map_or(Ino(0), |found| found.ino);
                fs.forget(left, 1);
                // The number that a whiteout got only the filesystem knows.
                assert!(real.is_err() || whiteout.is_none() || left != Ino(0), "{}", self.story());
                let made = whiteout.is_some() && real.is_ok() && old != Some(left);
                assert!(!made || !self.model.nodes.contains_key(&left), "{}", self.story());
                let model = self.model.rename(from, to, mode, whiteout.map(|caller| (left, caller)));
                self.same(real, model);
            }
            50..=64 => {
                let (ino, offset, data) = (self.file(), self.offset(), self.data());
                let offset = if self.random.one_in(60) { SIZE_MAX - 3 } else { offset };
                let clear = self.random.one_in(2);
                self.log.push(format!("write {ino} {offset} {} clear_suid={clear}", data.len()));
                let real = ask(|tier| fs.write(tier, caller, ino, offset, &data, clear));
                let model = self.model.write(ino, offset, &data, clear);
                self.same(real, model);
            }
            65..=74 => {
                let ino = if self.random.one_in(3) { self.pick(|_| true) } else { self.file() };
                let sizes = [0, self.offset(), self.offset(), SIZE_MAX + 1];
                let size = sizes[self.random.below(40).min(3) as usize % 4];
                let size = if size > SIZE_MAX && !self.random.one_in(10) { 0 } else { size };
                let maybe =
                    |random: &mut Prng, one_in: u64| random.one_in(one_in).then(|| random.bits() as u32);
                let changes = SetAttributes {
                    permissions: maybe(&mut self.random, 3).map(|bits| bits & 0o7777),
                    uid: maybe(&mut self.random, 5),
                    gid: maybe(&mut self.random, 5),
                    size: self.random.one_in(2).then_some(size),
                    atime: self.random.one_in(5).then_some(SetTime::Now),
                    mtime: self.random.one_in(5).then_some(SetTime::At(Time { seconds: -7, nanos: 9 })),
                    ctime: None,
                };
                self.log.push(format!("setattr {ino} {changes:?}"));
                let real = ask(|tier| fs.setattr(tier, caller, ino, &changes));
                let model = self.model.setattr(caller, ino, &changes);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
            }
            75..=77 => {
                let (source, from) = (self.file(), self.offset());
                let (target, to) = (if self.random.one_in(4) { source } else { self.file() }, self.offset());
                let length = self.offset();
                self.log.push(format!("copy {source} {from} {target} {to} {length}"));
                let real = ask(|tier| fs.copy_range(tier, caller, (source, from), (target, to), length)).map(
                    |copied| {
                        assert!(copied.data_bytes == copied.length || copied.data_bytes == 0);
                        copied.length
                    },
                );
                let model = self.model.copy(caller, (source, from), (target, to), length);
                self.same(real, model);
            }
            78..=80 => {
                let (ino, offset, length) = (self.file(), self.offset(), self.offset());
                let zero = libc::FALLOC_FL_ZERO_RANGE;
                let keep = libc::FALLOC_FL_KEEP_SIZE;
                let punch = libc::FALLOC_FL_PUNCH_HOLE | keep;
                let modes = [0, keep, punch, punch, punch, zero, zero | keep, libc::FALLOC_FL_COLLAPSE_RANGE];
                let mode = modes[self.random.below(8) as usize];
                self.log.push(format!("allocate {ino} {offset} {length} {mode:#x}"));
                let real = ask(|tier| fs.allocate(tier, caller, ino, (offset, length), mode));
                let model = self.model.allocate(caller, ino, (offset, length), mode);
                self.same(real, model);
            }
            81..=86 => {
                let ino = self.pick(|_| true);
                let names =
                    ["user.a", "user.b", "trusted.c", "security.capability", "other.d", "user.", "system.e"];
                let name = names[self.random.below(7) as usize].as_bytes();
                let value = vec![7; [0, 10, 4000, 70_000][self.random.below(4) as usize]];
                let modes = [XattrMode::Either, XattrMode::Create, XattrMode::Replace];
                let mode = modes[self.random.below(3) as usize];
                if self.random.one_in(3) {
                    self.log.push(format!("removexattr {ino} {}", name.escape_ascii()));
                    let real = ask(|tier| fs.removexattr(tier, ino, name));
                    let model = self.model.removexattr(ino, name);
                    self.same(real, model);
                } else {
                    self.log.push(format!("setxattr {ino} {} {mode:?}", name.escape_ascii()));
                    let real = ask(|tier| fs.setxattr(tier, ino, name, &value, mode));
                    let model = self.model.setxattr(ino, name, &value, mode);
                    self.same(real, model);
                }
            }
            87..=90 => {
                let ino = self.file();
                if self.model.attributes(ino).kind == FileKind::File && self.open.len() < 6 {
                    self.log.push(format!("open {ino}"));
                    let real = ask(|tier| fs.open_file(tier, ino));
                    self.model.open(ino);
                    self.open.push(ino);
                    self.same(real, Ok(()));
                }
            }
            91..=93 => {
                if !self.open.is_empty() {
                    let index = self.random.below(self.open.len() as u64) as usize;
                    let ino = self.open.swap_remove(index);
                    self.log.push(format!("release {ino}"));
                    fs.release_file(ino);
                    self.model.release(ino);
                }
            }
            94..=97 => {
                self.log.push("work".to_string());
                fs.work().unwrap();
                let class = WorkClass::ALL[self.random.below(4) as usize];
                self.engine.work(class).unwrap();
            }
            _ => {
                let ino = self.pick(|_| true);
                self.log.push(format!("fsync {ino}"));
                ask(|tier| fs.moment_of(tier, ino, false)).unwrap();
            }
        }
    }
}
