//! Inputs and results of the textbook formulas: `docs/model.md` has the sources, and what each formula leaves out. A policy's own formula
//! stands beside it, in its [`Descriptor`](super::Descriptor).

/// The formula of a policy.
pub struct Model {
    /// The prediction for so many bytes of data.
    pub predict: fn(f64, &Sizes) -> Prediction,
    /// Whether its depth grows with levels or tiers, not with the data itself.
    pub has_levels: bool,
}

/// Sizes that the formulas work on. The default is the example that all the tables of the texts use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Bloom filter of one table, bytes.
    pub filter_bytes: f64,
    /// Index of one table, bytes.
    pub index_bytes: f64,
    /// One block, bytes.
    pub block_bytes: f64,
    /// One table, bytes.
    pub table_bytes: f64,
    /// Files in level 0.
    pub l0_files: f64,
    /// False-positive rate of a filter.
    pub false_positive_rate: f64,
    /// Growth from a level to the next.
    pub ratio: f64,
    /// Runs that a tier collects before they are merged.
    pub runs_per_tier: f64,
    /// Memory that eager merging collects before it merges, bytes.
    pub buffer_bytes: f64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            filter_bytes: 16.0 * 1024.0,
            index_bytes: 32.0 * 1024.0,
            block_bytes: 4.0 * 1024.0,
            // A tenth of a gigabyte, so that 1 GB is ten tables.
            table_bytes: GIGABYTE / 10.0,
            l0_files: 4.0,
            false_positive_rate: 0.001,
            ratio: 10.0,
            runs_per_tier: 4.0,
            buffer_bytes: 4.0 * GIGABYTE,
        }
    }
}

/// The unit of the texts' data sizes.
pub const GIGABYTE: f64 = (1u64 << 30) as f64;

/// Prediction for one policy and data size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Levels, tiers or tables: what the depth counts.
    pub depth: f64,
    /// Bytes read by one lookup in the worst case with nothing cached.
    pub lookup_bytes: f64,
    /// Bytes written for a byte put, without the log.
    pub write_amp: f64,
    /// Bytes written for a byte put by another model, that of compaction debt; `None` where there is none.
    pub debt_write_amp: Option<f64>,
    /// Disk needed at rest over data; `None` where it has no bound but the number of overwrites.
    pub space_amp: Option<f64>,
    /// Extra disk needed while merging, bytes.
    pub temporary_bytes: f64,
}

/// Levels of a tree of `data_bytes`: 3 for one gigabyte and one more for each factor of `ratio`.
pub fn levels(data_bytes: f64, ratio: f64) -> f64 {
    (3.0 + (data_bytes / GIGABYTE).ln() / ratio.ln()).max(1.0)
}

/// Worst-case bytes of a lookup that asks `runs` filters and finds its key in the last: every filter, index and block for each
/// false positive of `checked` filters, and index and block of the hit.
pub fn lookup(sizes: &Sizes, runs: f64, checked: f64) -> f64 {
    let probe = sizes.index_bytes + sizes.block_bytes;
    runs * sizes.filter_bytes + sizes.false_positive_rate * checked * probe + probe
}

/// Share of the growth factor that merges rewrite in practice: not every table of the next level overlaps.
pub const OVERLAP_SHARE: f64 = 0.7;
