//! Settings of the LSM-tree: plain data, with the default and the trade-off beside each.

mod fields;

use std::fmt;
use std::str::FromStr;

use super::{PolicyKind, PolicyOptions};
use crate::base::text::{BadText, Field};
use crate::disk::LEVELS;
pub use crate::engine::Compression;
use crate::engine::{Common, OwnOptions};
pub use fields::FIELDS;

/// Most filter bits a key: more give no fewer wrong answers, only larger tables.
pub const BLOOM_BITS_MAX: u64 = 64;
/// Memtables and tables of this size are not made smaller for a small disk.
const SMALL_PART_BYTES: u64 = 1 << 20;
/// Most memtables.
const MEMTABLES_MAX: u64 = 1024;

/// How blocks of tables are compressed, level by level. As text the levels from L0 on with a colon between; the last one holds for
/// all below: `none:lz4:zstd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelCompression([Compression; LEVELS]);

impl LevelCompression {
    /// The compression of a level.
    pub fn of(&self, level: usize) -> Compression {
        self.0[level.min(LEVELS - 1)]
    }
}

impl From<Compression> for LevelCompression {
    fn from(compression: Compression) -> LevelCompression {
        LevelCompression([compression; LEVELS])
    }
}

impl fmt::Display for LevelCompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.of(LEVELS - 1);
        let count = self.0.iter().rposition(|it| *it != last).map_or(1, |differs| differs + 2);
        let names: Vec<String> = self.0[..count].iter().map(Compression::to_string).collect();
        f.write_str(&names.join(":"))
    }
}

impl FromStr for LevelCompression {
    type Err = BadText;
    fn from_str(text: &str) -> Result<LevelCompression, BadText> {
        let named = text.split(':').map(Compression::parse).collect::<Result<Vec<_>, _>>();
        let named = named.ok().filter(|named| (1..=LEVELS).contains(&named.len())).ok_or_else(|| {
            format!("takes none, lz4 or zstd, or those of up to {LEVELS} levels from L0 on: none:lz4:zstd")
        })?;
        Ok(LevelCompression(std::array::from_fn(|level| named[level.min(named.len() - 1)])))
    }
}

/// Settings of the LSM-tree. One flat list, since each is one key of the text that people write, and most components read three or four
/// of them; what one policy alone reads is a type beside that policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The options that every engine has.
    pub common: Common,
    /// A memtable of this size is flushed. Larger absorbs more overwrites and costs memory and replay time.
    pub memtable_bytes: u64,
    /// A memtable of so many entries is flushed whatever its bytes; 0 for no such limit. For seeing single flushes.
    pub memtable_entries: u64,
    /// Memtables in memory, the one being written among them.
    pub memtable_count_max: u64,
    /// Large values stay in the log, tables point to them. They are written once; a read costs one request more, and a
    /// segment of the log is kept while enough of its values are needed.
    pub value_log: bool,
    /// Values from this size on are large.
    pub value_threshold_bytes: u64,
    /// While less than this percentage of what is kept for values is needed, the emptiest segments are emptied. More saves space and
    /// writes more.
    pub value_gc_percent: u64,
    /// Bytes of a table file that merges aim at.
    pub table_bytes: u64,
    /// Subcompactions that are worked on at once.
    pub merge_threads: u64,
    /// A compaction is cut into subcompactions of so many tables, each of which gives the space of its inputs back when it is done; 0 for merges
    /// that are not cut.
    pub slice_tables: u64,
    /// Bytes of a block before it is cut.
    pub block_bytes: u64,
    /// How blocks of each level are compressed; one that does not shrink by an eighth is stored as it is.
    pub compression: LevelCompression,
    /// How blocks of merges into the lowest level are compressed, where most data lies and changes least; as above
    /// if not set.
    pub compression_bottom: Option<Compression>,
    /// Entries between restart points of a block's prefix compression.
    pub restart_interval: u64,
    /// Blocks of a table that have an index and a filter of their own. A table of more blocks can be open without those
    /// in memory.
    pub part_blocks: u64,
    /// Bloom filter bits a key; 10 is about 1 % false positives; 0 turns filters off.
    pub bloom_bits: u64,
    /// How sorted runs are merged.
    pub policy: PolicyKind,
    /// The options that single policies read.
    pub policies: PolicyOptions,
    /// After this many deleted keys in a row a scan remembers where they are, so that the next one need not pass them;
    /// 0 for never.
    pub gap_tombstones: u64,
    /// L0 runs at which a merge into L1 starts.
    pub l0_trigger: u64,
    /// L0 runs from which writers are slowed down.
    pub l0_slowdown: u64,
    /// L0 runs at which writers stop.
    pub l0_stop: u64,
    /// Target size of L1.
    pub level_base_bytes: u64,
    /// Growth from a level to the next.
    pub level_multiplier: u64,
    /// Bytes a second that merges may read and write together; 0 for no limit. Less disturbs readers less, and lets debt grow.
    pub rate_bytes: u64,
    /// Requests a second that merges may make; 0 for no limit.
    pub iops: u64,
    /// Pending compaction bytes from which writers are slowed down.
    pub pending_slowdown_bytes: u64,
    /// Pending compaction bytes at which writers stop.
    pub pending_stop_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            common: Common::default(),
            memtable_bytes: 64 << 20,
            memtable_entries: 0,
            memtable_count_max: 2,
            value_log: false,
            value_threshold_bytes: 2 << 10,
            value_gc_percent: 50,
            table_bytes: 64 << 20,
            merge_threads: 2,
            slice_tables: 4,
            block_bytes: 4 << 10,
            compression: Compression::None.into(),
            compression_bottom: None,
            restart_interval: 16,
            part_blocks: 128,
            bloom_bits: 10,
            policy: PolicyKind::default(),
            policies: PolicyOptions::default(),
            gap_tombstones: 256,
            l0_trigger: 4,
            l0_slowdown: 20,
            l0_stop: 36,
            level_base_bytes: 256 << 20,
            level_multiplier: 10,
            rate_bytes: 0,
            iops: 0,
            pending_slowdown_bytes: 64 << 30,
            pending_stop_bytes: 256 << 30,
        }
    }
}

impl Options {
    /// A few hundred bytes everywhere, so that a short test reaches every code path.
    pub fn tiny() -> Options {
        Options {
            common: Common::tiny(),
            memtable_bytes: 2 << 10,
            value_threshold_bytes: 50,
            table_bytes: 2 << 10,
            slice_tables: 2,
            block_bytes: 256,
            restart_interval: 4,
            part_blocks: 6,
            gap_tombstones: 4,
            l0_trigger: 2,
            l0_slowdown: 6,
            l0_stop: 10,
            level_base_bytes: 4 << 10,
            level_multiplier: 3,
            pending_slowdown_bytes: 1 << 20,
            pending_stop_bytes: 4 << 20,
            ..Options::default()
        }
    }

    /// These settings for a disk of `total_bytes`, 0 if that is not known: on a small one memtables (and with them the log), tables and
    /// the first level take only a part of it.
    pub fn for_disk(&self, total_bytes: u64) -> Options {
        if total_bytes == 0 {
            return self.clone();
        }
        let part = |of: u64| (total_bytes / of).max(SMALL_PART_BYTES);
        Options {
            memtable_bytes: self.memtable_bytes.min(part(32)),
            table_bytes: self.table_bytes.min(part(64)),
            level_base_bytes: self.level_base_bytes.min(part(8)),
            ..self.clone()
        }
    }

    /// From which size on values stay in the log; `None` if none do.
    pub fn value_log_threshold(&self) -> Option<u64> {
        self.value_log.then_some(self.value_threshold_bytes)
    }

    /// Bytes that memtables may take.
    pub fn memtables_bytes_max(&self) -> u64 {
        self.memtable_bytes.saturating_mul(self.memtable_count_max)
    }
}

impl OwnOptions for Options {
    const FIELDS: &'static [Field<Options>] = FIELDS;

    fn tiny() -> Options {
        Options::tiny()
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        self.common.divide(memory_bytes);
        // Two memtables.
        (self.memtable_bytes, self.table_bytes) = (memory_bytes / 4, memory_bytes / 4);
        self.level_base_bytes = memory_bytes;
    }

    fn validate(&self) -> Result<(), BadText> {
        if self.memtable_bytes == 0 || !(2..=MEMTABLES_MAX).contains(&self.memtable_count_max) {
            return Err(
                format!("memtable must be above 0 and memtables between 2 and {MEMTABLES_MAX}").into()
            );
        }
        self.common.validate(self.memtables_bytes_max(), "memtables")?;
        if self.bloom_bits > BLOOM_BITS_MAX {
            return Err(format!("bloom_bits={} is more than {BLOOM_BITS_MAX}", self.bloom_bits).into());
        }
        if self.value_threshold_bytes == 0 || self.value_gc_percent > 90 {
            return Err("value_threshold must be above 0 and value_gc_percent at most 90".into());
        }
        if !(self.l0_trigger <= self.l0_slowdown && self.l0_slowdown <= self.l0_stop && self.l0_trigger > 0) {
            return Err("l0_trigger ≤ l0_slowdown ≤ l0_stop must hold, and the trigger be above 0".into());
        }
        self.policies.validate()?;
        if self.level_multiplier < 2
            || self.block_bytes < 64
            || self.restart_interval == 0
            || self.part_blocks == 0
            || self.table_bytes == 0
            || self.merge_threads == 0
        {
            return Err("level_multiplier must be at least 2, table_block at least 64 bytes, table, restart_interval, part_blocks and \
                        merge_threads above 0".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores remember options by these names; people find them in this order.
    #[test]
    fn names_order_and_defaults_of_options_stay_as_they_are() {
        let options = Options::default();
        let texts = FIELDS.iter().map(|field| format!("{}={}", field.name, (field.get)(&options)));
        assert_eq!(
            texts.collect::<Vec<_>>().join(","),
            "preset=none,memory=0,memtable=64M,memtable_entries=0,memtables=2,value_log=off,value_threshold=2K,\
             value_gc_percent=50,table=64M,merge_threads=2,slice_tables=4,table_block=4K,compression=none,\
             compression_bottom=same,restart_interval=16,bloom_bits=10,policy=leveled,dynamic_levels=off,\
             tier_ratio=200,tier_merge_min=4,tier_merge_max=32,space_amp_max=200,window=60m,part_blocks=128,\
             gap_tombstones=256,l0_trigger=4,l0_slowdown=20,l0_stop=36,level_base=256M,level_multiplier=10,\
             rate=0,iops=0,pending_slowdown=64G,pending_stop=256G"
        );
    }

    #[test]
    fn compression_of_levels_reads_back() {
        for (text, wanted) in
            [("zstd", "zstd"), ("none:lz4:zstd", "none:lz4:zstd"), ("lz4:none:none", "lz4:none")]
        {
            assert_eq!(text.parse::<LevelCompression>().unwrap().to_string(), wanted);
        }
        let levels: LevelCompression = "none:lz4:zstd".parse().unwrap();
        let of = [0, 1, 2, LEVELS - 1].map(|level| levels.of(level));
        assert_eq!(of, [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Zstd]);
        for wrong in ["", "none:", "lz4:gzip", "none:none:none:none:none:none:none:zstd"] {
            assert!(wrong.parse::<LevelCompression>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_policy_may_be_called_by_another_name_and_is_shown_by_its_own() {
        for (given, shown) in [("none", "log"), ("log", "log"), ("time-window", "time-window")] {
            let mut options = Options::default();
            crate::base::text::set(FIELDS, &mut options, "policy", given).unwrap().unwrap();
            let field = FIELDS.iter().find(|field| field.name == "policy").unwrap();
            assert_eq!((field.get)(&options), shown);
        }
    }

    #[test]
    fn memory_is_divided_and_a_small_disk_gets_small_parts() {
        let mut options = Options::default();
        crate::base::text::set(FIELDS, &mut options, "memory", "64M").unwrap().unwrap();
        let sizes = [options.memtable_bytes, options.table_bytes, options.level_base_bytes];
        assert_eq!(sizes, [16 << 20, 16 << 20, 64 << 20]);
        let small = Options::default().for_disk(400 << 20);
        let sizes = [small.memtable_bytes, small.table_bytes, small.level_base_bytes];
        assert_eq!(sizes, [400 << 15, 400 << 14, 50 << 20]);
        assert_eq!(Options::default().for_disk(0), Options::default());
        assert_eq!(Options::default().for_disk(4 << 30), Options::default());
    }
}
