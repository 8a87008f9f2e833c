//! `docs/stats.schema.json`: what the JSON report may hold, as JSON Schema. It is made by a test from reports of every engine and
//! the units of `docs/stats.md`; the reports of running stores are then held to it.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::*;

/// Objects whose member names are data.
const OPEN: [&str; 10] = [
    "ops",
    "kinds",
    "cpu",
    "cache.kinds",
    "disk.by_purpose",
    "stalls.by_cause",
    "tree.pages.read.cause",
    "tree.pages.written.cause",
    "tree.pages.read.kind",
    "tree.pages.written.kind",
];

/// Unit of each documented key.
fn units() -> BTreeMap<String, String> {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stats.md")).unwrap();
    let mut units = BTreeMap::new();
    for line in document.lines().skip_while(|line| !line.starts_with("### The mount")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [keys, unit, meaning] = cells[..]
            && keys.starts_with('`')
        {
            assert!(!meaning.is_empty() || unit.is_empty(), "{line} says nothing");
            for key in keys.split(", ") {
                units.insert(key.trim_matches('`').to_string(), unit.to_string());
            }
        }
    }
    units
}

/// What was seen at one place.
#[derive(Default)]
struct Seen {
    kinds: BTreeSet<&'static str>,
    members: BTreeMap<String, Seen>,
    items: Option<Box<Seen>>,
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Seen {
    fn add(&mut self, value: &Value, path: &str) {
        self.kinds.insert(kind_of(value));
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let child = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    // One schema for all members.
                    let name = if OPEN.contains(&path) { "*" } else { name };
                    self.members.entry(name.to_string()).or_default().add(value, &child);
                }
            }
            Value::Array(items) => {
                let seen = self.items.get_or_insert_default();
                items.iter().for_each(|item| seen.add(item, &format!("{path}[]")));
            }
            _ => {}
        }
    }

    fn schema(&self, path: &str, units: &BTreeMap<String, String>) -> Value {
        let mut kinds = self.kinds.clone();
        // Members with data for names are documented under the sort of the name.
        let ratio = path.strip_prefix("windows.<window>.").filter(|rest| rest.starts_with("amplification."));
        let unit = units.get(ratio.unwrap_or(path)).map(String::as_str);
        match unit {
            Some("×" | "s" | "B/n") => kinds.extend(["number", "null"]),
            Some("ns") => _ = kinds.insert("number"),
            Some("B" | "n" | "ms") if kinds.is_subset(&["integer", "null"].into()) => {
                _ = kinds.insert("integer")
            }
            _ => {}
        }
        if kinds.contains("number") {
            kinds.remove("integer");
        }
        let mut schema = Map::new();
        let names: Vec<&str> = kinds.iter().copied().collect();
        schema.insert("type".to_string(), if let [one] = names[..] { json!(one) } else { json!(names) });
        if let Some(unit) = unit.filter(|unit| !unit.is_empty()) {
            schema.insert("description".to_string(), json!(format!("unit: {unit}")));
        }
        if kinds.contains("integer") || ["×", "s", "ns"].iter().any(|other| unit == Some(other)) {
            schema.insert("minimum".to_string(), json!(0));
        }
        if kinds.contains("object") {
            let open = self.members.get("*");
            let sort = |name: &str| -> String {
                let kept = [
                    ("ops", "<op>"),
                    ("cpu", "<work>"),
                    ("windows", "<window>"),
                    ("disk.by_purpose", "<purpose>"),
                    ("stalls.by_cause", "<cause>"),
                ];
                let data = kept.iter().find(|(at, _)| *at == path).map(|(_, sort)| *sort);
                let data = data.or_else(|| path.ends_with("kinds").then_some("<kind>"));
                let data = data.or_else(|| {
                    path.starts_with("tree.pages.").then_some(match path {
                        path if path.ends_with(".kind") => "<kind>",
                        path if path.ends_with(".cause") => "<cause>",
                        _ => "",
                    })
                });
                let name = data.filter(|data| !data.is_empty()).unwrap_or(name);
                if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
            };
            if let Some(open) = open {
                schema.insert("additionalProperties".to_string(), open.schema(&sort("*"), units));
            } else {
                let members = self.members.iter();
                let properties: Map<String, Value> =
                    members.map(|(name, seen)| (name.clone(), seen.schema(&sort(name), units))).collect();
                schema.insert("required".to_string(), properties.keys().cloned().collect());
                schema.insert("properties".to_string(), Value::Object(properties));
                schema.insert("additionalProperties".to_string(), json!(false));
            }
        }
        if let Some(items) = self.items.as_ref().filter(|items| !items.kinds.is_empty()) {
            schema.insert("items".to_string(), items.schema(&format!("{path}[]"), units));
        }
        Value::Object(schema)
    }
}

/// The keywords that the schema uses, and no others.
fn check(value: &Value, schema: &Value, path: &str) {
    let schema = schema.as_object().unwrap();
    for (keyword, wanted) in schema {
        let is_right = match keyword.as_str() {
            "type" => {
                let is = |name: &Value| {
                    let kind = kind_of(value);
                    name == kind || (name == "number" && kind == "integer")
                };
                wanted.as_array().map_or_else(|| is(wanted), |names| names.iter().any(is))
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "required" => match value.as_object() {
                Some(members) => {
                    wanted.as_array().unwrap().iter().all(|name| members.contains_key(name.as_str().unwrap()))
                }
                None => true,
            },
            "properties" | "additionalProperties" => true,
            "items" => {
                let items = value.as_array().into_iter().flatten();
                items.zip(0..).for_each(|(item, index)| check(item, wanted, &format!("{path}[{index}]")));
                true
            }
            "const" => value == wanted,
            "$schema" | "title" | "description" => true,
            other => panic!("{path}: the schema says {other}"),
        };
        assert!(is_right, "{path}: {keyword} should be {wanted}, it is {value}");
    }
    let others = schema.get("additionalProperties");
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match schema.get("properties").and_then(|properties| properties.get(name)).or(others) {
            Some(Value::Bool(false)) | None => panic!("{path} is not in the schema"),
            Some(schema) => check(value, schema, &path),
        }
    }
}

fn schema() -> Value {
    let mut mem = lsm();
    mem.sample =
        Sample { shape: Shape { engine: "mem", variant: "map", ..Shape::default() }, ..Sample::default() };
    mem.physical.below = None;
    mem.state = State::Ok;
    mem.usage = Usage::default();
    let mut seen = Seen::default();
    for report in [lsm(), btree(), mem] {
        seen.add(&serde_json::from_str(&json(&report)).unwrap(), "");
    }
    // What only some moments have.
    let mut old = lsm();
    old.sample.shape.debt.oldest_tombstone = Some(Duration::from_secs(3));
    old.sample.shape.stalls.limits_off = Some("paused".to_string());
    seen.add(&serde_json::from_str(&json(&old)).unwrap(), "");
    let mut schema = seen.schema("", &units());
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("kvfs.stats/1: the report in .stats.d/json");
    schema["description"] = json!("docs/stats.md explains every key");
    schema["properties"]["schema"] = json!({ "const": "kvfs.stats/1" });
    schema
}

#[test]
fn the_schema_is_that_of_the_report_and_running_stores_keep_to_it() {
    let text = format!("{:#}\n", schema());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stats.schema.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == text, "docs/stats.schema.json is not what the reports are; BLESS=1 makes it anew");
    let schema: Value = serde_json::from_str(&stored).unwrap();
    for kind in [Kind::Mem, Kind::Lsm, Kind::Btree] {
        let rig = rig(|disk, clock| engine::open(disk, clock, &engine::Options::tiny(kind)).unwrap());
        check(&rig.json(".stats.d/json"), &schema, &kind.to_string());
        fill(&rig);
        rig.user_writes(3000);
        rig.write(OWNER, "mark a").unwrap();
        let mut batch = Batch::new(Op::Unlink.tag());
        batch.delete(vec![1, 7]);
        while rig.engine.apply(&batch, Tier::Disk).is_err() {
            engine::settle(&*rig.engine).unwrap();
        }
        engine::run(&*rig.engine, Command::Compact).unwrap();
        rig.clock.advance(Duration::from_secs(5));
        rig.control.tick();
        for file in [".stats.d/json", ".stats.d/since/a.json"] {
            check(&rig.json(file), &schema, &kind.to_string());
        }
    }
}

/// Sizes and counts are whole numbers, ratios are not, and text has no unit.
#[test]
fn units_fit_the_values() {
    let units = units();
    let schema = schema();
    let mut walked = 0;
    for (key, unit) in &units {
        let mut at = &schema;
        for name in key.split('.') {
            let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
            let Some(next) = at["properties"].get(name).or(at.get("additionalProperties")) else { break };
            at = if is_list { &next["items"] } else { next };
        }
        let kinds: BTreeSet<&str> = match &at["type"] {
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            name => name.as_str().into_iter().collect(),
        };
        if kinds.is_empty() || kinds.contains("object") || kinds.contains("array") {
            continue;
        }
        walked += 1;
        match unit.as_str() {
            "B" | "n" | "ms" => {
                assert!(kinds.contains("integer") && !kinds.contains("number"), "{key} {unit}: {kinds:?}")
            }
            "×" | "ns" | "s" | "B/n" => assert!(kinds.contains("number"), "{key} {unit}: {kinds:?}"),
            "" | "now" => assert!(!kinds.contains("number"), "{key}: {kinds:?}"),
            other => panic!("{key} has the unit {other}"),
        }
    }
    assert!(walked > 200, "{walked}");
}
