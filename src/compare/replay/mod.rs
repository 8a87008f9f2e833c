//! A recording done again on other engines and options, without a mount and without the programs that did it (`kvfs replay`).
//!
//! [`arguments`] says which designs, [`mod@play`] does it: what [`script`] makes of the recording, with values of [`content`], kept in step by
//! [`flow`]. [`mod@outcome`] is what comes of it. Each design has a process of its own ([`super::child`]), and one after the other all begin in the
//! same directory, with nothing in it.
//!
//! # What is equal, and what is not
//!
//! Keys, lengths, order and atomicity of writes are those of the recording, and how values compress is about the same. Below the line of
//! amplifications are the recording's own bytes. A store that is loaded in the order of keys is not as it was after months: its tables or
//! pages are full and in order; and its caches are cold but for what the load left there. `docs/replay.md` says what follows.

pub mod arguments;
mod content;
mod flow;
mod latencies;
mod outcome;
mod play;
mod script;

use std::path::Path;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::child::{self, Handle};
use super::stretch::{self, Stretch, Tally};
use super::subject::{Pace as Drive, Place, Subject};
use super::{Error, print};
use crate::disk;
use crate::engine::KeyKind;
use crate::recording::{self, Recording};
use arguments::Design;
pub use arguments::{HELP, Pace, ReplayArguments};
use content::Contents;
use outcome::{Loaded, Passed, outcome, recorded, tables};
use play::{Manner, Played, failed, load, play};

/// The directory of the store below the one to work in.
const STORE: &str = "kvfs-replay.tmp";

/// Tells the kind of a key.
pub type KindOf = fn(&[u8]) -> KeyKind;

/// Runs `kvfs replay`: measures, and prints to standard output. `kind_of` tells the kinds of the keys of a recording whose keys are `kvfs`.
pub fn main(arguments: &ReplayArguments, kind_of: KindOf) -> Result<(), Error> {
    let recording = open(&arguments.file)?;
    let designs = designs(arguments, &recording)?;
    let manner = manner(arguments)?;
    if arguments.child {
        return be_child(arguments, &recording, &designs, manner, kind_of);
    }
    let dir = arguments.directory();
    let is_made = nix::sys::stat::lstat(&dir).is_err();
    let measured = measure_all(arguments, &recording, &designs, &dir);
    if is_made {
        disk::remove_tree(&dir).map_err(|error| Error::io(dir.display(), error))?;
    }
    report(arguments, &recording, &measured?)
}

fn open(file: &Path) -> Result<Recording, Error> {
    Recording::open(file).map_err(|error| match error {
        recording::Error::Unreadable(text) => Error::usage(text),
        other => failed(other),
    })
}

fn designs(arguments: &ReplayArguments, recording: &Recording) -> Result<Vec<Design>, Error> {
    let head = recording.head();
    let default = [if head.engine.is_empty() { "lsm".to_string() } else { head.engine.clone() }];
    let given = if arguments.engines.is_empty() { &default[..] } else { &arguments.engines[..] };
    Ok(given.iter().map(|text| Design::parse(text, head)).collect::<Result<Vec<Design>, _>>()?)
}

fn manner(arguments: &ReplayArguments) -> Result<Manner, Error> {
    let speed = arguments.speed;
    if !(speed.is_finite() && speed > 0.0) {
        return Err(Error::usage(format!("--speed {speed}: a number above 0")));
    }
    if speed != 1.0 && arguments.pace != Pace::Recorded {
        return Err(Error::usage(format!("--speed {speed} has a meaning with --pace recorded alone")));
    }
    Ok(Manner { pace: arguments.pace, speed })
}

/// Has each design measured by a process of its own.
fn measure_all(
    arguments: &ReplayArguments,
    recording: &Recording,
    designs: &[Design],
    dir: &Path,
) -> Result<Vec<Value>, Error> {
    let file = recording.name().to_string();
    let mut measured = Vec::new();
    for design in designs {
        // What the one before left dirty is not this one's to write.
        nix::unistd::sync();
        let words = [&file, "--engine", &design.name, "--pace", arguments.pace.name(), "--speed"];
        let words: Vec<String> =
            words.iter().map(|word| word.to_string()).chain([arguments.speed.to_string()]).collect();
        let mut child = Handle::start(&design.name, "replay", dir, &words)?;
        let answer = child.run("replay")?;
        child.finish()?;
        let answer = answer.first().and_then(|line| serde_json::from_str(line).ok());
        measured.push(
            answer
                .ok_or_else(|| Error::Failed(format!("measuring {}: its answer is no JSON", design.name)))?,
        );
    }
    Ok(measured)
}

/// Is the process that measures one design.
fn be_child(
    arguments: &ReplayArguments,
    recording: &Recording,
    designs: &[Design],
    manner: Manner,
    kind_of: KindOf,
) -> Result<(), Error> {
    let [design] = designs else { return Err(Error::usage("one process measures one design")) };
    let store = arguments.directory().join(STORE);
    child::serve(std::io::stdin().lock(), std::io::stdout().lock(), |_| {
        let removed = || disk::remove_tree(&store).map_err(|error| Error::io(store.display(), error));
        removed()?;
        let value = measure(recording, design, &store, manner, kind_of)?;
        removed()?;
        Ok(vec![value.to_string()])
    })
}

/// Loads and replays on a new store in the directory `store`.
fn measure(
    recording: &Recording,
    design: &Design,
    store: &Path,
    manner: Manner,
    kind_of: KindOf,
) -> Result<Value, Error> {
    let kind_of = if recording.head().keys == "kvfs" { kind_of } else { |_: &[u8]| 0 };
    let left = recording.meters().map_or(&[][..], |meters| &meters.incompressible);
    let contents = Contents::new(kind_of, left);
    let options = &design.options;
    let place = Place::below(store, options.kind(), true)?;
    let drive = if manner.pace == Pace::Simulated { Drive::Simulated } else { Drive::Live };
    let subject = Subject::open(place, options, drive)?.without_ticks();
    let (before, begun) = (subject.counts()?, Instant::now());
    let bytes = load(recording, &subject, &contents, &design.name)?;
    let idle = subject.settle()?;
    let loaded = Loaded {
        bytes,
        passed: Passed::of(&subject.counts()?.since(&before)),
        took: begun.elapsed().saturating_sub(idle),
        occupied_bytes: subject.occupied()?.bytes,
    };
    let played = Mutex::new(Played::default());
    let how = Stretch { grows: true, ..Stretch::WRITES };
    let measured = stretch::measure(&subject, how, |_, _| {
        *played.lock() = play(recording, &subject, &contents, manner, &design.name)?;
        Ok(Tally::default())
    })?;
    let value =
        outcome(&design.name, recording, &loaded, &measured, &played.into_inner(), subject.is_simulated());
    subject.close()?;
    Ok(value)
}

fn report(arguments: &ReplayArguments, recording: &Recording, engines: &[Value]) -> Result<(), Error> {
    let latency = engines.first().map_or(Value::Null, |engine| engine["recorded_latency"].clone());
    let recorded = recorded(recording, &latency);
    if arguments.json {
        let engines: Vec<Value> = engines
            .iter()
            .map(|engine| {
                let mut engine = engine.clone();
                // It is of the recording, and stands there.
                engine.as_object_mut().map(|members| members.remove("recorded_latency"));
                engine
            })
            .collect();
        let value = json!({
            "schema": "kvfs.replay/1",
            "file": recording.name(),
            "pace": arguments.pace.name(),
            "speed": arguments.speed,
            "recorded": recorded,
            "engines": engines,
        });
        return print(&format!("{value:#}\n"));
    }
    let sum = |name: &str| engines.first().and_then(|engine| engine[name].as_u64()).unwrap_or(0);
    let mut head = format!("{}: ", recording.name());
    head += &match recorded["events"].as_u64().unwrap_or(0) {
        0 => "an image, loaded\n\n".to_string(),
        _ => format!(
            "{} operations of {} threads, {}\n\n",
            sum("operations"),
            sum("threads"),
            arguments.pace.sentence(arguments.speed)
        ),
    };
    let mut text = head + &tables(&recorded, engines);
    if recording.image_end().is_none() {
        text += "\nthe recording ended before its image was whole: amplifications are those of a store that is too small\n";
    }
    match sum("missing") {
        0 => {}
        missing => {
            text += &format!("\n{missing} events are missing: they came faster than they could be recorded\n")
        }
    }
    if arguments.pace == Pace::Recorded {
        for engine in engines {
            let late = engine["late_seconds_max"].as_f64().unwrap_or(0.0);
            text += &format!(
                "{}: at most {late:.3} s behind the recorded clock\n",
                engine["engine"].as_str().unwrap_or("-")
            );
        }
    }
    print(&text)
}
