//! Debt, predictions, and waits of writers.

use super::super::figures::{amp, human_count, percent, size_or_dash, span};
use super::super::forecast;
use super::super::hot_forecast::hot_forecast;
use super::super::stats::{Report, Sample};
use super::engine::of_levels;
use super::page::Page;
use crate::base::text::human_size;
use crate::engine::{Cause, Work};
use std::time::Duration;

pub(super) fn debt(page: &mut Page, report: &Report) {
    let shape = &report.sample.shape;
    let debt = &shape.debt;
    page.block(
        "DEBT",
        [
            of_levels(shape, || format!("l0-files {}/{}", debt.l0_files, debt.l0_trigger)),
            of_levels(shape, || format!("compaction {}", size_or_dash(debt.pending_compaction_bytes))),
            match &shape.tree {
                None => format!("dirty {}", size_or_dash(debt.dirty_bytes)),
                Some(_) => format!(
                    "dirty {} of {}",
                    size_or_dash(debt.dirty_bytes),
                    size_or_dash(shape.memory.dirty_bytes_max)
                ),
            },
            format!("unsynced {} oldest {}", human_size(debt.unsynced_bytes), span(debt.oldest_unsynced)),
            format!("replay {}", size_or_dash(debt.replay_bytes)),
            of_levels(shape, || match debt.oldest_tombstone {
                Some(age) => format!("tombstones {} oldest {}", human_count(debt.tombstones), span(age)),
                None => format!("tombstones {}", human_count(debt.tombstones)),
            }),
            format!("reclaim {}", human_size(report.usage.reclaim_pending_bytes)),
            format!("orphans {}", human_count(report.usage.orphans)),
            of_levels(shape, || format!("obsolete {}", human_size(shape.space.obsolete_bytes))),
            of_levels(shape, || {
                format!(
                    "temporary {} peak {}",
                    human_size(shape.space.temporary_bytes),
                    human_size(shape.space.temporary_peak_bytes)
                )
            }),
        ],
    );
    let values = &shape.value_log;
    if values.live_bytes + values.bytes > 0 {
        page.block(
            "VALUES",
            [
                format!("in log {} live", human_size(values.live_bytes)),
                format!("kept {} in {} segments", human_size(values.bytes), values.segments),
                format!("moved {}", human_size(values.moved_bytes)),
            ],
        );
    }
}

/// The debt of each level, and the models beside what was measured; at the end, because it differs between engines.
pub(super) fn forecast_block(page: &mut Page, report: &Report) {
    let rows = forecast::debt(&report.sample);
    if rows.is_empty() {
        return;
    }
    let total: f64 = rows.iter().map(|row| row.debt_bytes).sum();
    let mut items: Vec<String> = rows
        .iter()
        .map(|row| {
            format!("{} {}x{}", row.level, human_size(row.bytes as u64), amp(Some(row.pending_write_amp)))
        })
        .collect();
    items.push(format!(
        "| to write {} of at most {}",
        human_size(total as u64),
        human_size(forecast::debt_max(&report.sample) as u64)
    ));
    let settle = forecast::settle_seconds(report).map(Duration::from_secs_f64);
    items.push(format!("settles in {}", settle.map_or("-".to_string(), span)));
    let cpu = forecast::cpu_seconds(&report.sample, total).map(Duration::from_secs_f64);
    items.push(format!("cpu {}", cpu.map_or("-".to_string(), span)));
    page.block("OWED", items);
    let works = Work::ALL.into_iter().filter_map(|work| {
        let nanos = report.sample.shape.cpu.of(work).ns_per_byte()?;
        Some(format!("{} {nanos:.2}", work.name()))
    });
    let works: Vec<String> = works.collect();
    if !works.is_empty() {
        page.block("CPU", ["ns a byte".to_string()].into_iter().chain(works));
    }
    if let Some(forecast) = forecast::forecast(report) {
        let measured = report.sample.engine_write_amp_no_wal();
        page.block(
            "MODEL",
            [
                format!("{} of {} levels", forecast.layout, forecast.levels),
                format!("write {} half-ratio", amp(Some(forecast.write_amp_half_ratio))),
                format!("{} debt", amp(Some(forecast.write_amp_debt))),
                format!("measured {}", amp(measured)),
                format!("| lookup {}", human_size(forecast.lookup_bytes as u64)),
                format!("space {} measured {}", amp(forecast.space_amp), amp(report.space_amp())),
            ],
        );
    }
    if let Some(forecast) = hot_forecast(report) {
        page.block(
            "MODEL",
            [
                format!("hits {}", percent(Some(forecast.hit_share))),
                format!("skew {:.2}", forecast.skew),
                format!("write {} (tree {})", amp(Some(forecast.write())), amp(Some(forecast.write_of_tree))),
                format!("measured {}", amp(report.sample.engine_write_amp_no_wal())),
                format!("| hot/2 {}", amp(Some(forecast.write_half_hot))),
                format!("hot*2 {}", amp(Some(forecast.write_double_hot))),
            ],
        );
    }
}

pub(super) fn stalls(page: &mut Page, sample: &Sample) {
    let stalls = &sample.shape.stalls;
    let all = || stalls.by_cause.iter();
    let mut items = vec![
        format!("now {}", stalls.now.map_or("none", Cause::name)),
        format!("slowdowns {}", human_count(stalls.slowdowns())),
        format!("stops {}", human_count(stalls.stops())),
        format!("waited {}", span(all().map(|(_, cause)| cause.waited).sum())),
        format!("longest {}", span(all().map(|(_, cause)| cause.longest).max().unwrap_or_default())),
    ];
    for (cause, counters) in all().filter(|(_, counters)| counters.times() > 0) {
        items.push(format!("| {cause} {} {}", human_count(counters.times()), span(counters.waited)));
    }
    if let Some(why) = &stalls.limits_off {
        items.push(format!("| l0 stop off ({why})"));
    }
    page.block("STALL", items);
}
