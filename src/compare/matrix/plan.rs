//! The matrix that arguments ask for: points, contenders, and how much is done at each.

use super::work::{Order, Point, Work};
use crate::base::text::exact_size;
use crate::compare::Error;
use crate::compare::arguments::{self, Arguments};
use crate::compare::contender::{Contender, is_kept};

/// Everything that is to be measured.
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
    /// Share of a value that repeats.
    pub repeat_percent: u64,
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

impl Plan {
    /// The plan that `arguments` ask for.
    pub fn new(arguments: &Arguments) -> Result<Plan, Error> {
        let quick = arguments.quick;
        let memory_bytes = arguments.memory_bytes("2M")?;
        let (within, cache) = (memory_bytes / 8, memory_bytes / 2);
        let sizes = if quick { vec![within, 8 * cache] } else { vec![within, cache, 4 * cache, 8 * cache] };
        let values = if quick { vec![100, 8 << 10] } else { vec![100, 1 << 10, 8 << 10, 64 << 10] };
        let updates = if quick { vec![0, 100] } else { vec![0, 50, 100] };
        let sizes = arguments::sizes("sizes", &arguments.sizes, sizes)?;
        let values = arguments::sizes("values", &arguments.values, values)?;
        let updates = match &arguments.updates[..] {
            [] => updates,
            given => {
                let percent = |text: &String| {
                    let number = text.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100);
                    number.ok_or_else(|| Error::usage(format!("--updates {text}: takes percent, 0 to 100")))
                };
                given.iter().map(percent).collect::<Result<Vec<u64>, Error>>()?
            }
        };
        let contenders = arguments.contenders(memory_bytes, is_kept, Contender::all)?;
        let mut points = Vec::new();
        for &update_percent in &updates {
            for &value_bytes in &values {
                for &data_bytes in &sizes {
                    points.push(Point { data_bytes, value_bytes, update_percent });
                }
            }
        }
        let (puts, volume_bytes) = match quick {
            true => arguments.puts(15_000, "6M")?,
            false => arguments.puts(60_000, "12M")?,
        };
        let gets = arguments.gets.unwrap_or(1000);
        let Arguments { order, seed, repeats: repeat_percent, sync, .. } = *arguments;
        Ok(Plan {
            contenders,
            points,
            order,
            seed,
            repeat_percent,
            memory_bytes,
            puts,
            volume_bytes,
            gets,
            sync,
        })
    }

    /// Every point with every contender, in the order of the table.
    pub fn cells(&self) -> impl Iterator<Item = (&Contender, Work)> {
        self.points.iter().flat_map(move |point| {
            let work = Work::new(*point, self.order, self.seed, self.puts, self.volume_bytes);
            let work = Work { repeat_percent: self.repeat_percent, ..work };
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
            ("--repeats", self.repeat_percent.to_string()),
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
    Plan::new(&arguments::parse(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::contender::{PAGE_BYTES, scaled};
    use crate::engine::{Kind, btree, lsm};

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
