//! Sizes, limits and decisions of the B-tree, for who models one without writing it.

use super::allocation_unit::{UnitNumber, Units};
use super::freemap::GROUP_UNITS;
use super::growth::growth_units;
use super::options::Options;

pub use super::allocation_unit::UNIT_BYTES;
pub use super::bound::{AGAIN_BYTES, AGAIN_TIMES, AGAIN_TIMES_MIN, BATCH_OVERHEAD_BYTES, STEPS};
pub use super::change_buffer::{ENTRY_BYTES, PAGES_SHARE, PUT_OVERHEAD_BYTES, SHARE_MERGE, share};
pub use super::doublewrite::{area_bytes, chunk_pages, kept_bytes};
pub use super::meta::META_BYTES;
pub use super::page::{
    ASCENDING, EXTENT_BYTES, HEADER_BYTES, INNER_CELL_BYTES, LEAF_CELL_BYTES, cell_bytes_max, is_inline_size,
};
pub use super::records::image_record_bytes_max;
pub use super::schedule::{FlushState, FlushWork, VacuumNeed, next};
pub use super::tree::{MERGE_CELL_BYTES, MERGE_LEAVES};

/// Units of one page of the free map.
pub const MAP_GROUP_UNITS: u64 = GROUP_UNITS.get();
/// Units before the first that is given out.
pub const FIRST_UNIT: u64 = super::allocation_unit::FIRST_UNIT.get();

/// Units that the file of a store with `options` has behind `end` of those that are used.
pub fn ahead_units(options: &Options, end: u64) -> u64 {
    let units: Units = growth_units(options, UnitNumber::new(end));
    units.get()
}
