//! The thread engine, for hosts that forbid io_uring: files on a pool of threads, sockets by
//! trying, then waiting with epoll.
//!
//! I1  A socket operation is tried at its start, so that a ready socket costs no epoll call; its
//!     result is kept until the next reaping even so, because a task whose sockets are always ready
//!     must not keep the others from running.
//! I2  A socket is armed ONESHOT, for exactly the directions in which an operation waits.
//! I3  An operation owns its socket while it waits, so a descriptor in `waiting` is open and cannot
//!     be another's.
//!
//! epoll comes from rustix, whose interface is safe throughout; the portable `polling` crate asks
//! its callers for `unsafe` at each registration, which this module avoids.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::driver::Spun;
use super::pool::{Finished, Pool};
use super::remote::Remote;
use crate::io::{Class, Key, Op, OpTable, Reaped, SocketFd, window};
use crate::memory::append_with;

/// Events taken from one epoll call.
const EVENTS_MAX: usize = 256;
/// Marks the wake-up's event; no descriptor has this number.
const WAKE: u64 = u64::MAX;
/// How often `drain` looks.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// The thread engine; see the module.
pub(crate) struct Threads {
    table: OpTable,
    pool: Pool,
    finished: Vec<Finished>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    waiting: HashMap<RawFd, Waiting>,
    ready: Vec<(Key, io::Result<usize>)>,
    remote: Arc<Remote>,
}

/// Operations that wait for one socket.
#[derive(Default)]
struct Waiting {
    receives: VecDeque<Key>,
    sends: VecDeque<Key>,
    /// The socket's failure ends them; epoll reports it without being asked.
    watches: VecDeque<Key>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.receives.is_empty() && self.sends.is_empty() && self.watches.is_empty()
    }

    fn into_keys(self) -> impl Iterator<Item = Key> {
        self.receives.into_iter().chain(self.sends).chain(self.watches)
    }
}

impl Threads {
    /// # Errors
    /// Where the process has no descriptor left for epoll.
    pub(crate) fn new(remote: Arc<Remote>) -> io::Result<Threads> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(eventfd) = remote.eventfd() {
            epoll::add(&epoll, eventfd, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        }
        Ok(Threads {
            table: OpTable::default(),
            pool: Pool::new(Arc::clone(&remote)),
            finished: Vec::new(),
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            waiting: HashMap::new(),
            ready: Vec::new(),
            remote,
        })
    }

    pub(crate) fn table(&mut self) -> &mut OpTable {
        &mut self.table
    }

    pub(crate) fn start(&mut self, op: Op) -> Key {
        let class = op.class();
        let key = self.table.insert(op);
        match class {
            Class::File => {
                let op = self.table.lend(key);
                self.pool.start(key, op);
            }
            Class::Receive | Class::Send | Class::Watch => match attempt(self.table.op(key)) {
                Some(result) => self.ready.push((key, result)), // keeps I1
                None => self.wait_for(key),
            },
        }
        key
    }

    pub(crate) fn reap(&mut self, out: &mut Reaped) {
        for (key, result) in self.ready.drain(..) {
            self.table.complete(key, result, None, out);
        }
        self.pool.collect(&mut self.finished);
        for Finished { key, op, result } in self.finished.drain(..) {
            self.table.complete(key, result, Some(op), out);
        }
    }

    /// Waits for sockets, the pool or a wake-up, unless something is there already.
    pub(crate) fn poll(&mut self, timeout: Option<Duration>) -> Spun {
        let timeout = if self.found() == Spun::Found { Some(Duration::ZERO) } else { timeout };
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll refused what it took before: {error}"),
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event.data.u64() {
                WAKE => self.remote.clear(),
                fd => self.advance(fd as RawFd),
            }
        }
        self.events = events; // with its capacity
        self.found()
    }

    /// Ends all socket operations and waits for those of files. Returns how many are left after the
    /// timeout.
    pub(crate) fn drain(&mut self, timeout: Duration, out: &mut Reaped) -> usize {
        let keys = std::mem::take(&mut self.waiting).into_values().flat_map(Waiting::into_keys);
        self.ready.extend(keys.map(|key| (key, Err(Errno::CANCELED.into()))));
        let deadline = Instant::now() + timeout;
        loop {
            self.reap(out);
            if self.table.active() == 0 || Instant::now() >= deadline {
                return self.table.active();
            }
            self.poll(Some(DRAIN_INTERVAL));
        }
    }

    fn found(&self) -> Spun {
        if self.ready.is_empty() && !self.pool.has_finished() { Spun::Nothing } else { Spun::Found }
    }

    fn wait_for(&mut self, key: Key) {
        let op = self.table.op(key);
        let class = op.class();
        let socket = Arc::clone(op.socket().expect("only sockets are waited for"));
        let waiting = self.waiting.entry(socket.raw_fd()).or_default();
        match class {
            Class::Receive => &mut waiting.receives,
            Class::Send => &mut waiting.sends,
            Class::Watch => &mut waiting.watches,
            Class::File => unreachable!("files have no socket"),
        }
        .push_back(key);
        self.arm(&socket);
    }

    /// Continues the operations of a socket that has an event.
    fn advance(&mut self, fd: RawFd) {
        let Some(waiting) = self.waiting.get_mut(&fd) else { return };
        let mut socket = None;
        for queue in [&mut waiting.receives, &mut waiting.sends, &mut waiting.watches] {
            while let Some(&key) = queue.front() {
                let op = self.table.op(key);
                socket = op.socket().cloned();
                let Some(result) = attempt(op) else { break };
                self.ready.push((key, result));
                queue.pop_front();
            }
        }
        if waiting.is_empty() {
            self.waiting.remove(&fd);
        } else if let Some(socket) = socket {
            self.arm(&socket);
        }
    }

    fn arm(&mut self, socket: &SocketFd) {
        let waiting = &self.waiting[&socket.raw_fd()];
        let mut flags = epoll::EventFlags::ONESHOT; // keeps I2
        flags.set(epoll::EventFlags::IN, !waiting.receives.is_empty());
        flags.set(epoll::EventFlags::OUT, !waiting.sends.is_empty());
        let data = epoll::EventData::new_u64(socket.raw_fd() as u64);
        let armed = match epoll::modify(&self.epoll, socket.as_fd(), data, flags) {
            Err(Errno::NOENT) => epoll::add(&self.epoll, socket.as_fd(), data, flags),
            result => result,
        };
        if let Err(error) = armed
            && let Some(waiting) = self.waiting.remove(&socket.raw_fd())
        {
            self.ready.extend(waiting.into_keys().map(|key| (key, Err(error.into()))));
        }
    }
}

/// Tries a socket operation; `None` when it would have to wait.
fn attempt(op: &mut Op) -> Option<io::Result<usize>> {
    let result = match op {
        Op::Recv { socket, buf } => append_with(buf, usize::MAX, |spare| {
            let ((filled, _), _) = rustix::net::recv(socket.as_fd(), spare, RecvFlags::DONTWAIT)?;
            Ok(filled)
        }),
        Op::Send { socket, chunks, first, skip } => {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let slices: Vec<IoSlice<'_>> =
                window(chunks, *first, *skip).map(IoSlice::new).collect();
            let mut nothing = SendAncillaryBuffer::default();
            rustix::net::sendmsg(socket.as_fd(), &slices, &mut nothing, flags)
                .map_err(io::Error::from)
        }
        Op::Watch { socket } => {
            const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut asked = [PollFd::new(&**socket, PollFlags::empty())];
            match poll(&mut asked, Some(&AT_ONCE)) {
                Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
                result => result.map_err(io::Error::from),
            }
        }
        op => unreachable!("{op:?} is not of a socket"),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}
