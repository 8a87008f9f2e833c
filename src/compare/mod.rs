//! The crossover: the same puts on every engine, and where one begins to write less than another.
//!
//! A room beside `control`: it puts engines together with metered disks for measurement, without a mount and without the filesystem.
//!
//! 1. [`plan`]: arguments become a matrix of points (data size × entry size × update share) and contenders ([`contender`]).
//! 2. [`workload`]: what is done at a point, the same for every contender. [`cell`]: one contender does it, from settled to settled.
//! 3. Each cell runs in a process of its own, so that the memory it holds is its own; it comes back as a line of CSV ([`row`]).
//! 4. [`table`], [`plot`], [`crossover`] and [`account`] say what came of it.
//!
//! `docs/crossover.md` explains the figures.

pub mod account;
pub mod cell;
pub mod contender;
pub mod crossover;
pub mod plan;
pub mod plot;
mod progress;
pub mod row;
pub mod table;
pub mod unsynced;
pub mod workload;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::base::text::{BadText, exact_size, human_size};
use crate::disk::{self, Access, Disk, OsDisk, Pool, Purpose};
use crate::engine::Kind;
use contender::Contender;
pub use plan::{Arguments, Plan};
use progress::Progress;
use row::Row;
use unsynced::Unsynced;
use workload::Workload;

/// The directory below the given one in which the stores are made, one after the other.
const STORE: &str = "kvfs-compare.tmp";
/// Name of the result as lines of figures.
const CSV: &str = "compare.csv";
/// Name of the plot.
const SVG: &str = "compare.svg";

/// Why a comparison cannot be. Each is a sentence to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be.
    #[error("{0}")]
    Usage(String),
    /// The system or an engine refuses.
    #[error("{0}")]
    System(String),
}

impl From<BadText> for Error {
    fn from(bad: BadText) -> Error {
        Error::Usage(bad.into())
    }
}

/// Runs `kvfs compare`: measures, prints to standard output, and writes the results into the directory.
pub fn main(arguments: &Arguments) -> Result<(), Error> {
    let plan = Plan::new(arguments)?;
    if arguments.row {
        let rows = run(&plan, |contender, work| measure_at(&arguments.dir, &plan, contender, work))?;
        return print(&rows.iter().map(|row| row.csv() + "\n").collect::<String>());
    }
    let home = home(&arguments.dir)?;
    let store = arguments.dir.join(STORE);
    let rows = run(&plan, |contender, work| measure_in_child(&store, &plan, contender, work))?;
    let csv: String =
        std::iter::once(Row::csv_header()).chain(rows.iter().map(Row::csv)).map(|line| line + "\n").collect();
    for (name, text) in [(CSV, &csv), (SVG, &plot::svg(&rows))] {
        disk::replace(&*home, Purpose::Manifest, name, text.as_bytes())
            .map_err(|error| failed(&arguments.dir.join(name), error))?;
    }
    print(&report(&plan, &rows)?)?;
    let written = [CSV, SVG].map(|name| arguments.dir.join(name).display().to_string());
    print(&format!("\nwritten: {}\n", written.join(" ")))
}

/// Measures every cell of `plan` with `measure`, in the order of the table.
pub fn run(
    plan: &Plan,
    mut measure: impl FnMut(&Contender, &Workload) -> Result<Row, Error>,
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

/// Measures a cell on the directory `store`, and leaves it empty.
pub fn measure_at(store: &Path, plan: &Plan, contender: &Contender, work: &Workload) -> Result<Row, Error> {
    let options = contender.options(plan.memory_bytes)?;
    let disk = OsDisk::open(store, Access::Write).map_err(|error| failed(store, error))?;
    let disk: Arc<dyn Disk> = Pool::of_process(disk);
    clear(&*disk).map_err(|error| failed(store, error))?;
    let used = if plan.sync { disk.clone() } else { Unsynced::new(disk.clone()) };
    let row = cell::measure(used, &contender.name, &options, work, plan.gets);
    clear(&*disk).map_err(|error| failed(store, error))?;
    row
}

/// Measures a cell in a process of its own.
fn measure_in_child(store: &Path, plan: &Plan, contender: &Contender, work: &Workload) -> Result<Row, Error> {
    let what = || format!("measuring {}", contender.name);
    let program = std::env::current_exe().map_err(|error| Error::System(format!("{}: {error}", what())))?;
    let output = Command::new(program)
        .args(["compare", "--row", "--dir"])
        .arg(store)
        .args(plan.arguments_of(contender, &work.point))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::System(format!("{}: {error}", what())))?;
    let row = std::str::from_utf8(&output.stdout).ok().and_then(Row::from_csv);
    row.filter(|_| output.status.success()).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::System(format!("{}: {}", what(), said.trim().trim_start_matches("kvfs: ")))
    })
}

/// The directory for the results: made, locked, and holding nothing but what an earlier comparison left.
fn home(path: &Path) -> Result<Arc<OsDisk>, Error> {
    let home = OsDisk::open(path, Access::Write).map_err(|error| failed(path, error))?;
    let files = home.list().map_err(|error| failed(path, error))?;
    let is_ours = |name: &str| [CSV, SVG].contains(&name.trim_end_matches(".new"));
    match files.iter().find(|file| !is_ours(&file.name)) {
        None => Ok(home),
        Some(file) => Err(Error::Usage(format!(
            "{} holds {}; give a directory that is missing, empty or of an earlier comparison",
            path.display(),
            file.name
        ))),
    }
}

fn clear(disk: &dyn Disk) -> io::Result<()> {
    disk.list()?.iter().try_for_each(|file| disk.remove(&file.name))
}

/// Everything that is printed for people.
pub fn report(plan: &Plan, rows: &[Row]) -> Result<String, Error> {
    let of = |kind, name: &str| plan::scaled(kind, plan.memory_bytes).get(name).unwrap_or_default();
    let mut text = format!(
        "{} points, {} contenders, seed {}, {} keys; at most {} puts or {} a point\n\
         memory of each {}: memtables 2 x {} or dirty pages {}, cache {}; page {}\n{}\n\n",
        plan.points.len(),
        plan.contenders.len(),
        plan.seed,
        plan.order,
        plan.puts,
        exact_size(plan.volume_bytes),
        exact_size(plan.memory_bytes),
        of(Kind::LSM, "memtable"),
        of(Kind::BTREE, "dirty_max"),
        of(Kind::BTREE, "cache"),
        exact_size(plan::PAGE_BYTES),
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
    for line in crossover::report(rows) {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

fn print(text: &str) -> Result<(), Error> {
    let written = io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Error::System(format!("writing to standard output: {error}")))
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::System(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_else_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        home(place.path()).unwrap().create(CSV).unwrap();
        home(place.path()).unwrap().create("holiday.jpg").unwrap();
        let problem = home(place.path()).err().unwrap();
        assert!(
            matches!(problem, Error::Usage(_)) && problem.to_string().contains("holiday.jpg"),
            "{problem}"
        );
    }

    #[test]
    fn a_tiny_matrix_runs_on_a_real_directory_and_its_bytes_are_the_disks() {
        let place = tempfile::tempdir().unwrap();
        let plan = plan::parse(
            "--memory 256K --puts 300 --sizes 20K,200K --values 100,5000 --updates 0,100 --gets 20",
        )
        .unwrap();
        let rows = run(&plan, |contender, work| {
            // The witness below everything: what the files were given, the load included.
            let options = contender.options(plan.memory_bytes).unwrap();
            let disk = OsDisk::open(place.path(), Access::Write).unwrap();
            let below = disk::Metered::new(disk.clone());
            let row = cell::measure(below.clone(), &contender.name, &options, work, plan.gets)?;
            let total = below.snapshot().total();
            assert_eq!(row.written.iter().sum::<u64>(), row.settled_bytes);
            assert!(
                row.settled_bytes < total.write_bytes
                    && row.requests < total.writes
                    && row.syncs < total.syncs
            );
            clear(&*disk).unwrap();
            drop((disk, below));
            // Without syncs, and from an empty directory again, the bytes are the same.
            let again = measure_at(place.path(), &plan, contender, work)?;
            let counts = |row: &Row| (row.written.clone(), row.unsettled_bytes, row.requests, row.syncs);
            assert_eq!(counts(&again), counts(&row));
            let disk = OsDisk::open(place.path(), Access::Write).unwrap();
            assert!(disk.list().unwrap().is_empty());
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
            found.unwrap().write_amp()
        };
        assert!(amplification("lsm") < amplification("btree"), "small random updates are the LSM-tree's");
    }
}
