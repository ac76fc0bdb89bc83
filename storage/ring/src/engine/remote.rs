//! The way into a runtime from other threads.
//!
//! I1  An item that is pushed before the queue closes is taken by the runtime's thread, or dropped
//!     there.
//! I2  No wake-up is lost: the thread announces that it is about to wait, then looks at the queue
//!     under its lock. An item that was pushed before that look is seen; a push after it finds the
//!     announcement and writes the eventfd.
//! I3  The eventfd is written only after such an announcement, once: a busy thread is never called.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_task::Runnable;
use rustix::event::EventfdFlags;

type Call = Box<dyn FnOnce() + Send>;

/// An item from another thread for the runtime.
pub(crate) enum Item {
    /// A task was woken.
    Task(Runnable),
    /// The future given to `block_on` was woken.
    Main,
    /// A call to be made on the runtime's thread.
    Call(Call),
}

/// The shared part of a runtime.
#[derive(Debug)]
pub(crate) struct Remote {
    queue: Mutex<Queue>,
    /// A hint that saves the lock: set and cleared under it.
    filled: AtomicBool,
    /// The thread waits, or is about to.
    parked: AtomicBool,
    /// `None` in simulations, where no other thread may reach the runtime.
    eventfd: Option<OwnedFd>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("items", &self.items.len())
            .field("closed", &self.closed)
            .finish()
    }
}

impl Remote {
    /// A queue with an eventfd of these flags: the ring blocks on it, epoll does not.
    pub(crate) fn new(flags: EventfdFlags) -> io::Result<Remote> {
        let eventfd = rustix::event::eventfd(0, flags | EventfdFlags::CLOEXEC)?;
        Ok(Remote { eventfd: Some(eventfd), ..Remote::without_wake() })
    }

    pub(crate) fn without_wake() -> Remote {
        Remote {
            queue: Mutex::default(),
            filled: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            eventfd: None,
        }
    }

    /// Readable when the thread is to wake up.
    pub(crate) fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.eventfd.as_ref().map(AsFd::as_fd)
    }

    /// Resets the eventfd's count, where the engine does not read it by itself.
    pub(crate) fn clear(&self) {
        if let Some(eventfd) = &self.eventfd {
            // An empty count is no error.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
    }

    /// Ends the thread's wait, if it waits.
    pub(crate) fn wake(&self) {
        if self.parked.swap(false, Ordering::AcqRel)
            && let Some(eventfd) = &self.eventfd
        {
            // It can fail only by overflowing at 2^64 - 1.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn push(&self, item: Item) {
        let mut queue = self.lock();
        if queue.closed {
            drop(queue);
            match item {
                // Its future may only be dropped on its own thread, which has ended.
                Item::Task(runnable) => std::mem::forget(runnable),
                Item::Main | Item::Call(_) => {}
            }
            return;
        }
        queue.items.push_back(item);
        self.filled.store(true, Ordering::Relaxed);
        drop(queue);
        self.wake();
    }

    /// Moves all items to `out`, which is empty.
    pub(crate) fn take(&self, out: &mut VecDeque<Item>) {
        if self.is_filled() {
            let mut queue = self.lock();
            std::mem::swap(&mut queue.items, out);
            self.filled.store(false, Ordering::Relaxed);
        }
    }

    /// Whether there may be something in the queue, without its lock.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }

    /// Announces a wait; false when there is something in the queue, and no wait then.
    pub(crate) fn announce_wait(&self) -> bool {
        self.parked.store(true, Ordering::SeqCst);
        let empty = self.lock().items.is_empty(); // keeps I2
        if !empty {
            self.end_wait();
        }
        empty
    }

    pub(crate) fn end_wait(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    /// Refuses all further items and returns those that are there.
    pub(crate) fn close(&self) -> VecDeque<Item> {
        let mut queue = self.lock();
        queue.closed = true;
        std::mem::take(&mut queue.items)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that panics runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
