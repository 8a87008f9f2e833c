//! Predictions of the textbook formulas, computed without a mount: the durability debt of a leveled tree, and bloom filters. Read, write and
//! space amplification of a compaction policy stand beside the policy, in `engine/lsm/compaction/`. `docs/model.md` has the sources, what each formula
//! leaves out, and where the texts' printed figures slip.
//!
//! Two models of leveled write amplification are kept apart by name, because they differ: *half-ratio* counts a rewrite for half
//! of the growth factor a level (levels × ratio / 2); *debt* counts 1 for the write buffer, 2 for L0 when L0 and L1 are equal, and
//! 0.7 × ratio a level below. Neither counts the log: compare them with `write_amp_no_wal`.

use crate::base::prng::Prng;
use crate::engine::lsm::compaction::model::OVERLAP_SHARE;
pub use crate::engine::lsm::compaction::model::{GIGABYTE, Prediction, Sizes};

/// A row of the durability debt of a leveled tree.
#[derive(Clone, Debug, PartialEq)]
pub struct DebtRow {
    /// `memtable`, `L0`, `L1` …
    pub level: String,
    /// Bytes in it (any unit).
    pub bytes: f64,
    /// Bytes written when a byte moves from here to the next level.
    pub write_amp: f64,
    /// Bytes written until a byte from here has reached the last level.
    pub pending_write_amp: f64,
    /// `bytes` × `pending_write_amp`.
    pub debt_bytes: f64,
}

/// The debt of a tree whose memtable and levels L0, L1 … hold these bytes. The last level owes nothing.
pub fn durability_debt(memtable_bytes: f64, level_bytes: &[f64], ratio: f64) -> Vec<DebtRow> {
    let mut rows = vec![("memtable".to_string(), memtable_bytes, 1.0)];
    for (level, &bytes) in level_bytes.iter().enumerate() {
        let write_amp = match level_bytes.get(level + 1) {
            None => 0.0,
            // Everything in L0 is merged with everything in L1.
            Some(next) if level == 0 => {
                if bytes > 0.0 {
                    (bytes + next) / bytes
                } else {
                    1.0
                }
            }
            Some(_) => OVERLAP_SHARE * ratio,
        };
        rows.push((format!("L{level}"), bytes, write_amp));
    }
    let mut pending = 0.0;
    let mut debts: Vec<DebtRow> = rows
        .into_iter()
        .rev()
        .map(|(level, bytes, write_amp)| {
            pending += write_amp;
            DebtRow { level, bytes, write_amp, pending_write_amp: pending, debt_bytes: bytes * pending }
        })
        .collect();
    debts.reverse();
    debts
}

/// False-positive rate of a bloom filter of `bits` with `hashes` probes that holds `keys`: (1 − (1 − 1/m)^(k·n))^k.
pub fn bloom_rate(bits: u64, hashes: u32, keys: u64) -> f64 {
    let empty = (1.0 - 1.0 / bits as f64).powf(f64::from(hashes) * keys as f64);
    (1.0 - empty).powi(hashes as i32)
}

/// The same by experiment: fills `filters` random filters and asks each for absent keys.
pub fn bloom_simulation(bits: u64, hashes: u32, keys: u64, filters: u64, seed: u64) -> f64 {
    const QUESTIONS: u64 = 100;
    let mut prng = Prng::new(seed);
    let mut positives = 0u64;
    for _ in 0..filters {
        let mut filter = vec![false; bits as usize];
        for _ in 0..keys * u64::from(hashes) {
            filter[prng.below(bits) as usize] = true;
        }
        for _ in 0..QUESTIONS {
            positives += u64::from((0..hashes).all(|_| filter[prng.below(bits) as usize]));
        }
    }
    positives as f64 / (filters * QUESTIONS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lsm::PolicyKind;

    const DATA: [f64; 5] =
        [GIGABYTE, 10.0 * GIGABYTE, 100.0 * GIGABYTE, 1000.0 * GIGABYTE, 10_000.0 * GIGABYTE];

    fn predict(policy: PolicyKind, data_bytes: f64, sizes: &Sizes) -> Prediction {
        (policy.model.as_ref().unwrap().predict)(data_bytes, sizes)
    }

    fn kilobytes(policy: PolicyKind, sizes: &Sizes) -> Vec<f64> {
        DATA.iter().map(|bytes| predict(policy, *bytes, sizes).lookup_bytes / 1024.0).collect()
    }

    fn close(found: &[f64], wanted: &[f64]) {
        let near =
            found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= 0.5 + wanted * 1e-6);
        assert!(near && found.len() == wanted.len(), "{found:?} is not {wanted:?}");
    }

    #[test]
    fn lookups_follow_the_formulas_where_the_printed_figures_slip() {
        let sizes = Sizes::default();
        close(&kilobytes(PolicyKind::LOG, &sizes), &[196.3, 1639.6, 16_072.0, 160_396.0, 1_603_636.0]);
        // Printed as 148 … 212: the filters and the hit's index and block, without the false positives.
        close(&kilobytes(PolicyKind::LEVELED, &sizes), &[148.3, 164.3, 180.3, 196.4, 212.4]);
        // Printed as 240 … 560: 20 KB a run.
        close(&kilobytes(PolicyKind::TIERED, &sizes), &[228.4, 292.6, 356.7, 420.9, 485.0]);
        assert_eq!(predict(PolicyKind::EAGER, GIGABYTE, &sizes).lookup_bytes, 52.0 * 1024.0);
    }

    #[test]
    fn write_amplification_follows_the_tables() {
        let sizes = Sizes::default();
        let amps =
            |policy| DATA.iter().map(|bytes| predict(policy, *bytes, &sizes).write_amp).collect::<Vec<_>>();
        close(&amps(PolicyKind::LEVELED), &[15.0, 20.0, 25.0, 30.0, 35.0]);
        close(&amps(PolicyKind::TIERED), &[3.0, 4.0, 5.0, 6.0, 7.0]);
        close(&amps(PolicyKind::LOG), &[1.0; 5]);
        for (gigabytes, amp) in [(4.0, 1.0), (40.0, 10.0), (100.0, 25.0), (400.0, 100.0), (10_000.0, 2500.0)]
        {
            assert_eq!(predict(PolicyKind::EAGER, gigabytes * GIGABYTE, &sizes).write_amp, amp);
        }
        assert!((predict(PolicyKind::LEVELED, GIGABYTE, &sizes).space_amp.unwrap() - 1.11).abs() < 0.01);
    }

    #[test]
    fn debt_is_the_table_of_the_text() {
        let rows = durability_debt(1.0, &[4.0, 4.0, 40.0, 400.0, 4000.0, 40_000.0], 10.0);
        let pending: Vec<f64> = rows.iter().map(|row| row.pending_write_amp).collect();
        let debts: Vec<f64> = rows.iter().map(|row| row.debt_bytes).collect();
        close(&pending, &[31.0, 30.0, 28.0, 21.0, 14.0, 7.0, 0.0]);
        close(&debts, &[31.0, 120.0, 112.0, 840.0, 5600.0, 28_000.0, 0.0]);
    }

    #[test]
    fn the_bloom_formula_agrees_with_the_experiment() {
        // The text says 12 %.
        let predicted = bloom_rate(64, 3, 12);
        assert!((predicted - 0.081).abs() < 0.002, "{predicted}");
        let simulated = bloom_simulation(64, 3, 12, 2000, 1);
        assert!((simulated - predicted).abs() < 0.01, "{simulated}");
        // A 16 KiB filter over a 100 MB table of 1 KB rows is 1.3 bits a key; 0.1 % needs 14.4.
        assert!(bloom_rate(16 * 1024 * 8, 1, 100_000) > 0.5);
        assert!((bloom_rate(14_400, 10, 1000) - 0.001).abs() < 1e-4);
    }
}
