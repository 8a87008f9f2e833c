//! Figures for people, in few characters.

use std::time::Duration;

use crate::base::text::human_size;

/// A ratio with three significant digits.
pub(super) fn amp(value: Option<f64>) -> String {
    match value {
        None => "-".to_string(),
        Some(value) if value < 9.995 => format!("{value:.2}"),
        Some(value) if value < 99.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// Dollars with three significant digits; `-` without prices.
pub(super) fn dollars(usd: Option<f64>) -> String {
    match usd {
        None => "-".to_string(),
        Some(usd) if usd <= 0.0 => "$0".to_string(),
        Some(usd) => {
            let digits = (2.0 - usd.log10().floor()).clamp(0.0, 12.0) as usize;
            format!("${usd:.digits$}")
        }
    }
}

pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_string(), |share| format!("{:.1}%", share * 100.0))
}

/// Bytes; `-` of an engine that does not say.
pub(super) fn size_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or("-".to_string(), human_size)
}

/// A count in at most five characters: `9999`, `12.4K`, `123K`, `1.2M`.
pub(super) fn human_count(count: u64) -> String {
    if count < 10_000 {
        return count.to_string();
    }
    let mut value = count as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if value < 99.95 && !unit.is_empty() {
            return format!("{value:.1}{unit}");
        }
        if value < 999.5 || unit == "T" {
            return format!("{value:.0}{unit}");
        }
        value /= 1000.0;
    }
    unreachable!("the last unit always returns")
}

/// A duration with about three significant digits: `412us`, `1.92s`, `12.5m`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match duration.as_nanos() {
        0 => return "0".to_string(),
        1..10_000 => return format!("{:.1}us", seconds * 1e6),
        10_000..1_000_000 => return format!("{:.0}us", seconds * 1e6),
        1_000_000..1_000_000_000 => (seconds * 1e3, "ms"),
        1_000_000_000..600_000_000_000 => (seconds, "s"),
        600_000_000_000..36_000_000_000_000 => (seconds / 60.0, "m"),
        _ => (seconds / 3600.0, "h"),
    };
    if value < 9.995 {
        format!("{value:.2}{unit}")
    } else if value < 99.95 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

/// Hours, minutes and seconds, with days before them once there are any.
pub(super) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let text = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 { format!("{days}d {text}") } else { text }
}

/// The last `room` characters of a path, at least ten.
pub(super) fn tail(path: &str, room: usize) -> String {
    let path = ascii(path);
    let room = room.max(10);
    if path.len() <= room { path } else { format!("...{}", &path[path.len() - (room - 3)..]) }
}

/// Printable ASCII: an arrow is spelled out, everything else that is not is a question mark.
pub(super) fn ascii(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.replace('\u{2192}', "->").chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_exact_enough() {
        let counts = [0, 9_999, 10_000, 99_949, 99_950, 123_456, 999_499, 999_500, 12_345_678, u64::MAX];
        let texts = ["0", "9999", "10.0K", "99.9K", "100K", "123K", "999K", "1.0M", "12.3M", "18446744T"];
        assert_eq!(counts.map(human_count), texts);
        let spans = [0, 800, 9_900, 412_000, 1_500_000, 1_920_000_000, 61_000_000_000, 750_000_000_000];
        assert_eq!(
            spans.map(|nanos| span(Duration::from_nanos(nanos))),
            ["0", "0.8us", "9.9us", "412us", "1.50ms", "1.92s", "61.0s", "12.5m"]
        );
        assert_eq!(
            [None, Some(0.0), Some(9.999), Some(99.96), Some(1234.5)].map(amp),
            ["-", "0.00", "10.0", "100", "1234"]
        );
        assert_eq!(
            [None, Some(0.0), Some(0.000_012_34), Some(0.5), Some(9.876), Some(1234.5)].map(dollars),
            ["-", "$0", "$0.0000123", "$0.500", "$9.88", "$1234"]
        );
        assert_eq!(clock(Duration::from_secs(90_061)), "1d 01:01:01");
    }
}
