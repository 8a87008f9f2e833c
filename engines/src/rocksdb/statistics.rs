//! What RocksDB counts and says of itself, under its own names: tickers of its statistics and properties of the database.

use std::ffi::CStr;

use kvfs::engine::Statistic;
use rocksdb::statistics::Ticker;
use rocksdb::{DB, Options};

const BYTES: &str = "bytes";
const COUNT: &str = "count";

/// Tickers, with their units and what they count.
const TICKERS: &[(Ticker, &str, &str)] = &[
    (Ticker::WalFileBytes, BYTES, "Bytes written to the log."),
    (Ticker::WalFileSynced, COUNT, "Syncs of the log."),
    (Ticker::FlushWriteBytes, BYTES, "Bytes that flushes wrote, to blob files among them."),
    (Ticker::CompactReadBytes, BYTES, "Bytes that compactions read, from blob files among them."),
    (Ticker::CompactWriteBytes, BYTES, "Bytes that compactions wrote, to blob files among them."),
    (
        Ticker::BlobDbBlobFileBytesWritten,
        BYTES,
        "Bytes written to blob files; flushes and compactions count them, too.",
    ),
    (Ticker::BlobDbBlobFileBytesRead, BYTES, "Bytes read from blob files."),
    (Ticker::BlobDbGcBytesRelocated, BYTES, "Bytes of values that were moved to newer blob files."),
    (Ticker::BytesWritten, BYTES, "Bytes of keys and values that were put."),
    (Ticker::BytesRead, BYTES, "Bytes of values that point reads found."),
    (Ticker::StallMicros, "us", "Time for which writes were delayed or stopped, whatever the cause."),
    (Ticker::MemtableHit, COUNT, "Point reads answered from a memtable."),
    (Ticker::MemtableMiss, COUNT, "Point reads that no memtable answered."),
    (Ticker::GetHitL0, COUNT, "Point reads answered from level 0."),
    (Ticker::GetHitL1, COUNT, "Point reads answered from level 1."),
    (Ticker::GetHitL2AndUp, COUNT, "Point reads answered from deeper levels."),
    (Ticker::BlockCacheHit, COUNT, "Blocks found in the block cache."),
    (Ticker::BlockCacheMiss, COUNT, "Blocks not found there."),
    (Ticker::BlockCacheDataHit, COUNT, "The same of data blocks: found."),
    (Ticker::BlockCacheDataMiss, COUNT, "The same of data blocks: not found."),
    (Ticker::BlockCacheIndexHit, COUNT, "The same of index blocks: found."),
    (Ticker::BlockCacheIndexMiss, COUNT, "The same of index blocks: not found."),
    (Ticker::BlockCacheFilterHit, COUNT, "The same of filter blocks: found."),
    (Ticker::BlockCacheFilterMiss, COUNT, "The same of filter blocks: not found."),
    (Ticker::BlobDbCacheHit, COUNT, "Values of blob files found in the cache."),
    (Ticker::BlobDbCacheMiss, COUNT, "Values of blob files not found there."),
    (Ticker::BloomFilterUseful, COUNT, "Tables that were not read because a filter said no."),
    (Ticker::BloomFilterFullPositive, COUNT, "Times that a filter said perhaps."),
    (Ticker::BloomFilterFullTruePositive, COUNT, "Times that it said so of a key that was there."),
    (Ticker::NumberDbSeek, COUNT, "Seeks of scans."),
    (Ticker::NoFileOpens, COUNT, "Table files opened."),
    (Ticker::CompactionCpuTotalTime, "us", "Processor time of compactions."),
    (Ticker::ErrorHandlerBgIoErrorCount, COUNT, "Errors of the disk that flushes and compactions met."),
];

/// Properties that are whole numbers, with their names in full, their units and what they say.
const PROPERTIES: &[(&CStr, &str, &str)] = &[
    (c"rocksdb.estimate-live-data-size", BYTES, "Bytes of live data, as it estimates them."),
    (c"rocksdb.estimate-num-keys", COUNT, "Keys, as it estimates them."),
    (c"rocksdb.live-sst-files-size", BYTES, "Bytes of the table files that are in use."),
    (
        c"rocksdb.total-sst-files-size",
        BYTES,
        "Bytes of all table files, also of those that only readers keep.",
    ),
    (c"rocksdb.num-blob-files", COUNT, "Blob files that are in use."),
    (c"rocksdb.live-blob-file-size", BYTES, "Bytes of these."),
    (
        c"rocksdb.live-blob-file-garbage-size",
        BYTES,
        "Bytes of values in these that are overwritten or deleted.",
    ),
    (c"rocksdb.total-blob-file-size", BYTES, "Bytes of all blob files."),
    (c"rocksdb.cur-size-all-mem-tables", BYTES, "Bytes of memtables that are not flushed."),
    (c"rocksdb.size-all-mem-tables", BYTES, "Bytes of all memtables, also of those that only readers keep."),
    (c"rocksdb.num-immutable-mem-table", COUNT, "Memtables that wait for their flush."),
    (
        c"rocksdb.estimate-table-readers-mem",
        BYTES,
        "Memory of open tables outside the block cache, as it estimates it.",
    ),
    (c"rocksdb.block-cache-usage", BYTES, "Bytes in the block cache."),
    (c"rocksdb.block-cache-pinned-usage", BYTES, "Bytes in the block cache that cannot leave it."),
    (c"rocksdb.num-running-flushes", COUNT, "Flushes that run now."),
    (c"rocksdb.num-running-compactions", COUNT, "Compactions that run now."),
    (c"rocksdb.compaction-pending", COUNT, "1 while a compaction is due."),
    (c"rocksdb.background-errors", COUNT, "Errors of flushes and compactions since it was opened."),
    (c"rocksdb.is-write-stopped", COUNT, "1 while writes are stopped."),
    (
        c"rocksdb.actual-delayed-write-rate",
        "bytes/s",
        "Rate to which writes are held while they are delayed; 0 while not.",
    ),
    (c"rocksdb.num-files-at-level0", COUNT, "Files in level 0."),
    (c"rocksdb.num-files-at-level1", COUNT, "Files in level 1."),
    (c"rocksdb.num-files-at-level2", COUNT, "Files in level 2."),
    (c"rocksdb.num-files-at-level3", COUNT, "Files in level 3."),
    (c"rocksdb.num-files-at-level4", COUNT, "Files in level 4."),
    (c"rocksdb.num-files-at-level5", COUNT, "Files in level 5."),
    (c"rocksdb.num-files-at-level6", COUNT, "Files in level 6."),
];

/// How the properties begin that say how many files a level has.
const FILES_AT_LEVEL: &str = "rocksdb.num-files-at-level";

/// Sizes of levels, from the property `rocksdb.levelstats`, which says them to the whole mebibyte.
const LEVEL_SIZES: [&str; 7] = [
    "rocksdb.levelstats.size.level0",
    "rocksdb.levelstats.size.level1",
    "rocksdb.levelstats.size.level2",
    "rocksdb.levelstats.size.level3",
    "rocksdb.levelstats.size.level4",
    "rocksdb.levelstats.size.level5",
    "rocksdb.levelstats.size.level6",
];

/// Counts of the property `rocksdb.cf-write-stall-stats`: how often it found, when flushes and compactions changed its files, that writes
/// were to be delayed or stopped, by cause. They are no waits: one wait may be found several times.
const STALLS: [(&str, &str); 6] = [
    (
        "rocksdb.cf-write-stall-stats.memtable-limit-delays",
        "Times that it found memtables waiting, and delayed writes.",
    ),
    (
        "rocksdb.cf-write-stall-stats.memtable-limit-stops",
        "Times that it found too many memtables waiting, and stopped writes.",
    ),
    (
        "rocksdb.cf-write-stall-stats.l0-file-count-limit-delays",
        "Times that it found many files in level 0, and delayed writes.",
    ),
    (
        "rocksdb.cf-write-stall-stats.l0-file-count-limit-stops",
        "Times that it found too many files in level 0, and stopped writes.",
    ),
    (
        "rocksdb.cf-write-stall-stats.pending-compaction-bytes-delays",
        "Times that it found many bytes pending compaction, and delayed writes.",
    ),
    (
        "rocksdb.cf-write-stall-stats.pending-compaction-bytes-stops",
        "Times that it found too many bytes pending compaction, and stopped writes.",
    ),
];

/// A property that is a whole number; `None` if this database has none of that name.
pub fn property(db: &DB, name: &CStr) -> Option<u64> {
    db.property_int_value(name).ok().flatten()
}

/// All of them but those of levels that have no file, and, unless it `separates` large values, of blob files. `options` are those with which `db`
/// was opened; `is_leveled` whether it estimates what is pending compaction.
pub fn statistics(
    db: &DB,
    options: &Options,
    is_leveled: bool,
    separates: bool,
) -> Vec<(&'static str, Statistic)> {
    let is_meant = |name: &str| separates || !name.contains("blob");
    let tickers =
        TICKERS.iter().filter(|(ticker, ..)| is_meant(ticker.name())).map(|(ticker, unit, help)| {
            (ticker.name(), Statistic::counter(options.get_ticker_count(*ticker), unit, help))
        });
    let pending = property(db, c"rocksdb.estimate-pending-compaction-bytes").filter(|_| is_leveled);
    let pending = (
        "rocksdb.estimate-pending-compaction-bytes",
        Statistic::gauge(
            pending,
            BYTES,
            "Bytes that compactions must still rewrite, as it estimates them for leveled compaction alone.",
        ),
    );
    let properties = PROPERTIES.iter().filter_map(|(name, unit, help)| {
        let (name, value) = (name.to_str().ok().filter(|name| is_meant(name))?, property(db, name));
        let is_empty = name.starts_with(FILES_AT_LEVEL) && value == Some(0);
        (!is_empty).then(|| (name, Statistic::gauge(value, unit, help)))
    });
    let stalls = db.property_value(c"rocksdb.cf-write-stall-stats").ok().flatten().unwrap_or_default();
    let stalls = STALLS.iter().map(|(name, help)| {
        let own = name.rsplit('.').next().unwrap_or_default();
        (*name, Statistic::counter(labelled(&stalls, own), COUNT, help))
    });
    let levels = db.property_value(c"rocksdb.levelstats").ok().flatten().unwrap_or_default();
    let sizes = LEVEL_SIZES.iter().enumerate().filter_map(|(level, name)| {
        let size = level_mebibytes(&levels, level).map(|mebibytes| mebibytes << 20);
        let statistic =
            Statistic::gauge(size, BYTES, "Bytes of the tables of the level, to the whole mebibyte.");
        (size != Some(0)).then_some((*name, statistic))
    });
    tickers.chain([pending]).chain(properties).chain(stalls).chain(sizes).collect()
}

/// The number behind `name: ` in a list of such, whose names may have the prefix `cf-`.
fn labelled(text: &str, name: &str) -> Option<u64> {
    let mut items = text.split([',', '\n']).filter_map(|item| item.trim().rsplit_once(": "));
    let number = |(label, number): (&str, &str)| {
        let label = label.rsplit(' ').next().unwrap_or(label);
        (label.strip_prefix("cf-").unwrap_or(label) == name).then(|| number.parse().ok()).flatten()
    };
    items.find_map(number)
}

/// The size in a table of lines `level files mebibytes`.
fn level_mebibytes(text: &str, level: usize) -> Option<u64> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()?.parse() == Ok(level)).then(|| words.nth(1)?.parse().ok()).flatten()
    };
    text.lines().find_map(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_properties_are_read() {
        let text = "Write Stall (count): cf-l0-file-count-limit-delays-with-ongoing-compaction: 7, \
                    l0-file-count-limit-delays: 3, memtable-limit-stops: 12, total-delays: 3\ninterval: 15 total count\n";
        assert_eq!(labelled(text, "l0-file-count-limit-delays"), Some(3));
        assert_eq!(labelled(text, "memtable-limit-stops"), Some(12));
        assert_eq!(labelled(text, "memtable-limit-delays"), None);
        let text =
            "Level Files Size(MB)\n--------------------\n  0        4       12\n  1        0        0\n";
        assert_eq!([0, 1, 2].map(|level| level_mebibytes(text, level)), [Some(12), Some(0), None]);
    }
}
