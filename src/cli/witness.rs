//! `kvfs witness`: a directory passed through to another place, so that what a program does to its files is counted.

use std::path::PathBuf;

use clap::Args;

use super::mount::Manner;
use super::options::{MountOptions, split};
use super::{Failure, absolute, code};
use crate::base::text::{self, BadText};
use crate::fuse::session::MountFlags;
use crate::fuse::table;
use crate::mount::{self, WitnessRequest};
use crate::witness::{ENGINES, FIELDS, Options};

#[derive(Debug, Args)]
pub struct WitnessArgs {
    /// Directory whose files are to be watched
    dir: PathBuf,
    /// Mount point, an existing directory; DIR itself is one
    mount_point: PathBuf,
    /// Options, separated by commas; \, is a comma in a value
    #[arg(short, value_name = "OPTION[=VALUE],…")]
    options: Vec<String>,
    /// Stay in the foreground
    #[arg(short)]
    foreground: bool,
    /// Stay in the foreground and log everything
    #[arg(short)]
    debug: bool,
    /// Say more
    #[arg(short)]
    verbose: bool,
    /// End when standard input does, and at no signal: the mount is for whoever holds the other end, and goes with it
    #[arg(long, hide = true, requires = "foreground")]
    until_input_ends: bool,
}

/// The options behind `-o`.
#[derive(Debug, Default, PartialEq)]
struct Given {
    options: Options,
    flags: MountFlags,
    read_only: bool,
}

impl Given {
    fn parse(lists: &[String]) -> Result<Given, BadText> {
        let mut given = Given::default();
        let mut of_every_mount = MountOptions::default();
        for option in lists.iter().flat_map(|list| split(list)) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            if let Some(set) = value.and_then(|value| text::set(FIELDS, &mut given.options, name, value)) {
                set?;
            } else if !of_every_mount.flag(name, value)? {
                return Err(format!("unknown option {name}; kvfs witness --help lists all").into());
            }
        }
        for (name, value) in of_every_mount.given {
            match (name.as_str(), value.as_str()) {
                ("read_only", value) => given.read_only = value == "on",
                _ => {
                    return Err(format!(
                        "option {name}={value} is for a store: what a witness passes on is as DIR's own filesystem has it"
                    )
                    .into());
                }
            }
        }
        if given.options.engine.is_some() && given.options.patterns.is_some() {
            return Err("engine= and patterns= both say how classes are told: give one of them".into());
        }
        given.flags = of_every_mount.flags;
        Ok(given)
    }
}

/// Passes a directory through, and returns when the mount answers; in the foreground, when it has ended.
pub fn run(arguments: &WitnessArgs) -> Result<(), Failure> {
    let usage = |text: String| Failure::new(code::USAGE, text);
    let given = Given::parse(&arguments.options).map_err(|bad| usage(bad.into()))?;
    // What is wrong with the patterns is said before anything starts.
    mount::patterns(&given.options).map_err(|error| Failure::of(&error, code::USAGE))?;
    let place = |what: &str, path: &PathBuf| {
        let resolved = table::resolve(path);
        resolved.map_err(|error| usage(format!("{what} {}: {error}", path.display())))
    };
    let directory = place("directory", &arguments.dir)?;
    let mount_point = place("mount point", &arguments.mount_point)?;
    let (shown, at) = (directory.display(), mount_point.display());
    let is_covered = table::mounted_at(&mount_point)
        .map_err(|error| Failure::new(code::MOUNT, format!("{at}: {error}")))?
        .is_some_and(|mount| mount.is_fuse());
    if !is_covered {
        for (what, path) in [("directory", &directory), ("mount point", &mount_point)] {
            if !path.is_dir() {
                return Err(usage(format!("{what} {} is a file; it takes a directory", path.display())));
            }
        }
    }
    if directory != mount_point {
        if mount_point.starts_with(&directory) {
            let text = "a program that walks through it would never come to an end";
            return Err(usage(format!("the mount point {at} lies in the directory {shown}: {text}")));
        }
        if directory.starts_with(&mount_point) {
            return Err(usage(format!("the directory {shown} would be hidden below the mount point {at}")));
        }
    }
    let patterns = match &given.options.patterns {
        // The process in the background is in another working directory.
        Some(path) => Some(absolute(path)?),
        None => None,
    };
    let options = Options { patterns, ..given.options.clone() };
    let request = WitnessRequest {
        directory: &directory,
        mount_point: &mount_point,
        options: &options,
        read_only: given.read_only,
        flags: &given.flags,
        until_input_ends: arguments.until_input_ends,
    };
    let manner = Manner {
        foreground: arguments.foreground,
        debug: arguments.debug,
        says_so: arguments.verbose.then_some(true),
    };
    let done = format!("{shown} is passed through at {at}: cat {at}/.stats");
    // Nothing of ours is written into a directory of others, so in the background there is no log.
    manner.run(&done, |reports| {
        mount::serve_witness(&request, || reports.opened(|| Ok(None)), || reports.ready())
    })
}

/// What `--help` says behind the arguments.
pub fn help() -> String {
    let mut text = String::from(
        "What a program does to the files in DIR is done through MNT, and counted on the way: bytes,\n\
         requests and syncs by class of file (log, table, manifest, data, temporary, other). The files\n\
         stay where they are, and are the same with and without it.\n\n\
         \x20 kvfs witness /var/lib/app /mnt/app -o engine=rocksdb   let the program use /mnt/app\n\
         \x20 kvfs witness /var/lib/app /var/lib/app                 over itself: its path stays\n\
         \x20 cat /mnt/app/.stats                                    what was written, read, synced\n\
         \x20 kvfs ctl /mnt/app mark run1; COMMAND; kvfs stats /mnt/app --since run1\n\
         \x20 kvfs ctl /mnt/app user-bytes 128M                      what the program was asked to write:\n\
         \x20                                                        gives write amplification\n\
         \x20 kvfs assert /mnt/app 'amplification.write < 10'        exit code 1 if it does not hold\n\
         \x20 cat /mnt/app/.stats.d/prom                             for Prometheus\n\
         \x20 kvfs umount /mnt/app\n\n\
         What is counted is what reaches the filesystem of DIR: reads from the page cache do not, pages\n\
         that a program changes through a mapping do when the kernel writes them back. Use DIR through\n\
         MNT alone while it is mounted.\n\n\
         A pattern file has a class and a glob a line, and the first that fits decides; a glob with\n\
         slashes is held to as many last names of the path:\n\
         \x20 log   wal/*.wal\n\
         \x20 data  *.pages\n\n\
         Options:\n",
    );
    let defaults = Options::default();
    for field in FIELDS {
        text.push_str(&format!("  {:<10} {} Default {}.\n", field.name, field.help, (field.get)(&defaults)));
    }
    let names: Vec<&str> = ENGINES.iter().map(|(name, _)| *name).collect();
    text.push_str(&format!(
        "\nengine= takes all or one of {}.\n\
         Options of every filesystem: ro rw nodev nosuid noexec nosymfollow context=LABEL allow_other\n\
         max_read=SIZE fsname=NAME subtype=NAME.\n\
         Exit codes: 0 done; 1 wrong use or not allowed; 2 the system refuses; 32 not mounted.",
        names.join(", ")
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Given, BadText> {
        Given::parse(&[text.to_string()])
    }

    #[test]
    fn options_of_a_witness_and_of_every_mount_are_taken_and_others_named() {
        let given = parse("engine=rocksdb,threads=3,ro,allow_other,nosuid").unwrap();
        assert_eq!(given.options.engine.as_deref(), Some("rocksdb"));
        assert_eq!(given.options.threads, 3);
        assert!(given.read_only && given.flags.allow_other && given.flags.nosuid);
        for (text, words) in [
            ("colour=red", "unknown option colour"),
            ("engine=oracle", "option engine=oracle: knows all, rocksdb"),
            ("engine", "unknown option engine"),
            ("noatime", "option atime=noatime is for a store"),
            ("engine=lmdb,patterns=/x", "give one of them"),
        ] {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    #[test]
    fn the_help_names_every_option_and_keeps_to_a_line() {
        let help = help();
        for field in FIELDS {
            assert!(help.contains(&format!("\n  {}", field.name)), "{}", field.name);
        }
        // Options are wrapped by whoever prints them.
        let before = help.split("Options:").next().unwrap_or_default();
        assert!(before.lines().all(|line| line.chars().count() < 100), "{before}");
    }
}
