//! Bytes of values in the log that tables need, by the start of their segment.
//!
//! There are thousands of segments, and an edit changes a few. So neighbours lie in groups, which the states before and behind an
//! edit share if it does not change them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::TableMeta;
use crate::engine::Lsn;

/// Segments of so many LSNs are one group: some hundreds.
const GROUP_SPAN: u64 = 4 << 30;

/// Segments of which something is needed.
#[derive(Clone, Default)]
pub struct Needed {
    groups: Arc<BTreeMap<u64, Arc<BTreeMap<Lsn, u64>>>>,
    bytes: u64,
}

impl Needed {
    /// Counts the values of a table in.
    pub fn add(&mut self, table: &TableMeta) {
        self.change(table, u64::saturating_add);
    }

    /// Counts the values of a table out.
    pub fn remove(&mut self, table: &TableMeta) {
        self.change(table, u64::saturating_sub);
    }

    /// Segments of which nothing is needed are not listed.
    fn change(&mut self, table: &TableMeta, change: fn(u64, u64) -> u64) {
        let group_of = |(start, _): &(Lsn, u64)| start.number() / GROUP_SPAN;
        for values in table.values.chunk_by(|a, b| group_of(a) == group_of(b)) {
            let number = group_of(&values[0]);
            let groups = Arc::make_mut(&mut self.groups);
            let shared = groups.entry(number).or_default();
            let group = Arc::make_mut(shared);
            for (start, bytes) in values {
                let before = group.get(start).copied().unwrap_or(0);
                let after = change(before, *bytes);
                self.bytes = self.bytes - before + after;
                if after == 0 {
                    group.remove(start);
                } else {
                    group.insert(*start, after);
                }
            }
            if group.is_empty() {
                groups.remove(&number);
            }
        }
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether anything of the segment that starts at `start` is needed.
    pub fn has(&self, start: Lsn) -> bool {
        self.groups.get(&(start.number() / GROUP_SPAN)).is_some_and(|group| group.contains_key(&start))
    }

    /// Start of each segment, in order, and the number of bytes that are needed of it.
    pub fn iter(&self) -> impl Iterator<Item = (Lsn, u64)> {
        self.groups.values().flat_map(|group| group.iter().map(|(start, bytes)| (*start, *bytes)))
    }

    /// Bytes that are needed of all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn table(values: Vec<(Lsn, u64)>) -> TableMeta {
        TableMeta { entries: 1, values: values.into(), ..TableMeta::default() }
    }

    #[test]
    fn it_is_the_sum_over_tables_and_earlier_ones_stay_what_they_are() {
        let mut prng = Prng::new(7);
        let (mut needed, mut tables, mut model) = (Needed::default(), Vec::new(), BTreeMap::new());
        for _ in 0..300 {
            let (before, seen) = (needed.clone(), model.clone());
            if tables.len() > 20 || prng.one_in(3) && !tables.is_empty() {
                let gone: TableMeta = tables.swap_remove(prng.below(tables.len() as u64) as usize);
                needed.remove(&gone);
                for (start, bytes) in gone.values.iter() {
                    let left: u64 = model[start] - bytes;
                    model.insert(*start, left);
                    model.retain(|_, bytes| *bytes > 0);
                }
            } else {
                // Some of the log, some of the survivors far behind it.
                let starts = (0..1 + prng.below(40)).map(|_| (prng.below(600) << 24) | (prng.below(2) << 63));
                let starts: std::collections::BTreeSet<Lsn> = starts.map(Lsn::new).collect();
                let come = table(starts.into_iter().map(|start| (start, 1 + prng.below(9))).collect());
                needed.add(&come);
                come.values.iter().for_each(|(start, bytes)| *model.entry(*start).or_default() += bytes);
                tables.push(come);
            }
            assert_eq!(needed.iter().collect::<BTreeMap<_, _>>(), model);
            assert!(needed.iter().map(|(start, _)| start).is_sorted());
            assert_eq!((needed.bytes(), needed.is_empty()), (model.values().sum(), model.is_empty()));
            assert!(
                (0..600).all(|at| needed.has(Lsn::new(at << 24)) == model.contains_key(&Lsn::new(at << 24)))
            );
            assert_eq!(before.iter().collect::<BTreeMap<_, _>>(), seen);
        }
    }

    #[test]
    fn a_change_shares_the_groups_that_it_does_not_touch() {
        let mut needed = Needed::default();
        needed.add(&table((0..4096).map(|number| (Lsn::new(number << 24), 1)).collect()));
        let before = needed.clone();
        needed.add(&table(vec![(Lsn::new(5 << 24), 1)]));
        let shared =
            needed.groups.iter().filter(|(number, group)| Arc::ptr_eq(group, &before.groups[number]));
        assert_eq!((shared.count() + 1, needed.groups.len()), (16, 16));
    }
}
