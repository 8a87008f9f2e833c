//! Direct writes beside buffered reads: what a program has been told is written is what every reader then sees.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::host::{Engine, Mount, able, every_engine};

const PIECE: usize = 4096;
const PIECES: usize = 16;

/// Memory that direct requests may use.
#[repr(C, align(4096))]
struct Aligned([u8; PIECE]);

/// A request of the kernel's asynchronous interface.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event: u32,
}

/// Its answer.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Answer {
    data: u64,
    request: u64,
    result: i64,
    more: i64,
}

/// A queue of such requests.
struct Queue(usize);

impl Queue {
    fn new() -> Queue {
        let mut queue = 0usize;
        // SAFETY: the place for the queue's name is ours.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, PIECES, &raw mut queue) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Queue(queue)
    }

    /// Writes `piece` everywhere in the file, all at once, and returns when the last write has been answered.
    fn write_everywhere(&self, file: &File, piece: &Aligned) {
        const WRITE: u16 = 1;
        let request = |index: usize| Request {
            opcode: WRITE,
            descriptor: file.as_raw_fd() as u32,
            buffer: piece.0.as_ptr() as u64,
            length: PIECE as u64,
            offset: (index * PIECE) as i64,
            ..Request::default()
        };
        let mut requests: Vec<Request> = (0..PIECES).map(request).collect();
        let pointers: Vec<*mut Request> = requests.iter_mut().map(|request| request as *mut _).collect();
        // SAFETY: requests, file and memory live until every answer has come, below.
        let sent = unsafe { libc::syscall(libc::SYS_io_submit, self.0, PIECES, pointers.as_ptr()) };
        assert_eq!(sent, PIECES as i64, "{}", io::Error::last_os_error());
        let mut answers = [Answer::default(); PIECES];
        let none = std::ptr::null::<libc::timespec>();
        // SAFETY: there is room for all answers.
        let came = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.0, PIECES, PIECES, answers.as_mut_ptr(), none)
        };
        assert_eq!(came, PIECES as i64, "{}", io::Error::last_os_error());
        assert!(
            answers.iter().all(|answer| answer.result == PIECE as i64),
            "{answers:?}",
            answers = answers.map(|a| a.result)
        );
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nobody uses the queue any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// Readers keep the file in the page cache while it is written past it, round after round.
fn an_asynchronous_direct_write_is_read_at_once(engine: Engine) {
    if !able(&[]) {
        return;
    }
    for options in ["", "writeback_cache=on"] {
        let mount = Mount::new(engine, options);
        let path = mount.mnt().join("file");
        fs::write(&path, vec![0; PIECE * PIECES]).unwrap();
        let (direct, buffered) = (
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap(),
            File::open(&path).unwrap(),
        );
        let (queue, over) = (Queue::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut bytes = vec![0; PIECE * PIECES];
                    while !over.load(Relaxed) {
                        buffered.read_exact_at(&mut bytes, 0).unwrap();
                    }
                });
            }
            let stale = (1..=300u32).find_map(|round| {
                let piece = Aligned([round as u8; PIECE]);
                queue.write_everywhere(&direct, &piece);
                let mut bytes = vec![0; PIECE * PIECES];
                buffered.read_exact_at(&mut bytes, 0).unwrap();
                let stale = bytes.iter().position(|&byte| byte != round as u8)?;
                Some(format!("round {round}: byte {stale} is still {}", bytes[stale]))
            });
            over.store(true, Relaxed);
            assert_eq!(stale, None, "-o {options}");
        });
        drop((direct, buffered));
        mount.stop_clean();
    }
}

every_engine!(an_asynchronous_direct_write_is_read_at_once);
