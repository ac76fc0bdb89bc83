//! Reclaim: finds out what is alive, and gives the rest back.
//!
//! ```text
//!   mark ─► dead segments ──────────────retire─┐
//!     │     sparse ones ─copy─► lead look-ups ─┴─► checkpoint ─► readers gone ─► free slots ─┐
//!     │        ▲                                                                             │ while there are more,
//!     │        └─────────────────────────────────────────────────────────────────────────────┘ a step at a time
//!     └───► long dead runs of the others ─────────────────────► punched out of the file
//! ```
//!
//! I1  Roots are taken while no checkpoint is under way. One that began earlier could still make durable what it took, and
//!     that may refer to more than the roots do.
//! I2  What is freed or punched is so only after a checkpoint that began after the mark is durable, and after the readers
//!     that began before it have ended. Replay begins behind all segments that were judged, so it needs none of them.
//! I3  Nothing waits for a round but those who need what it frees. A checkpoint waits neither for the round's reads and
//!     copies nor for readers: only the round itself does, after its checkpoint.
//! I4  While the log's room is short, a round frees something at least every [`STEP`], so that writers go on.
//!
//! A round moves what the round before found sparse, because the checksums of what is moved are noted by the walk.
//!
//! When the store is closed, a round ends at its next step, as it does when a read fails: what it has copied is nobody's
//! yet, what it has retired or led elsewhere the last checkpoint takes up like any other.

mod forward;
mod mark;
mod pace;

use crate::{
    address::{BLOCK_BYTES, SegmentId},
    bitmap,
    blindness::{Blindness, is_blind_to},
    engine::{Engine, Upkeep},
    error::{Error, Kind, Result},
    runtime,
    segments::Need,
    store::Shared,
    volume::Volume,
};
use forward::{Copies, Host, Victim};
use mark::{Mark, Root};
use pace::Pace;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering::*},
    time::Duration,
};

/// Time without progress after which a writer gives up. What is in the way for a while may be gone then: checkpoints that
/// others wrote, reads under way.
const BARREN_TIME_MAX: Duration = Duration::from_secs(30);
/// Pause between two rounds of which the first made no progress.
const BARREN_PAUSE: Duration = Duration::from_millis(20);
/// Longest time from one step of a round to the next while the log's room is short: what a writer waits for at most when
/// there is none. A checkpoint for each, so not much shorter.
const STEP: Duration = Duration::from_millis(300);
/// Segments a second that reclaim is taken to free before it was seen. A guess.
const UNKNOWN_RATE: f64 = 1.0;
/// Blocks a second that writers may take in any case.
const SLOWEST_RATE: u64 = 256;
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
    /// Moves whatever gives back a segment, for somebody who asked for it.
    Thorough,
    /// Empties the sparsest segments whatever is alive in them, until the log has room.
    Needed,
}

impl Effort {
    /// Part of a segment below which what is alive is moved.
    fn sparse(self) -> f64 {
        match self {
            Self::Usual => 0.5,
            Self::Thorough => 0.95,
            Self::Needed => 1.0,
        }
    }
}

/// What one round leaves for the next.
#[derive(Default)]
pub(crate) struct Plan {
    /// To be emptied, the emptiest first.
    sparse: VecDeque<Victim>,
    /// Takes moved blocks, with room left in it.
    host: Option<Host>,
    /// Something in them is not what was written: they stay.
    spoilt: HashSet<SegmentId>,
    /// The garbage that the last round was begun for.
    garbage_blocks: u64,
}

/// How fast slots became free lately.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    at: Duration,
    per_second: Option<f64>,
}

impl Plan {
    /// What the next round empties.
    fn containers(&self) -> HashSet<SegmentId> {
        self.sparse.iter().map(|victim| victim.container.id).collect()
    }
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
        let _under_way = self.engine.watchdog.reclaim.begin();
        let result = self.round(&mut plan, effort).await;
        let upkeep = &self.engine.upkeep;
        if result.is_err() {
            // It is still there, and so is the reason for another round; but nobody waits for ever for rounds that fail.
            upkeep.garbage_blocks.fetch_add(std::mem::take(&mut plan.garbage_blocks), Relaxed);
            upkeep.barren.store(true, Release);
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
        let mut pace = Pace::new(engine, engine.reclaim_rate);
        engine.upkeep.begin_to_free();

        counters.enter(ReclaimPhase::Marking);
        let mut to_move = std::mem::take(&mut plan.sparse);
        let residents: Vec<_> = to_move.iter().flat_map(|v| v.container.residents.iter().copied()).collect();
        let began = runtime::now();
        let (mark, corrected) = self.mark(plan, &residents, &mut pace).await?;
        let marking_us = runtime::now().saturating_sub(began).as_micros() as u64;
        counters.marked_nodes.fetch_add(mark.nodes(), Relaxed);
        let dead = mark.dead();
        segments.retire(&dead);

        let (mut freed, mut moved, mut is_durable) = (0, 0, false);
        loop {
            counters.enter(ReclaimPhase::Forwarding);
            let until = runtime::now() + STEP;
            let enough =
                |taken: u32| engine.is_short() && (runtime::now() >= until || taken >= engine.hosts_a_step());
            let (host, spoilt) = (&mut plan.host, &mut plan.spoilt);
            let Copies { moves, hosts } =
                forward::copy(engine, &mut to_move, host, &mark, spoilt, &mut pace, enough).await?;
            let has_moved = !moves.is_empty();
            moved +=
                moves.iter().flat_map(|m| &m.pieces).map(|piece| u64::from(piece.live.count())).sum::<u64>();
            engine.readers.drain().await; // keeps forwarding's I2
            segments.move_to(moves);
            engine.upkeep.closing.check()?;

            // A checkpoint takes room too: one that frees nothing would take what the next step needs.
            let freed_now = if segments.retired().is_empty() { 0 } else { self.free_retired(hosts).await? };
            is_durable |= freed_now > 0;
            freed += freed_now;
            let is_stuck = !has_moved && freed_now == 0;
            if to_move.is_empty() || is_stuck || (effort == Effort::Needed && engine.has_ample_room()) {
                break;
            }
        }
        if !is_durable && (moved > 0 || !engine.is_room_for_checkpoints_short()) {
            // Even if nothing changed: the catalog of the one before has no bit in the mark, and may be punched.
            freed += self.free_retired(0).await?;
            is_durable = true;
        }
        counters.forwarded_bytes.fetch_add(moved * BLOCK_BYTES as u64, Relaxed);
        counters.freed_bytes.fetch_add(freed * segments.geometry.segment_bytes(), Relaxed);

        let max = COPY_BYTES / BLOCK_BYTES as u64;
        // What is hardly sparse is worth its copy only while somebody needs what it gives.
        let next = if effort == Effort::Needed && !engine.is_short() { Effort::Usual } else { effort };
        plan.sparse = forward::plan(segments, &mark, &plan.spoilt, next.sparse(), max).into();
        // What is left in the queue after nothing was moved found no room, and will find none next time.
        let is_stuck = freed == 0 && moved == 0;
        let barren = is_stuck && corrected == 0 && (plan.sparse.is_empty() || !to_move.is_empty());
        engine.upkeep.barren.store(barren, Release);
        let (nodes, dead, sparse) = (mark.nodes(), dead.len(), plan.sparse.len());
        tracing::debug!(
            nodes,
            marking_us,
            dead,
            moved,
            freed,
            corrected,
            sparse,
            ?effort,
            "a round of reclaim"
        );

        // Holes in the file are for others, who can wait; unless they are all that can give the file system room, and with it us.
        if is_durable && (!engine.is_short() || is_stuck) {
            counters.enter(ReclaimPhase::Punching);
            engine.readers.drain().await; // keeps I2
            let soon_empty = if is_stuck { HashSet::new() } else { plan.containers() };
            self.punch(&mark, &soon_empty, &mut pace).await?;
        }
        Ok(freed > 0 || !plan.sparse.is_empty())
    }

    /// Finds out what is alive, and corrects the books of what lives. Gives also by how many blocks.
    async fn mark(
        &self,
        plan: &mut Plan,
        residents: &[SegmentId],
        pace: &mut Pace<'_>,
    ) -> Result<(Mark, u64)> {
        let engine = &self.engine;
        let segments = &engine.disk.segments;
        let taken = {
            let _none_under_way = self.checkpointer.lock().await; // keeps I1
            plan.garbage_blocks = engine.upkeep.garbage_blocks.swap(0, Relaxed);
            let mark = Mark::new(&segments.candidates(), residents, segments.geometry.segment_blocks);
            // All under the one lock: a line that began meanwhile may hold what its source has let go of. The token after
            // it: whoever had to wait for both could be waited for.
            let lines = self.lock();
            let root =
                |line: &Volume| Root { family: line.inner.family, tree: line.inner.lock().tree.clone() };
            let taken: Vec<_> = lines.all().map(|line| (line.clone(), root(line))).collect();
            let shared: HashMap<_, _> =
                lines.families().iter().map(|(n, f)| (*n, (f.shared_blocks, f.resets))).collect();
            (mark, taken, shared, engine.space.map_blocks(), engine.readers.enter())
        };
        let (mut mark, lines, shared, maps, token) = taken;
        let (lines, roots): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
        mark.walk(&engine.disk, &roots, pace).await?;
        drop(token);

        let counted = mark.counted();
        let mut corrected = 0;
        for ((line, root), own) in lines.iter().zip(&roots).zip(&counted.own) {
            let mut state = line.inner.lock();
            if !state.deleted {
                corrected += state.tree.recount(&root.tree, *own);
            }
        }
        let mut now = self.lock();
        for (number, (then, resets)) in shared {
            let Some(family) = now.family_mut(number).filter(|family| family.resets == resets) else {
                continue;
            };
            let is = counted.shared.get(&number).copied().unwrap_or(0);
            debug_assert!(is <= then, "space's I1: family {number:?} shares {is} blocks, of {then}");
            let excess = then.saturating_sub(is).min(family.shared_blocks);
            family.shared_blocks -= excess;
            corrected += excess;
        }
        drop(now);
        engine.space.add(-i128::from(corrected));
        engine.space.recount_maps(maps, counted.maps);
        Ok((mark, corrected))
    }

    /// Makes durable that what is retired now is, waits for those who may still read it, and frees it. Gives the number of
    /// slots; `hosts` were taken for that.
    async fn free_retired(&self, hosts: u32) -> Result<u64> {
        let engine = &self.engine;
        let segments = &engine.disk.segments;
        engine.upkeep.reclaim.enter(ReclaimPhase::Checkpointing);
        let (retired, freed) = (segments.retired(), segments.retired_slots());
        if is_blind_to(Blindness::FreeAfterCheckpoint) {
            segments.release(&retired);
        }
        self.checkpoint_anew().await?; // keeps I2
        engine.readers.drain().await;
        if !is_blind_to(Blindness::FreeAfterCheckpoint) {
            segments.release(&retired);
        }
        engine.upkeep.freed(u64::from(freed.saturating_sub(hosts)));
        engine.steer();
        engine.log.room.notify_waiters();
        engine.upkeep.reclaimed.notify_waiters();
        Ok(u64::from(freed))
    }

    /// Punches long dead runs out of the segments that stay.
    async fn punch(&self, mark: &Mark, soon_empty: &HashSet<SegmentId>, pace: &mut Pace<'_>) -> Result<()> {
        let disk = &self.engine.disk;
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
    pub(crate) async fn reclaim_all(&self, effort: Effort) -> Result<()> {
        let _one_at_a_time = self.reclaiming_all.lock().await;
        let closing = &self.engine.upkeep.closing;
        closing.check()?;
        if self.engine.health.is_stopped() {
            return Err(self.engine.health.refusal());
        }
        // First, so that the log and the next checkpoint do not take a slot that has all its blocks in the file.
        self.settle_slots().await;
        self.leave_open_segments().await;
        if let Some(host) = self.reclaiming.lock().await.host.take() {
            self.engine.disk.segments.seal(host.id());
        }
        for _ in 0..THOROUGH_ROUNDS_MAX {
            if !self.reclaim_round(effort).await? {
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

    /// A round begins: what was idle time before it says nothing of how fast slots become free.
    fn begin_to_free(&self) {
        self.freed.lock().expect("no panics under this lock").at = runtime::now();
    }

    /// So many slots became free.
    fn freed(&self, slots: u64) {
        let mut freed = self.freed.lock().expect("no panics under this lock");
        let now = runtime::now();
        let seconds = now.saturating_sub(freed.at).as_secs_f64().max(0.001);
        // Weighs the last second like all before.
        let weight = (seconds / (seconds + 1.0)).min(1.0);
        let rate = slots as f64 / seconds;
        freed.per_second = Some(freed.per_second.map_or(rate, |old| old + (rate - old) * weight));
        freed.at = now;
    }

    fn freed_per_second(&self) -> Option<f64> {
        self.freed.lock().expect("no panics under this lock").per_second
    }
}

impl Engine {
    /// A writer found no segment for that: waits until there is one, as long as rounds of reclaim make progress.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] when they make none.
    pub(crate) async fn wait_reclaim(&self, need: Need) -> Result<()> {
        let mut barren_since: Option<Duration> = None;
        let _waiting = self.watchdog.for_reclaim.begin();
        loop {
            // Before the look, so that nothing that is freed between them is missed.
            let freed = self.upkeep.reclaimed.notified();
            if self.disk.segments.has_room(need) || self.health.is_stopped() {
                return Ok(());
            }
            self.upkeep.closing.check()?;
            if barren_since.is_some_and(|since| runtime::now() - since >= BARREN_TIME_MAX) {
                return Err(Error::new(Kind::NoSpace, "the store is full, and nothing in it can be freed"));
            }
            let round = self.want_round();
            freed.await;
            self.watchdog.for_reclaim.step();
            if self.upkeep.reclaims.load(Acquire) >= round {
                if self.upkeep.barren.load(Acquire) {
                    barren_since.get_or_insert_with(runtime::now);
                    runtime::sleep(BARREN_PAUSE).await;
                } else {
                    barren_since = None;
                }
            }
        }
    }

    /// A writer was told that the store has no room for new blocks: waits until what lives was counted again, unless that
    /// cannot tell anything new. `waited` says whether it has waited before.
    ///
    /// # Errors
    /// [`Kind::NoSpace`].
    pub(crate) async fn wait_recount(&self, waited: bool) -> Result<()> {
        let barren = self.upkeep.barren.load(Acquire);
        let least = if barren { u64::from(self.disk.segments.geometry.segment_blocks / 8) } else { 1 };
        if waited || self.upkeep.garbage_blocks.load(Relaxed) < least {
            return Err(Error::new(Kind::NoSpace, "the store is full"));
        }
        self.wait_round().await
    }

    /// Waits for the end of a round of reclaim that was asked for now.
    ///
    /// # Errors
    /// The store is being closed.
    async fn wait_round(&self) -> Result<()> {
        let round = self.want_round();
        let _waiting = self.watchdog.for_reclaim.begin();
        while self.upkeep.reclaims.load(Acquire) < round && !self.health.is_stopped() {
            let done = self.upkeep.reclaimed.notified();
            self.upkeep.closing.check()?;
            if self.upkeep.reclaims.load(Acquire) < round {
                done.await;
            }
        }
        Ok(())
    }

    /// Whether there is room for anything new.
    ///
    /// # Errors
    /// [`Kind::NoSpace`], after what lives was counted again.
    pub(crate) async fn check_room(&self) -> Result<()> {
        let mut waited = false;
        while self.space.free_blocks() == 0 {
            self.wait_recount(waited).await?;
            waited = true;
        }
        Ok(())
    }

    /// Asks for a round of reclaim that begins from now on. Gives its number.
    fn want_round(&self) -> u64 {
        let round = self.upkeep.reclaims.load(Acquire) + 1;
        self.upkeep.reclaim_wanted.fetch_max(round, AcqRel);
        self.upkeep.wanted.notify_one();
        round
    }

    /// Free segments below which reclaim works as fast as it can, and writers are slowed to what it frees.
    fn low_room(&self) -> u32 {
        (self.disk.segments.geometry.slots / 32).clamp(2, 64)
    }

    /// Whether the log's room is short.
    pub(crate) fn is_short(&self) -> bool {
        self.disk.segments.room(Need::Data) < self.low_room()
    }

    /// Whether it is far from short.
    fn has_ample_room(&self) -> bool {
        self.disk.segments.room(Need::Data) >= 2 * self.low_room()
    }

    /// Segments that a step of a round fills, at most.
    fn hosts_a_step(&self) -> u32 {
        self.low_room()
    }

    /// Slows writers to what reclaim frees, the more the less room there is; or lets them go.
    pub(crate) fn steer(&self) {
        let (room, low) = (self.disk.segments.room(Need::Data), self.low_room());
        let rate = (room < low).then(|| {
            let freed = self.upkeep.freed_per_second().unwrap_or(UNKNOWN_RATE);
            let blocks = (freed * f64::from(self.disk.segments.geometry.segment_blocks)) as u64;
            // Twice what is freed at the beginning, half of it at the end.
            blocks.max(SLOWEST_RATE) * u64::from(1 + 3 * room / low.max(1)) / 2
        });
        self.space.throttle().set(rate);
    }

    /// Bytes of garbage that are worth a mark: an eighth of what is in use, and at least four segments.
    pub(crate) fn garbage_is_due(&self) -> bool {
        let used = u64::from(self.disk.segments.geometry.slots - self.disk.segments.free())
            * self.disk.segments.geometry.segment_bytes();
        let garbage = self.upkeep.garbage_blocks.load(Relaxed) * BLOCK_BYTES as u64;
        garbage >= (used / 8).max(4 * self.disk.segments.geometry.segment_bytes())
    }
}
