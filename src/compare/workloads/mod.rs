//! Timed workloads, as on a mount: engines with their own threads and the machine's clock, on the same keys, values and memory.
//!
//! Engines take turns workload by workload, each in a process of its own that keeps its store open ([`stage`]); the kernel writes back what the
//! one before left dirty before the next one begins. [`plan`] says what is done and how often, [`keys`] to which keys.
//!
//! `docs/workloads.md` says what is equal, what is not, and how to read the figures.

pub mod goals;
pub mod keys;
mod mixed;
pub mod plan;
mod pulse;
pub mod report;
pub mod row;
pub mod stage;

use super::arguments::Arguments;
use super::child::{self, Handle};
use super::contender::Contender;
use super::results::Results;
use super::{Error, print};
use plan::{Plan, Size, WORKLOADS};
use row::Row;
use stage::Stage;

/// Name of the result as lines of figures.
pub const CSV: &str = "workloads.csv";
/// The same for programs.
pub const JSON: &str = "workloads.json";

/// Behind the command's help: what there is.
pub fn help() -> String {
    let each = WORKLOADS.map(|(name, what)| format!("  {name:<14} {what}"));
    format!("Workloads, in their order:\n{}\n", each.join("\n"))
}

/// Measures, prints to standard output line by line, and writes the results into the directory.
pub fn main(arguments: &Arguments) -> Result<(), Error> {
    let plan = Plan::new(arguments)?;
    let results = Results::open(&arguments.dir)?;
    let mut rows = Vec::new();
    for size in &plan.sizes {
        run_size(&plan, size, &results, &mut rows)?;
    }
    print(&format!("\n{}{}{}", report::LEGEND, report::summary(&rows), goals::table(&rows)))?;
    print(&format!("\nwritten: {} {}\n", results.show(CSV), results.show(JSON)))
}

/// Is the process that measures the one contender and size of `arguments`.
pub fn be_child(arguments: &Arguments) -> Result<(), Error> {
    let plan = Plan::new(arguments)?;
    let ([contender], [size]) = (&plan.contenders[..], &plan.sizes[..]) else {
        return Err(Error::usage("one process measures one contender and size"));
    };
    let mut stage = Stage::new(&plan, contender, *size, &Results::store(&arguments.dir))?;
    child::serve(std::io::stdin().lock(), std::io::stdout().lock(), |workload| {
        let rows = stage.run(workload)?;
        if plan.is_verbose {
            eprintln!("{}", stage.report());
        }
        Ok(rows.iter().map(Row::csv).collect())
    })?;
    stage.finish()
}

/// Runs every workload on every contender in turns. One that fails is reported and left out from there on; if none is left, that is an error.
fn run_size(plan: &Plan, size: &Size, results: &Results, rows: &mut Vec<Row>) -> Result<(), Error> {
    let start = |contender: &Contender| {
        Handle::start(&contender.name, "compare", results.path(), &plan.arguments_of(contender, size))
    };
    let mut children = plan.contenders.iter().map(start).collect::<Result<Vec<Handle>, Error>>()?;
    print(&format!("{}\n", report::heading(size, plan.memory_bytes)))?;
    for workload in &plan.workloads {
        let mut alive = Vec::new();
        for mut child in children {
            // What the one before left dirty is not this one's to write.
            nix::unistd::sync();
            match child.run(workload).and_then(|lines| parse(&lines, child.name())) {
                Ok(measured) => {
                    for row in &measured {
                        print(&format!("{}\n", report::line(row)))?;
                    }
                    rows.extend(measured);
                    alive.push(child);
                }
                Err(error) => eprintln!("kvfs: {workload}: {error}"),
            }
        }
        children = alive;
        save(results, rows)?;
    }
    if children.is_empty() {
        return Err(Error::Failed("every engine failed".to_string()));
    }
    children.into_iter().try_for_each(Handle::finish)
}

fn parse(lines: &[String], name: &str) -> Result<Vec<Row>, Error> {
    let rows = lines.iter().map(|line| Row::from_csv(line)).collect::<Option<Vec<Row>>>();
    rows.ok_or_else(|| Error::Failed(format!("measuring {name}: its answer is no row")))
}

fn save(results: &Results, rows: &[Row]) -> Result<(), Error> {
    let lines = std::iter::once(Row::csv_header()).chain(rows.iter().map(Row::csv));
    results.write(CSV, &lines.map(|line| line + "\n").collect::<String>())?;
    let list = serde_json::Value::Array(rows.iter().map(Row::json).collect());
    results.write(JSON, &format!("{list:#}\n"))
}
