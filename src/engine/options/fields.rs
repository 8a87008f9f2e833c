//! The table of the engines' options: each one's name, help, and how its text is read and written.

use super::*;

fn bounded_size(text: &str) -> Result<u64, String> {
    parse_size(text)
        .and_then(|bytes| if bytes <= SIZE_MAX { Ok(bytes) } else { Err("at most 256T".to_string()) })
}

fn bounded_count(text: &str) -> Result<u64, String> {
    let count = text.parse().ok().filter(|count| *count <= COUNT_MAX);
    count.ok_or_else(|| format!("takes a whole number up to {COUNT_MAX}"))
}

/// A field of bytes.
macro_rules! size {
    ($name:literal, $when:ident, $member:ident, $help:literal) => {
        Field {
            name: $name,
            when: When::$when,
            help: $help,
            set: |options, text| {
                options.$member = bounded_size(text)?;
                Ok(())
            },
            get: |options| exact_size(options.$member),
        }
    };
}

/// A field that counts something.
macro_rules! count {
    ($name:literal, $member:ident, $help:literal) => {
        Field {
            name: $name,
            when: When::Mount,
            help: $help,
            set: |options, text| {
                options.$member = bounded_count(text)?;
                Ok(())
            },
            get: |options| options.$member.to_string(),
        }
    };
}

/// The text form of [`Options`].
pub const FIELDS: &[Field<Options>] = &[
    Field {
        name: "engine",
        when: When::Format,
        help: "lsm: LSM-tree, leveled compaction; btree: B-tree; mem: nothing is kept (a baseline). Default lsm.",
        set: |options, text| {
            options.kind = Kind::parse(text)?;
            Ok(())
        },
        get: |options| options.kind.to_string(),
    },
    Field {
        name: "preset",
        when: When::Mount,
        help: "Several options at once; those given behind it count more. s2: sync=always,iops=1000,rate=100M. \
               tiny (lsm): memtables of eight entries and small levels, to watch single flushes and merges.",
        set: |options, text| {
            match text {
                "none" => {}
                "s2" => {
                    options.sync = Sync::Always;
                    options.iops = 1000;
                    options.rate_bytes = 100 << 20;
                }
                "tiny" => {
                    options.memtable_entries = 8;
                    options.l0_trigger = 4;
                    options.table_bytes = 64 << 10;
                    options.level_base_bytes = 256 << 10;
                }
                _ => return Err("takes none, s2 or tiny".to_string()),
            }
            Ok(())
        },
        get: |_| "none".to_string(),
    },
    size!("page_size", Format, page_bytes, "B-tree: bytes of a page, 4K to 64K. Default 16K."),
    Field {
        name: "sync",
        when: When::Mount,
        help: "When changes become durable unasked: fsync (never), interval:DURATION, always. Default interval:1s.",
        set: |options, text| {
            options.sync = text.parse()?;
            Ok(())
        },
        get: |options| options.sync.to_string(),
    },
    Field {
        name: "memory",
        when: When::Mount,
        help: "Bytes that the engine holds in memory at most: a quarter memtables or dirty pages, the rest cache; tables and levels \
               follow the memtables. Options behind it divide it in another way; the cache gives way. 0 for their sum. Default 0.",
        set: |options, text| {
            let bytes = bounded_size(text)?;
            options.memory_bytes = bytes;
            if bytes > 0 {
                options.memtable_bytes = (bytes / 4 / options.memtable_count_max.max(1)).max(1);
                options.table_bytes = options.memtable_bytes.clamp(*TABLE_BYTES.start(), *TABLE_BYTES.end());
                options.level_base_bytes = BASE_MEMTABLES * options.memtable_bytes;
                options.dirty_bytes_max = (bytes / 4).max(1);
                options.cache_bytes = bytes - bytes / 4;
            }
            Ok(())
        },
        get: |options| exact_size(options.memory_bytes),
    },
    size!("cache", Mount, cache_bytes, "Bytes of blocks or pages kept in memory. Default 256M."),
    size!("log_segment", Mount, log_segment_bytes, "Bytes of one log segment. Default 16M."),
    size!(
        "reserve",
        Mount,
        reserve_bytes,
        "Free space that new data leaves alone. Default 64M, 1 % of the disk if more."
    ),
    size!("memtable", Mount, memtable_bytes, "LSM: bytes of a memtable before it is flushed. Default 64M."),
    count!(
        "memtable_entries",
        memtable_entries,
        "LSM: entries of a memtable at most; 0 for no limit. Default 0."
    ),
    count!("memtables", memtable_count_max, "LSM: memtables in memory at most. Default 2."),
    Field {
        name: "value_log",
        when: When::Mount,
        help: "LSM: on keeps large values in the log, where they are written once; off. Default off.",
        set: |options, text| {
            options.value_log = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.value_log),
    },
    size!(
        "value_threshold",
        Mount,
        value_threshold_bytes,
        "LSM: values from this size on stay in the log. Default 2K."
    ),
    count!(
        "value_gc_percent",
        value_gc_percent,
        "LSM: while less of what is kept is needed, the emptiest segments are emptied; at most 90, 0 for never. Default 50."
    ),
    size!("table", Mount, table_bytes, "LSM: bytes of a table file that merges aim at. Default 64M."),
    count!("merge_threads", merge_threads, "LSM: threads that merge. Default 2."),
    count!(
        "slice_tables",
        slice_tables,
        "LSM: tables' worth of input after which a merge may be cut into slices; 0 never. Default 4."
    ),
    size!("table_block", Mount, block_bytes, "LSM: bytes of a table block. Default 4K."),
    Field {
        name: "compression",
        when: When::Mount,
        help: "LSM: none, lz4 or zstd for blocks of new tables, or those of L0, L1, ... and all below: none:lz4:zstd. Default none.",
        set: |options, text| {
            options.compression = text.parse()?;
            Ok(())
        },
        get: |options| options.compression.to_string(),
    },
    Field {
        name: "compression_bottom",
        when: When::Mount,
        help: "LSM: the same for the lowest level; same for as the others. Default same.",
        set: |options, text| {
            options.compression_bottom = if text == "same" { None } else { Some(Compression::parse(text)?) };
            Ok(())
        },
        get: |options| options.compression_bottom.map_or("same".to_string(), |it| it.to_string()),
    },
    count!(
        "restart_interval",
        restart_interval,
        "LSM: entries between restart points in a block. Default 16."
    ),
    count!(
        "bloom_bits",
        bloom_bits,
        "LSM: filter bits a key, 0 for none. Default 10, about 1 % false positives."
    ),
    Field {
        name: "policy",
        when: When::Mount,
        help: "LSM: leveled, tiered, time-window, log (never merges) or eager (one run). Default leveled.",
        set: |options, text| {
            options.policy = PolicyKind::parse(text)?;
            Ok(())
        },
        get: |options| options.policy.name().to_string(),
    },
    Field {
        name: "dynamic_levels",
        when: When::Mount,
        help: "LSM, leveled: on counts the targets of levels from the lowest up; off. Default off.",
        set: |options, text| {
            options.dynamic_levels = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.dynamic_levels),
    },
    count!(
        "tier_ratio",
        tier_ratio_percent,
        "LSM, tiered: percentage by which runs of a tier may differ. Default 200."
    ),
    count!("tier_merge_min", tier_merge_min, "LSM, tiered: runs of a tier that start a merge. Default 4."),
    count!("tier_merge_max", tier_merge_max, "LSM, tiered: runs of a merge at most. Default 32."),
    count!(
        "space_amp_max",
        space_amp_percent,
        "LSM, tiered: percentage of the oldest run that newer ones may take. Default 200."
    ),
    Field {
        name: "window",
        when: When::Mount,
        help: "LSM, time-window: DURATION of a window, at least 1s. Default 60m.",
        set: |options, text| {
            options.window = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.window),
    },
    count!(
        "part_blocks",
        part_blocks,
        "LSM: blocks of a table that have an index and a filter of their own. Default 128."
    ),
    count!(
        "gap_tombstones",
        gap_tombstones,
        "LSM: deleted keys in a row after which a scan remembers to jump over them; 0 never. Default 256."
    ),
    count!("l0_trigger", l0_trigger, "LSM: L0 files that start a merge. Default 4."),
    count!("l0_slowdown", l0_slowdown, "LSM: L0 files that slow writers down. Default 20."),
    count!("l0_stop", l0_stop, "LSM: L0 files that stop writers. Default 36."),
    size!("level_base", Mount, level_base_bytes, "LSM: target size of L1. Default 256M."),
    count!("level_multiplier", level_multiplier, "LSM: growth from level to level. Default 10."),
    size!(
        "rate",
        Mount,
        rate_bytes,
        "LSM: bytes a second that merges read and write at most; 0 for no limit. Default 0."
    ),
    count!("iops", iops, "LSM: requests a second that merges make at most; 0 for no limit. Default 0."),
    size!(
        "pending_slowdown",
        Mount,
        pending_slowdown_bytes,
        "LSM: pending bytes that slow writers down. Default 64G."
    ),
    size!("pending_stop", Mount, pending_stop_bytes, "LSM: pending bytes that stop writers. Default 256G."),
    Field {
        name: "torn",
        when: When::Mount,
        help: "B-tree: what repairs a torn page: image (of every change), doublewrite, delta. Default delta.",
        set: |options, text| {
            options.torn = Torn::parse(text)?;
            Ok(())
        },
        get: |options| options.torn.name().to_string(),
    },
    size!("dirty_max", Mount, dirty_bytes_max, "B-tree: dirty bytes in memory at most. Default 128M."),
    size!(
        "checkpoint_log",
        Mount,
        checkpoint_log_bytes,
        "B-tree: the log on the disk at most, but for a segment; copies of pages included. Default 256M."
    ),
    Field {
        name: "checkpoint_age",
        when: When::Mount,
        help: "B-tree: age of the oldest dirty page that starts a checkpoint. Default 30s.",
        set: |options, text| {
            options.checkpoint_age = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.checkpoint_age),
    },
];
