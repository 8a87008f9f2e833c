//! The designs that advice looks at: engines, and of each the options that move its amplifications most, all with the same memory.

use super::model::has_model;
use super::source::Recorded;
use crate::base::text::{BadText, exact_size};
use crate::engine::{Kind, Options};

/// A design: an engine with its options.
#[derive(Debug)]
pub struct Design {
    /// As in `-o`.
    pub text: String,
    /// All options of the engine.
    pub options: Options,
    /// Whether it is that of the store which was recorded.
    pub is_recorded: bool,
}

/// Options that all designs of a grid share.
#[derive(Clone, Debug)]
pub struct Common {
    /// Bytes that each may hold in memory; `None` for the defaults of each engine.
    pub memory_bytes: Option<u64>,
    /// The option `sync`.
    pub sync: Option<String>,
}

impl Design {
    /// The design of `text`: an engine, and options behind commas, as in `lsm,policy=tiered`. The error is a sentence.
    pub fn parse(text: &str, common: &Common) -> Result<Design, BadText> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let name = name.strip_prefix("engine=").unwrap_or(name);
        let Some(kind) = Kind::all().find(|kind| kind.name == name && has_model(kind.name)) else {
            let names: Vec<&str> = Kind::all().map(|kind| kind.name).filter(|name| has_model(name)).collect();
            return Err(format!(
                "'{text}': an engine with a model of sizes is {}, as in lsm,policy=tiered",
                names.join(" or ")
            )
            .into());
        };
        let mut options = kind.default_options();
        let mut all: Vec<(String, String)> = Vec::new();
        all.extend(common.memory_bytes.map(|bytes| ("memory".to_string(), exact_size(bytes))));
        all.extend(common.sync.clone().map(|sync| ("sync".to_string(), sync)));
        // What is given counts, not what all share.
        let is_given = |name: &str| text.split(',').any(|word| word.split('=').next() == Some(name));
        all.retain(|(name, _)| !is_given(name));
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(format!("'{text}': '{word}' is no option; they look like policy=tiered").into());
            };
            all.push((name.to_string(), value.to_string()));
        }
        let mut shown = format!("engine={}", kind.name);
        for (name, value) in &all {
            let set = options.set(name, value);
            set.unwrap_or_else(|| Err(format!("{kind} has no option {name}").into()))
                .map_err(|problem| format!("'{text}': {name}={value}: {problem}"))?;
            shown.push_str(&format!(",{name}={value}"));
        }
        options.validate().map_err(|problem| format!("'{text}': {problem}"))?;
        Ok(Design { text: shown, options, is_recorded: false })
    }
}

/// Every design of the grid. What contradicts the memory is left out.
pub fn all(common: &Common) -> Vec<Design> {
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
    let of_memory = |part: u64| common.memory_bytes.map(|bytes| exact_size((bytes / part).max(1)));
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
    if let Some(log) = of_memory(1).zip(common.memory_bytes).map(|(_, bytes)| exact_size(4 * bytes)) {
        for pages in ["in-place", "cow"] {
            texts.push(format!("btree,pages={pages},checkpoint_log={log},checkpoint_age=10m"));
        }
    }
    texts.iter().filter_map(|text| Design::parse(text, common).ok()).collect()
}

/// The design of the store that was recorded; `None` if its engine has no model.
pub fn recorded(recorded: &Recorded) -> Option<Design> {
    let options = recorded.store_options().filter(|options| has_model(options.kind().name))?;
    let defaults = options.kind().default_options();
    let changed = options.list().into_iter().filter(|setting| {
        setting.name != "engine" && defaults.get(setting.name).is_some_and(|default| default != setting.value)
    });
    let changed: String = changed.map(|setting| format!(",{}={}", setting.name, setting.value)).collect();
    Some(Design { text: format!("engine={}{changed}", options.kind().name), options, is_recorded: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_every_engine_that_has_a_model_and_nonsense_is_named() {
        for memory_bytes in [None, Some(256 << 20), Some(8 << 20)] {
            let common = Common { memory_bytes, sync: Some("always".to_string()) };
            let designs = all(&common);
            assert!(designs.len() >= 17, "{}", designs.len());
            for design in &designs {
                assert_eq!(design.options.get("sync").as_deref(), Some("always"));
                let again = Design::parse(&design.text, &Common { memory_bytes: None, sync: None }).unwrap();
                assert_eq!(again.options, design.options);
                assert_eq!(
                    designs.iter().filter(|other| other.options == design.options).count(),
                    1,
                    "{}",
                    design.text
                );
            }
            for name in ["lsm", "btree"] {
                assert!(designs.iter().any(|design| design.options.kind().name == name));
            }
        }
        let common = Common { memory_bytes: None, sync: None };
        for (text, part) in [
            ("mem", "lsm or btree"),
            ("lsm,tiered", "'tiered'"),
            ("lsm,colour=red", "colour"),
            ("btree,page_size=5K", "page_size"),
        ] {
            let problem = Design::parse(text, &common).unwrap_err().to_string();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
