//! A value that lies outside its leaf, in memory.

use bytes::Bytes;

use super::page::Extent;

/// The bytes of an extent with the checksum that its leaf has of them.
///
/// What is in memory is found by its first unit. A leaf that reads as it was earlier, because the disk below lost a later write,
/// names units that may hold the value of another key by now; only length and checksum tell.
#[derive(Clone)]
pub struct Value {
    /// The value.
    pub bytes: Bytes,
    crc: u32,
}

impl Value {
    /// The value of `extent`: `bytes` have been compared with its checksum, or that was made of them.
    pub fn new(bytes: Bytes, extent: &Extent) -> Value {
        Value { bytes, crc: extent.crc }
    }

    /// Whether it is what `extent` refers to.
    pub fn is_of(&self, extent: &Extent) -> bool {
        self.crc == extent.crc && self.bytes.len() == extent.bytes as usize
    }
}
