//! Group commit of syncs: all requests that wait for the device share one `fdatasync`.
//!
//! A request is served by the first sync that *begins* after everything it covers is in the store;
//! a sync that is already under way may not cover it, so it does not count.

use super::append::Log;
use crate::base::{Blindness, Error, Kind, Lsn, Progress, Result, is_blind_to};
use sandstone_ring::runtime;
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering::*},
};
use tokio::sync::Notify;

pub(super) struct Syncs {
    /// Every record below is synced.
    synced: AtomicU64,
    turns: Mutex<Turns>,
    done: Notify,
    /// Waits for the device.
    under_way: Progress,
}

#[derive(Default)]
struct Turns {
    running: bool,
    /// Number of requests that wait for the sync that begins next.
    waiting: u64,
    /// Syncs that have ended.
    ended: u64,
}

impl Syncs {
    pub(super) fn new(synced: Lsn) -> Self {
        Self {
            synced: AtomicU64::new(synced.0),
            turns: Mutex::default(),
            done: Notify::new(),
            under_way: Progress::default(),
        }
    }

    pub(super) fn synced(&self) -> Lsn {
        Lsn(self.synced.load(Acquire))
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().expect("no panics under this lock")
    }
}

/// Lets the next sync begin when this one has ended, or its runtime has.
struct Running(Arc<Log>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut turns = self.0.syncs.turns();
        turns.running = false;
        turns.ended += 1;
        drop(turns);
        self.0.syncs.done.notify_waiters();
    }
}

impl Log {
    /// Waits until every record below `lsn` is on stable storage. Dropping the future abandons only
    /// the wait.
    ///
    /// # Errors
    /// [`Kind::Latched`] when a write or sync failed, now or earlier.
    pub(crate) async fn sync(self: &Arc<Self>, lsn: Lsn) -> Result<()> {
        self.counters.sync_requests.fetch_add(1, Relaxed);
        self.wait_written(lsn).await?;
        let mut joined = false;
        loop {
            let done = self.syncs.done.notified();
            if self.health.is_stopped() {
                return Err(Error::new(Kind::Latched, "the store could not be synced"));
            }
            if self.syncs.synced() >= lsn {
                return Ok(());
            }
            if !std::mem::replace(&mut joined, true) {
                self.syncs.turns().waiting += 1;
            }
            self.begin_sync();
            done.await;
        }
    }

    /// The sync that is under way.
    pub(crate) fn syncing(&self) -> &Progress {
        &self.syncs.under_way
    }

    /// Waits for a sync that begins now or later, even when every record is synced: for writes
    /// beside the log.
    ///
    /// # Errors
    /// [`Kind::Latched`].
    pub(crate) async fn sync_file(self: &Arc<Self>) -> Result<()> {
        let wanted = {
            let mut turns = self.syncs.turns();
            turns.waiting += 1;
            turns.ended + if turns.running { 2 } else { 1 }
        };
        loop {
            let done = self.syncs.done.notified();
            if self.health.is_stopped() {
                return Err(Error::new(Kind::Latched, "the store could not be synced"));
            }
            if self.syncs.turns().ended >= wanted {
                return Ok(());
            }
            self.begin_sync();
            done.await;
        }
    }

    /// Begins a sync, unless one is under way. It runs in a task of its own, because its failure
    /// must be seen even when no request waits for it any more; and never two at once, because a
    /// kernel reports a failure to only one of them.
    fn begin_sync(self: &Arc<Self>) {
        if std::mem::replace(&mut self.syncs.turns().running, true) {
            return;
        }
        let running = Running(Arc::clone(self));
        runtime::spawn(async move {
            let log = &running.0;
            // This sync covers what is in the store now (I3).
            let covered = log.written();
            let served = std::mem::take(&mut log.syncs.turns().waiting);
            let result = {
                let _under_way = log.syncs.under_way.begin();
                log.file.sync().await
            };
            let covered =
                if is_blind_to(Blindness::SyncCoverage) { log.written() } else { covered };
            log.counters.syncs.fetch_add(1, Relaxed);
            log.counters.sync_sharing.add(served);
            match result {
                Ok(()) => {
                    log.syncs.synced.fetch_max(covered.0, AcqRel);
                }
                Err(_) if is_blind_to(Blindness::FailedSync) => {}
                Err(error) => log.health.latch(&format!("a sync failed: {error}")),
            }
        });
    }
}
