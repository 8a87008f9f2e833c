//! A report for machines: schema `kvfs.stats/1`. Integers are in base units (bytes, nanoseconds, counts) unless the name
//! says milliseconds or seconds; a ratio without a denominator, and what an engine does not have, is `null`.
//! `docs/stats.md` explains every key; a test compares the two.

use serde_json::{Map, Value as Json};

use super::document::Document;
use super::stats::Report;
use crate::base::metric::{PartKind, Row, Rows, Value, Visitor};

/// The report as one JSON object, with a newline at its end.
pub fn json(report: &Report) -> String {
    rows(&Document::of(report))
}

/// Any rows as the text of a JSON object, with a newline at its end.
pub(super) fn rows(rows: &impl Rows) -> String {
    // Nothing in it can fail: keys are strings and numbers are finite or null.
    let mut text = serde_json::to_string_pretty(&value(rows)).unwrap_or_default();
    text.push('\n');
    text
}

/// Any rows as a JSON object.
pub fn value(rows: &impl Rows) -> Json {
    let mut tree = Tree { open: vec![(String::new(), Json::Object(Map::new()))] };
    rows.visit_rows(&mut tree);
    tree.open.pop().map_or(Json::Null, |(_, json)| json)
}

/// Objects and lists that have begun, each with its name in the one before.
struct Tree {
    open: Vec<(String, Json)>,
}

impl Tree {
    fn add(&mut self, name: &str, json: Json) {
        match self.open.last_mut() {
            Some((_, Json::Object(members))) => _ = members.insert(name.to_string(), json),
            Some((_, Json::Array(items))) => items.push(json),
            _ => {}
        }
    }
}

impl Visitor for Tree {
    fn value(&mut self, row: &'static Row, value: Value<'_>) {
        let json = match value {
            Value::Absent => Json::Null,
            Value::Count(count) => count.into(),
            Value::Real(number) => number.into(),
            Value::Flag(flag) => flag.into(),
            Value::Text(text) => text.into(),
            Value::Named(name, _) => name.into(),
            Value::Texts(texts) => texts.into(),
            Value::Buckets(buckets) => buckets.into(),
        };
        self.add(row.name, json);
    }
    fn begin(&mut self, row: &'static Row, shape: PartKind) {
        let json = if shape == PartKind::List { Json::Array(Vec::new()) } else { Json::Object(Map::new()) };
        self.open.push((row.name.to_string(), json));
    }
    fn item(&mut self, name: &str) {
        self.open.push((name.to_string(), Json::Object(Map::new())));
    }
    fn end(&mut self) {
        if let Some((name, json)) = self.open.pop() {
            self.add(&name, json);
        }
    }
}
