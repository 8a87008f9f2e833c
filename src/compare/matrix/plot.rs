//! The plot: write amplification over data size, both logarithmic, a panel for each entry size (across) and update share (down), a
//! line for each contender. Plain SVG.

use std::fmt::Write;

use super::row::Row;
use super::work::KEY_BYTES;
use crate::base::text::{exact_size, human_size};

/// Colours that people with any eyes can tell apart (Okabe and Ito), in the order of contenders.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];
const PANEL_WIDTH: f64 = 190.0;
const PANEL_HEIGHT: f64 = 150.0;
/// Between panels; holds their headings and the labels of the axes.
const GAP: f64 = 46.0;
const MARGIN: f64 = 56.0;
const LEGEND_LINE: f64 = 16.0;

/// The plot of `rows` as a whole SVG file.
pub fn svg(rows: &[Row]) -> String {
    let contenders = unique(rows.iter().map(|row| row.contender.clone()));
    let sizes = sorted(rows.iter().map(|row| row.data_bytes));
    let values = sorted(rows.iter().map(|row| row.value_bytes));
    let updates = sorted(rows.iter().map(|row| row.update_percent));
    let amplifications = rows.iter().filter_map(Row::write_amp).filter(|amplification| *amplification > 0.0);
    let (low, high) =
        amplifications.fold((1.0f64, 10.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let y_range = (low.log10().floor(), high.log10().ceil());
    let x_of = |bytes: u64| match &sizes[..] {
        [first, .., last] => {
            (bytes as f64 / *first as f64).ln() / (*last as f64 / *first as f64).ln() * PANEL_WIDTH
        }
        _ => PANEL_WIDTH / 2.0,
    };
    let y_of = |value: f64| PANEL_HEIGHT * (y_range.1 - value.log10()) / (y_range.1 - y_range.0);

    let width = MARGIN + values.len() as f64 * (PANEL_WIDTH + GAP);
    let legend_top = MARGIN + updates.len() as f64 * (PANEL_HEIGHT + GAP);
    let height = legend_top + contenders.len() as f64 * LEGEND_LINE + 8.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-size=\"13\">Bytes written / (puts × entry size), settled, by data size</text>\n"
    );
    for (across, value_bytes) in values.iter().enumerate() {
        for (down, update_percent) in updates.iter().enumerate() {
            let (x, y) =
                (MARGIN + across as f64 * (PANEL_WIDTH + GAP), MARGIN + down as f64 * (PANEL_HEIGHT + GAP));
            let entry = human_size(KEY_BYTES + value_bytes);
            let _ = write!(
                out,
                "<g transform=\"translate({x:.1},{y:.1})\">\n\
                 <text y=\"-6\">entries of {entry}, {update_percent} % updates</text>\n\
                 <rect width=\"{PANEL_WIDTH}\" height=\"{PANEL_HEIGHT}\" fill=\"none\" stroke=\"#888\"/>\n"
            );
            for decade in y_range.0 as i32..=y_range.1 as i32 {
                let y = y_of(10f64.powi(decade));
                let _ = writeln!(
                    out,
                    "<path d=\"M0 {y:.1}H{PANEL_WIDTH}\" stroke=\"#ddd\"/><text x=\"-4\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    y + 3.0,
                    10f64.powi(decade)
                );
            }
            for size in &sizes {
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    x_of(*size),
                    PANEL_HEIGHT + 12.0,
                    exact_size(*size)
                );
            }
            for (index, contender) in contenders.iter().enumerate() {
                let of_line = rows.iter().filter(|row| {
                    row.contender == *contender
                        && row.value_bytes == *value_bytes
                        && row.update_percent == *update_percent
                });
                let place = |row: &Row| {
                    let amplification = row.write_amp().filter(|amplification| *amplification > 0.0)?;
                    Some((row.data_bytes, y_of(amplification)))
                };
                let mut places: Vec<(u64, f64)> = of_line.filter_map(place).collect();
                if places.is_empty() {
                    // Nobody measured it here.
                    continue;
                }
                places.sort_by_key(|(size, _)| *size);
                let colour = colour(index);
                let path: Vec<String> =
                    places.iter().map(|(size, y)| format!("{:.1} {y:.1}", x_of(*size))).collect();
                let _ = writeln!(
                    out,
                    "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{}/>",
                    path.join("L"),
                    dashes(contender)
                );
                for (size, y) in places {
                    let _ = writeln!(
                        out,
                        "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"2.2\" fill=\"{colour}\"/>",
                        x_of(size)
                    );
                }
            }
            out.push_str("</g>\n");
        }
    }
    for (index, contender) in contenders.iter().enumerate() {
        let y = legend_top + index as f64 * LEGEND_LINE;
        let _ = writeln!(
            out,
            "<path d=\"M{MARGIN} {y:.1}h28\" stroke=\"{}\" stroke-width=\"2\"{}/><text x=\"{}\" y=\"{:.1}\">{contender}</text>",
            colour(index),
            dashes(contender),
            MARGIN + 36.0,
            y + 3.5
        );
    }
    out.push_str("</svg>\n");
    out
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// B-trees are dashed, so that the engines differ without colour too.
fn dashes(contender: &str) -> &'static str {
    if contender.starts_with("btree") { " stroke-dasharray=\"5 3\"" } else { "" }
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut list = Vec::new();
    for name in names {
        if !list.contains(&name) {
            list.push(name);
        }
    }
    list
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    numbers.collect::<std::collections::BTreeSet<u64>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::row::sample;
    use super::*;

    #[test]
    fn the_plot_is_the_golden_one() {
        let rows = [
            sample("lsm:leveled", 1 << 20, 84, 50, 30),
            sample("btree:image", 1 << 20, 84, 50, 420),
            sample("lsm:leveled", 4 << 20, 84, 50, 100),
            sample("btree:image", 4 << 20, 84, 50, 500),
        ];
        let golden = include_str!("golden.svg");
        assert_eq!(
            svg(&rows),
            golden,
            "if it is meant to differ: look at it, then replace src/compare/matrix/golden.svg"
        );
    }

    #[test]
    fn a_single_point_and_none_are_drawn_too() {
        let one = svg(&[sample("lsm:leveled", 1 << 20, 84, 50, 1)]);
        assert!(one.contains("<circle") && !one.contains("NaN") && !one.contains("inf"), "{one}");
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
