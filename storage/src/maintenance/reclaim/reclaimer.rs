//! The reclaimer: decides when a round of reclaim is due, and owns what one round leaves for the
//! next.

use super::{
    effort::Effort,
    freed_rate::FreedRate,
    progress::{Counters, ReclaimPhase, ReclaimProgress},
    round::Plan,
};
use crate::{
    base::{BLOCK_BYTES, Progress, Result},
    catalog::Volumes,
    core::RoundResult,
    disk::Need,
    maintenance::{
        checkpoint::Checkpointer,
        slot_pool::SlotPool,
        wake::{Failures, LogActivity, TICK, first_of},
    },
};
use sandstone_ring::runtime;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::*},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// Quiet ticks after which a round is due for a segment's worth of garbage.
const QUIET_TICKS: u32 = 25;
/// Quiet ticks after which space is returned to the file system: half a minute.
const IDLE_TICKS: u32 = 150;
/// Assumed rate of reclaim, in segments a second, before one was measured. A guess.
const UNKNOWN_RATE: f64 = 1.0;
/// Least rate of writers while they are slowed, in blocks a second.
const SLOWEST_RATE: u64 = 256;
/// Rounds of a thorough reclaim, at most: it ends when a round finds nothing more.
const THOROUGH_ROUNDS_MAX: u32 = 64;

/// An event that wakes the reclaimer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A writer waits for space.
    Wanted,
    Tick,
    ShutDown,
}

/// Frees segments, a round at a time.
pub(crate) struct Reclaimer {
    pub(super) volumes: Arc<Volumes>,
    pub(super) checkpointer: Arc<Checkpointer>,
    slot_pool: Arc<SlotPool>,
    /// Bytes a second that it may read and write while no writer waits for it.
    pub(super) bytes_per_second: u64,
    /// Held for a round: two at once would free a segment twice.
    plan: Mutex<Plan>,
    /// Held for a thorough reclaim, so that closing can wait for it.
    thorough: Mutex<()>,
    /// The last round found sparse segments that the next one will empty.
    has_plan: AtomicBool,
    pub(super) counters: Counters,
    pub(super) freed_rate: FreedRate,
    /// Segments that checkpoints had taken when the freed rate last counted.
    checkpoint_segments: AtomicU64,
    pub(super) progress: Progress,
}

impl Reclaimer {
    pub(crate) fn new(
        volumes: Arc<Volumes>,
        checkpointer: Arc<Checkpointer>,
        slot_pool: Arc<SlotPool>,
        bytes_per_second: u64,
    ) -> Self {
        Self {
            volumes,
            checkpointer,
            slot_pool,
            bytes_per_second,
            plan: Mutex::default(),
            thorough: Mutex::default(),
            has_plan: AtomicBool::new(false),
            counters: Counters::default(),
            freed_rate: FreedRate::default(),
            checkpoint_segments: AtomicU64::new(0),
            progress: Progress::default(),
        }
    }

    /// Reclaims as it becomes due, until the store closes.
    pub(crate) async fn run(&self) {
        let engine = &self.volumes.engine;
        let (mut activity, mut failures) = (LogActivity::default(), Failures::default());
        // Whether all garbage was returned to the file system.
        let mut is_all_returned = true;
        loop {
            match self.next_event().await {
                Event::ShutDown => break,
                Event::Wanted | Event::Tick if engine.health.is_stopped() => {
                    engine.reclaim.wake_waiters()
                }
                Event::Wanted | Event::Tick => {
                    engine.measure_backing();
                    self.throttle_writers();
                    activity.look(&engine.log);
                    let done =
                        self.do_what_is_due(activity.quiet_ticks(), &mut is_all_returned).await;
                    if !engine.shutdown.has_begun() {
                        // A round that shutdown ends is no failure.
                        failures.log(done, "reclaim");
                    }
                }
            }
        }
        engine.reclaim.wake_waiters();
    }

    async fn next_event(&self) -> Event {
        let engine = &self.volumes.engine;
        let wanted = engine.reclaim.wanted();
        first_of(
            (engine.shutdown.begun(), Event::ShutDown),
            (wanted, Event::Wanted),
            (TICK, Event::Tick),
        )
        .await
    }

    async fn do_what_is_due(&self, quiet_ticks: u32, is_all_returned: &mut bool) -> Result<()> {
        let engine = &self.volumes.engine;
        let segment_bytes = engine.disk.segments.geometry.segment_bytes();
        let garbage = engine.reclaim.garbage_blocks() * BLOCK_BYTES as u64;
        *is_all_returned &= garbage < segment_bytes;
        let is_quiet = quiet_ticks == QUIET_TICKS && garbage >= segment_bytes;
        let is_pointless = engine.reclaim.is_without_progress() && garbage < segment_bytes;
        if engine.reclaim.is_wanted() || (engine.is_short() && !is_pointless) {
            self.round(Effort::Needed).await.map(drop)
        } else if self.has_plan.load(Acquire) || engine.is_garbage_due() || is_quiet {
            self.round(Effort::Usual).await.map(drop)
        } else if quiet_ticks >= IDLE_TICKS && !*is_all_returned {
            *is_all_returned = true;
            self.reclaim_all(Effort::Usual).await
        } else {
            Ok(())
        }
    }

    /// Runs one round. Returns whether another round may find more.
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`] or [`crate::Kind::Io`] when a map cannot be read, those of a
    /// checkpoint, and [`crate::Kind::Latched`] when the store closes meanwhile. Segments that were
    /// freed until then stay free.
    pub(crate) async fn round(&self, effort: Effort) -> Result<bool> {
        let engine = &self.volumes.engine;
        let mut plan = self.plan.lock().await;
        let _under_way = self.progress.begin();
        let worked = self.work(&mut plan, effort).await;
        if worked.is_err() {
            // The garbage is still there, and so is the reason for another round; but no writer
            // waits forever for rounds that fail.
            engine.reclaim.add_garbage(std::mem::take(&mut plan.garbage_blocks));
        }
        self.counters.enter(ReclaimPhase::Idle);
        self.has_plan.store(!plan.sparse.is_empty(), Release);
        engine
            .reclaim
            .end_round(worked.as_ref().map_or(RoundResult::NoProgress, |(_, result)| *result));
        worked.map(|(may_find_more, _)| may_find_more)
    }

    /// Runs rounds until they find nothing more, after the open segments were left; then returns
    /// all free slots to the file system.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub(crate) async fn reclaim_all(&self, effort: Effort) -> Result<()> {
        let engine = &self.volumes.engine;
        let _one_at_a_time = self.thorough.lock().await;
        engine.shutdown.check()?;
        if engine.health.is_stopped() {
            return Err(engine.health.refusal());
        }
        // First, so that the log and the next checkpoint do not take a slot that has all its blocks
        // in the file.
        self.slot_pool.return_all().await;
        self.leave_open_segments().await;
        for _ in 0..THOROUGH_ROUNDS_MAX {
            if !self.round(effort).await? {
                break;
            }
        }
        self.slot_pool.return_all().await;
        engine.shutdown.check()
    }

    /// Makes the log, the checkpointer and forwarding leave their open segments, so that the mark
    /// can judge them.
    async fn leave_open_segments(&self) {
        let engine = &self.volumes.engine;
        let segments = &engine.disk.segments;
        self.checkpointer.leave_segment().await;
        if let Some(id) = engine.log.leave_segment() {
            // It is sealed when its footer is written.
            while segments.is_open(id) && !engine.health.is_stopped() {
                runtime::sleep(Duration::from_millis(1)).await;
            }
        }
        if let Some(destination) = self.plan.lock().await.destination.take() {
            segments.seal(destination.id());
        }
    }

    /// Slows writers to the rate at which reclaim frees, the more the less room there is; with
    /// enough room it ends the throttle.
    pub(super) fn throttle_writers(&self) {
        let engine = &self.volumes.engine;
        let segments = &engine.disk.segments;
        let (room, low) = (segments.room(Need::Data), engine.low_room());
        let rate = (room < low).then(|| {
            let freed = self.freed_rate.per_second().unwrap_or(UNKNOWN_RATE);
            let blocks = (freed * f64::from(segments.geometry.segment_blocks)) as u64;
            // Twice the freed rate at the watermark, half of it without room.
            blocks.max(SLOWEST_RATE) * u64::from(1 + 3 * room / low.max(1)) / 2
        });
        engine.space.throttle().set(rate);
    }

    /// Segments that checkpoints took since this was last asked: what rounds free serves writers
    /// less by so many.
    pub(super) fn checkpoint_segments_since_last(&self) -> u64 {
        let taken = self.checkpointer.segments_taken();
        taken - self.checkpoint_segments.swap(taken, Relaxed)
    }

    /// Waits for a thorough reclaim that is under way.
    pub(crate) async fn wait_idle(&self) {
        drop(self.thorough.lock().await);
    }

    /// Progress, including space that the slot pool returned to the file system.
    pub(crate) fn progress(&self) -> ReclaimProgress {
        let progress = self.counters.progress(self.volumes.engine.reclaim.rounds_ended());
        ReclaimProgress {
            punched_bytes: progress.punched_bytes + self.slot_pool.returned_bytes(),
            ..progress
        }
    }

    pub(crate) fn phase(&self) -> ReclaimPhase {
        self.counters.phase()
    }

    /// Progress of the work, for the watchdog.
    pub(crate) fn work_progress(&self) -> &Progress {
        &self.progress
    }
}
