//! What a recording says of itself: its head, the end of its image, the meters and its end. JSON objects, in which a reader passes
//! over names that it does not know.

use serde_json::{Value, json};

/// Who recorded what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Version of the program that wrote it.
    pub program: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// What the keys are: `kvfs` those of this filesystem; of an import, the name of the format that it comes from.
    pub keys: String,
    /// The engine that was recorded.
    pub engine: String,
    /// Its options, and those of the mount, as in `-o`.
    pub options: Vec<(String, String)>,
    /// Names of the file operations, by the tags of events.
    pub operations: Vec<String>,
    /// Names of the kinds of keys, by the indexes of [`Meters::incompressible`].
    pub kinds: Vec<String>,
    /// Whether names are as they were.
    pub keeps_names: bool,
    /// Whether values are kept, and not only their lengths.
    pub keeps_values: bool,
}

impl Head {
    pub(super) fn to_json(&self) -> String {
        let options: serde_json::Map<String, Value> =
            self.options.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "program": self.program,
            "began_ms": self.began_ms,
            "keys": self.keys,
            "engine": self.engine,
            "options": options,
            "operations": self.operations,
            "kinds": self.kinds,
            "keeps_names": self.keeps_names,
            "keeps_values": self.keeps_values,
        })
        .to_string()
    }

    pub(super) fn of_json(text: &[u8]) -> Option<Head> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let options = value["options"].as_object()?.iter();
        Some(Head {
            program: string(&value, "program"),
            began_ms: value["began_ms"].as_u64().unwrap_or_default(),
            keys: string(&value, "keys"),
            engine: string(&value, "engine"),
            options: options
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_string()))
                .collect(),
            operations: strings(&value, "operations"),
            kinds: strings(&value, "kinds"),
            keeps_names: value["keeps_names"].as_bool()?,
            keeps_values: value["keeps_values"].as_bool()?,
        })
    }

    /// The name of the operation with a tag; `background` for what none has.
    pub fn operation(&self, tag: u8) -> &str {
        self.operations.get(usize::from(tag)).map_or("background", String::as_str)
    }
}

fn string(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_string()
}

fn strings(value: &Value, name: &str) -> Vec<String> {
    let list = value[name].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().unwrap_or_default().to_string()).collect()
}

/// The end of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageEnd {
    /// Entries in it.
    pub entries: u64,
    /// Bytes of their keys.
    pub key_bytes: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// The end of the history that it holds: a batch up to here is in it.
    pub lsn: u64,
    /// Whether it is of one moment. If not, it was read while changes went on, and a change behind [`ImageEnd::lsn`] may be in it, too.
    pub is_of_one_moment: bool,
}

impl ImageEnd {
    pub(super) fn to_json(self) -> String {
        json!({
            "entries": self.entries,
            "key_bytes": self.key_bytes,
            "value_bytes": self.value_bytes,
            "lsn": self.lsn,
            "is_of_one_moment": self.is_of_one_moment,
        })
        .to_string()
    }

    pub(super) fn of_json(text: &[u8]) -> Option<ImageEnd> {
        let value: Value = serde_json::from_slice(text).ok()?;
        Some(ImageEnd {
            entries: value["entries"].as_u64()?,
            key_bytes: value["key_bytes"].as_u64()?,
            value_bytes: value["value_bytes"].as_u64()?,
            lsn: value["lsn"].as_u64()?,
            is_of_one_moment: value["is_of_one_moment"].as_bool()?,
        })
    }
}

/// Counts since the recording began; what nobody could count is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meters {
    /// Nanoseconds.
    pub elapsed_ns: Option<u64>,
    /// Door 1: bytes that programs wrote.
    pub app_write_bytes: Option<u64>,
    /// Door 1: bytes that programs read since the image was whole.
    pub app_read_bytes: Option<u64>,
    /// Door 2: bytes of keys and values put, and of keys deleted.
    pub kv_write_bytes: Option<u64>,
    /// Door 3: bytes written.
    pub disk_write_bytes: Option<u64>,
    /// Door 3: bytes read since the image was whole, which is read there, too.
    pub disk_read_bytes: Option<u64>,
    /// Door 3: of the bytes written, those of the log.
    pub log_write_bytes: Option<u64>,
    /// Door 3: syncs.
    pub disk_syncs: Option<u64>,
    /// Nanoseconds for which writers were held back, all together.
    pub stalled_ns: Option<u64>,
    /// Bytes that the store's files occupy now.
    pub physical_bytes: Option<u64>,
    /// Bytes that live entries of the store take now.
    pub live_bytes: Option<u64>,
    /// Events noted.
    pub events: Option<u64>,
    /// Events that are missing.
    pub dropped: Option<u64>,
    /// Share of a value's bytes that is left when it is compressed (lz4), estimated, by kind of key.
    pub incompressible: Vec<Option<f64>>,
}

type Field = (&'static str, fn(&Meters) -> Option<u64>, fn(&mut Meters) -> &mut Option<u64>);

/// Every number with its name.
const FIELDS: [Field; 13] = [
    ("elapsed_ns", |meters| meters.elapsed_ns, |meters| &mut meters.elapsed_ns),
    ("app_write_bytes", |meters| meters.app_write_bytes, |meters| &mut meters.app_write_bytes),
    ("app_read_bytes", |meters| meters.app_read_bytes, |meters| &mut meters.app_read_bytes),
    ("kv_write_bytes", |meters| meters.kv_write_bytes, |meters| &mut meters.kv_write_bytes),
    ("disk_write_bytes", |meters| meters.disk_write_bytes, |meters| &mut meters.disk_write_bytes),
    ("disk_read_bytes", |meters| meters.disk_read_bytes, |meters| &mut meters.disk_read_bytes),
    ("log_write_bytes", |meters| meters.log_write_bytes, |meters| &mut meters.log_write_bytes),
    ("disk_syncs", |meters| meters.disk_syncs, |meters| &mut meters.disk_syncs),
    ("stalled_ns", |meters| meters.stalled_ns, |meters| &mut meters.stalled_ns),
    ("physical_bytes", |meters| meters.physical_bytes, |meters| &mut meters.physical_bytes),
    ("live_bytes", |meters| meters.live_bytes, |meters| &mut meters.live_bytes),
    ("events", |meters| meters.events, |meters| &mut meters.events),
    ("dropped", |meters| meters.dropped, |meters| &mut meters.dropped),
];

impl Meters {
    pub(super) fn to_json(&self) -> String {
        let numbers = FIELDS.iter().map(|(name, get, _)| (name.to_string(), json!(get(self))));
        let mut object: serde_json::Map<String, Value> = numbers.collect();
        object.insert("incompressible".to_string(), json!(self.incompressible));
        Value::Object(object).to_string()
    }

    pub(super) fn of_json(text: &[u8]) -> Option<Meters> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let mut meters = Meters::default();
        for (name, _, slot) in FIELDS {
            *slot(&mut meters) = value[name].as_u64();
        }
        let shares = value["incompressible"].as_array()?;
        meters.incompressible = shares.iter().map(Value::as_f64).collect();
        Some(meters)
    }

    /// Every number that was counted, with its name.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FIELDS.iter().filter_map(|(name, get, _)| Some((*name, get(self)?)))
    }

    /// Bytes written to the disk for each byte that programs wrote; `None` where one of the two is not known.
    pub fn write_amplification(&self) -> Option<f64> {
        crate::base::metric::ratio(self.disk_write_bytes?, self.app_write_bytes?)
    }
}

/// The end of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why it ended, in a few words.
    pub why: String,
}

impl End {
    pub(super) fn to_json(&self) -> String {
        json!({ "why": self.why }).to_string()
    }

    pub(super) fn of_json(text: &[u8]) -> Option<End> {
        let value: Value = serde_json::from_slice(text).ok()?;
        Some(End { why: value["why"].as_str()?.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_recording_says_of_itself_comes_back() {
        let head = Head {
            program: "1.2.3".into(),
            began_ms: 1,
            keys: "kvfs".into(),
            engine: "lsm".into(),
            options: vec![("policy".into(), "tiered".into())],
            operations: vec!["lookup".into(), "write".into()],
            kinds: vec!["super".into()],
            keeps_names: true,
            keeps_values: false,
        };
        assert_eq!(Head::of_json(head.to_json().as_bytes()).unwrap(), head);
        assert_eq!((head.operation(1), head.operation(2)), ("write", "background"));
        let end =
            ImageEnd { entries: 1, key_bytes: 2, value_bytes: 3, lsn: u64::MAX, is_of_one_moment: true };
        assert_eq!(ImageEnd::of_json(end.to_json().as_bytes()), Some(end));
        let mut meters = Meters { incompressible: vec![None, Some(0.5)], ..Meters::default() };
        assert_eq!((meters.list().count(), meters.write_amplification()), (0, None));
        for (number, (_, _, slot)) in (10..).zip(FIELDS) {
            *slot(&mut meters) = Some(number);
        }
        let names: std::collections::BTreeSet<_> = FIELDS.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), meters.list().count());
        assert_eq!(meters.list().map(|(_, number)| number).collect::<Vec<_>>(), (10..23).collect::<Vec<_>>());
        assert_eq!(Meters::of_json(meters.to_json().as_bytes()).unwrap(), meters);
        assert_eq!(meters.write_amplification(), Some(14.0 / 11.0));
        let end = End { why: "it was told to".into() };
        assert_eq!(End::of_json(end.to_json().as_bytes()), Some(end));
        assert!(Head::of_json(b"{}").is_none() && Meters::of_json(b"[").is_none());
    }
}
