//! `metrics=127.0.0.1:PORT`: the bytes of `.stats.d/prom` over HTTP, for a Prometheus that scrapes. Loopback only: there is no
//! password, so any user of the machine can read it.
//!
//! `httparse` reads the request's head; every connection is closed behind its answer. A client that asks or reads slowly is left
//! after a while, because the next one and the end of the mount wait for it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Control;
use crate::base::text::{Field, When};

/// How long a client may take for its request, and for each piece that it reads.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a request's head at most, and its lines.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

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
        let Some(answer) = self.read(&mut stream)? else { return Ok(()) };
        let Answer { status, body, is_head } = answer;
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        if !is_head {
            stream.write_all(body.as_bytes())?;
        }
        Ok(())
    }

    /// Reads a request to the end of its head, since a connection that is closed with unread bytes is reset and the answer lost;
    /// `None` if the client went away.
    fn read(&self, stream: &mut impl Read) -> io::Result<Option<Answer>> {
        let begun = Instant::now();
        let mut head = Vec::new();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&head) {
                Ok(httparse::Status::Complete(_)) => {
                    return Ok(Some(self.respond(request.method.unwrap_or(""), request.path.unwrap_or(""))));
                }
                Ok(httparse::Status::Partial)
                    if head.len() < HEAD_BYTES_MAX && begun.elapsed() < PATIENCE => {}
                Ok(httparse::Status::Partial) | Err(_) => {
                    let body = "no request that can be read\n".to_string();
                    return Ok(Some(Answer { status: "400 Bad Request", body, is_head: false }));
                }
            }
            let mut piece = [0; 1024];
            match stream.read(&mut piece)? {
                0 => return Ok(None),
                count => head.extend_from_slice(&piece[..count]),
            }
        }
    }

    fn respond(&self, method: &str, target: &str) -> Answer {
        let path = target.split('?').next().unwrap_or(target);
        let (status, body) = match (method, path) {
            ("GET" | "HEAD", "/metrics" | "/") => ("200 OK", self.control.prometheus()),
            ("GET" | "HEAD", _) => ("404 Not Found", "it is /metrics\n".to_string()),
            _ => ("405 Method Not Allowed", "it takes GET\n".to_string()),
        };
        Answer { status, body, is_head: method == "HEAD" }
    }
}

/// What a request gets.
struct Answer {
    status: &'static str,
    body: String,
    is_head: bool,
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
