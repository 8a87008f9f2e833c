//! The bytes of a single put, counted one by one: what the texts that this project began with say of their two engines, and what the
//! meter says of ours.
//!
//! Theirs: a record of the LSM-tree's log is two lengths of 4 bytes, key and value; a record of the B-tree's log is a header of 12
//! bytes, the whole page and a CRC of 4 bytes, for every put. Ours: both engines log the put itself; the B-tree adds an image of
//! a page once a page and checkpoint, however many puts it took in between.

use std::fmt::Write;

use super::cell;
use super::work::{KEY_BYTES, Point};
use crate::base::text::human_size;
use crate::compare::Error;
use crate::compare::contender::{Contender, PAGE_BYTES};
use crate::disk::{Purpose, SimDisk};
use crate::engine::Home;

/// Bytes of a record in the log of the texts' LSM-tree.
pub const fn text_lsm_wal_bytes(key_bytes: u64, value_bytes: u64) -> u64 {
    8 + key_bytes + value_bytes
}

/// Bytes of a record in the log of the texts' B-tree.
pub const fn text_btree_wal_bytes(page_bytes: u64) -> u64 {
    12 + page_bytes + 4
}

/// One line a contender: what a put of `value_bytes` writes by purpose, from settled to settled, into a store that holds
/// an older value of the key. It is measured on a simulated disk.
pub fn describe(contenders: &[Contender], memory_bytes: u64, value_bytes: u64) -> Result<String, Error> {
    let point = Point { data_bytes: 0, value_bytes, update_percent: 100 };
    let mut text =
        format!("one put of {}, alone, from settled to settled:\n", human_size(point.entry_bytes()));
    let width = contenders.iter().map(|contender| contender.name.len()).max().unwrap_or(0).max(12);
    let lsm = text_lsm_wal_bytes(KEY_BYTES, value_bytes);
    let btree = text_btree_wal_bytes(PAGE_BYTES);
    let _ = writeln!(text, "  {:<width$}  wal {lsm} = 8 + key + value", "text's LSM");
    let _ = writeln!(text, "  {:<width$}  wal {btree} = 12 + page + 4", "text's B-tree");
    for contender in contenders {
        if let Home::Directory(_) = contender.kind.home {
            let _ = writeln!(
                text,
                "  {:<width$}  - (in a directory of its own it passes no meter)",
                contender.name
            );
            continue;
        }
        let options = contender.options(memory_bytes)?;
        let written = cell::one_put(SimDisk::new(), &options, value_bytes)?;
        let parts: Vec<String> = Purpose::all()
            .map(|purpose| (purpose, written.of(purpose).write_bytes))
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(purpose, bytes)| format!("{} {bytes}", purpose.name()))
            .collect();
        let _ = writeln!(text, "  {:<width$}  {}", contender.name, parts.join(", "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wal::RECORD_OVERHEAD_BYTES;
    use crate::engine::{Batch, Kind};

    #[test]
    fn the_texts_formulas_are_theirs() {
        assert_eq!(text_lsm_wal_bytes(16, 100), 124);
        assert_eq!(text_btree_wal_bytes(4096), 4112);
    }

    #[test]
    fn a_put_is_logged_once_and_nothing_is_unaccounted_for() {
        for value_bytes in [0, 100, 5000] {
            for contender in Contender::all() {
                let options = contender.options(1 << 20).unwrap();
                let written = cell::one_put(SimDisk::new(), &options, value_bytes).unwrap();
                let mut batch = Batch::new(0);
                batch.put(vec![b'k'; 16], vec![0; value_bytes as usize]);
                let mut record = Vec::new();
                batch.encode(&mut record);
                let wal = RECORD_OVERHEAD_BYTES + record.len() as u64;
                assert_eq!(written.of(Purpose::Wal).write_bytes, wal, "{}", contender.name);
                let sum: u64 = Purpose::all().map(|purpose| written.of(purpose).write_bytes).sum();
                assert_eq!(sum, written.total().write_bytes);
                if contender.kind == Kind::LSM {
                    assert!(written.of(Purpose::Flush).write_bytes > value_bytes, "{}", contender.name);
                }
                if contender.name == "btree:image" {
                    let image = written.of(Purpose::PageImage).write_bytes;
                    assert!(image >= text_btree_wal_bytes(PAGE_BYTES), "{image}");
                }
            }
        }
    }

    #[test]
    fn the_account_names_every_contender() {
        let text = describe(&Contender::all(), 1 << 20, 84).unwrap();
        assert!(
            text.contains("wal 108 = 8 + key + value") && text.contains("wal 4112 = 12 + page + 4"),
            "{text}"
        );
        for contender in Contender::all() {
            assert!(
                text.lines().any(|line| line.contains(&contender.name) && line.contains("wal ")),
                "{text}"
            );
        }
    }
}
