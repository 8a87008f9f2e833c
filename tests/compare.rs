//! `kvfs compare` as a program: a tiny matrix in a directory that it makes, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};

use kvfs::compare::row::Row;

fn compare(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvfs"));
    command.args(["compare", "--dir"]).arg(dir).args(line.split_whitespace()).output().unwrap()
}

#[test]
fn a_tiny_matrix_prints_its_crossovers_and_leaves_figures_and_a_plot() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("made/by/it");
    let line =
        "--puts 400 --memory 256K --sizes 20K,400K --values 100,8K --updates 0,100 --engines lsm,btree";
    let output = compare(&dir, line);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("seed 1") && text.lines().any(|line| line.starts_with("crossover ")), "{text}");
    assert!(output.stderr.is_empty(), "no progress where there is no terminal");

    let csv = std::fs::read_to_string(dir.join("compare.csv")).unwrap();
    let rows: Vec<Row> = csv.lines().skip(1).map(|line| Row::from_csv(line).unwrap()).collect();
    assert_eq!((csv.lines().next(), rows.len()), (Some(&*Row::csv_header()), 8 * 2));
    for row in &rows {
        assert_eq!(row.written.iter().sum::<u64>(), row.settled_bytes);
        assert!(
            row.unsettled_bytes <= row.settled_bytes && row.settled_bytes >= row.logical_bytes,
            "{row:?}"
        );
        // Memory is what a cell added, which may be nothing here.
        assert!(row.nanos > 0 && row.physical_bytes > row.live_bytes, "{row:?}");
    }
    let svg = std::fs::read_to_string(dir.join("compare.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == rows.len());

    // Bytes follow from the seed: a second run over the first one's results counts the same.
    assert!(compare(&dir, line).status.success());
    let again = std::fs::read_to_string(dir.join("compare.csv")).unwrap();
    let bytes = |csv: &str| -> Vec<(u64, u64)> {
        let rows = csv.lines().skip(1).filter_map(Row::from_csv);
        rows.map(|row| (row.unsettled_bytes, row.settled_bytes)).collect()
    };
    assert_eq!(bytes(&csv), bytes(&again));
}

#[test]
fn what_is_not_its_own_is_left_alone_and_wrong_words_are_named() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("holiday.jpg"), "sea").unwrap();
    for (line, part) in
        [("--quick", "holiday.jpg"), ("--engines mem", "lsm or btree"), ("--sizes lots", "--sizes lots")]
    {
        let output = compare(place.path(), line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.starts_with("kvfs: ") && said.contains(part), "{line}: {said}");
    }
    assert_eq!(std::fs::read_to_string(place.path().join("holiday.jpg")).unwrap(), "sea");
}
