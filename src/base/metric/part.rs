//! Rows in rows: what may be a part of a struct, and the maps of such.

use std::marker::PhantomData;

use super::{Entry, Part, PartKind, Row, Rows, Sort, Value, Visitor};

impl<T: Rows> Part for T {
    fn visit(&self, row: &'static Row, visitor: &mut dyn Visitor) {
        visitor.begin(row, PartKind::Object);
        self.visit_rows(visitor);
        visitor.end();
    }
    fn part_since(&self, earlier: &T) -> T {
        self.rows_since(earlier)
    }
    fn list(path: &str, row: &'static Row, entries: &mut Vec<Entry>) {
        entries.push(Entry::part(path, row, &["object"]));
        T::list_rows(&format!("{path}."), entries);
    }
}

impl<T: Rows + Default + Clone> Part for Option<T> {
    fn visit(&self, row: &'static Row, visitor: &mut dyn Visitor) {
        match self {
            Some(part) => part.visit(row, visitor),
            None => visitor.value(row, Value::Absent),
        }
    }
    fn part_since(&self, earlier: &Option<T>) -> Option<T> {
        self.as_ref().map(|part| part.rows_since(&earlier.clone().unwrap_or_default()))
    }
    fn list(path: &str, row: &'static Row, entries: &mut Vec<Entry>) {
        entries.push(Entry::part(path, row, &["null", "object"]));
        T::list_rows(&format!("{path}."), entries);
    }
}

impl<T: Rows + Default> Part for Vec<T> {
    fn visit(&self, row: &'static Row, visitor: &mut dyn Visitor) {
        visitor.begin(row, PartKind::List);
        for item in self {
            visitor.item("");
            item.visit_rows(visitor);
            visitor.end();
        }
        visitor.end();
    }
    fn part_since(&self, earlier: &Vec<T>) -> Vec<T> {
        let none = T::default();
        self.iter()
            .enumerate()
            .map(|(index, item)| item.rows_since(earlier.get(index).unwrap_or(&none)))
            .collect()
    }
    fn list(path: &str, row: &'static Row, entries: &mut Vec<Entry>) {
        entries.push(Entry::part(path, row, &["array"]));
        T::list_rows(&format!("{path}[]."), entries);
    }
}

/// Subtraction of a mark, for rows that stand `inside`.
pub trait Since {
    /// The growth since `earlier`.
    fn since(&self, earlier: &Self) -> Self;
}

impl<T: Rows> Since for T {
    fn since(&self, earlier: &T) -> T {
        self.rows_since(earlier)
    }
}

impl Since for Vec<u64> {
    fn since(&self, earlier: &Vec<u64>) -> Vec<u64> {
        self.iter()
            .enumerate()
            .map(|(index, now)| now.saturating_sub(earlier.get(index).copied().unwrap_or(0)))
            .collect()
    }
}

impl<T: Rows + Default> Since for Vec<T> {
    fn since(&self, earlier: &Vec<T>) -> Vec<T> {
        self.part_since(earlier)
    }
}

impl<T: Rows + Default + Clone> Since for Option<T> {
    fn since(&self, earlier: &Option<T>) -> Option<T> {
        self.part_since(earlier)
    }
}

/// The names that tell the items of an [`Each`] apart.
pub trait Label: Copy + 'static {
    /// The sort of the names.
    const SORT: Sort;
    /// Every one, in the order of reports.
    fn all() -> impl Iterator<Item = Self>;
    /// Its name in reports.
    fn name(self) -> &'static str;
    /// Its place among the items.
    fn index(self) -> usize;
}

/// An item for each of `N` names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Each<L, T, const N: usize> {
    items: [T; N],
    names: PhantomData<L>,
}

impl<L: Label, T: Default, const N: usize> Default for Each<L, T, N> {
    fn default() -> Each<L, T, N> {
        Each::from_fn(|_| T::default())
    }
}

impl<L: Label, T: std::fmt::Debug + PartialEq + Default + Copy, const N: usize> std::fmt::Debug
    for Each<L, T, N>
{
    /// Those that are not 0.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let none = T::default();
        let some = self.iter().filter(|(_, item)| *item != none);
        f.debug_map().entries(some.map(|(label, item)| (label.name(), item))).finish()
    }
}

impl<L: Label, T, const N: usize> Each<L, T, N> {
    /// An item for each index, made by `of`.
    pub fn from_fn(of: impl FnMut(usize) -> T) -> Each<L, T, N> {
        Each { items: std::array::from_fn(of), names: PhantomData }
    }

    /// The item of one name, to be changed.
    pub fn of_mut(&mut self, label: L) -> &mut T {
        &mut self.items[label.index()]
    }
}

impl<L: Label, T: Copy, const N: usize> Each<L, T, N> {
    /// The item of one name.
    pub fn of(&self, label: L) -> T {
        self.items[label.index()]
    }

    /// The same with the item of one name replaced; for tests and examples.
    pub fn with(mut self, label: L, item: T) -> Each<L, T, N> {
        *self.of_mut(label) = item;
        self
    }

    /// Names and items, in the order of reports.
    pub fn iter(&self) -> impl Iterator<Item = (L, T)> {
        L::all().map(|label| (label, self.of(label)))
    }

    /// The sum of all items.
    pub fn total(&self) -> T
    where
        T: Default + std::ops::Add<Output = T>,
    {
        self.items.iter().fold(T::default(), |sum, item| sum + *item)
    }
}

impl<L: Label, T: Rows, const N: usize> Each<L, T, N> {
    /// Counters less those of `earlier`; all else as it is.
    pub fn since(&self, earlier: &Each<L, T, N>) -> Each<L, T, N> {
        Each::from_fn(|index| self.items[index].rows_since(&earlier.items[index]))
    }
}

impl<L: Label, T: Copy + Default + std::ops::Add<Output = T>, const N: usize> std::ops::Add
    for Each<L, T, N>
{
    type Output = Each<L, T, N>;
    fn add(self, other: Each<L, T, N>) -> Each<L, T, N> {
        Each::from_fn(|index| self.items[index] + other.items[index])
    }
}

impl<L: Label, T: Rows + Copy, const N: usize> Part for Each<L, T, N> {
    fn visit(&self, row: &'static Row, visitor: &mut dyn Visitor) {
        visitor.begin(row, PartKind::Map(L::SORT));
        for (label, item) in self.iter() {
            visitor.item(label.name());
            item.visit_rows(visitor);
            visitor.end();
        }
        visitor.end();
    }
    fn part_since(&self, earlier: &Each<L, T, N>) -> Each<L, T, N> {
        self.since(earlier)
    }
    fn list(path: &str, row: &'static Row, entries: &mut Vec<Entry>) {
        entries.push(Entry::part(path, row, &["object"]));
        T::list_rows(&format!("{path}.{}.", L::SORT.place), entries);
    }
}

/// The names of a [`Named`].
pub trait Naming {
    /// The sort of the names.
    const SORT: Sort;
}

/// Items with names that are not known before the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<K, T> {
    items: Vec<(&'static str, T)>,
    names: PhantomData<K>,
}

impl<K, T> Default for Named<K, T> {
    fn default() -> Named<K, T> {
        Named { items: Vec::new(), names: PhantomData }
    }
}

impl<K, T> FromIterator<(&'static str, T)> for Named<K, T> {
    fn from_iter<I: IntoIterator<Item = (&'static str, T)>>(items: I) -> Named<K, T> {
        Named { items: items.into_iter().collect(), names: PhantomData }
    }
}

impl<K, T> Named<K, T> {
    /// Names and items, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.items.iter().map(|(name, item)| (*name, item))
    }

    /// The item of one name.
    pub fn of(&self, name: &str) -> Option<&T> {
        self.iter().find(|(other, _)| *other == name).map(|(_, item)| item)
    }
}

impl<K: Naming, T: Rows + Default> Part for Named<K, T> {
    fn visit(&self, row: &'static Row, visitor: &mut dyn Visitor) {
        visitor.begin(row, PartKind::Map(K::SORT));
        for (name, item) in &self.items {
            visitor.item(name);
            item.visit_rows(visitor);
            visitor.end();
        }
        visitor.end();
    }
    fn part_since(&self, earlier: &Named<K, T>) -> Named<K, T> {
        let none = T::default();
        self.iter().map(|(name, item)| (name, item.rows_since(earlier.of(name).unwrap_or(&none)))).collect()
    }
    fn list(path: &str, row: &'static Row, entries: &mut Vec<Entry>) {
        entries.push(Entry::part(path, row, &["object"]));
        T::list_rows(&format!("{path}.{}.", K::SORT.place), entries);
    }
}
