//! Extended attributes that mean something: access control lists, and the names of `system`.

use super::*;

/// The kernel's form of a list: tag, permissions, user or group.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_control_lists_are_inherited_and_follow_the_mode() {
    const ACCESS: &[u8] = b"system.posix_acl_access";
    const DEFAULT: &[u8] = b"system.posix_acl_default";
    let bench = Bench::new();
    let fs = &bench.fs;
    let user = Caller { uid: 1000, gid: 1000, pid: 1 };
    let make = |parent, name: &str, mode, node| {
        fs.make(Tier::Disk, Op::Create, user, parent, name.as_bytes(), mode, 0o077, node).unwrap()
    };
    let get = |ino, name| fs.getxattr(Tier::Disk, ino, name).map(|value| value.to_vec()).ok();
    let set = |ino, name, value: &[u8]| fs.setxattr_as(Tier::Disk, user, ino, name, value, XattrMode::Either);
    let mode = |ino| fs.getattr(Tier::Disk, ino).unwrap().permissions;
    let list = |owner, group, mask, other| {
        acl(&[(1, owner, !0), (2, 6, 1001), (4, group, !0), (0x10, mask, !0), (0x20, other, !0)])
    };

    let directory = make(ROOT, "d", 0o755, NewNode::Directory).ino;
    assert_eq!(mode(directory), 0o700);
    set(directory, DEFAULT, &list(7, 5, 7, 5)).unwrap();
    // The umask does not count where a list is inherited.
    let file = make(directory, "f", 0o640, NewNode::File);
    assert_eq!((file.permissions, mode(file.ino)), (0o640, 0o640));
    assert_eq!(get(file.ino, ACCESS), Some(list(6, 5, 4, 0)));
    assert_eq!(get(file.ino, DEFAULT), None);
    let below = make(directory, "below", 0o777, NewNode::Directory).ino;
    assert_eq!((get(below, DEFAULT), mode(below)), (Some(list(7, 5, 7, 5)), 0o775));
    let symlink = make(directory, "s", 0o777, NewNode::Symlink(b"f")).ino;
    assert_eq!((get(symlink, ACCESS), mode(symlink)), (None, 0o777));

    // chmod changes the list, and the list the mode.
    let changes = SetAttributes { permissions: Some(0o2751), ..SetAttributes::default() };
    fs.setattr(Tier::Disk, Caller::ROOT, file.ino, &changes).unwrap();
    assert_eq!(get(file.ino, ACCESS), Some(list(7, 5, 5, 1)));
    set(file.ino, ACCESS, &list(6, 6, 6, 0)).unwrap();
    assert_eq!(mode(file.ino), 0o2660, "sgid stays for a member of the group");
    let stranger = Caller { uid: 1, gid: 1, pid: 1 };
    let minimal = acl(&[(1, 6, !0), (4, 4, !0), (0x20, 4, !0)]);
    fs.setxattr_as(Tier::Disk, stranger, file.ino, ACCESS, &minimal, XattrMode::Either).unwrap();
    assert_eq!((mode(file.ino), get(file.ino, ACCESS)), (0o644, None), "a minimal list is the mode");
    assert_eq!(set(file.ino, DEFAULT, &minimal).unwrap_err().errno(), libc::EACCES);
    assert_eq!(set(file.ino, ACCESS, b"nonsense").unwrap_err().errno(), libc::EINVAL);
    assert_eq!(set(symlink, ACCESS, &minimal).unwrap_err().errno(), libc::EOPNOTSUPP);

    let usage = fs.usage().record_bytes;
    fs.close().unwrap();
    assert!(check(&*bench.map).is_empty());
    let counted = FileSystem::open(bench.map.clone(), bench.clock.clone(), OPTIONS, space()).unwrap();
    assert_eq!(counted.usage().record_bytes, usage);
}

/// Of `system` there are the two lists and nothing else, whoever asks; a store that was made when any name was taken does not show
/// them, and gives them up with their file.
#[test]
fn the_system_namespace_has_the_two_lists_alone() {
    let bench = Bench::new();
    let (fs, file) = (&bench.fs, bench.create(ROOT, "f"));
    let user = Caller { uid: 1000, gid: 1000, pid: 1 };
    fs.setxattr(Tier::Disk, file, b"user.a", b"1", XattrMode::Either).unwrap();
    for name in [&b"system.a"[..], b"system.posix_acl_accessible", b"system.", b"system.richacl", b"btrfs.a"]
    {
        for caller in [user, Caller::ROOT] {
            let set = fs.setxattr_as(Tier::Disk, caller, file, name, &[7; 60_000], XattrMode::Either);
            assert_eq!(set.unwrap_err().errno(), libc::EOPNOTSUPP, "{}", name.escape_ascii());
        }
        assert_eq!(fs.getxattr(Tier::Disk, file, name).unwrap_err().errno(), libc::EOPNOTSUPP);
        assert_eq!(fs.removexattr(Tier::Disk, file, name).unwrap_err().errno(), libc::EOPNOTSUPP);
    }
    let mut batch = Batch::new(0);
    batch.put(keys::xattr(file, b"system.old"), vec![7; 60_000]);
    bench.map.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(fs.listxattr(Tier::Disk, user, file).unwrap(), b"user.a\0");
    assert_eq!(fs.listxattr(Tier::Disk, Caller::ROOT, file).unwrap(), b"user.a\0");
    fs.forget(file, 1);
    fs.unlink(Tier::Disk, ROOT, b"f").unwrap();
    assert_eq!(bench.map.get(&keys::xattr(file, b"system.old"), Tier::Disk).unwrap(), None);
}
