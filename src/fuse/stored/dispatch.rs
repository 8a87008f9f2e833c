//! Serving of a request: it is tried in memory, then where it may wait, recorded, and answered once.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use fuser::{Errno, FopenFlags, INodeNo, Notifier};

use super::StoredFiles;
use super::deferred::Attempted;
use crate::attribution::{Attribution, Tally};
use crate::fs::meter::Meter;
use crate::fs::operation::Durable;
use crate::fs::operation::Op;
use crate::fs::states::States;
use crate::fs::types::Ino;
use crate::fs::{self, FileSystem, Moment, Tier};
use crate::fuse::ending::{Connected, UnderWay};
use crate::fuse::{Durability, Options, convert};

/// Set-user-id and set-group-id bits.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// The thread that moved content, and the file.
#[derive(Clone, Copy)]
pub(in crate::fuse) struct Mover {
    pub(in crate::fuse) thread: u32,
    pub(in crate::fuse) ino: Ino,
}

/// Outcome of a call: its value, the bytes of file content that it moved and for whom, and, if the answer must wait for
/// durability, up to where.
pub(in crate::fuse) struct Outcome<T> {
    pub(in crate::fuse) value: T,
    pub(in crate::fuse) bytes: u64,
    pub(in crate::fuse) mover: Option<Mover>,
    pub(in crate::fuse) durable_at: Option<Moment>,
}

impl<T> Outcome<T> {
    pub(in crate::fuse) fn of(value: T) -> Outcome<T> {
        Outcome { value, bytes: 0, mover: None, durable_at: None }
    }
}

/// State that all requests share.
pub(in crate::fuse) struct Core {
    pub(in crate::fuse) states: Arc<States>,
    /// Door 1, of all states.
    pub(in crate::fuse) meter: Arc<Meter>,
    /// Attribution of content that is moved.
    pub(in crate::fuse) attribution: Arc<Attribution>,
    pub(in crate::fuse) options: Options,
    pub(in crate::fuse) durability: Durability,
    /// Set once the kernel answers.
    pub(in crate::fuse) notifier: OnceLock<Notifier>,
    /// Requests that are not answered yet.
    pub(in crate::fuse) under_way: UnderWay,
}

impl Connected for Core {
    fn open_inodes(&self) -> Vec<u64> {
        self.states.newest().open_inodes().into_iter().map(|ino| ino.0).collect()
    }
    fn is_idle(&self) -> bool {
        self.under_way.is_idle()
    }
    fn notifier(&self) -> &OnceLock<Notifier> {
        &self.notifier
    }
}

impl Core {
    /// Tells the kernel that the mode it remembers is no longer true. With HANDLE_KILLPRIV_V2 it leaves clearing set-id
    /// bits to us, but goes on showing them. Waits for nothing, so it may run before the answer is sent.
    pub(in crate::fuse) fn mode_changed(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0)
        {
            log::debug!("the kernel has no inode {ino}: {error}");
        }
    }

    /// Whether the answer to `op` waits until what it did is durable. `asked` is whether the file was opened with `O_SYNC` or
    /// `O_DSYNC`.
    pub(in crate::fuse) fn must_sync(&self, op: Op, asked: bool) -> bool {
        match op.duties().durable {
            Durable::Nothing => false,
            Durable::Names => self.durability.always || self.durability.names,
            Durable::Inode => self.durability.always,
            Durable::Content => self.durability.always || asked,
            Durable::Asked => true,
        }
    }

    pub(in crate::fuse) fn record(&self, op: Op, begun: Instant, bytes: u64, failed: bool) {
        self.meter.record(op, begun.elapsed(), bytes, failed);
    }

    /// Charges what a call moved.
    pub(in crate::fuse) fn charge(&self, op: Op, bytes: u64, mover: Option<Mover>) {
        if let Some(Mover { thread, ino }) = mover {
            let tally = if op == Op::Read { Tally::read(bytes) } else { Tally::written(bytes) };
            self.attribution.charge(thread, &self.states.of(ino).top_name(ino), tally);
        }
    }

    pub(in crate::fuse) fn open_flags(&self) -> FopenFlags {
        // Of a file that others change the kernel keeps what it has only while somebody has it open.
        let mut flags = match self.states.are_followed() {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_KEEP_CACHE,
        };
        if self.options.direct_io {
            flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        if !self.options.writeback_cache {
            flags |= FopenFlags::FOPEN_NOFLUSH;
        }
        flags
    }
}

impl StoredFiles {
    /// Serves one request: `call` is tried now and, if it must wait, again elsewhere; `answer` ends it.
    pub(super) fn serve<R, T>(
        &self,
        op: Op,
        reply: R,
        call: impl FnMut(&FileSystem, Tier, &mut R) -> fs::Result<Outcome<T>> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        self.serve_in(self.core.states.newest(), op, reply, call, answer);
    }

    /// The same in a state.
    pub(super) fn serve_in<R, T>(
        &self,
        fs: Arc<FileSystem>,
        op: Op,
        reply: R,
        call: impl FnMut(&FileSystem, Tier, &mut R) -> fs::Result<Outcome<T>> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let under_way = self.core.under_way.begin();
        let answer = move |reply, result| {
            answer(reply, result);
            drop(under_way);
        };
        let attempted = attempt(self.core.clone(), fs, op, Instant::now(), reply, call, answer, Tier::Memory);
        self.deferred.defer(attempted);
    }

    /// Serves a request that moves no bytes of file content and changes nothing.
    pub(super) fn ask<R, T>(
        &self,
        op: Op,
        reply: R,
        call: impl FnMut(&FileSystem, Tier) -> fs::Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        self.ask_in(self.core.states.newest(), op, reply, call, answer);
    }

    /// The same in a state.
    pub(super) fn ask_in<R, T>(
        &self,
        fs: Arc<FileSystem>,
        op: Op,
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        self.serve_in(fs, op, reply, move |fs, tier, _| call(fs, tier).map(Outcome::of), answer);
    }

    /// Serves a request that changes names.
    pub(super) fn change_name<R, T>(
        &self,
        op: Op,
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let durable = self.core.must_sync(op, false);
        let call = move |fs: &FileSystem, tier, _: &mut R| {
            let value = call(fs, tier)?;
            Ok(Outcome { durable_at: durable.then(|| fs.moment()), ..Outcome::of(value) })
        };
        self.serve(op, reply, call, answer);
    }

    /// Serves a request that changes the inode `ino`, whose file was opened with `O_SYNC` or `O_DSYNC` if `asked`.
    pub(super) fn change_inode<R, T>(
        &self,
        op: Op,
        ino: Ino,
        asked: bool,
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<Outcome<T>> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let durable = self.core.must_sync(op, asked);
        // What the change gave, while the question up to where to sync must wait.
        let mut changed = None;
        let call = move |fs: &FileSystem, tier, _: &mut R| {
            let outcome = match changed.take() {
                Some(outcome) => outcome,
                None => call(fs, tier)?,
            };
            if !durable {
                return Ok(outcome);
            }
            match fs.moment_of(tier, ino, false) {
                Ok(moment) => Ok(Outcome { durable_at: Some(moment), ..outcome }),
                Err(error) => {
                    changed = Some(outcome);
                    Err(error)
                }
            }
        };
        self.serve(op, reply, call, answer);
    }

    /// Serves a request that changes the content of `ino`. `clears` is whether it takes set-id bits from the file, which the
    /// kernel then has to be told.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn change_content<R, T>(
        &self,
        op: Op,
        ino: Ino,
        (asked, clears): (bool, bool),
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<Outcome<T>> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let call = move |fs: &FileSystem, tier: Tier| {
            let set_id = clears && fs.getattr(tier, ino)?.permissions & SET_ID != 0;
            let Outcome { value, bytes, mover, durable_at } = call(fs, tier)?;
            Ok(Outcome { value: (value, set_id), bytes, mover, durable_at })
        };
        let core = self.core.clone();
        self.change_inode(op, ino, asked, reply, call, move |reply, result| {
            if let Ok((_, true)) = result {
                core.mode_changed(ino);
            }
            answer(reply, result.map(|(value, _)| value));
        });
    }
}

/// One try of a request.
#[allow(clippy::too_many_arguments)]
fn attempt<R, T, C, A>(
    core: Arc<Core>,
    fs: Arc<FileSystem>,
    op: Op,
    begun: Instant,
    mut reply: R,
    mut call: C,
    answer: A,
    tier: Tier,
) -> Attempted
where
    R: Send + 'static,
    T: Send + 'static,
    C: FnMut(&FileSystem, Tier, &mut R) -> fs::Result<Outcome<T>> + Send + 'static,
    A: FnOnce(R, Result<T, Errno>) + Send + 'static,
{
    op.begin();
    match call(&fs, tier, &mut reply) {
        Ok(Outcome { value, bytes, mover, durable_at: None }) => {
            debug_assert!(!core.must_sync(op, false), "{} is answered before it is durable", op.name());
            core.record(op, begun, bytes, false);
            core.charge(op, bytes, mover);
            answer(reply, Ok(value));
            Attempted::Answered
        }
        Ok(Outcome { value, bytes, mover, durable_at: Some(moment) }) => {
            fs.sync_to(moment, move |result| {
                core.record(op, begun, bytes, result.is_err());
                core.charge(op, bytes, mover);
                answer(reply, result.map(|()| value).map_err(|error| convert::errno(&error)));
            });
            Attempted::Answered
        }
        Err(fs::Error::WouldBlock) if tier == Tier::Memory => {
            Attempted::Blocks(Box::new(move |tier| attempt(core, fs, op, begun, reply, call, answer, tier)))
        }
        Err(fs::Error::Busy { retry_after, .. }) => Attempted::Refused(
            Box::new(move |tier| attempt(core, fs, op, begun, reply, call, answer, tier)),
            retry_after,
        ),
        Err(error) => {
            core.record(op, begun, 0, true);
            answer(reply, Err(convert::errno(&error)));
            Attempted::Answered
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::engine::{self, Cause, MemEngine};
    use crate::fs::types::ROOT;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn core() -> Arc<Core> {
        let clock = Arc::new(ManualClock::default());
        let space =
            || Ok(crate::disk::Space { total_bytes: 1 << 30, free_bytes: 1 << 30, ..Default::default() });
        let options = fs::Options::default();
        let fs = FileSystem::open(Arc::new(MemEngine::new()), clock, options, Arc::new(space)).unwrap();
        Arc::new(Core {
            meter: fs.meter().clone(),
            states: Arc::new(States::only(fs)),
            attribution: Arc::default(),
            options: Options::default(),
            durability: Durability::default(),
            notifier: OnceLock::new(),
            under_way: UnderWay::default(),
        })
    }

    /// Settings that make an answer wait: nothing, `dirsync`, `sync=always`, a file opened with `O_SYNC`.
    #[test]
    fn answers_wait_for_the_sync_that_was_asked_for() {
        let waits = |op| {
            [(false, false, false), (false, true, false), (true, false, false), (false, false, true)].map(
                |(always, names, asked)| {
                    let mut core = Arc::into_inner(core()).expect("nobody else has it yet");
                    core.durability = Durability { always, names };
                    core.must_sync(op, asked)
                },
            )
        };
        for op in [Op::Write, Op::CopyFileRange, Op::Fallocate] {
            assert_eq!(waits(op), [false, false, true, true], "{}", op.name());
        }
        for op in [Op::Setattr, Op::Truncate, Op::Setxattr, Op::Removexattr] {
            assert_eq!(waits(op), [false, false, true, false], "{}", op.name());
        }
        for op in [Op::Create, Op::Mkdir, Op::Rename, Op::Unlink] {
            assert_eq!(waits(op), [false, true, true, false], "{}", op.name());
        }
        assert_eq!(waits(Op::Fsync), [true; 4]);
        assert_eq!(waits(Op::Read), [false; 4]);
    }

    /// A request that is refused once, needs the disk once, and counts its tries.
    #[test]
    fn a_request_that_must_wait_is_answered_once_and_recorded_once() {
        let core = core();
        let (reply, answers) = channel();
        let mut refused = false;
        let call = move |fs: &FileSystem, tier, _: &mut _| {
            if !refused {
                refused = true;
                let retry_after = Duration::from_millis(3);
                return Err(engine::Error::Busy { cause: Cause::L0Files, retry_after }.into());
            }
            if tier == Tier::Memory {
                return Err(engine::Error::WouldBlock.into());
            }
            let mover = Some(Mover { thread: 7, ino: ROOT });
            Ok(Outcome { bytes: 9, mover, durable_at: Some(fs.moment()), ..Outcome::of("done") })
        };
        let answer = |reply: std::sync::mpsc::Sender<_>, result| reply.send(result).unwrap();
        let attempted = attempt(
            core.clone(),
            core.states.newest(),
            Op::Write,
            Instant::now(),
            reply,
            call,
            answer,
            Tier::Memory,
        );
        let Attempted::Refused(task, retry_after) = attempted else {
            panic!("a refused request waits for room")
        };
        assert_eq!(retry_after, Duration::from_millis(3));
        let Attempted::Blocks(task) = task(Tier::Memory) else {
            panic!("what is not in memory waits for the disk")
        };
        assert_eq!(core.meter.of(Op::Write).calls.count, 0);
        assert!(matches!(task(Tier::Disk), Attempted::Answered));
        assert_eq!(answers.try_recv().unwrap().unwrap(), "done");
        let counters = core.meter.of(Op::Write).calls;
        assert_eq!((counters.count, counters.bytes, counters.errors), (1, 9, 0));
        assert_eq!(core.attribution.charges().total(), Tally::written(9));
    }

    #[test]
    fn an_engine_that_needs_the_disk_on_the_disk_is_an_error_and_not_a_circle() {
        let core = core();
        let (reply, answers) = channel();
        let call = |_: &FileSystem, _, _: &mut _| -> fs::Result<Outcome<()>> {
            Err(engine::Error::WouldBlock.into())
        };
        let answer = |reply: std::sync::mpsc::Sender<_>, result: Result<(), Errno>| {
            reply.send(result.is_err()).unwrap()
        };
        let attempted = attempt(
            core.clone(),
            core.states.newest(),
            Op::Read,
            Instant::now(),
            reply,
            call,
            answer,
            Tier::Disk,
        );
        assert!(matches!(attempted, Attempted::Answered) && answers.try_recv().unwrap());
        assert_eq!(core.meter.of(Op::Read).calls.errors, 1);
    }
}
