//! Who writes to a store: an object that says so to whoever else comes.
//!
//! It keeps nobody from writing. That is SlateDB's fence, which is sound whatever this object says; here is only what a person wants to know
//! before one mount takes the store from another.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// First line of the object.
const MAGIC: &str = "kvfs writer 1";

/// A process that writes, or has written and never said that it stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    host: String,
    /// Tells this run of the host's kernel from others, in which processes have the same numbers.
    boot: String,
    pid: u32,
    /// Start of the process in ticks since the boot, which tells it from others of the same number.
    started: u64,
    /// Seconds since 1970 at which it came.
    since: u64,
    /// What it does, in a few words.
    what: String,
}

impl Holder {
    /// This process.
    pub fn this(what: &str) -> Holder {
        let host = nix_hostname();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let pid = std::process::id();
        Holder {
            host,
            boot: boot_id(),
            pid,
            started: started(pid).unwrap_or(0),
            since,
            what: what.replace('\n', " "),
        }
    }

    /// The same, doing something else.
    pub fn doing(&self, what: &str) -> Holder {
        Holder { what: what.replace('\n', " "), ..self.clone() }
    }

    /// Whether it is the same process.
    pub fn is_same(&self, other: &Holder) -> bool {
        (&self.boot, self.pid, self.started) == (&other.boot, other.pid, other.started)
    }

    /// Whether it is known to have ended: it ran on this machine, and is there no more.
    pub fn has_ended(&self) -> bool {
        // Of another machine, or of this one before it was started anew, nothing is seen; but then a host of the same name is this one.
        match self.boot == boot_id() {
            true => started(self.pid) != Some(self.started),
            false => self.host == nix_hostname() && !self.boot.is_empty(),
        }
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Holder { host, boot, pid, started, since, what } = self;
        format!(
            "{MAGIC}\nhost={host}\nboot={boot}\npid={pid}\nstarted={started}\nsince={since}\nwhat={what}\n"
        )
        .into_bytes()
    }

    /// The holder that `bytes` name; `None` if they make no sense.
    pub fn decode(bytes: &[u8]) -> Option<Holder> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return None;
        }
        let mut holder = Holder {
            host: String::new(),
            boot: String::new(),
            pid: 0,
            started: 0,
            since: 0,
            what: String::new(),
        };
        for line in lines {
            let (name, value) = line.split_once('=')?;
            // Somebody else may have written it: it is shown, and only so much of it.
            let value: String = value.chars().filter(|c| !c.is_control()).take(200).collect();
            match name {
                "host" => holder.host = value,
                "boot" => holder.boot = value,
                "pid" => holder.pid = value.parse().ok()?,
                "started" => holder.started = value.parse().ok()?,
                "since" => holder.since = value.parse().ok()?,
                "what" => holder.what = value,
                _ => {}
            }
        }
        Some(holder)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kvfs, process {} on {}, {}, since {}",
            self.pid,
            self.host,
            self.what,
            kvfs::base::text::timestamp(UNIX_EPOCH + Duration::from_secs(self.since))
        )
    }
}

fn nix_hostname() -> String {
    read("/proc/sys/kernel/hostname")
}

fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or(String::new(), |text| text.trim().to_string())
}

/// Start of a process in ticks since the boot; `None` if there is none of that number, or it is only not waited for yet.
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the command may hold anything; behind its last parenthesis are numbers.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_read_as_it_was_written_and_knows_whether_it_lives() {
        let this = Holder::this("mounted at /mnt/kv");
        let read = Holder::decode(&this.encode()).unwrap();
        assert!(read == this && read.is_same(&this.doing("closing")) && !read.has_ended());
        let shown = read.to_string();
        assert!(
            shown.contains(&format!("process {} on ", std::process::id()))
                && shown.contains("mounted at /mnt/kv, since 20"),
            "{shown}"
        );
        // Another process that had the number before.
        assert!(Holder { started: this.started + 1, ..this.clone() }.has_ended());
        assert!(Holder { boot: "another".into(), ..this.clone() }.has_ended(), "the host was started anew");
        assert!(!Holder { boot: "another".into(), host: "elsewhere".into(), ..this.clone() }.has_ended());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let of_child = Holder { pid: child.id(), started: started(child.id()).unwrap_or(1), ..this };
        child.wait().unwrap();
        assert!(of_child.has_ended());
    }

    #[test]
    fn what_is_no_holder_is_none() {
        for bytes in
            [&b""[..], b"kvfs writer 2\n", b"kvfs writer 1\npid=x\n", b"\xff", b"kvfs writer 1\nnothing\n"]
        {
            assert_eq!(Holder::decode(bytes), None);
        }
        let strange = Holder::decode(b"kvfs writer 1\nhost=a\x1b[31mb\n").unwrap();
        assert_eq!(strange.host, "a[31mb");
    }
}
