//! The text form of options, under the names that their engines give them.

/// A field of bytes.
macro_rules! size {
    ($name:literal, $member:ident, $help:literal) => {
        kvfs::base::text::Field {
            name: $name,
            when: kvfs::base::text::When::Mount,
            help: $help,
            set: |options, text| {
                options.$member = kvfs::base::text::bounded_size(text)?;
                Ok(())
            },
            get: |options| kvfs::base::text::exact_size(options.$member),
        }
    };
}

/// A field that counts.
macro_rules! count {
    ($name:literal, $member:ident, $help:literal) => {
        kvfs::base::text::Field {
            name: $name,
            when: kvfs::base::text::When::Mount,
            help: $help,
            set: |options, text| {
                options.$member = kvfs::base::text::bounded_count(text)?;
                Ok(())
            },
            get: |options| options.$member.to_string(),
        }
    };
}

/// A field that is on or off, for as long as the store exists.
macro_rules! switch {
    ($name:literal, $member:ident, $help:literal) => {
        kvfs::base::text::Field {
            name: $name,
            when: kvfs::base::text::When::Format,
            help: $help,
            set: |options, text| {
                options.$member = kvfs::base::text::parse_switch(text)?;
                Ok(())
            },
            get: |options| kvfs::base::text::switch(options.$member),
        }
    };
}

#[allow(unused_imports, reason = "which of them is used follows from the features")]
pub(crate) use {count, size, switch};
