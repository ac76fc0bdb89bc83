//! The seam between the executor and the three engines.

use std::time::Duration;

use super::simulated::Simulated;
use super::threads::Threads;
use super::uring::Uring;
use crate::io::{Key, Op, OpTable, Reaped};

/// One engine. It belongs to one thread, which is the only one to call it.
pub(crate) enum Driver {
    /// The ring.
    Uring(Box<Uring>),
    /// Thread pool and epoll.
    Threads(Box<Threads>),
    /// Disks in memory and a clock that jumps.
    Simulated(Simulated),
}

/// The result of looking for completions without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spun {
    /// Completions to reap.
    Found,
    /// None yet.
    Nothing,
}

impl Driver {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Driver::Uring(_) => "uring",
            Driver::Threads(_) => "threads",
            Driver::Simulated(_) => "simulated",
        }
    }

    pub(crate) fn table(&mut self) -> &mut OpTable {
        match self {
            Driver::Uring(uring) => uring.table(),
            Driver::Threads(threads) => threads.table(),
            Driver::Simulated(simulated) => simulated.table(),
        }
    }

    /// Starts an operation, which owns its buffers and its file until its completion. `now` is
    /// virtual time.
    pub(crate) fn start(&mut self, op: Op, now: Duration) -> Key {
        match self {
            Driver::Uring(uring) => uring.start(op),
            Driver::Threads(threads) => threads.start(op),
            Driver::Simulated(simulated) => simulated.start(op, now),
        }
    }

    /// Collects what has completed, without a system call where the engine can.
    pub(crate) fn reap(&mut self, now: Duration, out: &mut Reaped) {
        match self {
            Driver::Uring(uring) => uring.reap(out),
            Driver::Threads(threads) => threads.reap(out),
            Driver::Simulated(simulated) => simulated.reap(now, out),
        }
    }

    /// Submits started operations, and looks for completions without waiting.
    pub(crate) fn submit(&mut self) -> Spun {
        match self {
            Driver::Uring(uring) => uring.submit(),
            Driver::Threads(threads) => threads.poll(Some(Duration::ZERO)),
            Driver::Simulated(_) => Spun::Nothing,
        }
    }

    /// Looks for completions without waiting, after a `submit`: cheap enough to be called in a
    /// loop.
    pub(crate) fn spin(&mut self) -> Spun {
        match self {
            Driver::Uring(uring) => uring.spin(),
            Driver::Threads(threads) => threads.poll(Some(Duration::ZERO)),
            Driver::Simulated(_) => Spun::Nothing,
        }
    }

    /// Whether a file operation is in flight, so that a wait may be one for the disk. The ring
    /// knows.
    pub(crate) fn has_file_ops(&self) -> bool {
        match self {
            Driver::Uring(uring) => uring.has_file_ops(),
            Driver::Threads(_) | Driver::Simulated(_) => false,
        }
    }

    /// Does the started operation in place, where it is the only one and its completion is all
    /// there is to wait for. Returns whether it did. The thread pool leaves this to its threads.
    pub(crate) fn wait_in_place(&mut self) -> bool {
        match self {
            Driver::Uring(uring) => uring.wait_in_place(),
            Driver::Threads(_) | Driver::Simulated(_) => false,
        }
    }

    /// Hints that more than one operation goes on at a time on this thread.
    pub(crate) fn hint_concurrency(&mut self) {
        match self {
            Driver::Uring(uring) => uring.hint_concurrency(),
            Driver::Threads(_) | Driver::Simulated(_) => {}
        }
    }

    /// Sets the number of clients that the thread serves.
    pub(crate) fn set_clients(&mut self, clients: usize) {
        match self {
            Driver::Uring(uring) => uring.set_clients(clients),
            Driver::Threads(_) | Driver::Simulated(_) => {}
        }
    }

    /// Submits started operations and waits for a completion, a wake-up from another thread or the
    /// timeout; spurious returns are possible.
    pub(crate) fn park(&mut self, timeout: Option<Duration>) {
        match self {
            Driver::Uring(uring) => uring.park(timeout),
            Driver::Threads(threads) => {
                threads.poll(timeout);
            }
            Driver::Simulated(_) => unreachable!("a simulated runtime jumps, it never waits"),
        }
    }

    /// Virtual time of the next completion, for the clock to jump to. `None` on the other engines.
    pub(crate) fn next_event(&self) -> Option<Duration> {
        match self {
            Driver::Uring(_) | Driver::Threads(_) => None,
            Driver::Simulated(simulated) => simulated.next_event(),
        }
    }

    /// Ends all socket operations and waits for file operations, at most for `timeout`. Returns how
    /// many are left.
    pub(crate) fn drain(&mut self, timeout: Duration, out: &mut Reaped) -> usize {
        match self {
            Driver::Uring(uring) => uring.drain(timeout, out),
            Driver::Threads(threads) => threads.drain(timeout, out),
            Driver::Simulated(simulated) => simulated.drain(out),
        }
    }
}
