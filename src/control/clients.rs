//! Clients of the metrics port and of the store's socket: many at a time, and none of them is waited for.
//!
//! Every stream is non-blocking and has a limit in time; where there are too many, those that have asked nothing go first,
//! the oldest of them first. So neither a client nor the end of the mount waits for another client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::disk::SocketFile;

/// Clients at a time.
pub(super) const CLIENTS_MAX: usize = 64;
/// Longest time for a client to send its question.
const ASKING_MAX: Duration = Duration::from_secs(2);
/// Longest time for it to read its answer.
const READING_MAX: Duration = Duration::from_secs(10);
/// Longest time for it to hang up afterwards, and the most that it may send meanwhile.
const LEAVING_MAX: Duration = Duration::from_secs(1);
const LEAVING_BYTES_MAX: usize = 256 << 10;
/// Rest after a client could not be let in, for instance because there are no descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// A client's connection.
pub(super) trait Stream: Read + Write + AsFd {
    /// Tells the client that its answer has ended.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// The listening socket.
pub(super) trait Entrance: AsFd {
    /// A client's connection.
    type Stream: Stream;
    /// The next client, if one waits; its stream does not block. `WouldBlock` if none does.
    fn admit(&self) -> io::Result<Self::Stream>;
}

impl Entrance for TcpListener {
    type Stream = TcpStream;
    fn admit(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

impl AsFd for SocketFile {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener().as_fd()
    }
}

impl Entrance for SocketFile {
    type Stream = UnixStream;
    fn admit(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener().accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// State of a client.
enum Stage {
    /// It asks; what it has asked so far.
    Asks(Vec<u8>),
    /// It reads its answer, of which so much is written.
    Reads(Vec<u8>, usize),
    /// It has its answer, has been told so, and may hang up. Until then what it says is read and thrown away, so many bytes so
    /// far: a connection that is closed with unread bytes is reset, and what was written last is lost on its way.
    Leaves(usize),
}

struct Client<S> {
    stream: S,
    /// Since when it does what it does.
    since: Instant,
    stage: Stage,
}

/// The answer to a question: `None` while more of it must come. It is told what was asked so far and whether that is all.
pub(super) type Answer<'a> = dyn Fn(&[u8], bool) -> Option<Vec<u8>> + 'a;

/// An entrance with those who came in.
pub(super) struct Clients<E: Entrance> {
    entrance: E,
    clients: Vec<Client<E::Stream>>,
}

impl<E: Entrance> Clients<E> {
    /// Nobody yet. `entrance` must not block.
    pub fn new(entrance: E) -> Clients<E> {
        Clients { entrance, clients: Vec::new() }
    }

    /// Where they come in.
    pub fn entrance(&self) -> &E {
        &self.entrance
    }

    /// Waits up to `patience` for anyone to do anything, and serves everyone as far as that goes without waiting.
    pub fn serve(&mut self, patience: Duration, answer: &Answer<'_>) {
        if let Err(error) = self.wait(patience) {
            log::debug!("waiting for clients: {error}");
        }
        // Not more than may be there at a time, so that a flood of them does not keep us here.
        for _ in 0..CLIENTS_MAX {
            match self.entrance.admit() {
                Ok(stream) => {
                    self.make_room();
                    let stage = Stage::Asks(Vec::new());
                    self.clients.push(Client { stream, since: Instant::now(), stage });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    log::debug!("letting a client in: {error}");
                    std::thread::sleep(REFUSED_PAUSE);
                    break;
                }
            }
        }
        self.clients.retain_mut(|client| match client.go_on(answer) {
            Ok(stays) => stays,
            Err(error) => {
                log::debug!("answering a client: {error}");
                false
            }
        });
    }

    fn wait(&self, patience: Duration) -> io::Result<()> {
        let of = |client: &'_ Client<E::Stream>| match client.stage {
            Stage::Asks(_) | Stage::Leaves(_) => PollFlags::POLLIN,
            Stage::Reads(..) => PollFlags::POLLOUT,
        };
        let mut ready: Vec<PollFd<'_>> =
            self.clients.iter().map(|client| PollFd::new(client.stream.as_fd(), of(client))).collect();
        ready.push(PollFd::new(self.entrance.as_fd(), PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets one go if there are too many: the oldest that has its answer, or that has not asked yet, or of all.
    fn make_room(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            let oldest = |is: fn(&Stage) -> bool| self.clients.iter().position(|client| is(&client.stage));
            let answered = oldest(|stage| matches!(stage, Stage::Leaves(_)));
            let idle = oldest(|stage| matches!(stage, Stage::Asks(_)));
            self.clients.remove(answered.or(idle).unwrap_or(0));
        }
    }
}

impl<S: Stream> Client<S> {
    /// Reads and writes what goes without waiting. Returns whether there is more to do.
    fn go_on(&mut self, answer: &Answer<'_>) -> io::Result<bool> {
        let mut piece = [0; 1024];
        loop {
            let (moved, patience) = match &mut self.stage {
                Stage::Asks(_) => (self.stream.read(&mut piece), ASKING_MAX),
                Stage::Reads(answer, written) => (self.stream.write(&answer[*written..]), READING_MAX),
                Stage::Leaves(_) => (self.stream.read(&mut piece), LEAVING_MAX),
            };
            let count = match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(self.since.elapsed() < patience);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count?,
            };
            let next = match &mut self.stage {
                Stage::Asks(asked) => {
                    asked.extend_from_slice(&piece[..count]);
                    answer(asked, count == 0).map(|answer| Stage::Reads(answer, 0))
                }
                Stage::Reads(_, written) => {
                    *written += count;
                    None
                }
                Stage::Leaves(said) => {
                    *said += count;
                    if *said > LEAVING_BYTES_MAX {
                        return Ok(false);
                    }
                    None
                }
            };
            // Nothing read and nothing to answer, or nothing written: it has hung up.
            if count == 0 && next.is_none() {
                return Ok(false);
            }
            if let Some(stage) = next {
                (self.stage, self.since) = (stage, Instant::now());
            }
            if let Stage::Reads(answer, written) = &self.stage
                && *written == answer.len()
            {
                self.stream.end()?;
                (self.stage, self.since) = (Stage::Leaves(0), Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(asked: &[u8], is_all: bool) -> Option<Vec<u8>> {
        (asked.ends_with(b"\n") || is_all).then(|| [b"you said ", asked].concat())
    }

    fn entrance() -> (Clients<TcpListener>, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Clients::new(listener), address)
    }

    #[test]
    fn idle_clients_keep_nobody_waiting() {
        let (mut clients, address) = entrance();
        let idle: Vec<TcpStream> = (0..3 * CLIENTS_MAX)
            .map(|_| {
                let stream = TcpStream::connect(address).unwrap();
                clients.serve(Duration::ZERO, &line);
                stream
            })
            .collect();
        assert_eq!(clients.clients.len(), CLIENTS_MAX);
        let mut asker = TcpStream::connect(address).unwrap();
        asker.write_all(b"hello\n").unwrap();
        // Two passes without any patience: it is not behind anyone.
        clients.serve(Duration::from_secs(1), &line);
        clients.serve(Duration::ZERO, &line);
        asker.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = String::new();
        asker.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "you said hello\n");
        // The oldest have been closed, the newest are still there.
        let is_closed = |stream: &TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            matches!((&*stream).read(&mut [0]), Ok(0))
                || {
                    matches!((&*stream).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
                }
        };
        assert!(is_closed(&idle[0]) && !is_closed(&idle[3 * CLIENTS_MAX - 1]));
    }

    #[test]
    fn a_client_that_asks_nothing_is_left_and_one_that_reads_slowly_holds_nobody() {
        let (mut clients, address) = entrance();
        let _idle = TcpStream::connect(address).unwrap();
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"x\n").unwrap();
        let large = |asked: &[u8], _: bool| asked.ends_with(b"\n").then(|| vec![7; 32 << 20]);
        let begun = Instant::now();
        while clients.clients.len() != 1 || matches!(clients.clients[0].stage, Stage::Asks(_)) {
            clients.serve(Duration::from_millis(20), &large);
            assert!(begun.elapsed() < Duration::from_secs(60), "the idle one is left after {ASKING_MAX:?}");
        }
        assert!(begun.elapsed() >= ASKING_MAX);
        slow.set_nonblocking(true).unwrap();
        let mut bytes = 0;
        let mut piece = vec![0; 1 << 20];
        while !clients.clients.is_empty() && begun.elapsed() < Duration::from_secs(60) {
            clients.serve(Duration::ZERO, &large);
            while let Ok(count) = slow.read(&mut piece)
                && count > 0
            {
                bytes += count;
            }
        }
        slow.set_nonblocking(false).unwrap();
        bytes += slow.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(bytes, 32 << 20);
    }
}
