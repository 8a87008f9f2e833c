//! A report for people: at most 100 columns and about 60 lines of ASCII, no colour, no trailing spaces.
//!
//! The lines down to the tables of the engine are the same for every engine, so two reports can be laid side by side.
//! Every ratio stands beside its two operands; `-` means that there is no denominator. Sizes are binary (`KiB`), counts
//! decimal (`12.4K`).

mod asked;
mod debt;
mod engine;
mod head;
mod page;

use super::stats::Report;
pub(super) use page::{COLUMNS, Page};

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut page = Page::default();
    head::head(&mut page, report);
    head::amplification(&mut page, report);
    head::by_cause(&mut page, &report.sample);
    head::promise(&mut page, &report.mount.promise);
    debt::debt(&mut page, report);
    debt::stalls(&mut page, &report.sample);
    engine::level_table(&mut page, &report.sample);
    if let Some(tree) = &report.sample.shape.tree {
        engine::tree_block(&mut page, tree);
    }
    if let Some(hybrid) = &report.sample.shape.hybrid {
        engine::hybrid_block(&mut page, hybrid);
    }
    engine::statistics(&mut page, &report.sample);
    engine::store(&mut page, &report.sample);
    engine::witness(&mut page, &report.sample);
    if let Some(recording) = &report.recording {
        engine::recording(&mut page, recording);
    }
    debt::forecast_block(&mut page, report);
    engine::jobs(&mut page, &report.sample);
    asked::operations(&mut page, &report.sample);
    asked::kinds(&mut page, report);
    asked::movers(&mut page, report);
    page.0
}

/// The table of levels, or the figures of the tree: a header line and rows in base units, for `awk`.
pub fn levels(report: &Report) -> String {
    let mut page = Page::default();
    let shape = &report.sample.shape;
    if let Some(tree) = &shape.tree {
        page.line(
            "height page_bytes leaf_pages inner_pages extent_bytes free_bytes fill splits merges checkpoints",
        );
        let pages = format!("{} {} {} {}", tree.height, tree.page_bytes, tree.leaf_pages, tree.inner_pages);
        let bytes = format!("{} {} {:.3}", tree.extent_bytes, tree.free_bytes, tree.fill);
        page.line(format!("{pages} {bytes} {} {} {}", tree.splits, tree.merges, tree.checkpoints));
    } else {
        page.line(
            "level runs files bytes target_bytes score in_bytes moved_bytes read_bytes write_bytes probes",
        );
        for level in &shape.levels {
            let size = format!("{} {} {} {}", level.runs, level.files, level.bytes, level.target_bytes);
            let moved = format!(
                "{} {} {}",
                level.traffic.in_bytes, level.traffic.moved_bytes, level.traffic.read_bytes
            );
            page.line(format!(
                "{} {size} {:.3} {moved} {} {}",
                level.level, level.score, level.traffic.write_bytes, level.traffic.probes
            ));
        }
    }
    page.0
}
