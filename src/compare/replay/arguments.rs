//! The command's arguments, and the designs that they name.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::base::text::BadText;
use crate::engine::{Kind, Options};
use crate::recording::Head;

/// When an operation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// At its time in the recording, but time in which the engine would have had nothing left to do is not waited for: as fast as can be
    /// without taking from merges and checkpoints the time that they had
    SkipIdle,
    /// As soon as the one before it on its thread has ended
    Closed,
    /// At its time in the recording, or late where its thread is behind
    Recorded,
    /// Once no more are under way than were in the recording when it began
    InFlight,
    /// One after the other on a simulated clock that says the recorded time; what a write leaves to do is done before the next one. Bytes
    /// follow from the recording and the options alone, and latencies say nothing
    Simulated,
}

impl Pace {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Pace::SkipIdle => "skip-idle",
            Pace::Closed => "closed",
            Pace::Recorded => "recorded",
            Pace::InFlight => "in-flight",
            Pace::Simulated => "simulated",
        }
    }

    /// The pace in a few words.
    pub fn sentence(self, speed: f64) -> String {
        match self {
            Pace::SkipIdle => {
                "at the recorded clock without the time in which nothing was left to do".to_string()
            }
            Pace::Closed => "in a closed loop: each thread as fast as it goes".to_string(),
            Pace::Recorded if speed == 1.0 => "at the recorded clock".to_string(),
            Pace::Recorded => format!("at the recorded clock, {speed} times as fast"),
            Pace::InFlight => "with as many under way as were when it was recorded".to_string(),
            Pace::Simulated => {
                "on a simulated clock: what a write leaves to do is done before the next".to_string()
            }
        }
    }
}

/// Arguments of `kvfs replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArguments {
    /// A recording, or an image, which is loaded alone
    pub file: PathBuf,
    /// An engine with options behind commas, as in lsm,policy=tiered; once for each design. What it does not say is as it was recorded,
    /// as far as the engine has it [default: the engine that was recorded]
    #[arg(long = "engine", value_name = "ENGINE[,OPTION=VALUE]…")]
    pub engines: Vec<String>,
    /// When an operation begins
    #[arg(long, value_enum, default_value = "skip-idle")]
    pub pace: Pace,
    /// How many times as fast as the recorded clock
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub speed: f64,
    /// Directory to work in, which is made and removed: on the kind of disk that you ask about [default: FILE.replay]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Be the process that measures one engine; used by the program itself
    #[arg(long, hide = true)]
    pub child: bool,
}

impl ReplayArguments {
    /// The directory to work in.
    pub fn directory(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| {
            let mut path = self.file.clone().into_os_string();
            path.push(".replay");
            path.into()
        })
    }
}

/// Text behind the command's help.
pub const HELP: &str = "\
Each design loads what the store held when the recording began, settles, and does what was recorded: writes in their order, gets and scans beside
them on as many threads as there were. Values are made up, of the recorded lengths and about as compressible. Each has a process of its own.

Amplifications have the recording's own bytes below the line (what programs wrote and read), so they compare with `.stats` and with each other. The
first line of the table is what the store that was recorded counted itself.

Examples:
  kvfs record /mnt/kv on /var/tmp/work.rec; …; kvfs record /mnt/kv off
  kvfs replay /var/tmp/work.rec                                     the same engine and options again
  kvfs replay /var/tmp/work.rec --engine lsm,policy=tiered --engine btree --engine btree,page_size=4K
  kvfs replay /var/tmp/work.rec --engine lsm --pace recorded --speed 10
  kvfs replay /var/tmp/store.image --engine lsm --engine btree      load alone: what that costs, and how large it gets

docs/replay.md says what is equal and what is not.";

/// An engine with all its options.
pub struct Design {
    /// As it was asked for.
    pub name: String,
    /// The options.
    pub options: Options,
}

impl Design {
    /// The one that `text` names; what it does not say is as `head` says that it was recorded. The error is a sentence.
    pub fn parse(text: &str, head: &Head) -> Result<Design, BadText> {
        let wrong = |problem: BadText| BadText::from(format!("--engine {text}: {problem}"));
        let mut words = text.split(',');
        let kind = Kind::parse(words.next().unwrap_or_default()).map_err(|problem| {
            wrong(
                format!("{problem}; engines of others are in kvfs-engines, which has the same command")
                    .into(),
            )
        })?;
        let mut options = kind.default_options();
        for (name, value) in head.options.iter().filter(|(name, _)| name != "engine") {
            match options.set(name, value) {
                // Another engine may call something else by the name, or take other values.
                Some(Err(problem)) if kind.name == head.engine => return Err(wrong(problem)),
                _ => {}
            }
        }
        for word in words {
            let (name, value) =
                word.split_once('=').ok_or_else(|| wrong(format!("'{word}' is not OPTION=VALUE").into()))?;
            let set = options.set(name, value);
            set.unwrap_or_else(|| Err(format!("{kind} has no option {name}").into())).map_err(wrong)?;
        }
        options.validate().map_err(wrong)?;
        Ok(Design { name: text.to_string(), options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let options =
            [("engine", "lsm"), ("policy", "tiered"), ("cache", "3M"), ("bloom_bits", "7"), ("atime", "off")];
        Head {
            engine: "lsm".into(),
            options: options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            ..Head::default()
        }
    }

    #[test]
    fn what_is_not_said_is_as_it_was_recorded() {
        let get = |text: &str, name: &str| Design::parse(text, &head()).unwrap().options.get(name);
        assert_eq!(get("lsm", "policy").as_deref(), Some("tiered"));
        assert_eq!(get("lsm,policy=leveled,cache=5M", "policy").as_deref(), Some("leveled"));
        assert_eq!(get("lsm,policy=leveled", "bloom_bits").as_deref(), Some("7"));
        // Memory is what designs have in common.
        assert_eq!((get("btree", "cache").as_deref(), get("btree", "policy")), (Some("3M"), None));
        assert_eq!(get("btree,page_size=16K", "page_size").as_deref(), Some("16K"));
    }

    #[test]
    fn nonsense_is_named() {
        for (text, part) in [
            ("nonsense", "lsm, btree"),
            ("lsm,policy", "not OPTION=VALUE"),
            ("btree,policy=tiered", "no option policy"),
            ("btree,page_size=5000", "page_size"),
            ("", "takes"),
        ] {
            let problem = Design::parse(text, &head()).err().unwrap().to_string();
            assert!(problem.contains(part) && problem.contains(text), "{text}: {problem}");
        }
        let bad = Head { options: vec![("policy".into(), "sideways".into())], ..head() };
        assert!(Design::parse("lsm", &bad).is_err() && Design::parse("btree", &bad).is_ok());
    }
}
