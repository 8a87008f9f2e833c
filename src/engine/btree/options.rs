//! Settings of the B-tree: plain data, with the default and the trade-off beside each.

use std::time::Duration;

use super::allocation_unit::Units;
use crate::base::text::{
    BadText, Field, When, bounded_size, exact_duration, exact_size, parse_duration, size,
};
use crate::base::words::words;
use crate::engine::{Common, Compression, OwnOptions, options};

words! {
    "lowercase"
    /// Place of the copy that repairs a page whose write was cut off (a torn page).
    pub enum Torn {
        /// In the log: every changed page of every batch, whole. The most expensive mode, kept for comparison.
        Image,
        /// In the doublewrite area: every page that a checkpoint overwrites, once.
        Doublewrite,
        /// In the log: the changed units of every page that a checkpoint overwrites, once.
        Delta,
    }
}

words! {
    "kebab-case"
    /// The place to which a checkpoint writes a page that has changed.
    pub enum Placement {
        /// Where the page was. A crash may tear it, so a copy comes first; see [`Torn`].
        InPlace,
        /// The lowest free place, and the pages above it likewise, up to the root: nothing that is live is overwritten, so no copy is needed.
        Cow,
        /// Likewise, but all pages of a checkpoint together in long runs, which larger requests write. Runs become rare as their pages die one by
        /// one, so what is mostly dead is collected.
        CowExtent,
    }
}

/// Settings of the B-tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Options that every engine has.
    pub common: Common,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// The place of a changed page. A store that was written with one placement opens with any other.
    pub pages: Placement,
    /// Compression of pages that are not written in place. A store that was written with one codec opens with any other.
    pub compression: Compression,
    /// Protection against torn pages, where pages are written in place. A store that was written in one mode opens in any other.
    pub torn: Torn,
    /// Limit of dirty pages and values in memory; writers wait when it is reached.
    pub dirty_bytes_max: u64,
    /// Limit of the log on the disk, copies of pages included; one segment more is allowed. Bounds recovery time.
    pub checkpoint_log_bytes: u64,
    /// Age of the oldest dirty page at which a checkpoint starts at the latest.
    pub checkpoint_age: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            common: Common::default(),
            page_bytes: 16 << 10,
            pages: Placement::InPlace,
            compression: Compression::None,
            torn: Torn::Delta,
            dirty_bytes_max: 128 << 20,
            checkpoint_log_bytes: 256 << 20,
            checkpoint_age: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// A few hundred bytes everywhere, so that a short test reaches every code path.
    pub fn tiny() -> Options {
        Options {
            common: Common::tiny(),
            page_bytes: 4 << 10,
            dirty_bytes_max: 64 << 10,
            checkpoint_log_bytes: 16 << 10,
            ..Options::default()
        }
    }
}

/// The text form of [`Options`]: the B-tree's own, and those common ones that set more than one field here.
pub const FIELDS: &[Field<Options>] = &[
    Field {
        name: "memory",
        when: When::Mount,
        help: options::MEMORY_HELP,
        set: |options, text| {
            let bytes = bounded_size(text)?;
            options.common.memory_bytes = bytes;
            if bytes > 0 {
                options.dirty_bytes_max = (bytes / 4).max(1);
                options.common.cache_bytes = bytes - bytes / 4;
            }
            Ok(())
        },
        get: |options| exact_size(options.common.memory_bytes),
    },
    size!("page_size", Format, page_bytes, "Bytes of a page, 4K to 64K."),
    Field {
        name: "pages",
        when: When::Mount,
        help: "Place of a changed page: in-place; cow: copied into free space; cow-extent: many together.",
        set: |options, text| {
            options.pages = Placement::parse(text)?;
            Ok(())
        },
        get: |options| options.pages.name().to_string(),
    },
    Field {
        name: "compression",
        when: When::Mount,
        help: "Pages of more than 4K of pages=cow or cow-extent: none, lz4, zstd, as far as that saves 4K.",
        set: |options, text| {
            options.compression = Compression::parse(text)?;
            Ok(())
        },
        get: |options| options.compression.name().to_string(),
    },
    Field {
        name: "torn",
        when: When::Mount,
        help: "Protection against torn pages of pages=in-place: image (of every change), doublewrite, delta.",
        set: |options, text| {
            options.torn = Torn::parse(text)?;
            Ok(())
        },
        get: |options| options.torn.name().to_string(),
    },
    size!("dirty_max", Mount, dirty_bytes_max, "Limit of dirty bytes in memory."),
    size!(
        "checkpoint_log",
        Mount,
        checkpoint_log_bytes,
        "Limit of the log on the disk, copies of pages included; one segment more is allowed."
    ),
    Field {
        name: "checkpoint_age",
        when: When::Mount,
        help: "Age of the oldest dirty page that starts a checkpoint.",
        set: |options, text| {
            options.checkpoint_age = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.checkpoint_age),
    },
];

/// Units of an extent of pages: 1 MiB.
const EXTENT_UNITS: Units = Units::new(256);

impl Options {
    /// Units of a run that is long enough to be written to with [`Placement::CowExtent`]; less where little memory is used.
    pub fn extent_units(&self) -> Units {
        let page_units = Units::of_bytes(self.page_bytes);
        Units::within_bytes(self.dirty_bytes_max / 4).max(page_units).min(EXTENT_UNITS)
    }

    /// Protection against torn pages; `None` if no page is written in place.
    pub fn copies(&self) -> Option<Torn> {
        (self.pages == Placement::InPlace).then_some(self.torn)
    }

    /// The name of the way in which pages are written.
    pub fn variant(&self) -> &'static str {
        self.copies().map_or(self.pages.name(), |torn| torn.name())
    }
}

impl OwnOptions for Options {
    const FIELDS: &'static [Field<Options>] = FIELDS;

    fn tiny() -> Options {
        Options::tiny()
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        self.common.divide(memory_bytes);
        self.dirty_bytes_max = memory_bytes / 2;
        self.checkpoint_log_bytes = memory_bytes;
    }

    fn validate(&self) -> Result<(), BadText> {
        if !self.page_bytes.is_power_of_two() || !(4 << 10..=64 << 10).contains(&self.page_bytes) {
            return Err(format!("page_size={} is not a power of two from 4K to 64K", self.page_bytes).into());
        }
        if self.pages != Placement::InPlace && self.torn != Torn::Delta {
            return Err(format!(
                "torn={} is of no use with pages={}, which overwrites no page: leave torn out, or mount with pages=in-place",
                self.torn.name(),
                self.pages.name()
            )
            .into());
        }
        if self.pages == Placement::InPlace && self.compression != Compression::None {
            return Err(format!(
                "compression={} is of no use with pages=in-place, where a page has a place of fixed length: leave compression out, or \
                 mount with pages=cow or pages=cow-extent",
                self.compression.name()
            )
            .into());
        }
        self.common.validate(self.dirty_bytes_max, "dirty pages")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_power_of_two() {
        assert!(Options { page_bytes: 5000, ..Options::default() }.validate().is_err());
        assert!(Options { page_bytes: 8 << 10, ..Options::default() }.validate().is_ok());
    }
}
