//! The table for people: a line a row, an empty line between points.

use std::fmt::Write;

use super::row::Row;
use super::work::Point;
use crate::base::text::human_size;
use crate::compare::csv::times;

/// Heading of a column, and its text in a row.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: [Column; 17] = [
    ("DATA", |row| human_size(row.data_bytes)),
    ("ENTRY", |row| human_size(row.point().entry_bytes())),
    ("UPDATES", |row| format!("{}%", row.update_percent)),
    ("ENGINE", |row| row.contender.clone()),
    ("PUTS", |row| row.puts.to_string()),
    ("WRITE", |row| times(row.write_amp())),
    ("UNSETTLED", |row| times(row.write_amp_unsettled())),
    ("NO-WAL", |row| times(row.write_amp_no_wal())),
    ("KERNEL", |row| times(row.kernel_write_amp())),
    ("FLASH", |row| times(row.flash_write_amp())),
    ("ARM/S", |row| row.arm_ops_per_second().map_or("-".to_string(), |ops| format!("{ops:.0}"))),
    ("REQ/PUT", |row| times(row.requests_per_put())),
    ("READ", |row| times(row.read_amp())),
    ("READS/GET", |row| times(row.reads_per_get())),
    ("SPACE", |row| format!("{} ({})", times(Some(row.space_amp())), times(row.space_amp_no_log()))),
    ("MEMORY", |row| human_size(row.memory_bytes)),
    ("OPS/S", |row| format!("{:.0}", row.ops_per_second())),
];

/// Meaning of the columns.
pub const LEGEND: &str = "\
WRITE bytes written / (puts x entry), settled to settled; UNSETTLED the same up to the last put; NO-WAL settled, without the log;
KERNEL write_bytes of /proc/self/io / (puts x entry), settled; FLASH what a model of flash below programs, erasing blocks included; ARM/S
puts a second that a model of a disk with an arm lets through, 8 ms a seek and 200 MB/s, for the writes alone; REQ/PUT write requests a put; READ bytes read / bytes got by random gets; READS/GET disk reads a get; SPACE of the files / key set (in brackets
without the log); MEMORY peak of RssAnon in the run; OPS/S puts a second, settling included; - what nobody measures: an engine with a directory of its own passes no door.
";

/// The table of `rows`.
pub fn table(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| COLUMNS.map(|(_, show)| show(row)).to_vec()).collect();
    let longest = |column: usize| cells.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> =
        COLUMNS.iter().enumerate().map(|(index, (name, _))| longest(index).max(name.len())).collect();
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        let mut line = String::new();
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // Names are read from their beginning, numbers from their end.
            let _ =
                if index == 3 { write!(line, "  {cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text.push_str(line.get(2..).unwrap_or_default().trim_end());
        text.push('\n');
    };
    line(&COLUMNS.map(|(name, _)| name.to_string()));
    let mut last: Option<Point> = None;
    for (row, cells) in rows.iter().zip(&cells) {
        if last.is_some_and(|last| last != row.point()) {
            line(&[]);
        }
        last = Some(row.point());
        line(cells);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::row::{sample, unseen};
    use super::*;

    #[test]
    fn the_table_is_aligned_and_points_are_set_apart() {
        let rows = [
            sample("lsm:leveled", 1 << 20, 84, 0, 40),
            sample("btree:image", 1 << 20, 84, 0, 1234),
            sample("lsm:leveled", 1 << 20, 84, 100, 5),
            unseen(sample("diary", 1 << 20, 84, 100, 5)),
        ];
        let expected = "   DATA  ENTRY  UPDATES  ENGINE       PUTS  WRITE  UNSETTLED  NO-WAL  KERNEL  FLASH  ARM/S  REQ/PUT  READ  READS/GET        SPACE   MEMORY  OPS/S
1.00MiB   100B       0%  lsm:leveled   100   4.00       2.00    3.60    8.00   6.00    250     0.25  20.5       0.50  3.00 (2.00)  3.00MiB   2000
1.00MiB   100B       0%  btree:image   100    123       61.7     111     247    185      8     0.25  20.5       0.50  3.00 (2.00)  3.00MiB   2000

1.00MiB   100B     100%  lsm:leveled   100   0.50       0.25    0.45    1.00   0.75   2000     0.25  20.5       0.50  3.00 (2.00)  3.00MiB   2000
1.00MiB   100B     100%  diary         100      -          -       -    1.00      -      -        -     -          -     3.00 (-)  3.00MiB   2000
";
        assert_eq!(table(&rows), expected);
    }
}
