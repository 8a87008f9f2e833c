//! Extended attributes: `user`, `trusted`, `security`, and of `system` the two access control lists; a key each.
//!
//! The kernel checks who may read and change `user` and `trusted` ones, and sends every other name to whoever asks: `security`
//! has its rules there, while of `system` each filesystem has to know which exist.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::engine::{self, Batch, Tier};
use crate::fs::acl::{self, Acl};
use crate::fs::counters::Change;
use crate::fs::inode::{HAS_CAPABILITY, HAS_XATTRS, Inode};
use crate::fs::inodes::InodeState;
use crate::fs::keys::{self, Key};
use crate::fs::operation::Op;
use crate::fs::types::{Caller, FileKind, Ino, NAME_BYTES_MAX, XattrMode};
use crate::fs::{Error, FileSystem, Result};

/// Which the kernel asks for before it trusts a program; changing the file removes it.
pub(in crate::fs) const CAPABILITY: &[u8] = b"security.capability";
/// Longest value, and longest list of names.
const BYTES_MAX: usize = 64 << 10;
const TRUSTED: &[u8] = b"trusted.";
const NAMESPACES: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

/// `NotSupported` outside the namespaces, `Range` or `Invalid` for a name that cannot be.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::Range);
    }
    let namespace = NAMESPACES.iter().find(|namespace| name.starts_with(namespace));
    match namespace {
        None if is_acl(name) => Ok(()),
        None => Err(Error::NotSupported),
        Some(namespace) if name.len() == namespace.len() || name.contains(&0) => Err(Error::Invalid),
        Some(_) => Ok(()),
    }
}

/// `user.` attributes belong to files and directories alone.
fn check_kind(state: &InodeState, name: &[u8]) -> Result<()> {
    let holds_user = matches!(state.record.kind, FileKind::File | FileKind::Directory);
    if holds_user || !name.starts_with(b"user.") { Ok(()) } else { Err(Error::NotPermitted) }
}

/// If the attribute is an access control list, makes the mode in `record` agree with it. Returns whether the list is to
/// be stored: one that mode bits can say is not.
fn apply_acl(record: &mut Inode, caller: Caller, name: &[u8], value: &[u8]) -> Result<bool> {
    if !is_acl(name) {
        return Ok(true);
    }
    if record.kind == FileKind::Symlink {
        return Err(Error::NotSupported);
    }
    let acl = Acl::decode(value).ok_or(Error::Invalid)?;
    if name == acl::DEFAULT {
        return if record.is_directory() { Ok(true) } else { Err(Error::AccessDenied) };
    }
    record.permissions = record.permissions & !0o777 | acl.mode();
    if caller.uid != 0 && caller.gid != record.gid {
        record.permissions &= !libc::S_ISGID;
    }
    Ok(!acl.is_minimal())
}

impl FileSystem {
    /// The value of an extended attribute; `NoData` if there is none.
    pub fn getxattr(&self, tier: Tier, ino: Ino, name: &[u8]) -> Result<Bytes> {
        check_name(name)?;
        let cell = self.inodes.cell(ino, tier)?;
        let state = cell.read(tier)?;
        self.xattr(ino, &state, name, tier)?.ok_or(Error::NoData)
    }

    /// The list `name` of a locked inode, if it has one that can be read.
    pub(in crate::fs) fn acl(
        &self,
        ino: Ino,
        state: &InodeState,
        name: &[u8],
        tier: Tier,
    ) -> Result<Option<Acl>> {
        Ok(self.xattr(ino, state, name, tier)?.and_then(|bytes| Acl::decode(&bytes)))
    }

    fn xattr(&self, ino: Ino, state: &InodeState, name: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        let absent =
            !state.record.has(HAS_XATTRS) || (name == CAPABILITY && !state.record.has(HAS_CAPABILITY));
        if absent { Ok(None) } else { Ok(self.engine.get(&keys::xattr(ino, name), tier)?) }
    }

    /// Sets an extended attribute, as root does: at most 64 KiB, and the names of all together not more either.
    pub fn setxattr(&self, tier: Tier, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.setxattr_as(tier, Caller::ROOT, ino, name, value, mode)
    }

    /// The same for anyone. An access control list changes the mode bits with it; sgid goes if `caller` is neither root nor
    /// of the file's group.
    pub fn setxattr_as(
        &self,
        tier: Tier,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.require_writable()?;
        check_name(name)?;
        if value.len() > BYTES_MAX {
            return Err(Error::ArgumentsTooLong);
        }
        let cell = self.inodes.cell(ino, tier)?;
        let mut state = cell.write(tier)?;
        check_kind(&state, name)?;
        let old = self.xattr(ino, &state, name, tier)?;
        match (mode, &old) {
            (XattrMode::Create, Some(_)) => return Err(Error::Exists),
            (XattrMode::Replace, None) => return Err(Error::NoData),
            _ => {}
        }
        if old.is_none() && self.xattr_names(ino, &state, tier)?.len() + name.len() + 1 > BYTES_MAX {
            return Err(Error::Engine(engine::Error::NoSpace));
        }
        let mut record = Inode { ctime: self.now(), ..state.record.clone() };
        let stored = apply_acl(&mut record, caller, name, value)?;
        let mut batch = Batch::new(Op::Setxattr.tag());
        let mut growth = -(old.map_or(0, |old| 9 + name.len() + old.len()) as i64);
        if stored {
            record.set(HAS_XATTRS, true);
            if name == CAPABILITY {
                record.set(HAS_CAPABILITY, true);
            }
            batch.put(keys::xattr(ino, name), Bytes::copy_from_slice(value));
            growth += (9 + name.len() + value.len()) as i64;
        } else if growth < 0 {
            batch.delete(keys::xattr(ino, name));
        }
        self.change_xattrs(ino, &mut state, record, batch, growth, tier)
    }

    /// Removes an extended attribute; `NoData` if there is none.
    pub fn removexattr(&self, tier: Tier, ino: Ino, name: &[u8]) -> Result<()> {
        self.require_writable()?;
        check_name(name)?;
        let cell = self.inodes.cell(ino, tier)?;
        let mut state = cell.write(tier)?;
        check_kind(&state, name)?;
        let old = self.xattr(ino, &state, name, tier)?.ok_or(Error::NoData)?;
        let mut record = Inode { ctime: self.now(), ..state.record.clone() };
        if name == CAPABILITY {
            record.set(HAS_CAPABILITY, false);
        }
        let mut batch = Batch::new(Op::Removexattr.tag());
        batch.uses_reserve = true;
        batch.delete(keys::xattr(ino, name));
        self.change_xattrs(ino, &mut state, record, batch, -((9 + name.len() + old.len()) as i64), tier)
    }

    fn change_xattrs(
        &self,
        ino: Ino,
        state: &mut InodeState,
        record: Inode,
        mut batch: Batch,
        growth: i64,
        tier: Tier,
    ) -> Result<()> {
        batch.put(keys::inode(ino), record.encode());
        self.apply(&mut batch, tier)?;
        self.counters.add(Change::records(growth));
        state.record = record;
        state.deferred = None;
        Ok(())
    }

    /// The names of the extended attributes that `caller` may know of, each with a NUL behind it: `trusted` ones only root may.
    /// A name that nobody can ask for, which older versions stored, is not listed either.
    pub fn listxattr(&self, tier: Tier, caller: Caller, ino: Ino) -> Result<Vec<u8>> {
        let cell = self.inodes.cell(ino, tier)?;
        let state = cell.read(tier)?;
        let names = self.xattr_names(ino, &state, tier)?;
        let shown = |name: &&[u8]| {
            let name = name.strip_suffix(b"\0").unwrap_or(name);
            check_name(name).is_ok() && (caller.uid == 0 || !name.starts_with(TRUSTED))
        };
        Ok(names.split_inclusive(|&byte| byte == 0).filter(shown).collect::<Vec<_>>().concat())
    }

    /// The names of all of them.
    fn xattr_names(&self, ino: Ino, state: &InodeState, tier: Tier) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        if state.record.has(HAS_XATTRS) {
            self.engine.scan(keys::xattrs_of(ino).range(), tier, &mut |key, _| {
                if let Some(Key::Xattr { name, .. }) = keys::parse(key) {
                    names.extend_from_slice(name);
                    names.push(0);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(names)
    }
}
