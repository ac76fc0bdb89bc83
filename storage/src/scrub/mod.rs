//! The scrub: reads, in the background, all that the maps refer to, so that rot is found while there is still a backup.
//!
//! ```text
//!   resting ─(a day, or somebody asks)─► pass: line after line, step after step ─► resting
//! ```
//!
//! First it reads superblock and catalog. Where they are damaged they are written anew, both slots and both copies, for what is
//! in memory is the truth; or else the next start could not go by them.
//!
//! Of maps and data it reports damage and repairs nothing: there is no second copy. What it finds is told in the log, counted, and kept for whoever
//! asks; reading the damaged place goes on failing with [`crate::Kind::Corrupt`].
//!
//! I1  A step holds its read token for at most [`walk::STEP_BYTES`] of reads, so that what reclaim frees never waits long for it.
//! I2  What one step knows is good for the next, although the map may change between them: an address names the same
//!     bytes for ever. What is written during a pass may be left to the next one.

mod walk;

use crate::{format::SUPERBLOCK_SLOTS, runtime, store::Shared};
use futures_util::future::select;
use std::{
    pin::pin,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::Notify;
use uuid::Uuid;
use walk::Pass;

/// From the opening of the store to its first pass, so that a start is left alone. A guess.
const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
/// From the end of a pass to the next. A guess: rot is found within days, and a disk that is read once a day is not worn.
const REST: Duration = Duration::from_secs(24 * 60 * 60);
/// Most places that are kept of a pass; the others are counted.
const ROTS_MAX: usize = 100;

/// What the scrub is doing, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// A pass is under way.
    pub running: bool,
    /// Passes that came to their end since the store was opened.
    pub passes: u64,
    /// Volumes and snapshots of the present or last pass.
    pub lines: usize,
    /// Of them, those that are done.
    pub lines_done: usize,
    /// Bytes of maps and data that were read and compared, in the present or last pass.
    pub checked_bytes: u64,
    /// Bytes of them that are not what was written or cannot be read.
    pub rotten_bytes: u64,
    /// Both since the store was opened.
    pub checked_bytes_total: u64,
    /// See `checked_bytes_total`.
    pub rotten_bytes_total: u64,
    /// Where, the first hundred places of the present or last pass.
    pub rots: Vec<Rot>,
}

/// A place that is not what was written there, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// A volume or snapshot that reads it. Others may share it.
    pub line: Uuid,
    /// First byte of the volume that is lost.
    pub offset: u64,
    /// Bytes that are lost.
    pub len: u64,
    /// What lies there.
    pub what: RotKind,
}

/// What rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotKind {
    /// Blocks of data.
    Data,
    /// A node of the map, and with it all that lies below.
    Map,
}

/// The scrub of a store. It owns what is known of passes.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    progress: Mutex<ScrubProgress>,
    wanted: Notify,
}

impl Scrub {
    /// Asks for a pass now, unless one is under way.
    pub(crate) fn start(&self) {
        if self.begin() {
            self.wanted.notify_one();
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
                rotten_bytes_total: progress.rotten_bytes_total,
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

    fn lock(&self) -> MutexGuard<'_, ScrubProgress> {
        self.progress.lock().expect("no panics under this lock")
    }
}

impl ScrubProgress {
    fn checked(&mut self, bytes: u64) {
        self.checked_bytes += bytes;
        self.checked_bytes_total += bytes;
    }

    /// `bytes` of the store are lost, and with them `rot`.
    fn rotten(&mut self, bytes: u64, rot: Rot) {
        self.rotten_bytes += bytes;
        self.rotten_bytes_total += bytes;
        if self.rots.len() < ROTS_MAX {
            self.rots.push(rot);
        }
    }
}

/// Passes, from time to time and when somebody asks, until the store closes.
pub(crate) async fn keep(shared: &Shared) {
    let (scrub, closing) = (&shared.engine.upkeep.scrub, &shared.engine.upkeep.closing);
    let mut rest = FIRST_AFTER;
    loop {
        let due = async {
            match shared.engine.scrub_rate {
                0 => scrub.wanted.notified().await,
                _ => drop(select(pin!(scrub.wanted.notified()), runtime::sleep(rest)).await),
            }
        };
        select(pin!(closing.begun()), pin!(due)).await;
        if closing.has_begun() {
            return;
        }
        scrub.begin();
        renew_books(shared).await;
        if Pass::new(shared).run().await.is_err() {
            return;
        }
        let ScrubProgress { lines, checked_bytes, rotten_bytes, .. } = scrub.end();
        tracing::info!(lines, checked_bytes, rotten_bytes, "scrubbed");
        rest = REST;
    }
}

/// Writes superblock and catalog anew where they are not what was written.
async fn renew_books(shared: &Shared) {
    if shared.engine.health.is_stopped() {
        return;
    }
    let damage = shared.checkpointer.lock().await.damage(&shared.engine).await;
    let Some(damage) = damage else { return };
    tracing::error!(damage, "superblock or catalog are not what was written; they are written anew");
    // One for each slot.
    for _ in 0..SUPERBLOCK_SLOTS {
        if let Err(error) = shared.checkpoint_anew().await {
            tracing::error!(%error, "they could not be written");
            return;
        }
    }
}
