//! Columns of results: written once as a list of a row's fields, from which come the heading, the line and its way back.

/// A field as a column has it.
pub trait Cell: Sized {
    /// Its text.
    fn show(&self) -> String;
    /// The field of a text.
    fn read(text: &str) -> Option<Self>;
}

impl Cell for u64 {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<u64> {
        text.parse().ok()
    }
}

/// A number that nobody measures is empty, not 0.
impl Cell for Option<u64> {
    fn show(&self) -> String {
        self.map_or(String::new(), |count| count.to_string())
    }
    fn read(text: &str) -> Option<Option<u64>> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }
}

impl Cell for String {
    fn show(&self) -> String {
        self.clone()
    }
    fn read(text: &str) -> Option<String> {
        Some(text.to_string())
    }
}

/// Names the columns of `$type` that are its fields; gives it `$show`, the texts of those, and `$read`, which takes them from the
/// words of a line.
macro_rules! columns {
    ($type:ident $names:ident $show:ident $read:ident: $($field:ident)*) => {
        const $names: &[&str] = &[$(stringify!($field)),*];

        impl $type {
            fn $show(&self) -> Vec<String> {
                vec![$($crate::compare::csv::Cell::show(&self.$field)),*]
            }

            fn $read<'a>(&mut self, words: &mut impl Iterator<Item = &'a str>) -> Option<()> {
                $(self.$field = $crate::compare::csv::Cell::read(words.next()?)?;)*
                Some(())
            }
        }
    };
}

pub(crate) use columns;

/// A ratio as a column has it: four digits, or nothing if nobody measures it.
pub fn ratio(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.4}"))
}

/// `part` / `whole`; 0 for nothing of nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A ratio for people: three significant digits, or `-` if nobody measures it.
pub fn times(value: Option<f64>) -> String {
    match value {
        None => "-".to_string(),
        Some(value) if value < 9.995 => format!("{value:.2}"),
        Some(value) if value < 99.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Row {
        name: String,
        count: u64,
        perhaps: Option<u64>,
    }

    columns!(Row NAMES fields set_fields: name count perhaps);

    #[test]
    fn a_line_comes_back_and_what_nobody_measures_is_not_zero() {
        assert_eq!(NAMES, ["name", "count", "perhaps"]);
        for (perhaps, text) in [(None, "a,7,"), (Some(0), "a,7,0")] {
            let row = Row { name: "a".into(), count: 7, perhaps };
            assert_eq!(row.fields().join(","), text);
            let mut back = Row::default();
            assert_eq!(back.set_fields(&mut text.split(',')), Some(()));
            assert_eq!(back, row);
        }
        for wrong in ["a", "a,x,", "a,1,x", "a,-1,"] {
            assert_eq!(Row::default().set_fields(&mut wrong.split(',')), None, "{wrong}");
        }
        assert_eq!((ratio(Some(1.5)), ratio(None)), ("1.5000".into(), String::new()));
        assert_eq!(
            [None, Some(0.0), Some(9.994), Some(12.345), Some(1234.0)].map(times),
            ["-", "0.00", "9.99", "12.3", "1234"]
        );
        assert_eq!((share(3, 2), share(0, 0)), (1.5, 0.0));
    }
}
