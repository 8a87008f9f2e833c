//! Who is compared: an engine, a variant of it and options, as in `lsm:tiered`, `btree:page_size=16K`, `lsm:leveled:bloom_bits=0`.
//!
//! The variants that there may be stand in one table, [`VARIANTS`]; which of them there are is what the engines' options accept,
//! so a new policy or torn-page mode joins the default matrix by being an option's value.

use crate::base::text;
use crate::engine::{FIELDS, Kind, Options};

/// An engine, the option that chooses its variant, and the names to try. The first one is what an engine without that option is.
const VARIANTS: [(Kind, &str, &[&str]); 2] = [
    (Kind::Lsm, "policy", &["leveled", "tiered", "time-window", "log", "eager"]),
    (Kind::Btree, "torn", &["image", "doublewrite", "delta"]),
];

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
    /// Every variant of every engine of this program; of each engine its default comes first.
    pub fn all() -> Vec<Contender> {
        let mut all: Vec<Contender> = Vec::new();
        for (kind, _, variants) in VARIANTS {
            let names = variants.iter().map(|variant| format!("{kind}:{variant}"));
            for name in std::iter::once(kind.to_string()).chain(names) {
                let contender = Contender::parse(&name).ok();
                all.extend(contender.filter(|contender| !all.contains(contender)));
            }
        }
        all
    }

    /// Parses `ENGINE[:VARIANT][:OPTION=VALUE]…`. The error is a sentence.
    pub fn parse(text: &str) -> Result<Contender, String> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let known = VARIANTS.iter().find(|(kind, ..)| kind.to_string() == name);
        let Some((kind, option, variants)) = known else {
            return Err(format!(
                "'{text}': an engine to compare is lsm or btree, as in lsm:{}",
                VARIANTS[0].2[0]
            ));
        };
        let field = FIELDS.iter().find(|field| field.name == *option);
        let mut variant = field.map_or(variants[0].to_string(), |field| (field.get)(&Options::default()));
        let mut settings = vec![("engine".to_string(), kind.to_string())];
        for word in words {
            match word.split_once('=') {
                Some((name, value)) if name == *option => variant = value.to_string(),
                Some((name, value)) => settings.push((name.to_string(), value.to_string())),
                None => variant = word.to_string(),
            }
        }
        if field.is_some() {
            settings.insert(1, (option.to_string(), variant.clone()));
        } else if variant != variants[0] {
            return Err(format!("'{text}': {kind} has no other variant than {}", variants[0]));
        }
        let extras = settings.iter().filter(|(name, _)| name != "engine" && name != option);
        let extras: String = extras.map(|(name, value)| format!(":{name}={value}")).collect();
        let contender = Contender { name: format!("{kind}:{variant}{extras}"), kind: *kind, settings };
        contender.options(Options::default()).map_err(|problem| format!("'{text}': {problem}"))?;
        Ok(contender)
    }

    /// `base` with the contender's own settings.
    pub fn options(&self, base: Options) -> Result<Options, String> {
        let mut options = base;
        for (name, value) in &self.settings {
            text::set(FIELDS, &mut options, name, value)
                .unwrap_or_else(|| Err(format!("the engines have no option {name}")))?;
        }
        options.validate()?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_are_in_the_default_matrix_with_every_variant_that_there_is() {
        let all = Contender::all();
        for kind in [Kind::Lsm, Kind::Btree] {
            assert!(all.iter().any(|contender| contender.kind == kind), "{kind}");
        }
        for contender in &all {
            assert_eq!(Contender::parse(&contender.name).as_ref(), Ok(contender));
            assert_eq!(contender.options(Options::default()).unwrap().kind, contender.kind);
        }
        // An engine without a variant is its default one, and that is in the list.
        for name in ["lsm", "btree"] {
            assert!(all.contains(&Contender::parse(name).unwrap()), "{name}");
        }
    }

    #[test]
    fn settings_are_taken_and_nonsense_is_named() {
        let contender = Contender::parse("btree:page_size=16K:cache=1M").unwrap();
        assert!(contender.name.ends_with(":page_size=16K:cache=1M"), "{}", contender.name);
        let options = contender.options(Options::default()).unwrap();
        assert_eq!((options.page_bytes, options.cache_bytes), (16 << 10, 1 << 20));
        for (text, part) in [
            ("mem", "lsm or btree"),
            ("", "lsm or btree"),
            ("lsm:sideways", "sideways"),
            ("lsm:colour=red", "colour"),
            ("btree:page_size=5000", "page_size"),
        ] {
            let problem = Contender::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
