//! The ring engine: one io_uring for the files and sockets of one thread.
//!
//! ```text
//!   start ─► backlog (only when full) ─► submission queue ─► kernel ─►
//!            completion queue ─► table: Done ─► the caller
//!   one io_uring_enter a turn submits all and waits
//! ```
//!
//! I1  An operation is in the table, with its buffer and its file, before its entry is pushed, and
//!     leaves at its completion (`table.rs`). So the kernel's borrowed memory lives until the
//!     kernel gives it back, even if futures are dropped.
//! I2  Pointers given to the kernel lead into heap memory that does not move with the table: a
//!     `BytesMut`'s, a `Bytes`'s, a mapping's, or a boxed `Message`'s, one a slot, untouched until
//!     the slot's next send.
//! I3  File operations in flight are bounded; operations above the bound wait in their class's
//!     backlog in order of arrival. Socket operations are not bounded: a socket has one receive,
//!     one send and one watch at a time, most receives never end, and with a bound active clients
//!     would wait for silent ones. The server bounds the number of sockets. More may complete than
//!     the completion queue holds: the kernel keeps the rest (NODROP) and says so (`cq_overflow`).
//! I4  The ring is dropped drained. Where that fails, the memory that the kernel may still touch is
//!     leaked, and the log says so.
//! I5  Entries are only pushed and entered from the thread that made the ring: `Uring` is not
//!     `Send`.
//!
//! Flags: SINGLE_ISSUER with DEFER_TASKRUN (6.1: completions are made inside this thread's own
//! enter, never by an interrupt), else COOP_TASKRUN (5.19), else none. TASKRUN_FLAG lets the spin
//! look at memory instead of entering. No SQPOLL (a kernel thread a worker), no IOPOLL (needs
//! polled queues and excludes sockets).
//!
//! io_uring_enter may say EINTR (a signal: the executor begins its next turn), ETIME (the timeout),
//! EAGAIN (no memory for requests: nothing is lost, tried again next turn after a moment) and EBUSY
//! (completions wait to be reaped first). Source: io_uring_enter(2), io_uring_setup(2).

#![expect(
    unsafe_code,
    reason = "the kernel borrows buffers for as long as an operation is in flight"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, Probe, cqueue, opcode, types};
use rustix::io::Errno;

use super::availability;
use super::driver::Spun;
use super::in_place::InPlace;
use super::remote::Remote;
use crate::io::{
    CHUNKS_MAX, Class, FALLOC_FL_WRITE_ZEROES, Key, Op, OpTable, RealFile, Reaped, WriteMode,
    window,
};
use crate::memory;

/// Entries pushed between two enters; more simply means one enter more. A guess, not tuned.
const SQ_ENTRIES: u32 = 256;
/// After each this many queued entries, file operations are submitted before the turn ends: the
/// device need not idle while the thread takes in the rest of a burst.
const SUBMIT_EARLY: usize = 8;
/// Completions the kernel can hand over at once without allocating. 16 bytes each.
const CQ_ENTRIES: u32 = 16_384;
/// Most file operations in flight. Several times what one NVMe queue holds.
const FILE_OPS_MAX: usize = 1024;
/// Files the ring knows by number. A store is one; tests open several.
const FILES_MAX: usize = 16;
/// Most bytes of one read or write, below the kernel's own limit (2 GiB less a page). Longer ones
/// come out short.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// How long an enter that found no memory waits before the next turn.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// How often `drain` repeats its cancels.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// `user_data` of the engine's own entries: the top bit, which no key has.
const WAKE: u64 = 1 << 63;
const CANCEL: u64 = WAKE + 1;
const PROBE: u64 = WAKE + 2;

/// The ring engine; see the module.
pub(crate) struct Uring {
    ring: IoUring,
    table: OpTable,
    /// Headers of vectored sends, by slot of the table (I2).
    messages: Vec<Option<Box<Message>>>,
    files: Vec<Weak<RealFile>>,
    /// Whether the kernel took the sparse table of files.
    files_registered: bool,
    queues: [Queue; Class::ALL.len()],
    in_place: InPlace,
    remote: Arc<Remote>,
    /// Where the kernel puts the eventfd's count. Never looked at.
    wake_count: Box<[u8; 8]>,
    wake_armed: bool,
    _not_send: std::marker::PhantomData<Rc<()>>, // keeps I5
}

/// The operations of one class in flight, and its backlog.
#[derive(Default)]
struct Queue {
    in_flight: usize,
    backlog: VecDeque<Key>,
}

/// The header of a vectored send and the array it points to.
struct Message {
    header: libc::msghdr,
    chunks: Vec<libc::iovec>,
}

impl Class {
    fn in_flight_max(self) -> usize {
        match self {
            Class::File => FILE_OPS_MAX,
            Class::Receive | Class::Send | Class::Watch => usize::MAX,
        }
    }
}

impl Uring {
    /// Makes a ring that wakes up through `remote`.
    ///
    /// # Errors
    /// Where the kernel forbids or lacks it; the text names the obstacle.
    pub(crate) fn new(remote: Arc<Remote>) -> io::Result<Uring> {
        let mut ring = build().map_err(availability::explain)?;
        check(&mut ring)?;
        let files_registered = ring.submitter().register_files_sparse(FILES_MAX as u32).is_ok();
        Ok(Uring {
            ring,
            table: OpTable::default(),
            messages: Vec::new(),
            files: Vec::new(),
            files_registered,
            queues: Default::default(),
            in_place: InPlace::default(),
            remote,
            wake_count: Box::new([0; 8]),
            wake_armed: false,
            _not_send: std::marker::PhantomData,
        })
    }

    pub(crate) fn table(&mut self) -> &mut OpTable {
        &mut self.table
    }

    pub(crate) fn start(&mut self, op: Op) -> Key {
        let class = op.class();
        let in_flight = self.queues[class as usize].in_flight;
        let is_held = class == Class::File && self.in_place.may_hold(&op, in_flight);
        let key = self.table.insert(op);
        if is_held {
            self.in_place.hold(key);
            return key;
        }
        if class == Class::File {
            self.release_held();
        }
        self.hand_over(key, class);
        key
    }

    /// Gives the held operation to the ring.
    fn release_held(&mut self) {
        if let Some(held) = self.in_place.release() {
            self.hand_over(held, Class::File);
        }
    }

    fn hand_over(&mut self, key: Key, class: Class) {
        let queue = &self.queues[class as usize];
        let full = queue.in_flight >= class.in_flight_max() || !queue.backlog.is_empty();
        if full || !self.push_op(key, class) {
            self.queues[class as usize].backlog.push_back(key);
        }
    }

    /// Does a lone operation in place, where nothing else is to be done meanwhile. Returns whether
    /// it did.
    pub(crate) fn wait_in_place(&mut self) -> bool {
        let Some(key) = self.in_place.release() else { return false };
        if !self.in_place.has_listened() {
            self.enter(0, None); // keeps in_place's I4
        }
        let has_news = self.has_news();
        let sends = &self.queues[Class::Send as usize];
        if has_news
            || sends.in_flight > 0
            || !sends.backlog.is_empty()
            || self.in_place.serves_several()
        {
            self.hand_over(key, Class::File);
            return false;
        }
        self.in_place.run(key, self.table.op(key));
        if self.has_news() {
            // Another completion came meanwhile.
            self.hint_concurrency();
        }
        true
    }

    /// Whether an operation has completed, even where only the next enter would show it.
    fn has_news(&mut self) -> bool {
        let queue = self.ring.submission();
        let is_called = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        is_called || self.found() == Spun::Found
    }

    /// Hints that more than one operation goes on at a time, so none is done in place for a while.
    pub(crate) fn hint_concurrency(&mut self) {
        self.in_place.hint_concurrency();
    }

    /// Sets the number of clients that the thread serves.
    pub(crate) fn set_clients(&mut self, clients: usize) {
        self.in_place.set_clients(clients);
    }

    pub(crate) fn reap(&mut self, out: &mut Reaped) {
        if let Some((key, result)) = self.in_place.take_done() {
            self.table.complete(key, result, None, out);
        }
        for completion in self.ring.completion() {
            match completion.user_data() {
                WAKE => self.wake_armed = false,
                CANCEL | PROBE => {}
                data => {
                    let key = Key::from_u64(data);
                    let op = self.table.op(key);
                    self.queues[op.class() as usize].in_flight -= 1;
                    let result = finish(op, &completion);
                    self.table.complete(key, result, None, out);
                }
            }
        }
        self.pump();
    }

    /// Whether a file operation is in flight.
    pub(crate) fn has_file_ops(&self) -> bool {
        self.queues[Class::File as usize].in_flight > 0
    }

    pub(crate) fn submit(&mut self) -> Spun {
        self.release_held();
        let queue = self.ring.submission();
        let needs_enter = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if needs_enter {
            self.enter(0, None);
        }
        self.found()
    }

    pub(crate) fn spin(&mut self) -> Spun {
        if self.found() == Spun::Nothing && self.ring.submission().taskrun() {
            self.enter(0, None);
        }
        self.found()
    }

    pub(crate) fn park(&mut self, timeout: Option<Duration>) {
        self.release_held();
        self.pump();
        self.arm_wake();
        // Room in flight and yet a backlog: an enter was refused. Its completions cannot be relied
        // on for a wake-up.
        let refused = Class::ALL.iter().any(|class| {
            let queue = &self.queues[*class as usize];
            !queue.backlog.is_empty() && queue.in_flight < class.in_flight_max()
        });
        let timeout = if refused || !self.wake_armed {
            Some(timeout.map_or(REFUSED_PAUSE, |timeout| timeout.min(REFUSED_PAUSE)))
        } else {
            timeout
        };
        match self.found() {
            Spun::Nothing => self.enter(1, timeout),
            Spun::Found => {
                self.submit();
            }
        }
    }

    /// Ends all socket operations and waits for those of files. Returns how many are left after the
    /// timeout.
    pub(crate) fn drain(&mut self, timeout: Duration, out: &mut Reaped) -> usize {
        self.release_held();
        for class in Class::ALL.into_iter().filter(|class| class.is_socket()) {
            for key in std::mem::take(&mut self.queues[class as usize].backlog) {
                self.table.complete(key, Err(Errno::CANCELED.into()), None, out);
            }
        }
        let deadline = Instant::now() + timeout;
        loop {
            self.reap(out);
            let left = self.table.active() + usize::from(self.wake_armed);
            let now = Instant::now();
            if left == 0 || now >= deadline {
                return left;
            }
            self.push_cancels();
            self.enter(1, Some((deadline - now).min(CANCEL_INTERVAL)));
        }
    }

    fn push_cancels(&mut self) {
        let of_socket = |op: &Op| op.class().is_socket();
        let sockets = self.table.active_ops();
        let sockets =
            sockets.filter(|(_, op)| op.is_some_and(of_socket)).map(|(key, _)| key.to_u64());
        let targets: Vec<u64> =
            sockets.chain(self.wake_armed.then_some(WAKE)).take(SQ_ENTRIES as usize).collect();
        for target in targets {
            if !self.push(&opcode::AsyncCancel::new(target).build().user_data(CANCEL)) {
                return;
            }
        }
    }

    fn found(&mut self) -> Spun {
        if self.ring.completion().is_empty() { Spun::Nothing } else { Spun::Found }
    }

    /// Moves operations from the backlogs into the ring, as many as there is room for.
    fn pump(&mut self) {
        for class in Class::ALL {
            while let Some(&key) = self.queues[class as usize].backlog.front()
                && self.queues[class as usize].in_flight < class.in_flight_max()
                && self.push_op(key, class)
            {
                self.queues[class as usize].backlog.pop_front();
            }
        }
    }

    /// Keeps a read of the eventfd in flight, so that other threads end the wait.
    fn arm_wake(&mut self) {
        let Some(eventfd) = self.remote.eventfd() else { return };
        if !self.wake_armed {
            let fd = types::Fd(eventfd.as_raw_fd());
            let read =
                opcode::Read::new(fd, self.wake_count.as_mut_ptr(), 8).build().user_data(WAKE);
            // The kernel writes into `wake_count`, which is boxed and freed only after this read
            // has ended (I4).
            self.wake_armed = self.push(&read);
        }
    }

    fn push_op(&mut self, key: Key, class: Class) -> bool {
        if !self.has_room() {
            return false;
        }
        let entry = self.entry(key).user_data(key.to_u64());
        let pushed = self.push(&entry);
        assert!(pushed, "there was room a moment ago");
        self.queues[class as usize].in_flight += 1;
        if class == Class::File && self.ring.submission().len().is_multiple_of(SUBMIT_EARLY) {
            self.enter(0, None);
        }
        true
    }

    fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the pointers in an operation's entry lead into what the table (or `messages`, or
        // `wake_count`) owns on the heap until the completion, and beyond a failed drain (I1, I2,
        // I4).
        self.has_room() && unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn has_room(&mut self) -> bool {
        if self.ring.submission().is_full() {
            self.enter(0, None);
        }
        !self.ring.submission().is_full()
    }

    /// Submits all that is queued and waits for `want` completions, at most for `timeout`.
    fn enter(&mut self, want: usize, timeout: Option<Duration>) {
        self.in_place.listen();
        let submitter = self.ring.submitter();
        let result = match timeout {
            None => submitter.submit_and_wait(want),
            Some(timeout) => {
                let timeout = types::Timespec::from(timeout);
                submitter.submit_with_args(want, &types::SubmitArgs::new().timespec(&timeout))
            }
        };
        let Err(error) = result else { return };
        match Errno::from_io_error(&error) {
            // The executor goes round: timers, wake-ups, and then here again.
            Some(Errno::INTR | Errno::TIME) => {}
            // Reaping makes room, which the executor does next.
            Some(Errno::BUSY) => {}
            Some(Errno::AGAIN) => {
                if self.found() == Spun::Nothing {
                    std::thread::sleep(REFUSED_PAUSE);
                }
            }
            Some(_) | None => panic!("io_uring_enter refused what it took before: {error}"),
        }
    }

    /// The submission entry of an operation in the table.
    fn entry(&mut self, key: Key) -> Entry {
        let Uring { ring, table, messages, files, files_registered, .. } = self;
        let mut target = |file: &Arc<RealFile>| {
            let number = if *files_registered { registered(files, ring, file) } else { None };
            match number {
                Some(number) => (types::Fd(number), Flags::FIXED_FILE),
                None => (types::Fd(file.raw_fd()), Flags::empty()),
            }
        };
        match table.op(key) {
            Op::Read { file, offset, len, buf } => {
                let (fd, flags) = target(file.real());
                let spare = buf.spare_capacity_mut();
                let len = (*len).min(spare.len()).min(TRANSFER_BYTES_MAX) as u32;
                opcode::Read::new(fd, spare.as_mut_ptr().cast(), len)
                    .offset(*offset)
                    .build()
                    .flags(flags)
            }
            Op::Write { file, offset, data, skip, mode } => {
                let (fd, flags) = target(file.real());
                let data = &data.as_slice()[*skip..];
                let len = data.len().min(TRANSFER_BYTES_MAX) as u32;
                let rw_flags = match mode {
                    WriteMode::Plain => 0,
                    WriteMode::Through => libc::RWF_DSYNC,
                };
                let write =
                    opcode::Write::new(fd, data.as_ptr(), len).offset(*offset).rw_flags(rw_flags);
                write.build().flags(flags)
            }
            Op::Sync { file } => {
                let (fd, flags) = target(file.real());
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().flags(flags)
            }
            Op::Allocate { file, offset, len } => {
                let (fd, flags) = target(file.real());
                opcode::Fallocate::new(fd, *len).offset(*offset).build().flags(flags)
            }
            Op::Zero { file, offset, len } => {
                let (fd, flags) = target(file.real());
                let fallocate = opcode::Fallocate::new(fd, *len).offset(*offset);
                fallocate.mode(FALLOC_FL_WRITE_ZEROES).build().flags(flags)
            }
            Op::Punch { file, offset, len } => {
                let (fd, flags) = target(file.real());
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode).build().flags(flags)
            }
            Op::Recv { socket, buf } => {
                let spare = buf.spare_capacity_mut();
                let len = spare.len().min(TRANSFER_BYTES_MAX) as u32;
                opcode::Recv::new(types::Fd(socket.raw_fd()), spare.as_mut_ptr().cast(), len)
                    .build()
            }
            Op::Watch { socket } => {
                // RDHUP is reported without being asked for.
                let failed = (libc::POLLERR | libc::POLLHUP) as u32;
                opcode::PollAdd::new(types::Fd(socket.raw_fd()), failed).build()
            }
            Op::Send { socket, chunks, first, skip } => {
                let fd = types::Fd(socket.raw_fd());
                // With WAITALL the kernel itself goes on after a partial send (5.19); an older one
                // ends it short.
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                if chunks.len() - *first == 1 {
                    let chunk = &chunks[*first][*skip..];
                    let len = chunk.len().min(TRANSFER_BYTES_MAX) as u32;
                    return opcode::Send::new(fd, chunk.as_ptr(), len).flags(flags).build();
                }
                if messages.len() <= key.slot() {
                    messages.resize_with(key.slot() + 1, || None);
                }
                let message = messages[key.slot()].get_or_insert_with(Message::boxed);
                message.fill(window(chunks, *first, *skip));
                opcode::SendMsg::new(fd, &raw const message.header).flags(flags as u32).build()
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut out = Reaped::default();
        let left = self.drain(Duration::ZERO, &mut out); // the runtime has waited before
        if left > 0 {
            tracing::error!(
                operations = left,
                "dropping a ring with operations in flight: leaking their buffers"
            );
            std::mem::forget(std::mem::take(&mut self.table)); // keeps I4
            std::mem::forget(std::mem::take(&mut self.messages));
            std::mem::forget(std::mem::replace(&mut self.wake_count, Box::new([0; 8])));
        }
    }
}

impl Message {
    fn boxed() -> Box<Message> {
        // SAFETY: a `msghdr` is plain numbers and pointers, for all of which zero is a value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message { header, chunks: Vec::new() })
    }

    fn fill<'a>(&mut self, chunks: impl Iterator<Item = &'a [u8]>) {
        self.chunks.clear();
        self.chunks.extend(chunks.map(|chunk| libc::iovec {
            iov_base: chunk.as_ptr().cast_mut().cast(),
            iov_len: chunk.len(),
        }));
        debug_assert!(self.chunks.len() <= CHUNKS_MAX);
        self.header.msg_iov = self.chunks.as_mut_ptr();
        self.header.msg_iovlen = self.chunks.len() as _;
    }
}

/// Counts what the kernel has filled, and turns a completion into a result.
fn finish(op: &mut Op, completion: &cqueue::Entry) -> io::Result<usize> {
    let result = completion.result();
    let Ok(count) = usize::try_from(result) else {
        return Err(io::Error::from_raw_os_error(-result));
    };
    match op {
        Op::Read { buf, .. } | Op::Recv { buf, .. } => {
            // SAFETY: the kernel says that it has filled this many bytes of the spare capacity it
            // was given, and the buffer was not touched in between, because the table had it.
            unsafe { memory::grow(buf, count) };
        }
        Op::Write { .. }
        | Op::Sync { .. }
        | Op::Allocate { .. }
        | Op::Zero { .. }
        | Op::Punch { .. } => {}
        Op::Send { .. } | Op::Watch { .. } => {}
    }
    Ok(count)
}

/// The ring's number for a file, given on first use. `None` where the table is full of living
/// files.
///
/// The ring holds only a weak reference, so that a closed store's file is closed; the kernel's own
/// reference ends when the number is given to another file.
fn registered(
    files: &mut Vec<Weak<RealFile>>,
    ring: &IoUring,
    file: &Arc<RealFile>,
) -> Option<RawFd> {
    let known = files.iter().position(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(file)));
    if let Some(number) = known {
        return Some(number as RawFd);
    }
    let dead = files.iter().position(|known| known.strong_count() == 0);
    let number = dead.unwrap_or(files.len());
    if number == FILES_MAX
        || ring.submitter().register_files_update(number as u32, &[file.raw_fd()]).is_err()
    {
        return None;
    }
    let weak = Arc::downgrade(file);
    match dead {
        Some(number) => files[number] = weak,
        None => files.push(weak),
    }
    Some(number as RawFd)
}

/// Sets up a ring with the best flags the kernel takes. It says EINVAL to those it does not know.
fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(CQ_ENTRIES).setup_submit_all().setup_taskrun_flag();
    let defer = builder.clone().setup_single_issuer().setup_defer_taskrun().build(SQ_ENTRIES);
    if !is_invalid(&defer) {
        return defer;
    }
    let cooperative = builder.setup_coop_taskrun().build(SQ_ENTRIES);
    if !is_invalid(&cooperative) {
        return cooperative;
    }
    IoUring::builder().setup_cqsize(CQ_ENTRIES).build(SQ_ENTRIES)
}

fn is_invalid(result: &io::Result<IoUring>) -> bool {
    result.as_ref().is_err_and(|error| Errno::from_io_error(error) == Some(Errno::INVAL))
}

/// Detects missing operations at the start, rather than at the first write.
fn check(ring: &mut IoUring) -> io::Result<()> {
    let params = ring.params();
    let missing = [
        ("NODROP", params.is_feature_nodrop()),
        ("SUBMIT_STABLE", params.is_feature_submit_stable()),
        ("FAST_POLL", params.is_feature_fast_poll()),
        ("EXT_ARG", params.is_feature_ext_arg()),
    ]
    .into_iter()
    .find_map(|(name, present)| (!present).then_some(name));
    if let Some(name) = missing {
        return Err(availability::too_old(&format!("the feature {name}")));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(availability::explain)?;
    let codes = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::SendMsg::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    if let Some(code) = codes.into_iter().find(|code| !probe.is_supported(*code)) {
        return Err(availability::too_old(&format!("operation {code}")));
    }
    // A filter may allow the set-up and forbid the rest.
    // SAFETY: a no-op has no pointers.
    unsafe { ring.submission().push(&opcode::Nop::new().build().user_data(PROBE)) }
        .expect("a new queue has room");
    ring.submit_and_wait(1).map_err(availability::explain)?;
    Ok(())
}
