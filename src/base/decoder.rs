//! Decoders as plain functions over bytes, listed room by room for whoever wants to break them: the seeded mutations of
//! `tests/fuzz.rs` and the targets of `fuzz/`.

/// A decoder.
pub struct Decoder {
    /// Description of the format.
    pub name: &'static str,
    /// Reads bytes, whatever they are, and uses what it made of them. Returns whether they were read as anything. Panics if
    /// they read as what they are not: what was accepted and written again must read the same. A checksum around them is made
    /// to fit, since it would stop nearly everything.
    pub decode: fn(&[u8]) -> bool,
    /// Valid input as our own code writes it.
    pub valid: fn() -> Vec<Vec<u8>>,
}
