//! Whether the store may be written to.

use super::{Error, Kind};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering::*},
};

/// The store's state, as readiness shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Ready,
    /// The file system below the store has no room for what is to be written, for this reason. What
    /// was written waits, and goes on when there is room; reads go on.
    Starved(String),
    /// A log write or sync failed, or a start could not write what it has to, for this reason.
    /// Reads go on; nothing more is written until a restart.
    Latched(String),
    /// Recovery found acknowledged data damaged, or what leads to it, as told. Reads go on, and may
    /// find what is older than it should be; nothing is written, nothing is cut off.
    Corrupt(String),
}

/// The one owner of that state. It only ever gets worse, but for waiting, which may end.
#[derive(Debug)]
pub(crate) struct HealthCell {
    stopped: AtomicBool,
    health: Mutex<Health>,
    /// Writes that wait for room below.
    waiting: AtomicU32,
    /// Nobody waits for room any more.
    waits_cancelled: AtomicBool,
}

impl HealthCell {
    pub(crate) fn new(health: Health) -> Self {
        Self {
            stopped: AtomicBool::new(health != Health::Ready),
            health: Mutex::new(health),
            waiting: AtomicU32::new(0),
            waits_cancelled: AtomicBool::new(false),
        }
    }

    pub(crate) fn get(&self) -> Health {
        self.health.lock().expect("no panics under this lock").clone()
    }

    /// Whether nothing may be written any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// What a write is told when nothing may be written any more.
    pub(crate) fn refusal(&self) -> Error {
        match self.get() {
            Health::Corrupt(reason) => Error::new(Kind::ReadOnly, reason),
            Health::Latched(reason) => Error::new(Kind::Latched, reason),
            Health::Ready | Health::Starved(_) => {
                Error::new(Kind::Latched, "the store does not take writes")
            }
        }
    }

    /// No more writes. The first reason is the one that counts.
    pub(crate) fn latch(&self, reason: &str) {
        let mut health = self.health.lock().expect("no panics under this lock");
        if matches!(*health, Health::Ready | Health::Starved(_)) {
            tracing::error!(
                reason,
                "the store is latched: no write or flush succeeds until a restart"
            );
            *health = Health::Latched(reason.to_owned());
            self.stopped.store(true, Release);
        }
    }

    /// Waiting for room is over: what finds none fails.
    pub(crate) fn cancel_waits(&self) {
        self.waits_cancelled.store(true, Release);
    }

    pub(crate) fn may_wait(&self) -> bool {
        !self.waits_cancelled.load(Acquire) && !self.is_stopped()
    }

    /// One more write waits for room below.
    pub(crate) fn enter_wait(&self, reason: &str) {
        self.waiting.fetch_add(1, AcqRel);
        let mut health = self.health.lock().expect("no panics under this lock");
        if *health == Health::Ready {
            tracing::error!(
                reason,
                "the file system below the store is full: writes wait until it has room"
            );
            *health = Health::Starved(reason.to_owned());
        }
    }

    /// One of them waits no longer.
    pub(crate) fn leave_wait(&self) {
        let was_last = self.waiting.fetch_sub(1, AcqRel) == 1;
        let mut health = self.health.lock().expect("no panics under this lock");
        if was_last && matches!(*health, Health::Starved(_)) {
            tracing::info!("the file system below the store has room again");
            *health = Health::Ready;
        }
    }
}
