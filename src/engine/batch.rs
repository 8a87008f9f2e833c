//! A list of changes that happen together or not at all.
//!
//! As a log payload: tag (1), number of operations (varint), then per operation one byte (1 put, 0 delete), the key and, for a
//! put, the value, each behind its length (varint).

use bytes::Bytes;

use super::{Error, Result};
use crate::base::varint;

/// Bytes that a batch takes in the log at most: those of a frame, without what the log adds.
const RECORD_BYTES_MAX: u64 = u32::MAX as u64 - 64;

/// `value` in memory of its own, for whoever keeps it: as it comes in a batch it may be a slice of something much larger, the request
/// of a program or a segment of the log, and would keep all of that.
pub fn owned(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets the value of a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key, present or not.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Operation {
    /// The key it changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } => key,
        }
    }

    /// The new value; `None` for a delete.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Operation::Put { value, .. } => Some(value),
            Operation::Delete { .. } => None,
        }
    }

    /// Bytes of key and value: what is logically written.
    pub fn bytes(&self) -> u64 {
        (self.key().len() + self.value().map_or(0, Bytes::len)) as u64
    }
}

/// A list of changes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The caller's operation of the filesystem, for attribution.
    pub tag: u8,
    /// May dip into the space that is kept for deletes and background work.
    pub uses_reserve: bool,
    /// Deletes of the same caller are on their way: where there is no space yet, to wait for it ends.
    pub awaits_space: bool,
    operations: Vec<Operation>,
    bytes: u64,
}

impl Batch {
    /// An empty batch of a tag.
    pub fn new(tag: u8) -> Batch {
        Batch { tag, ..Batch::default() }
    }

    /// Adds a put.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Operation::Put { key: key.into(), value: value.into() });
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.push(Operation::Delete { key: key.into() });
    }

    fn push(&mut self, operation: Operation) {
        self.bytes += operation.bytes();
        self.operations.push(operation);
    }

    /// The changes in their order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Σ key and value bytes of puts plus key bytes of deletes: the *logical bytes* of the accounting.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Upper bound of the encoded size.
    pub fn encoded_bytes_max(&self) -> usize {
        self.bytes as usize + 11 + self.operations.len() * 21
    }

    /// [`Error::Invalid`] for what no log record can hold: its length has 32 bits.
    pub fn check(&self) -> Result<()> {
        let bytes = self.encoded_bytes_max() as u64;
        if bytes < RECORD_BYTES_MAX {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a batch of {bytes} bytes is more than one record of the log holds, {RECORD_BYTES_MAX}"
        )))
    }

    /// Appends the log payload to `target`.
    pub fn encode(&self, target: &mut Vec<u8>) {
        self.encode_around(target, usize::MAX, &mut Vec::new());
    }

    /// Appends the log payload to `target` but for values of `shared_bytes` and more: those go to `inserts`, each with the
    /// length of `target` where it belongs, and are not copied.
    pub fn encode_around(
        &self,
        target: &mut Vec<u8>,
        shared_bytes: usize,
        inserts: &mut Vec<(usize, Bytes)>,
    ) {
        target.push(self.tag);
        varint::put(target, self.operations.len() as u64);
        for operation in &self.operations {
            match operation {
                Operation::Put { key, value } => {
                    target.push(1);
                    varint::put_bytes(target, key);
                    if value.len() >= shared_bytes {
                        varint::put(target, value.len() as u64);
                        inserts.push((target.len(), value.clone()));
                    } else {
                        varint::put_bytes(target, value);
                    }
                }
                Operation::Delete { key } => {
                    target.push(0);
                    varint::put_bytes(target, key);
                }
            }
        }
    }

    /// Per operation, how many bytes before the end of the log payload its value begins; where a delete ends.
    pub fn value_tails(&self) -> Vec<u64> {
        let mut tail = 0;
        let tails = self.operations.iter().rev().map(|operation| {
            let value = operation.value();
            let at = tail + value.map_or(0, Bytes::len) as u64;
            let key_bytes = operation.key().len() as u64;
            tail = at + value.map_or(0, |value| varint::length(value.len() as u64));
            tail += key_bytes + varint::length(key_bytes) + 1;
            at
        });
        let mut tails: Vec<u64> = tails.collect();
        tails.reverse();
        tails
    }

    /// Reads a log payload; keys and values share its memory.
    pub fn decode(payload: &Bytes) -> Result<Batch> {
        Self::parse(payload).ok_or_else(|| Error::corrupt("log record", 0, "a batch that does not parse"))
    }

    fn parse(payload: &Bytes) -> Option<Batch> {
        let mut source: &[u8] = payload;
        let mut batch = Batch::new(*source.split_off_first()?);
        let count = varint::take(&mut source)?;
        for _ in 0..count {
            let kind = *source.split_off_first()?;
            let key = payload.slice_ref(varint::take_bytes(&mut source)?);
            match kind {
                1 => batch.put(key, payload.slice_ref(varint::take_bytes(&mut source)?)),
                0 => batch.delete(key),
                _ => return None,
            }
        }
        source.is_empty().then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_no_record_holds_is_refused_by_every_engine() {
        use crate::engine::{Kind, Tier, open};
        let value = Bytes::from(vec![7; 64 << 20]);
        let mut batch = Batch::new(0);
        (0..64u8).for_each(|index| batch.put(vec![index], value.clone()));
        assert!(batch.bytes() > u64::from(u32::MAX));
        for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
            let disk = crate::disk::SimDisk::new();
            let clock = std::sync::Arc::new(crate::base::clock::ManualClock::default());
            let engine = open(disk.clone(), clock, &kind.default_options()).unwrap();
            let (requests, lsn) = (disk.requests(), engine.lsn());
            let refused = engine.apply(&batch, Tier::Disk);
            assert!(matches!(refused, Err(Error::Invalid(_))), "{kind}: {refused:?}");
            assert_eq!((disk.requests(), engine.lsn()), (requests, lsn));
            assert_eq!(engine.get(&[0], Tier::Disk).unwrap(), None);
        }
    }

    #[test]
    fn a_batch_comes_back_and_every_cut_is_refused() {
        let mut batch = Batch::new(7);
        batch.put(&b"key"[..], &b"value"[..]);
        batch.delete(&b"gone"[..]);
        batch.put(&b""[..], vec![9; 300]);
        assert_eq!(batch.bytes(), 3 + 5 + 4 + 300);
        let mut bytes = Vec::new();
        batch.encode(&mut bytes);
        assert!(bytes.len() <= batch.encoded_bytes_max());
        let (mut around, mut inserts) = (Vec::new(), Vec::new());
        batch.encode_around(&mut around, 100, &mut inserts);
        assert_eq!(
            (crate::engine::frame::pieces(&around, &inserts).concat(), inserts.len()),
            (bytes.clone(), 1)
        );
        let tails = batch.value_tails();
        for (operation, tail) in batch.operations().iter().zip(tails) {
            let value = operation.value().cloned().unwrap_or_default();
            assert!(bytes[bytes.len() - tail as usize..].starts_with(&value));
            assert!(operation.value().is_none_or(|value| tail >= value.len() as u64));
        }
        let bytes = Bytes::from(bytes);
        assert_eq!(Batch::decode(&bytes).unwrap(), batch);
        for cut in 0..bytes.len() {
            assert!(Batch::decode(&bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
