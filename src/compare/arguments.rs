//! The command's arguments.

use std::path::PathBuf;

use clap::Args;

use super::Error;
use super::contender::Contender;
use super::matrix::work::Order;
use crate::base::text::{exact_size, parse_size};
use crate::engine::Kind;

/// Smallest memory of an engine that makes sense: a few pages of cache.
const MEMORY_BYTES_MIN: u64 = 256 << 10;

/// Arguments of `kvfs compare`. Where one has no value, the matrix and the workloads have defaults of their own.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Directory to work in; it is made. The results stay in it: compare.csv and compare.svg, or workloads.csv and workloads.json
    #[arg(long)]
    pub dir: PathBuf,
    /// Timed workloads, as on a mount, instead of the matrix: names, beginnings of names, or all
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with_all = ["updates", "order", "sync"])]
    pub workloads: Vec<String>,
    /// Puts at each point, at most [default: 60000; workloads: 524288, but for fills]
    #[arg(long, value_name = "N")]
    pub puts: Option<u64>,
    /// Bytes of puts at each point, at most; bounds the time that large values take [default: 12M; workloads: 512M, but for fills]
    #[arg(long, value_name = "SIZE")]
    pub volume: Option<String>,
    /// Sizes of the key set [default: half a memtable and 1, 4 and 8 times the cache; workloads: 4 times the memory]
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',')]
    pub sizes: Vec<String>,
    /// Bytes of a value; a key has 16 more [default: 100,1K,8K,64K; workloads: 100,4K,64K, and keys of 16 to 24]
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',')]
    pub values: Vec<String>,
    /// Puts in a hundred that overwrite a key; the others insert one [default: 0,50,100]
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',')]
    pub updates: Vec<String>,
    /// Engines, each with a variant and options behind colons, such as lsm:leveled or btree:page_size=16K [default: every variant there is;
    /// workloads: every engine that keeps what it is given]
    #[arg(long, value_name = "ENGINE,…", value_delimiter = ',')]
    pub engines: Vec<String>,
    /// Memory of each engine: half for what is not written yet (memtables, dirty pages), half for its cache [default: 2M; workloads: 128M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Order of keys: random or sequential
    #[arg(long, default_value = "random", value_name = "ORDER")]
    pub order: Order,
    /// What keys, values and their order follow from
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Share of a value that repeats what is before it, so that compression can save about as much
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(..=100))]
    pub repeats: u64,
    /// Gets counted at each point, at most [default: 1000; workloads: 400000]
    #[arg(long, value_name = "N")]
    pub gets: Option<u64>,
    /// Wait for the device at every sync. Without it syncs are only counted, and ops/s are those of processor and page cache
    #[arg(long)]
    pub sync: bool,
    /// Fewer points and puts, for a first look; workloads: a quarter of the memory and of everything else
    #[arg(long)]
    pub quick: bool,
    /// A workload other than a fill is cut after this many seconds
    #[arg(long, default_value_t = 25.0, value_name = "SECONDS", requires = "workloads")]
    pub limit: f64,
    /// Leave filled stores, and use those that a run of the same sizes left: for a profiler
    #[arg(long, requires = "workloads")]
    pub keep: bool,
    /// Show what each engine says of itself after each workload
    #[arg(long, requires = "workloads")]
    pub verbose: bool,
    /// Be the process that measures one engine; used by the program itself
    #[arg(long, hide = true)]
    pub child: bool,
}

/// Reads the size that the argument `name` says.
pub fn size(name: &str, text: &str) -> Result<u64, Error> {
    parse_size(text).map_err(|problem| Error::usage(format!("--{name} {text}: {problem}")))
}

/// Reads sizes, or takes the default where there are none.
pub fn sizes(name: &str, given: &[String], default: Vec<u64>) -> Result<Vec<u64>, Error> {
    match given {
        [] => Ok(default),
        given => given.iter().map(|text| size(name, text)).collect(),
    }
}

impl Arguments {
    /// The memory of each engine.
    pub fn memory_bytes(&self, default: &str) -> Result<u64, Error> {
        let bytes = size("memory", self.memory.as_deref().unwrap_or(default))?;
        if bytes < MEMORY_BYTES_MIN {
            return Err(Error::usage(format!("--memory: at least {}", exact_size(MEMORY_BYTES_MIN))));
        }
        Ok(bytes)
    }

    /// Puts, and the bytes that they have at most.
    pub fn puts(&self, default: u64, default_volume: &str) -> Result<(u64, u64), Error> {
        let puts = self.puts.unwrap_or(default);
        if puts == 0 {
            return Err(Error::usage("--puts: at least 1"));
        }
        Ok((puts, size("volume", self.volume.as_deref().unwrap_or(default_volume))?))
    }

    /// Those to compare, of the engines that `suits` takes, each with options that fit the memory.
    pub fn contenders(
        &self,
        memory_bytes: u64,
        suits: fn(Kind) -> bool,
        default: fn() -> Vec<Contender>,
    ) -> Result<Vec<Contender>, Error> {
        let parse = |text: &String| {
            Contender::parse(text, suits).map_err(|problem| Error::usage(format!("--engines {problem}")))
        };
        let contenders = match &self.engines[..] {
            [] => default(),
            given => given.iter().map(parse).collect::<Result<Vec<Contender>, Error>>()?,
        };
        for contender in &contenders {
            contender.options(memory_bytes)?;
        }
        Ok(contenders)
    }
}

/// The arguments of a command line, for tests.
#[cfg(test)]
pub fn parse(line: &str) -> Result<Arguments, Error> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }
    let words = ["compare", "--dir", "d"].into_iter().chain(line.split_whitespace());
    let line = <Line as clap::Parser>::try_parse_from(words);
    Ok(line.map_err(|error| Error::usage(error.to_string()))?.arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_matrix_or_to_workloads_alone_is_not_taken_elsewhere() {
        for line in
            ["--workloads all --sync", "--workloads all --updates 5", "--keep", "--limit 3", "--verbose"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
        let both = parse("--workloads fill,read --keep --limit 3 --memory 1M --puts 9 --volume 1K").unwrap();
        assert_eq!((both.memory_bytes("2M").unwrap(), both.puts(1, "2K").unwrap()), (1 << 20, (9, 1 << 10)));
        let neither = parse("").unwrap();
        assert_eq!(neither.memory_bytes("2M").unwrap(), 2 << 20);
        assert_eq!(neither.puts(7, "3K").unwrap(), (7, 3 << 10));
    }
}
