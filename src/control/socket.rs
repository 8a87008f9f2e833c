//! `stats.sock` in the store's directory: the same reports when the mount itself does not answer. Mode 0600.
//!
//! A client connects, sends one line with a file's name (`json`, `prom`, `events`, … or nothing for the report for people), and
//! reads to the end. Commands are not taken: they need a caller whom the kernel vouches for.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::Mode;

use super::{Control, json, levels, tables, text};

/// The socket's name in the store's directory.
pub const NAME: &str = "stats.sock";
/// How long a client may take for its line, and for each piece that it reads.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the line at most.
const LINE_BYTES_MAX: u64 = 256;

/// A bound socket; its file goes when this is dropped.
pub struct StatsSocket {
    listener: UnixListener,
    path: std::path::PathBuf,
    control: Arc<Control>,
}

impl StatsSocket {
    /// Binds in `store`, whose lock this process holds, so that a socket that is there is nobody's. Only the process's user may
    /// connect. To be called before other threads make files, because the mask of permissions is the process's.
    pub fn bind(store: &Path, control: Arc<Control>) -> io::Result<StatsSocket> {
        let path = store.join(NAME);
        match nix::unistd::unlink(&path) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mask = nix::sys::stat::umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&path);
        nix::sys::stat::umask(mask);
        let listener = bound?;
        listener.set_nonblocking(true)?;
        Ok(StatsSocket { listener, path, control })
    }

    /// Answers everyone who waits, one after the other; never waits for a client longer than a few seconds.
    pub fn serve(&self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Err(error) = self.answer(stream) {
                log::debug!("answering on {}: {error}", self.path.display());
            }
        }
    }

    fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(LINE_BYTES_MAX)).read_line(&mut line)?;
        let control = &self.control;
        let body = match line.trim() {
            "" | ".stats" => text(&control.report()),
            "json" => json(&control.report()),
            "prom" => control.prometheus(),
            "levels" => levels(&control.report()),
            "ops" => tables::operations(&control.report()),
            "events" => control.events(),
            "history" => control.history(),
            "ctl" => control.commands(),
            other => format!("unknown: {other}; one of json prom levels ops events history ctl\n"),
        };
        stream.write_all(body.as_bytes())
    }
}

impl Drop for StatsSocket {
    fn drop(&mut self) {
        if let Err(errno) = nix::unistd::unlink(&self.path) {
            log::debug!("removing {}: {errno}", self.path.display());
        }
    }
}
