//! Threads that do blocking file operations for one executor, where there is no ring.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::in_place::perform;
use super::remote::Remote;
use crate::io::{Key, Op};

/// Most threads of one pool: enough to keep a disk busy while one of them sits in a sync. A guess,
/// not tuned.
const THREADS_MAX: usize = 8;

/// An operation that its thread has finished.
pub(super) struct Finished {
    pub(super) key: Key,
    pub(super) op: Op,
    pub(super) result: io::Result<usize>,
}

/// The pool starts threads as it needs them. They end with the pool, each after its operation. An
/// operation is owned by the thread that does it, so dropping the pool waits for nothing.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

struct Shared {
    work: Mutex<Work>,
    wanted: Condvar,
    finished: Mutex<Vec<Finished>>,
    remote: Arc<Remote>,
}

#[derive(Default)]
struct Work {
    queue: VecDeque<(Key, Op)>,
    idle: usize,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of the caller's runs under these locks, so a poisoned one still holds whole data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(remote: Arc<Remote>) -> Pool {
        let shared = Shared {
            work: Mutex::default(),
            wanted: Condvar::new(),
            finished: Mutex::default(),
            remote,
        };
        Pool { shared: Arc::new(shared), threads: 0 }
    }

    pub(super) fn start(&mut self, key: Key, op: Op) {
        let mut work = lock(&self.shared.work);
        work.queue.push_back((key, op));
        let short_of_threads = work.queue.len() > work.idle && self.threads < THREADS_MAX;
        drop(work);
        self.shared.wanted.notify_one();
        if short_of_threads {
            let shared = Arc::clone(&self.shared);
            let thread =
                std::thread::Builder::new().name("store-io".to_owned()).spawn(move || shared.run());
            match thread {
                Ok(_detached) => self.threads += 1,
                Err(error) if self.threads == 0 => self.shared.fail_all(&error),
                Err(error) => tracing::warn!(%error, "the thread pool stays small"),
            }
        }
    }

    /// Appends finished operations to `out`.
    pub(super) fn collect(&self, out: &mut Vec<Finished>) {
        out.append(&mut lock(&self.shared.finished));
    }

    pub(super) fn has_finished(&self) -> bool {
        !lock(&self.shared.finished).is_empty()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.work).closed = true;
        self.shared.wanted.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let mut work = lock(&self.work);
        loop {
            if let Some((key, mut op)) = work.queue.pop_front() {
                drop(work);
                let result = perform(&mut op);
                self.finish(Finished { key, op, result });
                work = lock(&self.work);
            } else if work.closed {
                return;
            } else {
                work.idle += 1;
                work = self.wanted.wait(work).unwrap_or_else(PoisonError::into_inner);
                work.idle -= 1;
            }
        }
    }

    fn fail_all(&self, error: &io::Error) {
        let queue = std::mem::take(&mut lock(&self.work).queue);
        for (key, op) in queue {
            self.finish(Finished {
                key,
                op,
                result: Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }

    fn finish(&self, finished: Finished) {
        lock(&self.finished).push(finished);
        self.remote.wake();
    }
}
