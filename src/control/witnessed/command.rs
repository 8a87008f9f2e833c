//! The words that are written to a witness's `.stats`: one command a line. A whole write is parsed before anything is done.

use super::super::command::mark_name;
use crate::base::text::parse_size;
use crate::fs::{Error, Result};

/// Lines that one write may have.
const LINES_MAX: usize = 64;

/// The action that a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Remember the counters under a name.
    Mark(String),
    /// Forget them.
    Unmark(String),
    /// Add to the bytes that the program was asked to write.
    UserBytes(u64),
    /// Set the bytes that what is stored needs at least.
    LiveBytes(u64),
    /// Nothing: the text is in `.stats.d/help`.
    Help,
}

/// Every form of a line, with what it does.
pub(super) const HELP: &[(&str, &str)] = &[
    ("mark NAME", "remember the counters; .stats.d/since/NAME counts from there"),
    ("unmark NAME", "forget a mark"),
    ("user-bytes SIZE", "your program was asked to write SIZE more: the denominator of write amplification"),
    ("live-bytes SIZE", "what it stores needs SIZE at least: the denominator of space amplification"),
    ("help", "nothing; this list is .stats.d/help"),
];

/// Reads what one write holds. `Invalid` for an unknown word, a name that cannot be a file's, or too many lines.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Action>> {
    let text = std::str::from_utf8(text).map_err(|_| Error::Invalid)?;
    let size = |word| parse_size(word).map_err(|_| Error::Invalid);
    let mut actions = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        actions.push(match words[..] {
            [] => continue,
            ["mark", name] => Action::Mark(mark_name(name)?),
            ["unmark", name] => Action::Unmark(mark_name(name)?),
            ["user-bytes", bytes] => Action::UserBytes(size(bytes)?),
            ["live-bytes", bytes] => Action::LiveBytes(size(bytes)?),
            ["help"] => Action::Help,
            _ => return Err(Error::Invalid),
        });
    }
    if actions.len() > LINES_MAX { Err(Error::Invalid) } else { Ok(actions) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_command_and_what_is_none_is_invalid() {
        for (form, _) in HELP {
            parse(form.replace("NAME", "a").replace("SIZE", "20M").as_bytes())
                .unwrap_or_else(|_| panic!("{form}"));
        }
        let actions = parse(b"user-bytes 4K\n\nmark a\n").unwrap();
        assert_eq!(actions, [Action::UserBytes(4096), Action::Mark("a".to_string())]);
        for text in
            ["flush", "user-bytes", "user-bytes -1", "user-bytes 1 2", "mark a/b", "mark a.json", "\u{e4}"]
        {
            assert!(matches!(parse(text.as_bytes()), Err(Error::Invalid)), "{text}");
        }
    }
}
