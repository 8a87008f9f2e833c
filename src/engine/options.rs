//! Options of the engines: those that all have in common, and the door behind which each engine keeps its own.
//!
//! An engine's options are a type of its own ([`OwnOptions`]) with a table of their text form; [`Options`] holds those of the engine
//! that was chosen, whichever that is. An option that an engine declares under the name of a common one replaces it there, so
//! `memory` is divided as each engine sees fit.

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Error;
use super::registry::Kind;
use crate::base::text::{
    self, BadText, Field, When, bounded_size, exact_duration, exact_size, parse_duration, size,
};

/// When batches become durable without being asked. An fsync is honoured in every mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Only when asked.
    Fsync,
    /// When asked, and whatever is older than this.
    Interval(Duration),
    /// Every operation, before it is answered.
    Always,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sync::Fsync => f.write_str("fsync"),
            Sync::Interval(every) => write!(f, "interval:{}", exact_duration(*every)),
            Sync::Always => f.write_str("always"),
        }
    }
}

impl FromStr for Sync {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Sync, BadText> {
        match text.split_once(':') {
            None if text == "fsync" => Ok(Sync::Fsync),
            None if text == "always" => Ok(Sync::Always),
            Some(("interval", every)) => match parse_duration(every)? {
                Duration::ZERO => Err("an interval is at least 1ms".into()),
                every => Ok(Sync::Interval(every)),
            },
            _ => Err("takes fsync, interval:DURATION or always".into()),
        }
    }
}

/// Options that every engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// When batches become durable unasked. `always` is honoured by the filesystem room.
    pub sync: Sync,
    /// Bytes that buffers of changes, the cache, and what is kept for finding things take together at most; 0 for the sum of their own
    /// limits.
    pub memory_bytes: u64,
    /// Bytes of blocks or pages kept in memory; for the LSM, indexes and filters of open tables among them.
    pub cache_bytes: u64,
    /// Bytes of one log segment; a longer record gets a longer segment.
    pub log_segment_bytes: u64,
    /// Free space that new data leaves alone, at least; 1 % of the disk if that is more.
    pub reserve_bytes: u64,
}

impl Default for Common {
    fn default() -> Common {
        Common {
            sync: Sync::Interval(Duration::from_secs(1)),
            memory_bytes: 0,
            cache_bytes: 256 << 20,
            log_segment_bytes: 16 << 20,
            reserve_bytes: 64 << 20,
        }
    }
}

impl Common {
    /// A few hundred bytes everywhere, so that a short test reaches every code path.
    pub fn tiny() -> Common {
        Common {
            cache_bytes: 8 << 10,
            log_segment_bytes: 4 << 10,
            reserve_bytes: 16 << 10,
            ..Common::default()
        }
    }

    /// Most memory of everything together where `buffers_bytes` is the limit of the buffers of changes.
    pub fn memory_bytes_max(&self, buffers_bytes: u64) -> u64 {
        if self.memory_bytes > 0 { self.memory_bytes } else { self.cache_bytes.saturating_add(buffers_bytes) }
    }

    /// The sentence to show if they contradict each other or the limit of the `buffers` of changes.
    pub fn validate(&self, buffers_bytes: u64, buffers: &str) -> Result<(), BadText> {
        if self.memory_bytes > 0 && self.memory_bytes <= buffers_bytes {
            return Err(format!("memory={} leaves nothing beside {buffers}", self.memory_bytes).into());
        }
        Ok(())
    }
}

/// Does what a preset says of the options of every engine; one that says nothing of them is none the less known.
pub fn set_preset(options: &mut Common, name: &str) -> Result<(), BadText> {
    match name {
        "none" | "tiny" => {}
        "s2" => options.sync = Sync::Always,
        _ => return Err("takes none, s2 or tiny".into()),
    }
    Ok(())
}

/// Effect of the option `preset`, on any engine.
pub const PRESET_HELP: &str = "Several options at once; those given behind it count more. s2: sync=always, and iops=1000,rate=100M for \
                               the LSM-tree. tiny (LSM-tree): memtables of eight entries and small levels, to watch single flushes and merges.";
/// Effect of the option `memory`, on any engine.
pub const MEMORY_HELP: &str = "Bytes that the engine holds in memory at most: half memtables, or a quarter dirty pages, the rest cache; \
                               tables and levels follow the memtables. Options behind it divide it in another way; the cache gives way. 0 for \
                               their sum.";

/// The text form of [`Common`].
pub const COMMON_FIELDS: &[Field<Common>] = &[
    Field {
        name: "preset",
        when: When::Mount,
        help: PRESET_HELP,
        set: |options, text| set_preset(options, text),
        get: |_| "none".to_string(),
    },
    Field {
        name: "sync",
        when: When::Mount,
        help: "When changes become durable unasked: fsync (never), interval:DURATION, always.",
        set: |options, text| {
            options.sync = text.parse()?;
            Ok(())
        },
        get: |options| options.sync.to_string(),
    },
    Field {
        name: "memory",
        when: When::Mount,
        help: MEMORY_HELP,
        set: |options, text| {
            options.memory_bytes = bounded_size(text)?;
            Ok(())
        },
        get: |options| exact_size(options.memory_bytes),
    },
    size!("cache", Mount, cache_bytes, "Bytes of blocks or pages kept in memory."),
    size!("log_segment", Mount, log_segment_bytes, "Bytes of one log segment."),
    size!(
        "reserve",
        Mount,
        reserve_bytes,
        "Free space that new data leaves alone; 1 % of the disk if that is more."
    ),
];

/// The options of one engine.
pub trait OwnOptions: Clone + Default + fmt::Debug + PartialEq + Send + std::marker::Sync + 'static {
    /// The text form of its own options, the common ones only where they mean more here.
    const FIELDS: &'static [Field<Self>];

    /// A few hundred bytes everywhere, so that a short test reaches every code path.
    fn tiny() -> Self {
        Self::default()
    }

    /// Those that every engine has.
    fn common(&self) -> &Common;

    /// The same, to be changed.
    fn common_mut(&mut self) -> &mut Common;

    /// Divides `memory_bytes` as a comparison of engines asks of each: half for what is not written yet, half for the cache; tables, levels and
    /// logs keep the proportions that the defaults have to them.
    fn divide(&mut self, memory_bytes: u64) {
        let common = self.common_mut();
        common.cache_bytes = memory_bytes / 2;
        common.log_segment_bytes = memory_bytes / 4;
    }

    /// The sentence to show if they contradict each other.
    fn validate(&self) -> Result<(), BadText>;
}

/// An engine without any of its own.
impl OwnOptions for Common {
    const FIELDS: &'static [Field<Common>] = &[];

    fn common(&self) -> &Common {
        self
    }

    fn common_mut(&mut self) -> &mut Common {
        self
    }

    fn validate(&self) -> Result<(), BadText> {
        Ok(())
    }
}

/// An option as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key, as in `-o key=value`.
    pub name: &'static str,
    /// When it may be given.
    pub when: When,
    /// One sentence.
    pub help: String,
    /// Its value as text.
    pub value: String,
    /// The engine that alone has it; `None` if every store has it.
    pub owner: Option<Kind>,
}

impl Setting {
    /// Those of a room, as `options` have them.
    pub fn list<T>(fields: &'static [Field<T>], options: &T) -> Vec<Setting> {
        let setting = |field: &Field<T>| Setting {
            name: field.name,
            when: field.when,
            help: field.help.to_string(),
            value: (field.get)(options),
            owner: None,
        };
        fields.iter().map(setting).collect()
    }
}

/// [`OwnOptions`] of whichever engine.
trait AnyOptions: Any + fmt::Debug + Send + std::marker::Sync {
    fn as_any(&self) -> &dyn Any;
    fn copy(&self) -> Box<dyn AnyOptions>;
    fn is_equal(&self, other: &dyn AnyOptions) -> bool;
    fn list(&self) -> Vec<Setting>;
    fn set(&mut self, name: &str, value: &str) -> Option<Result<(), BadText>>;
    fn common(&self) -> &Common;
    fn common_mut(&mut self) -> &mut Common;
    fn divide(&mut self, memory_bytes: u64);
    fn validate(&self) -> Result<(), BadText>;
}

impl<T: OwnOptions> AnyOptions for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn copy(&self) -> Box<dyn AnyOptions> {
        Box::new(self.clone())
    }

    fn is_equal(&self, other: &dyn AnyOptions) -> bool {
        other.as_any().downcast_ref::<T>() == Some(self)
    }

    fn list(&self) -> Vec<Setting> {
        let mut own = Setting::list(T::FIELDS, self);
        let mut all = Setting::list(COMMON_FIELDS, OwnOptions::common(self));
        for common in &mut all {
            if let Some(index) = own.iter().position(|own| own.name == common.name) {
                *common = own.remove(index);
            }
        }
        all.append(&mut own);
        all
    }

    fn set(&mut self, name: &str, value: &str) -> Option<Result<(), BadText>> {
        text::set(T::FIELDS, self, name, value)
            .or_else(|| text::set(COMMON_FIELDS, OwnOptions::common_mut(self), name, value))
    }

    fn common(&self) -> &Common {
        OwnOptions::common(self)
    }

    fn common_mut(&mut self) -> &mut Common {
        OwnOptions::common_mut(self)
    }

    fn divide(&mut self, memory_bytes: u64) {
        OwnOptions::divide(self, memory_bytes);
    }

    fn validate(&self) -> Result<(), BadText> {
        OwnOptions::validate(self)
    }
}

/// Which engine, and its options.
#[derive(Debug)]
pub struct Options {
    kind: Kind,
    own: Box<dyn AnyOptions>,
}

impl Options {
    /// Options of an engine.
    pub fn new(kind: Kind, own: impl OwnOptions) -> Options {
        Options { kind, own: Box::new(own) }
    }

    /// A few hundred bytes everywhere, so that a short test of the engine reaches every code path.
    pub fn tiny(kind: Kind) -> Options {
        (kind.tiny)()
    }

    /// Which engine.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Those that every engine has.
    pub fn common(&self) -> &Common {
        self.own.common()
    }

    /// The same, to be changed.
    pub fn common_mut(&mut self) -> &mut Common {
        self.own.common_mut()
    }

    /// [`OwnOptions::divide`].
    pub fn divide(&mut self, memory_bytes: u64) {
        self.own.divide(memory_bytes);
    }

    /// The engine's own. [`Error::Invalid`] if they are of another engine.
    pub fn own<T: OwnOptions>(&self) -> super::Result<&T> {
        let own = self.own.as_any().downcast_ref();
        own.ok_or_else(|| Error::Invalid(format!("these are the options of engine={}", self.kind)))
    }

    /// Every option that counts for this engine, as it is.
    pub fn list(&self) -> Vec<Setting> {
        let (help, value) = (Kind::help(), self.kind.to_string());
        let engine = Setting { name: "engine", when: When::Format, help, value, owner: None };
        let mut own = self.own.list();
        let is_common = |setting: &Setting| COMMON_FIELDS.iter().any(|field| field.name == setting.name);
        own.iter_mut().filter(|it| !is_common(it)).for_each(|it| it.owner = Some(self.kind));
        std::iter::once(engine).chain(own).collect()
    }

    /// Sets one option; another `engine` brings its own defaults. `None` if this engine has none of that name; the error is a sentence.
    pub fn set(&mut self, name: &str, value: &str) -> Option<Result<(), BadText>> {
        if name != "engine" {
            return self.own.set(name, value);
        }
        let kind = match Kind::parse(value) {
            Ok(kind) => kind,
            Err(problem) => return Some(Err(format!("option engine={value}: {problem}").into())),
        };
        if kind != self.kind {
            *self = kind.default_options();
        }
        Some(Ok(()))
    }

    /// The same; an option that only another engine has is looked at and has no effect, so that one list of options serves several
    /// engines. `None` if no engine has one of that name.
    pub fn set_if_known(&mut self, name: &str, value: &str) -> Option<Result<(), BadText>> {
        let elsewhere = || Kind::all().filter_map(|kind| kind.default_options().set(name, value));
        self.set(name, value).or_else(|| elsewhere().reduce(Result::or))
    }

    /// These with others, as in `memtable=1M,dirty_max=1M`; see [`Options::set_if_known`].
    pub fn with(mut self, list: &str) -> Result<Options, BadText> {
        for word in list.split(',').filter(|word| !word.is_empty()) {
            let (name, value) =
                word.split_once('=').ok_or_else(|| format!("'{word}' is not option=value"))?;
            self.set_if_known(name, value)
                .unwrap_or_else(|| Err(format!("no engine has an option {name}").into()))?;
        }
        Ok(self)
    }

    /// The current value of an option as text.
    pub fn get(&self, name: &str) -> Option<String> {
        self.list().into_iter().find(|setting| setting.name == name).map(|setting| setting.value)
    }

    /// The sentence to show if the settings contradict each other.
    pub fn validate(&self) -> Result<(), BadText> {
        self.own.validate()
    }
}

impl Default for Options {
    fn default() -> Options {
        Kind::default().default_options()
    }
}

impl Clone for Options {
    fn clone(&self) -> Options {
        Options { kind: self.kind, own: self.own.copy() }
    }
}

impl PartialEq for Options {
    fn eq(&self, other: &Options) -> bool {
        self.kind == other.kind && self.own.is_equal(&*other.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{btree, lsm};

    #[test]
    fn every_option_prints_what_it_reads_and_defaults_are_valid() {
        for kind in Kind::all() {
            for options in [kind.default_options(), Options::tiny(kind)] {
                options.validate().unwrap();
                let mut copy = kind.default_options();
                for setting in options.list() {
                    copy.set(setting.name, &setting.value)
                        .unwrap_or_else(|| panic!("{} is lost", setting.name))
                        .unwrap();
                }
                assert_eq!(copy, options);
            }
        }
        assert!("interval:0s".parse::<Sync>().is_err() && "interval".parse::<Sync>().is_err());
    }

    #[test]
    fn an_engine_has_its_own_options_and_the_common_ones() {
        let mut options = Options::default();
        for (name, value) in [("preset", "s2"), ("rate", "20M")] {
            options.set(name, value).unwrap().unwrap();
        }
        let own = options.own::<lsm::Options>().unwrap();
        assert_eq!((own.common.sync, own.iops, own.rate_bytes), (Sync::Always, 1000, 20 << 20));
        assert!(options.own::<btree::Options>().is_err() && options.set("page_size", "8K").is_none());
        options.set("engine", "btree").unwrap().unwrap();
        assert!(options.set("rate", "20M").is_none());
        let mut options = options.with("rate=20M,page_size=4K").unwrap();
        assert!(options.clone().with("rate=fast").is_err() && options.clone().with("colour=red").is_err());
        options.set("page_size", "8K").unwrap().unwrap();
        assert_eq!(options.own::<btree::Options>().unwrap().page_bytes, 8 << 10);
        let names: Vec<_> = options.list().into_iter().map(|setting| setting.name).collect();
        assert_eq!(names.iter().filter(|name| **name == "memory").count(), 1, "{names:?}");
        assert!(options.set("engine", "cards").unwrap().unwrap_err().to_string().contains("lsm, btree"));
    }
}
