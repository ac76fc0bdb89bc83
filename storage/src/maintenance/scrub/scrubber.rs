//! The scrub: reads, in the background, all that the maps refer to, so that corruption is found
//! while there is still a backup.
//!
//! ```text
//!   resting ─(a day, or it is asked)─► pass: entry after entry, step after step ─► resting
//! ```
//!
//! First it reads superblock and catalog. Where they are damaged they are written anew, both slots
//! and both copies, for what is in memory is the truth; or else the next start could not go by
//! them.
//!
//! Of maps and data it reports damage and repairs nothing: there is no second copy. What it finds
//! is told in the log, counted, and kept for those who ask; reading the damaged place goes on
//! failing with [`crate::Kind::Corrupt`].
//!
//! I1  A step holds its read token for at most [`walk::STEP_BYTES`] of reads, so that what reclaim
//!     frees never waits long for it.
//! I2  What one step knows is good for the next, although the map may change between them: an
//!     address names the same bytes for ever. What is written during a pass may be left to the next
//!     one.

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

/// From the opening of the store to its first pass, so that a start is left alone. A guess.
const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
/// From the end of a pass to the next. A guess: corruption is found within days, and a disk that is
/// read once a day is not worn.
const REST: Duration = Duration::from_secs(24 * 60 * 60);
/// From one look to the next where no pass is ever due.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Most places that are kept of a pass; the others are counted.
const CORRUPTIONS_MAX: usize = 100;

/// What the scrub is doing, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// A pass is under way.
    pub running: bool,
    /// Passes that came to their end since the store was opened.
    pub passes: u64,
    /// Volumes and snapshots of the present or last pass.
    pub entries: usize,
    /// Of them, those that are done.
    pub entries_done: usize,
    /// Bytes of maps and data that were read and compared, in the present or last pass.
    pub checked_bytes: u64,
    /// Bytes of them that are not what was written or cannot be read.
    pub corrupt_bytes: u64,
    /// Both since the store was opened.
    pub checked_bytes_total: u64,
    /// See `checked_bytes_total`.
    pub corrupt_bytes_total: u64,
    /// Where, the first hundred places of the present or last pass.
    pub corruptions: Vec<Corruption>,
}

/// A place that is not what was written there, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// A volume or snapshot that reads it. Others may share it.
    pub entry: Uuid,
    /// First byte of the volume that is lost.
    pub offset: u64,
    /// Bytes that are lost.
    pub len: u64,
    /// What lies there.
    pub what: CorruptKind,
}

/// What is corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptKind {
    /// Blocks of data.
    Data,
    /// A node of the map, and with it all that lies below.
    Map,
}

/// What wakes the scrubber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It was asked for a pass.
    Asked,
    /// A pass is due.
    Due,
    ShutDown,
}

/// Scrubs the store. It owns what is known of passes.
pub(crate) struct Scrubber {
    pub(super) volumes: Arc<Volumes>,
    checkpointer: Arc<Checkpointer>,
    /// Bytes a second that it may read; 0 for none but when it is asked, and then as many as there
    /// are.
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

    /// Passes, from time to time and when it is asked, until the store closes.
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

    /// Writes superblock and catalog anew where they are not what was written.
    async fn renew_superblock_and_catalog(&self) {
        if self.volumes.engine.health.is_stopped() {
            return;
        }
        let Some(damage) = self.checkpointer.damage().await else { return };
        tracing::error!(
            damage,
            "superblock or catalog are not what was written; they are written anew"
        );
        // One for each slot.
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

    /// A pass begins, unless one has begun. Whether that is news.
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

    /// The pass came to its end.
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

    /// `bytes` of the store are lost, and with them `corruption`.
    pub(super) fn corrupt(&mut self, bytes: u64, corruption: Corruption) {
        self.corrupt_bytes += bytes;
        self.corrupt_bytes_total += bytes;
        if self.corruptions.len() < CORRUPTIONS_MAX {
            self.corruptions.push(corruption);
        }
    }
}
