//! Options behind `-o`: options of ours, those of every filesystem, and those that only mount(8) needs.

use crate::base::text::{BadText, When, parse_size};
use crate::engine::{Kind, Setting};
use crate::fuse::session::MountFlags;
use crate::store::{Settings, Terms};

/// The parsed text of all `-o`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Options of ours, in order.
    pub given: Vec<(String, String)>,
    /// Those of every filesystem.
    pub flags: MountFlags,
    /// Under which the store may be opened.
    pub terms: Terms,
}

impl MountOptions {
    /// Parses; with `sloppy`, unknown options are passed over. The error is a sentence that names the option.
    pub fn parse(lists: &[String], sloppy: bool) -> Result<MountOptions, BadText> {
        let mut options = MountOptions::default();
        for option in lists.iter().flat_map(|list| split(list)) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            if !options.flag(name, value)? && !options.own(name, value)? && !sloppy {
                return Err(format!("unknown option {name}; kvfs mount --help lists all").into());
            }
        }
        Ok(options)
    }

    /// Takes an option that mount(8) knows for every filesystem. Returns whether it was one.
    pub(super) fn flag(&mut self, name: &str, value: Option<&str>) -> Result<bool, BadText> {
        match (name, value) {
            ("ro", None) => self.give("read_only", "on"),
            ("rw", None) => self.give("read_only", "off"),
            ("nocreate", None) => self.terms.must_exist = true,
            ("any_owner", None) => self.terms.any_owner = true,
            ("allow_other", None) => self.flags.allow_other = true,
            ("dirsync", None) => self.flags.dirsync = true,
            ("noatime" | "relatime" | "strictatime", None) => self.give("atime", name),
            ("dev", None) => self.flags.nodev = false,
            ("nodev", None) => self.flags.nodev = true,
            ("suid", None) => self.flags.nosuid = false,
            ("nosuid", None) => self.flags.nosuid = true,
            ("exec", None) => self.flags.noexec = false,
            ("noexec", None) => self.flags.noexec = true,
            ("sync", None) => self.give("sync", "always"),
            ("fsname", Some(value)) => self.flags.fsname = Some(value.to_string()),
            ("subtype", Some(value)) => self.flags.subtype = Some(value.to_string()),
            ("max_read", Some(value)) => {
                let bytes = parse_size(value)
                    .and_then(|bytes| u32::try_from(bytes).map_err(|_| "too large".into()));
                self.flags.max_read =
                    Some(bytes.map_err(|problem| format!("option max_read={value}: {problem}"))?);
            }
            ("atime", None) => self.give("atime", "relatime"),
            ("nodiratime", None) => self.give("diratime", "off"),
            ("nosymfollow", None) => self.flags.nosymfollow = true,
            ("symfollow", None) => self.flags.nosymfollow = false,
            ("context" | "fscontext" | "defcontext" | "rootcontext", Some(label)) => {
                self.flags.labels.push((name.to_string(), label.to_string()));
            }
            // For mount(8), systemd and fstab, or true of every mount of ours.
            ("defaults" | "auto" | "noauto" | "user" | "users" | "nouser" | "nousers" | "owner", _)
            | ("noowner" | "group" | "nogroup" | "nofail" | "_netdev" | "async" | "comment", _)
            | ("default_permissions" | "nostrictatime" | "norelatime", _)
            // Without a meaning here: docs/semantics.md says why.
            | ("iversion" | "noiversion" | "mand" | "nomand" | "lazytime" | "nolazytime", None)
            | ("silent" | "loud", None) => {}
            _ => return Ok(name.starts_with("x-") || name.starts_with("X-")),
        }
        Ok(true)
    }

    /// Takes an option of ours. Returns whether it was one.
    fn own(&mut self, name: &str, value: Option<&str>) -> Result<bool, BadText> {
        let mut scratch = Settings::default();
        // An option without a value is a switch that is on.
        match scratch.set(name, value.unwrap_or("on")) {
            None => return Ok(false),
            Some(Ok(())) if name != "engine" || value.is_some() => {}
            Some(Err(problem)) if value.is_some() => return Err(problem),
            Some(_) => {
                return Err(format!("option {name} needs a value, as in {name}={}", default_of(name)).into());
            }
        }
        self.give(name, value.unwrap_or("on"));
        Ok(true)
    }

    fn give(&mut self, name: &str, value: &str) {
        self.given.push((name.to_string(), value.to_string()));
    }
}

fn default_of(name: &str) -> String {
    let found = Settings::all().into_iter().find(|setting| setting.name == name);
    found.map_or(String::new(), |setting| setting.value)
}

/// Splits at commas; a backslash takes the character after it as it is, and between double quotes, as mount(8) has them around
/// SELinux labels, a comma is one.
pub fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut characters = list.chars();
    let mut is_quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => options.push(String::new()),
            '\\' => options.extend_last(characters.next().unwrap_or('\\')),
            other => options.extend_last(other),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

/// Appends a character to the last string of a list.
trait ExtendLast {
    fn extend_last(&mut self, character: char);
}

impl ExtendLast for Vec<String> {
    fn extend_last(&mut self, character: char) {
        if let Some(last) = self.last_mut() {
            last.push(character);
        }
    }
}

/// Every `-o` option with its sentence and its default.
pub fn help() -> String {
    fn list<'a>(text: &mut String, settings: impl Iterator<Item = &'a Setting>) {
        for Setting { name, help, value, .. } in settings {
            text.push_str(&format!("  {name:<17} {help} Default {value}.\n"));
        }
    }
    let all = Settings::all();
    let of = |owner, when| all.iter().filter(move |option| option.when == when && option.owner == owner);
    let mut text = String::from("Options of a store, decided when it is made:\n");
    list(&mut text, of(None, When::Format));
    text.push_str("\nOptions of a mount; given to mkfs, the store remembers them as its defaults:\n");
    list(&mut text, of(None, When::Mount));
    for kind in Kind::all() {
        if of(Some(kind), When::Format).next().is_some() {
            text.push_str(&format!("\nWith engine={kind}, decided when the store is made:\n"));
            list(&mut text, of(Some(kind), When::Format));
        }
        if of(Some(kind), When::Mount).next().is_some() {
            text.push_str(&format!("\nWith engine={kind}; on other engines they have no effect:\n"));
            list(&mut text, of(Some(kind), When::Mount));
        }
        if of(Some(kind), When::Once).next().is_some() {
            text.push_str(&format!("\nWith engine={kind}, for one mount, never remembered:\n"));
            list(&mut text, of(Some(kind), When::Once));
        }
    }
    text.push_str("\nOptions of one mount, never remembered:\n");
    list(&mut text, of(None, When::Once));
    text.push_str(
        "  nocreate          Mount only a store that is there: where its disk is missing, nothing is made in its place.\n  \
         any_owner         Also if the store's directory is another user's, or others can change its files: they then decide \
                           what the mount shows.\n  \
         ro                Nothing in the store's directory is changed either: a store that was killed is recovered in \
                           memory, if half of the cache is enough for that.\n\
         \nOptions of every filesystem: ro rw sync dirsync noatime relatime nodiratime nodev nosuid\n\
         noexec nosymfollow context=LABEL allow_other max_read=SIZE fsname=NAME subtype=NAME; the others of mount(8) and\n\
         fstab are accepted.\n\n\
         SIZE is a number with K, M, G or T (binary); DURATION a number with ms, s or m.\n\
         Exit codes: 0 done; 1 wrong use or not allowed; 2 the system refuses; 32 not mounted.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, BadText> {
        MountOptions::parse(&[text.to_string()], false)
    }

    #[test]
    fn options_are_split_honoured_and_ignored() {
        let options =
            parse("rw,noatime,engine=btree,x-systemd.automount,nofail,_netdev,fsname=a\\,b,dev,suid,sync")
                .unwrap();
        let expected = [("read_only", "off"), ("atime", "noatime"), ("engine", "btree"), ("sync", "always")];
        assert_eq!(options.given, expected.map(|(name, value)| (name.to_string(), value.to_string())));
        assert_eq!(options.flags.fsname.as_deref(), Some("a,b"));
        assert!(!options.flags.nodev && !options.flags.allow_other);
        let options = parse("ro,,direct_io,writeback_cache=off,max_read=128K,sync=fsync").unwrap();
        assert_eq!(options.flags.max_read, Some(128 << 10));
        let expected =
            [("read_only", "on"), ("direct_io", "on"), ("writeback_cache", "off"), ("sync", "fsync")];
        assert_eq!(options.given, expected.map(|(name, value)| (name.to_string(), value.to_string())));
    }

    #[test]
    fn every_word_of_fstab_is_understood() {
        for word in [
            "async",
            "atime",
            "noatime",
            "auto",
            "noauto",
            "defaults",
            "dev",
            "nodev",
            "diratime",
            "nodiratime",
            "dirsync",
            "exec",
            "noexec",
            "group",
            "nogroup",
            "iversion",
            "noiversion",
            "mand",
            "nomand",
            "_netdev",
            "nofail",
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "lazytime",
            "nolazytime",
            "suid",
            "nosuid",
            "silent",
            "loud",
            "owner",
            "noowner",
            "ro",
            "rw",
            "sync",
            "user",
            "nouser",
            "users",
            "nousers",
            "nosymfollow",
            "symfollow",
            "x-systemd.automount",
            "X-mount.mkdir",
            "comment=x",
            "fscontext=a:b",
            "defcontext=a:b",
            "rootcontext=a:b",
        ] {
            let options = parse(word).unwrap_or_else(|problem| panic!("{word}: {problem}"));
            crate::store::Description::new(&options.given)
                .unwrap_or_else(|problem| panic!("{word}: {problem}"));
        }
        let options =
            parse(r#"context="system_u:object_r:tmp_t:s0:c127,c456",nodiratime,nosymfollow"#).unwrap();
        let label = ("context".to_string(), "system_u:object_r:tmp_t:s0:c127,c456".to_string());
        assert_eq!(options.flags.labels, [label]);
        assert_eq!(options.given, [("diratime".to_string(), "off".to_string())]);
        assert!(options.flags.nosymfollow);
        assert!(parse("context").is_err() && parse("mand=1").is_err());
    }

    #[test]
    fn a_line_of_fstab_may_have_a_witness() {
        let options = parse("rw,witness=on,nofail,engine=lsm").unwrap();
        let has = |name: &str, value: &str| options.given.contains(&(name.to_string(), value.to_string()));
        assert!(has("witness", "on") && has("engine", "lsm"), "{:?}", options.given);
        assert_eq!(parse("witness").unwrap().given, [("witness".to_string(), "on".to_string())]);
        assert!(parse("witness=some").is_err() && help().contains("\n  witness "));
    }

    #[test]
    fn a_wrong_option_is_named() {
        assert!(parse("colour=red").unwrap_err().to_string().contains("unknown option colour"));
        assert!(parse("cache=lots").unwrap_err().to_string().contains("cache=lots"));
        assert!(parse("cache").unwrap_err().to_string().contains("cache=256M"));
        assert!(parse("engine").unwrap_err().to_string().contains("engine=lsm"));
        let sloppy = MountOptions::parse(&["colour=red,nodev".to_string()], true).unwrap();
        assert!(sloppy.flags.nodev && sloppy.given.is_empty());
        assert!(
            MountOptions::parse(&["cache=lots".to_string()], true).is_err(),
            "-s does not hide wrong values"
        );
    }
}
