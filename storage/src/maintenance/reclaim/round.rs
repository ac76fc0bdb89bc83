//! A round of reclaim: finds live blocks, moves them out of sparse segments, and frees the rest.
//!
//! ```text
//!   mark ─► dead segments ──────────────retire─┐
//!     │     sparse ones ─copy─► lead look-ups ─┴─► checkpoint ─► quiesce ─► free slots ─┐
//!     │        ▲                                                                        │
//!     │        └──────────────── while there are more, a step at a time ────────────────┘
//!     └───► long dead runs of the others ──────────────────────► punched out of the file
//! ```
//!
//! I1  Roots are taken while no checkpoint is under way. A checkpoint that began earlier could
//!     still make older roots durable, and those may refer to more blocks.
//! I2  Segments are freed or punched only after a checkpoint that began after the mark is durable,
//!     and after read pins from before it are released. Replay begins behind all segments that were
//!     judged, so it needs none of them.
//! I3  Only writers that need the space wait for a round. A checkpoint waits neither for the
//!     round's reads and copies nor for read pins: only the round itself quiesces, after its
//!     checkpoint.
//! I4  While the log's room is short, a round frees something at least every [`STEP`], so that
//!     writers go on.
//!
//! A round moves the segments that the round before found sparse, because the mark notes their
//! checksums on its walk.
//!
//! When the store is closed, a round ends at its next step, as it does when a read fails: nothing
//! refers to its copies yet, and segments that it has retired or moved are in the last checkpoint
//! like any other.

use super::{
    effort::Effort,
    forward::{self, Copies, Destination, Victim},
    mark::{Mark, Root},
    pace::Pace,
    progress::ReclaimPhase,
    reclaimer::Reclaimer,
};
use crate::{
    base::{BLOCK_BYTES, Blindness, Result, SegmentId, bitmap, is_blind_to},
    catalog::Family,
    core::RoundResult,
    disk::Need,
    volume::Volume,
};
use sandstone_ring::runtime;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

/// Longest time from one step of a round to the next while the log's room is short: the longest
/// wait of a writer when there is no room. A checkpoint for each, so not much shorter.
const STEP: Duration = Duration::from_millis(300);
/// Most bytes that one round copies.
const COPY_BYTES: u64 = 512 << 20;
/// Shortest run of dead blocks that is worth a hole in the file.
const PUNCH_BLOCKS: u32 = 16;

/// The plan that one round leaves for the next.
#[derive(Default)]
pub(super) struct Plan {
    /// Victims, the emptiest first.
    pub(super) sparse: VecDeque<Victim>,
    /// The destination, with room left in it.
    pub(super) destination: Option<Destination>,
    /// Segments with a corrupt block: they stay.
    pub(super) corrupt: HashSet<SegmentId>,
    /// The garbage that the last round was begun for.
    pub(super) garbage_blocks: u64,
}

impl Plan {
    /// The segments that the next round empties.
    fn containers(&self) -> HashSet<SegmentId> {
        self.sparse.iter().map(|victim| victim.container.id).collect()
    }
}

impl Reclaimer {
    /// Runs the round. Returns whether another round may find more, and how this one ended.
    pub(super) async fn work(
        &self,
        plan: &mut Plan,
        effort: Effort,
    ) -> Result<(bool, RoundResult)> {
        let engine = &self.volumes.engine;
        let segments = &engine.disk.segments;
        let counters = &self.counters;
        engine.shutdown.check()?;
        if engine.health.is_stopped() {
            return Err(engine.health.refusal());
        }
        let mut pace = Pace::new(engine, &self.progress, self.bytes_per_second);
        self.freed_rate.begin();
        self.checkpoint_segments_since_last();

        counters.enter(ReclaimPhase::Marking);
        let mut to_move = std::mem::take(&mut plan.sparse);
        let residents: Vec<_> =
            to_move.iter().flat_map(|v| v.container.residents.iter().copied()).collect();
        let began = runtime::now();
        let (mark, corrected) = self.mark(plan, &residents, &mut pace).await?;
        let marking_us = runtime::now().saturating_sub(began).as_micros() as u64;
        counters.marked_nodes.fetch_add(mark.nodes(), Relaxed);
        let dead = mark.dead();
        segments.retire(&dead);

        let (mut freed, mut moved, mut is_durable) = (0, 0, false);
        // Segments that the round takes itself: they count against those that it frees.
        let (mut taken, checkpoints_took) = (0, self.checkpointer.segments_taken());
        if engine.is_short() && segments.retired_slots() > engine.checkpoint_share() {
            // What is moved in small steps does not pay for the checkpoint of each.
            freed += self.free_retired(0).await?;
            is_durable = true;
        }
        loop {
            counters.enter(ReclaimPhase::Forwarding);
            let until = runtime::now() + STEP;
            let enough = |taken: u32| {
                engine.is_short() && (runtime::now() >= until || taken >= engine.low_room())
            };
            let (destination, corrupt) = (&mut plan.destination, &mut plan.corrupt);
            let Copies { moves, destinations } =
                forward::copy(engine, &mut to_move, destination, &mark, corrupt, &mut pace, enough)
                    .await?;
            let has_moved = !moves.is_empty();
            moved += moves
                .iter()
                .flat_map(|m| &m.pieces)
                .map(|piece| u64::from(piece.live.count()))
                .sum::<u64>();
            taken += u64::from(destinations);
            engine.pins.quiesce().await; // keeps forwarding's I2
            segments.move_to(moves);
            engine.shutdown.check()?;

            // A checkpoint takes room too: one that frees nothing would take the room that the next
            // step needs.
            let freed_now = if segments.retired().is_empty() {
                0
            } else {
                self.free_retired(destinations).await?
            };
            is_durable |= freed_now > 0;
            freed += freed_now;
            let is_stuck = !has_moved && freed_now == 0;
            // A smaller step would not pay for its checkpoint. The next mark finds what this one's
            // have left behind.
            let is_small = segments.room(Need::Forward) < engine.checkpoint_share();
            if to_move.is_empty()
                || is_stuck
                || (effort == Effort::Needed && (is_small || engine.has_ample_room()))
            {
                break;
            }
        }
        if !is_durable && (moved > 0 || !engine.is_room_for_checkpoints_short()) {
            // Even if nothing changed: the head of the catalog before has no bit in the mark, and
            // may be punched.
            freed += self.free_retired(0).await?;
            is_durable = true;
        }
        counters.forwarded_bytes.fetch_add(moved * BLOCK_BYTES as u64, Relaxed);
        counters.freed_bytes.fetch_add(freed * segments.geometry.segment_bytes(), Relaxed);

        let max = COPY_BYTES / BLOCK_BYTES as u64;
        // A hardly sparse segment is worth its copy only while a writer needs the space.
        let next =
            if effort == Effort::Needed && !engine.is_short() { Effort::Usual } else { effort };
        plan.sparse = forward::plan(segments, &mark, &plan.corrupt, next.sparse(), max).into();
        // Victims left in the queue after nothing was moved found no room, and will find none next
        // time.
        let is_stuck = freed == 0 && moved == 0;
        taken += self.checkpointer.segments_taken() - checkpoints_took;
        let is_gain = freed > taken || corrected > 0;
        let result = if !is_gain && (plan.sparse.is_empty() || !to_move.is_empty()) {
            RoundResult::NoProgress
        } else {
            RoundResult::Progress
        };
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

        // Holes in the file serve other users of the file system, which can wait; unless only holes
        // can give the file system room, and with it the store.
        if is_durable && (!engine.is_short() || is_stuck) {
            counters.enter(ReclaimPhase::Punching);
            engine.pins.quiesce().await; // keeps I2
            let soon_empty = if is_stuck { HashSet::new() } else { plan.containers() };
            self.punch(&mark, &soon_empty, &mut pace).await?;
        }
        Ok((freed > 0 || !plan.sparse.is_empty(), result))
    }

    /// Finds live blocks, and corrects their counts. Returns also by how many blocks.
    async fn mark(
        &self,
        plan: &mut Plan,
        residents: &[SegmentId],
        pace: &mut Pace<'_>,
    ) -> Result<(Mark, u64)> {
        let engine = &self.volumes.engine;
        let segments = &engine.disk.segments;
        let taken = {
            let none_under_way = self.checkpointer.hold().await; // keeps I1
            plan.garbage_blocks = engine.reclaim.take_garbage();
            let mut mark =
                Mark::new(&segments.candidates(), residents, segments.geometry.segment_blocks);
            // All roots under one lock: a fork that began meanwhile may hold blocks that its source
            // has dropped. The pin is taken last: a task that waits for a lock while it holds a pin
            // could deadlock with a quiesce.
            let catalog = self.volumes.lock();
            mark.catalog(&none_under_way.lasting_pages(&catalog));
            let root = |volume: &Volume| Root {
                family: volume.inner.family,
                tree: volume.inner.lock().tree.clone(),
            };
            let taken: Vec<_> =
                catalog.all().map(|volume| (volume.clone(), root(volume))).collect();
            let shared: HashMap<_, _> =
                catalog.families().iter().map(|(n, f)| (*n, (f.shared_blocks, f.resets))).collect();
            (mark, taken, shared, engine.space.map_blocks(), engine.pins.pin())
        };
        let (mut mark, volumes, shared, maps, pin) = taken;
        let (volumes, roots): (Vec<_>, Vec<_>) = volumes.into_iter().unzip();
        mark.walk(&engine.disk, &roots, pace).await?;
        drop(pin);

        let counted = mark.counted();
        let mut corrected = 0;
        for ((volume, root), own) in volumes.iter().zip(&roots).zip(&counted.own) {
            let mut state = volume.inner.lock();
            if !state.deleted {
                let excess = state.tree.own_excess(&root.tree, *own);
                if excess > 0 {
                    state.tree.correct_own(excess);
                    corrected += excess;
                }
            }
        }
        let mut now = self.volumes.lock();
        for (number, (then, resets)) in shared {
            let is_same = |family: &&Family| family.resets == resets;
            let Some(family) = now.families().get(&number).filter(is_same) else { continue };
            let is = counted.shared.get(&number).copied().unwrap_or(0);
            debug_assert!(
                is <= then,
                "space's I1: family {number:?} shares {is} blocks, of {then}"
            );
            let excess = then.saturating_sub(is).min(family.shared_blocks);
            if excess > 0
                && let Some(family) = now.family_mut(number)
            {
                family.shared_blocks -= excess;
                corrected += excess;
            }
        }
        drop(now);
        engine.space.add(-i128::from(corrected));
        engine.space.recount_maps(maps, counted.maps);
        engine.keep_room_for_checkpoints();
        Ok((mark, corrected))
    }

    /// Writes a checkpoint without the segments that are retired now, waits for operations that may
    /// still read them (quiesce), and frees them. Returns the number of slots; `destinations` were
    /// taken for the copies.
    async fn free_retired(&self, destinations: u32) -> Result<u64> {
        let engine = &self.volumes.engine;
        let segments = &engine.disk.segments;
        self.counters.enter(ReclaimPhase::Checkpointing);
        let (retired, freed) = (segments.retired(), segments.retired_slots());
        if is_blind_to(Blindness::FreeAfterCheckpoint) {
            segments.release(&retired);
        }
        self.checkpointer.write_anew().await?; // keeps I2
        engine.pins.quiesce().await;
        if !is_blind_to(Blindness::FreeAfterCheckpoint) {
            segments.release(&retired);
        }
        let taken = u64::from(destinations) + self.checkpoint_segments_since_last();
        self.freed_rate.freed(u64::from(freed).saturating_sub(taken));
        self.throttle_writers();
        engine.log.room.notify_waiters();
        engine.reclaim.wake_waiters();
        Ok(u64::from(freed))
    }

    /// Punches long dead runs out of the segments that stay.
    async fn punch(
        &self,
        mark: &Mark,
        soon_empty: &HashSet<SegmentId>,
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        let disk = &self.volumes.engine.disk;
        for container in disk.segments.containers() {
            let Some(words) =
                mark.alive(container.id).filter(|_| !soon_empty.contains(&container.id))
            else {
                continue;
            };
            let gaps = bitmap::gaps(words, disk.segments.geometry.segment_blocks, PUNCH_BLOCKS);
            for (offset, len) in disk.segments.punch(container.id, &gaps) {
                if let Err(error) = disk.file.punch(offset, len).await {
                    tracing::debug!(%error, "the file system does not take space back");
                    return Ok(());
                }
                self.counters.punched_bytes.fetch_add(len, Relaxed);
                pace.spend(BLOCK_BYTES as u64).await?;
            }
        }
        Ok(())
    }
}
