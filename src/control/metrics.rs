//! `metrics=127.0.0.1:PORT`: the bytes of `.stats.d/prom` over HTTP, for a Prometheus that scrapes. Loopback only: there is no
//! password, so any user of the machine can read it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Control;
use super::http::{Page, Server};
use crate::base::text::{BadText, Field, When};

/// The text exposition format of Prometheus.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Options of what is served beside the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Address on which scrapes are answered; `None` for none.
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

fn loopback(text: &str) -> Result<SocketAddr, BadText> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "it takes an address and a port, such as 127.0.0.1:9400, or off".to_string())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("it takes addresses of this machine only".into())
    }
}

/// Answers scrapes at a bound port.
pub struct MetricsServer {
    server: Server,
    control: Arc<Control>,
}

impl MetricsServer {
    /// Binds `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr, control: Arc<Control>) -> io::Result<MetricsServer> {
        Ok(MetricsServer { server: Server::bind(address)?, control })
    }

    /// The address on which it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.server.address()
    }

    /// Answers everyone who has asked; waits up to `patience` for someone to ask, and for no client.
    pub fn serve(&mut self, patience: Duration) {
        let control = &self.control;
        self.server.serve(patience, &|path| {
            matches!(path, "/metrics" | "/")
                .then(|| Page { content_type: EXPOSITION, body: control.prometheus() })
        });
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
