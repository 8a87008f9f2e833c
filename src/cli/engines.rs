//! `kvfs engines`: what the option `engine` takes, from the registry.

use serde_json::{Value, json};

use crate::engine::{Home, Kind};

/// Every engine with its variants: for people a line each, or as JSON for programs.
pub(super) fn list(is_json: bool) -> String {
    let text = if is_json {
        let all: Vec<Value> = Kind::all().map(value).collect();
        format!("{:#}", Value::from(all))
    } else {
        Kind::all().map(line).collect::<Vec<String>>().join("\n")
    };
    text + "\n"
}

fn value(kind: Kind) -> Value {
    let variants: Vec<Value> = kind
        .variants()
        .into_iter()
        .map(|(option, value)| json!({ "option": option, "value": value }))
        .collect();
    json!({
        "name": kind.name,
        "help": kind.help,
        "keeps": kind.keeps,
        "metered_disk": matches!(kind.home, Home::Disk(_)),
        "variants": variants,
    })
}

fn line(kind: Kind) -> String {
    let choice: String =
        kind.variants.iter().map(|(option, values)| format!("; {option}={}", values().join("|"))).collect();
    format!("{:8} {}{choice}", kind.name, kind.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_can_be_mounted() {
        let listed: Value = serde_json::from_str(&list(true)).unwrap();
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), Kind::all().count());
        for engine in listed {
            let kind = Kind::parse(engine["name"].as_str().unwrap()).unwrap();
            for variant in engine["variants"].as_array().unwrap() {
                let mut options = kind.default_options();
                let word = |part: &str| variant[part].as_str().unwrap();
                options.set(word("option"), word("value")).unwrap().unwrap();
            }
        }
        let text = list(false);
        assert_eq!(text.lines().count(), listed.len());
        assert!(text.contains("lsm ") && text.contains("policy=leveled|"), "{text}");
    }
}
