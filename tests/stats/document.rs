//! `docs/stats.md` has every row.

use kvfs::base::metric::Row;
use kvfs::control::{Document, WitnessDocument};

use super::*;

/// Every row of the report.
pub fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    Document::list_rows("", &mut entries);
    entries
}

/// Every row of a witness's report.
pub fn witness_entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    WitnessDocument::list_rows("", &mut entries);
    entries
}

/// The Prometheus family of a row.
pub fn family_of(entry: &Entry) -> String {
    let parts = entry.path.split('.').map(|part| part.trim_end_matches("[]"));
    let parts: Vec<&str> = parts.filter(|part| !part.starts_with('<')).collect();
    family(parts[..parts.len() - 1].iter().copied(), entry.row)
}

/// The line of a row in the document.
pub fn documented(entry: &Entry) -> String {
    let Row { kind, unit, help, stability, witness, .. } = entry.row;
    let family = if is_exposed(entry.row) { format!("`{}`", family_of(entry)) } else { String::new() };
    let stability = if *kind == MetricKind::Part { "" } else { stability.name() };
    // Words have none: what is counted is told from what is said.
    let witness = if kind.name().is_empty() { String::new() } else { format!("`{witness}`") };
    let (unit, kind, help) = (unit.sign(), kind.name(), help.trim());
    format!("| `{}` | {unit} | {kind} | {help} | {family} | {stability} | {witness} |\n", entry.path)
}

/// The table of rows below `roots`, or with `.` of those that stand below none.
fn table(roots: &[&str], entries: &[Entry]) -> String {
    let mut text = "| key | unit | kind | meaning | Prometheus | stability | checked by |\n|---|---|---|---|---|---|---|\n".to_string();
    let root = |entry: &Entry| entry.path.split(['.', '[']).next().unwrap_or_default().to_string();
    let is_alone = |entry: &Entry| !entry.path.contains('.') && entry.row.kind != MetricKind::Part;
    for name in roots {
        let rows =
            entries.iter().filter(|entry| if *name == "." { is_alone(entry) } else { root(entry) == *name });
        text.extend(rows.map(documented));
    }
    text
}

/// Holds the tables of a document to the rows of a report, and returns its text.
fn hold(name: &str, entries: &[Entry]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let document = std::fs::read_to_string(&path).unwrap();
    let (mut made, mut shown) = (String::new(), Vec::new());
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        made += line;
        made += "\n";
        let Some(roots) = line.strip_prefix("<!-- rows: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let roots: Vec<&str> = roots.split(' ').collect();
        made += &table(&roots, entries);
        shown.extend(roots);
        if lines.by_ref().find(|line| !line.starts_with('|')).is_some() {
            made += "\n";
        }
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert!(
        made == document,
        "the tables of docs/{name} are not those of the source; BLESS=1 makes them anew"
    );
    let roots: BTreeSet<&str> = entries
        .iter()
        .filter(|entry| entry.path.contains('.'))
        .filter_map(|entry| entry.path.split(['.', '[']).next())
        .collect();
    let missing: Vec<&str> = roots.into_iter().filter(|root| !shown.contains(root)).collect();
    assert!(missing.is_empty(), "docs/{name} has no table for {missing:?}");
    document
}

#[test]
fn the_documents_have_every_row() {
    hold("witness.md", &witness_entries());
    let document = hold("stats.md", &entries());
    let names = Purpose::all().map(Purpose::name).chain(Cause::ALL.map(Cause::name));
    let names = names.chain(PageCause::ALL.map(PageCause::name)).chain(PageKind::ALL.map(PageKind::name));
    let missing: Vec<&str> = names.filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/stats.md does not explain {missing:?}");
}
