//! `docs/stats.schema.json`: what the JSON report may hold, as JSON Schema. It is made from the rows of the report; the reports of
//! running stores are then held to it.

use kvfs::base::metric::Stability;
use kvfs::control::{WitnessControl, WitnessInfo};
use kvfs::witness::{Directory, Patterns};
use serde_json::{Map, json};

use super::*;

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

/// The object whose rows stand below `prefix`, which ends with a dot unless it is empty.
fn object(prefix: &str, entries: &[Entry]) -> Value {
    let mut properties = Map::new();
    for entry in entries {
        if let Some(name) = entry.path.strip_prefix(prefix)
            && !name.is_empty()
            && !name.contains(['.', '['])
        {
            let before = properties.insert(name.to_string(), node(entry, entries));
            assert!(before.is_none(), "{} is there twice", entry.path);
        }
    }
    json!({
        "type": "object",
        "required": properties.keys().collect::<Vec<_>>(),
        "properties": properties,
        "additionalProperties": false,
    })
}

fn node(entry: &Entry, entries: &[Entry]) -> Value {
    let Entry { path, row, types } = entry;
    let mut node = json!({});
    let place = entries.iter().find_map(|entry| {
        let rest = entry.path.strip_prefix(path.as_str())?.strip_prefix(".<")?;
        Some(format!("{path}.<{}>.", rest.split_once('>')?.0))
    });
    if row.kind != MetricKind::Part {
        if types.contains(&"integer") || types.contains(&"number") {
            node["minimum"] = json!(0);
        }
    } else if types.contains(&"array") {
        node["items"] = object(&format!("{path}[]."), entries);
    } else if let Some(place) = place {
        node["additionalProperties"] = object(&place, entries);
    } else {
        node = object(&format!("{path}."), entries);
    }
    node["type"] = if let [one] = types[..] { json!(one) } else { json!(types) };
    let unit = if row.unit == Unit::None { String::new() } else { format!(" Unit: {}.", row.unit.sign()) };
    let stability = match row.stability {
        Stability::Experimental if row.kind != MetricKind::Part => " Experimental: it may change.",
        _ => "",
    };
    node["description"] = json!(format!("{}{unit}{stability}", row.help.trim()));
    if !row.kind.name().is_empty() {
        node["$comment"] = json!(format!("checked by {}", row.witness));
    }
    node
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
            "$schema" | "$comment" | "title" | "description" => true,
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

/// The schema of any rows.
pub fn schema_of(entries: &[Entry]) -> Value {
    object("", entries)
}

/// The schema called `name` of a report with these rows, which `document` has in tables.
fn schema(name: &str, document: &str, entries: &[Entry]) -> Value {
    let mut schema = schema_of(entries);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("{name}: the report in .stats.d/json"));
    schema["description"] = json!(format!("{document} has the same in tables"));
    schema["properties"]["schema"] = json!({ "const": name });
    schema
}

/// The schema as the file of `docs/` has it, which must be what is made from the rows.
fn stored(file: &str, made: &Value) -> Value {
    let text = format!("{made:#}\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == text, "docs/{file} is not what the reports are; BLESS=1 makes it anew");
    serde_json::from_str(&stored).unwrap()
}

#[test]
fn the_schema_of_a_witness_is_that_of_its_report() {
    let schema =
        stored("witness.schema.json", &schema("kvfs.witness/1", "docs/witness.md", &witness_entries()));
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("000001.log"), "1").unwrap();
    let directory = Arc::new(Directory::open(home.path(), Patterns::built_in(None)).unwrap());
    let clock = Arc::new(ManualClock::default());
    let control = WitnessControl::new(WitnessInfo::default(), directory, clock, Box::new(|| None));
    control.tick();
    let report = kvfs::control::value(&control.document());
    check(&report, &schema, "witness");
    assert_eq!(report["by_class"]["log"]["files"], 1);
}

#[test]
fn the_schema_is_that_of_the_report_and_running_stores_keep_to_it() {
    let schema = stored("stats.schema.json", &schema("kvfs.stats/1", "docs/stats.md", &entries()));
    for kind in [Kind::MEM, Kind::LSM, Kind::BTREE] {
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
    let mut entries = entries();
    entries.extend(witness_entries());
    assert!(entries.len() > 250, "{}", entries.len());
    for Entry { path, row, types } in entries {
        let has = |name: &str| types.contains(&name);
        // A statistic says its unit itself.
        let is_own_unit = path == "engine_statistics.<statistic>.value";
        match row.unit {
            Unit::Bytes | Unit::Count | Unit::Milliseconds => {
                assert!(has("integer") || has("array"), "{path}: {types:?}")
            }
            Unit::Ratio | Unit::Seconds | Unit::BytesEach | Unit::Dollars => {
                assert!(has("number"), "{path}: {types:?}")
            }
            Unit::Nanoseconds => assert!(has("integer") || has("number"), "{path}: {types:?}"),
            Unit::None => assert!(
                is_own_unit || !has("number") && (!has("integer") || row.kind != MetricKind::Counter),
                "{path}: {types:?}"
            ),
        }
        assert!(
            row.help.trim().ends_with(['.', '…']),
            "{path}: a sentence ends with a full stop: {}",
            row.help
        );
    }
}
