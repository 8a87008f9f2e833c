//! The data file: its name, and the unit that its space is counted in.

/// Name of the data file.
pub const FILE: &str = "btree.pages";
/// The file's unit of space.
pub const UNIT_BYTES: u64 = 4096;
/// Units before hold the meta pages.
pub const FIRST_UNIT: u64 = 2;

/// Units that `bytes` take.
pub fn units_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(UNIT_BYTES)
}
