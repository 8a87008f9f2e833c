//! A naive filesystem in memory: a tree of maps and byte vectors, with the errno and the attributes that a real one
//! answers. It is the oracle of `tests/fs.rs`. Inode numbers come from the caller, since only the real one gives them away.

use std::collections::BTreeMap;

use kvfs::fs::types::{
    Attributes, Caller, FileKind, Ino, LINKS_MAX, NAME_BYTES_MAX, NewNode, ROOT, RenameMode, SIZE_MAX,
    SetAttributes, SetTime, TARGET_BYTES_MAX, Time, XattrMode,
};

/// A value or an errno.
pub type Answer<T> = Result<T, i32>;

#[derive(Clone, Debug)]
pub struct Node {
    pub attributes: Attributes,
    pub content: Vec<u8>,
    /// Length of each stored block.
    pub blocks: BTreeMap<u64, u64>,
    pub target: Vec<u8>,
    pub names: BTreeMap<Vec<u8>, Ino>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub parent: Ino,
    pub opens: u32,
}

/// The filesystem. `now` is the time that the next call sees.
pub struct ModelFs {
    pub nodes: BTreeMap<Ino, Node>,
    pub now: Time,
    block_bytes: u64,
}

fn check_name(name: &[u8]) -> Answer<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(libc::ENAMETOOLONG);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(libc::EINVAL);
    }
    Ok(())
}

fn check_xattr_name(name: &[u8]) -> Answer<()> {
    if name.len() > 255 {
        return Err(libc::ERANGE);
    }
    if [&b"system.posix_acl_access"[..], b"system.posix_acl_default"].contains(&name) {
        return Ok(());
    }
    for namespace in ["user.", "trusted.", "security."] {
        if let Some(rest) = name.strip_prefix(namespace.as_bytes()) {
            return if rest.is_empty() || rest.contains(&0) { Err(libc::EINVAL) } else { Ok(()) };
        }
    }
    Err(libc::EOPNOTSUPP)
}

fn clear_privileges(permissions: u32) -> u32 {
    let sgid = if permissions & 0o010 != 0 { 0o2000 } else { 0 };
    permissions & !(0o4000 | sgid)
}

impl ModelFs {
    pub fn new(block_bytes: u64, now: Time) -> ModelFs {
        let mut model = ModelFs { nodes: BTreeMap::new(), now, block_bytes };
        let mut root = model.node(ROOT, FileKind::Directory, 0o755, Caller::ROOT, ROOT);
        root.attributes.links = 2;
        model.nodes.insert(ROOT, root);
        model
    }

    fn node(&self, ino: Ino, kind: FileKind, permissions: u32, owner: Caller, parent: Ino) -> Node {
        let attributes = Attributes {
            ino,
            kind,
            permissions,
            links: 1,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            size: 0,
            stored_bytes: 0,
            block_bytes: self.block_bytes as u32,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
        };
        Node {
            attributes,
            content: Vec::new(),
            blocks: BTreeMap::new(),
            target: Vec::new(),
            names: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            parent,
            opens: 0,
        }
    }

    fn get(&self, ino: Ino) -> &Node {
        &self.nodes[&ino]
    }

    fn get_mut(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("the caller names living inodes")
    }

    fn directory(&self, ino: Ino) -> Answer<&Node> {
        let node = self.get(ino);
        if node.attributes.kind == FileKind::Directory { Ok(node) } else { Err(libc::ENOTDIR) }
    }

    fn file(&mut self, ino: Ino) -> Answer<&mut Node> {
        let node = self.get_mut(ino);
        match node.attributes.kind {
            FileKind::File => Ok(node),
            FileKind::Directory => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    fn child(&self, parent: Ino, name: &[u8]) -> Answer<Option<Ino>> {
        Ok(self.directory(parent)?.names.get(name).copied())
    }

    /// Content or names of `ino` changed.
    fn changed(&mut self, ino: Ino) {
        let now = self.now;
        let attributes = &mut self.get_mut(ino).attributes;
        attributes.mtime = now;
        attributes.ctime = now;
    }

    fn settle(&mut self, ino: Ino) {
        let node = self.get_mut(ino);
        node.attributes.stored_bytes = node.blocks.values().sum();
        if node.attributes.kind == FileKind::File {
            node.attributes.size = node.content.len() as u64;
        }
    }

    pub fn attributes(&self, ino: Ino) -> Attributes {
        self.get(ino).attributes
    }

    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Answer<Attributes> {
        let directory = self.directory(parent)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(libc::ENAMETOOLONG);
        }
        directory.names.get(name).map(|&ino| self.attributes(ino)).ok_or(libc::ENOENT)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn make(
        &mut self,
        ino: Ino,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u32,
        node: NewNode<'_>,
    ) -> Answer<Attributes> {
        check_name(name)?;
        if self.child(parent, name)?.is_some() {
            return Err(libc::EEXIST);
        }
        if self.get(parent).attributes.links == 0 {
            return Err(libc::ENOENT);
        }
        let mut new = self.node(ino, FileKind::File, mode & !umask & 0o7777, caller, parent);
        match node {
            NewNode::File => {}
            NewNode::Directory => {
                new.attributes.kind = FileKind::Directory;
                new.attributes.links = 2;
            }
            NewNode::Symlink(target) => {
                if target.is_empty() || target.len() > TARGET_BYTES_MAX {
                    return Err(if target.is_empty() { libc::ENOENT } else { libc::ENAMETOOLONG });
                }
                new.attributes.kind = FileKind::Symlink;
                new.attributes.permissions = 0o777;
                new.attributes.size = target.len() as u64;
                new.target = target.to_vec();
            }
            NewNode::Special { kind, rdev } => {
                new.attributes.kind = kind;
                new.attributes.rdev = rdev;
            }
        }
        let directory = self.get(parent).attributes;
        if directory.permissions & 0o2000 != 0 {
            new.attributes.gid = directory.gid;
            if new.attributes.kind == FileKind::Directory {
                new.attributes.permissions |= 0o2000;
            }
        }
        let subdirectory = new.attributes.kind == FileKind::Directory;
        self.nodes.insert(ino, new);
        self.changed(parent);
        let directory = self.get_mut(parent);
        directory.names.insert(name.to_vec(), ino);
        directory.attributes.links += u32::from(subdirectory);
        Ok(self.attributes(ino))
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Answer<Attributes> {
        check_name(name)?;
        if self.get(ino).attributes.kind == FileKind::Directory {
            return Err(libc::EPERM);
        }
        if self.child(parent, name)?.is_some() {
            return Err(libc::EEXIST);
        }
        if self.get(parent).attributes.links == 0 || self.get(ino).attributes.links == 0 {
            return Err(libc::ENOENT);
        }
        if self.get(ino).attributes.links == LINKS_MAX {
            return Err(libc::EMLINK);
        }
        let now = self.now;
        let attributes = &mut self.get_mut(ino).attributes;
        attributes.links += 1;
        attributes.ctime = now;
        self.changed(parent);
        self.get_mut(parent).names.insert(name.to_vec(), ino);
        Ok(self.attributes(ino))
    }

    fn lose_name(&mut self, ino: Ino) {
        let now = self.now;
        let node = self.get_mut(ino);
        let directory = node.attributes.kind == FileKind::Directory;
        node.attributes.links = if directory { 0 } else { node.attributes.links - 1 };
        node.attributes.ctime = now;
        self.drop_if_unused(ino);
    }

    fn drop_if_unused(&mut self, ino: Ino) {
        let node = self.get(ino);
        if node.attributes.links == 0 && node.opens == 0 {
            self.nodes.remove(&ino);
        }
    }

    pub fn open(&mut self, ino: Ino) {
        self.get_mut(ino).opens += 1;
    }

    pub fn release(&mut self, ino: Ino) {
        self.get_mut(ino).opens -= 1;
        self.drop_if_unused(ino);
    }

    pub fn remove(&mut self, parent: Ino, name: &[u8], directory: bool) -> Answer<()> {
        check_name(name)?;
        let ino = self.child(parent, name)?.ok_or(libc::ENOENT)?;
        let is_directory = self.get(ino).attributes.kind == FileKind::Directory;
        match (directory, is_directory) {
            (true, false) => return Err(libc::ENOTDIR),
            (false, true) => return Err(libc::EISDIR),
            (true, true) if !self.get(ino).names.is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.changed(parent);
        let above = self.get_mut(parent);
        above.names.remove(name);
        above.attributes.links -= u32::from(is_directory);
        self.lose_name(ino);
        Ok(())
    }

    fn is_within(&self, mut ino: Ino, ancestor: Ino) -> bool {
        while ino != ancestor && ino != ROOT {
            ino = self.get(ino).parent;
        }
        ino == ancestor
    }

    /// `whiteout` is the number and the owner of what the old name stands for afterwards.
    pub fn rename(
        &mut self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
        whiteout: Option<(Ino, Caller)>,
    ) -> Answer<()> {
        if whiteout.is_some() && mode == RenameMode::Exchange {
            return Err(libc::EINVAL);
        }
        check_name(name)?;
        check_name(new_name)?;
        let source = self.child(parent, name)?.ok_or(libc::ENOENT)?;
        let target = self.child(new_parent, new_name)?;
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(libc::EEXIST);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(libc::ENOENT);
        }
        let is_directory = |model: &ModelFs, ino: Ino| model.get(ino).attributes.kind == FileKind::Directory;
        let source_directory = is_directory(self, source);
        let target_directory = target.is_some_and(|ino| is_directory(self, ino));
        if source_directory && self.is_within(new_parent, source) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = target.filter(|_| target_directory)
            && self.is_within(parent, target)
        {
            return Err(if mode == RenameMode::Exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if self.get(new_parent).attributes.links == 0 {
            return Err(libc::ENOENT);
        }
        if target == Some(source) {
            return Ok(());
        }
        if let (Some(target), false) = (target, mode == RenameMode::Exchange) {
            match (source_directory, target_directory) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.get(target).names.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.changed(parent);
        self.changed(new_parent);
        let now = self.now;
        self.get_mut(parent).names.remove(name);
        self.get_mut(parent).attributes.links -= u32::from(source_directory);
        self.get_mut(new_parent).names.insert(new_name.to_vec(), source);
        self.get_mut(new_parent).attributes.links += u32::from(source_directory);
        self.get_mut(source).parent = new_parent;
        self.get_mut(source).attributes.ctime = now;
        if let Some(target) = target {
            self.get_mut(new_parent).attributes.links -= u32::from(target_directory);
            if mode == RenameMode::Exchange {
                self.get_mut(parent).names.insert(name.to_vec(), target);
                self.get_mut(parent).attributes.links += u32::from(target_directory);
                self.get_mut(target).parent = parent;
                self.get_mut(target).attributes.ctime = now;
            } else {
                self.lose_name(target);
            }
        }
        if let Some((ino, owner)) = whiteout {
            let mut node = self.node(ino, FileKind::CharDevice, 0, owner, parent);
            let directory = self.get_mut(parent);
            if directory.attributes.permissions & 0o2000 != 0 {
                node.attributes.gid = directory.attributes.gid;
            }
            directory.names.insert(name.to_vec(), ino);
            self.nodes.insert(ino, node);
        }
        Ok(())
    }

    pub fn setattr(&mut self, caller: Caller, ino: Ino, changes: &SetAttributes) -> Answer<Attributes> {
        if *changes == SetAttributes::default() {
            return Ok(self.attributes(ino));
        }
        let now = self.now;
        if let Some(size) = changes.size {
            self.file(ino)?;
            if size > SIZE_MAX {
                return Err(libc::EFBIG);
            }
            self.resize(ino, size);
            self.changed(ino);
            self.get_mut(ino).xattrs.remove(&b"security.capability"[..]);
            let attributes = &mut self.get_mut(ino).attributes;
            if caller.uid != 0 {
                attributes.permissions = clear_privileges(attributes.permissions);
            }
        }
        let node = self.get_mut(ino);
        let attributes = &mut node.attributes;
        if changes.uid.is_some() || changes.gid.is_some() {
            attributes.uid = changes.uid.unwrap_or(attributes.uid);
            attributes.gid = changes.gid.unwrap_or(attributes.gid);
            node.xattrs.remove(&b"security.capability"[..]);
            if attributes.kind != FileKind::Directory {
                attributes.permissions = clear_privileges(attributes.permissions);
            }
        }
        attributes.permissions = changes.permissions.unwrap_or(attributes.permissions);
        let moment = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        attributes.atime = changes.atime.map_or(attributes.atime, moment);
        attributes.mtime = changes.mtime.map_or(attributes.mtime, moment);
        attributes.ctime = changes.ctime.unwrap_or(now);
        Ok(self.attributes(ino))
    }

    fn resize(&mut self, ino: Ino, size: u64) {
        let block_bytes = self.block_bytes;
        let node = self.get_mut(ino);
        node.content.resize(size as usize, 0);
        node.blocks.retain(|&block, length| {
            *length = (*length).min(size.saturating_sub(block * block_bytes));
            *length > 0
        });
        self.settle(ino);
    }

    pub fn read(&mut self, ino: Ino, offset: u64, size: u32) -> Answer<Vec<u8>> {
        let content = &self.file(ino)?.content;
        let start = (offset as usize).min(content.len());
        Ok(content[start..content.len().min(start + size as usize)].to_vec())
    }

    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8], clear_suid: bool) -> Answer<()> {
        let block_bytes = self.block_bytes;
        let node = self.file(ino)?;
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= SIZE_MAX).ok_or(libc::EFBIG)?;
        if data.is_empty() {
            return Ok(());
        }
        node.content.resize(node.content.len().max(end as usize), 0);
        node.content[offset as usize..end as usize].copy_from_slice(data);
        for block in offset / block_bytes..=(end - 1) / block_bytes {
            let reach = (end - block * block_bytes).min(block_bytes);
            let length = node.blocks.entry(block).or_default();
            *length = reach.max(*length);
        }
        if clear_suid {
            node.attributes.permissions = clear_privileges(node.attributes.permissions);
        }
        node.xattrs.remove(&b"security.capability"[..]);
        self.settle(ino);
        self.changed(ino);
        Ok(())
    }

    pub fn allocate(
        &mut self,
        caller: Caller,
        ino: Ino,
        (offset, length): (u64, u64),
        mode: i32,
    ) -> Answer<()> {
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let flags = mode & !libc::FALLOC_FL_KEEP_SIZE;
        let punches = flags == libc::FALLOC_FL_PUNCH_HOLE && keep;
        if flags != 0 && flags != libc::FALLOC_FL_ZERO_RANGE && !punches {
            return Err(libc::EOPNOTSUPP);
        }
        if length == 0 {
            return Err(libc::EINVAL);
        }
        let end = offset.checked_add(length).filter(|&end| end <= SIZE_MAX).ok_or(libc::EFBIG)?;
        let block_bytes = self.block_bytes;
        let node = self.file(ino)?;
        let size = node.content.len() as u64;
        if flags != 0 {
            let (from, to) = (offset.min(size), end.min(size));
            node.content[from as usize..to as usize].fill(0);
            node.blocks.retain(|&block, length| {
                let start = block * block_bytes;
                // What is zeroed up to the end of the value is not stored any more.
                if start + *length <= to && from < start + *length {
                    *length = from.saturating_sub(start);
                }
                *length > 0
            });
        }
        if !keep && end > size {
            node.content.resize(end as usize, 0);
        }
        if caller.uid != 0 {
            node.attributes.permissions = clear_privileges(node.attributes.permissions);
        }
        node.xattrs.remove(&b"security.capability"[..]);
        self.settle(ino);
        self.changed(ino);
        Ok(())
    }

    /// Copies what is of one kind, data or hole: the length.
    pub fn copy(
        &mut self,
        caller: Caller,
        (source, from): (Ino, u64),
        (target, to): (Ino, u64),
        length: u64,
    ) -> Answer<u64> {
        self.file(target)?;
        let node = self.file(source)?;
        let (content, blocks) = (node.content.clone(), node.blocks.clone());
        let length = length.min((content.len() as u64).saturating_sub(from));
        if length == 0 {
            return Ok(0);
        }
        let end = to.checked_add(length).filter(|&end| end <= SIZE_MAX).ok_or(libc::EFBIG)?;
        if source == target && from < end && to < from + length {
            return Err(libc::EINVAL);
        }
        let is_data = |offset: u64| blocks.contains_key(&(offset / self.block_bytes));
        let run = (from..from + length).take_while(|&offset| is_data(offset) == is_data(from)).count();
        if is_data(from) {
            let run = run.min(1 << 20);
            self.write(target, to, &content[from as usize..from as usize + run], caller.uid != 0)?;
            return Ok(run as u64);
        }
        self.allocate(caller, target, (to, run as u64), libc::FALLOC_FL_ZERO_RANGE)?;
        Ok(run as u64)
    }

    pub fn seek(&mut self, ino: Ino, offset: u64, hole: bool) -> Answer<u64> {
        let block_bytes = self.block_bytes;
        let node = self.file(ino)?;
        let size = node.content.len() as u64;
        if offset >= size {
            return Err(libc::ENXIO);
        }
        // The end of the file counts as a hole, also within the last block.
        for block in offset / block_bytes..size.div_ceil(block_bytes) {
            if node.blocks.contains_key(&block) != hole {
                return Ok((block * block_bytes).max(offset));
            }
        }
        if hole { Ok(size) } else { Err(libc::ENXIO) }
    }

    fn check_kind(&self, ino: Ino, name: &[u8]) -> Answer<()> {
        let holds = matches!(self.get(ino).attributes.kind, FileKind::File | FileKind::Directory);
        if holds || !name.starts_with(b"user.") { Ok(()) } else { Err(libc::EPERM) }
    }

    /// The names that `caller` may know of, each with a NUL behind it.
    pub fn listxattr(&self, caller: Caller, ino: Ino) -> Vec<u8> {
        let names = self.get(ino).xattrs.keys();
        let known = names.filter(|name| caller.uid == 0 || !name.starts_with(b"trusted."));
        known.flat_map(|name| [name, &b"\0"[..]].concat()).collect()
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Answer<Vec<u8>> {
        check_xattr_name(name)?;
        self.get(ino).xattrs.get(name).cloned().ok_or(libc::ENODATA)
    }

    pub fn setxattr(&mut self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Answer<()> {
        check_xattr_name(name)?;
        if value.len() > 64 << 10 {
            return Err(libc::E2BIG);
        }
        self.check_kind(ino, name)?;
        let now = self.now;
        let node = self.get_mut(ino);
        match (mode, node.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.attributes.ctime = now;
        Ok(())
    }

    pub fn removexattr(&mut self, ino: Ino, name: &[u8]) -> Answer<()> {
        check_xattr_name(name)?;
        self.check_kind(ino, name)?;
        let now = self.now;
        let node = self.get_mut(ino);
        node.xattrs.remove(name).ok_or(libc::ENODATA)?;
        node.attributes.ctime = now;
        Ok(())
    }
}
