//! The text form of options, under the names that their engines give them.

/// A field that may change with every mount or is kept for as long as the store exists, read and written by two functions of
/// [`kvfs::base::text`].
macro_rules! field {
    ($name:literal, $when:ident, $member:ident, $help:literal, $parse:expr, $show:expr) => {
        kvfs::base::text::Field {
            name: $name,
            when: kvfs::base::text::When::$when,
            help: $help,
            set: |options, text| {
                options.$member = $parse(text)?;
                Ok(())
            },
            get: |options| $show(options.$member),
        }
    };
}

/// A field of bytes.
macro_rules! size {
    ($name:literal, $member:ident, $help:literal) => {
        $crate::options::field!(
            $name,
            Mount,
            $member,
            $help,
            kvfs::base::text::bounded_size,
            kvfs::base::text::exact_size
        )
    };
}

/// A field that counts.
macro_rules! count {
    ($name:literal, $member:ident, $help:literal) => {
        $crate::options::field!(
            $name,
            Mount,
            $member,
            $help,
            kvfs::base::text::bounded_count,
            |number: u64| number.to_string()
        )
    };
}

/// A field that is on or off, for as long as the store exists.
macro_rules! switch {
    ($name:literal, $member:ident, $help:literal) => {
        $crate::options::field!(
            $name,
            Format,
            $member,
            $help,
            kvfs::base::text::parse_switch,
            kvfs::base::text::switch
        )
    };
}

#[allow(unused_imports, reason = "which of them is used follows from the features")]
pub(crate) use {count, field, size, switch};
