//! Group commit of syncs: whoever waits for the device shares one `fdatasync`.
//!
//! A request is served by the first sync that *begins* after everything it covers is in the store; one that is already
//! under way may have passed the device before that, so it does not count.

use super::Log;
use crate::{
    address::Lsn,
    error::{Error, Kind, Result},
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::*},
};
use tokio::sync::Notify;

pub(super) struct Syncs {
    /// Every record below is synced.
    synced: AtomicU64,
    running: Mutex<bool>,
    done: Notify,
}

impl Syncs {
    pub(super) fn new(synced: Lsn) -> Self {
        Self { synced: AtomicU64::new(synced.0), running: Mutex::new(false), done: Notify::new() }
    }

    pub(super) fn synced(&self) -> Lsn {
        Lsn(self.synced.load(Acquire))
    }

    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.running.lock().expect("no panics under this lock"), true)
    }

    fn end(&self) {
        *self.running.lock().expect("no panics under this lock") = false;
        self.done.notify_waiters();
    }
}

/// Lets the next one sync, whatever becomes of this one's future.
struct Running<'a>(&'a Syncs);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Log {
    /// Waits until every record below `lsn` is on stable storage.
    ///
    /// # Errors
    /// [`Kind::Latched`] when a write or sync failed, now or earlier.
    pub(crate) async fn sync(self: &Arc<Self>, lsn: Lsn) -> Result<()> {
        self.counters.sync_requests.fetch_add(1, Relaxed);
        self.leave_raw.store(true, Relaxed);
        self.wait_written(lsn).await?;
        loop {
            let done = self.syncs.done.notified();
            if self.health.is_stopped() {
                return Err(Error::new(Kind::Latched, "the store could not be synced"));
            }
            if self.syncs.synced() >= lsn {
                return Ok(());
            }
            if !self.syncs.begin() {
                done.await;
                continue;
            }
            let running = Running(&self.syncs);
            // What is in the store now is what this sync covers (I3).
            let covered = self.written();
            let result = self.file.sync().await;
            self.counters.syncs.fetch_add(1, Relaxed);
            match result {
                Ok(()) => {
                    self.syncs.synced.fetch_max(covered.0, AcqRel);
                }
                Err(error) => self.health.latch(&format!("a sync failed: {error}")),
            }
            drop(running);
        }
    }

    /// Syncs even when every record is synced: for what was written beside the log.
    ///
    /// # Errors
    /// [`Kind::Latched`].
    pub(crate) async fn sync_file(self: &Arc<Self>) -> Result<()> {
        self.counters.syncs.fetch_add(1, Relaxed);
        if let Err(error) = self.file.sync().await {
            self.health.latch(&format!("a sync failed: {error}"));
        }
        if self.health.is_stopped() {
            return Err(Error::new(Kind::Latched, "the store could not be synced"));
        }
        Ok(())
    }
}
