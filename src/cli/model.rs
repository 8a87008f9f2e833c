//! `kvfs model`: what the textbook formulas predict, without a mount.

use clap::{Args, Subcommand, ValueEnum};

use crate::base::text::{BadText, human_size, parse_size};
use crate::control::model::{Sizes, bloom_rate, bloom_simulation, durability_debt};
use crate::engine::lsm::PolicyKind;

/// Parameters of a prediction.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Bytes of data; several are separated by commas
    #[arg(long, value_delimiter = ',', value_parser = parse_size, default_value = "100G")]
    size: Vec<u64>,
    /// Compaction policies, separated by commas [default: every one that the texts have a formula for]
    #[arg(long, value_delimiter = ',', value_parser = parse_policy)]
    policy: Vec<PolicyKind>,
    /// Growth from a level to the next
    #[arg(long, default_value_t = 10.0)]
    ratio: f64,
    /// Memory that eager merging collects before it merges
    #[arg(long, value_parser = parse_size, default_value = "4G")]
    memtable: u64,
    /// Runs that a tier collects before they are merged
    #[arg(long, default_value_t = 4.0)]
    runs: f64,
    /// Sizes of filters, indexes, blocks and tables: s3 is 16 KiB, 32 KiB, 4 KiB and a tenth of a gigabyte
    #[arg(long, value_enum, default_value = "s3")]
    sizes: Preset,
}

/// Sets of sizes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    /// Those of the tables in docs/model.md.
    S3,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A bloom filter: the formula's false-positive rate beside that of an experiment
    Bloom {
        /// Bits of the filter
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
        bits: u64,
        /// Bits that a key sets
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
        hashes: u32,
        /// Keys in it
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
        keys: u64,
    },
    /// The durability debt of a leveled tree, level by level
    Debt {
        /// Growth from a level to the next
        #[arg(long, default_value_t = 10.0)]
        ratio: f64,
        /// Bytes (or any unit) in the memtable and in L0, L1 …
        #[arg(long, value_delimiter = ',', default_value = "1,4,4,40,400,4000,40000")]
        bytes: Vec<f64>,
    },
}

/// The policies that the texts have a formula for.
fn predicted() -> impl Iterator<Item = PolicyKind> {
    PolicyKind::ALL.into_iter().filter(|policy| policy.model.is_some())
}

fn parse_policy(text: &str) -> Result<PolicyKind, BadText> {
    let policy = PolicyKind::parse(text).ok().filter(|policy| policy.model.is_some());
    let names: Vec<&str> = predicted().map(|policy| policy.name).collect();
    policy.ok_or_else(|| format!("{text} is none of {}", names.join(", ")).into())
}

/// The tables; the error is a sentence.
pub(super) fn run(arguments: &ModelArgs) -> Result<String, BadText> {
    match &arguments.what {
        Some(What::Bloom { bits, hashes, keys }) => Ok(bloom(*bits, *hashes, *keys)),
        Some(What::Debt { ratio, bytes }) if bytes.len() < 2 || *ratio <= 1.0 => Err(format!(
            "debt needs a memtable, L0 and a ratio above 1, not {} sizes and {ratio}",
            bytes.len()
        )
        .into()),
        Some(What::Debt { ratio, bytes }) => Ok(debt(*ratio, bytes)),
        None if arguments.ratio <= 1.0 || arguments.memtable == 0 || arguments.size.contains(&0) => {
            Err("ratio must be above 1, sizes above 0".into())
        }
        None => Ok(layouts(arguments)),
    }
}

fn layouts(arguments: &ModelArgs) -> String {
    let Preset::S3 = arguments.sizes;
    let sizes = Sizes {
        ratio: arguments.ratio,
        runs_per_tier: arguments.runs,
        buffer_bytes: arguments.memtable as f64,
        ..Sizes::default()
    };
    let policies = if arguments.policy.is_empty() { predicted().collect() } else { arguments.policy.clone() };
    let mut text = String::new();
    for size in &arguments.size {
        text += &format!("data {}  ratio {}  nothing cached, no log\n", human_size(*size), arguments.ratio);
        text += &format!(
            "{:<9}{:>9}{:>14}{:>12}{:>11}{:>11}{:>14}\n",
            "policy", "depth", "lookup_bytes", "half-ratio", "debt-model", "space_amp", "temporary"
        );
        for policy in policies.iter().copied() {
            let Some(model) = &policy.model else { continue };
            let found = (model.predict)(*size as f64, &sizes);
            let or_dash = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.2}"));
            text += &format!(
                "{:<9}{:>9.1}{:>14.0}{:>12.2}{:>11}{:>11}{:>14}\n",
                policy.name,
                found.depth,
                found.lookup_bytes,
                found.write_amp,
                or_dash(found.debt_write_amp),
                or_dash(found.space_amp),
                human_size(found.temporary_bytes as u64),
            );
        }
    }
    text + "half-ratio and debt-model are two predictions of write amplification; compare with write_no_wal\n"
}

fn bloom(bits: u64, hashes: u32, keys: u64) -> String {
    // About ten million steps at most.
    let filters = (10_000_000 / (bits + keys * u64::from(hashes) + 100)).clamp(1, 2000);
    let predicted = bloom_rate(bits, hashes, keys);
    let simulated = bloom_simulation(bits, hashes, keys, filters, 1);
    format!(
        "bloom bits {bits} hashes {hashes} keys {keys} bits_a_key {:.2}\npredicted {predicted:.5}\nsimulated {simulated:.5}\n",
        bits as f64 / keys as f64
    )
}

fn debt(ratio: f64, bytes: &[f64]) -> String {
    let mut text = format!("{:<10}{:>12}{:>10}{:>10}{:>14}\n", "level", "bytes", "w-amp", "pending", "debt");
    let rows = durability_debt(bytes[0], &bytes[1..], ratio);
    for row in &rows {
        text += &format!(
            "{:<10}{:>12}{:>10.2}{:>10.2}{:>14.0}\n",
            row.level, row.bytes, row.write_amp, row.pending_write_amp, row.debt_bytes
        );
    }
    text + &format!("{:<10}{:>46.0}\n", "total", rows.iter().map(|row| row.debt_bytes).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        model: ModelArgs,
    }

    fn print(line: &str) -> String {
        let words = std::iter::once("model").chain(line.split_whitespace());
        run(&Alone::try_parse_from(words).unwrap().model).unwrap()
    }

    #[test]
    fn a_row_a_policy_begins_with_its_name() {
        let text = print("--size 100G --policy leveled,tiered,log,eager --ratio 10 --sizes s3");
        let column = |name: &str, index: usize| {
            let row = text.lines().find(|line| line.starts_with(name)).unwrap();
            row.split_whitespace().nth(index).unwrap().to_string()
        };
        assert_eq!(
            ["leveled", "tiered", "log", "eager"].map(|name| column(name, 3)),
            ["25.00", "5.00", "1.00", "25.00"]
        );
        assert_eq!(print("--size 100G"), text, "all that have a formula");
        // 17, 31 and 45 for 3, 5 and 7 levels.
        assert_eq!(column("leveled", 4), "31.00");
    }

    #[test]
    fn filters_and_debts_are_those_of_the_texts() {
        assert!(print("bloom --bits 64 --hashes 3 --keys 12").contains("predicted 0.08"));
        let text = print("debt");
        assert!(
            text.lines().any(|line| line.split_whitespace().eq(["L4", "4000", "7.00", "7.00", "28000"])),
            "{text}"
        );
    }
}
