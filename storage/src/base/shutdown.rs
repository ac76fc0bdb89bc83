//! The shutdown of a store: background work ends at its next step instead of finishing.

use crate::base::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::*};
use tokio::sync::Notify;

/// The shutdown flag: it is set once and stays set.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    begun: AtomicBool,
    changed: Notify,
}

impl Shutdown {
    /// Begins the shutdown, and returns whether this call began it.
    pub(crate) fn begin(&self) -> bool {
        let begun_before = self.begun.swap(true, AcqRel);
        self.changed.notify_waiters();
        !begun_before
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Acquire)
    }

    /// Waits until the shutdown begins.
    pub(crate) async fn begun(&self) {
        let changed = self.changed.notified();
        if !self.has_begun() {
            changed.await;
        }
    }

    /// Checks that work may go on.
    ///
    /// # Errors
    /// [`Kind::Latched`] once the shutdown has begun.
    pub(crate) fn check(&self) -> Result<()> {
        if self.has_begun() {
            Err(Error::new(Kind::Latched, "the store is being closed"))
        } else {
            Ok(())
        }
    }
}
