//! A run: the tables of a level in the order in which they are searched. A run never changes; an edit makes another one.
//!
//! Tables lie in *pieces*, each with its sums. An edit copies the pieces that it touches and the list of pieces, and shares all
//! others, so it costs what it changes and one entry for some dozens of tables.
//!
//! # Invariants
//!
//! 1. L0 is sorted newest first by LSN; its tables may overlap. In every other level tables are sorted by key and do not overlap.
//! 2. Every piece holds [`PIECE_MIN`] to [`PIECE_MAX`] tables, but for one that is alone, which may hold fewer.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use super::table::{Table, TableMeta, TableSizes};
use crate::engine::{Error, Lsn, Result};

/// Fewer tables lie in one piece only if there are no more.
const PIECE_MIN: usize = 32;
/// More tables are cut into several pieces.
const PIECE_MAX: usize = 128;

/// Sums over tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Number of tables.
    pub files: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Entries, tombstones among them.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of their blocks, filters and indexes.
    pub sizes: TableSizes,
    /// Number of tables that are [dense](TableMeta::is_dense) with tombstones.
    pub dense_files: u64,
    /// LSN at which the newest batch ends at the latest.
    pub last_lsn: Lsn,
    /// Seconds since 1970 of the newest batch.
    pub newest_seconds: u64,
    /// Seconds since 1970 of the oldest tombstone; 0 without tombstones.
    pub tombstone_seconds: u64,
}

impl Sums {
    /// The sums of one table.
    fn of(table: &TableMeta) -> Sums {
        Sums {
            files: 1,
            bytes: table.bytes,
            entries: table.entries,
            tombstones: table.tombstones,
            sizes: table.sizes,
            dense_files: u64::from(table.is_dense()),
            last_lsn: table.last_lsn,
            newest_seconds: table.newest_seconds,
            tombstone_seconds: table.tombstone_seconds,
        }
    }

    /// The sums of both.
    fn plus(self, other: Sums) -> Sums {
        let oldest = [self.tombstone_seconds, other.tombstone_seconds].into_iter().filter(|it| *it > 0).min();
        Sums {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            entries: self.entries + other.entries,
            tombstones: self.tombstones + other.tombstones,
            sizes: TableSizes {
                raw_bytes: self.sizes.raw_bytes + other.sizes.raw_bytes,
                data_bytes: self.sizes.data_bytes + other.sizes.data_bytes,
                filter_bytes: self.sizes.filter_bytes + other.sizes.filter_bytes,
                index_bytes: self.sizes.index_bytes + other.sizes.index_bytes,
            },
            dense_files: self.dense_files + other.dense_files,
            last_lsn: self.last_lsn.max(other.last_lsn),
            newest_seconds: self.newest_seconds.max(other.newest_seconds),
            tombstone_seconds: oldest.unwrap_or(0),
        }
    }
}

/// Tables in a row.
struct Tables {
    sums: Sums,
    tables: Vec<Arc<Table>>,
}

/// Some dozens of neighbouring tables of a run.
#[derive(Clone)]
struct Piece {
    /// The last key of its last table, so that a search looks into one piece.
    largest: Bytes,
    shared: Arc<Tables>,
}

impl Piece {
    fn of(tables: Vec<Arc<Table>>) -> Piece {
        let sums = tables.iter().fold(Sums::default(), |sums, table| sums.plus(Sums::of(table.meta())));
        let largest = tables.last().map(|table| table.largest.clone()).unwrap_or_default();
        Piece { largest, shared: Arc::new(Tables { sums, tables }) }
    }

    fn tables(&self) -> &[Arc<Table>] {
        &self.shared.tables
    }
}

/// A place in a run: between two tables, or at an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunPosition {
    piece: usize,
    table: usize,
}

/// Tables of a level, shared by everyone who reads them.
#[derive(Clone)]
pub struct Run {
    level: usize,
    pieces: Arc<[Piece]>,
    sums: Sums,
}

impl Run {
    /// An empty run of `level`.
    pub fn empty(level: usize) -> Run {
        Run { level, pieces: Arc::default(), sums: Sums::default() }
    }

    /// A run of these tables in `level`. Tables that may not overlap there and do are damage of the manifest.
    pub fn of(level: usize, tables: impl IntoIterator<Item = Arc<Table>>) -> Result<Run> {
        let tables: Vec<Arc<Table>> = tables.into_iter().collect();
        Run::empty(level).edit(&[], &tables)
    }

    /// One table, by itself.
    pub fn one(table: Arc<Table>) -> Run {
        Run::empty(0).replace(&[], &[table])
    }

    /// This run without those tables of `leaving` that it holds, and with `coming`. Tables that may not overlap and do are damage of the
    /// manifest.
    pub fn edit(&self, leaving: &[Arc<Table>], coming: &[Arc<Table>]) -> Result<Run> {
        let (run, made) = self.rebuild(leaving, coming);
        made.into_iter().try_for_each(|piece| run.check(piece))?;
        Ok(run)
    }

    /// The same where nothing can overlap: in L0, or where no table is added.
    pub fn replace(&self, leaving: &[Arc<Table>], coming: &[Arc<Table>]) -> Run {
        self.rebuild(leaving, coming).0
    }

    /// The run behind an edit, and which of its pieces are new.
    fn rebuild(&self, leaving: &[Arc<Table>], coming: &[Arc<Table>]) -> (Run, Vec<usize>) {
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.pieces.len() + 1 + coming.len() / PIECE_MIN);
        // Where the pieces are that were made here.
        let mut made: Vec<usize> = Vec::new();
        let mut make = |tables: &mut Vec<Arc<Table>>, pieces: &mut Vec<Piece>| {
            let mut tables = std::mem::take(tables);
            if tables.is_empty() {
                return;
            }
            if tables.len() < PIECE_MIN
                && let Some(before) = pieces.pop()
            {
                tables.splice(0..0, before.tables().iter().cloned());
            }
            let size = tables.len().div_ceil(tables.len().div_ceil(PIECE_MAX));
            for tables in tables.chunks(size) {
                made.push(pieces.len());
                pieces.push(Piece::of(tables.to_vec()));
            }
        };
        let order = |a: &Arc<Table>, b: &Arc<Table>| self.order(a, b);
        let (mut leaving, mut coming) = (leaving.to_vec(), coming.to_vec());
        leaving.sort_by(order);
        coming.sort_by(order);
        let (mut leaving, mut coming) = (&leaving[..], &coming[..]);
        // Tables that are in no piece yet, and come behind those that are.
        let mut loose: Vec<Arc<Table>> = Vec::new();
        for (index, piece) in self.pieces.iter().enumerate() {
            // To the last piece belongs what lies behind it as well.
            let is_here = |table: &Arc<Table>| {
                let last = piece.tables().last();
                index + 1 == self.pieces.len() || last.is_some_and(|last| order(table, last).is_le())
            };
            let (leave, leave_later) = leaving.split_at(leaving.partition_point(is_here));
            let (come, come_later) = coming.split_at(coming.partition_point(is_here));
            (leaving, coming) = (leave_later, come_later);
            let is_whole = leave.is_empty() && come.is_empty();
            if is_whole && (loose.is_empty() || loose.len() >= PIECE_MIN) {
                make(&mut loose, &mut pieces);
                pieces.push(piece.clone());
                continue;
            }
            let leaves = |table: &&Arc<Table>| {
                let found = leave.binary_search_by(|it| order(it, table));
                found.is_ok_and(|found| leave[found].number == table.number)
            };
            let from = loose.len();
            loose.extend(piece.tables().iter().filter(|table| !leaves(table)).cloned());
            loose.extend_from_slice(come);
            loose[from..].sort_by(order);
        }
        loose.extend_from_slice(coming);
        make(&mut loose, &mut pieces);
        let sums = pieces.iter().fold(Sums::default(), |sums, piece| sums.plus(piece.shared.sums));
        (Run { level: self.level, pieces: pieces.into(), sums }, made)
    }

    /// Checks that no table of a piece overlaps the one before or behind it, if they may not.
    fn check(&self, piece: usize) -> Result<()> {
        if self.level == 0 {
            return Ok(());
        }
        let before = piece.checked_sub(1).and_then(|before| self.pieces.get(before)?.tables().last());
        let behind = self.pieces.get(piece + 1).and_then(|behind| behind.tables().first());
        let here = self.pieces.get(piece).map_or(&[][..], Piece::tables).iter();
        let mut above: Option<&Arc<Table>> = None;
        for table in before.into_iter().chain(here).chain(behind) {
            if let Some(above) = above.filter(|above| above.largest >= table.smallest) {
                let what = format!("it overlaps {} in L{}", table.number.file_name(), self.level);
                return Err(Error::corrupt(above.number.file_name(), 0, what));
            }
            above = Some(table);
        }
        Ok(())
    }

    fn order(&self, a: &Table, b: &Table) -> Ordering {
        match self.level {
            0 => (b.last_lsn, b.number).cmp(&(a.last_lsn, a.number)),
            _ => a.smallest.cmp(&b.smallest),
        }
    }

    /// Number of its tables.
    pub fn len(&self) -> usize {
        self.sums.files as usize
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Sums over its tables.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Its tables in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Table>> + Clone {
        self.behind(RunPosition::default())
    }

    /// Its first table.
    pub fn first(&self) -> Option<&Arc<Table>> {
        self.pieces.first()?.tables().first()
    }

    /// Its last table.
    pub fn last(&self) -> Option<&Arc<Table>> {
        self.pieces.last()?.tables().last()
    }

    /// The table behind a place.
    pub fn get(&self, place: RunPosition) -> Option<&Arc<Table>> {
        self.pieces.get(place.piece)?.tables().get(place.table)
    }

    /// The place behind the table there.
    pub fn next(&self, place: RunPosition) -> RunPosition {
        let next = RunPosition { table: place.table + 1, ..place };
        let is_end = self.pieces.get(place.piece).is_some_and(|piece| next.table >= piece.tables().len());
        if is_end { RunPosition { piece: place.piece + 1, table: 0 } } else { next }
    }

    /// The place before the first table that ends at or behind `key`. Not for L0.
    pub fn seek(&self, key: &[u8]) -> RunPosition {
        let piece = self.pieces.partition_point(|piece| &piece.largest[..] < key);
        let within = |piece: &Piece| piece.tables().partition_point(|table| &table.largest[..] < key);
        RunPosition { piece, table: self.pieces.get(piece).map_or(0, within) }
    }

    /// The one table that may hold `key`. Not for L0.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<Table>> {
        self.get(self.seek(key)).filter(|table| &table.smallest[..] <= key)
    }

    /// The tables behind a place.
    pub fn behind(&self, place: RunPosition) -> impl Iterator<Item = &Arc<Table>> + Clone {
        let skipped = move |index: usize| if index == 0 { place.table } else { 0 };
        let pieces = self.pieces.get(place.piece..).unwrap_or_default().iter().enumerate();
        pieces.flat_map(move |(index, piece)| piece.tables().get(skipped(index)..).unwrap_or_default())
    }

    /// The tables behind one of it, which are older in L0.
    pub fn after(&self, table: &Table) -> impl Iterator<Item = &Arc<Table>> + Clone {
        let is_before = |other: &Table| self.order(other, table).is_le();
        let piece =
            self.pieces.partition_point(|piece| piece.tables().last().is_some_and(|it| is_before(it)));
        let within = |piece: &Piece| piece.tables().partition_point(|it| is_before(it));
        self.behind(RunPosition { piece, table: self.pieces.get(piece).map_or(0, within) })
    }

    /// The tables that overlap `start..=end`, in order.
    pub fn overlapping<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = &'a Arc<Table>> + Clone {
        let is_apart = self.level > 0;
        // Where tables are apart both ends ascend.
        let near = self.behind(if is_apart { self.seek(start) } else { RunPosition::default() });
        let near = near.take_while(move |table| !is_apart || &table.smallest[..] <= end);
        near.filter(move |table| table.overlaps(start, end))
    }

    /// The tables that are [dense](TableMeta::is_dense) with tombstones, in order. Looks at no piece without one.
    pub fn dense(&self) -> impl Iterator<Item = &Arc<Table>> + Clone {
        let pieces = self.pieces.iter().filter(|piece| piece.shared.sums.dense_files > 0);
        pieces.flat_map(|piece| piece.tables().iter().filter(|table| table.is_dense()))
    }

    /// Whether it is the same list of pieces, not one that is alike.
    #[cfg(test)]
    pub fn is_shared(&self, other: &Run) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::table::{TableNumber, TableStore};
    use super::*;

    fn name(key: u32) -> Bytes {
        Bytes::copy_from_slice(&key.to_be_bytes())
    }

    /// A table of two keys that is told from others of the same keys by its number.
    fn table(number: u64, key: u32) -> Arc<Table> {
        TableStore::stub(&TableMeta {
            number: TableNumber::new(number),
            bytes: number + 1,
            entries: 10,
            tombstones: number % 7,
            last_lsn: Lsn::new(u64::from(key)),
            newest_seconds: number * 31 % 1000,
            tombstone_seconds: if number.is_multiple_of(7) { 0 } else { 1 + number * 17 % 1000 },
            smallest: name(key * 4),
            largest: name(key * 4 + 2),
            sizes: TableSizes { raw_bytes: 1, data_bytes: 2, filter_bytes: 3, index_bytes: number },
            ..TableMeta::default()
        })
    }

    fn numbers<'a>(tables: impl Iterator<Item = &'a Arc<Table>>) -> Vec<TableNumber> {
        tables.map(|table| table.number).collect()
    }

    /// Holds a run to a plain list.
    fn check(run: &Run, model: &[Arc<Table>]) {
        assert_eq!(numbers(run.iter()), numbers(model.iter()));
        assert_eq!((run.len(), run.is_empty()), (model.len(), model.is_empty()));
        let ends = [run.first(), run.last()].map(|table| table.map(|table| table.number));
        assert_eq!(ends, [model.first(), model.last()].map(|table| table.map(|table| table.number)));
        let sums = model.iter().fold(Sums::default(), |sums, table| sums.plus(Sums::of(table)));
        assert_eq!(*run.sums(), sums);
        assert_eq!(numbers(run.dense()), numbers(model.iter().filter(|table| table.is_dense())));
        let sizes: Vec<usize> = run.pieces.iter().map(|piece| piece.tables().len()).collect();
        assert!(sizes.iter().all(|size| (1..=PIECE_MAX).contains(size)), "{sizes:?}");
        assert!(sizes.len() < 2 || sizes.iter().all(|size| *size >= PIECE_MIN), "{sizes:?}");
        let mut place = RunPosition::default();
        for (index, table) in model.iter().enumerate() {
            assert_eq!(run.get(place).unwrap().number, table.number);
            assert_eq!(numbers(run.after(table)), numbers(model[index + 1..].iter()));
            place = run.next(place);
        }
        assert!(run.get(place).is_none() && run.behind(place).next().is_none());
    }

    /// What is asked for by key.
    fn check_keys(run: &Run, model: &[Arc<Table>], start: u32, end: u32) {
        let (start, end) = (name(start), name(end));
        let near = model.iter().filter(|table| table.overlaps(&start, &end));
        assert_eq!(numbers(run.overlapping(&start, &end)), numbers(near));
        if run.level > 0 {
            let found = model.iter().find(|table| table.overlaps(&start, &start));
            assert_eq!(run.find(&start).map(|table| table.number), found.map(|table| table.number));
            let behind = model.iter().filter(|table| table.largest >= start);
            assert_eq!(numbers(run.behind(run.seek(&start))), numbers(behind));
        }
    }

    /// An edit: every so manieth table of a stretch leaves, and these keys come.
    #[derive(Clone, Debug)]
    struct Change {
        from: usize,
        count: usize,
        step: usize,
        keys: BTreeSet<u32>,
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let keys = prop_oneof![
            prop::collection::btree_set(0..3000u32, 0..4),
            prop::collection::btree_set(0..3000u32, 0..300),
            (0..3000u32, 0..400u32).prop_map(|(first, count)| (first..first + count).collect()),
        ];
        let change = (0..3000usize, prop_oneof![0..3usize, 0..600usize], 1..4usize, keys);
        let change = change.prop_map(|(from, count, step, keys)| Change { from, count, step, keys });
        prop::collection::vec(change, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn a_run_is_a_sorted_list(level in 0..2usize, changes in changes(), asked in prop::collection::vec(0..12_500u32, 20)) {
            let (mut run, mut model) = (Run::empty(level), Vec::<Arc<Table>>::new());
            let mut number = 0;
            for change in changes {
                let before = (run.clone(), model.clone());
                let from = change.from % (model.len() + 1);
                let to = (from + change.count).min(model.len());
                let leaving: Vec<Arc<Table>> = model[from..to].iter().step_by(change.step).cloned().collect();
                model.retain(|table| leaving.iter().all(|gone| gone.number != table.number));
                // A key that is there stays alone; one that just left may come again.
                let keys: BTreeSet<Bytes> = model.iter().map(|table| table.smallest.clone()).collect();
                let mut coming = Vec::new();
                for key in change.keys.into_iter().filter(|key| !keys.contains(&name(key * 4))) {
                    number += 1;
                    coming.push(table(number, key));
                }
                model.extend(coming.iter().cloned());
                model.sort_by(|a, b| run.order(a, b));
                run = run.edit(&leaving, &coming).unwrap();
                check(&run, &model);
                asked.windows(2).for_each(|pair| check_keys(&run, &model, pair[0].min(pair[1]), pair[0].max(pair[1])));
                check(&before.0, &before.1);
            }
        }
    }

    /// An edit of one table copies one piece of many, or two where one would be too small.
    #[test]
    fn an_edit_shares_what_it_does_not_change() {
        let tables: Vec<Arc<Table>> = (0..5000u32).map(|key| table(u64::from(key), key * 2)).collect();
        let run = Run::of(3, tables.iter().cloned()).unwrap();
        let new = table(9999, 5001);
        for (leaving, coming) in
            [(&tables[..1], &[][..]), (&[], &[new.clone()][..]), (&tables[2500..2502], &[new])]
        {
            let edited = run.edit(leaving, coming).unwrap();
            let is_new =
                |piece: &&Piece| !run.pieces.iter().any(|old| Arc::ptr_eq(&old.shared, &piece.shared));
            assert!((1..=2).contains(&edited.pieces.iter().filter(is_new).count()));
        }
    }

    #[test]
    fn tables_below_l0_must_not_overlap_wherever_their_pieces_end() {
        let tables: Vec<Arc<Table>> = (0..500u32).map(|key| table(u64::from(key), key * 2)).collect();
        let run = Run::of(1, tables.iter().cloned()).unwrap();
        for old in &tables {
            let twin = TableStore::stub(&TableMeta {
                number: TableNumber::new(1000),
                largest: old.smallest.clone(),
                ..old.meta().clone()
            });
            let error = run.edit(&[], std::slice::from_ref(&twin)).err().unwrap().to_string();
            assert!(error.contains("overlaps") && error.contains(&old.number.file_name()), "{error}");
            assert!(run.edit(std::slice::from_ref(old), &[twin]).is_ok());
        }
        let last = tables.last().unwrap();
        let wide = TableMeta {
            number: TableNumber::new(1000),
            smallest: name(1),
            largest: last.smallest.clone(),
            ..last.meta().clone()
        };
        assert!(run.edit(&[], &[TableStore::stub(&wide)]).is_err());
        assert!(Run::of(0, tables.into_iter().chain([TableStore::stub(&wide)])).is_ok());
    }
}
