//! The matrix: the same puts at every point of data size, entry size and update share, counted byte by byte, and the crossover: where one
//! contender begins to write less than another.
//!
//! 1. [`plan`]: arguments become points and contenders. [`work`]: what is done at a point, the same for every contender.
//! 2. [`cell`]: one contender does it, from settled to settled, in a process of its own; it comes back as a line of CSV ([`row`]).
//! 3. [`table`], [`plot`], [`crossover`] and [`account`] say what came of it.
//!
//! `docs/crossover.md` explains the figures.

pub mod account;
pub mod cell;
pub mod crossover;
pub mod plan;
pub mod plot;
pub mod row;
pub mod table;
pub mod work;

use std::path::Path;

use super::arguments::Arguments;
use super::child::{self, Handle};
use super::contender::{Contender, PAGE_BYTES, scaled};
use super::progress::Progress;
use super::results::Results;
use super::subject::Place;
use super::{Error, print};
use crate::base::text::{exact_size, human_size};
use crate::disk::remove_tree;
use crate::engine::Kind;
use plan::Plan;
use row::Row;
use work::Work;

/// The request of a child; it has one cell.
const CELL: &str = "cell";
/// Name of the result as lines of figures.
pub const CSV: &str = "compare.csv";
/// Name of the plot.
pub const SVG: &str = "compare.svg";

/// Measures, prints to standard output, and writes the results into the directory.
pub fn main(arguments: &Arguments) -> Result<(), Error> {
    let plan = Plan::new(arguments)?;
    let results = Results::open(&arguments.dir)?;
    let rows = run(&plan, |contender, work| measure_in_child(&results, &plan, contender, work))?;
    let csv: String =
        std::iter::once(Row::csv_header()).chain(rows.iter().map(Row::csv)).map(|line| line + "\n").collect();
    results.write(CSV, &csv)?;
    results.write(SVG, &plot::svg(&rows))?;
    print(&report(&plan, &rows)?)?;
    print(&format!("\nwritten: {} {}\n", results.show(CSV), results.show(SVG)))
}

/// Is the process that measures the one cell of `arguments`.
pub fn be_child(arguments: &Arguments) -> Result<(), Error> {
    let plan = Plan::new(arguments)?;
    let store = Results::store(&arguments.dir);
    child::serve(std::io::stdin().lock(), std::io::stdout().lock(), |_| {
        let rows = run(&plan, |contender, work| measure_at(&store, &plan, contender, work))?;
        Ok(rows.iter().map(Row::csv).collect())
    })
}

/// Measures every cell of `plan` with `measure`, in the order of the table.
pub fn run(
    plan: &Plan,
    mut measure: impl FnMut(&Contender, &Work) -> Result<Row, Error>,
) -> Result<Vec<Row>, Error> {
    let progress = Progress::new(plan.cells().count());
    let mut rows = Vec::new();
    for (contender, work) in plan.cells() {
        let data = human_size(work.point.data_bytes);
        let entry = human_size(work.point.entry_bytes());
        let percent = work.point.update_percent;
        progress.show(rows.len(), &format!("{} {data} of {entry}, {percent} % updates", contender.name));
        rows.push(measure(contender, &work)?);
    }
    Ok(rows)
}

/// Measures a cell in the directory `store`, which is removed before and afterwards.
pub fn measure_at(store: &Path, plan: &Plan, contender: &Contender, work: &Work) -> Result<Row, Error> {
    let remove = || remove_tree(store).map_err(|error| Error::io(store.display(), error));
    remove()?;
    let place = Place::below(store, contender.kind, plan.sync)?;
    let row = cell::measure(place, &contender.name, &contender.options(plan.memory_bytes)?, work, plan.gets);
    remove()?;
    row
}

/// Measures a cell in a process of its own.
fn measure_in_child(
    results: &Results,
    plan: &Plan,
    contender: &Contender,
    work: &Work,
) -> Result<Row, Error> {
    let arguments = plan.arguments_of(contender, &work.point);
    let mut child = Handle::start(&contender.name, "compare", results.path(), &arguments)?;
    let rows = child.run(CELL)?;
    child.finish()?;
    let row = rows.first().filter(|_| rows.len() == 1).and_then(|line| Row::from_csv(line));
    row.ok_or_else(|| Error::Failed(format!("measuring {}: its answer is no row", contender.name)))
}

/// Everything that is printed for people.
pub fn report(plan: &Plan, rows: &[Row]) -> Result<String, Error> {
    let of = |kind, name: &str| scaled(kind, plan.memory_bytes).get(name).unwrap_or_default();
    let mut text = format!(
        "{} points, {} contenders, seed {}, {} keys{}; at most {} puts or {} a point\n\
         memory of each {}: memtables 2 x {} or dirty pages {}, cache {}; page {}\n{}\n\n",
        plan.points.len(),
        plan.contenders.len(),
        plan.seed,
        plan.order,
        match plan.repeat_percent {
            0 => String::new(),
            percent => format!(", {percent} % of a value repeats"),
        },
        plan.puts,
        exact_size(plan.volume_bytes),
        exact_size(plan.memory_bytes),
        of(Kind::LSM, "memtable"),
        of(Kind::BTREE, "dirty_max"),
        of(Kind::BTREE, "cache"),
        exact_size(PAGE_BYTES),
        match plan.sync {
            true => "syncs wait for the device",
            false =>
                "syncs are counted and not waited for (--sync waits): OPS/S are those of processor and page cache",
        }
    );
    text.push_str(&table::table(rows));
    text.push('\n');
    text.push_str(table::LEGEND);
    text.push('\n');
    let smallest = plan.points.iter().map(|point| point.value_bytes).min().unwrap_or(0);
    text.push_str(&account::describe(&plan.contenders, plan.memory_bytes, smallest)?);
    text.push('\n');
    for line in crossover::report(rows, plan.sync) {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Access, Disk, Metered, OsDisk};
    use std::sync::Arc;

    #[test]
    fn a_tiny_matrix_runs_on_a_real_directory_and_its_bytes_are_the_disks() {
        let place = tempfile::tempdir().unwrap();
        let store = place.path().join("store");
        let plan = plan::parse(
            "--memory 256K --puts 300 --sizes 20K,200K --values 100,5000 --updates 0,100 --gets 20",
        )
        .unwrap();
        let rows = run(&plan, |contender, work| {
            // The witness below everything: what the files were given, the load included.
            let options = contender.options(plan.memory_bytes).unwrap();
            let below = Metered::new(OsDisk::open(&store, Access::Write).unwrap());
            let disk: Arc<dyn Disk> = below.clone();
            let row = cell::measure(disk.into(), &contender.name, &options, work, plan.gets)?;
            let total = below.snapshot().total();
            assert_eq!(row.written.iter().sum::<u64>(), row.settled_bytes.unwrap());
            assert!(
                row.settled_bytes.unwrap() < total.write_bytes
                    && row.requests.unwrap() < total.writes
                    && row.syncs.unwrap() < total.syncs
            );
            drop(below);
            // Without syncs, and from an empty directory again, the bytes are the same.
            let again = measure_at(&store, &plan, contender, work)?;
            let counts = |row: &Row| (row.written.clone(), row.unsettled_bytes, row.requests, row.syncs);
            assert_eq!(counts(&again), counts(&row));
            assert!(!store.exists());
            Ok(row)
        });
        let rows = rows.unwrap();
        assert_eq!(rows.len(), 8 * plan.contenders.len());
        let text = report(&plan, &rows).unwrap();
        assert!(text.lines().any(|line| line.starts_with("crossover ")), "{text}");
        assert!(text.contains("seed 1") && text.contains("8 points"), "{text}");
        let random_small =
            |row: &&Row| row.data_bytes > 100_000 && row.value_bytes == 100 && row.update_percent == 100;
        let amplification = |engine: &str| {
            let found = rows.iter().filter(random_small).find(|row| row.contender.starts_with(engine));
            found.unwrap().write_amp().unwrap()
        };
        assert!(amplification("lsm") < amplification("btree"), "small random updates are the LSM-tree's");
    }
}
