//! The decoder of the file that says what kind of store a directory holds.

use super::Description;
use crate::base::decoder::Decoder;

/// The decoder of that file.
pub const ALL: &[Decoder] = &[Decoder { name: "description", decode: description, valid: descriptions }];

/// With the checksum that fits: the last line is made anew.
fn description(bytes: &[u8]) -> bool {
    let _ = Description::decode(bytes);
    let text = String::from_utf8_lossy(bytes);
    let body = &text[..text.rfind("crc32=").unwrap_or(text.len())];
    let whole = format!("{body}crc32={:08x}\n", crc32fast::hash(body.as_bytes()));
    let Ok(description) = Description::decode(whole.as_bytes()) else { return false };
    // Options that nobody knows, or that contradict each other, are an error.
    let _ = description.settings(&Vec::new());
    let again = Description::decode(description.encode().as_bytes());
    assert!(again.is_ok_and(|again| (again.uuid, again.options) == (description.uuid, description.options)));
    true
}

fn descriptions() -> Vec<Vec<u8>> {
    let given = [("engine".to_string(), "btree".to_string()), ("block".to_string(), "4K".to_string())];
    [&given[..1], &given[..], &[]]
        .into_iter()
        .filter_map(|given| Some(Description::new(given).ok()?.encode().into_bytes()))
        .collect()
}
