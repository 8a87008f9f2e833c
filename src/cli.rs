//! The command line: what was typed becomes one call, and its result an exit code.
//!
//! `kvfs DIR MNT -o …`, the form that mount(8) and `mount.fuse` use, is `kvfs mount DIR MNT -o …`.

mod advise;
mod budget;
mod check;
mod engines;
mod fork;
mod import;
mod model;
mod mount;
mod options;
mod record;
mod recording;
mod watch;
mod witness;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;

use crate::base::text::{BadText, parse_size};
use crate::engine::Kind;
use crate::store::{Blame, Error};

/// Exit codes of mount(8) for helpers, used by every command but `check`.
mod code {
    /// Wrong use, or not allowed.
    pub const USAGE: u8 = 1;
    /// The system refuses.
    pub const SYSTEM: u8 = 2;
    /// Not mounted, or not unmounted.
    pub const MOUNT: u8 = 32;
    /// `check`: there was damage, and a repair has mended it.
    pub const MENDED: u8 = 1;
    /// `check`: something is damaged.
    pub const DAMAGE: u8 = 4;
    /// `check`: could not run.
    pub const UNCHECKED: u8 = 8;
    /// `check`: wrong use.
    pub const CHECK_USAGE: u8 = 16;
}

/// A Linux filesystem whose files live in a storage engine of your choice, and which measures what that costs.
#[derive(Debug, Parser)]
#[command(name = "kvfs", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

const EXAMPLES: &str = "\
Examples:
  kvfs mkfs /var/lib/kv.db -o engine=btree,page_size=8K
  kvfs mount /var/lib/kv.db /mnt/kv -o sync=interval:200ms
  kvfs /var/lib/kv.db /mnt/kv -o engine=lsm          the same as mount; makes the store if it is missing
  mount -t fuse.kvfs /var/lib/kv.db /mnt/kv          with mount.fuse.kvfs installed in /sbin
  cat /mnt/kv/.stats                                 what the storage engine pays
  kvfs ctl /mnt/kv mark run1; fio job; kvfs stats /mnt/kv --since run1
  kvfs fork /mnt/kv /var/lib/kv.copy                 a second store of what it holds now
  kvfs record /mnt/kv on work.rec; …; kvfs record /mnt/kv off; kvfs advise work.rec; kvfs replay work.rec --engine btree
  kvfs umount /mnt/kv
  kvfs witness /var/lib/postgresql/15/main /mnt/pg   count what any program does to its files: cat /mnt/pg/.stats
  kvfs check /var/lib/kv.db
  kvfs compare --dir /var/tmp/compare --quick        both engines, the same puts, the crossover

`kvfs mount --help` lists every -o option. RUST_LOG sets what is logged, as in RUST_LOG=debug.

Exit codes: 0 done; 1 wrong use or not allowed; 2 the system refuses; 32 not mounted or not unmounted.
`kvfs check`: 0 clean; 1 damage found and mended; 4 damage found; 8 could not run, for instance because the store is mounted;
16 wrong use.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a store in a missing or empty directory
    #[command(after_help = options::help())]
    Mkfs {
        /// Directory of the new store
        dir: PathBuf,
        /// Options, separated by commas; the store remembers them
        #[arg(short, value_name = "OPTION[=VALUE],…")]
        options: Vec<String>,
    },
    /// Mount a store; a missing or empty directory becomes one. Returns when the mount answers
    #[command(after_help = options::help())]
    Mount(mount::MountArgs),
    /// Pass a directory through, so that what any program does to its files is counted. Returns when the mount answers
    #[command(after_help = witness::help())]
    Witness(witness::WitnessArgs),
    /// Unmount, and wait until everything is on disk and the store is closed
    #[command(visible_alias = "unmount")]
    Umount {
        /// Mount point
        mount_point: PathBuf,
        /// Take it away also if it is in use, and do not wait
        #[arg(short, long)]
        lazy: bool,
    },
    /// Show the statistics of a mount
    Stats {
        /// Mount point
        mount_point: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// What happened since `kvfs ctl MNT mark NAME`
        #[arg(long, value_name = "NAME")]
        since: Option<String>,
        /// A row every so many seconds of what happened in them, until interrupted
        #[arg(long, value_name = "SECONDS", conflicts_with_all = ["json", "since"], value_parser = clap::value_parser!(u64).range(1..))]
        watch: Option<u64>,
    },
    /// Hold a mount to a budget: kvfs assert MNT 'write_amp < 3' 'stall_seconds == 0'. Exit code 1 if one fails
    Assert {
        /// Mount point
        mount_point: PathBuf,
        /// PATH < NUMBER (or <= > >= == !=); PATH is write_amp, fs_write_amp, engine_write_amp, read_amp, space_amp,
        /// stall_seconds or any path of .stats.d/json
        #[arg(required = true)]
        conditions: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Count from `kvfs ctl MNT mark NAME`
        #[arg(long, value_name = "NAME")]
        since: Option<String>,
    },
    /// What the textbook formulas predict, without a mount
    Model(model::ModelArgs),
    /// Trace a read: which structures are asked for a file's record and for one of its blocks
    Explain {
        /// A file of a mount
        path: PathBuf,
        /// Offset in it
        #[arg(default_value = "0", value_parser = parse_size)]
        offset: u64,
    },
    /// Give a command to a mount: flush, compact, vacuum, checkpoint, sync, fork PATH, mark NAME
    Ctl {
        /// Mount point
        mount_point: PathBuf,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Record what is asked of a mount, for replay and advise
    #[command(after_help = record::RECORD_HELP)]
    Record(record::RecordArgs),
    /// Write the sizes, kinds and order of what a store holds, without names and contents
    #[command(after_help = record::IMAGE_HELP)]
    Image(record::ImageArgs),
    /// Make a recording of an iolog of fio or a trace of RocksDB
    #[command(after_help = import::HELP)]
    Import(import::ImportArgs),
    /// Show what is in a recording
    Recording(recording::RecordingArgs),
    /// Make a second store of what a mounted one holds, while it is used; both go their own ways from there
    #[command(after_help = fork::HELP)]
    Fork(fork::ForkArgs),
    /// Do what was recorded again, on other engines and options: what would this work cost there?
    #[command(after_help = crate::compare::replay::HELP)]
    Replay(crate::compare::replay::ReplayArguments),
    /// Verify every checksum and every invariant of a store that is not mounted; writes nothing unless told to repair
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// What a recording would cost on other designs, by size alone: the front of write × read × space amplification
    #[command(after_help = advise::HELP)]
    Advise(advise::AdviseArgs),
    /// List the engines that the option engine takes, with their variants
    Engines {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Put the same keys into every engine and name the crossover: where one writes less than another; or time workloads. Needs no mount
    #[command(after_help = crate::compare::help())]
    Compare(crate::compare::Arguments),
}

/// Failure of a command.
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// Wrong use is always the same code; `other` is the command's own for the rest.
    fn of(error: &Error, other: u8) -> Failure {
        let code = if error.blame == Blame::Usage { code::USAGE } else { other };
        Failure::new(code, error.to_string())
    }
}

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    // A limit on the size of files (ulimit -f) is an error of the write that meets it, and must not end the process.
    // SAFETY: no handler is installed.
    if let Err(error) = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) } {
        eprintln!("kvfs: ignoring SIGXFSZ: {error}");
    }
    let arguments = normalize(std::env::args_os().collect());
    // fsck(8) has its own code for wrong use.
    let is_check = arguments.get(1).is_some_and(|word| word == "check");
    let matches = match Cli::command().long_version(long_version()).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let help = !error.use_stderr();
            // Nobody reads the message if it cannot be printed.
            let _ = error.print();
            let usage = if is_check { code::CHECK_USAGE } else { code::USAGE };
            return ExitCode::from(if help { 0 } else { usage });
        }
    };
    let verb = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    match run(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            if !text.is_empty() {
                eprintln!("kvfs: {text}");
            }
            ExitCode::from(code)
        }
    }
}

/// What `--version` says: the version, and on a line of its own the names of the engines that are built in. `-V` says the first alone.
fn long_version() -> &'static str {
    let engines: Vec<&str> = Kind::all().map(|kind| kind.name).collect();
    // clap keeps it for as long as the process runs.
    format!("{}\nengines: {}", env!("CARGO_PKG_VERSION"), engines.join(" ")).leak()
}

/// Turns `kvfs DIR MNT …` into `kvfs mount DIR MNT …`. A word without a slash that is no directory here is a command that does not
/// exist, and not a store to be made under that name. Where the program is called through a link such as
/// `/sbin/mount.fuse.kvfs`, `-f` means what mount(8) means: do everything but mount.
fn normalize(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let helper = name.as_bytes().starts_with(b"mount.");
    if helper {
        for argument in arguments.iter_mut().skip(1).filter(|argument| *argument == "-f") {
            *argument = "--fake".into();
        }
    }
    let is_command = |word: &OsString| {
        let is_named = |name: &str| word.to_str() == Some(name);
        let is_it =
            |command: &clap::Command| is_named(command.get_name()) || command.get_all_aliases().any(is_named);
        Cli::command().get_subcommands().any(is_it)
    };
    let is_store = |word: &OsString| word.as_bytes().contains(&b'/') || Path::new(word).is_dir();
    match arguments.get(1) {
        Some(first)
            if helper || (!first.as_bytes().starts_with(b"-") && !is_command(first) && is_store(first)) =>
        {
            arguments.insert(1, "mount".into());
        }
        _ => {}
    }
    arguments
}

fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Mkfs { dir, options } => {
            start_log(log::LevelFilter::Warn, None);
            let options =
                options::MountOptions::parse(&options, false).map_err(|e| Failure::new(code::USAGE, e))?;
            crate::mount::make_store(&absolute(&dir)?, &options.given, options.terms)
                .map_err(|e| Failure::of(&e, code::SYSTEM))
        }
        Verb::Mount(arguments) => mount::run(&arguments),
        Verb::Witness(arguments) => witness::run(&arguments),
        Verb::Umount { mount_point, lazy } => mount::unmount(&mount_point, lazy),
        Verb::Stats { mount_point, watch: Some(seconds), .. } => watch(&mount_point, seconds),
        Verb::Assert { mount_point, conditions, json, since } => {
            hold(&mount_point, &conditions, json, since.as_deref())
        }
        Verb::Model(arguments) => {
            print(model::run(&arguments).map_err(|problem| Failure::new(code::USAGE, problem))?.as_bytes())
        }
        Verb::Explain { path, offset } => explain(&path, offset),
        Verb::Stats { mount_point, json, since, watch: None } => {
            let name = match since {
                Some(name) => format!(".stats.d/since/{name}{}", if json { ".json" } else { "" }),
                None if json => ".stats.d/json".to_string(),
                None => ".stats".to_string(),
            };
            print(&read(&mount_point, &name)?)
        }
        Verb::Ctl { mount_point, words } => control(&mount_point, &words.join(" ")),
        Verb::Record(arguments) => record::record(&arguments),
        Verb::Image(arguments) => record::image(&arguments),
        Verb::Import(arguments) => import::import(&arguments),
        Verb::Recording(arguments) => recording::recording(&arguments),
        Verb::Fork(arguments) => fork::run(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Advise(arguments) => advise::run(&arguments),
        Verb::Engines { json } => print(engines::list(json).as_bytes()),
        Verb::Compare(arguments) => crate::compare::main(&arguments).map_err(|error| compared(&error)),
        Verb::Replay(arguments) => crate::compare::replay::main(&arguments, crate::fs::keys::classify)
            .map_err(|error| compared(&error)),
    }
}

fn compared(error: &crate::compare::Error) -> Failure {
    let is_usage = matches!(error, crate::compare::Error::Usage(_));
    Failure::new(if is_usage { code::USAGE } else { code::SYSTEM }, error.to_string())
}

/// The same place for a process with another working directory; a URL is one already.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if crate::store::location::url(path).is_some() {
        return Ok(path.to_path_buf());
    }
    let resolved = path.canonicalize().or_else(|_| std::path::absolute(path));
    resolved.map_err(|error| Failure::new(code::USAGE, format!("{}: {error}", path.display())))
}

/// Starts logging to standard error, or to `lines`; `RUST_LOG` decides over `level`.
fn start_log(level: log::LevelFilter, lines: Option<crate::daemon::Lines>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level.min(log::LevelFilter::Warn)).filter_module("kvfs", level).parse_default_env();
    if let Some(lines) = lines {
        builder.write_style(env_logger::WriteStyle::Never).target(env_logger::Target::Pipe(Box::new(lines)));
    }
    if level == log::LevelFilter::Debug {
        builder.filter_module("fuser", level);
    }
    builder.init();
}

fn print(text: &[u8]) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text);
    written.map_err(|error| Failure::new(code::SYSTEM, format!("writing to standard output: {error}")))
}

/// A virtual file of a mount.
fn read(mount_point: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let path = mount_point.join(name);
    crate::disk::read_outside(&path).map_err(|error| {
        Failure::new(code::SYSTEM, format!("{}: {error}; is it a mounted kvfs?", path.display()))
    })
}

fn report(mount_point: &Path, name: &str) -> Result<serde_json::Value, Failure> {
    let text = read(mount_point, name)?;
    let problem = |error| Failure::new(code::SYSTEM, format!("{}/{name}: {error}", mount_point.display()));
    serde_json::from_slice(&text).map_err(problem)
}

fn watch(mount_point: &Path, seconds: u64) -> Result<(), Failure> {
    let mut before = report(mount_point, ".stats.d/json")?;
    for rows in 0.. {
        if rows % watch::ROWS == 0 {
            print(format!("{}\n", watch::head()).as_bytes())?;
        }
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        let now = report(mount_point, ".stats.d/json")?;
        if let Some(row) = watch::row(&before, &now) {
            print(format!("{row}\n").as_bytes())?;
        }
        before = now;
    }
    Ok(())
}

fn hold(mount_point: &Path, conditions: &[String], json: bool, since: Option<&str>) -> Result<(), Failure> {
    let name = since.map_or(".stats.d/json".to_string(), |name| format!(".stats.d/since/{name}.json"));
    let report = report(mount_point, &name)?;
    let judged: Result<Vec<budget::Verdict>, BadText> =
        conditions.iter().map(|condition| budget::judge(&report, condition)).collect();
    // Not the code of a budget that was missed.
    let verdicts = judged.map_err(|problem| Failure::new(code::SYSTEM, problem))?;
    let holds = verdicts.iter().all(|verdict| verdict.holds);
    if json {
        let list: Vec<serde_json::Value> = verdicts.iter().map(budget::Verdict::json).collect();
        print(format!("{:#}\n", serde_json::json!({ "holds": holds, "conditions": list })).as_bytes())?;
    } else {
        for verdict in &verdicts {
            print(format!("{}\n", verdict.text()).as_bytes())?;
        }
    }
    if holds { Ok(()) } else { Err(Failure::new(code::USAGE, "")) }
}

fn explain(path: &Path, offset: u64) -> Result<(), Failure> {
    let show = path.display();
    let failed = |problem: String| Failure::new(code::SYSTEM, format!("{show}: {problem}"));
    let found = nix::sys::stat::lstat(path).map_err(|errno| failed(errno.desc().to_string()))?;
    let absolute = absolute(path)?;
    let is_root = |dir: &&Path| nix::sys::stat::lstat(&dir.join(".stats.d/json")).is_ok();
    let mount_point = absolute
        .ancestors()
        .find(is_root)
        .ok_or_else(|| failed("it does not lie in a mounted kvfs".to_string()))?;
    let block_bytes = report(mount_point, ".stats.d/json")?["block_bytes"].as_u64().unwrap_or(4096).max(1);
    control(mount_point, &format!("explain {} {}", found.st_ino, offset / block_bytes))?;
    let text = read(mount_point, ".stats.d/trace")?;
    // Behind the answer that file has the reads that `trace on` has kept: another question.
    let end = text.windows(8).position(|window| window == b"\ntrace o").map_or(text.len(), |at| at + 1);
    print(&text[..end])
}

fn control(mount_point: &Path, line: &str) -> Result<(), Failure> {
    let path = mount_point.join(".stats");
    let failed = |errno: nix::errno::Errno| {
        // The mount remembers why, in a sentence.
        let last = read(mount_point, ".stats.d/ctl").ok().and_then(|list| String::from_utf8(list).ok());
        let said =
            last.as_deref().and_then(|list| Some(list.lines().last()?.split_once(&format!(": {line}: "))?.1));
        if let Some(said) = said.filter(|said| said.contains(' ') && *said != "invalid argument") {
            return Failure::new(code::SYSTEM, said);
        }
        let way_out = match errno {
            nix::errno::Errno::EINVAL => {
                format!("; cat {} lists the commands", mount_point.join(".stats.d/help").display())
            }
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => "; is it a mounted kvfs?".to_string(),
            nix::errno::Errno::EPERM | nix::errno::Errno::EACCES => {
                "; only root and the owner of the mount may".to_string()
            }
            nix::errno::Errno::EROFS => "; mount without -o ro".to_string(),
            _ => String::new(),
        };
        Failure::new(code::SYSTEM, format!("{}: '{line}': {}{way_out}", path.display(), errno.desc()))
    };
    let file = nix::fcntl::open(&path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    nix::unistd::write(&file, format!("{line}\n").as_bytes()).map_err(failed)?;
    // What has ended may have something to say.
    if line.ends_with("wait")
        && let Ok(commands) = crate::disk::read_outside(&mount_point.join(".stats.d/ctl"))
        && let Ok(commands) = String::from_utf8(commands)
        && let Some((_, text)) = commands.lines().last().and_then(|last| last.split_once(": done: "))
    {
        println!("{text}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(options::help().contains("writeback_cache") && options::help().contains("bloom_bits"));
    }

    #[test]
    fn the_form_of_mount_helpers_is_understood() {
        let cases = [
            ("kvfs /db /mnt -o ro,dev,suid", "kvfs mount /db /mnt -o ro,dev,suid"),
            ("kvfs /db /mnt -s -n -v -o rw", "kvfs mount /db /mnt -s -n -v -o rw"),
            ("kvfs mount /db /mnt -f", "kvfs mount /db /mnt -f"),
            ("kvfs mount /db /mnt -t fuse.kvfs -o ro", "kvfs mount /db /mnt -t fuse.kvfs -o ro"),
            ("kvfs --help", "kvfs --help"),
            ("kvfs check /db", "kvfs check /db"),
            ("/sbin/mount.fuse.kvfs /db /mnt -f -v", "/sbin/mount.fuse.kvfs mount /db /mnt --fake -v"),
        ];
        for (typed, meant) in cases {
            let arguments = normalize(words(typed));
            assert_eq!(arguments, words(meant));
            if !typed.contains("--help") {
                Cli::command().try_get_matches_from(arguments).unwrap_or_else(|e| panic!("{typed}: {e}"));
            }
        }
    }

    #[test]
    fn a_word_that_is_no_command_makes_no_store() {
        assert_eq!(normalize(words("kvfs unmount /mnt")), words("kvfs unmount /mnt"));
        let mistyped = Cli::command().try_get_matches_from(normalize(words("kvfs unmout /mnt"))).unwrap_err();
        assert!(
            mistyped.to_string().contains("'umount'") || mistyped.to_string().contains("'unmount'"),
            "{mistyped}"
        );
    }

    #[test]
    fn failures_have_the_codes_of_mount() {
        assert_eq!(Failure::of(&Error::usage(""), code::MOUNT).code, 1);
        assert_eq!(Failure::of(&Error::refused(""), code::MOUNT).code, 32);
        assert_eq!(Failure::of(&Error::damaged(""), code::SYSTEM).code, 2);
    }
}
