//! As much of HTTP/1.1 as a port on this machine needs: `httparse` reads the head of a request, the answer has a length, and
//! the connection is closed behind it. Who asks or reads slowly is left after a while, and keeps nobody waiting until then
//! ([`super::clients`]).
//!
//! A request is answered when its head is there; a body is not read, and a second request behind the first is not answered
//! (`Connection: close` tells the client so). The head is bounded in bytes and in fields.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use super::clients::Clients;

/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Fields of a request's head at most.
const FIELDS_MAX: usize = 64;
const PLAIN: &str = "text/plain; charset=utf-8";

/// The resource at a path.
pub(super) struct Page {
    pub content_type: &'static str,
    pub body: String,
}

/// Handler of a path, without its query: `None` where nothing is.
pub(super) type Pages<'a> = dyn Fn(&str) -> Option<Page> + 'a;

/// A bound port and those who came to it.
pub(super) struct Server {
    clients: Clients<TcpListener>,
}

impl Server {
    /// Binds `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Server { clients: Clients::new(listener) })
    }

    /// The address on which it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.clients.entrance().local_addr()
    }

    /// Answers everyone who has asked; waits up to `patience` for someone to ask, and for no client.
    pub fn serve(&mut self, patience: Duration, pages: &Pages<'_>) {
        self.clients.serve(patience, &|asked, is_all| answer(asked, is_all, pages));
    }
}

#[derive(Clone, Copy)]
enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    FieldsTooLarge,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::FieldsTooLarge => "431 Request Header Fields Too Large",
        }
    }

    /// An answer that is this status and a sentence.
    fn sentence(self, text: &str) -> (Status, Page) {
        (self, Page { content_type: PLAIN, body: format!("{text}\n") })
    }
}

/// The answer to what was asked so far: `None` while the head goes on, and to somebody who left without a word. `is_all`:
/// nothing more will come.
pub(super) fn answer(asked: &[u8], is_all: bool, pages: &Pages<'_>) -> Option<Vec<u8>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let ((status, page), is_head) = match request.parse(asked) {
        Ok(httparse::Status::Complete(_)) => {
            let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
            (respond(method, path_of(target), pages), method == "HEAD")
        }
        Err(httparse::Error::TooManyHeaders) => {
            (Status::FieldsTooLarge.sentence(&format!("a head of {FIELDS_MAX} fields at most")), false)
        }
        Err(error) => (Status::BadRequest.sentence(&format!("no request that can be read: {error}")), false),
        Ok(httparse::Status::Partial) if asked.len() >= HEAD_BYTES_MAX => {
            (Status::FieldsTooLarge.sentence(&format!("a head of {HEAD_BYTES_MAX} bytes at most")), false)
        }
        Ok(httparse::Status::Partial) if is_all && !asked.is_empty() => {
            (Status::BadRequest.sentence("the head of the request has no end"), false)
        }
        Ok(httparse::Status::Partial) => return None,
    };
    let allow = if matches!(status, Status::MethodNotAllowed) { "Allow: GET, HEAD\r\n" } else { "" };
    let mut answer = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        status.line(),
        page.content_type,
        page.body.len()
    );
    if !is_head {
        answer.push_str(&page.body);
    }
    Some(answer.into_bytes())
}

fn respond(method: &str, path: &str, pages: &Pages<'_>) -> (Status, Page) {
    if !matches!(method, "GET" | "HEAD") {
        return Status::MethodNotAllowed.sentence("it takes GET and HEAD");
    }
    match pages(path) {
        Some(page) => (Status::Ok, page),
        None => Status::NotFound.sentence("nothing is there; it is /metrics"),
    }
}

/// The path of a target, which may be a whole address, as a client writes it that takes this server for a proxy.
fn path_of(target: &str) -> &str {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    target.split(['?', '#']).next().unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn pages(path: &str) -> Option<Page> {
        (path == "/page").then(|| Page { content_type: PLAIN, body: "a page\n".to_string() })
    }

    fn status(asked: &[u8]) -> Option<u32> {
        let answer = String::from_utf8(answer(asked, false, &pages)?).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert!(body.is_empty() || body.len() == length.parse::<usize>().unwrap(), "{answer}");
        assert!(head.ends_with("\r\nConnection: close"), "{answer}");
        Some(head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap())
    }

    #[test]
    fn each_request_gets_its_status() {
        let long = format!("GET /page HTTP/1.1\r\nCookie: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
        let many = format!("GET /page HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1));
        let most = format!("GET /page HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX));
        for (asked, expected) in [
            ("GET /page HTTP/1.1\r\nHost: here\r\n\r\n", Some(200)),
            ("GET /page HTTP/1.0\r\n\r\n", Some(200)),
            ("GET /page?with=a&query HTTP/1.1\r\n\r\n", Some(200)),
            ("GET http://127.0.0.1:9400/page HTTP/1.1\r\n\r\n", Some(200)),
            ("\r\nGET /page HTTP/1.1\r\n\r\n", Some(200)),
            ("GET /page HTTP/1.1\r\n\r\nGET /other HTTP/1.1\r\n\r\n", Some(200)),
            (&most, Some(200)),
            ("GET / HTTP/1.1\r\n\r\n", Some(404)),
            ("GET http://127.0.0.1:9400 HTTP/1.1\r\n\r\n", Some(404)),
            ("GET /page/../page HTTP/1.1\r\n\r\n", Some(404)),
            ("HEAD /nothing HTTP/1.1\r\n\r\n", Some(404)),
            ("POST /page HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", Some(405)),
            ("OPTIONS * HTTP/1.1\r\n\r\n", Some(405)),
            ("BREW /page HTTP/1.1\r\n\r\n", Some(405)),
            ("get /page HTTP/1.1\r\n\r\n", Some(405)),
            ("GET /page HTTP/3.0\r\n\r\n", Some(400)),
            ("GET /page\r\n\r\n", Some(400)),
            ("GET /page HTTP/1.1\r\nno field\r\n\r\n", Some(400)),
            ("\u{16}\u{3}\u{1}\u{2}", Some(400)),
            (&long, Some(431)),
            (&many, Some(431)),
            ("", None),
            ("GET /page HTTP/1.1\r\nHost: he", None),
        ] {
            assert_eq!(status(asked.as_bytes()), expected, "{asked:?}");
        }
        let allowed = String::from_utf8(answer(b"PUT / HTTP/1.1\r\n\r\n", false, &pages).unwrap()).unwrap();
        assert!(allowed.contains("\r\nAllow: GET, HEAD\r\n"), "{allowed}");
        let head = String::from_utf8(answer(b"HEAD /page HTTP/1.1\r\n\r\n", false, &pages).unwrap()).unwrap();
        assert!(head.contains("\r\nContent-Length: 7\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        // A client that shuts its side in the middle is told; one that says nothing at all is not.
        assert!(answer(b"GET /pa", true, &pages).is_some_and(|answer| answer.starts_with(b"HTTP/1.1 400 ")));
        assert!(answer(b"", true, &pages).is_none());
    }

    /// Answers that clients get from a server that runs meanwhile.
    fn with_server(clients: impl FnOnce(SocketAddr)) {
        let mut server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, is_over) = (server.address().unwrap(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    server.serve(Duration::from_millis(5), &pages);
                }
            });
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| clients(address)));
            is_over.store(true, Ordering::Release);
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn read(mut stream: &TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn requests_in_pieces_and_in_heaps_get_one_answer() {
        with_server(|address| {
            // A byte at a time.
            let mut slow = connect(address);
            for byte in b"GET /page HTTP/1.1\r\nHost: here\r\n\r\n" {
                slow.write_all(&[*byte]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            // In two pieces, the end of the head between them.
            let mut split = connect(address);
            split.write_all(b"GET /page HTTP/1.1\r\n\r").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            split.write_all(b"\n").unwrap();
            // Three at once.
            let mut pipelined = connect(address);
            pipelined.write_all(&b"GET /page HTTP/1.1\r\n\r\n".repeat(3)).unwrap();
            for stream in [&slow, &split, &pipelined] {
                let answer = read(stream);
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\na page\n"));
                assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
            }
            // A client that has shut its side may still read.
            let mut half = connect(address);
            half.write_all(b"GET /page").unwrap();
            half.shutdown(Shutdown::Write).unwrap();
            assert!(read(&half).starts_with("HTTP/1.1 400 "));
        });
    }

    /// A connection that is closed with unread bytes is reset, and an answer on its way may be lost.
    #[test]
    fn an_answer_arrives_although_the_client_says_more_than_is_read() {
        with_server(|address| {
            for _ in 0..20 {
                let mut stream = connect(address);
                stream.write_all(b"POST /page HTTP/1.1\r\nContent-Length: 40000\r\n\r\n").unwrap();
                stream.write_all(&[b'x'; 40_000]).unwrap();
                assert!(read(&stream).starts_with("HTTP/1.1 405 "));
                let mut long = connect(address);
                long.write_all(b"GET /page HTTP/1.1\r\nCookie: ").unwrap();
                long.write_all(&[b'x'; 30_000]).unwrap();
                assert!(read(&long).starts_with("HTTP/1.1 431 "));
            }
        });
    }
}
