//! `kvfs assert`: holds a mount to a budget. Each condition is `PATH OPERATOR NUMBER`, where PATH is an alias or any path of
//! `.stats.d/json`.

use crate::base::text::BadText;
use serde_json::{Value, json};

/// Short names, the path of the ratio, and of its operands (numerator, denominator) where it has any.
const ALIASES: &[(&str, &str, &[&str])] = &[
    ("write_amp", "amplification.write", &["disk.write_bytes", "app.write_bytes"]),
    ("fs_write_amp", "amplification.fs_write", &["kv.write_bytes", "app.write_bytes"]),
    ("engine_write_amp", "amplification.engine_write", &["disk.write_bytes", "kv.write_bytes"]),
    ("read_amp", "amplification.read", &["disk.read_bytes", "app.read_bytes"]),
    ("space_amp", "amplification.space", &["space.physical_bytes", "space.live_bytes"]),
    ("usd_per_hour", "cost.usd_per_hour", COST),
    ("usd_per_month", "cost.usd_per_month", COST),
    ("usd", "cost.usd", COST),
    ("stall_seconds", "stalls.seconds", &["stalls.slowdowns", "stalls.stops"]),
];

/// Of dollars: whose prices they are, what requests and storage cost, and in what time.
const COST: &[&str] = &["cost.price", "cost.usd", "cost.storage_usd_per_month", "elapsed_ms"];

/// Result of one condition.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    /// As it was given.
    condition: String,
    /// Value of the left side; `None` where the ratio has no denominator.
    actual: Option<f64>,
    /// Whether the condition holds. A value that is not there holds to nothing.
    pub holds: bool,
    /// Operands of the value.
    operands: Vec<(String, Value)>,
}

impl Verdict {
    /// One line.
    pub fn text(&self) -> String {
        let actual = self.actual.map_or("there is no value".to_string(), |value| format!("it is {value}"));
        let operands: Vec<String> =
            self.operands.iter().map(|(path, value)| format!("{path} {value}")).collect();
        let operands =
            if operands.is_empty() { String::new() } else { format!(" ({})", operands.join(", ")) };
        format!("{}: {}: {actual}{operands}", if self.holds { "ok" } else { "FAILED" }, self.condition)
    }

    /// For artifacts.
    pub fn json(&self) -> Value {
        let operands: serde_json::Map<String, Value> = self.operands.iter().cloned().collect();
        json!({"condition": self.condition, "actual": self.actual, "holds": self.holds, "operands": operands})
    }
}

/// Judges one condition by `report`. The error is a sentence.
pub(super) fn judge(report: &Value, condition: &str) -> Result<Verdict, BadText> {
    let problem = || format!("'{condition}' is not PATH < NUMBER, with one of < <= > >= == !=");
    let start = condition.find(['<', '>', '=', '!']).ok_or_else(problem)?;
    let (path, rest) = condition.split_at(start);
    let path = path.trim();
    let operator: &str = ["<=", ">=", "==", "!=", "<", ">"]
        .into_iter()
        .find(|operator| rest.starts_with(operator))
        .ok_or_else(problem)?;
    let limit: f64 = rest[operator.len()..].trim().parse().map_err(|_| problem())?;
    let alias = ALIASES.iter().find(|(name, ..)| *name == path);
    let (place, operands): (&str, &[&str]) =
        alias.map_or((path, &[]), |(_, place, operands)| (place, operands));
    let found = at(report, place).ok_or_else(|| format!("'{condition}': the report has no {place}"))?;
    let actual = match found {
        Value::Null => None,
        value => Some(value.as_f64().ok_or_else(|| format!("'{condition}': {place} is not a number"))?),
    };
    let holds = actual.is_some_and(|actual| match operator {
        "<" => actual < limit,
        "<=" => actual <= limit,
        ">" => actual > limit,
        ">=" => actual >= limit,
        "==" => actual == limit,
        _ => actual != limit,
    });
    let operands = operands.iter().filter_map(|path| Some((path.to_string(), at(report, path)?.clone())));
    Ok(Verdict { condition: condition.to_string(), actual, holds, operands: operands.collect() })
}

/// The value at a dotted path; a number is the index of a list.
fn at<'a>(report: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(report, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_judged_with_their_operands() {
        let report = json!({
            "amplification": {"write": 3.5, "read": null}, "disk": {"write_bytes": 350}, "app": {"write_bytes": 100},
            "levels": [{"files": 4}], "state": "OK",
        });
        let holds = |condition| judge(&report, condition).unwrap().holds;
        assert!(holds("write_amp < 4") && holds("write_amp>=3.5") && holds("levels.0.files == 4"));
        assert!(!holds("write_amp < 3") && !holds("amplification.write != 3.5"));
        assert!(!holds("read_amp < 10"), "what is not there is within no budget");
        let failed = judge(&report, "write_amp < 3").unwrap();
        assert_eq!(
            failed.text(),
            "FAILED: write_amp < 3: it is 3.5 (disk.write_bytes 350, app.write_bytes 100)"
        );
        assert_eq!(failed.json()["operands"]["disk.write_bytes"], 350);
        for wrong in [
            "write_amp",
            "write_amp ~ 3",
            "nothing < 3",
            "state < 3",
            "write_amp < much",
            "levels.9.files < 1",
        ] {
            assert!(judge(&report, wrong).is_err(), "{wrong}");
        }
    }
}
