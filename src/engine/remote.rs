//! Stores that lie at a URL: what is asked of an engine that has them there.
//!
//! Such a store has no directory. Its description is an object beside the engine's own, one mount at a time writes to it, and any number may read.
//! On each machine it has a seat (`crate::store::location`), where its lock, its log and its socket are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Error, Kind, Options, Result};
use crate::base::clock::Clock;
use crate::disk::Space;

/// An engine's way to stores at URLs.
pub trait Remote: Send + Sync {
    /// Beginnings of the URLs that it understands, up to the colon, as in `s3`.
    fn schemes(&self) -> &'static [&'static str];

    /// A connection to the place that `url` names. Nothing is asked yet, so nothing says that there is anything. [`Error::Invalid`] for a URL
    /// or options that make no sense.
    fn connect(&self, url: &str, options: &Options) -> Result<Arc<dyn Site>>;
}

/// How a store at a URL is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To write; whoever wrote before can write no more.
    Write,
    /// To read what is durable, and what becomes durable later.
    Follow,
    /// To read what is durable now.
    Look,
}

/// The place of a store. Its calls wait for the network.
pub trait Site: Send + Sync {
    /// The text that describes the store; `None` if there is none.
    fn description(&self) -> Result<Option<Vec<u8>>>;

    /// The name of something that lies there where no store is; `None` if nothing does.
    fn foreign(&self) -> Result<Option<String>>;

    /// Makes `text` the description if there is none yet, and says whether it was this call that did. [`Error::Invalid`] for a place that cannot
    /// keep two from doing so at once.
    fn describe(&self, text: &[u8]) -> Result<bool>;

    /// Opens the store, or makes an empty one where only a description is. To write: [`Error::Invalid`] if somebody else does and may not be
    /// taken over.
    fn open(&self, access: Access, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>>;

    /// The store as it is durable now, if it was opened to be followed and is not as it was; what was opened before goes on showing what it did.
    fn newer(&self) -> Result<Option<Arc<dyn Engine>>>;

    /// Time after which whoever follows asks for what is newer.
    fn refresh(&self) -> Duration;

    /// Says of whoever opened it to write what it does, for others who come: a few words.
    fn hold(&self, what: &str) -> Result<()>;

    /// Says that nobody writes any more.
    fn release(&self) -> Result<()>;

    /// Room for what is stored.
    fn space(&self) -> Space;
}

/// The engine whose stores lie at URLs like `url`, and its way to them.
pub fn remote_of(url: &str) -> Result<(Kind, &'static dyn Remote)> {
    let scheme = url.split(':').next().unwrap_or_default();
    let has_it = |kind: &Kind| kind.remote.is_some_and(|remote| remote.schemes().contains(&scheme));
    let found = Kind::all().find(has_it).and_then(|kind| Some((kind, kind.remote?)));
    found.ok_or_else(|| {
        let known: Vec<&str> = Kind::all()
            .filter_map(|kind| kind.remote)
            .flat_map(|remote| remote.schemes().iter().copied())
            .collect();
        Error::Invalid(match known.is_empty() {
            true => "no engine of this program has stores at URLs; kvfs-engines with the feature slatedb has"
                .to_string(),
            false => format!("no engine has stores at {scheme}: URLs; there are {}", known.join(", ")),
        })
    })
}

/// A directory as the URL of a store.
pub fn url_of(directory: &Path) -> String {
    let mut url = "file://".to_string();
    for byte in directory.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

impl fmt::Debug for dyn Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.schemes().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_stores_at_urls_says_who_has() {
        let refused = remote_of("s3://bucket/prefix").unwrap_err().to_string();
        assert!(refused.contains("feature slatedb"), "{refused}");
    }

    #[test]
    fn a_directory_is_a_url() {
        assert_eq!(url_of(Path::new("/srv/a b/50%")), "file:///srv/a%20b/50%25");
    }
}
