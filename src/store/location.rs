//! Where a store is: a directory, or a URL, which is a path that begins with a scheme.
//!
//! What a store at a URL needs on each machine that mounts it is in its *seat*, a directory below `$KVFS_STATE`, `/var/lib/kvfs` or
//! `~/.local/state/kvfs`: the lock, the log, the socket, and a copy of the description, so that what was said once of the way there is known.

use std::io;
use std::path::{Path, PathBuf};

/// The URL that `path` is; `None` if it is a path of the system. A file whose name looks like a URL is given as `./NAME`.
pub fn url(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    (is_scheme && !rest.is_empty()).then_some(text)
}

/// The seats of a URL on this machine.
pub struct Seats {
    base: PathBuf,
    name: String,
}

impl Seats {
    /// Of `url`. An error if nobody says where this user's programs keep their state.
    pub fn of(url: &str) -> io::Result<Seats> {
        let base = state_directory(
            |name| std::env::var_os(name).map(PathBuf::from),
            nix::unistd::geteuid().is_root(),
        );
        let base = base.ok_or_else(|| {
            let text = "KVFS_STATE, XDG_STATE_HOME and HOME are unset: nobody says where the log and the lock of a store at a URL go";
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        Ok(Seats { base, name: name_of(url) })
    }

    /// The one of the mount that writes.
    pub fn writer(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// The one of this process, which reads.
    pub fn reader(&self) -> PathBuf {
        self.base.join(format!("{}.reader.{}", self.name, std::process::id()))
    }

    /// Those of processes that read or have read.
    pub fn readers(&self) -> io::Result<Vec<PathBuf>> {
        let beginning = format!("{}.reader.", self.name);
        let is_one = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&beginning))
        };
        Ok(crate::disk::entries(&self.base)?.into_iter().filter(is_one).collect())
    }
}

fn state_directory(variable: impl Fn(&str) -> Option<PathBuf>, is_root: bool) -> Option<PathBuf> {
    let of_user = || {
        let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
        state.or_else(|| Some(variable("HOME")?.join(".local/state")))
    };
    let of_system = || if is_root { Some(PathBuf::from("/var/lib")) } else { of_user() };
    variable("KVFS_STATE").or_else(|| Some(of_system()?.join("kvfs")))
}

/// A file name that says which URL it is of, and is that of no other one.
fn name_of(url: &str) -> String {
    // Bytes of a file name, less what is put behind it.
    const NAME_BYTES_MAX: usize = 200;
    let url = url.trim_end_matches('/');
    let mut name = String::new();
    for byte in url.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > NAME_BYTES_MAX {
        name.truncate(NAME_BYTES_MAX);
        name.push_str(&format!("%{:08x}", crc32fast::hash(url.as_bytes())));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_told_from_a_path() {
        for text in ["s3://bucket/prefix", "file:///srv/store", "az+x://a"] {
            assert_eq!(url(Path::new(text)), Some(text));
        }
        for text in ["/srv/store", "./s3://bucket", "S3://bucket", "s3:/bucket", "://x", "s3://"] {
            assert_eq!(url(Path::new(text)), None, "{text}");
        }
    }

    #[test]
    fn each_url_has_seats_of_its_own_where_state_is_kept() {
        let none = |_: &str| None;
        assert_eq!(state_directory(none, true), Some("/var/lib/kvfs".into()));
        assert_eq!(state_directory(none, false), None);
        let home = |name: &str| (name == "HOME").then(|| "/home/a".into());
        assert_eq!(state_directory(home, false), Some("/home/a/.local/state/kvfs".into()));
        assert_eq!(state_directory(home, true), Some("/var/lib/kvfs".into()));
        let said = |name: &str| (name == "KVFS_STATE").then(|| "/run/x".into());
        assert_eq!(state_directory(said, true), Some("/run/x".into()));
        let name = name_of("s3://bucket/prefix");
        assert_eq!(name, "s3%3A%2F%2Fbucket%2Fprefix");
        assert_eq!(name, name_of("s3://bucket/prefix/"));
        let long = |end: &str| name_of(&format!("s3://bucket/{}{end}", "x".repeat(300)));
        assert!(long("a") != long("b") && long("a").len() < 255);
        assert_ne!(name, name_of("s3://bucket_prefix"));
    }
}
