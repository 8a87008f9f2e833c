//! The table of the LSM-tree's options: each one's name, help, and how its text is read and written.

use super::{Compression, Options};
use crate::base::text::{
    Field, When, bounded_size, concatenated, count, exact_size, parse_switch, size, switch, total_items,
};
use crate::engine::lsm::PolicyKind;
use crate::engine::options;

/// Largest and smallest table that follow from `memory`.
const TABLE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;
/// Memtables that the first level takes where its size follows from `memory`, as many as by default.
const BASE_MEMTABLES: u64 = 4;

/// The text form of [`Options`]: those that are the LSM-tree's own, and those of all engines that mean more here. What one policy alone
/// reads comes behind the option that picks the policy.
pub const FIELDS: &[Field<Options>] = &ALL;

const OF_POLICIES: [Field<Options>; total_items(&PolicyKind::FIELDS)] = concatenated(&PolicyKind::FIELDS);
const LISTS: [&[Field<Options>]; 3] = [FIRST, &OF_POLICIES, REST];
const ALL: [Field<Options>; total_items(&LISTS)] = concatenated(&LISTS);

/// The options up to the one that picks the policy.
const FIRST: &[Field<Options>] = &[
    Field {
        name: "preset",
        when: When::Mount,
        help: options::PRESET_HELP,
        set: |options, text| {
            options::set_preset(&mut options.common, text)?;
            match text {
                "s2" => {
                    options.iops = 1000;
                    options.rate_bytes = 100 << 20;
                }
                "tiny" => {
                    options.memtable_entries = 8;
                    options.l0_trigger = 4;
                    options.table_bytes = 64 << 10;
                    options.level_base_bytes = 256 << 10;
                }
                _ => {}
            }
            Ok(())
        },
        get: |_| "none".to_string(),
    },
    Field {
        name: "memory",
        when: When::Mount,
        help: options::MEMORY_HELP,
        set: |options, text| {
            let bytes = bounded_size(text)?;
            options.common.memory_bytes = bytes;
            if bytes > 0 {
                // Half: each halving of the memtables costs a fifth more bytes at the disk where data is four times the memory.
                options.memtable_bytes = (bytes / 2 / options.memtable_count_max.max(1)).max(1);
                options.table_bytes = options.memtable_bytes.clamp(*TABLE_BYTES.start(), *TABLE_BYTES.end());
                options.level_base_bytes = BASE_MEMTABLES * options.memtable_bytes;
                options.common.cache_bytes = bytes - bytes / 2;
            }
            Ok(())
        },
        get: |options| exact_size(options.common.memory_bytes),
    },
    size!("memtable", Mount, memtable_bytes, "Bytes of a memtable before it is flushed."),
    count!("memtable_entries", memtable_entries, "Entries of a memtable at most; 0 for no limit."),
    count!("memtables", memtable_count_max, "Memtables in memory at most."),
    Field {
        name: "value_log",
        when: When::Mount,
        help: "on keeps large values in the log, where they are written once; off.",
        set: |options, text| {
            options.value_log = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.value_log),
    },
    size!("value_threshold", Mount, value_threshold_bytes, "Values from this size on stay in the log."),
    count!(
        "value_gc_percent",
        value_gc_percent,
        "While less of what is kept is needed, the emptiest segments are emptied; at most 90, 0 for never."
    ),
    size!("table", Mount, table_bytes, "Bytes of a table file that merges aim at."),
    count!("merge_threads", merge_threads, "Threads that merge."),
    count!(
        "slice_tables",
        slice_tables,
        "Tables' worth of input after which a merge may be cut into slices; 0 never."
    ),
    size!("table_block", Mount, block_bytes, "Bytes of a table block."),
    Field {
        name: "compression",
        when: When::Mount,
        help: "none, lz4 or zstd for blocks of new tables, or those of L0, L1, ... and all below: none:lz4:zstd.",
        set: |options, text| {
            options.compression = text.parse()?;
            Ok(())
        },
        get: |options| options.compression.to_string(),
    },
    Field {
        name: "compression_bottom",
        when: When::Mount,
        help: "The same for the lowest level; same: as the others.",
        set: |options, text| {
            options.compression_bottom = if text == "same" { None } else { Some(Compression::parse(text)?) };
            Ok(())
        },
        get: |options| options.compression_bottom.map_or("same".to_string(), |it| it.to_string()),
    },
    count!("restart_interval", restart_interval, "Entries between restart points in a block."),
    count!("bloom_bits", bloom_bits, "Filter bits a key, 0 for none; 10 give about 1 % false positives."),
    Field {
        name: "policy",
        when: When::Mount,
        help: PolicyKind::HELP,
        set: |options, text| {
            options.policy = PolicyKind::parse(text)?;
            Ok(())
        },
        get: |options| options.policy.name().to_string(),
    },
];

/// The options behind those that single policies read.
const REST: &[Field<Options>] = &[
    count!("part_blocks", part_blocks, "Blocks of a table that have an index and a filter of their own."),
    count!(
        "gap_tombstones",
        gap_tombstones,
        "Deleted keys in a row after which a scan remembers to jump over them; 0 never."
    ),
    count!("l0_trigger", l0_trigger, "L0 files that start a merge."),
    count!("l0_slowdown", l0_slowdown, "L0 files that slow writers down."),
    count!("l0_stop", l0_stop, "L0 files that stop writers."),
    size!("level_base", Mount, level_base_bytes, "Target size of L1."),
    count!("level_multiplier", level_multiplier, "Growth from level to level."),
    size!("rate", Mount, rate_bytes, "Bytes a second that merges read and write at most; 0 for no limit."),
    count!("iops", iops, "Requests a second that merges make at most; 0 for no limit."),
    size!("pending_slowdown", Mount, pending_slowdown_bytes, "Pending bytes that slow writers down."),
    size!("pending_stop", Mount, pending_stop_bytes, "Pending bytes that stop writers."),
];
