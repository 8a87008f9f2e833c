//! Enums whose variants are words that users write and read: values of options, names in reports.

/// Makes an enum of words, written in a case of strum's: all of them, each one's name in options and reports, and the value of an option.
macro_rules! words {
    ($case:literal $(#[doc = $doc:literal])* pub enum $name:ident { $($(#[doc = $help:literal])* $variant:ident,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[derive(strum::Display, strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
        #[strum(serialize_all = $case)]
        pub enum $name {
            $($(#[doc = $help])* $variant,)*
        }

        impl $name {
            /// Every one, in the order of reports.
            pub const ALL: [$name; <$name as strum::VariantArray>::VARIANTS.len()] =
                $crate::base::text::array(<$name as strum::VariantArray>::VARIANTS);

            /// Its name in options and reports.
            pub fn name(self) -> &'static str {
                self.into()
            }

            /// The one of this name; the error says which there are.
            pub fn parse(text: &str) -> Result<$name, $crate::base::text::BadText> {
                text.parse().map_err(|_| format!("takes {}", $crate::base::words::one_of(&$name::ALL.map(|it| it.name()))).into())
            }
        }
    };
}

pub(crate) use words;

/// Names with commas and an "or" between them.
pub fn one_of(names: &[&str]) -> String {
    match names {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        names => names.concat(),
    }
}
