//! The scrub: reads, in the background, everything that the maps refer to, so that corruption is
//! found while there is still a backup.
//!
//! ```text
//!   resting ─(a day, or on request)─► pass: entry after entry, step after step ─► resting
//! ```
//!
//! First it reads superblock and catalog. Where they are damaged, both slots and both copies are
//! written anew from memory, which is the truth, so that the next start can use them.
//!
//! Damage to maps and data is reported and not repaired: there is no second copy. The scrub logs
//! and counts each finding, and keeps it in [`ScrubProgress`]; reading the damaged place goes on
//! failing with [`crate::Kind::Corrupt`].
//!
//! I1  A step holds its read pin for at most `STEP_BYTES` of reads, so that reclaim never waits
//!     long to quiesce.
//! I2  What one step has checked stays checked for the next, although the map may change between
//!     them: an address names the same bytes forever. Data that is written during a pass may be
//!     left to the next one.

use super::walk::Pass;
use crate::{
    base::Shutdown,
    catalog::Volumes,
    format::SUPERBLOCK_SLOTS,
    maintenance::{checkpoint::Checkpointer, wake::first_of},
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::Notify;
use uuid::Uuid;

/// Time from the opening of the store to its first pass, so that the scrub does not slow a start. A
/// guess.
const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
/// Time from the end of a pass to the next. A guess: corruption is found within days, and reading a
/// disk once a day does not wear it.
const REST: Duration = Duration::from_secs(24 * 60 * 60);
/// Wait where no pass is ever due.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Most findings of a pass that are kept; further ones are only counted.
const CORRUPTIONS_MAX: usize = 100;

/// Progress and findings of the scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Whether a pass is under way.
    pub running: bool,
    /// Number of passes that ended since the store was opened.
    pub passes: u64,
    /// Number of volumes and snapshots in the present or last pass.
    pub entries: usize,
    /// Number of them that are done.
    pub entries_done: usize,
    /// Bytes of maps and data that were read and compared, in the present or last pass.
    pub checked_bytes: u64,
    /// Bytes of them that differ from what was written or cannot be read.
    pub corrupt_bytes: u64,
    /// Bytes read and compared since the store was opened.
    pub checked_bytes_total: u64,
    /// Bytes that differ or cannot be read, since the store was opened.
    pub corrupt_bytes_total: u64,
    /// The first 100 findings of the present or last pass.
    pub corruptions: Vec<Corruption>,
}

/// A finding of the scrub: a range that differs from what was written, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// A volume or snapshot that has the range. Others may share it.
    pub entry: Uuid,
    /// Byte offset in the volume of the first lost byte.
    pub offset: u64,
    /// Number of lost bytes.
    pub len: u64,
    /// Whether data or a map node is corrupt.
    pub what: CorruptKind,
}

/// The kind of what is corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptKind {
    /// Blocks of data.
    Data,
    /// A node of the map, and with it all data below it.
    Map,
}

/// An event that wakes the scrubber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A pass was asked for.
    Asked,
    /// A pass is due.
    Due,
    ShutDown,
}

/// Scrubs the store. It owns the progress of passes.
pub(crate) struct Scrubber {
    pub(super) volumes: Arc<Volumes>,
    checkpointer: Arc<Checkpointer>,
    /// Bytes a second that it may read; 0 for no passes unless asked for, and then without a limit.
    pub(super) bytes_per_second: u64,
    progress: Mutex<ScrubProgress>,
    asked: Notify,
}

impl Scrubber {
    pub(crate) fn new(
        volumes: Arc<Volumes>,
        checkpointer: Arc<Checkpointer>,
        bytes_per_second: u64,
    ) -> Self {
        Self {
            volumes,
            checkpointer,
            bytes_per_second,
            progress: Mutex::default(),
            asked: Notify::new(),
        }
    }

    /// Runs passes, on schedule and when asked for, until the store closes.
    pub(crate) async fn run(&self) {
        let mut rest = FIRST_AFTER;
        loop {
            match self.next_event(rest).await {
                Event::ShutDown => break,
                Event::Due if self.bytes_per_second == 0 => continue,
                Event::Asked | Event::Due => {}
            }
            self.begin();
            self.renew_superblock_and_catalog().await;
            if Pass::new(self).run().await.is_err() {
                break;
            }
            let ScrubProgress { entries, checked_bytes, corrupt_bytes, .. } = self.end();
            tracing::info!(entries, checked_bytes, corrupt_bytes, "scrubbed");
            rest = REST;
        }
    }

    async fn next_event(&self, rest: Duration) -> Event {
        let time = if self.bytes_per_second == 0 { NEVER } else { rest };
        let asked = self.asked.notified();
        first_of(
            (self.shutdown().begun(), Event::ShutDown),
            (asked, Event::Asked),
            (time, Event::Due),
        )
        .await
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.volumes.engine.shutdown
    }

    /// Writes superblock and catalog anew where they are damaged on disk.
    async fn renew_superblock_and_catalog(&self) {
        if self.volumes.engine.health.is_stopped() {
            return;
        }
        let Some(damage) = self.checkpointer.damage().await else { return };
        tracing::error!(
            damage,
            "superblock or catalog are not what was written; they are written anew"
        );
        // One checkpoint for each slot.
        for _ in 0..SUPERBLOCK_SLOTS {
            if let Err(error) = self.checkpointer.write_anew().await {
                tracing::error!(%error, "they could not be written");
                return;
            }
        }
    }

    /// Asks for a pass now, unless one is under way.
    pub(crate) fn start(&self) {
        if self.begin() {
            self.asked.notify_one();
        }
    }

    /// Begins a pass, unless one has begun. Returns whether it did.
    fn begin(&self) -> bool {
        let mut progress = self.lock();
        let begun_before = progress.running;
        if !begun_before {
            *progress = ScrubProgress {
                running: true,
                passes: progress.passes,
                checked_bytes_total: progress.checked_bytes_total,
                corrupt_bytes_total: progress.corrupt_bytes_total,
                ..ScrubProgress::default()
            };
        }
        !begun_before
    }

    /// Ends the pass.
    fn end(&self) -> ScrubProgress {
        let mut progress = self.lock();
        progress.running = false;
        progress.passes += 1;
        progress.clone()
    }

    pub(crate) fn progress(&self) -> ScrubProgress {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ScrubProgress> {
        self.progress.lock().expect("no panics under this lock")
    }
}

impl ScrubProgress {
    pub(super) fn checked(&mut self, bytes: u64) {
        self.checked_bytes += bytes;
        self.checked_bytes_total += bytes;
    }

    /// Notes that `bytes` of the store are lost, and with them the range of `corruption`.
    pub(super) fn corrupt(&mut self, bytes: u64, corruption: Corruption) {
        self.corrupt_bytes += bytes;
        self.corrupt_bytes_total += bytes;
        if self.corruptions.len() < CORRUPTIONS_MAX {
            self.corruptions.push(corruption);
        }
    }
}
