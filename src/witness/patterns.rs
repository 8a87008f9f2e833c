//! Patterns that tell a file's class by its path.
//!
//! One a line: a class, blanks, a glob. A line that begins with `#` is a comment. The first that fits decides; what none fits is `other`.
//! A glob without a slash is held to the last name of the path. One with slashes is held to as many last names as it has,
//! so `pg_wal/*` fits however deep the database lies. `*` is any text without a slash, `**` any text, `?` one character,
//! `[0-9a-f]` one of these, `[!0-9]` one that is none of these.

use super::meter::Class;
use crate::base::text::BadText;

/// What is built in: the name of a program, and its patterns.
pub const ENGINES: &[(&str, &str)] = &[
    ("rocksdb", include_str!("patterns/rocksdb.txt")),
    ("leveldb", include_str!("patterns/leveldb.txt")),
    ("postgresql", include_str!("patterns/postgresql.txt")),
    ("innodb", include_str!("patterns/innodb.txt")),
    ("sqlite", include_str!("patterns/sqlite.txt")),
    ("lmdb", include_str!("patterns/lmdb.txt")),
    ("etcd", include_str!("patterns/etcd.txt")),
    ("wiredtiger", include_str!("patterns/wiredtiger.txt")),
    ("fjall", include_str!("patterns/fjall.txt")),
    ("redb", include_str!("patterns/redb.txt")),
    ("kvfs", include_str!("patterns/kvfs.txt")),
];

#[derive(Clone, Debug)]
struct Pattern {
    class: Class,
    glob: Vec<u8>,
    /// Slashes in the glob; `None` for one that may cross them.
    slashes: Option<usize>,
}

/// Patterns in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Those of one program, or of all of them one after the other.
    pub fn built_in(engine: Option<&str>) -> Patterns {
        let wanted = ENGINES.iter().filter(|(name, _)| engine.is_none_or(|engine| engine == *name));
        // A test reads every one of them.
        let parsed = wanted.filter_map(|(name, text)| Patterns::parse(name, text).ok());
        Patterns(parsed.flat_map(|patterns| patterns.0).collect())
    }

    /// Reads `text`. The error names `file` and the line.
    pub fn parse(file: &str, text: &str) -> Result<Patterns, BadText> {
        let mut patterns = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: String| BadText::from(format!("{file}, line {number}: {what}"));
            let Some((class, glob)) = line.split_once(char::is_whitespace) else {
                return Err(wrong(format!("'{line}' is not a class and a glob, such as: log wal/*.wal")));
            };
            let Some(class) = Class::ALL.into_iter().find(|known| known.name() == class) else {
                let names = Class::ALL.map(Class::name).join(", ");
                return Err(wrong(format!("'{class}' is no class; they are {names}")));
            };
            let glob = glob.trim().as_bytes().to_vec();
            if !is_whole(&glob) {
                return Err(wrong(format!("'[' without ']' in {}", String::from_utf8_lossy(&glob))));
            }
            let crosses = glob.windows(2).any(|pair| pair == b"**");
            let slashes = (!crosses).then(|| glob.iter().filter(|byte| **byte == b'/').count());
            patterns.push(Pattern { class, glob, slashes });
        }
        Ok(Patterns(patterns))
    }

    /// The class of a file at `path`, from the directory on.
    pub fn class(&self, path: &[u8]) -> Class {
        let fits = |pattern: &&Pattern| match pattern.slashes {
            Some(slashes) => matches(&pattern.glob, last_names(path, slashes)),
            None => starts(path).any(|start| matches(&pattern.glob, &path[start..])),
        };
        self.0.iter().find(fits).map_or(Class::Other, |pattern| pattern.class)
    }
}

/// The end of `path` with `slashes` slashes in it, or all of it.
fn last_names(path: &[u8], slashes: usize) -> &[u8] {
    let mut places = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    places.nth(slashes).map_or(path, |(at, _)| &path[at + 1..])
}

/// Where names of `path` begin.
fn starts(path: &[u8]) -> impl Iterator<Item = usize> {
    let behind = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
    std::iter::once(0).chain(behind)
}

/// Whether every bracket is closed.
fn is_whole(glob: &[u8]) -> bool {
    let mut rest = glob;
    while let Some(open) = rest.iter().position(|byte| *byte == b'[') {
        match set_end(&rest[open..]) {
            Some(end) => rest = &rest[open + end..],
            None => return false,
        }
    }
    true
}

/// Length of the set that `glob` begins with.
fn set_end(glob: &[u8]) -> Option<usize> {
    // A bracket right at the beginning is one of the set.
    let first = if glob.get(1) == Some(&b'!') { 3 } else { 2 };
    glob.iter().skip(first).position(|byte| *byte == b']').map(|at| first + at + 1)
}

/// Whether the set, with its brackets, has `byte`.
fn has(set: &[u8], byte: u8) -> bool {
    let inner = &set[1..set.len() - 1];
    let (negated, mut inner) = match inner.split_first() {
        Some((b'!', rest)) => (true, rest),
        _ => (false, inner),
    };
    let mut found = false;
    while let Some((&first, rest)) = inner.split_first() {
        match rest {
            [b'-', last, rest @ ..] => {
                found |= (first..=*last).contains(&byte);
                inner = rest;
            }
            _ => {
                found |= first == byte;
                inner = rest;
            }
        }
    }
    found != negated
}

/// Whether `glob` fits all of `text`.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut glob, mut text) = (glob, text);
    // Where the last star stands, and what it has not taken yet: it takes one byte more each time that the rest does not fit.
    let mut star: Option<(&[u8], &[u8], bool)> = None;
    loop {
        let fits = match glob.first() {
            Some(b'*') => {
                let crosses = glob.get(1) == Some(&b'*');
                glob = &glob[1 + usize::from(crosses)..];
                star = Some((glob, text, crosses));
                continue;
            }
            None if text.is_empty() => return true,
            None => None,
            Some(b'[') => {
                let end = set_end(glob).unwrap_or(glob.len());
                text.first().filter(|byte| **byte != b'/' && has(&glob[..end], **byte)).map(|_| end)
            }
            Some(b'?') => text.first().filter(|byte| **byte != b'/').map(|_| 1),
            Some(literal) => text.first().filter(|byte| *byte == literal).map(|_| 1),
        };
        match (fits, star) {
            (Some(length), _) => (glob, text) = (&glob[length..], &text[1..]),
            (None, Some((rest, taken, crosses))) => {
                let Some((byte, after)) = taken.split_first() else { return false };
                if *byte == b'/' && !crosses {
                    return false;
                }
                star = Some((rest, after, crosses));
                (glob, text) = (rest, after);
            }
            (None, None) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_what_they_should() {
        for (glob, text, expected) in [
            ("*.sst", "000012.sst", true),
            ("*.sst", "000012.sst.tmp", false),
            ("*", "", true),
            ("a*b*c", "aXbbYc", true),
            ("a*b*c", "aXbbY", false),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("pg_tblspc/**", "pg_tblspc/1/2/3", true),
            ("?", "/", false),
            ("a?c", "abc", true),
            ("[0-9]*.log", "7.log", true),
            ("[0-9]*.log", "x7.log", false),
            ("[!0-9]*", "7", false),
            ("[!0-9]*", "x", true),
            ("[]x]", "]", true),
            ("log.[0-9a]", "log.a", true),
            ("*-wal", "my.db-wal", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(glob.as_bytes(), text.as_bytes()), expected, "{glob} {text}");
        }
    }

    #[test]
    fn a_glob_is_held_to_as_many_last_names_as_it_has_and_the_first_decides() {
        let patterns =
            Patterns::parse("test", "# comment\n\n  log  pg_wal/*  \ntemporary x/**\ndata *\nlog never\n")
                .unwrap();
        for (path, class) in [
            ("data/pg_wal/0001", Class::Log),
            ("pg_wal/0001", Class::Log),
            ("pg_wal/status/0001", Class::Data),
            ("never", Class::Data),
            ("a/x/b/c", Class::Temporary),
            ("x/b", Class::Temporary),
            ("xx/b", Class::Data),
        ] {
            assert_eq!(patterns.class(path.as_bytes()), class, "{path}");
        }
        assert_eq!(Patterns::default().class(b"a"), Class::Other);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, words) in [
            ("log a\ntable\n", "f, line 2: 'table'"),
            ("logs a", "f, line 1: 'logs' is no class; they are log, table"),
            ("log [a", "f, line 1: '['"),
        ] {
            let problem = Patterns::parse("f", text).unwrap_err().to_string();
            assert!(problem.starts_with(words), "{problem}");
        }
    }

    #[test]
    fn what_is_built_in_is_read_and_knows_the_files_of_its_program() {
        for (name, text) in ENGINES {
            assert!(!Patterns::parse(name, text).unwrap().0.is_empty(), "{name}");
        }
        let all = Patterns::built_in(None);
        for (engine, path, class) in [
            ("rocksdb", "db/000123.log", Class::Log),
            ("rocksdb", "db/000124.sst", Class::Table),
            ("rocksdb", "db/000125.blob", Class::Table),
            ("rocksdb", "db/MANIFEST-000004", Class::Manifest),
            ("rocksdb", "db/CURRENT", Class::Manifest),
            ("rocksdb", "db/000005.dbtmp", Class::Temporary),
            ("rocksdb", "db/LOG", Class::Other),
            ("leveldb", "000005.ldb", Class::Table),
            ("postgresql", "main/pg_wal/000000010000000000000001", Class::Log),
            ("postgresql", "main/base/5/16384", Class::Data),
            ("postgresql", "main/base/5/16384_fsm", Class::Data),
            ("postgresql", "main/base/pgsql_tmp/pgsql_tmp4711.0", Class::Temporary),
            ("postgresql", "main/global/pg_control", Class::Manifest),
            ("postgresql", "main/pg_xact/0000", Class::Data),
            ("postgresql", "main/pg_wal/xlogtemp.4711", Class::Log),
            ("innodb", "ib_logfile0", Class::Log),
            ("innodb", "test/t.ibd", Class::Data),
            ("innodb", "ibtmp1", Class::Temporary),
            ("sqlite", "app.db", Class::Data),
            ("sqlite", "app.db-wal", Class::Log),
            ("sqlite", "app.sqlite-journal", Class::Log),
            ("sqlite", "app.db-shm", Class::Temporary),
            ("lmdb", "data.mdb", Class::Data),
            ("lmdb", "lock.mdb", Class::Temporary),
            ("etcd", "member/wal/0000000000000000-0000000000000000.wal", Class::Log),
            ("etcd", "member/snap/db", Class::Data),
            ("wiredtiger", "journal/WiredTigerLog.0000000001", Class::Log),
            ("wiredtiger", "collection-0-1.wt", Class::Data),
            ("wiredtiger", "WiredTiger.turtle", Class::Manifest),
            ("redb", "data.redb", Class::Data),
            ("kvfs", "log.3", Class::Log),
            ("kvfs", "table.12", Class::Table),
            ("kvfs", "btree.pages", Class::Data),
            ("kvfs", "manifest", Class::Manifest),
        ] {
            assert_eq!(Patterns::built_in(Some(engine)).class(path.as_bytes()), class, "{engine}: {path}");
            // What one knows no other calls by another name.
            if class != Class::Other {
                assert_eq!(all.class(path.as_bytes()), class, "{path}");
            }
        }
        assert_eq!(all.class(b"notes.txt"), Class::Other);
    }
}
