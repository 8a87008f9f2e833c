//! The two macros that declare: [`metrics!`](crate::metrics) and [`labels!`](crate::labels).

/// Declares a struct of rows; see [`base::metric`](crate::base::metric).
///
/// ```text
/// metrics! {
///     /// Bloom filters of all tables together.
///     #[derive(Copy)]
///     pub struct Filter counted by FilterMeter witness "stats::engines::filters" {
///         /// Questions to filters.
///         counter checks: u64 [Count];
///         /// Tables that were not read thanks to them.
///         counter useful: u64 [Count, key "saved", family "kvfs_filter_saved_total", witness "stats::engines::tables_not_read"];
///         derived {
///             /// `saved` / `checks`.
///             useful_share: Option<f64> [Ratio] = |filter| ratio(filter.useful, filter.checks);
///         }
///     }
/// }
/// ```
///
/// What stands behind `stability` (a [`Stability`](crate::base::metric::Stability), else `Stable`) and `witness` (the path of a test) at the head
/// holds for each row that says nothing else.
///
/// Makes the struct, its [`Rows`](crate::base::metric::Rows), a method for each derived row, and after `counted by`, which takes fields of the
/// type `u64` alone, the struct of atomics with `snapshot`, and sums.
#[macro_export]
macro_rules! metrics {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:ident),+)])?
        pub struct $name:ident $(counted by $meter:ident)? $(stability $stability:ident)? $(witness $witness:literal)? {
            $($rows:tt)*
        }
    ) => {
        $crate::base::metric::metrics! {
            @declare [$($stability)?] [$($witness)?]
            $(#[doc = $doc])*
            $(#[derive($($derive),+)])?
            pub struct $name $(counted by $meter)? { $($rows)* }
        }
    };

    (
        @declare $stability_of_all:tt $witness_of_all:tt
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:ident),+)])?
        pub struct $name:ident $(counted by $meter:ident)? {
            $(
                $(#[doc = $help:literal])+
                $kind:ident $field:ident: $type:ty $([
                    $unit:ident $(, key $key:literal)? $(, family $family:literal)? $(, stability $stability:ident)? $(, witness $witness:literal)?
                ])?;
            )*
            $(derived {
                $(
                    $(#[doc = $derived_help:literal])+
                    $derived:ident: $derived_type:ty [
                        $derived_unit:ident $(, family $derived_family:literal)? $(, stability $derived_stability:ident)?
                        $(, witness $derived_witness:literal)?
                    ] = |$me:ident| $formula:expr;
                )*
            })?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq $(, $($derive),+)?)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl $crate::base::metric::Rows for $name {
            #[allow(unused_variables)]
            fn visit_rows(&self, visitor: &mut dyn $crate::base::metric::Visitor) {
                $($crate::base::metric::metrics!(@visit $kind, self.$field, visitor,
                    $crate::base::metric::metrics!(@row $kind $field, [$($help)+], [$($unit)?], [$($($key)?)?], [$($($family)?)?],
                        [$($($stability)?)?] $stability_of_all, [$($($witness)?)?] $witness_of_all));)*
                $($({
                    let row = $crate::base::metric::metrics!(@row derived $derived, [$($derived_help)+], [$derived_unit], [], [$($derived_family)?],
                        [$($derived_stability)?] $stability_of_all, [$($derived_witness)?] $witness_of_all);
                    visitor.value(row, $crate::base::metric::Figure::value(&self.$derived(), row.unit));
                })*)?
            }
            #[allow(unused_variables)]
            fn rows_since(&self, earlier: &Self) -> Self {
                $name { $($field: $crate::base::metric::metrics!(@since $kind, self.$field, earlier.$field)),* }
            }
            #[allow(unused_variables)]
            fn list_rows(path: &str, entries: &mut Vec<$crate::base::metric::Entry>) {
                $($crate::base::metric::metrics!(@list $kind, $type, path, entries,
                    $crate::base::metric::metrics!(@row $kind $field, [$($help)+], [$($unit)?], [$($($key)?)?], [$($($family)?)?],
                        [$($($stability)?)?] $stability_of_all, [$($($witness)?)?] $witness_of_all));)*
                $($($crate::base::metric::metrics!(@list derived, $derived_type, path, entries,
                    $crate::base::metric::metrics!(@row derived $derived, [$($derived_help)+], [$derived_unit], [], [$($derived_family)?],
                        [$($derived_stability)?] $stability_of_all, [$($derived_witness)?] $witness_of_all));)*)?
            }
        }

        $(impl $name {
            $(
                $(#[doc = $derived_help])+
                pub fn $derived(&self) -> $derived_type {
                    let $me = self;
                    $formula
                }
            )*
        })?

        $crate::base::metric::metrics!(@meter [$($meter)?] $name { $([$($help)+] $field)* });
    };

    (
        @row $kind:ident $field:ident, [$($help:literal)+], [$($unit:ident)?], [$($key:literal)?], [$($family:literal)?],
        $own_stability:tt $stability:tt, $own_witness:tt $witness:tt
    ) => {
        &$crate::base::metric::Row {
            name: $crate::base::metric::metrics!(@name $field $($key)?),
            kind: $crate::base::metric::metrics!(@kind $kind),
            unit: $crate::base::metric::metrics!(@unit $($unit)?),
            help: concat!($($help),+),
            family: $crate::base::metric::metrics!(@family $($family)?),
            field: stringify!($field),
            stability: $crate::base::metric::metrics!(@stability $own_stability $stability),
            witness: $crate::base::metric::metrics!(@witness $own_witness $witness),
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $key:literal) => { $key };
    (@unit) => { $crate::base::metric::Unit::None };
    (@unit $unit:ident) => { $crate::base::metric::Unit::$unit };
    (@family) => { None };
    (@family $family:literal) => { Some($family) };
    (@stability [$stability:ident] $of_all:tt) => { $crate::base::metric::Stability::$stability };
    (@stability [] [$stability:ident]) => { $crate::base::metric::Stability::$stability };
    (@stability [] []) => { $crate::base::metric::Stability::Stable };
    (@witness [$witness:literal] $of_all:tt) => { $witness };
    (@witness [] [$witness:literal]) => { $witness };
    (@witness [] []) => { "" };
    (@kind counter) => { $crate::base::metric::MetricKind::Counter };
    (@kind gauge) => { $crate::base::metric::MetricKind::Gauge };
    (@kind derived) => { $crate::base::metric::MetricKind::Derived };
    (@kind text) => { $crate::base::metric::MetricKind::Text };
    (@kind label) => { $crate::base::metric::MetricKind::Label };
    (@kind part) => { $crate::base::metric::MetricKind::Part };
    (@kind flat) => { $crate::base::metric::MetricKind::Part };
    (@kind inside) => { $crate::base::metric::MetricKind::Part };
    (@kind hidden) => { $crate::base::metric::MetricKind::Part };

    (@visit part, $value:expr, $visitor:ident, $row:expr) => {
        $crate::base::metric::Part::visit(&$value, $row, $visitor)
    };
    (@visit flat, $value:expr, $visitor:ident, $row:expr) => {
        $crate::base::metric::Rows::visit_rows(&$value, $visitor)
    };
    (@visit inside, $value:expr, $visitor:ident, $row:expr) => {};
    (@visit hidden, $value:expr, $visitor:ident, $row:expr) => {};
    (@visit $kind:ident, $value:expr, $visitor:ident, $row:expr) => {{
        let row: &'static $crate::base::metric::Row = $row;
        $visitor.value(row, $crate::base::metric::Figure::value(&$value, row.unit))
    }};

    (@since counter, $now:expr, $earlier:expr) => { $crate::base::metric::Growing::since(&$now, &$earlier) };
    (@since part, $now:expr, $earlier:expr) => { $crate::base::metric::Part::part_since(&$now, &$earlier) };
    (@since flat, $now:expr, $earlier:expr) => { $crate::base::metric::Rows::rows_since(&$now, &$earlier) };
    (@since inside, $now:expr, $earlier:expr) => {{
        #[allow(unused_imports)]
        use $crate::base::metric::Since as _;
        $now.since(&$earlier)
    }};
    (@since $kind:ident, $now:expr, $earlier:expr) => { $now.clone() };

    (@list part, $type:ty, $path:ident, $entries:ident, $row:expr) => {{
        let row: &'static $crate::base::metric::Row = $row;
        <$type as $crate::base::metric::Part>::list(&format!("{}{}", $path, row.name), row, $entries)
    }};
    (@list flat, $type:ty, $path:ident, $entries:ident, $row:expr) => {
        <$type as $crate::base::metric::Rows>::list_rows($path, $entries)
    };
    (@list inside, $type:ty, $path:ident, $entries:ident, $row:expr) => {};
    (@list hidden, $type:ty, $path:ident, $entries:ident, $row:expr) => {};
    (@list $kind:ident, $type:ty, $path:ident, $entries:ident, $row:expr) => {{
        let row: &'static $crate::base::metric::Row = $row;
        let types = <$type as $crate::base::metric::Figure>::types(row.unit).to_vec();
        $entries.push($crate::base::metric::Entry { path: format!("{}{}", $path, row.name), row, types })
    }};

    (@meter [] $name:ident { $($rest:tt)* }) => {};
    (@meter [$meter:ident] $name:ident { $([$($help:literal)+] $field:ident)* }) => {
        #[doc = concat!("Counts [`", stringify!($name), "`] from many threads.")]
        #[derive(Default)]
        pub struct $meter {
            $($(#[doc = $help])+ pub $field: std::sync::atomic::AtomicU64,)*
        }

        impl $meter {
            /// Counts so far. Each number is exact; together they may be a call apart while others count.
            pub fn snapshot(&self) -> $name {
                $name { $($field: self.$field.load(std::sync::atomic::Ordering::Relaxed)),* }
            }
        }

        impl std::ops::Add for $name {
            type Output = $name;
            fn add(self, other: $name) -> $name {
                $name { $($field: self.$field.saturating_add(other.$field)),* }
            }
        }
    };
}

/// Makes an enum without contents a [`Label`](crate::base::metric::Label): its variants in the order of their numbers, its names in snake case.
///
/// `labels! { Cause "<cause>" "cause" }`: the enum, how the documentation writes the place of a name, the label of Prometheus.
#[macro_export]
macro_rules! labels {
    ($name:ident $place:literal $label:literal) => {
        impl $name {
            /// Every one, in the order of reports.
            pub const ALL: [$name; <$name as strum::VariantArray>::VARIANTS.len()] =
                $crate::base::text::array(<$name as strum::VariantArray>::VARIANTS);

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                self.into()
            }
        }

        impl $crate::base::metric::Label for $name {
            const SORT: $crate::base::metric::Sort =
                $crate::base::metric::Sort { place: $place, label: $label };

            fn all() -> impl Iterator<Item = $name> {
                $name::ALL.into_iter()
            }
            fn name(self) -> &'static str {
                self.into()
            }
            fn index(self) -> usize {
                self as usize
            }
        }

        impl $crate::base::metric::Figure for Option<$name> {
            fn types(_: $crate::base::metric::Unit) -> &'static [&'static str] {
                &["null", "string"]
            }
            fn value(&self, _: $crate::base::metric::Unit) -> $crate::base::metric::Value<'_> {
                self.map_or($crate::base::metric::Value::Absent, |name| {
                    $crate::base::metric::Value::Text(name.into())
                })
            }
        }
    };
}

pub use {labels, metrics};
