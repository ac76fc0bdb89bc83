//! Whether the store may be written to.

use crate::error::{Error, Kind};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::*},
};

/// The store's state, as readiness shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Ready,
    /// A log write or sync failed, for this reason. Reads go on; nothing more is written until a restart.
    Latched(String),
    /// Recovery found acknowledged data damaged, as told. Reads go on; nothing is written, nothing is cut off.
    Corrupt(String),
}

/// The one owner of that state. It only ever gets worse.
#[derive(Debug)]
pub(crate) struct HealthCell {
    stopped: AtomicBool,
    health: Mutex<Health>,
}

impl HealthCell {
    pub(crate) fn new(health: Health) -> Self {
        Self { stopped: AtomicBool::new(health != Health::Ready), health: Mutex::new(health) }
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
            Health::Ready => Error::new(Kind::Latched, "the store does not take writes"),
        }
    }

    /// No more writes. The first reason is the one that counts.
    pub(crate) fn latch(&self, reason: &str) {
        let mut health = self.health.lock().expect("no panics under this lock");
        if *health == Health::Ready {
            tracing::error!(reason, "the store is latched: no write or flush succeeds until a restart");
            *health = Health::Latched(reason.to_owned());
            self.stopped.store(true, Release);
        }
    }
}
