//! Health: whether the store may be written to.

use super::{Error, Kind};
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering::*},
};

/// The store's state, as readiness shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The store takes reads and writes.
    Ready,
    /// The file system below the store has no room for a write, for this reason. Writes wait, and
    /// go on when there is room; reads go on.
    Starved(String),
    /// A log write or sync failed, or a start could not write what it has to, for this reason.
    /// Reads go on; the store writes nothing until a restart.
    Latched(String),
    /// Recovery found damage to acknowledged data, or to a structure that leads to it, for this
    /// reason. Reads go on, and may return older data than they should; nothing is written, and
    /// nothing is cut off.
    Corrupt(String),
}

/// The one owner of the [`Health`]. It only gets worse, except that waiting for room may end.
#[derive(Debug)]
pub(crate) struct HealthCell {
    stopped: AtomicBool,
    state: Mutex<State>,
    /// Waits for room are cancelled.
    waits_cancelled: AtomicBool,
}

#[derive(Debug)]
struct State {
    health: Health,
    /// Writes that wait for room in the file system.
    waiting: u32,
}

impl HealthCell {
    pub(crate) fn new(health: Health) -> Self {
        Self {
            stopped: AtomicBool::new(health != Health::Ready),
            state: Mutex::new(State { health, waiting: 0 }),
            waits_cancelled: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    pub(crate) fn get(&self) -> Health {
        self.lock().health.clone()
    }

    /// Whether writes are refused for good.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// The error for a write when writes are refused.
    pub(crate) fn refusal(&self) -> Error {
        match self.get() {
            Health::Corrupt(reason) => Error::new(Kind::ReadOnly, reason),
            Health::Latched(reason) => Error::new(Kind::Latched, reason),
            Health::Ready | Health::Starved(_) => {
                Error::new(Kind::Latched, "the store does not take writes")
            }
        }
    }

    /// Refuses all later writes. The first reason is kept.
    pub(crate) fn latch(&self, reason: &str) {
        let health = &mut self.lock().health;
        if matches!(*health, Health::Ready | Health::Starved(_)) {
            tracing::error!(
                reason,
                "the store is latched: no write or flush succeeds until a restart"
            );
            *health = Health::Latched(reason.to_owned());
            self.stopped.store(true, Release);
        }
    }

    /// Cancels waits for room: a write that finds none fails.
    pub(crate) fn cancel_waits(&self) {
        self.waits_cancelled.store(true, Release);
    }

    pub(crate) fn may_wait(&self) -> bool {
        !self.waits_cancelled.load(Acquire) && !self.is_stopped()
    }

    /// One more write waits for room in the file system.
    pub(crate) fn enter_wait(&self, reason: &str) {
        let mut state = self.lock();
        state.waiting += 1;
        if state.health == Health::Ready {
            tracing::error!(
                reason,
                "the file system below the store is full: writes wait until it has room"
            );
            state.health = Health::Starved(reason.to_owned());
        }
    }

    /// One write waits no longer.
    pub(crate) fn leave_wait(&self) {
        let mut state = self.lock();
        state.waiting -= 1;
        if state.waiting == 0 && matches!(state.health, Health::Starved(_)) {
            tracing::info!("the file system below the store has room again");
            state.health = Health::Ready;
        }
    }
}
