//! In-place operations: done by a plain system call on the calling thread, which waits for them.
//! The thread pool does all of its operations so, the ring engine a lone one.
//!
//! A ring hands work to other threads. A kernel thread does a sync, the completion of a direct
//! write passes through another, and each wakes the next, which between two processors of a virtual
//! machine takes 10 µs to 50 µs: as long as a fast device. A thread that has nothing else to do
//! waits anyway, so it may as well wait in the call itself. (What one request at a time takes:
//! `tests/benchmarks/README.md`, the rows of depth 1.)
//!
//! ```text
//!   start ─► held ─┬─ the turn ends, no other was started, the thread would sleep ─► in place
//!                  └─ another file operation starts, or the thread has more to do ─► the ring
//! ```
//!
//! I1  An operation that is done in place is alone: no other file operation is in flight, nor was
//!     one begun in its turn.
//! I2  It is small, so that more requests need not queue up behind it.
//! I3  A thread with concurrent work leaves all operations to the ring for a while: after a hint
//!     (`runtime::hint_concurrency`), or after a long wait for the device, and then twice as long
//!     each time. So no request waits behind a slow disk that it does not need (head-of-line
//!     blocking).
//! I4  Between two in-place operations the thread enters the ring: a task that begins one after the
//!     other would keep other tasks waiting.
//! I5  A thread that serves more than one client (`runtime::serve_one`) leaves all to the ring: a
//!     device may hang for minutes, and the other clients would hang with it, whether or not they
//!     need it.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

use crate::io::{FALLOC_FL_WRITE_ZEROES, Key, Op, WriteMode};
use crate::memory::append_with;

/// Most bytes of a read or write. A lone client's are 4 KiB, and a log batch with one such block 8
/// KiB; one that carries more requests is worth overlapping with the next.
const BYTES_MAX: usize = 16 << 10;
/// Duration above which the device is so slow that a wake-up costs little beside it.
const LONG: Duration = Duration::from_millis(2);
/// Operations that go to the ring after a hint of concurrency.
const BY_RING: u32 = 64;
/// Most operations that go to the ring, after many long ones.
const BY_RING_MAX: u32 = 8192;
/// Most clients of a thread that may wait in a call: the one that it waits for.
const CLIENTS_MAX: usize = 1;

/// Does a file operation once, on the calling thread.
pub(super) fn perform(op: &mut Op) -> io::Result<usize> {
    match op {
        Op::Read { file, offset, len, buf } => append_with(buf, *len, |spare| {
            let (filled, _) = rustix::io::pread(file.real(), spare, *offset)?;
            Ok(filled)
        }),
        Op::Write { file, offset, data, skip, mode } => {
            let data = &data.as_slice()[*skip..];
            Ok(match mode {
                WriteMode::Plain => rustix::io::pwrite(file.real(), data, *offset)?,
                WriteMode::Through => {
                    let data = [IoSlice::new(data)];
                    rustix::io::pwritev2(file.real(), &data, *offset, ReadWriteFlags::DSYNC)?
                }
            })
        }
        Op::Sync { file } => Ok(rustix::fs::fdatasync(file.real()).map(|()| 0)?),
        Op::Allocate { file, offset, len } => {
            Ok(rustix::fs::fallocate(file.real(), FallocateFlags::empty(), *offset, *len)
                .map(|()| 0)?)
        }
        Op::Zero { file, offset, len } => {
            let mode = FallocateFlags::from_bits_retain(FALLOC_FL_WRITE_ZEROES as u32);
            Ok(rustix::fs::fallocate(file.real(), mode, *offset, *len).map(|()| 0)?)
        }
        Op::Punch { file, offset, len } => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(file.real(), mode, *offset, *len).map(|()| 0)?)
        }
        Op::Recv { .. } | Op::Send { .. } | Op::Watch { .. } => {
            unreachable!("sockets are not the pool's")
        }
    }
}

/// Decides which of a ring's operations are done in place.
#[derive(Default)]
pub(super) struct InPlace {
    /// The file operation that this turn began, while it is alone.
    held: Option<Key>,
    /// The operation that was done and is not reported yet.
    done: Option<(Key, io::Result<usize>)>,
    /// Operations that the ring gets before one is held again (I3).
    by_ring: u32,
    /// The number that it got after the last long operation.
    after_long: u32,
    /// Whether the ring was entered since the last one.
    has_listened: bool,
    /// Clients that the thread serves (I5).
    clients: usize,
}

impl InPlace {
    /// Whether an operation, begun while `in_flight` others are, may turn out to be alone.
    pub(super) fn may_hold(&mut self, op: &Op, in_flight: usize) -> bool {
        let is_small = match op {
            Op::Read { len, .. } => *len <= BYTES_MAX,
            Op::Write { data, skip, .. } => data.len_bytes() - skip <= BYTES_MAX,
            Op::Sync { .. } => true,
            Op::Allocate { .. } | Op::Zero { .. } | Op::Punch { .. } => false,
            Op::Recv { .. } | Op::Send { .. } | Op::Watch { .. } => false,
        };
        if self.by_ring > 0 {
            self.by_ring -= 1;
            return false;
        }
        is_small && in_flight == 0 && self.held.is_none() && !self.serves_several()
    }

    pub(super) fn hold(&mut self, key: Key) {
        self.held = Some(key);
    }

    /// Releases the held operation, which is not alone after all.
    pub(super) fn release(&mut self) -> Option<Key> {
        self.held.take()
    }

    /// See I3.
    pub(super) fn hint_concurrency(&mut self) {
        self.by_ring = self.by_ring.max(BY_RING);
    }

    /// The thread serves one client more, or one less. See I5.
    pub(super) fn set_clients(&mut self, clients: usize) {
        self.clients = clients;
    }

    /// See I5.
    pub(super) fn serves_several(&self) -> bool {
        self.clients > CLIENTS_MAX
    }

    /// Notes that the ring is entered.
    pub(super) fn listen(&mut self) {
        self.has_listened = true;
    }

    /// See I4.
    pub(super) fn has_listened(&self) -> bool {
        self.has_listened
    }

    /// Does the held operation.
    pub(super) fn run(&mut self, key: Key, op: &mut Op) {
        let began = Instant::now();
        let result = perform(op);
        self.took(began.elapsed());
        self.done = Some((key, result));
    }

    fn took(&mut self, time: Duration) {
        self.has_listened = false;
        self.after_long =
            if time > LONG { (2 * self.after_long).clamp(BY_RING, BY_RING_MAX) } else { 0 };
        self.by_ring = self.by_ring.max(self.after_long);
    }

    pub(super) fn take_done(&mut self) -> Option<(Key, io::Result<usize>)> {
        self.done.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{File, SimDisk};
    use crate::memory::{WriteBuf, aligned};

    fn write(bytes: usize) -> Op {
        let mut data = aligned(bytes);
        data.resize(bytes, 1);
        Op::Write {
            file: file(),
            offset: 0,
            data: WriteBuf::Owned(data),
            skip: 0,
            mode: WriteMode::Plain,
        }
    }

    fn file() -> File {
        File::simulated(&SimDisk::new(1 << 20, 1))
    }

    #[test]
    fn what_is_alone_and_small_is_held() {
        let sync = Op::Sync { file: file() };
        let mut in_place = InPlace::default();
        assert!(in_place.may_hold(&sync, 0) && in_place.may_hold(&write(BYTES_MAX), 0));
        assert!(!in_place.may_hold(&sync, 1), "another is in flight");
        assert!(!in_place.may_hold(&write(BYTES_MAX + 512), 0), "large");
        assert!(!in_place.may_hold(&Op::Allocate { file: file(), offset: 0, len: 1 }, 0));
        in_place.hold(Key::from_u64(7));
        assert!(!in_place.may_hold(&sync, 0), "another was begun in this turn");
        assert_eq!(in_place.release(), Some(Key::from_u64(7)));
        assert!(in_place.may_hold(&sync, 0));
    }

    #[test]
    fn hint_of_concurrency_keeps_the_thread_from_waiting_for_a_while() {
        let sync = Op::Sync { file: file() };
        let mut in_place = InPlace::default();
        in_place.hint_concurrency();
        assert!((0..BY_RING).all(|_| !in_place.may_hold(&sync, 0)));
        assert!(in_place.may_hold(&sync, 0));
    }

    #[test]
    fn a_second_client_ends_all_waiting_in_place() {
        let sync = Op::Sync { file: file() };
        let mut in_place = InPlace::default();
        for (clients, may) in [(0, true), (1, true), (2, false), (9, false), (1, true)] {
            in_place.set_clients(clients);
            assert_eq!(in_place.may_hold(&sync, 0), may, "{clients} clients");
        }
    }

    #[test]
    fn a_slow_device_is_tried_less_and_less_often() {
        let mut in_place = InPlace::default();
        for by_ring in [64, 128, 256] {
            in_place.by_ring = 0;
            in_place.took(2 * LONG);
            assert_eq!(in_place.by_ring, by_ring);
        }
        (0..20).for_each(|_| in_place.took(2 * LONG));
        assert_eq!(in_place.by_ring, BY_RING_MAX);
        in_place.by_ring = 0;
        in_place.took(LONG);
        in_place.took(2 * LONG);
        assert_eq!(in_place.by_ring, BY_RING, "it was quick in between");
    }

    #[test]
    fn the_others_are_heard_between_two() {
        let mut in_place = InPlace::default();
        in_place.listen();
        assert!(in_place.has_listened());
        in_place.took(LONG);
        assert!(!in_place.has_listened());
    }
}
