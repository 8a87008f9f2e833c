//! Advice for people, and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::advice::{Advice, Row, SHIFTS};
use super::model::Sizes;
use super::source::Recorded;
use super::steps::Steps;
use crate::base::text::human_size;

/// Regret below this is none that a model could tell.
const REGRET_MIN: f64 = 0.01;

fn times(ratio: Option<f64>) -> String {
    match ratio {
        None => "-".to_string(),
        Some(ratio) if ratio >= 99.5 => format!("{ratio:.0}"),
        Some(ratio) if ratio >= 9.95 => format!("{ratio:.1}"),
        Some(ratio) => format!("{ratio:.2}"),
    }
}

/// What was recorded, in two lines.
fn head(steps: &Steps, recorded: &Recorded) -> String {
    let totals = &steps.totals;
    let seconds = recorded.elapsed_ns / 1_000_000_000;
    let mut text = format!(
        "recorded: engine={}, {} h {:02} min {:02} s; {} changes in {} batches ({}), {} reads ({} returned), {} syncs\n",
        recorded.engine,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        totals.changes,
        totals.batches,
        human_size(totals.logical_bytes),
        totals.reads,
        human_size(totals.returned_bytes),
        totals.syncs,
    );
    let _ = writeln!(
        text,
        "image: {} entries; at the end {} live",
        recorded.image_entries,
        human_size(totals.live_bytes)
    );
    if !recorded.is_image_whole {
        text.push_str(
            "the image is not whole: what was there before is missing, and amplifications are too low\n",
        );
    }
    if recorded.gap_events > 0 {
        let _ = writeln!(
            text,
            "{} events are missing: they came faster than they could be written",
            recorded.gap_events
        );
    }
    text
}

/// Text: the front, or with `is_all` every design.
pub fn text(advice: &Advice, steps: &Steps, recorded: &Recorded, is_all: bool) -> String {
    let mut text = head(steps, recorded);
    let of = |is_app: bool, other: &'static str| if is_app { "programs" } else { other };
    let on_front = advice.rows.iter().filter(|row| row.is_on_front).count();
    let _ = writeln!(
        text,
        "\n{} designs, {on_front} on the front of write × read × space (*), r is the store that was recorded, and what a design does not say is as there;\nwrite a byte written by {}, read a byte read by {}\n",
        advice.rows.len(),
        of(advice.is_of_app_writes, "the filesystem"),
        of(advice.is_of_app_reads, "the filesystem"),
    );
    let _ = writeln!(text, "   {:>7} {:>7} {:>7} {:>7}  -o", "write", "read", "space", "peak");
    let is_shown = |row: &&Row| is_all || row.is_on_front || row.is_recorded;
    let rows: Vec<&Row> = advice.rows.iter().filter(is_shown).collect();
    let alike = |a: &&Row, b: &&Row| {
        (a.write, a.read, a.space) == (b.write, b.read, b.space) && !a.is_recorded && !b.is_recorded
    };
    for rows in rows.chunk_by(alike) {
        // Where options make no difference, the fewest of them say it.
        let Some(row) = rows.iter().min_by_key(|row| row.text.len()) else { continue };
        let more = match rows.len() {
            1 => String::new(),
            count => format!("  (and {} alike)", count - 1),
        };
        let _ = writeln!(
            text,
            "{}{} {:>7} {:>7} {:>7} {:>7}  {}{more}",
            if row.is_on_front { '*' } else { ' ' },
            if row.is_recorded { 'r' } else { ' ' },
            times(Some(row.write)),
            times(row.read),
            times(Some(row.space)),
            times(Some(row.space_peak)),
            row.text
        );
    }
    if let Some(best) = advice.best.and_then(|best| advice.rows.get(best)) {
        let _ = writeln!(
            text,
            "\nfewest bytes to and from the disk: {}, {}",
            human_size(best.moved_bytes),
            best.text
        );
    }
    for shifted in &advice.shifted {
        let more = if shifted.percent > 0 { "more" } else { "less" };
        let what = match shifted.regret {
            regret if regret < REGRET_MIN => "it stays the best".to_string(),
            regret => {
                let then = advice.rows.get(shifted.best).map_or("", |row| row.text.as_str());
                format!("{:.0} % more than {then}", regret * 100.0)
            }
        };
        let _ = writeln!(text, "  if writes were {:2} % {more} of the work: {what}", shifted.percent.abs());
    }
    if advice.shifted.is_empty() && !advice.rows.is_empty() {
        text.push_str("  nothing is said of other mixes: there are no reads or no writes, or too few to leave some out\n");
    }
    for (design, why) in &advice.failed {
        let _ = writeln!(text, "not modelled: {design}: {why}");
    }
    text
}

fn sizes(sizes: &Sizes) -> Value {
    json!({
        "write_bytes": sizes.written_bytes,
        "log_write_bytes": sizes.log_bytes,
        "read_bytes": sizes.read_bytes,
        "read_requests": sizes.read_requests,
        "background_read_bytes": sizes.background_read_bytes,
        "physical_bytes": sizes.space_bytes,
        "physical_bytes_peak": sizes.space_bytes_peak,
        "log_file_bytes": sizes.log_file_bytes,
    })
}

fn row_json(row: &Row) -> Value {
    let shifted: Vec<Value> = SHIFTS
        .iter()
        .zip(&row.shifted_bytes)
        .map(|(percent, bytes)| json!({ "write_share_percent": percent, "moved_bytes": bytes }))
        .collect();
    json!({
        "asked": row.asked,
        "options": row.text,
        "is_recorded": row.is_recorded,
        "is_on_front": row.is_on_front,
        "write": row.write,
        "read": row.read,
        "space": row.space,
        "space_peak": row.space_peak,
        "moved_bytes": row.moved_bytes,
        "shifted": shifted,
        "settled": sizes(&row.outcome.settled),
        "unsettled": sizes(&row.outcome.unsettled),
    })
}

/// JSON: all of it.
pub fn json(advice: &Advice, steps: &Steps, recorded: &Recorded) -> Value {
    let totals = &steps.totals;
    let options: serde_json::Map<String, Value> =
        recorded.options.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let shifted: Vec<Value> = advice
        .shifted
        .iter()
        .map(|shifted| {
            let best = advice.rows.get(shifted.best).map(|row| row.text.as_str());
            json!({ "write_share_percent": shifted.percent, "best": best, "regret": shifted.regret })
        })
        .collect();
    let failed: Vec<Value> =
        advice.failed.iter().map(|(design, why)| json!({ "options": design, "why": why })).collect();
    json!({
        "recorded": {
            "engine": recorded.engine,
            "options": options,
            "elapsed_ns": recorded.elapsed_ns,
            "image_entries": recorded.image_entries,
            "is_image_whole": recorded.is_image_whole,
            "missing_events": recorded.gap_events,
            "app_write_bytes": recorded.app_write_bytes,
            "app_read_bytes": recorded.app_read_bytes,
            "batches": totals.batches,
            "changes": totals.changes,
            "kv_write_bytes": totals.logical_bytes,
            "reads": totals.reads,
            "kv_read_bytes": totals.returned_bytes,
            "syncs": totals.syncs,
            "live_bytes": totals.live_bytes,
        },
        "designs": advice.rows.iter().map(row_json).collect::<Vec<Value>>(),
        "best": advice.best.and_then(|best| advice.rows.get(best)).map(|row| row.text.as_str()),
        "shifted": shifted,
        "not_modelled": failed,
    })
}
