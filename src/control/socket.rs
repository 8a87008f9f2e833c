//! `stats.sock` in the store's directory: the same reports when the mount itself does not answer. Mode 0600.
//!
//! A client connects, sends one line with a file's name (`json`, `prom`, `events`, … or nothing for the report for people), and
//! reads to the end. Commands are not taken: they need a caller whom the kernel vouches for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::clients::Clients;
use super::{Control, json, levels, tables, text};
use crate::disk::{OsDisk, SocketFile};

/// The socket's name in the store's directory.
pub const NAME: &str = "stats.sock";
/// Bytes of the line at most.
const LINE_BYTES_MAX: usize = 256;

/// A bound socket; its file goes when this is dropped.
pub struct StatsSocket {
    clients: Clients<SocketFile>,
    control: Arc<Control>,
}

impl StatsSocket {
    /// Binds in the directory of `store`, whose lock this process holds. Only the process's user may connect. To be called before
    /// other threads make files, because the mask of permissions is the process's.
    pub fn bind(store: &OsDisk, control: Arc<Control>) -> io::Result<StatsSocket> {
        let socket = store.socket(NAME)?;
        socket.listener().set_nonblocking(true)?;
        Ok(StatsSocket { clients: Clients::new(socket), control })
    }

    /// Answers everyone who has asked; waits up to `patience` for someone to ask, and for no client.
    pub fn serve(&mut self, patience: Duration) {
        let control = &self.control;
        self.clients.serve(patience, &|asked, is_all| {
            let end = asked.iter().position(|&byte| byte == b'\n');
            if end.is_none() && !is_all && asked.len() < LINE_BYTES_MAX {
                return None;
            }
            let line = String::from_utf8_lossy(&asked[..end.unwrap_or(asked.len())]).into_owned();
            Some(answer(line.trim(), control).into_bytes())
        });
    }
}

fn answer(line: &str, control: &Control) -> String {
    match line {
        "" | ".stats" => text(&control.report()),
        "json" => json(&control.report()),
        "prom" => control.prometheus(),
        "levels" => levels(&control.report()),
        "ops" => tables::operations(&control.report()),
        "events" => control.events(),
        "history" => control.history(),
        "ctl" => control.commands(),
        other => format!("unknown: {other}; one of json prom levels ops events history ctl\n"),
    }
}
