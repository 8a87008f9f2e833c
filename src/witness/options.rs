//! Options of a witness.

use std::path::PathBuf;
use std::time::Duration;

use super::patterns::ENGINES;
use crate::base::text::{Field, When, exact_duration, parse_duration, parse_switch, parse_threads, switch};

/// Options of a witness.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The engine whose built-in patterns are tried; `None` for all of them.
    pub engine: Option<String>,
    /// A file with patterns, instead of those that are built in.
    pub patterns: Option<PathBuf>,
    /// Time that the kernel may remember names and attributes.
    pub timeout: Duration,
    /// Dispatch threads; 0 for two a core, and at least four.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { engine: None, patterns: None, timeout: Duration::from_secs(1), threads: 0 }
    }
}

/// The text form of [`Options`].
pub const FIELDS: &[Field<Options>] = &[
    Field {
        name: "engine",
        when: When::Mount,
        help: "The program behind the files, whose built-in patterns tell classes; all tries those of every program.",
        set: |options, text| {
            options.engine = match text {
                "all" => None,
                name if ENGINES.iter().any(|(known, _)| *known == name) => Some(name.to_string()),
                _ => {
                    let names: Vec<&str> = ENGINES.iter().map(|(name, _)| *name).collect();
                    return Err(
                        format!("knows all, {}; patterns=FILE takes any other", names.join(", ")).into()
                    );
                }
            };
            Ok(())
        },
        get: |options| options.engine.clone().unwrap_or_else(|| "all".to_string()),
    },
    Field {
        name: "patterns",
        when: When::Mount,
        help: "A file of patterns instead of those that are built in; none has none.",
        set: |options, text| {
            options.patterns = (text != "none").then(|| PathBuf::from(text));
            Ok(())
        },
        get: |options| {
            options.patterns.as_ref().map_or("none".to_string(), |path| path.display().to_string())
        },
    },
    Field {
        name: "timeout",
        when: When::Mount,
        help: "How long the kernel may remember names and attributes, a duration; a change made in DIR itself is seen after that.",
        set: |options, text| {
            options.timeout = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.timeout),
    },
    Field {
        name: "threads",
        when: When::Mount,
        help: "Threads that take requests from the kernel; 0 for two a core, and at least four.",
        set: |options, text| {
            options.threads = parse_threads(text)?;
            Ok(())
        },
        get: |options| options.threads.to_string(),
    },
];

/// Options of a mount on the witness below its engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BelowEngine {
    /// Whether the engine's directory is passed through a witness while the store is mounted.
    pub witness: bool,
}

/// The text form of [`BelowEngine`].
pub const BELOW_ENGINE: &[Field<BelowEngine>] = &[Field {
    name: "witness",
    when: When::Mount,
    help: "on: count what an engine of others does to its files, by a witness that the mount starts.",
    set: |options, text| {
        options.witness = parse_switch(text)?;
        Ok(())
    },
    get: |options| switch(options.witness),
}];

impl Options {
    /// Dispatch threads.
    pub fn dispatch_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        if self.threads == 0 { (2 * cores).max(4) } else { self.threads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_print_what_they_read() {
        let options = Options {
            engine: Some("postgresql".to_string()),
            patterns: Some("/etc/patterns".into()),
            timeout: Duration::from_millis(1500),
            threads: 3,
        };
        for original in [options, Options::default()] {
            let mut copy = Options { threads: 9, ..Options::default() };
            for field in FIELDS {
                (field.set)(&mut copy, &(field.get)(&original)).unwrap();
            }
            assert_eq!(copy, original);
        }
        let refused = (FIELDS[0].set)(&mut Options::default(), "oracle").unwrap_err().to_string();
        assert!(refused.contains("postgresql") && refused.contains("patterns=FILE"), "{refused}");
    }
}
