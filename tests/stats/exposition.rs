//! The text for Prometheus is valid, and says what the report says.

use super::*;

/// Parses text exposition 0.0.4 as strictly as its description says; samples by name with labels.
pub fn exposition(text: &str) -> std::collections::BTreeMap<String, f64> {
    let mut samples = std::collections::BTreeMap::new();
    let (mut helped, mut typed) = (BTreeSet::new(), std::collections::BTreeMap::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_string()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_string(), kind.to_string()).is_none(), "{line} twice");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(name.chars().all(legal), "{line}");
            let labels = labels.strip_suffix('}').unwrap();
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, text) = label.split_once('=').unwrap();
                assert!(key.chars().all(legal) && text.starts_with('"') && text.ends_with('"'), "{line}");
            }
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|base| typed.get(*base).is_some_and(|kind| kind == "histogram"))
                .unwrap_or(name);
            assert!(helped.contains(family) && typed.contains_key(family), "{line} has no family");
            assert_eq!(typed[family] == "counter", name.ends_with("_total"), "{line}");
            assert!(samples.insert(series.to_string(), value.parse().unwrap()).is_none(), "{line} twice");
        }
    }
    samples
}

#[test]
fn the_exposition_is_valid_and_agrees_with_the_report() {
    let rig = mem();
    for _ in 0..7 {
        rig.user_writes(1000);
    }
    rig.meter.record(Op::Write, Duration::from_secs(100), 0, true);
    let samples = exposition(&rig.cat(".stats.d/prom"));
    assert_eq!(samples["kvfs_app_write_bytes_total"], 7000.0);
    assert_eq!(samples["kvfs_kv_ops_total{fs_op=\"write\",op=\"put\"}"], 14.0);
    assert_eq!(samples["kvfs_fs_op_duration_seconds_bucket{op=\"write\",le=\"+Inf\"}"], 8.0);
    assert_eq!(samples["kvfs_fs_op_duration_seconds_bucket{op=\"write\",le=\"64\"}"], 7.0);
    assert_eq!(samples["kvfs_fs_op_duration_seconds_count{op=\"write\"}"], 8.0);
    let bounds = ["0.000001", "0.000016", "0.000256", "0.004", "1", "64", "+Inf"];
    let counts =
        bounds.map(|le| samples[&format!("kvfs_fs_op_duration_seconds_bucket{{op=\"write\",le=\"{le}\"}}")]);
    assert!(counts.is_sorted(), "buckets are cumulative: {counts:?}");
}
