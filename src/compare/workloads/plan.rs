//! The plan of a run: which workloads on which engines, how large the data is, and how often each thing is done.

use std::time::Duration;

use super::keys::key_bytes;
use crate::base::text::exact_size;
use crate::compare::Error;
use crate::compare::arguments::{self, Arguments};
use crate::compare::contender::Contender;

/// The workloads in their order, each with what it does.
pub const WORKLOADS: [(&str, &str); 22] = [
    ("fillseq", "a quarter of the keys in ascending order, in a store of its own"),
    ("fillrandom", "every key once, in random order"),
    ("readrandom", "point reads of present keys, uniform"),
    ("readzipf", "point reads of present keys, zipfian"),
    ("readmissing", "point reads of absent keys between present ones"),
    ("seek100", "a seek to a random key and 100 entries from there"),
    ("coldread", "readrandom after reopening, nothing in the page cache"),
    ("coldmissing", "readmissing, likewise"),
    ("coldseek100", "seek100, likewise"),
    ("overwrite", "new values for random keys, uniform"),
    ("overwritezipf", "new values for random keys, zipfian"),
    ("mixed", "half reads, half overwrites, zipfian; the second line has the reads' latency"),
    ("mixeduniform", "the same, uniform"),
    ("mixedreads", "the same, zipfian, of which 95 of 100 are reads"),
    ("mixeduniformreads", "the same, uniform, of which 95 of 100 are reads"),
    ("mixedcold", "mixed, but every key in turn: none is hot"),
    ("mixedhot", "mixed, but of a 32nd of the keys alone, uniform: all of them are hot"),
    ("mixedscan", "mixed beside a scan of everything; the third line has the entries of the scan"),
    (
        "moving",
        "mixed for long, then again to compare with, then with others as the hot keys until nine tenths of the rate are back, for four times as long at most",
    ),
    ("sync1", "overwrites that are durable on return, one thread"),
    ("sync4", "the same on four threads"),
    (
        "delete",
        "deletes a quarter of the keys in order; then seeks into them at once and once quiet; then a full scan",
    ),
];

/// Part of everything that `--quick` leaves.
const QUICK_SHARE: u64 = 4;
/// Percentiles need so many.
const SEEKS_MIN: u64 = 100;

/// Size of the data and number of repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Key and value bytes of all keys, as they were asked for.
    pub data_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Keys in the store.
    pub keys: u64,
    /// Keys that a fill puts in one batch.
    pub fill_batch: u64,
    /// Changes of the workloads that change random keys.
    pub overwrites: u64,
    /// Point reads.
    pub gets: u64,
    /// Seeks, with 100 entries each.
    pub seeks: u64,
    /// Point reads with nothing in any cache.
    pub cold_gets: u64,
    /// Seeks with nothing in any cache.
    pub cold_seeks: u64,
    /// Changes that are durable on return, a thread.
    pub syncs: u64,
}

/// Everything that is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who.
    pub contenders: Vec<Contender>,
    /// On how much data.
    pub sizes: Vec<Size>,
    /// What, in order.
    pub workloads: Vec<&'static str>,
    /// Memory of each engine.
    pub memory_bytes: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Share of a value that repeats.
    pub repeat_percent: u64,
    /// When a workload other than a fill is cut.
    pub limit: Duration,
    /// Whether filled stores stay.
    pub keeps: bool,
    /// Whether engines say something of themselves after each workload.
    pub is_verbose: bool,
    puts: u64,
    volume_bytes: u64,
    gets: u64,
}

/// The average of [`key_bytes`], rounded.
const KEY_BYTES_MEAN: u64 = 20;

impl Size {
    fn new(data_bytes: u64, value_bytes: u64, puts: u64, volume_bytes: u64, gets: u64) -> Size {
        let entry_bytes = KEY_BYTES_MEAN + value_bytes;
        let keys = (data_bytes / entry_bytes).max(16);
        // What `volume_bytes` have room for.
        let within = |count: u64, bytes: u64| count.min(volume_bytes / bytes).max(1);
        let seeks = within(gets / 20, 100 * entry_bytes).max(SEEKS_MIN.min(gets));
        Size {
            data_bytes,
            value_bytes,
            keys,
            fill_batch: ((16 << 10) / value_bytes.max(1)).clamp(1, 16),
            overwrites: within(puts, entry_bytes).min(keys),
            gets: within(gets, entry_bytes),
            seeks,
            cold_gets: within(gets / 20, 8 * entry_bytes),
            cold_seeks: (seeks / 20).max(SEEKS_MIN.min(seeks)),
            syncs: within(puts / 128, entry_bytes),
        }
    }

    /// Key and value bytes of the keys `first..end`.
    pub fn bytes_of(&self, first: u64, end: u64) -> u64 {
        (first..end).map(|index| key_bytes(index) + self.value_bytes).sum()
    }
}

impl Plan {
    /// The plan that `arguments` ask for.
    pub fn new(arguments: &Arguments) -> Result<Plan, Error> {
        let share = if arguments.quick { QUICK_SHARE } else { 1 };
        let memory_bytes = arguments.memory_bytes(&exact_size((128 << 20) / share))?;
        let (puts, volume_bytes) = arguments.puts((512 << 10) / share, &exact_size((512 << 20) / share))?;
        let gets = arguments.gets.unwrap_or(400_000 / share).max(1);
        let data = arguments::sizes("sizes", &arguments.sizes, vec![4 * memory_bytes])?;
        let values = arguments::sizes("values", &arguments.values, vec![100, 4 << 10, 64 << 10])?;
        let sizes = data
            .iter()
            .flat_map(|data| values.iter().map(move |value| (*data, *value)))
            .map(|(data, value)| Size::new(data, value, puts, volume_bytes, gets))
            .collect();
        let limit = Duration::try_from_secs_f64(arguments.limit)
            .map_err(|_| Error::usage(format!("--limit {}: takes seconds", arguments.limit)))?;
        Ok(Plan {
            // What keeps nothing shows what the harness costs; it runs only when asked for.
            contenders: arguments.contenders(memory_bytes, |_| true, Contender::engines)?,
            sizes,
            workloads: chosen(&arguments.workloads)?,
            memory_bytes,
            seed: arguments.seed,
            repeat_percent: arguments.repeats,
            limit,
            keeps: arguments.keep,
            is_verbose: arguments.verbose,
            puts,
            volume_bytes,
            gets,
        })
    }

    /// The arguments, but for the directory, that ask for one contender and size alone.
    pub fn arguments_of(&self, contender: &Contender, size: &Size) -> Vec<String> {
        let words = [
            ("--workloads", self.workloads.join(",")),
            ("--engines", contender.name.clone()),
            ("--sizes", exact_size(size.data_bytes)),
            ("--values", exact_size(size.value_bytes)),
            ("--memory", exact_size(self.memory_bytes)),
            ("--puts", self.puts.to_string()),
            ("--volume", exact_size(self.volume_bytes)),
            ("--gets", self.gets.to_string()),
            ("--seed", self.seed.to_string()),
            ("--repeats", self.repeat_percent.to_string()),
            ("--limit", self.limit.as_secs_f64().to_string()),
        ];
        let switches = [(self.keeps, "--keep"), (self.is_verbose, "--verbose")];
        let words = words.into_iter().flat_map(|(name, value)| [name.to_string(), value]);
        words
            .chain(switches.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name.to_string()))
            .collect()
    }
}

/// The workloads that `words` name: names, beginnings of names, or `all`.
fn chosen(words: &[String]) -> Result<Vec<&'static str>, Error> {
    let names = || WORKLOADS.iter().map(|(name, _)| *name);
    let means = |word: &str, name: &str| {
        // A whole name means that one alone, even if it begins others.
        word == "all" || word == name || (name.starts_with(word) && !names().any(|other| other == word))
    };
    if let Some(unknown) = words.iter().find(|word| !names().any(|name| means(word, name))) {
        return Err(Error::usage(format!(
            "--workloads {unknown}: takes all, or {}",
            names().collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(names().filter(|name| words.iter().any(|word| means(word, name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Plan, Error> {
        Plan::new(&arguments::parse(line)?)
    }

    #[test]
    fn names_and_their_beginnings_choose_workloads_in_their_order() {
        assert_eq!(parse("--workloads all").unwrap().workloads.len(), WORKLOADS.len());
        let some = parse("--workloads sync,overwrite,fill").unwrap().workloads;
        assert_eq!(some, ["fillseq", "fillrandom", "overwrite", "sync1", "sync4"]);
        let wrong = parse("--workloads fill,jump").unwrap_err().to_string();
        assert!(wrong.contains("--workloads jump: takes all, or fillseq, "), "{wrong}");
        assert!(parse("--workloads all --limit -1").is_err() && parse("--workloads all --puts 0").is_err());
    }

    #[test]
    fn every_size_has_something_of_everything_and_stays_within_its_volume() {
        for line in
            ["all", "all --quick", "all --sizes 1K,64M --values 0,100,1M --puts 1 --gets 1 --volume 4K"]
        {
            let plan = parse(&format!("--workloads {line}")).unwrap();
            for size in &plan.sizes {
                let counts = [size.keys, size.fill_batch, size.overwrites, size.gets, size.seeks];
                let more = [size.cold_gets, size.cold_seeks, size.syncs];
                assert!(counts.iter().chain(&more).all(|count| *count > 0), "{size:?}");
                assert!(size.overwrites <= size.keys && size.cold_gets <= size.gets, "{size:?}");
                assert!(
                    size.overwrites == 1 || size.overwrites * size.value_bytes <= plan.volume_bytes,
                    "{size:?}"
                );
                // What was asked for and what is there agree as well as keys of differing lengths allow.
                let (real, asked) = (size.bytes_of(0, size.keys) as f64, size.data_bytes as f64);
                assert!(size.keys == 16 || (0.95..1.05).contains(&(real / asked)), "{size:?}: {real}");
            }
        }
        let plan = parse("--workloads all").unwrap();
        let [small, block, large] = plan.sizes[..] else { panic!("three sizes of values") };
        assert_eq!([small.fill_batch, block.fill_batch, large.fill_batch], [16, 4, 1]);
        assert_eq!((small.gets, small.overwrites, small.syncs), (400_000, 512 << 10, 4096));
        assert_eq!(plan.memory_bytes * 4, small.data_bytes);
    }

    #[test]
    fn one_contender_and_size_asked_for_alone_are_the_same() {
        let whole = parse("--workloads read,delete --quick --keep --limit 1.5 --seed 9 --values 10,3K --engines lsm,btree,mem")
            .unwrap();
        for size in &whole.sizes {
            for contender in &whole.contenders {
                let alone = parse(&whole.arguments_of(contender, size).join(" ")).unwrap();
                assert_eq!(
                    (&alone.contenders[..], &alone.sizes[..]),
                    (&[contender.clone()][..], &[*size][..])
                );
                assert_eq!(
                    (alone.workloads, alone.limit, alone.keeps),
                    (whole.workloads.clone(), whole.limit, true)
                );
                assert_eq!((alone.memory_bytes, alone.seed), (whole.memory_bytes, 9));
            }
        }
        assert!(
            !parse("--workloads all").unwrap().contenders.iter().any(|contender| contender.name == "mem")
        );
    }
}
