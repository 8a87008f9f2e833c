//! A contender: an engine, a variant of it and options, as in `lsm:tiered`, `btree:page_size=16K`, `lsm:leveled:bloom_bits=0`.
//!
//! The engines and their variants are those of the registry ([`Kind::all`]), so a new engine, policy or way of writing pages joins the default
//! matrix by being there.

use crate::base::text::{BadText, exact_size};
use crate::base::words::one_of;
use crate::engine::{Kind, Options, Sync};

/// Bytes of a page: the texts' 4 KiB.
pub const PAGE_BYTES: u64 = 4 << 10;

/// An engine's options for `memory_bytes`: the defaults' proportions, scaled down, and the same memory for each engine. Nothing becomes
/// durable unasked.
pub fn scaled(kind: Kind, memory_bytes: u64) -> Options {
    let mut options = kind.default_options();
    options.divide(memory_bytes);
    let common = options.common_mut();
    common.sync = Sync::Fsync;
    common.reserve_bytes = 1 << 20;
    // Each engine takes those that it has. Checkpoints come by log and dirty pages alone: an age would be one of the simulated clock.
    for (name, value) in [("page_size", exact_size(PAGE_BYTES)), ("checkpoint_age", "1440m".to_string())] {
        let known = options.set_if_known(name, &value);
        debug_assert_eq!(known, Some(Ok(())), "{name}={value}");
    }
    options
}

/// An engine with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// As in reports: engine, variant and settings, with colons between them.
    pub name: String,
    /// The engine.
    pub kind: Kind,
    settings: Vec<(String, String)>,
}

impl Contender {
    /// Every engine that keeps what it is given, in its default variant.
    pub fn engines() -> Vec<Contender> {
        let kinds = Kind::all().filter(|kind| kind.keeps);
        kinds.filter_map(|kind| Contender::parse(kind.name, is_kept).ok()).collect()
    }

    /// Every variant of those; of each engine its default comes first.
    pub fn all() -> Vec<Contender> {
        let mut all: Vec<Contender> = Vec::new();
        for kind in Kind::all().filter(|kind| kind.keeps) {
            let names = kind.variants().into_iter().map(|(_, variant)| format!("{kind}:{variant}"));
            for name in std::iter::once(kind.to_string()).chain(names) {
                let contender = Contender::parse(&name, is_kept).ok();
                all.extend(contender.filter(|contender| !all.contains(contender)));
            }
        }
        all
    }

    /// Parses `ENGINE[:VARIANT][:OPTION=VALUE]…`, the engine one of those that `suits` takes. The error is a sentence.
    pub fn parse(text: &str, suits: fn(Kind) -> bool) -> Result<Contender, BadText> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let kinds: Vec<Kind> = Kind::all().filter(|kind| suits(*kind)).collect();
        let Some(kind) = kinds.iter().find(|kind| kind.name == name).copied() else {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
            return Err(
                format!("'{text}': an engine to compare is {}, as in lsm:leveled", one_of(&names)).into()
            );
        };
        let (variants, defaults) = (kind.variants(), kind.default_options());
        let is_default =
            |(option, value): &(&str, &str)| defaults.get(option).is_some_and(|default| default == *value);
        let mut variant = variants.iter().copied().find(is_default);
        let mut extras = Vec::new();
        for word in words {
            let (name, value) =
                word.split_once('=').map_or((None, word), |(name, value)| (Some(name), value));
            let named =
                variants.iter().find(|(option, it)| *it == value && name.is_none_or(|name| name == *option));
            match (named, name) {
                (Some(named), _) => variant = Some(*named),
                (None, Some(name)) => extras.push((name.to_string(), value.to_string())),
                (None, None) if variants.is_empty() => {
                    return Err(format!("'{text}': {kind} has no variants").into());
                }
                (None, None) => {
                    let names: Vec<&str> = variants.iter().map(|(_, value)| *value).collect();
                    return Err(
                        format!("'{text}': '{word}' is no variant of {kind}: {}", one_of(&names)).into()
                    );
                }
            }
        }
        let mut settings = vec![("engine".to_string(), kind.to_string())];
        settings.extend(variant.map(|(option, value)| (option.to_string(), value.to_string())));
        let options: String = extras.iter().map(|(name, value)| format!(":{name}={value}")).collect();
        let variant = variant.map_or(String::new(), |(_, value)| format!(":{value}"));
        settings.extend(extras);
        let contender = Contender { name: format!("{kind}{variant}{options}"), kind, settings };
        contender.options(1 << 20).map_err(|problem| format!("'{text}': {problem}"))?;
        Ok(contender)
    }

    /// Its name where only letters, digits and a few signs may stand: as a directory.
    pub fn file_name(&self) -> String {
        self.name.replace(['/', ':', '='], "_")
    }

    /// Options for `memory_bytes`, see [`scaled`], with the contender's own settings.
    pub fn options(&self, memory_bytes: u64) -> Result<Options, BadText> {
        let mut options = scaled(self.kind, memory_bytes);
        for (name, value) in &self.settings {
            options
                .set(name, value)
                .unwrap_or_else(|| Err(format!("{} has no option {name}", self.kind).into()))?;
        }
        options.validate()?;
        Ok(options)
    }
}

/// Whether an engine keeps what it is given: what keeps nothing has no bytes to compare.
pub fn is_kept(kind: Kind) -> bool {
    kind.keeps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_are_in_the_default_matrix_with_every_variant_that_there_is() {
        let all = Contender::all();
        for kind in Kind::all().filter(|kind| kind.keeps) {
            assert!(all.iter().any(|contender| contender.kind == kind), "{kind}");
        }
        for contender in &all {
            assert_eq!(Contender::parse(&contender.name, is_kept).as_ref(), Ok(contender));
            assert_eq!(contender.options(1 << 20).unwrap().kind(), contender.kind);
        }
        // An engine without a variant is its default one, and that is in the list.
        for name in ["lsm", "btree"] {
            assert!(all.contains(&Contender::parse(name, is_kept).unwrap()), "{name}");
        }
    }

    #[test]
    fn settings_are_taken_and_nonsense_is_named() {
        let contender = Contender::parse("btree:page_size=16K:cache=1M", is_kept).unwrap();
        assert!(contender.name.ends_with(":page_size=16K:cache=1M"), "{}", contender.name);
        let options = contender.options(4 << 20).unwrap();
        assert_eq!(options.get("page_size").as_deref(), Some("16K"));
        assert_eq!(options.common().cache_bytes, 1 << 20);
        for (text, part) in [
            ("mem", "lsm, btree or hybrid"),
            ("", "lsm, btree or hybrid"),
            ("lsm:sideways", "sideways"),
            ("lsm:colour=red", "colour"),
            ("btree:page_size=5000", "page_size"),
        ] {
            let problem = Contender::parse(text, is_kept).unwrap_err();
            assert!(problem.to_string().contains(part), "{text}: {problem}");
        }
        let baseline = Contender::parse("mem", |_| true).unwrap();
        assert_eq!((baseline.name.as_str(), Contender::engines().contains(&baseline)), ("mem", false));
        assert_eq!(contender.file_name(), contender.name.replace([':', '='], "_"));
    }
}
