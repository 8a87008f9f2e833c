//! Entries of an image, and their bytes in a frame: each key as what it shares with the one before (varint), the rest behind its
//! length, then 1 + the length of the value, and the value's bytes in a recording that keeps values.

use bytes::Bytes;

use super::event::{self, Content};
use crate::base::varint;

/// An entry of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Content,
}

/// The bytes of a frame of entries, as far as it is filled.
#[derive(Debug, Default)]
pub(super) struct ImageChunk {
    bytes: Vec<u8>,
    last: Vec<u8>,
}

impl ImageChunk {
    /// Appends an entry.
    pub fn push(&mut self, key: &[u8], value: &Content) {
        let shared = key.iter().zip(&self.last).take_while(|(one, other)| one == other).count();
        varint::put(&mut self.bytes, shared as u64);
        varint::put_bytes(&mut self.bytes, &key[shared..]);
        event::put_content(&mut self.bytes, Some(value));
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins a new frame in the same memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.last.clear();
    }
}

/// Takes the entries of a frame apart, one after the other.
pub(super) struct EntriesOfFrame {
    whole: Bytes,
    /// Bytes of `whole` that are read.
    at: usize,
    last: Vec<u8>,
    keeps_values: bool,
}

impl EntriesOfFrame {
    /// Of the bytes of a frame.
    pub fn new(whole: Bytes, keeps_values: bool) -> EntriesOfFrame {
        EntriesOfFrame { whole, at: 0, last: Vec::new(), keeps_values }
    }

    /// Whether all of them are taken.
    pub fn is_done(&self) -> bool {
        self.at == self.whole.len()
    }

    /// The next one; `None` if its bytes do not parse.
    pub fn take(&mut self) -> Option<Entry> {
        let mut source = &self.whole[self.at..];
        let shared = usize::try_from(varint::take(&mut source)?).ok()?;
        if shared > self.last.len() {
            return None;
        }
        self.last.truncate(shared);
        self.last.extend_from_slice(varint::take_bytes(&mut source)?);
        let value = event::take_content(&self.whole, &mut source, self.keeps_values)??;
        self.at = self.whole.len() - source.len();
        Some(Entry { key: Bytes::copy_from_slice(&self.last), value })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Entries that share beginnings.
    pub fn samples(keeps_values: bool) -> Vec<Entry> {
        let keys: [&'static [u8]; 5] = [b"", b"a", b"ab", b"abc\0", b"b"];
        let value = |bytes: &'static [u8]| match keeps_values {
            true => Content::Bytes(Bytes::from_static(bytes)),
            false => Content::Length(bytes.len() as u64 * 1000),
        };
        keys.iter().map(|key| Entry { key: Bytes::from_static(key), value: value(key) }).collect()
    }

    /// The bytes of a frame with `entries`.
    pub fn frame(entries: &[Entry]) -> Vec<u8> {
        let mut chunk = ImageChunk::default();
        entries.iter().for_each(|entry| chunk.push(&entry.key, &entry.value));
        chunk.bytes().to_vec()
    }

    /// The entries of a frame; `None` if it does not parse.
    pub fn entries(frame: &[u8], keeps_values: bool) -> Option<Vec<Entry>> {
        let mut source = EntriesOfFrame::new(Bytes::copy_from_slice(frame), keeps_values);
        let mut entries = Vec::new();
        while !source.is_done() {
            entries.push(source.take()?);
        }
        Some(entries)
    }

    #[test]
    fn entries_come_back_and_no_cut_is_taken_for_all_of_them() {
        for keeps_values in [false, true] {
            let all = samples(keeps_values);
            let bytes = frame(&all);
            assert_eq!(entries(&bytes, keeps_values).as_ref(), Some(&all));
            for cut in 0..bytes.len() {
                assert_ne!(entries(&bytes[..cut], keeps_values).as_ref(), Some(&all), "cut at {cut}");
            }
        }
        assert_eq!(entries(&[1, 0, 1], false), None, "nothing to share with");
        assert_eq!(entries(&[0, 1, b'a', 0], false), None, "an entry without a value");
    }
}
