//! Options and quantities as text: one table a room gives the parser, the printer and the help.
//!
//! SIZE takes a number with K, M, G or T (binary); DURATION a number with ms, s or m.

use std::time::{Duration, SystemTime};

/// An error in a text that somebody has written, as a sentence to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadText(String);

impl From<&str> for BadText {
    fn from(sentence: &str) -> BadText {
        BadText(sentence.to_string())
    }
}

impl From<String> for BadText {
    fn from(sentence: String) -> BadText {
        BadText(sentence)
    }
}

impl From<BadText> for String {
    fn from(bad: BadText) -> String {
        bad.0
    }
}

/// Time at which an option may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Only when the store is made; remembered by the store.
    Format,
    /// At every mount; what the store remembers is the default.
    Mount,
    /// At every mount, for that mount alone; no store remembers it.
    Once,
}

/// One option of a room: its name in `key=value` text, its help, and how it is read and printed.
pub struct Field<T: 'static> {
    /// The key, as in `-o key=value`.
    pub name: &'static str,
    /// Time at which it may be given.
    pub when: When,
    /// Its effect, in one sentence, with the values that it takes.
    pub help: &'static str,
    /// Parses and stores; the error is a sentence without the key.
    pub set: fn(&mut T, &str) -> Result<(), BadText>,
    /// The current value as text that `set` reads.
    pub get: fn(&T) -> String,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Field<T> {
        *self
    }
}

impl<T> Copy for Field<T> {}

/// Looks `name` up in `fields` and sets it. `None` if there is no such option.
pub fn set<T>(fields: &[Field<T>], target: &mut T, name: &str, value: &str) -> Option<Result<(), BadText>> {
    let field = fields.iter().find(|field| field.name == name)?;
    Some((field.set)(target, value).map_err(|bad| format!("option {name}={value}: {bad}").into()))
}

/// Most bytes that an option may say, 256 TiB, so that sums and small multiples of options fit their type.
const SIZE_MAX: u64 = 1 << 48;
/// Most that an option may count.
const COUNT_MAX: u64 = u32::MAX as u64;

/// Reads the bytes that an option says.
pub fn bounded_size(text: &str) -> Result<u64, BadText> {
    parse_size(text).and_then(|bytes| if bytes <= SIZE_MAX { Ok(bytes) } else { Err("at most 256T".into()) })
}

/// Reads what an option counts.
pub fn bounded_count(text: &str) -> Result<u64, BadText> {
    let count = text.parse().ok().filter(|count| *count <= COUNT_MAX);
    count.ok_or_else(|| format!("takes a whole number up to {COUNT_MAX}").into())
}

/// Coordinated universal time to the second, as in RFC 3339.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Behind the year 9999 there is no such text.
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// An option of bytes: its name, when it may be given, the member that holds it, its help.
macro_rules! size {
    ($name:literal, $when:ident, $($member:ident).+, $help:literal) => {
        $crate::base::text::Field {
            name: $name,
            when: $crate::base::text::When::$when,
            help: $help,
            set: |options, text| {
                options.$($member).+ = $crate::base::text::bounded_size(text)?;
                Ok(())
            },
            get: |options| $crate::base::text::exact_size(options.$($member).+),
        }
    };
}

/// An option of a mount that counts something: its name, the member that holds it, its help.
macro_rules! count {
    ($name:literal, $($member:ident).+, $help:literal) => {
        $crate::base::text::Field {
            name: $name,
            when: $crate::base::text::When::Mount,
            help: $help,
            set: |options, text| {
                options.$($member).+ = $crate::base::text::bounded_count(text)?;
                Ok(())
            },
            get: |options| options.$($member).+.to_string(),
        }
    };
}

pub(crate) use {count, size};

/// All of `items` as an array; only for constants, whose length is that of the array.
pub const fn array<T: Copy, const N: usize>(items: &[T]) -> [T; N] {
    match items.first_chunk() {
        Some(array) if items.len() == N => *array,
        _ => panic!("an array is as long as its items are many"),
    }
}

/// The items of all `lists` one behind another as an array; only for constants, whose length is that of the array.
pub const fn concatenated<T: Copy, const N: usize>(lists: &[&[T]]) -> [T; N] {
    let (mut list, mut first) = (0, None);
    while first.is_none() {
        first = lists[list].first();
        list += 1;
    }
    let Some(first) = first else { panic!("an array of nothing") };
    let (mut all, mut end, mut list) = ([*first; N], 0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            all[end] = lists[list][at];
            (end, at) = (end + 1, at + 1);
        }
        list += 1;
    }
    assert!(end == N, "an array is as long as its items are many");
    all
}

/// Number of items of all `lists` together.
pub const fn total_items<T>(lists: &[&[T]]) -> usize {
    let (mut items, mut at) = (0, 0);
    while at < lists.len() {
        items += lists[at].len();
        at += 1;
    }
    items
}

/// Number of bytes of all `pieces` together.
pub const fn joined_bytes(pieces: &[&str]) -> usize {
    let (mut bytes, mut at) = (0, 0);
    while at < pieces.len() {
        bytes += pieces[at].len();
        at += 1;
    }
    bytes
}

/// All of `pieces` one behind another; only for constants, whose length is [`joined_bytes`].
pub const fn joined<const N: usize>(pieces: &[&str]) -> [u8; N] {
    let (mut joined, mut end, mut at) = ([0; N], 0, 0);
    while at < pieces.len() {
        let piece = pieces[at].as_bytes();
        let mut byte = 0;
        while byte < piece.len() {
            joined[end] = piece[byte];
            (end, byte) = (end + 1, byte + 1);
        }
        at += 1;
    }
    assert!(end == N, "a text is as long as its pieces are together");
    joined
}

/// Parses `64M`, `4096`, `1G`: bytes.
pub fn parse_size(text: &str) -> Result<u64, BadText> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        other => return Err(format!("unknown unit '{other}'; a size is a number with K, M, G or T").into()),
    };
    let number: u64 = digits.parse().map_err(|_| "a size is a number with K, M, G or T")?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| "too large".into())
}

/// Prints bytes so that [`parse_size`] reads them back exactly.
pub fn exact_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes & ((1u64 << shift) - 1) == 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Prints bytes for people: three significant digits and a binary unit.
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.5 || unit == "TiB" {
            return match unit {
                "B" => format!("{bytes}B"),
                _ if value < 9.995 => format!("{value:.2}{unit}"),
                _ if value < 99.95 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1024.0;
    }
    unreachable!("the last unit always returns")
}

/// Parses `500ms`, `1s`, `2m`.
pub fn parse_duration(text: &str) -> Result<Duration, BadText> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let problem = || BadText::from("a duration is a number with ms, s or m");
    let number: u64 = digits.parse().map_err(|_| problem())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.checked_mul(60).ok_or_else(problem)?)),
        _ => Err(problem()),
    }
}

/// Prints a duration so that [`parse_duration`] reads it back (to the millisecond).
pub fn exact_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms > 0 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// Threads that a mount may be told to have.
const THREADS_MAX: usize = 256;

/// Parses a number of threads.
pub fn parse_threads(text: &str) -> Result<usize, BadText> {
    let threads = text.parse().ok().filter(|threads| *threads <= THREADS_MAX);
    threads.ok_or_else(|| format!("takes a whole number up to {THREADS_MAX}").into())
}

/// Parses `on` or `off`.
pub fn parse_switch(text: &str) -> Result<bool, BadText> {
    match text {
        "on" | "yes" | "1" | "true" => Ok(true),
        "off" | "no" | "0" | "false" => Ok(false),
        _ => Err("takes on or off".into()),
    }
}

/// `on` or `off`.
pub fn switch(value: bool) -> String {
    if value { "on" } else { "off" }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_back() {
        for bytes in [0, 1, 1023, 1024, 4096, 64 << 20, (64 << 20) + 1, 3 << 40] {
            assert_eq!(parse_size(&exact_size(bytes)), Ok(bytes));
        }
        assert!(parse_size("12Q").is_err() && parse_size("").is_err() && parse_size("99999999T").is_err());
        for ms in [0, 1, 999, 1000, 1500, 60_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&exact_duration(duration)), Ok(duration));
        }
        assert!(parse_duration("5").is_err() && parse_duration("5h").is_err());
        assert_eq!(human_size(1023), "1023B");
        assert_eq!(human_size(1024 * 1024 - 1), "1.00MiB");
        assert_eq!(human_size(410 << 20), "410MiB");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_000_000_000), "2001-09-09T01:46:40Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
