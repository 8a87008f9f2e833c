//! Settings of the filesystem: plain data, with the default and the trade-off beside each.

use crate::base::text::{BadText, Field, When, exact_size, parse_size, parse_switch, switch};

/// Smallest block.
pub const BLOCK_BYTES_MIN: u64 = 4 << 10;
/// Largest block.
pub const BLOCK_BYTES_MAX: u64 = 256 << 10;

/// Condition under which reading changes the access time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// When it is not newer than the last change, or older than a day.
    Relative,
    /// Never.
    Never,
    /// Always.
    Strict,
}

/// Settings of a [`super::FileSystem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of file content in one key: a power of two. Small blocks make small writes cheap, large ones make
    /// sequential work cheap. Fixed when the store is made; what the store remembers wins.
    pub block_bytes: u64,
    /// Condition under which reading changes the access time.
    pub atime: Atime,
    /// Whether listing a directory changes its access time, as `atime` says.
    pub diratime: bool,
    /// Refuse every change with `EROFS`, and make none.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { block_bytes: BLOCK_BYTES_MIN, atime: Atime::Relative, diratime: true, read_only: false }
    }
}

impl Options {
    /// Whether the numbers make sense; the error is a sentence.
    pub fn validate(&self) -> Result<(), BadText> {
        let fits = (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.block_bytes);
        if fits && self.block_bytes.is_power_of_two() {
            Ok(())
        } else {
            Err("block_size must be a power of two from 4K to 256K".into())
        }
    }
}

/// The text form of [`Options`].
pub const FIELDS: &[Field<Options>] = &[
    Field {
        name: "block_size",
        when: When::Format,
        help: "Bytes of file content in one key, a power of two, 4K to 256K. Small favours small writes, large favours sequential work.",
        set: |options, text| {
            let changed = Options { block_bytes: parse_size(text)?, ..*options };
            changed.validate()?;
            *options = changed;
            Ok(())
        },
        get: |options| exact_size(options.block_bytes),
    },
    Field {
        name: "atime",
        when: When::Mount,
        help: "When reading changes the access time: relatime, noatime, strictatime.",
        set: |options, text| {
            options.atime = match text {
                "relatime" => Atime::Relative,
                "noatime" => Atime::Never,
                "strictatime" => Atime::Strict,
                _ => return Err("takes relatime, noatime or strictatime".into()),
            };
            Ok(())
        },
        get: |options| {
            match options.atime {
                Atime::Relative => "relatime",
                Atime::Never => "noatime",
                Atime::Strict => "strictatime",
            }
            .to_string()
        },
    },
    Field {
        name: "diratime",
        when: When::Mount,
        help: "off: listing a directory does not change its access time.",
        set: |options, text| {
            options.diratime = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.diratime),
    },
    Field {
        name: "read_only",
        when: When::Mount,
        help: "on: refuse every change.",
        set: |options, text| {
            options.read_only = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.read_only),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_reads_what_it_prints() {
        let options =
            Options { block_bytes: 64 << 10, atime: Atime::Never, diratime: false, read_only: true };
        let mut copy = Options::default();
        for field in FIELDS {
            (field.set)(&mut copy, &(field.get)(&options)).unwrap();
        }
        assert_eq!(copy, options);
        for wrong in ["5000", "2K", "512K", "x"] {
            assert!((FIELDS[0].set)(&mut copy, wrong).is_err());
        }
        assert_eq!(copy, options);
    }
}
