//! The registry of policies: which ones there are, and everything that the rest of kvfs must know of each before it is made.
//!
//! Options, their help, reports, `kvfs compare`, `kvfs model` and the tests go by it; nothing else names a policy that it does not mean.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::leveled::LeveledOptions;
use super::model::Model;
use super::tiered::TieredOptions;
use super::window::TimeWindowOptions;
use super::{Policy, eager, leveled, plain_log, tiered, window};
use crate::base::text::{BadText, Field, joined, joined_bytes};
use crate::base::words::one_of;
use crate::engine::lsm::Options;

/// Everything that the rest of kvfs knows of a policy before it is made.
pub struct Descriptor {
    /// Its name in options and reports.
    pub name: &'static str,
    /// Other names that the option takes.
    pub aliases: &'static [&'static str],
    /// Its way of merging, in a few words.
    pub help: &'static str,
    /// Makes it out of all options.
    pub new: fn(&Options) -> Arc<dyn Policy>,
    /// The text form of the options that it alone reads. They stand in lists behind the one that picks the policy.
    pub fields: &'static [Field<Options>],
    /// The textbooks' prediction; `None` if there is none.
    pub model: Option<Model>,
}

/// The options that one policy alone reads.
pub trait OwnPolicyOptions: Clone + fmt::Debug + Default + PartialEq {
    /// The sentence to show if they contradict each other.
    fn validate(&self) -> Result<(), BadText>;
}

/// A policy without any.
impl OwnPolicyOptions for () {
    fn validate(&self) -> Result<(), BadText> {
        Ok(())
    }
}

/// Makes the registry: for each policy the name of its options among those of all, their type, and what there is to know of it.
macro_rules! policies {
    ($($name:ident: $options:ty = $descriptor:path,)+) => {
        /// The policies of this program, in the order of reports; the first one is the default.
        const OURS: &[&Descriptor] = &[$(&$descriptor),+];

        /// The options that one policy alone reads, by policy.
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(missing_docs, reason = "each type says whose options it holds")]
        pub struct PolicyOptions {
            $(pub $name: $options,)+
        }

        impl PolicyOptions {
            /// The sentence to show if those of a policy contradict each other.
            pub fn validate(&self) -> Result<(), BadText> {
                $(OwnPolicyOptions::validate(&self.$name)?;)+
                Ok(())
            }
        }
    };
}

policies! {
    leveled: LeveledOptions = leveled::POLICY,
    tiered: TieredOptions = tiered::POLICY,
    time_window: TimeWindowOptions = window::POLICY,
    log: () = plain_log::POLICY,
    eager: () = eager::POLICY,
}

/// The pieces of [`PolicyKind::HELP`], four a policy.
const HELP_PIECES: [&str; 4 * OURS.len()] = {
    let mut pieces = [""; 4 * OURS.len()];
    let mut at = 0;
    while at < OURS.len() {
        let end = match OURS.len() - at {
            1 => ").",
            2 => ") or ",
            _ => "), ",
        };
        (pieces[4 * at], pieces[4 * at + 1]) = (OURS[at].name, " (");
        (pieces[4 * at + 2], pieces[4 * at + 3]) = (OURS[at].help, end);
        at += 1;
    }
    pieces
};
const HELP_TEXT: [u8; joined_bytes(&HELP_PIECES)] = joined(&HELP_PIECES);

/// A policy of the registry.
#[derive(Clone, Copy)]
pub struct PolicyKind(pub(super) &'static Descriptor);

impl PolicyKind {
    /// All policies in one sentence.
    pub const HELP: &'static str = match std::str::from_utf8(&HELP_TEXT) {
        Ok(text) => text,
        Err(_) => panic!("names and help are text"),
    };

    /// All policies, in the order of reports.
    pub const ALL: [PolicyKind; OURS.len()] = {
        let mut all = [PolicyKind(OURS[0]); OURS.len()];
        let mut at = 0;
        while at < OURS.len() {
            all[at] = PolicyKind(OURS[at]);
            at += 1;
        }
        all
    };

    /// The text form of the options that single policies read, by policy.
    pub const FIELDS: [&'static [Field<Options>]; OURS.len()] = {
        let mut fields = [OURS[0].fields; OURS.len()];
        let mut at = 0;
        while at < OURS.len() {
            fields[at] = OURS[at].fields;
            at += 1;
        }
        fields
    };

    /// The policy of this name; the error says which there are.
    pub fn parse(text: &str) -> Result<PolicyKind, BadText> {
        let found = PolicyKind::ALL.into_iter().find(|it| it.name == text || it.aliases.contains(&text));
        found.ok_or_else(|| format!("takes {}", one_of(&PolicyKind::ALL.map(|it| it.name))).into())
    }

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        self.0.name
    }
}

impl Default for PolicyKind {
    fn default() -> PolicyKind {
        PolicyKind(OURS[0])
    }
}

impl Deref for PolicyKind {
    type Target = Descriptor;
    fn deref(&self) -> &Descriptor {
        self.0
    }
}

impl PartialEq for PolicyKind {
    fn eq(&self, other: &PolicyKind) -> bool {
        self.name == other.name
    }
}

impl Eq for PolicyKind {}

impl fmt::Debug for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_a_row_in_the_page_that_says_what_it_is_for() {
        let page = include_str!("../../../../docs/tuning.md");
        for policy in PolicyKind::ALL {
            let rows = page
                .lines()
                .filter(|line| line.strip_prefix("| ").is_some_and(|row| row.starts_with(policy.name)));
            assert!(rows.count() > 0, "{policy:?}");
        }
    }

    #[test]
    fn a_name_stands_for_one_policy_and_every_name_for_itself() {
        let mut names: Vec<&str> =
            PolicyKind::ALL.iter().flat_map(|it| it.aliases.iter().copied().chain([it.name])).collect();
        for name in &names {
            assert!(PolicyKind::parse(name).is_ok_and(|it| it.name == *name || it.aliases.contains(name)));
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(PolicyKind::parse("none").map(PolicyKind::name), Ok("log"), "as other engines call it");
        for name in names.iter().filter(|name| **name != "none") {
            assert!(PolicyKind::HELP.contains(name), "{name}: {}", PolicyKind::HELP);
        }
        let problem = PolicyKind::parse("sideways").unwrap_err();
        assert!(PolicyKind::ALL.iter().all(|it| problem.to_string().contains(it.name)), "{problem}");
    }
}
