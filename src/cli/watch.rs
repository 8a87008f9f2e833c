//! `kvfs stats --watch`: one row a span, of what happened in it.

use serde_json::Value;

use crate::base::text::human_size;

/// Rows between two headers.
pub(super) const ROWS: usize = 20;

/// The header.
pub(super) fn head() -> String {
    format!(
        "{:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9} {:>8} {:>5} {:>6}  state",
        "app-w/s", "kv-w/s", "disk-w/s", "app-r/s", "disk-r/s", "w-amp", "debt", "stalled", "l0", "hits"
    )
}

/// The row between two reports; `None` if no time has passed.
pub(super) fn row(before: &Value, now: &Value) -> Option<String> {
    let value = |report: &Value, path: &str| {
        path.split('.').fold(report, |value, name| &value[name]).as_f64().unwrap_or(0.0)
    };
    // A mount that was made anew counts from zero.
    let growth = |path: &str| (value(now, path) - value(before, path)).max(0.0);
    let seconds = growth("uptime_ms") / 1000.0;
    if seconds <= 0.0 {
        return None;
    }
    let rate = |path: &str| human_size((growth(path) / seconds) as u64);
    // What nobody measures is nothing, not 0.
    let disk_rate = |path: &str| if now["disk"].is_null() { "-".to_string() } else { rate(path) };
    let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    let amp = share(growth("disk.write_bytes"), growth("app.write_bytes")).filter(|_| !now["disk"].is_null());
    let (hits, misses) = (growth("cache.hits"), growth("cache.misses"));
    Some(format!(
        "{:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9} {:>7.2}s {:>5} {:>6}  {}",
        rate("app.write_bytes"),
        rate("kv.write_bytes"),
        disk_rate("disk.write_bytes"),
        rate("app.read_bytes"),
        disk_rate("disk.read_bytes"),
        amp.map_or("-".to_string(), |amp| format!("{amp:.2}")),
        human_size(value(now, "debt.durability_bytes") as u64),
        growth("stalls.seconds"),
        value(now, "debt.l0_files"),
        share(hits, hits + misses).map_or("-".to_string(), |share| format!("{:.0}%", share * 100.0)),
        now["state"].as_str().unwrap_or("?"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_shows_rates_and_what_is_owed() {
        let report = |seconds: u64, bytes: u64| {
            json!({
                "uptime_ms": seconds * 1000, "app": {"write_bytes": bytes, "read_bytes": 0},
                "kv": {"write_bytes": bytes * 2}, "disk": {"write_bytes": bytes * 4, "read_bytes": 0},
                "debt": {"durability_bytes": 3 << 20, "l0_files": 2}, "cache": {"hits": 9 * seconds, "misses": seconds},
                "stalls": {"seconds": 0.5}, "state": "OK",
            })
        };
        let row = row(&report(1, 0), &report(3, 2 << 20)).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            words,
            ["1.00MiB", "2.00MiB", "4.00MiB", "0B", "0B", "4.00", "3.00MiB", "0.00s", "2", "90%", "OK"]
        );
        assert_eq!(super::row(&report(1, 0), &report(1, 5)), None);
        assert_eq!(head().split_whitespace().count(), words.len());
    }
}
