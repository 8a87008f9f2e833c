//! `kvfs record` and `kvfs image`: what a mount is asked, and what a store holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::{Failure, absolute, code, control, print, report};
use crate::base::text::human_size;
use crate::recording::Keeps;

/// The longest time between two looks at an image that is being written.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `kvfs record`.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Mount point
    mount_point: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Begin: first what the store holds, then all that is asked of it. Returns when the first is written
    On {
        /// A new file, outside of the mount
        file: PathBuf,
        /// What is kept beside sizes and order
        #[arg(long, value_enum, default_value = "nothing")]
        keep: Keep,
    },
    /// End, and wait until the file is whole
    Off,
}

pub(super) const RECORD_HELP: &str = "\
A recording holds the sizes and the order of keys, and every batch, get, scan and sync with its file operation, time and thread. Names in it are
replaced by random bytes of the same length in the same order, and contents by their lengths, unless --keep says otherwise. A recording that
could not keep up leaves events out and counts them; one that the end of the daemon cut off is good up to its last half second.

  kvfs record /mnt/kv on /var/tmp/work.rec
  ... the work ...
  kvfs record /mnt/kv off
  kvfs recording /var/tmp/work.rec
  kvfs replay /var/tmp/work.rec --engine lsm,policy=tiered --engine btree
  kvfs advise /var/tmp/work.rec

The option record=FILE of kvfs mount begins one with the mount.";

/// What a recording keeps beside sizes and order.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Keep {
    /// Nothing.
    Nothing,
    /// Names of files and attributes.
    Names,
    /// Contents.
    Values,
    /// Both.
    All,
}

impl Keep {
    fn word(self) -> &'static str {
        match self {
            Keep::Nothing => "nothing",
            Keep::Names => "names",
            Keep::Values => "values",
            Keep::All => "all",
        }
    }

    fn keeps(self) -> Keeps {
        Keeps {
            names: matches!(self, Keep::Names | Keep::All),
            values: matches!(self, Keep::Values | Keep::All),
        }
    }
}

/// Arguments of `kvfs image`.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Mount point, or the directory of a store that is not mounted
    store: PathBuf,
    /// A new file, outside of both
    file: PathBuf,
    /// What is kept beside sizes and order
    #[arg(long, value_enum, default_value = "nothing")]
    keep: Keep,
}

pub(super) const IMAGE_HELP: &str = "\
An image has the sizes, kinds and order of a store's keys and values and nothing that is in them, unless --keep says otherwise. It is a recording
in which nothing happens: 'kvfs replay IMAGE' loads it into any engine and says what that costs and how large it gets.";

/// `kvfs record`.
pub(super) fn record(arguments: &RecordArgs) -> Result<(), Failure> {
    let mount_point = &arguments.mount_point;
    match &arguments.what {
        What::On { file, keep } => {
            control(mount_point, &format!("record on keep={} {}", keep.word(), place(file)?.display()))?;
            loop {
                let now = &report(mount_point, ".stats.d/json")?["recording"];
                match now["state"].as_str() {
                    Some("image") => std::thread::sleep(LOOK),
                    Some("events" | "ended") => {
                        let (entries, bytes) = (number(now, "image_entries"), number(now, "bytes"));
                        let begun = format!(
                            "recording into {}: {entries} entries of the store in {}, and from now on what is asked of it\n",
                            file.display(),
                            human_size(bytes)
                        );
                        return print(begun.as_bytes());
                    }
                    _ => {
                        let cause = now["cause"].as_str().unwrap_or("it has ended");
                        return Err(Failure::new(code::SYSTEM, format!("{}: {cause}", file.display())));
                    }
                }
            }
        }
        What::Off => {
            control(mount_point, "record off")?;
            let now = &report(mount_point, ".stats.d/json")?["recording"];
            let dropped = match number(now, "dropped") {
                0 => String::new(),
                dropped => format!("; {dropped} more came faster than they could be written and are missing"),
            };
            let text = format!(
                "{}: {} events behind {} entries in {}{dropped}\n",
                now["path"].as_str().unwrap_or_default(),
                number(now, "events"),
                number(now, "image_entries"),
                human_size(number(now, "bytes")),
            );
            print(text.as_bytes())
        }
    }
}

fn number(section: &Value, name: &str) -> u64 {
    section[name].as_u64().unwrap_or_default()
}

/// A new file's absolute path; its directory must be there.
pub(super) fn place(file: &Path) -> Result<PathBuf, Failure> {
    crate::disk::resolve_outside(file)
        .map_err(|error| Failure::new(code::USAGE, format!("{}: {error}", file.display())))
}

/// `kvfs image`.
pub(super) fn image(arguments: &ImageArgs) -> Result<(), Failure> {
    let ImageArgs { store, file, keep } = arguments;
    let file = place(file)?;
    let (entries, bytes) = if report(store, ".stats.d/json").is_ok() {
        control(store, &format!("image keep={} {}", keep.word(), file.display()))?;
        let now = &report(store, ".stats.d/json")?["recording"];
        (number(now, "image_entries"), number(now, "bytes"))
    } else {
        let status = crate::mount::image(&absolute(store)?, &file, keep.keeps())
            .map_err(|error| Failure::of(&error, code::SYSTEM))?;
        (status.image_entries, status.bytes)
    };
    print(format!("{}: {entries} entries in {}\n", file.display(), human_size(bytes)).as_bytes())
}
