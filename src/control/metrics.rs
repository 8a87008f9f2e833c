//! `metrics=127.0.0.1:PORT`: the bytes of `.stats.d/prom` over HTTP, for a Prometheus that scrapes. Loopback only: there is no
//! password, so any user of the machine can read it.
//!
//! `httparse` reads the request's head; every connection is closed behind its answer. A client that asks or reads slowly is left
//! after a while, and keeps nobody waiting until then ([`super::clients`]).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::clients::Clients;
use crate::base::text::{Field, When};

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
    help: "127.0.0.1:PORT: answer GET /metrics there, for Prometheus; every user of the machine can read it.",
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
    clients: Clients<TcpListener>,
    control: Arc<Control>,
}

impl MetricsServer {
    /// Binds `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr, control: Arc<Control>) -> io::Result<MetricsServer> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(MetricsServer { clients: Clients::new(listener), control })
    }

    /// Where it answers.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.clients.entrance().local_addr()
    }

    /// Answers everyone who has asked; waits up to `patience` for someone to ask, and for no client.
    pub fn serve(&mut self, patience: Duration) {
        let control = &self.control;
        self.clients.serve(patience, &|asked, _| answer(asked, control));
    }
}

/// The answer to a request that is read to the end of its head, since a connection that is closed with unread bytes is reset and
/// the answer lost; `None` while the head goes on.
fn answer(asked: &[u8], control: &Control) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let (status, body, is_head) = match request.parse(asked) {
        Ok(httparse::Status::Complete(_)) => {
            respond(request.method.unwrap_or(""), request.path.unwrap_or(""), control)
        }
        Ok(httparse::Status::Partial) if asked.len() < HEAD_BYTES_MAX => return None,
        Ok(httparse::Status::Partial) | Err(_) => {
            ("400 Bad Request", "no request that can be read\n".to_string(), false)
        }
    };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    if !is_head {
        answer.push_str(&body);
    }
    Some(answer.into_bytes())
}

/// Status and body, and whether only the head of the answer is wanted.
fn respond(method: &str, target: &str, control: &Control) -> (&'static str, String, bool) {
    let path = target.split('?').next().unwrap_or(target);
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics" | "/") => ("200 OK", control.prometheus()),
        ("GET" | "HEAD", _) => ("404 Not Found", "it is /metrics\n".to_string()),
        _ => ("405 Method Not Allowed", "it takes GET\n".to_string()),
    };
    (status, body, method == "HEAD")
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
