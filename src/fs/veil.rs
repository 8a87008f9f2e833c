//! Keys without names, for whoever may see how a store is used but not what is in it.
//!
//! A hidden key is as long as its key, and the same for the same key of the same veil. What makes it, [`RandomState`], is drawn anew for
//! each veil and never written, so nobody can try names.
//!
//! - A name in a directory: of its hash, which puts it in its place among the others, the first 31 bits stay. The rest of the
//!   hash and the name are random. So the order within a directory stays, but for names that have those 31 bits in common: of a
//!   million names about a hundred pairs.
//! - An extended attribute: the name is random, and so is the order of the attributes of one inode.
//! - All other keys have no names in them and stay as they are.

use std::hash::{BuildHasher, RandomState};

use super::keys::{self, Key};
use crate::base::prng::Prng;

/// Bytes of a name's hash that stay.
const HASH_BYTES_KEPT: usize = 4;

/// Hides names in keys.
pub struct Veil(RandomState);

impl Veil {
    /// One that nobody had before.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Veil {
        Veil(RandomState::new())
    }

    /// The same as a function.
    pub fn into_hide(self) -> impl Fn(&[u8], &mut Vec<u8>) + Send + Sync + use<> {
        move |key, target| self.hide(key, target)
    }

    /// Appends `key`, or the beginning of one, without names.
    pub fn hide(&self, key: &[u8], target: &mut Vec<u8>) {
        let kept = match keys::parse(key) {
            Some(Key::Dirent { name, .. }) => key.len() - name.len() - (8 - HASH_BYTES_KEPT),
            Some(Key::Xattr { name, .. }) => key.len() - name.len(),
            Some(_) => key.len(),
            // The beginning of a key, where a scan begins: in what comes before a name there is none. Or a key that nobody knows.
            None => key.len().min(keys::NAMELESS_BYTES),
        };
        let (kept, hidden) = key.split_at(kept);
        target.extend_from_slice(kept);
        // Where a scan begins behind a hash without a name, no entry may be left out.
        if matches!(keys::parse(key), Some(Key::Dirent { name: b"", .. })) {
            target.resize(target.len() + hidden.len(), 0);
            return;
        }
        if hidden.is_empty() {
            return;
        }
        let mut noise = Prng::new(self.0.hash_one(key));
        for piece in hidden.chunks(8) {
            target.extend_from_slice(&noise.bits().to_be_bytes()[..piece.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::types::Ino;

    fn hide(veil: &Veil, key: &[u8]) -> Vec<u8> {
        let mut target = vec![7];
        veil.hide(key, &mut target);
        target.remove(0);
        target
    }

    #[test]
    fn hidden_names_keep_lengths_kinds_and_their_order_in_a_directory() {
        let veil = Veil::new();
        let mut prng = Prng::new(1);
        let mut all: Vec<Vec<u8>> = (0..2000u64)
            .map(|number| {
                let name = format!("name-{number}").repeat(1 + number as usize % 5);
                keys::dirent(Ino(1 + number % 3), prng.bits() >> 1, name.as_bytes())
            })
            .collect();
        all.sort();
        let hidden: Vec<Vec<u8>> = all.iter().map(|key| hide(&veil, key)).collect();
        assert!(hidden.is_sorted(), "2000 names do not meet in 31 bits");
        for (key, hidden) in all.iter().zip(&hidden) {
            assert_eq!((key.len(), &key[..13]), (hidden.len(), &hidden[..13]));
            assert_ne!(key[13..], hidden[13..]);
            assert_eq!(keys::classify(key), keys::classify(hidden));
            assert!(!hidden.windows(5).any(|part| part == b"name-"));
            assert_eq!(&hide(&veil, key), hidden, "the same again");
            assert_ne!(&hide(&Veil::new(), key), hidden, "and not by another one");
        }
        let one = hide(&veil, &keys::xattr(Ino(5), b"user.secret"));
        let other = hide(&veil, &keys::xattr(Ino(5), b"user.other_"));
        assert_eq!((one.len(), &one[..9]), (20, &keys::xattr(Ino(5), b"")[..]));
        assert_ne!(one, other);
    }

    #[test]
    fn keys_without_names_stay_and_scans_begin_no_later() {
        let veil = Veil::new();
        let plain =
            [keys::superblock(), keys::inode(Ino(9)), keys::block(Ino(9), 1, 7), keys::dirent_prefix(Ino(9))];
        for key in plain {
            assert_eq!(hide(&veil, &key), key);
        }
        // A directory is read on from a hash.
        let from = keys::dirent(Ino(9), 0x1234_5678_9abc_def0, b"");
        let next = keys::dirent(Ino(9), 0x1234_5678_9abc_def1, b"a");
        assert!(hide(&veil, &from) < hide(&veil, &next));
        assert_eq!(hide(&veil, &from)[..13], from[..13]);
        // What nobody knows may hold anything.
        let unknown = hide(&veil, b"\xeeunknown-secret");
        assert_eq!((unknown.len(), unknown.ends_with(b"secret")), (15, false));
    }
}
