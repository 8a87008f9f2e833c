//! Reports as they were, byte by byte.

use super::*;

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stats").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; BLESS=1 rewrites it. Now:\n{actual}");
}

#[test]
fn reports_are_as_they_were() {
    golden("lsm.txt", &text(&lsm()));
    golden("btree.txt", &text(&btree()));
    golden("hybrid.txt", &text(&hybrid()));
    golden("lsm.levels.txt", &levels(&lsm()));
    golden("btree.levels.txt", &levels(&btree()));
    golden("lsm.json", &json(&lsm()));
    golden("btree.json", &json(&btree()));
    golden("hybrid.levels.txt", &levels(&hybrid()));
    golden("hybrid.json", &json(&hybrid()));
}

/// A page that nobody could see would show nothing.
#[test]
fn samples_wait_for_what_their_engine_waits_for() {
    for report in [lsm(), btree(), hybrid()] {
        let shape = &report.sample.shape;
        let waited = |cause: &Cause| shape.stalls.by_cause.of(*cause).stops > 0;
        let found: Vec<Cause> = Cause::ALL.into_iter().filter(waited).collect();
        assert!(found.len() == 2 && found.contains(&shape.stalls.now.unwrap()), "{found:?}");
        assert!(found.iter().all(|cause| causes(shape.engine).contains(cause)), "{found:?}");
    }
}

#[test]
fn reports_keep_to_a_page_and_begin_alike() {
    let mut empty = lsm();
    empty.sample =
        Sample { shape: Shape { engine: "mem", variant: "map", ..Shape::default() }, ..Sample::default() };
    let mut long = btree();
    long.mount = Arc::new(MountInfo {
        store_path: format!("/{}", "d\u{e4}ta/".repeat(60)),
        mount_path: "/mnt/".repeat(60),
        ..(*long.mount).clone()
    });
    long.state = State::ReadOnly("sync of 000012.log failed: Input/output error ".repeat(5));
    long.sample.shape.jobs = (0..90).map(|n| format!("merge {n}")).collect();
    long.sample.ops = ops(&Op::ALL.map(|op| (op, u64::MAX >> 8, u64::MAX >> 8, u64::MAX >> 8)));
    let marked = lsm().since(
        "a-mark-with-quite-a-long-name-0123456789-0123456789",
        &Sample::default(),
        &Charges::default(),
    );
    for report in [lsm(), btree(), hybrid(), empty, long, marked] {
        let text = text(&report);
        // Sixty, and the line of a recording.
        assert!(text.lines().count() <= 61, "{} lines", text.lines().count());
        for line in text.lines() {
            assert!(
                line.len() <= 100 && line.is_ascii() && line == line.trim_end(),
                "{} {line:?}",
                line.len()
            );
        }
    }
    // The words of the first eight lines do not depend on the engine.
    let words = |report: &Report| {
        let text = text(report).replace("engine=btree-page-images", "engine=lsm-leveled");
        let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_alphabetic() || c == '=');
        text.lines()
            .take(8)
            .map(|line| line.split(' ').filter(is_word).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&lsm()), words(&btree()));
    assert_eq!(words(&lsm()).len(), 8);
}
