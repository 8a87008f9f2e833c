//! The designs that advice looks at: engines, and of each the options that move its amplifications most, all with the same memory.

use super::model::has_model;
use super::source::Recorded;
use crate::base::text::{BadText, exact_size, parse_size};
use crate::engine::{Kind, Options};

/// A design: an engine with its options.
#[derive(Debug)]
pub struct Design {
    /// What it was asked for as: an engine, and options behind commas.
    pub asked: String,
    /// The same as in `-o`, with the memory that was given to all.
    pub text: String,
    /// All options of the engine.
    pub options: Options,
    /// Whether it is that of the store which was recorded.
    pub is_recorded: bool,
}

/// What a design has that does not say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Options of the store that was recorded. A design of another engine takes those that it has, too.
    pub recorded: Vec<(String, String)>,
    /// Bytes that each design may hold in memory; `None` for as many as it was recorded with.
    pub memory_bytes: Option<u64>,
}

impl Base {
    /// The memory of all designs; `None` if each divides the defaults of its engine.
    fn memory_bytes(&self) -> Option<u64> {
        let recorded = self.recorded.iter().find(|(name, _)| name == "memory");
        let recorded = recorded.and_then(|(_, value)| parse_size(value).ok()).filter(|bytes| *bytes > 0);
        self.memory_bytes.or(recorded)
    }
}

impl Design {
    /// The design of `text`: an engine, and options behind commas, as in `lsm,policy=tiered`. The error is a sentence.
    pub fn parse(text: &str, base: &Base) -> Result<Design, BadText> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let name = name.strip_prefix("engine=").unwrap_or(name);
        let Some(kind) = Kind::all().find(|kind| kind.name == name && has_model(kind.name)) else {
            let names: Vec<&str> = Kind::all().map(|kind| kind.name).filter(|name| has_model(name)).collect();
            let names = names.join(" or ");
            return Err(format!(
                "'{text}': an engine with a model of sizes is {names}, as in lsm,policy=tiered"
            )
            .into());
        };
        let mut options = kind.default_options();
        for (name, value) in base.recorded.iter().filter(|(name, _)| name != "engine") {
            // Another engine may have no option of that name, or take other values.
            let _ = options.set(name, value);
        }
        let mut given: Vec<(&str, String)> = Vec::new();
        // What is given counts, not what all share.
        if !text.split(',').any(|word| word.starts_with("memory=")) {
            given.extend(base.memory_bytes.map(|bytes| ("memory", exact_size(bytes))));
        }
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(format!("'{text}': '{word}' is no option; they look like policy=tiered").into());
            };
            given.push((name, value.to_string()));
        }
        let mut shown = format!("engine={}", kind.name);
        for (name, value) in &given {
            let set = options.set(name, value);
            set.unwrap_or_else(|| Err(format!("{kind} has no option {name}").into()))
                .map_err(|problem| format!("'{text}': {name}={value}: {problem}"))?;
            shown.push_str(&format!(",{name}={value}"));
        }
        options.validate().map_err(|problem| format!("'{text}': {problem}"))?;
        Ok(Design { asked: text.to_string(), text: shown, options, is_recorded: false })
    }
}

/// Every design of the grid. What contradicts the memory is left out.
pub fn all(base: &Base) -> Vec<Design> {
    let mut texts = Vec::new();
    for multiplier in [4, 10] {
        for dynamic in ["off", "on"] {
            texts.push(format!("lsm,policy=leveled,level_multiplier={multiplier},dynamic_levels={dynamic}"));
        }
    }
    for width in [2, 4, 8] {
        texts.push(format!("lsm,policy=tiered,tier_merge_min={width}"));
    }
    texts.push("lsm,policy=eager".to_string());
    // Less for memtables is more for the cache.
    let of_memory = |part: u64| base.memory_bytes().map(|bytes| exact_size((bytes / part).max(1)));
    if let Some(memtable) = of_memory(16) {
        for policy in ["leveled", "tiered"] {
            texts.push(format!("lsm,policy={policy},memtable={memtable}"));
        }
    }
    for page_size in ["4K", "16K", "64K"] {
        for pages in ["in-place", "cow"] {
            texts.push(format!("btree,page_size={page_size},pages={pages}"));
        }
        texts.push(format!("btree,page_size={page_size},torn=doublewrite"));
    }
    if let Some(log) = base.memory_bytes().map(|bytes| exact_size(4 * bytes)) {
        for pages in ["in-place", "cow"] {
            texts.push(format!("btree,pages={pages},checkpoint_log={log},checkpoint_age=10m"));
        }
    }
    let mut designs: Vec<Design> = Vec::new();
    for design in texts.iter().filter_map(|text| Design::parse(text, base).ok()) {
        // What was recorded may be what another one says.
        if designs.iter().all(|other| other.options != design.options) {
            designs.push(design);
        }
    }
    designs
}

/// The design of the store that was recorded; `None` if its engine has no model.
pub fn recorded(recorded: &Recorded) -> Option<Design> {
    let options = recorded.store_options().filter(|options| has_model(options.kind().name))?;
    let defaults = options.kind().default_options();
    let changed = options.list().into_iter().filter(|setting| {
        setting.name != "engine" && defaults.get(setting.name).is_some_and(|default| default != setting.value)
    });
    let changed: String = changed.map(|setting| format!(",{}={}", setting.name, setting.value)).collect();
    let asked = format!("{}{changed}", options.kind().name);
    Some(Design { text: format!("engine={asked}"), asked, options, is_recorded: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_every_engine_that_has_a_model_and_nonsense_is_named() {
        for memory_bytes in [None, Some(256 << 20), Some(8 << 20)] {
            let recorded = vec![("sync".to_string(), "always".to_string())];
            let base = Base { memory_bytes, recorded };
            let designs = all(&base);
            assert!(designs.len() >= 17, "{}", designs.len());
            for design in &designs {
                assert_eq!(design.options.get("sync").as_deref(), Some("always"));
                let unsaid = Base { memory_bytes: None, ..base.clone() };
                let again = Design::parse(&design.text, &unsaid).unwrap();
                assert_eq!(again.options, design.options);
                let same = designs.iter().filter(|other| other.options == design.options).count();
                assert_eq!(same, 1, "{}", design.text);
            }
            for name in ["lsm", "btree"] {
                assert!(designs.iter().any(|design| design.options.kind().name == name));
            }
        }
        let base = Base::default();
        for (text, part) in [
            ("mem", "lsm or btree"),
            ("lsm,tiered", "'tiered'"),
            ("lsm,colour=red", "colour"),
            ("btree,page_size=5K", "page_size"),
        ] {
            let problem = Design::parse(text, &base).unwrap_err().to_string();
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_it_was_recorded() {
        let recorded = [("engine", "lsm"), ("memory", "16M"), ("bloom_bits", "7"), ("atime", "off")];
        let recorded = recorded.map(|(name, value)| (name.to_string(), value.to_string())).to_vec();
        let get = |text: &str, memory_bytes, name: &str| {
            let base = Base { recorded: recorded.clone(), memory_bytes };
            Design::parse(text, &base).unwrap().options.get(name)
        };
        assert_eq!(get("lsm,policy=tiered", None, "bloom_bits").as_deref(), Some("7"));
        assert_eq!(get("lsm", None, "memtable").as_deref(), Some("4M"));
        assert_eq!(get("btree", None, "dirty_max").as_deref(), Some("4M"));
        assert_eq!(get("lsm", Some(64 << 20), "memtable").as_deref(), Some("16M"));
        assert_eq!(get("lsm,memory=32M", Some(64 << 20), "memtable").as_deref(), Some("8M"));
    }
}
