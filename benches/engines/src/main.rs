//! Measures the engines of kvfs side by side with their peers: the same keys, values, memory and durability, in turns.
//!
//! Each engine and size runs in a process of its own (`child`), which works through the workloads (`workload`) on one
//! engine (`engines`) and measures each (`phase`). See README.md for what is equal, what is not, and how to read it.

mod child;
mod data;
mod engines;
mod phase;
mod process;
mod report;
mod row;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kvfs::base::text::parse_size;

use engines::{NAMES, Result, Settings};
use row::Row;
use workload::{SIZES, Size, Stage, WORKLOADS};

/// Measures the storage engines of kvfs side by side with their peers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Engines, with commas between them; options of ours follow the name, as in lsm:table_block=16K. Default: all that are
    /// built in and suit the size
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,

    /// Workloads by name or beginning of a name, with commas; they run in their own order. Default: all
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,

    /// Sizes of values: meta (100 B), b4k, b64k
    #[arg(long, value_delimiter = ',', default_value = "meta,b4k,b64k")]
    sizes: Vec<String>,

    /// Factor on keys, operations, memory and table sizes alike, so that the trees keep their shape
    #[arg(long, default_value_t = 1.0)]
    scale: f64,

    /// Write buffer of every engine at scale 1
    #[arg(long, value_parser = parse_size, default_value = "64M")]
    memtable: u64,

    /// Cache of every engine at scale 1
    #[arg(long, value_parser = parse_size, default_value = "256M")]
    cache: u64,

    /// Background threads of every engine
    #[arg(long, default_value_t = 2)]
    threads: usize,

    /// A workload, other than a fill, is cut after this many seconds
    #[arg(long, default_value_t = 25.0)]
    limit: f64,

    /// Directory for the stores, on the disk to be measured
    #[arg(long, default_value = "engines-bench")]
    dir: PathBuf,

    /// Leave filled stores there, and use those that a run of the same scale left
    #[arg(long)]
    keep: bool,

    /// Write every line with every field to this file
    #[arg(long)]
    json: Option<PathBuf>,

    /// The same with commas between the fields
    #[arg(long)]
    csv: Option<PathBuf>,

    /// Show what each engine says of itself after each workload
    #[arg(long)]
    verbose: bool,

    /// List engines and workloads and end
    #[arg(long)]
    list: bool,

    /// Be the process of one engine; used by the program itself
    #[arg(long, hide = true)]
    child: Option<String>,
}

impl Arguments {
    fn sizes(&self) -> Result<Vec<Size>> {
        let find = |name: &String| {
            let size = SIZES.iter().find(|size| size.name == name).ok_or(format!("no size '{name}'"))?;
            Ok(size.scaled(self.scale))
        };
        self.sizes.iter().map(find).collect()
    }

    fn workloads(&self) -> Result<Vec<&'static str>> {
        let names = || WORKLOADS.iter().map(|(name, _)| *name);
        if let Some(unknown) = self.workloads.iter().find(|word| !names().any(|name| name.starts_with(*word)))
        {
            return Err(format!("no workload begins with '{unknown}'; see --list").into());
        }
        // A whole name means that one alone, even if it begins others.
        let chosen = |name: &str| {
            self.workloads.is_empty()
                || self.workloads.iter().any(|word| {
                    word == name || (name.starts_with(word.as_str()) && !names().any(|other| other == word))
                })
        };
        Ok(names().filter(|name| chosen(name)).collect())
    }

    fn engines(&self, size: &Size) -> Vec<String> {
        if !self.engines.is_empty() {
            return self.engines.clone();
        }
        let is_large = size.value_bytes >= 1024;
        let suits = |name: &str| match name {
            // The baseline runs only when asked for.
            "mem" => false,
            "fjall" | "rocksdb-universal" => !is_large,
            "fjall-blob" | "rocksdb-blob" => is_large,
            _ => true,
        };
        NAMES.iter().copied().filter(|name| suits(name)).map(String::from).collect()
    }

    fn settings(&self, size: &Size) -> Settings {
        let scaled = |bytes: u64| ((bytes as f64 * self.scale) as u64).max(64 << 10);
        Settings {
            memtable_bytes: scaled(self.memtable),
            cache_bytes: scaled(self.cache),
            level_base_bytes: scaled(256 << 20),
            table_bytes: scaled(64 << 20),
            log_segment_bytes: scaled(16 << 20),
            value_bytes: size.value_bytes,
            data_bytes: size.bytes_of(0, size.keys),
            threads: self.threads,
        }
    }
}

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let arguments = Arguments::parse();
    if let Some(engine) = &arguments.child {
        return be_child(&arguments, engine);
    }
    if arguments.list {
        println!("engines: {}", NAMES.join(", "));
        WORKLOADS.iter().for_each(|(name, what)| println!("{name:<14} {what}"));
        return Ok(());
    }
    let mut rows = Vec::new();
    for size in arguments.sizes()? {
        run_size(&arguments, &size, &mut rows)?;
    }
    print!("{}", report::summary(&rows)?);
    save(&arguments, &rows)
}

fn be_child(arguments: &Arguments, engine: &str) -> Result<()> {
    let [size] = arguments.sizes()?[..] else { return Err("a child runs one size".into()) };
    let home = arguments.dir.join(format!("{}-{}", size.name, engine.replace(['/', ':'], "_")));
    let limit = Duration::from_secs_f64(arguments.limit);
    let stage = Stage::new(engine, size, arguments.settings(&size), limit, home, arguments.keep)?;
    child::serve(stage, arguments.verbose)
}

/// Runs every workload on every engine in turns. An engine that fails is reported and left out from there on.
fn run_size(arguments: &Arguments, size: &Size, rows: &mut Vec<Row>) -> Result<()> {
    let passed: Vec<String> = [
        ("--sizes", size.name.to_string()),
        ("--scale", arguments.scale.to_string()),
        ("--memtable", arguments.memtable.to_string()),
        ("--cache", arguments.cache.to_string()),
        ("--threads", arguments.threads.to_string()),
        ("--limit", arguments.limit.to_string()),
        ("--dir", arguments.dir.display().to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_string(), value])
    .chain(arguments.keep.then(|| "--keep".to_string()))
    .chain(arguments.verbose.then(|| "--verbose".to_string()))
    .collect();
    let engines = arguments.engines(size);
    let mut children = Vec::new();
    for engine in &engines {
        children.push(child::Handle::start(engine, &passed)?);
    }
    println!("{}", report::heading(size.name, size.keys, &arguments.settings(size)));
    for workload in arguments.workloads()? {
        let mut alive = Vec::new();
        for mut child in children {
            // What the one before left dirty is not this one's to write.
            nix::unistd::sync();
            match child.run(workload) {
                Ok(measured) => {
                    measured.iter().for_each(|row| println!("{}", report::line(row)));
                    rows.extend(measured);
                    alive.push(child);
                }
                Err(error) => eprintln!("{} {workload}: {error}", child.engine),
            }
        }
        children = alive;
        save(arguments, rows)?;
    }
    for child in children {
        let engine = child.engine.clone();
        if let Err(error) = child.finish() {
            eprintln!("{engine}: {error}");
        }
    }
    Ok(())
}

fn save(arguments: &Arguments, rows: &[Row]) -> Result<()> {
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(rows)?)?;
    }
    if let Some(path) = &arguments.csv {
        std::fs::write(path, report::csv(rows)?)?;
    }
    Ok(())
}
