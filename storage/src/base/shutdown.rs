//! That the store is being closed: what works in the background ends at its next step instead of
//! finishing.

use crate::base::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::*};
use tokio::sync::Notify;

/// Begins once and never ends.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    begun: AtomicBool,
    told: Notify,
}

impl Shutdown {
    /// Begins it, and says whether it had not begun before.
    pub(crate) fn begin(&self) -> bool {
        let begun_before = self.begun.swap(true, AcqRel);
        self.told.notify_waiters();
        !begun_before
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Acquire)
    }

    /// Waits for it, as those do who would only sleep.
    pub(crate) async fn begun(&self) {
        let told = self.told.notified();
        if !self.has_begun() {
            told.await;
        }
    }

    /// Whether work may go on.
    ///
    /// # Errors
    /// [`Kind::Latched`] from then on.
    pub(crate) fn check(&self) -> Result<()> {
        if self.has_begun() {
            Err(Error::new(Kind::Latched, "the store is being closed"))
        } else {
            Ok(())
        }
    }
}
