//! POSIX access control lists: the form in which the kernel hands them over and we store them, and how mode bits and
//! lists keep in step.
//!
//! ```text
//! u32 version, 2; then for each entry u16 tag, u16 permissions, u32 user or group: little-endian
//! ```
//!
//! 1. The kernel checks access: it asks for the two lists as extended attributes, and remembers them.
//! 2. A list that says no more than mode bits can say is not stored; the mode holds it.
//! 3. Of a stored access list, owner, mask and other are the mode's nine bits: setting the list changes the mode, and chmod
//!    changes the list, in one batch.
//! 4. What is made in a directory with a default list gets that list, limited by the mode that the program gave, in
//!    place of its umask; a directory gets it as its default list, too.

/// Extended attribute with who may access an inode.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Extended attribute with what new entries of a directory inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;

const OWNER: u16 = 1;
const USER: u16 = 2;
const OWNING_GROUP: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A list whose entries are in order: owner, users, owning group, groups, mask, other; with a mask if it names anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads a list; `None` if it is none, or out of order.
    pub fn decode(bytes: &[u8]) -> Option<Acl> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || !rest.len().is_multiple_of(ENTRY_BYTES) {
            return None;
        }
        let entry = |bytes: &[u8]| Entry {
            tag: u16::from_le_bytes([bytes[0], bytes[1]]),
            permissions: u16::from_le_bytes([bytes[2], bytes[3]]),
            id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        };
        let acl = Acl(rest.chunks_exact(ENTRY_BYTES).map(entry).collect());
        acl.is_sound().then_some(acl)
    }

    fn is_sound(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let once = [OWNER, OWNING_GROUP, OTHER].iter().all(|&tag| count(tag) == 1);
        let named = count(USER) + count(GROUP) > 0;
        let mask = count(MASK);
        let known = |entry: &Entry| {
            matches!(entry.tag, OWNER | USER | OWNING_GROUP | GROUP | MASK | OTHER) && entry.permissions <= 7
        };
        // The tags' numbers are in the order of the entries.
        once && mask <= 1
            && (mask == 1 || !named)
            && self.0.iter().all(known)
            && self.0.is_sorted_by_key(|entry| entry.tag)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.permissions.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether mode bits say the same.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// Shift of each class's bits in a mode. The mask, if there is one, stands for the group.
    fn shift(&self, tag: u16) -> Option<u32> {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        match tag {
            OWNER => Some(6),
            MASK => Some(3),
            OWNING_GROUP if !masked => Some(3),
            OTHER => Some(0),
            _ => None,
        }
    }

    /// The mode bits, `0o777`, that a file with this list shows.
    pub fn mode(&self) -> u32 {
        let bits = |entry: &Entry| Some(u32::from(entry.permissions) << self.shift(entry.tag)?);
        self.0.iter().filter_map(bits).sum()
    }

    fn map(&self, change: impl Fn(u16, u16) -> u16, mode: u32) -> Acl {
        let entry = |entry: &Entry| {
            let class = self.shift(entry.tag).map(|shift| (mode >> shift & 7) as u16);
            Entry {
                permissions: class.map_or(entry.permissions, |class| change(entry.permissions, class)),
                ..*entry
            }
        };
        Acl(self.0.iter().map(entry).collect())
    }

    /// The list after chmod to `mode`.
    pub fn with_mode(&self, mode: u32) -> Acl {
        self.map(|_, class| class, mode)
    }

    /// The list of something made with `mode` below a directory with this default list.
    pub fn inherited(&self, mode: u32) -> Acl {
        self.map(|permissions, class| permissions & class, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id }).collect())
    }

    fn named() -> Acl {
        acl(&[(OWNER, 7, !0), (USER, 6, 1000), (OWNING_GROUP, 5, !0), (MASK, 6, !0), (OTHER, 1, !0)])
    }

    #[test]
    fn golden_bytes() {
        let bytes =
            b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x06\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\
                      \x10\0\x06\0\xff\xff\xff\xff\x20\0\x01\0\xff\xff\xff\xff";
        assert_eq!(named().encode(), bytes);
        assert_eq!(Acl::decode(bytes), Some(named()));
        for cut in 0..bytes.len() {
            assert_eq!(Acl::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        for wrong in [
            acl(&[]),
            acl(&[(OWNER, 7, 0), (OWNING_GROUP, 7, 0)]),
            acl(&[(OWNER, 8, 0), (OWNING_GROUP, 7, 0), (OTHER, 7, 0)]),
            acl(&[(OWNER, 7, 0), (OTHER, 7, 0), (OWNING_GROUP, 7, 0)]),
            acl(&[(OWNER, 7, 0), (USER, 7, 1), (OWNING_GROUP, 7, 0), (OTHER, 7, 0)]),
            acl(&[(OWNER, 7, 0), (OWNING_GROUP, 7, 0), (MASK, 7, 0), (MASK, 7, 0), (OTHER, 7, 0)]),
            acl(&[(OWNER, 7, 0), (OWNING_GROUP, 7, 0), (OTHER, 7, 0), (0x40, 7, 0)]),
        ] {
            assert_eq!(Acl::decode(&wrong.encode()), None, "{wrong:?}");
        }
    }

    #[test]
    fn mode_and_mask_stay_in_step() {
        assert_eq!(named().mode(), 0o761);
        let changed = named().with_mode(0o640);
        assert_eq!((changed.mode(), changed.0[1].permissions, changed.0[2].permissions), (0o640, 6, 5));
        let inherited = named().inherited(0o640);
        assert_eq!((inherited.mode(), inherited.0[1].permissions), (0o640, 6));
        assert_eq!(named().inherited(0o027).mode(), 0o021);
        let minimal = acl(&[(OWNER, 7, !0), (OWNING_GROUP, 5, !0), (OTHER, 0, !0)]);
        assert!(minimal.is_minimal() && !named().is_minimal());
        assert_eq!(minimal.inherited(0o666).mode(), 0o640);
    }
}
