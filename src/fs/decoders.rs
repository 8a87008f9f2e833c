//! The decoders of the filesystem's records.

use super::acl::Acl;
use super::counters::{self, Change};
use super::dirent::Dirent;
use super::inode::Inode;
use super::keys::{self, Key};
use super::superblock::{Identity, Superblock};
use super::types::{FileKind, Ino, Time};
use crate::base::decoder::Decoder;

/// The decoders of the filesystem's records.
pub const ALL: &[Decoder] = &[
    Decoder { name: "key", decode: key, valid: key_samples },
    Decoder { name: "inode", decode: inode, valid: inodes },
    Decoder { name: "dirent", decode: dirent, valid: dirents },
    Decoder { name: "counters", decode: totals, valid: total_samples },
    Decoder { name: "superblock", decode: superblock, valid: superblocks },
    Decoder { name: "acl", decode: acl, valid: acls },
];

const INO: Ino = Ino(7);

fn key(bytes: &[u8]) -> bool {
    let made = match keys::parse(bytes) {
        Some(Key::Inode { ino }) => keys::inode(ino),
        Some(Key::Block { ino, epoch, block }) => keys::block(ino, epoch, block),
        Some(Key::Xattr { ino, name }) => keys::xattr(ino, name),
        Some(Key::Super) => keys::superblock(),
        _ => return false,
    };
    assert_eq!(made, bytes);
    true
}

fn key_samples() -> Vec<Vec<u8>> {
    vec![keys::superblock(), keys::inode(INO), keys::block(INO, 1, 300), keys::xattr(INO, b"user.name")]
}

fn inode(bytes: &[u8]) -> bool {
    let Ok(record) = Inode::decode(INO, bytes) else { return false };
    assert_eq!(record.encode(), bytes);
    true
}

fn inodes() -> Vec<Vec<u8>> {
    let time = Time { seconds: 1_700_000_000, nanos: 9 };
    let file = Inode::new(FileKind::File, 0o644, 1000, 100, time);
    let mut link = Inode::new(FileKind::Symlink, 0o777, 1, 2, time);
    link.target = "there".into();
    link.size = 5;
    vec![file.encode(), link.encode()]
}

fn dirent(bytes: &[u8]) -> bool {
    let Ok(entry) = Dirent::decode(bytes) else { return false };
    assert_eq!(entry.encode(), bytes);
    true
}

fn dirents() -> Vec<Vec<u8>> {
    vec![
        Dirent { ino: INO, kind: FileKind::File }.encode(),
        Dirent { ino: INO, kind: FileKind::Directory }.encode(),
    ]
}

fn totals(bytes: &[u8]) -> bool {
    let Some(total) = counters::decode(bytes) else { return false };
    assert_eq!(counters::encode(total, true), bytes);
    true
}

fn total_samples() -> Vec<Vec<u8>> {
    let total = Change { inodes: 9, apparent_bytes: 70_000, stored_bytes: 60_000, record_bytes: 1000 };
    vec![counters::encode(total, true)]
}

fn superblock(bytes: &[u8]) -> bool {
    let Ok(superblock) = Superblock::decode(bytes) else { return false };
    assert_eq!(superblock.encode(), bytes);
    true
}

fn superblocks() -> Vec<Vec<u8>> {
    vec![Superblock::new(4096, Identity { uuid: [7; 16], secret: 9 }).encode()]
}

fn acl(bytes: &[u8]) -> bool {
    let Some(list) = Acl::decode(bytes) else { return false };
    assert_eq!(list.encode(), bytes);
    true
}

/// Owner, a user, owning group, mask, others: the kernel's form.
fn acls() -> Vec<Vec<u8>> {
    let entries = [(1u16, 7u16, !0u32), (2, 6, 1001), (4, 5, !0), (0x10, 7, !0), (0x20, 4, !0)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    vec![bytes]
}
