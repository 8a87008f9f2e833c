//! A value that lies outside its leaf, as it is in memory.

use bytes::Bytes;

use super::page::Extent;

/// The bytes of an extent, with the checksum that its leaf keeps.
///
/// Values in memory are found by their first unit. A stale leaf (the disk below lost a later write of it) names units that may hold the value
/// of another key by now; length and checksum tell the two apart.
#[derive(Clone)]
pub struct Value {
    /// The value.
    pub bytes: Bytes,
    crc: u32,
}

impl Value {
    /// The value of `extent`. The caller has checked `bytes` against the checksum, or has computed it from them.
    pub fn new(bytes: Bytes, extent: &Extent) -> Value {
        Value { bytes, crc: extent.crc }
    }

    /// Whether it is the value that `extent` refers to.
    pub fn is_of(&self, extent: &Extent) -> bool {
        self.crc == extent.crc && self.bytes.len() == extent.bytes as usize
    }
}
