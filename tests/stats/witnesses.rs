//! Each number has a witness: a test that would fail if the number were wrong. Whether it would, nobody can see by machine; that the test is there
//! and speaks of the number, this does.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use kvfs::base::metric::Row;

use super::*;

/// The functions of some files by name, each as its text; those in `#[test]` are tests.
#[derive(Default)]
struct Functions {
    bodies: BTreeMap<String, String>,
    tests: BTreeSet<String>,
}

impl Functions {
    fn add(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let rest = code.strip_prefix("pub ").unwrap_or(code);
            let Some(name) = rest.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) else {
                continue;
            };
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let body: Vec<&str> = lines[at..].iter().copied().take_while(|line| **line != *end).collect();
            self.bodies.entry(name.to_string()).or_default().push_str(&body.join("\n"));
            let attributes = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
            if attributes.into_iter().any(|line| line.trim() == "#[test]") {
                self.tests.insert(name.to_string());
            }
        }
    }

    /// The text of a function and of those that it calls.
    fn text(&self, name: &str, seen: &mut BTreeSet<String>) -> String {
        let Some(body) = self.bodies.get(name).filter(|_| seen.insert(name.to_string())) else {
            return String::new();
        };
        let mut text = body.clone();
        for called in words(body).filter(|word| self.bodies.contains_key(*word)) {
            text += &self.text(called, seen);
        }
        text
    }
}

/// Names in a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

/// The folder of a witness's files, with the files beside it: `stats::doors` lies in `tests/stats.rs` and `tests/stats/`.
fn files(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (place, names) = match module.strip_prefix("kvfs::") {
        Some(names) => (root.join("src"), names.strip_suffix("::tests").unwrap_or(names)),
        None => (root.join("tests"), module.split("::").next().unwrap_or(module)),
    };
    // A module of tests may be a file of its own, one of a folder, or stand in the file that it tests.
    let mut path = place.join(names.replace("::", "/"));
    while !path.with_extension("rs").is_file() && !path.is_dir() && path.pop() {}
    let mut found = vec![path.with_extension("rs")];
    let beside = path.parent().map_or(path.clone(), |parent| parent.join("tests"));
    // What several tests share.
    let shared = root.join("tests/support");
    for folder in [path.clone(), path.join("tests"), beside]
        .into_iter()
        .chain((place != root.join("src")).then_some(shared))
    {
        found.extend(std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()));
    }
    found.retain(|path| path.extension().is_some_and(|end| end == "rs") && path.is_file());
    found
}

fn functions(module: &str) -> Functions {
    let mut functions = Functions::default();
    files(module).iter().for_each(|path| functions.add(&std::fs::read_to_string(path).unwrap()));
    functions
}

/// What is wrong with the witness of `row`.
fn flaw(row: &Row, modules: &mut HashMap<String, Functions>) -> Option<String> {
    let Some((module, test)) = row.witness.rsplit_once("::") else {
        return Some("has no witness".to_string());
    };
    let functions = modules.entry(module.to_string()).or_insert_with(|| functions(module));
    if !functions.tests.contains(test) {
        return Some(format!("has the witness {}, which is no test", row.witness));
    }
    let text = functions.text(test, &mut BTreeSet::new());
    let speaks = words(&text).any(|word| word == row.name || word == row.field);
    (!speaks).then(|| format!("has the witness {}, which does not speak of it", row.witness))
}

#[test]
fn every_number_has_a_test_that_speaks_of_it() {
    let mut modules = HashMap::new();
    let mut entries = entries();
    entries.extend(witness_entries());
    kvfs::control::Second::list_rows("history.", &mut entries);
    let numbers = entries.iter().filter(|entry| !entry.row.kind.name().is_empty());
    let flaws: BTreeSet<String> = numbers
        .filter_map(|entry| Some(format!("{} {}", entry.path, flaw(entry.row, &mut modules)?)))
        .collect();
    assert!(flaws.is_empty(), "{} numbers:\n{}", flaws.len(), Vec::from_iter(flaws).join("\n"));
}

#[test]
fn a_witness_that_is_not_there_or_speaks_of_something_else_is_found() {
    let row = |witness: &'static str| Row { witness, ..*entries()[0].row };
    let speaking = Row {
        name: "speaking",
        field: "speaking",
        ..row("stats::witnesses::a_witness_that_is_not_there_or_speaks_of_something_else_is_found")
    };
    let silent = Row { name: concat!("some", "thing"), field: concat!("some", "thing"), ..speaking };
    let found = |row: Row| flaw(&row, &mut HashMap::new()).unwrap_or_default();
    assert_eq!(found(speaking), "");
    assert!(found(silent).ends_with("does not speak of it"));
    assert!(found(row("")).ends_with("no witness"));
    for none in [
        "stats::witnesses::flaw",
        "stats::doors::nothing",
        "kvfs::engine::cpu::tests::nothing",
        "nowhere::at_all",
    ] {
        assert!(found(row(none)).ends_with("is no test"), "{none}");
    }
}
