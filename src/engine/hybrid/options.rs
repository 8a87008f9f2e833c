//! Options of the hybrid: those of both halves, each once, and the bound between them.

use super::demoter::{round_bytes, step_bytes};
use super::heat::HEAT_MAX;
use crate::base::text::{BadText, Field, When, bounded_size, concatenated, exact_size};
use crate::engine::{Common, OwnOptions, btree, lsm, options};

/// Part of the cache for pages of the tree, one part in so many; blocks of tables have the rest.
const PAGES_SHARE: u64 = 2;

/// Settings of the hybrid.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Those of the tree, and those that every engine has.
    pub tree: btree::Options,
    /// Those of the levels. What has to do with memtables and the log is of no use here.
    pub levels: lsm::Options,
    /// Bytes that the tree holds at most, or little more: what is cold goes down to the levels.
    pub hot_bytes: u64,
    /// Heat from which on a record that is read below is copied into the tree; 0 for never.
    pub promote_heat: u8,
}

/// Heat that a record of a file of blocks that are read at random reaches seldom by chance, by measurement.
const PROMOTE_HEAT: u8 = 8;

/// Bytes of the tree: half of what may be dirty. Checkpoints of a tree that is all dirty write it again and again: with one as large as the memory they
/// wrote ten times as much, by measurement.
const HOT_BYTES: u64 = 64 << 20;
/// Part of `memory` for the tree, one part in so many: half of the pages that may be dirty.
const HOT_SHARE: u64 = 4;
/// L1 has so many times what a round of the hand brings down: what L0 has when it is merged.
const BASE_ROUNDS: u64 = 4;

/// Parses a heat: 1 to [`HEAT_MAX`], or `off`, which is 0.
pub fn parse_heat(text: &str) -> Result<u8, BadText> {
    if text == "off" {
        return Ok(0);
    }
    let heat = text.parse().ok().filter(|heat| (1..=HEAT_MAX).contains(heat));
    heat.ok_or_else(|| format!("takes a heat from 1 to {HEAT_MAX}, or off").into())
}

impl Default for Options {
    fn default() -> Options {
        let (tree, levels) = Default::default();
        let mut options = Options { tree, levels, hot_bytes: 0, promote_heat: PROMOTE_HEAT };
        options.set_hot(HOT_BYTES);
        options
    }
}

impl Options {
    /// Sets the size of the tree, and with it that of the first level.
    fn set_hot(&mut self, bytes: u64) {
        self.hot_bytes = bytes;
        self.levels.level_base_bytes = BASE_ROUNDS * round_bytes(bytes);
    }

    /// The options of the tree alone, with its part of the cache.
    pub fn of_tree(&self) -> btree::Options {
        let mut tree = self.tree.clone();
        tree.common.memory_bytes = 0;
        tree.common.cache_bytes /= PAGES_SHARE;
        tree
    }

    /// The options of the levels alone, with their part of the cache.
    pub fn of_levels(&self) -> lsm::Options {
        let step_bytes = step_bytes(self.hot_bytes);
        // Tables of one round of the hand do not overlap: together they are one sorted run.
        let steps = round_bytes(self.hot_bytes).div_ceil(step_bytes);
        let mut levels = lsm::Options {
            common: self.tree.common,
            // There are none; what comes into L0 at once is as large as one.
            memtable_bytes: step_bytes,
            l0_trigger: self.levels.l0_trigger.saturating_mul(steps),
            l0_slowdown: self.levels.l0_slowdown.saturating_mul(steps),
            l0_stop: self.levels.l0_stop.saturating_mul(steps),
            ..self.levels.clone()
        };
        levels.common.memory_bytes = 0;
        levels.common.cache_bytes -= levels.common.cache_bytes / PAGES_SHARE;
        levels
    }
}

/// The field of that name among `fields`.
const fn find<T>(fields: &'static [Field<T>], name: &str) -> &'static Field<T> {
    let mut index = 0;
    while index < fields.len() {
        if is_equal(fields[index].name.as_bytes(), name.as_bytes()) {
            return &fields[index];
        }
        index += 1;
    }
    panic!("the half has no option of that name")
}

const fn is_equal(one: &[u8], two: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < two.len() {
        if one[index] != two[index] {
            return false;
        }
        index += 1;
    }
    one.len() == two.len()
}

/// The option of that name of one half.
macro_rules! of {
    ($half:ident, $options:ty, $name:literal) => {{
        const FIELD: &Field<$options> = find(<$options as OwnOptions>::FIELDS, $name);
        Field {
            name: FIELD.name,
            when: FIELD.when,
            help: FIELD.help,
            set: |options: &mut Options, text| (FIELD.set)(&mut options.$half, text),
            get: |options| (FIELD.get)(&options.$half),
        }
    }};
}

/// Options of the halves, by name.
macro_rules! all_of {
    ($half:ident, $options:ty, $($name:literal),+ $(,)?) => {
        &[$(of!($half, $options, $name)),+]
    };
}

const OWN: &[Field<Options>] = &[
    Field {
        name: "preset",
        when: When::Mount,
        help: options::PRESET_HELP,
        set: |options, text| {
            options::set_preset(&mut options.tree.common, text)?;
            if text == "s2" {
                options.levels.iops = 1000;
                options.levels.rate_bytes = 100 << 20;
            }
            Ok(())
        },
        get: |_| "none".to_string(),
    },
    Field {
        name: "memory",
        when: When::Mount,
        help: "Bytes that the engine holds in memory at most: half dirty pages, half cache; hot is a quarter of it, and level_base follows. Options behind \
               it divide it in another way; the cache gives way. 0 for their sum.",
        set: |options, text| {
            let bytes = bounded_size(text)?;
            options.tree.common.memory_bytes = bytes;
            if bytes > 0 {
                options.tree.dirty_bytes_max = (bytes / 2).max(1);
                options.tree.common.cache_bytes = bytes - bytes / 2;
                options.set_hot((bytes / HOT_SHARE).max(1));
            }
            Ok(())
        },
        get: |options| exact_size(options.tree.common.memory_bytes),
    },
    Field {
        name: "hot",
        when: When::Mount,
        help: "Bytes that the tree holds before what is cold goes down to the levels, twice of which is level_base; at most half of dirty_max, or checkpoints \
               write it again and again.",
        set: |options, text| {
            options.set_hot(bounded_size(text)?);
            Ok(())
        },
        get: |options| exact_size(options.hot_bytes),
    },
    Field {
        name: "promote",
        when: When::Mount,
        help: "Heat, of 15, from which on a record that is read in the levels is copied into the tree, unless the tree has to give up as hot ones; off: never.",
        set: |options, text| {
            options.promote_heat = parse_heat(text)?;
            Ok(())
        },
        get: |options| match options.promote_heat {
            0 => "off".to_string(),
            heat => heat.to_string(),
        },
    },
];
const OF_TREE: &[Field<Options>] = all_of!(
    tree,
    btree::Options,
    "page_size",
    "torn",
    "pages",
    "dirty_max",
    "checkpoint_log",
    "checkpoint_age"
);
const OF_LEVELS: &[Field<Options>] = all_of!(
    levels,
    lsm::Options,
    "table",
    "merge_threads",
    "slice_tables",
    "table_block",
    "compression",
    "compression_bottom",
    "restart_interval",
    "bloom_bits",
    "policy",
    "dynamic_levels",
    "tier_ratio",
    "tier_merge_min",
    "tier_merge_max",
    "space_amp_max",
    "window",
    "part_blocks",
    "gap_tombstones",
    "l0_trigger",
    "l0_slowdown",
    "l0_stop",
    "level_base",
    "level_multiplier",
    "rate",
    "iops",
    "pending_slowdown",
    "pending_stop",
);
const ALL: [Field<Options>; OWN.len() + OF_TREE.len() + OF_LEVELS.len()] =
    concatenated(&[OWN, OF_TREE, OF_LEVELS]);

impl OwnOptions for Options {
    const FIELDS: &'static [Field<Options>] = &ALL;

    fn tiny() -> Options {
        let (tiny, usual) = (lsm::Options::tiny(), lsm::Options::default());
        let levels = lsm::Options {
            common: usual.common,
            memtable_bytes: usual.memtable_bytes,
            value_threshold_bytes: usual.value_threshold_bytes,
            ..tiny
        };
        Options { tree: btree::Options::tiny(), levels, hot_bytes: 32 << 10, promote_heat: 1 }
    }

    fn common(&self) -> &Common {
        &self.tree.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.tree.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        self.tree.divide(memory_bytes);
        self.levels.table_bytes = memory_bytes / 4;
        self.set_hot(memory_bytes / HOT_SHARE);
        self.tree.checkpoint_log_bytes = 2 * memory_bytes;
    }

    fn validate(&self) -> Result<(), BadText> {
        if self.hot_bytes == 0 {
            return Err("hot must be above 0".into());
        }
        self.tree.validate()?;
        self.of_levels().validate()
    }
}
