//! The superblock: what a store is, and how far inode numbers are given away.
//!
//! ```text
//! version:be32 block_bytes:be32 features:be64 uuid:[16] secret:be64 next_ino:be64
//! ```
//! Inode numbers are leased by the thousand: every number below the stored `next_ino` may be in use, so a crash never
//! makes one appear twice.

use parking_lot::Mutex;

use super::error::damaged;
use super::keys::{self, take_u32, take_u64};
use super::types::{Ino, ROOT, STORED_END};
use super::{Error, FileSystem, Result, locks};
use crate::engine::{self, Batch, Tier};
use crate::fs::operation::Op;

/// Version of the record and of all that it stands for.
const VERSION: u32 = 1;
/// Inode numbers taken with one change of the superblock.
const LEASE: u64 = 1024;

/// Identity of a store, chosen once when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Names the store.
    pub uuid: [u8; 16],
    /// Keys the hash of names, so that nobody can make names collide.
    pub secret: u64,
}

impl Identity {
    /// One that nobody can foresee, from the system's random bytes; the uuid is one of version 4. Fails if the system has none.
    pub fn random() -> Result<Identity> {
        let (mut uuid, mut secret) = ([0; 16], [0; 8]);
        for bytes in [&mut uuid[..], &mut secret[..]] {
            getrandom::fill(bytes)
                .map_err(|error| engine::Error::io("asking the system for random bytes", error.into()))?;
        }
        let uuid = uuid::Builder::from_random_bytes(uuid).into_uuid().into_bytes();
        Ok(Identity { uuid, secret: u64::from_be_bytes(secret) })
    }
}

/// The record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub block_bytes: u64,
    pub identity: Identity,
    /// No inode has this number or a higher one.
    pub next_ino: Ino,
}

impl Superblock {
    pub fn new(block_bytes: u64, identity: Identity) -> Superblock {
        Superblock { block_bytes, identity, next_ino: ROOT.next() }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_be_bytes().to_vec();
        bytes.extend_from_slice(&(self.block_bytes as u32).to_be_bytes());
        bytes.extend_from_slice(&0u64.to_be_bytes());
        bytes.extend_from_slice(&self.identity.uuid);
        bytes.extend_from_slice(&self.identity.secret.to_be_bytes());
        bytes.extend_from_slice(&self.next_ino.0.to_be_bytes());
        bytes
    }

    /// Reads the record. `Damaged` if it does not parse, `Invalid` with a sentence if it is of another version.
    pub fn decode(bytes: &[u8]) -> Result<Superblock> {
        let mut source = bytes;
        match take_u32(&mut source) {
            Some(VERSION) => {}
            Some(version) => {
                return Err(Error::Engine(engine::Error::format("the filesystem", version, VERSION)));
            }
            None => return Err(damaged("the superblock is cut short")),
        }
        match source.get(4..12) {
            // What a later version may have added to this one.
            Some(features) if features != [0; 8] => {
                let found = format!("{VERSION} with features {}", features.escape_ascii());
                return Err(Error::Engine(engine::Error::format("the filesystem", found, VERSION)));
            }
            _ => {}
        }
        Self::parse(source).ok_or_else(|| damaged("the superblock does not parse"))
    }

    fn parse(mut source: &[u8]) -> Option<Superblock> {
        let block_bytes = u64::from(take_u32(&mut source)?);
        let features = take_u64(&mut source)?;
        let (uuid, mut rest) = source.split_first_chunk::<16>()?;
        let secret = take_u64(&mut rest)?;
        let next_ino = Ino(take_u64(&mut rest)?);
        let options = super::Options { block_bytes, ..super::Options::default() };
        let numbers = ROOT.next()..=STORED_END;
        let sound =
            features == 0 && rest.is_empty() && numbers.contains(&next_ino) && options.validate().is_ok();
        sound.then_some(Superblock { block_bytes, identity: Identity { uuid: *uuid, secret }, next_ino })
    }
}

/// Makes the filesystem in `engine`, which nobody uses, one of a store of its own: it gets `uuid`, and keeps the key of its name hashes, by
/// which its names are found. Not synced.
pub fn set_uuid(engine: &dyn engine::Engine, uuid: [u8; 16]) -> Result<()> {
    let stored = engine.get(&keys::superblock(), Tier::Disk)?;
    let stored = stored.ok_or_else(|| damaged("there is no superblock"))?;
    let mut superblock = Superblock::decode(&stored)?;
    superblock.identity.uuid = uuid;
    let mut batch = Batch::new(Op::Format.tag());
    batch.put(keys::superblock(), superblock.encode());
    Ok(engine::apply_patiently(engine, &batch)?)
}

/// Numbers that may be given away without telling the engine.
struct Lease {
    record: Superblock,
    next: Ino,
}

/// The identity of the store, and the next inode number.
pub(super) struct Numbers {
    pub identity: Identity,
    lease: Mutex<Lease>,
}

impl Numbers {
    /// Goes on where `record` says.
    pub fn after(record: Superblock) -> Numbers {
        // Numbers below the stored one may be in use.
        Numbers { identity: record.identity, lease: Mutex::new(Lease { record, next: record.next_ino }) }
    }
}

impl FileSystem {
    /// A number that no inode had before. A call that is made again after `Busy` leaves an unused number behind,
    /// which does no harm.
    pub(super) fn new_ino(&self, tier: Tier) -> Result<Ino> {
        let mut lease = locks::mutex(&self.numbers.lease, tier)?;
        if lease.next == lease.record.next_ino {
            let record = Superblock { next_ino: lease.next.plus(LEASE), ..lease.record };
            if record.next_ino > STORED_END {
                return Err(Error::Engine(engine::Error::NoSpace));
            }
            let mut batch = Batch::new(Op::Format.tag());
            batch.put(keys::superblock(), record.encode());
            self.apply(&mut batch, tier)?;
            lease.record = record;
        }
        let ino = lease.next;
        lease.next = ino.next();
        Ok(ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_cut_is_refused() {
        let superblock = Superblock::new(4096, Identity { uuid: [7; 16], secret: 9 });
        let bytes = superblock.encode();
        let head = b"\0\0\0\x01\0\0\x10\0\0\0\0\0\0\0\0\0";
        assert_eq!(bytes, [&head[..], &[7; 16], b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02"].concat());
        assert_eq!(Superblock::decode(&bytes).unwrap(), superblock);
        assert!((0..bytes.len()).all(|cut| Superblock::decode(&bytes[..cut]).is_err()));
        let mut newer = bytes.clone();
        newer[3] = 2;
        let error = Superblock::decode(&newer).unwrap_err().to_string();
        assert!(
            error.contains("format 2") && error.contains("use the version of kvfs that made it"),
            "{error}"
        );
    }

    #[test]
    fn identities_differ_and_are_uuids_of_version_4() {
        let [one, other] = [(); 2].map(|()| Identity::random().unwrap());
        assert!(one.uuid != other.uuid && one.secret != other.secret);
        assert_eq!((one.uuid[6] >> 4, one.uuid[8] >> 6), (4, 2));
    }
}
