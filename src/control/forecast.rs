//! Forecasts of the models for the tree at hand: the debt of each level, and the amplification that its layout should have, to stand
//! beside what was measured.

use super::model::{self, DebtRow, Sizes};
use super::stats::{Report, Sample};
use crate::base::metric::ratio;
use crate::engine::background;
use crate::engine::lsm::PolicyKind;

/// Growth factor assumed where the tree does not tell.
const RATIO: f64 = 10.0;

/// The debt by level: memtable and levels of an LSM-tree down to the last that holds anything, dirty pages of a B-tree.
pub(super) fn debt(sample: &Sample) -> Vec<DebtRow> {
    let shape = &sample.shape;
    if let Some(tree) = &shape.tree {
        // Once to its place and, unless it is new, as a copy before that, where pages are overwritten. Where none is, a page may be compressed, and
        // is taken to shrink as much as the others did.
        let pages_bytes = (tree.leaf_pages + tree.inner_pages) * tree.page_bytes;
        let saved_share = ratio(tree.saved_bytes, pages_bytes).unwrap_or_default();
        let writes = match tree.page_copies {
            0 => 1.0 - saved_share.min(1.0),
            copies => 1.0 + copies as f64,
        };
        let bytes = shape.debt.dirty_bytes.unwrap_or_default() as f64;
        let pages = DebtRow {
            level: "dirty pages".to_string(),
            bytes,
            write_amp: writes,
            pending_write_amp: writes,
            debt_bytes: bytes * writes,
        };
        // What a hybrid has in its pages owes nothing while it stays there; its levels have no memtable above them.
        let below = debt_of_levels(sample).into_iter().skip(1).filter(|row| row.bytes > 0.0);
        return std::iter::once(pages).chain(below).collect();
    }
    debt_of_levels(sample)
}

/// The debt of the memtable, and of the levels down to the last that holds anything.
fn debt_of_levels(sample: &Sample) -> Vec<DebtRow> {
    let shape = &sample.shape;
    let Some(last) = shape.levels.iter().rposition(|level| level.bytes > 0) else {
        return match shape.levels.is_empty() {
            true => Vec::new(),
            false => {
                model::durability_debt(shape.memory.memtable_bytes.unwrap_or_default() as f64, &[0.0], RATIO)
            }
        };
    };
    // What lies in L0 must at least go to L1.
    let bytes: Vec<f64> = shape.levels.iter().take(last.max(1) + 1).map(|level| level.bytes as f64).collect();
    model::durability_debt(shape.memory.memtable_bytes.unwrap_or_default() as f64, &bytes, growth(sample))
}

/// The most that [`debt`] may become before writers stop: a full memory and, in an LSM-tree, an L0 at its stop; deeper levels
/// are as they are.
pub(super) fn debt_max(sample: &Sample) -> f64 {
    let shape = &sample.shape;
    let most = |row: &DebtRow| {
        let bytes = match &*row.level {
            "dirty pages" => shape.memory.dirty_bytes_max.unwrap_or_default() as f64,
            "memtable" => shape.memory.memtable_bytes_max.unwrap_or_default() as f64,
            "L0" => shape.debt.l0_bytes_max as f64,
            _ => 0.0,
        };
        bytes.max(row.bytes) * row.pending_write_amp
    };
    debt(sample).iter().map(most).sum()
}

/// Processor seconds that writing `bytes` in the background takes at the rate that was measured; `None` until something was.
pub(super) fn cpu_seconds(sample: &Sample, bytes: f64) -> Option<f64> {
    background(&sample.shape.cpu).ns_per_byte().map(|nanos| bytes * nanos / 1e9)
}

/// Target of a level over that of the one above.
fn growth(sample: &Sample) -> f64 {
    let target = |level: usize| sample.shape.levels.get(level).map_or(0, |level| level.target_bytes);
    ratio(target(2), target(1)).unwrap_or(RATIO)
}

/// Seconds until merges and checkpoints have written what they owe, at the rate of the last minute; `None` while none runs or
/// nothing is owed.
pub(super) fn settle_seconds(report: &Report) -> Option<f64> {
    let shape = &report.sample.shape;
    let window = &report.windows.iter().rfind(|window| !window.growth.elapsed.is_zero())?.growth;
    let (has_tree, has_levels) = (shape.tree.is_some(), !shape.levels.is_empty());
    let when = |holds: bool, bytes: u64| if holds { bytes } else { 0 };
    let background = when(has_tree, window.disk.of(crate::disk::Purpose::Checkpoint).write_bytes)
        + when(has_levels, window.compaction().write_bytes);
    let owed = when(has_tree, shape.debt.dirty_bytes.unwrap_or_default())
        + when(has_levels, shape.debt.pending_compaction_bytes.unwrap_or_default());
    (owed > 0).then_some(())?;
    ratio(owed, background).map(|share| share * window.elapsed.as_secs_f64())
}

/// A prediction for the tree at hand.
#[derive(Clone, Debug)]
pub(super) struct Forecast {
    /// The policy whose formulas were used.
    pub layout: &'static str,
    /// Levels below L0 that hold something.
    pub levels: u64,
    /// Levels × growth / 2, the memtable's flush included in the levels.
    pub write_amp_half_ratio: f64,
    /// Write amplification of a byte in the memtable until it is in the last level, by the model of debt.
    pub write_amp_debt: f64,
    /// Bytes of a lookup with nothing cached.
    pub lookup_bytes: f64,
    /// Disk at rest over data.
    pub space_amp: Option<f64>,
}

/// Predicts with the tree's own number of levels, runs in L0, growth and table sizes. `None` for what no formula covers:
/// B-trees, hybrids, empty trees, unknown policies.
pub(super) fn forecast(report: &Report) -> Option<Forecast> {
    let sample = &report.sample;
    let shape = &sample.shape;
    if shape.hybrid.is_some() {
        return None;
    }
    let policy = PolicyKind::ALL.into_iter().find(|policy| policy.name == shape.variant)?;
    let model = policy.model.as_ref()?;
    let bytes: u64 = shape.levels.iter().map(|level| level.bytes).sum();
    let files: u64 = shape.levels.iter().map(|level| level.files).sum();
    let entries: u64 = shape.levels.iter().map(|level| level.entries).sum();
    if files == 0 {
        return None;
    }
    let option = |name: &str| report.mount.config.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let bits: f64 = option("bloom_bits").and_then(|text| text.parse().ok()).unwrap_or(10.0);
    let block_bytes = option("table_block").and_then(|text| crate::base::text::parse_size(text).ok());
    let table_bytes = bytes as f64 / files as f64;
    let block_bytes = block_bytes.unwrap_or(4096) as f64;
    let ratio = growth(sample);
    let sizes = Sizes {
        filter_bytes: entries as f64 / files as f64 * bits / 8.0,
        // A key and a place for each block.
        index_bytes: table_bytes / block_bytes * 32.0,
        block_bytes,
        table_bytes,
        l0_files: shape.debt.l0_files as f64,
        false_positive_rate: if bits > 0.0 { 0.6185f64.powf(bits) } else { 1.0 },
        ratio,
        runs_per_tier: shape.debt.l0_trigger.max(2) as f64,
        buffer_bytes: (shape.memory.memtable_bytes_max.unwrap_or_default() as f64).max(1.0),
    };
    let levels = shape.levels.iter().skip(1).filter(|level| level.files > 0).count() as u64;
    // The size at which the model's tree has as many levels as this one.
    let data_bytes = match model.has_levels {
        true => model::GIGABYTE * ratio.powf(levels.max(1) as f64 - 3.0),
        false => bytes as f64,
    };
    let prediction = (model.predict)(data_bytes, &sizes);
    Some(Forecast {
        layout: policy.name,
        levels,
        write_amp_half_ratio: prediction.write_amp,
        write_amp_debt: debt(sample).first().map_or(0.0, |row| row.pending_write_amp),
        lookup_bytes: prediction.lookup_bytes,
        space_amp: prediction.space_amp,
    })
}
