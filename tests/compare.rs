//! `kvfs compare` as a program: a tiny matrix in a directory that it makes, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};

use kvfs::compare::matrix::row::Row;
use kvfs::compare::workloads::row::Row as Timed;

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
        let settled_bytes = row.settled_bytes.unwrap();
        assert_eq!(row.written.iter().sum::<u64>(), settled_bytes);
        assert!(
            row.unsettled_bytes.unwrap() <= settled_bytes && settled_bytes >= row.logical_bytes,
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
    let bytes = |csv: &str| -> Vec<(Option<u64>, Option<u64>)> {
        let rows = csv.lines().skip(1).filter_map(Row::from_csv);
        rows.map(|row| (row.unsettled_bytes, row.settled_bytes)).collect()
    };
    assert_eq!(bytes(&csv), bytes(&again));
}

#[test]
fn workloads_run_in_turns_and_leave_figures_that_add_up() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = place.path().join("workloads");
    let small = "--memory 512K --sizes 1M --values 100,4K --puts 500 --gets 500 --engines lsm,btree,mem";
    let output = compare(&dir, &format!("--workloads all {small}"));
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && said.is_empty(), "{text}{said}");
    for part in [
        "workload           engine",
        "| fillrandom | ",
        "÷ best other",
        "* cut by the time limit",
        "written: ",
    ] {
        assert!(text.contains(part), "no '{part}' in {text}");
    }
    let csv = std::fs::read_to_string(dir.join("workloads.csv")).unwrap();
    let rows: Vec<Timed> = csv.lines().skip(1).map(|line| Timed::from_csv(line).unwrap()).collect();
    assert_eq!(csv.lines().next(), Some(&*Timed::csv_header()));
    // 22 workloads, six of two lines, two of three and one of four; what keeps nothing has no cold reads.
    assert_eq!(rows.len(), 2 * (2 * 35 + 32), "{csv}");
    for row in &rows {
        let [write, unsettled, log] =
            [row.door_write_bytes, row.door_unsettled_bytes, row.door_log_bytes].map(Option::unwrap);
        assert!(unsettled <= write && log <= write, "{row:?}");
        assert!(
            row.ops > 0 && row.logical_bytes > 0 && row.run_nanos <= row.whole_nanos && row.is_cut == 0,
            "{row:?}"
        );
        assert!(
            row.p50_nanos <= row.p99_nanos
                && row.p99_nanos <= row.p999_nanos
                && row.p999_nanos <= row.max_nanos
        );
        // Every byte of a put is in the log at least.
        let puts = ["fill", "overwrite", "sync"].iter().any(|name| row.workload.starts_with(name));
        assert!(!puts || row.contender == "mem" || write >= row.logical_bytes, "{row:?}");
        // A map in memory holds what was put into it.
        let is_new = row.contender == "mem" && row.workload.starts_with("fill");
        assert!(!is_new || row.memory_peak_bytes >= row.live_bytes / 2, "{row:?}");
        assert!(
            row.contender == "mem" || row.occupied_bytes > 0 && row.occupied_peak_bytes >= row.occupied_bytes
        );
    }
    let json = std::fs::read_to_string(dir.join("workloads.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().unwrap().len(), rows.len());
    assert_eq!(json[0]["ops"].as_u64(), Some(rows[0].ops));
    assert!(
        std::fs::read_dir(dir.join("kvfs-compare.tmp"))
            .unwrap()
            .all(|entry| entry.unwrap().file_name() == "LOCK")
    );

    // Filled stores are kept and used again, and what has been deleted from is filled anew.
    let line = format!("{small} --keep --engines lsm --values 100")
        .replace("--engines lsm,btree,mem ", "")
        .replace("--values 100,4K ", "");
    for (workloads, fills) in [("fillrandom", 1), ("readrandom,coldread", 0), ("delete", 0), ("readzipf", 0)]
    {
        let output = compare(&dir, &format!("--workloads {workloads} {line}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let csv = std::fs::read_to_string(dir.join("workloads.csv")).unwrap();
        assert_eq!(csv.matches(",fillrandom,").count(), fills, "{csv}");
        let mark = std::fs::read_dir(dir.join("kvfs-compare.tmp")).unwrap().find_map(|entry| {
            let path = entry.unwrap().path().join("FILLED");
            path.exists().then_some(path)
        });
        assert_eq!(mark.is_some(), workloads != "delete", "{workloads}");
    }
}

#[test]
fn what_is_not_its_own_is_left_alone_and_wrong_words_are_named() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("holiday.jpg"), "sea").unwrap();
    for (line, part) in [
        ("--quick", "holiday.jpg"),
        ("--engines mem", "lsm, btree or hybrid"),
        ("--sizes lots", "--sizes lots"),
        ("--workloads jump", "--workloads jump: takes all, or fillseq,"),
        ("--workloads all --engines redb", "lsm, btree, hybrid or mem"),
    ] {
        let output = compare(place.path(), line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.starts_with("kvfs: ") && said.contains(part), "{line}: {said}");
    }
    assert_eq!(std::fs::read_to_string(place.path().join("holiday.jpg")).unwrap(), "sea");
}
