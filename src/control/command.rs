//! The words that are written to `.stats`: one command a line.
//!
//! A whole write is parsed before anything is done, so one unknown word changes nothing. Actions run in the order of
//! their lines; one that waits holds up those behind it, and the answer to the write.

use std::path::PathBuf;

use super::recordings::parse_keeps;
use crate::engine::Command;
use crate::fs::{Error, Result};
use crate::recording::Keeps;

/// Lines that one write may have.
const LINES_MAX: usize = 64;
/// Bytes of a mark's name.
const NAME_BYTES_MAX: usize = 64;

/// The action that a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a command of the engine.
    Run {
        /// Which.
        command: Command,
        /// Whether the answer comes when it has ended, not when it has begun.
        wait: bool,
    },
    /// Make everything so far durable, and answer then.
    Sync,
    /// Remember the counters under a name.
    Mark(String),
    /// Forget them.
    Unmark(String),
    /// Trace what a read of an inode and of one of its blocks asks.
    Explain {
        /// The inode.
        ino: u64,
        /// The block's number in the file.
        block: u64,
    },
    /// Trace one read of the engine in so many; 0 ends it.
    Trace(u64),
    /// Change a setting of the engine.
    Set {
        /// Its name.
        name: String,
        /// Its value, as the option takes it.
        value: String,
    },
    /// Begin a recording.
    Record {
        /// Its file.
        path: PathBuf,
        /// What it keeps beside sizes and order.
        keeps: Keeps,
        /// Whether it is of what the store holds alone, and the answer comes when that is written.
        is_image: bool,
    },
    /// End the recording.
    EndRecording,
    /// Make a second store of what this one holds.
    Fork {
        /// Its directory.
        into: PathBuf,
        /// Whether the answer comes when it is there, not when it has begun.
        wait: bool,
    },
    /// Nothing: the text is in `.stats.d/help`.
    Help,
}

/// Every form of a line, with what it does.
pub const HELP: &[(&str, &str)] = &[
    ("flush [wait]", "lsm: write the memtable to level 0; btree: as checkpoint"),
    ("compact [full] [wait]", "lsm: merge until one sorted run is left; btree: as vacuum"),
    ("compact LEVEL [wait]", "lsm: merge a level, such as 0 or L0, wholly into the next"),
    (
        "vacuum [now|wait]",
        "btree: move what lies last into free space, cut the file; now returns at once, as without; lsm: as compact",
    ),
    ("checkpoint [wait]", "btree: write every dirty page home; lsm: as flush"),
    ("demote [now|wait]", "hybrid: bring all that the tree holds down to the levels, however hot it is"),
    ("hold demote", "hybrid: nothing goes down; once the tree is a quarter over hot, writers wait"),
    ("release demote", "hybrid: what is cold goes down again"),
    (
        "drop-caches",
        "forget the engine's cache of blocks or pages; the kernel's is in /proc/sys/vm/drop_caches",
    ),
    ("sync", "make everything so far durable; the write returns when it is"),
    (
        "fork PATH [wait]",
        "make a second store in PATH, absolute and missing or empty, of what this one holds; see docs/fork.md",
    ),
    ("mark NAME", "remember the counters; .stats.d/since/NAME counts from there"),
    ("unmark NAME", "forget a mark"),
    ("explain INO [BLOCK]", "trace a read of an inode and of one of its blocks, into .stats.d/trace"),
    ("trace on [N]", "note the last 64 reads, or one in N, with every structure asked, in .stats.d/trace"),
    ("trace off", "note no more reads"),
    (
        "record on [keep=KEEP] FILE",
        "write what the store holds, then all that is asked of it, into a new file (an absolute path) for kvfs replay and kvfs advise; KEEP is \
         nothing, names, values or all",
    ),
    ("record off", "end that; the write returns when the file is whole"),
    (
        "image [keep=KEEP] FILE",
        "write what the store holds and nothing else; the write returns when it is written",
    ),
    ("set NAME=VALUE", "change an option of the engine until unmount, such as set rate=20M"),
    ("rate SIZE", "lsm: merges read and write at most so many bytes a second; off: no limit"),
    ("iops N", "lsm: merges make at most so many requests a second; off: no limit"),
    ("auto_flush on|off", "lsm: off flushes memtables only when all memory for them is used, or by command"),
    (
        "auto_compact on|off",
        "lsm: off asks no policy for merges, and lifts the limits of L0 and pending bytes",
    ),
    ("pause", "lsm: merges rest, also those that were asked for"),
    ("resume", "lsm: merges go on"),
    ("help", "nothing; this list is .stats.d/help"),
];

/// Reads what one write holds. `Invalid` for an unknown word, a name that cannot be a file's, or too many lines.
pub fn parse(text: &[u8]) -> Result<Vec<Action>> {
    let text = std::str::from_utf8(text).map_err(|_| Error::Invalid)?;
    let mut actions = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some(rest) = line.trim().strip_prefix("fork ") {
            actions.push(fork(rest)?);
            continue;
        }
        let run = |command, wait| Action::Run { command, wait };
        actions.push(match words[..] {
            [] => continue,
            ["flush"] => run(Command::Flush, false),
            ["flush", "wait"] => run(Command::Flush, true),
            ["compact"] | ["compact", "full"] => run(Command::Compact, false),
            ["compact", "wait"] | ["compact", "full", "wait"] => run(Command::Compact, true),
            ["vacuum"] | ["vacuum", "now"] => run(Command::Compact, false),
            ["vacuum", "wait"] => run(Command::Compact, true),
            ["compact", level] => run(Command::CompactLevel(level_number(level)?), false),
            ["compact", level, "wait"] => run(Command::CompactLevel(level_number(level)?), true),
            ["checkpoint"] => run(Command::Checkpoint, false),
            ["checkpoint", "wait"] => run(Command::Checkpoint, true),
            ["demote"] | ["demote", "now"] => run(Command::Demote, false),
            ["demote", "wait"] => run(Command::Demote, true),
            ["hold", "demote"] => set("demote_held", "on"),
            ["release", "demote"] => set("demote_held", "off"),
            ["drop-caches"] => run(Command::DropCaches, true),
            ["sync"] => Action::Sync,
            ["mark", name] => Action::Mark(mark_name(name)?),
            ["unmark", name] => Action::Unmark(mark_name(name)?),
            ["explain", ino] => Action::Explain { ino: number(ino)?, block: 0 },
            ["explain", ino, block] => Action::Explain { ino: number(ino)?, block: number(block)? },
            ["trace", "off"] => Action::Trace(0),
            ["trace", "on"] => Action::Trace(1),
            ["trace", "on", every] => match number(every)? {
                0 => return Err(Error::Invalid),
                every => Action::Trace(every),
            },
            ["record", "off"] => Action::EndRecording,
            ["record", "on", ..] => record(line, "on", false)?,
            ["image", ..] => record(line, "image", true)?,
            ["set", setting] => {
                let (name, value) = setting.split_once('=').ok_or(Error::Invalid)?;
                set(name, value)
            }
            [name @ ("rate" | "iops"), "off"] => set(name, "0"),
            [name @ ("rate" | "iops"), value] => set(name, value),
            [name @ ("auto_flush" | "auto_compact"), value @ ("on" | "off")] => set(name, value),
            ["pause"] => set("paused", "on"),
            ["resume"] => set("paused", "off"),
            ["help"] => Action::Help,
            _ => return Err(Error::Invalid),
        });
    }
    if actions.len() > LINES_MAX { Err(Error::Invalid) } else { Ok(actions) }
}

/// A path may have blanks in it.
fn fork(rest: &str) -> Result<Action> {
    let (path, wait) = match rest.trim().strip_suffix(" wait") {
        Some(path) => (path, true),
        None => (rest, false),
    };
    match path.trim() {
        "" | "wait" => Err(Error::Invalid),
        path => Ok(Action::Fork { into: PathBuf::from(path), wait }),
    }
}

fn set(name: &str, value: &str) -> Action {
    Action::Set { name: name.to_string(), value: value.to_string() }
}

/// A recording, by the words behind `word`: what it keeps, if that is said, and a path, which is all of the rest and may have blanks in it.
fn record(line: &str, word: &str, is_image: bool) -> Result<Action> {
    let (_, rest) = line.split_once(word).ok_or(Error::Invalid)?;
    let rest = rest.trim();
    let (keeps, path) = match rest.strip_prefix("keep=") {
        Some(rest) => {
            let (keeps, path) = rest.split_once(char::is_whitespace).ok_or(Error::Invalid)?;
            (parse_keeps(keeps).map_err(|_| Error::Invalid)?, path.trim())
        }
        None => (Keeps::default(), rest),
    };
    if !path.starts_with('/') {
        return Err(Error::Invalid);
    }
    Ok(Action::Record { path: PathBuf::from(path), keeps, is_image })
}

/// `2` or `L2`.
fn level_number(word: &str) -> Result<usize> {
    word.strip_prefix('L').unwrap_or(word).parse().map_err(|_| Error::Invalid)
}

fn number(word: &str) -> Result<u64> {
    word.parse().map_err(|_| Error::Invalid)
}

/// A name that can be a file of `since/`, and is not that of another mark's JSON.
pub(super) fn mark_name(name: &str) -> Result<String> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let fits = name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && !name.ends_with(".json");
    if plain && fits { Ok(name.to_string()) } else { Err(Error::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_that_shells_write_is_understood() {
        let flush = Action::Run { command: Command::Flush, wait: false };
        let compact = Action::Run { command: Command::Compact, wait: true };
        for text in ["flush", "flush\n", "  flush \t\r\n", "\nflush\n\n"] {
            assert_eq!(parse(text.as_bytes()).unwrap(), std::slice::from_ref(&flush), "{text:?}");
        }
        let lines = parse(b"flush\ncompact wait\nmark run-1.b\nsync").unwrap();
        assert_eq!(lines, [flush, compact, Action::Mark("run-1.b".into()), Action::Sync]);
        assert_eq!(parse(b"set rate=2M\nrate 2M").unwrap(), [set("rate", "2M"), set("rate", "2M")]);
        assert_eq!(parse(b"iops off").unwrap(), [set("iops", "0")]);
        assert_eq!(parse(b"vacuum\nvacuum now").unwrap(), parse(b"compact\ncompact").unwrap());
        assert_eq!(parse(b"vacuum wait").unwrap(), parse(b"compact wait").unwrap());
        assert_eq!(
            parse(b"hold demote\nrelease demote").unwrap(),
            parse(b"set demote_held=on\nset demote_held=off").unwrap()
        );
        assert_eq!(parse(b"demote now").unwrap(), [Action::Run { command: Command::Demote, wait: false }]);
        let record = |path: &str, names, is_image| Action::Record {
            path: path.into(),
            keeps: Keeps { names, values: false },
            is_image,
        };
        assert_eq!(parse(b"record on /a/b").unwrap(), [record("/a/b", false, false)]);
        assert_eq!(parse(b" record  on keep=names  /on on/b \n").unwrap(), [record("/on on/b", true, false)]);
        assert_eq!(
            parse(b"image /i\nrecord off").unwrap(),
            [record("/i", false, true), Action::EndRecording]
        );
        let fork = |into: &str, wait| vec![Action::Fork { into: into.into(), wait }];
        assert_eq!(parse(b"fork /a/b").unwrap(), fork("/a/b", false));
        assert_eq!(parse(b" fork  /a b/c wait \n").unwrap(), fork("/a b/c", true));
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"\n").unwrap(), []);
    }

    #[test]
    fn what_is_not_a_command_is_invalid() {
        let long = format!("mark {}", "x".repeat(65));
        let many = "help\n".repeat(65);
        let texts = [
            "flsh",
            "flush now",
            "flush wait wait",
            "compact L",
            "compact -1",
            "compact 1 2",
            "vacuum 1",
            "vacuum now wait",
            "sync wait",
            "mark",
            "mark a b",
            "mark a/b",
            "mark ..",
            "fork",
            "fork wait",
        ];
        let more = [
            "mark a.json",
            "unmark",
            "record",
            "record on",
            "record on relative",
            "record on keep=some /a",
            "record on keep=all",
            "image",
            "trace",
            "trace on 0",
            "mark \u{e4}",
            "flush\nnonsense\n",
            "FLUSH",
            &long,
            &many,
            "flush\0",
        ];
        for text in texts.into_iter().chain(more) {
            assert!(matches!(parse(text.as_bytes()), Err(Error::Invalid)), "{text:?}");
        }
        assert!(matches!(parse(b"\xff\xfe"), Err(Error::Invalid)));
    }

    #[test]
    fn the_help_lists_every_command_and_nothing_else() {
        for (form, _) in HELP {
            let line = form
                .replace("[full]", "full")
                .replace("[wait]", "wait")
                .replace("LEVEL", "L1")
                .replace("[keep=KEEP] FILE", "keep=all /file")
                .replace("NAME=VALUE", "a=1")
                .replace("NAME", "a")
                .replace("SIZE", "20M")
                .replace("PATH", "/a")
                .replace("on|off", "off")
                .replace("[now|wait]", "now")
                .replace("INO [BLOCK]", "7 0")
                .replace("[N]", "10");
            parse(line.as_bytes()).unwrap_or_else(|_| panic!("{form}"));
        }
    }
}
