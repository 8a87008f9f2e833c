//! The text form of options, under the names that their engines give them, and what all of them have.

#![allow(unused_macros, reason = "which of them is used follows from the features")]

use kvfs::engine::Common;

/// Bytes of the cache beside buffers of changes that take `buffers_bytes` at most: what `memory=` leaves, or `cache=`.
pub fn cache_bytes(common: &Common, buffers_bytes: u64) -> u64 {
    match common.memory_bytes {
        0 => common.cache_bytes,
        memory_bytes => memory_bytes.saturating_sub(buffers_bytes),
    }
}

/// The two methods of options that keep the common ones in a field `common`.
macro_rules! has_common {
    () => {
        fn common(&self) -> &kvfs::engine::Common {
            &self.common
        }

        fn common_mut(&mut self) -> &mut kvfs::engine::Common {
            &mut self.common
        }
    };
}

/// The field `memory`: the most that the engine holds, divided as for a comparison of engines.
macro_rules! memory {
    () => {
        $crate::options::memory!(
            "Bytes that the engine holds in memory at most: half for what is not written yet, half for its cache. Options behind it divide \
             it in another way; the cache gives way. 0 for their sum."
        )
    };
    ($help:literal) => {
        kvfs::base::text::Field {
            name: "memory",
            when: kvfs::base::text::When::Mount,
            help: $help,
            set: |options, text| {
                let bytes = kvfs::base::text::bounded_size(text)?;
                if bytes > 0 {
                    kvfs::engine::OwnOptions::divide(options, bytes);
                }
                options.common.memory_bytes = bytes;
                Ok(())
            },
            get: |options| kvfs::base::text::exact_size(options.common.memory_bytes),
        }
    };
}

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

/// A field of bytes, which may change with every mount unless it is said to be kept.
macro_rules! size {
    ($name:literal, $member:ident, $help:literal) => {
        $crate::options::size!($name, Mount, $member, $help)
    };
    ($name:literal, $when:ident, $member:ident, $help:literal) => {
        $crate::options::field!(
            $name,
            $when,
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

/// A field that takes one of the names of a list, as a place in it.
macro_rules! choice {
    ($name:literal, $when:ident, $member:ident, $names:expr, $help:literal) => {
        $crate::options::field!(
            $name,
            $when,
            $member,
            $help,
            |text: &str| {
                let found = $names.iter().position(|name| *name == text);
                found.ok_or_else(|| kvfs::base::text::BadText::from(format!("takes {}", $names.join(", "))))
            },
            |place: usize| $names[place].to_string()
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
pub(crate) use {choice, count, field, has_common, memory, size, switch};
