//! `metrics=127.0.0.1:PORT`: the bytes of `.stats.d/prom` over HTTP, for a Prometheus that scrapes. Loopback only: there is no
//! password, so any user of the machine can read it.
//!
//! An answer needs a dozen lines of HTTP and no library: the request's first line is looked at, the rest of its head
//! skipped, and the connection closed behind the body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Control;
use crate::base::text::{Field, When};

/// How long a client may take for its request, and for each piece that it reads.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: u64 = 8 << 10;

/// What is served beside the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where to answer scrapes; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
}

/// The text form of [`Options`].
pub const FIELDS: &[Field<Options>] = &[Field {
    name: "metrics",
    when: When::Mount,
    help: "127.0.0.1:PORT: answer GET /metrics there, for Prometheus; every user of the machine can read it. Default off.",
    set: |options, text| {
        options.metrics = match text {
            "off" => None,
            _ => Some(loopback(text)?),
        };
        Ok(())
    },
    get: |options| options.metrics.map_or("off".to_string(), |address| address.to_string()),
}];

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "it takes an address and a port, such as 127.0.0.1:9400, or off".to_string())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("it takes addresses of this machine only".to_string())
    }
}

/// A bound port.
pub struct MetricsServer {
    listener: TcpListener,
    control: Arc<Control>,
}

impl MetricsServer {
    /// Binds `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr, control: Arc<Control>) -> io::Result<MetricsServer> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(MetricsServer { listener, control })
    }

    /// Where it answers.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers everyone who waits, one after the other; never waits for a client longer than a few seconds.
    pub fn serve(&self) {
        while let Ok((stream, from)) = self.listener.accept() {
            if let Err(error) = self.answer(&stream) {
                log::debug!("answering a scrape from {from}: {error}");
            }
        }
    }

    fn answer(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let begun = Instant::now();
        let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX));
        let mut request = String::new();
        lines.read_line(&mut request)?;
        let mut line = String::new();
        // To the end of the head: a connection that is closed with unread bytes is reset, and the answer lost.
        while begun.elapsed() < PATIENCE && lines.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
            line.clear();
        }
        let mut words = request.split_ascii_whitespace();
        let (status, body) = match (words.next(), words.next()) {
            (Some("GET" | "HEAD"), Some("/metrics" | "/")) => ("200 OK", self.control.prometheus()),
            (Some("GET" | "HEAD"), Some(_)) => ("404 Not Found", "it is /metrics\n".to_string()),
            _ => ("405 Method Not Allowed", "it takes GET\n".to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        if !request.starts_with("HEAD") {
            stream.write_all(body.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_answered() {
        let mut options = Options::default();
        let mut set = |text| (FIELDS[0].set)(&mut options, text);
        for wrong in ["0.0.0.0:9400", "192.168.1.1:80", "localhost:9400", "127.0.0.1", "9400", ""] {
            assert!(set(wrong).is_err(), "{wrong}");
        }
        for right in ["127.0.0.1:9400", "[::1]:9400", "off"] {
            set(right).unwrap();
        }
        assert_eq!((FIELDS[0].get)(&options), "off");
    }
}
