//! Reclaim: finds out what is alive, and gives the rest back.
//!
//! ```text
//!   mark ─► dead segments ─────────────retire─┐
//!     │     sparse ones ─copy─► lead look-ups ┴─► checkpoint ─► free slots
//!     └───► long dead runs of the others ─────────────────────► punched out of the file
//! ```
//!
//! I1  Roots are taken while no checkpoint is under way. One that began earlier could still make durable what it took, and
//!     that may refer to more than the roots do.
//! I2  What is freed or punched is so only after a checkpoint that began after the mark is durable, and after the readers
//!     that began before it have ended. Replay begins behind all segments that were judged, so it needs none of them.
//!
//! A round moves what the round before found sparse, because the checksums of what is moved are noted by the walk.
//!
//! When the store is closed, a round ends at its next step, as it does when a read fails: what it has copied is nobody's
//! yet, what it has retired or led elsewhere the last checkpoint takes up like any other.

mod forward;
mod mark;
mod pace;

use crate::{
    address::BLOCK_BYTES,
    bitmap,
    engine::{Engine, Upkeep},
    error::{Error, Kind, Result},
    runtime,
    segments::Need,
    store::Shared,
};
use forward::Victim;
use mark::Mark;
use pace::Pace;
use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering::*},
};

/// Rounds that a writer waits for. The first may have begun before there was something to find, and finds what is sparse;
/// the second moves it; what the last finds, others may have taken.
const ROUNDS_MAX: u32 = 4;
/// Most bytes that one round copies.
const COPY_BYTES: u64 = 512 << 20;
/// Dead blocks in a row that are worth a hole in the file.
const PUNCH_BLOCKS: u32 = 16;
/// Rounds of a thorough reclaim, at most: it ends when a round finds nothing more.
const THOROUGH_ROUNDS_MAX: u32 = 64;

/// How far a round goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Moves what is alive in less than half of its segment.
    Usual,
    /// Moves whatever gives back a segment.
    Thorough,
}

impl Effort {
    /// Part of a segment below which what is alive is moved.
    fn sparse(self) -> f64 {
        match self {
            Self::Usual => 0.5,
            Self::Thorough => 0.95,
        }
    }
}

/// What one round leaves for the next.
#[derive(Default)]
pub(crate) struct Plan {
    /// To be emptied.
    sparse: Vec<Victim>,
    /// Something in them is not what was written: they stay.
    spoilt: HashSet<crate::address::SegmentId>,
    /// The garbage that the last round was begun for.
    garbage_blocks: u64,
}

/// What reclaim is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimPhase {
    /// Nothing.
    Idle,
    /// Finding out what is alive.
    Marking,
    /// Moving what is alive in sparse segments.
    Forwarding,
    /// Making that durable.
    Checkpointing,
    /// Giving space back to the file system.
    Punching,
}

const PHASES: [ReclaimPhase; 5] = [
    ReclaimPhase::Idle,
    ReclaimPhase::Marking,
    ReclaimPhase::Forwarding,
    ReclaimPhase::Checkpointing,
    ReclaimPhase::Punching,
];

/// What reclaim does now, and what it has done since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimProgress {
    /// What it is doing.
    pub phase: ReclaimPhase,
    /// Rounds ended.
    pub rounds: u64,
    /// Nodes of maps visited.
    pub marked_nodes: u64,
    /// Bytes of segments that became free.
    pub freed_bytes: u64,
    /// Bytes moved out of sparse segments.
    pub forwarded_bytes: u64,
    /// Bytes given back to the file system.
    pub punched_bytes: u64,
}

/// Counts that.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    phase: AtomicU64,
    pub(crate) marked_nodes: AtomicU64,
    pub(crate) freed_bytes: AtomicU64,
    pub(crate) forwarded_bytes: AtomicU64,
    pub(crate) punched_bytes: AtomicU64,
}

impl Counters {
    fn enter(&self, phase: ReclaimPhase) {
        self.phase.store(phase as u64, Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn progress(&self, rounds: u64) -> ReclaimProgress {
        ReclaimProgress {
            phase: PHASES[self.phase.load(Relaxed) as usize],
            rounds,
            marked_nodes: self.marked_nodes.load(Relaxed),
            freed_bytes: self.freed_bytes.load(Relaxed),
            forwarded_bytes: self.forwarded_bytes.load(Relaxed),
            punched_bytes: self.punched_bytes.load(Relaxed),
        }
    }
}

impl Shared {
    /// One round. Whether another one may find more.
    pub(crate) async fn reclaim_round(&self, effort: Effort) -> Result<bool> {
        let mut plan = self.reclaiming.lock().await;
        let result = self.round(&mut plan, effort).await;
        let upkeep = &self.engine.upkeep;
        if result.is_err() {
            // It is still there, and so is the reason for another round.
            upkeep.garbage_blocks.fetch_add(std::mem::take(&mut plan.garbage_blocks), Relaxed);
        }
        upkeep.reclaim.enter(ReclaimPhase::Idle);
        upkeep.sparse.store(!plan.sparse.is_empty(), Release);
        upkeep.reclaims.fetch_add(1, AcqRel);
        upkeep.reclaimed.notify_waiters();
        result
    }

    async fn round(&self, plan: &mut Plan, effort: Effort) -> Result<bool> {
        let engine = &self.engine;
        let segments = &engine.disk.segments;
        let counters = &engine.upkeep.reclaim;
        engine.upkeep.closing.check()?;
        if engine.health.is_stopped() {
            return Err(engine.health.refusal());
        }
        let mut pace = Pace::new(&engine.upkeep, engine.reclaim_rate);

        counters.enter(ReclaimPhase::Marking);
        let to_move = std::mem::take(&mut plan.sparse);
        let residents: Vec<_> = to_move.iter().flat_map(|v| v.container.residents.iter().copied()).collect();
        let token = engine.readers.enter();
        let (mut mark, roots) = {
            let _none_under_way = self.checkpointer.lock().await; // keeps I1
            plan.garbage_blocks = engine.upkeep.garbage_blocks.swap(0, Relaxed);
            let mark = Mark::new(&segments.candidates(), &residents, segments.geometry.segment_blocks);
            // All under the one lock: a line that began meanwhile may hold what its source has let go of.
            let roots: Vec<_> = self.lock().all().map(|line| line.inner.lock().tree.clone()).collect();
            (mark, roots)
        };
        let began = runtime::now();
        mark.walk(&engine.disk, &roots, &mut pace).await?;
        let marking_us = runtime::now().saturating_sub(began).as_micros() as u64;
        drop((token, roots));
        counters.marked_nodes.fetch_add(mark.nodes(), Relaxed);
        let dead = mark.dead();
        segments.retire(&dead);

        counters.enter(ReclaimPhase::Forwarding);
        let moves = forward::copy(engine, &to_move, &mark, &mut plan.spoilt, &mut pace).await?;
        let moved: u64 =
            moves.iter().flat_map(|m| &m.pieces).map(|piece| u64::from(piece.live.count())).sum();
        counters.forwarded_bytes.fetch_add(moved * BLOCK_BYTES as u64, Relaxed);
        engine.readers.drain().await; // keeps forwarding's I2
        segments.move_to(moves);
        engine.upkeep.closing.check()?;

        counters.enter(ReclaimPhase::Checkpointing);
        let freed = u64::from(segments.retired_slots());
        // Even if nothing changed: the catalog of the one before has no bit in the mark, and may be punched.
        self.checkpoint_anew().await?;
        counters.freed_bytes.fetch_add(freed * segments.geometry.segment_bytes(), Relaxed);

        let max = COPY_BYTES / BLOCK_BYTES as u64;
        plan.sparse = forward::plan(segments, &mark, &plan.spoilt, effort.sparse(), max);
        engine.upkeep.barren.store(freed == 0 && plan.sparse.is_empty(), Release);
        let (nodes, dead, sparse) = (mark.nodes(), dead.len(), plan.sparse.len());
        tracing::debug!(nodes, marking_us, dead, moved, freed, sparse, "a round of reclaim");

        counters.enter(ReclaimPhase::Punching);
        engine.readers.drain().await; // keeps I2
        self.punch(&mark, plan, &mut pace).await?;
        Ok(freed > 0 || !plan.sparse.is_empty())
    }

    /// Punches long dead runs out of the segments that stay.
    async fn punch(&self, mark: &Mark, plan: &Plan, pace: &mut Pace<'_>) -> Result<()> {
        let disk = &self.engine.disk;
        let soon_empty: HashSet<_> = plan.sparse.iter().map(|victim| victim.container.id).collect();
        for container in disk.segments.containers() {
            let Some(words) = mark.alive(container.id).filter(|_| !soon_empty.contains(&container.id)) else {
                continue;
            };
            let gaps = bitmap::gaps(words, disk.segments.geometry.segment_blocks, PUNCH_BLOCKS);
            for (offset, len) in disk.segments.punch(container.id, &gaps) {
                if let Err(error) = disk.file.punch(offset, len).await {
                    tracing::debug!(%error, "the file system does not take space back");
                    return Ok(());
                }
                self.engine.upkeep.reclaim.punched_bytes.fetch_add(len, Relaxed);
                pace.spend(BLOCK_BYTES as u64).await?;
            }
        }
        Ok(())
    }

    /// Rounds until they find nothing more, beginning with what the log has not left yet; then gives all free slots back to
    /// the file system.
    pub(crate) async fn reclaim_all(&self) -> Result<()> {
        let _one_at_a_time = self.reclaiming_all.lock().await;
        let closing = &self.engine.upkeep.closing;
        closing.check()?;
        if self.engine.health.is_stopped() {
            return Err(self.engine.health.refusal());
        }
        // First, so that the log and the next checkpoint do not take a slot that has all its blocks in the file.
        self.settle_slots().await;
        self.leave_open_segments().await;
        for _ in 0..THOROUGH_ROUNDS_MAX {
            if !self.reclaim_round(Effort::Thorough).await? {
                break;
            }
        }
        self.settle_slots().await;
        closing.check()
    }
}

impl Upkeep {
    /// Whether a writer waits for space.
    pub(crate) fn is_wanted(&self) -> bool {
        self.reclaim_wanted.load(Acquire) > self.reclaims.load(Acquire)
    }
}

impl Engine {
    /// A writer found the store full: waits for rounds of reclaim, as long as there may be something to find.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] when there is no room after them either.
    pub(crate) async fn wait_reclaim(&self, need: Need) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            if self.disk.segments.has_room(need) || self.health.is_stopped() {
                return Ok(());
            }
            if !self.is_round_worth_it(need) {
                break;
            }
            let round = self.upkeep.reclaims.load(Acquire) + 1;
            self.upkeep.reclaim_wanted.fetch_max(round, AcqRel);
            self.upkeep.wanted.notify_one();
            while self.upkeep.reclaims.load(Acquire) < round && !self.health.is_stopped() {
                let done = self.upkeep.reclaimed.notified();
                if self.upkeep.reclaims.load(Acquire) < round {
                    done.await;
                }
            }
        }
        if self.disk.segments.has_room(need) {
            Ok(())
        } else {
            Err(Error::new(Kind::NoSpace, "the store is full"))
        }
    }

    /// Whether a round may free something. After one that found nothing it takes some garbage to try again for data, or else
    /// each write into a full store would cost a walk of all maps; what makes room is always worth it.
    fn is_round_worth_it(&self, need: Need) -> bool {
        let segments = &self.disk.segments;
        let barren = need == Need::Data && self.upkeep.barren.load(Acquire);
        let least = if barren { u64::from(segments.geometry.segment_blocks / 8) } else { 1 };
        self.upkeep.garbage_blocks.load(Relaxed) >= least
            || self.upkeep.sparse.load(Acquire)
            || !segments.retired().is_empty()
    }

    /// Bytes of garbage that are worth a mark: an eighth of what is in use, and at least four segments.
    pub(crate) fn garbage_is_due(&self) -> bool {
        let used = u64::from(self.disk.segments.geometry.slots - self.disk.segments.free())
            * self.disk.segments.geometry.segment_bytes();
        let garbage = self.upkeep.garbage_blocks.load(Relaxed) * BLOCK_BYTES as u64;
        garbage >= (used / 8).max(4 * self.disk.segments.geometry.segment_bytes())
    }
}
