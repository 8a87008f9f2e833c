//! The command's arguments, and the matrix that they ask for.

use std::path::PathBuf;

use clap::Args;

use super::Error;
use super::contender::Contender;
use super::workload::{Order, Point, Workload};
use crate::base::text::{exact_size, parse_size};
use crate::engine::{Kind, Options, Sync};

/// Smallest memory of an engine that makes sense: a few pages of cache.
const MEMORY_BYTES_MIN: u64 = 256 << 10;

/// Arguments of `kvfs compare`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Directory to work in; it is made. The results stay in it: compare.csv and compare.svg
    #[arg(long)]
    pub dir: PathBuf,
    /// Puts at each point, at most [default: 60000]
    #[arg(long, value_name = "N")]
    pub puts: Option<u64>,
    /// Bytes of puts at each point, at most; bounds the time that large values take [default: 12M]
    #[arg(long, value_name = "SIZE")]
    pub volume: Option<String>,
    /// Sizes of the key set [default: half a memtable and 1, 4 and 8 times the cache]
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',')]
    pub sizes: Vec<String>,
    /// Bytes of a value; a key has 16 more [default: 100,1K,8K,64K]
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',')]
    pub values: Vec<String>,
    /// Puts in a hundred that overwrite a key; the others insert one [default: 0,50,100]
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',')]
    pub updates: Vec<String>,
    /// Engines, each with a variant and options behind colons, such as lsm:leveled or btree:page_size=16K [default: every variant there is]
    #[arg(long, value_name = "ENGINE,…", value_delimiter = ',')]
    pub engines: Vec<String>,
    /// Memory of each engine: half for what is not written yet (memtables, dirty pages), half for its cache [default: 2M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Order of keys: random or sequential
    #[arg(long, default_value = "random", value_name = "ORDER")]
    pub order: Order,
    /// What keys, values and their order follow from
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Gets counted at each point, at most
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub gets: u64,
    /// Wait for the device at every sync. Without it syncs are only counted, and ops/s are those of processor and page cache
    #[arg(long)]
    pub sync: bool,
    /// Fewer points and puts, for a first look
    #[arg(long)]
    pub quick: bool,
    /// Measure a single point in this process and print its line of CSV
    #[arg(long, hide = true)]
    pub row: bool,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who.
    pub contenders: Vec<Contender>,
    /// Where, in order.
    pub points: Vec<Point>,
    /// Order of keys.
    pub order: Order,
    /// Seed of everything random.
    pub seed: u64,
    /// Memory of each engine.
    pub memory_bytes: u64,
    /// Puts at a point, at most.
    pub puts: u64,
    /// Bytes of puts at a point, at most.
    pub volume_bytes: u64,
    /// Gets at a point, at most.
    pub gets: u64,
    /// Whether syncs reach the device.
    pub sync: bool,
}

/// Bytes of a page: the texts' 4 KiB.
pub const PAGE_BYTES: u64 = 4 << 10;

/// An engine's options for `memory_bytes`: the defaults' proportions, scaled down, and the same memory for each engine. Nothing becomes
/// durable unasked. Each engine takes those that it has.
pub fn scaled(kind: Kind, memory_bytes: u64) -> Options {
    let mut options = kind.default_options();
    let common = options.common_mut();
    common.sync = Sync::Fsync;
    common.cache_bytes = memory_bytes / 2;
    common.log_segment_bytes = memory_bytes / 4;
    common.reserve_bytes = 1 << 20;
    let sizes = [
        ("memtable", memory_bytes / 4),
        ("table", memory_bytes / 4),
        ("level_base", memory_bytes),
        ("page_size", PAGE_BYTES),
        ("dirty_max", memory_bytes / 2),
        ("checkpoint_log", memory_bytes),
    ];
    let sizes = sizes.map(|(name, bytes)| (name, exact_size(bytes)));
    // By log and dirty pages alone: an age would be one of the simulated clock.
    for (name, value) in sizes.into_iter().chain([("checkpoint_age", "1440m".to_string())]) {
        let known = options.set_if_known(name, &value);
        debug_assert_eq!(known, Some(Ok(())), "{name}={value}");
    }
    options
}

impl Plan {
    /// The plan that `arguments` ask for.
    pub fn new(arguments: &Arguments) -> Result<Plan, Error> {
        let quick = arguments.quick;
        let size = |name: &str, text: &str| {
            parse_size(text).map_err(|problem| Error::Usage(format!("--{name} {text}: {problem}")))
        };
        let memory_bytes = size("memory", arguments.memory.as_deref().unwrap_or("2M"))?;
        if memory_bytes < MEMORY_BYTES_MIN {
            return Err(Error::Usage(format!("--memory: at least {}", exact_size(MEMORY_BYTES_MIN))));
        }
        let (within, cache) = (memory_bytes / 8, memory_bytes / 2);
        let sizes = if quick { vec![within, 8 * cache] } else { vec![within, cache, 4 * cache, 8 * cache] };
        let values = if quick { vec![100, 8 << 10] } else { vec![100, 1 << 10, 8 << 10, 64 << 10] };
        let updates = if quick { vec![0, 100] } else { vec![0, 50, 100] };
        let list = |name: &str, given: &[String], default: Vec<u64>| match given {
            [] => Ok(default),
            given => given.iter().map(|text| size(name, text)).collect::<Result<Vec<u64>, Error>>(),
        };
        let sizes = list("sizes", &arguments.sizes, sizes)?;
        let values = list("values", &arguments.values, values)?;
        let updates = match &arguments.updates[..] {
            [] => updates,
            given => {
                let percent = |text: &String| {
                    let number = text.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100);
                    number.ok_or_else(|| Error::Usage(format!("--updates {text}: takes percent, 0 to 100")))
                };
                given.iter().map(percent).collect::<Result<Vec<u64>, Error>>()?
            }
        };
        let contenders = match &arguments.engines[..] {
            [] => Contender::all(),
            given => given
                .iter()
                .map(|text| {
                    Contender::parse(text).map_err(|problem| Error::Usage(format!("--engines {problem}")))
                })
                .collect::<Result<Vec<Contender>, Error>>()?,
        };
        for contender in &contenders {
            contender.options(memory_bytes)?;
        }
        let mut points = Vec::new();
        for &update_percent in &updates {
            for &value_bytes in &values {
                for &data_bytes in &sizes {
                    points.push(Point { data_bytes, value_bytes, update_percent });
                }
            }
        }
        let puts = arguments.puts.unwrap_or(if quick { 15_000 } else { 60_000 });
        let volume_bytes =
            size("volume", arguments.volume.as_deref().unwrap_or(if quick { "6M" } else { "12M" }))?;
        if puts == 0 {
            return Err(Error::Usage("--puts: at least 1".to_string()));
        }
        let Arguments { order, seed, gets, sync, .. } = *arguments;
        Ok(Plan { contenders, points, order, seed, memory_bytes, puts, volume_bytes, gets, sync })
    }

    /// Every point with every contender, in the order of the table.
    pub fn cells(&self) -> impl Iterator<Item = (&Contender, Workload)> {
        self.points.iter().flat_map(move |point| {
            let work = Workload::new(*point, self.order, self.seed, self.puts, self.volume_bytes);
            self.contenders.iter().map(move |contender| (contender, work.clone()))
        })
    }

    /// The arguments, but for the directory, that ask for one cell alone.
    pub fn arguments_of(&self, contender: &Contender, point: &Point) -> Vec<String> {
        let words = [
            ("--engines", contender.name.clone()),
            ("--sizes", exact_size(point.data_bytes)),
            ("--values", exact_size(point.value_bytes)),
            ("--updates", point.update_percent.to_string()),
            ("--memory", exact_size(self.memory_bytes)),
            ("--puts", self.puts.to_string()),
            ("--volume", exact_size(self.volume_bytes)),
            ("--order", self.order.to_string()),
            ("--seed", self.seed.to_string()),
            ("--gets", self.gets.to_string()),
        ];
        let mut list: Vec<String> =
            words.into_iter().flat_map(|(name, value)| [name.to_string(), value]).collect();
        list.extend(self.sync.then(|| "--sync".to_string()));
        list
    }
}

/// The plan of a command line, for tests.
#[cfg(test)]
pub fn parse(line: &str) -> Result<Plan, Error> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }
    let words = ["compare", "--dir", "d"].into_iter().chain(line.split_whitespace());
    let line = <Line as clap::Parser>::try_parse_from(words);
    Plan::new(&line.map_err(|error| Error::Usage(error.to_string()))?.arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{btree, lsm};

    #[test]
    fn the_default_matrix_reaches_from_the_memtable_to_eight_caches() {
        for line in ["", "--quick"] {
            let plan = parse(line).unwrap();
            let own = scaled(Kind::LSM, plan.memory_bytes);
            let lsm: &lsm::Options = own.own().unwrap();
            let own = scaled(Kind::BTREE, plan.memory_bytes);
            let btree: &btree::Options = own.own().unwrap();
            let sizes: Vec<u64> = plan.points.iter().map(|point| point.data_bytes).collect();
            assert!(*sizes.iter().min().unwrap() < lsm.memtable_bytes);
            assert_eq!(*sizes.iter().max().unwrap(), 8 * lsm.common.cache_bytes);
            assert_eq!(plan.cells().count(), plan.points.len() * plan.contenders.len());
            assert_eq!(lsm.memtables_bytes_max(), btree.dirty_bytes_max);
            assert_eq!((lsm.common, btree.page_bytes), (btree.common, PAGE_BYTES));
            Kind::all().for_each(|kind| scaled(kind, plan.memory_bytes).validate().unwrap());
        }
        let plan = parse("").unwrap();
        assert_eq!(plan.points.len(), 4 * 4 * 3);
        assert_eq!(plan.points.iter().map(|point| point.value_bytes).max(), Some(64 << 10));
    }

    #[test]
    fn a_cell_asked_for_alone_is_the_same_cell() {
        let whole = parse("--quick --order sequential --seed 9 --puts 77 --sync --memory 512K").unwrap();
        for (contender, work) in whole.cells() {
            let alone = parse(&whole.arguments_of(contender, &work.point).join(" ")).unwrap();
            let cells: Vec<_> = alone.cells().collect();
            assert_eq!(cells.len(), 1);
            assert_eq!((cells[0].0, format!("{:?}", cells[0].1)), (contender, format!("{work:?}")));
            assert_eq!((alone.memory_bytes, alone.gets, alone.sync), (whole.memory_bytes, whole.gets, true));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (line, part) in [
            ("--sizes lots", "--sizes lots"),
            ("--values 1Q", "--values 1Q"),
            ("--updates 101", "--updates 101"),
            ("--updates x", "--updates x"),
            ("--engines mem", "--engines 'mem'"),
            ("--memory 1K", "--memory"),
            ("--puts 0", "--puts"),
            ("--order upwards", "random or sequential"),
        ] {
            let problem = parse(line).unwrap_err().to_string();
            assert!(problem.contains(part), "{line}: {problem}");
        }
        let points = parse("--sizes 1M,2M --values 84 --updates 5,50%").unwrap().points;
        assert_eq!(points.len(), 4);
    }
}
