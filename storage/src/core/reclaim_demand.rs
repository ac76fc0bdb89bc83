//! Demand for reclaim: the link between writers that need space and the reclaimer, which frees it a
//! round at a time.

use super::Engine;
use crate::{
    base::{Error, Kind, Progress, Result},
    disk::{Need, space_wait},
};
use sandstone_ring::runtime;
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::*},
    time::Duration,
};
use tokio::sync::{Notify, futures::Notified};

/// Time without progress after which a writer gives up. Obstacles that pass have ended by then:
/// checkpoints under way, reads under way.
const NO_PROGRESS_TIME_MAX: Duration = Duration::from_secs(30);
/// The same, after which a file system that cannot back a free slot counts as full: rounds that are
/// under way may free slots that have their blocks.
const STARVED_AFTER: Duration = Duration::from_secs(1);
/// Pause between two rounds while the file system is full: each reads maps and writes a checkpoint.
const STARVED_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two rounds of which the first made no progress.
const NO_PROGRESS_PAUSE: Duration = Duration::from_millis(20);

/// How a round of reclaim ended, for the writers that wait for space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundResult {
    /// The round freed a segment, or found one that the next round can free.
    Progress,
    /// The round did neither: another round finds nothing either, unless something changes.
    NoProgress,
}

/// Garbage since the last mark, and the writers that wait for a round of reclaim.
#[derive(Debug)]
pub(crate) struct ReclaimDemand {
    /// Blocks that were overwritten, trimmed or deleted since the last mark; a hint, the mark
    /// counts.
    garbage_blocks: AtomicU64,
    /// Number of the latest round that a writer waits for.
    rounds_wanted: AtomicU64,
    rounds_ended: AtomicU64,
    no_progress: AtomicBool,
    wanted: Notify,
    /// Notified when slots became free, or a round ended.
    freed: Notify,
    /// Writers that wait.
    waiting: Progress,
}

impl Default for ReclaimDemand {
    fn default() -> Self {
        Self {
            // No mark has counted yet.
            garbage_blocks: AtomicU64::new(1),
            rounds_wanted: AtomicU64::new(0),
            rounds_ended: AtomicU64::new(0),
            no_progress: AtomicBool::new(false),
            wanted: Notify::new(),
            freed: Notify::new(),
            waiting: Progress::default(),
        }
    }
}

impl ReclaimDemand {
    /// Counts `blocks` that became garbage.
    pub(crate) fn add_garbage(&self, blocks: u64) {
        self.garbage_blocks.fetch_add(blocks, Relaxed);
    }

    /// Approximate number of blocks that became garbage since the last mark.
    pub(crate) fn garbage_blocks(&self) -> u64 {
        self.garbage_blocks.load(Relaxed)
    }

    /// Takes the count, because a mark begins, which counts anew.
    pub(crate) fn take_garbage(&self) -> u64 {
        self.garbage_blocks.swap(0, Relaxed)
    }

    /// Whether a writer waits for a round.
    pub(crate) fn is_wanted(&self) -> bool {
        self.rounds_wanted.load(Acquire) > self.rounds_ended()
    }

    /// Waits until a round is asked for.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Rounds that ended since the store was opened.
    pub(crate) fn rounds_ended(&self) -> u64 {
        self.rounds_ended.load(Acquire)
    }

    /// Whether the last round made no progress.
    pub(crate) fn is_without_progress(&self) -> bool {
        self.no_progress.load(Acquire)
    }

    /// A round ended.
    pub(crate) fn end_round(&self, result: RoundResult) {
        self.no_progress.store(result == RoundResult::NoProgress, Release);
        self.rounds_ended.fetch_add(1, AcqRel);
        self.wake_waiters();
    }

    /// Wakes the writers that wait for space: some was freed, or none will be.
    pub(crate) fn wake_waiters(&self) {
        self.freed.notify_waiters();
    }

    /// Writers that wait for space.
    pub(crate) fn waiting(&self) -> &Progress {
        &self.waiting
    }

    fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Asks for a round that begins from now on. Returns its number.
    fn want_round(&self) -> u64 {
        let round = self.rounds_ended() + 1;
        self.rounds_wanted.fetch_max(round, AcqRel);
        self.wanted.notify_one();
        round
    }
}

impl Engine {
    /// Waits until there is a segment for `need`, as long as rounds of reclaim make progress, or
    /// the file system cannot back a slot that is free: then the store's health says so.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] when they make none.
    pub(crate) async fn wait_reclaim(&self, need: Need) -> Result<()> {
        let mut no_progress_since: Option<Duration> = None;
        let mut starved = None;
        let _waiting = self.reclaim.waiting.begin();
        loop {
            // Before the look, so that nothing that is freed between them is missed.
            let freed = self.reclaim.freed();
            if self.disk.segments.has_room(need) || self.health.is_stopped() {
                return Ok(());
            }
            self.shutdown.check()?;
            let without_progress = no_progress_since.map(|since| runtime::now() - since);
            if without_progress.is_some_and(|time| time >= STARVED_AFTER)
                && self.disk.segments.is_starved(need)
            {
                starved.get_or_insert_with(|| {
                    space_wait::Waiting::begin(&self.health, "it has no blocks for a free segment")
                });
            } else {
                starved = None;
            }
            if starved.is_none()
                && without_progress.is_some_and(|time| time >= NO_PROGRESS_TIME_MAX)
            {
                return Err(Error::new(
                    Kind::NoSpace,
                    "the store is full, and nothing in it can be freed",
                ));
            }
            let round = self.reclaim.want_round();
            freed.await;
            self.reclaim.waiting.step();
            if self.reclaim.rounds_ended() >= round {
                if self.reclaim.is_without_progress() {
                    no_progress_since.get_or_insert_with(runtime::now);
                    // Starved, it may wait for hours.
                    let starved = starved.is_some();
                    runtime::sleep(if starved { STARVED_PAUSE } else { NO_PROGRESS_PAUSE }).await;
                } else {
                    no_progress_since = None;
                }
            }
        }
    }

    /// After a refusal of new blocks: waits until live blocks are counted again, unless the count
    /// cannot change. `waited` says whether the writer has waited before.
    ///
    /// # Errors
    /// [`Kind::NoSpace`].
    pub(crate) async fn wait_recount(&self, waited: bool) -> Result<()> {
        let least = if self.reclaim.is_without_progress() {
            u64::from(self.disk.segments.geometry.segment_blocks / 8)
        } else {
            1
        };
        if waited || self.reclaim.garbage_blocks() < least {
            return Err(Error::new(Kind::NoSpace, "the store is full"));
        }
        let round = self.reclaim.want_round();
        let _waiting = self.reclaim.waiting.begin();
        while self.reclaim.rounds_ended() < round && !self.health.is_stopped() {
            let done = self.reclaim.freed();
            self.shutdown.check()?;
            if self.reclaim.rounds_ended() < round {
                done.await;
            }
        }
        Ok(())
    }

    /// Whether there is room for anything new.
    ///
    /// # Errors
    /// [`Kind::NoSpace`], after live blocks were counted again.
    pub(crate) async fn check_room(&self) -> Result<()> {
        let mut waited = false;
        while self.space.free_blocks() == 0 {
            self.wait_recount(waited).await?;
            waited = true;
        }
        Ok(())
    }
}
