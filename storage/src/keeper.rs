//! The keepers: the tasks that checkpoint, reclaim and get slots ready in the background.
//!
//! Each is a loop of its own, so that a checkpoint, for which writers may wait, never waits for a round of reclaim, for
//! punching, or for slots that are got ready.

use crate::{
    address::BLOCK_BYTES,
    engine::Engine,
    error::Result,
    reclaim::Effort,
    runtime, scrub,
    segments::{Had, Worked},
    slot_pool,
    store::Shared,
};
use futures_util::future::{join5, select};
use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::*},
    time::Duration,
};
use tokio::sync::Notify;

/// How often a keeper looks around when nobody calls it.
const TICK: Duration = Duration::from_millis(200);
/// Log bytes after which a checkpoint is due: what replay has to read at most, about.
const LOG_BYTES_DUE: u64 = 1 << 30;
/// The same as a part of the store: what the log has not left behind cannot come back.
const LOG_PART_DUE: u64 = 16;
/// Quiet ticks after which what is not checkpointed is.
const QUIET_TICKS: u32 = 25;
/// Quiet ticks after which the file system gets back what it can: half a minute.
const IDLE_TICKS: u32 = 150;
/// Bytes of free slots that keep their blocks in the file, beside those that the log will soon take again.
const BLOCKS_KEPT_BYTES: u64 = 512 << 20;
/// The number of segments taken lately is forgotten at this rate a tick: by a third after about twenty seconds.
const FORGET: f64 = 0.99;

/// Runs until the store closes.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let _turn_end = shared.attach_runtime();
    let space = keep_space(&shared);
    let slots = slot_pool::keep(&shared);
    join5(keep_checkpoints(&shared), space, slots, give_back(&shared), scrub::keep(&shared)).await;
    // Nobody waits for what will not come.
    shared.engine.upkeep.checkpointed.notify_waiters();
    shared.engine.upkeep.reclaimed.notify_waiters();
    shared.kept.notify_one();
}

/// What a keeper tells of its failures: each kind once, until it works again.
#[derive(Default)]
struct Told(bool);

impl Told {
    fn tell(&mut self, result: Result<()>, what: &str) {
        match result {
            Ok(()) => self.0 = false,
            Err(error) if self.0 => tracing::debug!(%error, "{what} failed again"),
            Err(error) => {
                self.0 = true;
                tracing::error!(%error, "{what} failed; it is tried again");
            }
        }
    }
}

/// How the log moved since a keeper last looked.
#[derive(Default)]
struct LogPace {
    bytes: u64,
    quiet_ticks: u32,
}

impl LogPace {
    /// Bytes logged since the last look.
    fn look(&mut self, shared: &Shared) -> u64 {
        let bytes = shared.engine.log.counters.bytes.load(Relaxed);
        let logged = bytes - std::mem::replace(&mut self.bytes, bytes);
        self.quiet_ticks = if logged > 0 { 0 } else { self.quiet_ticks.saturating_add(1) };
        logged
    }
}

/// Waits for a tick, or until somebody calls. Whether the store is still open.
async fn tick(shared: &Shared, wanted: &Notify) -> bool {
    let (called, slept) = (pin!(wanted.notified()), pin!(runtime::sleep(TICK)));
    select(pin!(shared.engine.upkeep.closing.begun()), select(called, slept)).await;
    !shared.is_closing()
}

/// Checkpoints as they become due.
async fn keep_checkpoints(shared: &Shared) {
    let engine = &shared.engine;
    let (mut pace, mut checkpoint_bytes, mut told) = (LogPace::default(), 0, Told::default());
    while tick(shared, &engine.upkeep.checkpoint_wanted).await {
        if engine.health.is_stopped() {
            // Nobody waits for what will not come.
            engine.upkeep.checkpointed.notify_waiters();
            continue;
        }
        pace.look(shared);
        let geometry = engine.disk.segments.geometry;
        let due = LOG_BYTES_DUE.min(geometry.store_bytes() / LOG_PART_DUE).max(4 * geometry.segment_bytes());
        let is_due = pace.bytes - checkpoint_bytes >= due;
        if is_due || engine.is_half_dirty() || pace.quiet_ticks == QUIET_TICKS {
            checkpoint_bytes = pace.bytes;
            told.tell(shared.checkpoint().await, "a checkpoint");
        }
    }
}

/// Reclaims as it becomes due.
async fn keep_space(shared: &Shared) {
    let engine = &shared.engine;
    let upkeep = &engine.upkeep;
    let segment_bytes = engine.disk.segments.geometry.segment_bytes();
    let (mut pace, mut told) = (LogPace::default(), Told::default());
    // Garbage that was not given back to the file system yet.
    let mut is_tidy = true;
    while tick(shared, &upkeep.wanted).await {
        if engine.health.is_stopped() {
            upkeep.reclaimed.notify_waiters();
            continue;
        }
        engine.look_below();
        engine.steer();
        pace.look(shared);
        let garbage = upkeep.garbage_blocks.load(Relaxed) * BLOCK_BYTES as u64;
        is_tidy &= garbage < segment_bytes;
        let quiet = pace.quiet_ticks == QUIET_TICKS && garbage >= segment_bytes;
        let barren = upkeep.barren.load(Acquire) && garbage < segment_bytes;
        let done = if upkeep.is_wanted() || (engine.is_short() && !barren) {
            shared.reclaim_round(Effort::Needed).await.map(drop)
        } else if upkeep.sparse.load(Acquire) || engine.garbage_is_due() || quiet {
            shared.reclaim_round(Effort::Usual).await.map(drop)
        } else if pace.quiet_ticks >= IDLE_TICKS && !is_tidy {
            is_tidy = true;
            shared.reclaim_all(Effort::Usual).await
        } else {
            Ok(())
        };
        if !shared.is_closing() {
            // What was given up for that is no failure.
            told.tell(done, "reclaim");
        }
    }
}

/// Gives free slots back to the file system that the log will not soon take.
async fn give_back(shared: &Shared) {
    let engine = &shared.engine;
    let (segments, never) = (&engine.disk.segments, Notify::new());
    let kept = (BLOCKS_KEPT_BYTES / segments.geometry.segment_bytes()).max(8) as usize;
    let (mut next_segment, mut taken_lately) = (segments.next().0, 0.0);
    while tick(shared, &never).await {
        if engine.health.is_stopped() {
            continue;
        }
        let next = segments.next().0;
        let taken = next - std::mem::replace(&mut next_segment, next);
        taken_lately = taken_lately * FORGET + taken as f64;
        // Nobody waits here for a thorough reclaim, which may have terabytes to give back.
        let Ok(_no_other) = engine.upkeep.slots.try_lock() else { continue };
        shared.give_back_slots(kept + taken_lately as usize).await;
    }
}

impl Shared {
    /// Lets the log and the checkpoint leave the segments that they are in, so that reclaim can judge them.
    pub(crate) async fn leave_open_segments(&self) {
        let segments = &self.engine.disk.segments;
        if let Some(id) = self.checkpointer.lock().await.leave_segment() {
            segments.seal(id);
        }
        if let Some(id) = self.engine.log.leave_segment() {
            // It is sealed when its footer is written.
            while segments.is_open(id) && !self.engine.health.is_stopped() {
                runtime::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Gives all free slots back to the file system, those too that are being got ready, until the store is closed.
    pub(crate) async fn settle_slots(&self) {
        let upkeep = &self.engine.upkeep;
        upkeep.settling.store(true, Release);
        let _no_other = upkeep.slots.lock().await;
        upkeep.settling.store(false, Release);
        upkeep.settled_log_bytes.store(self.engine.log.counters.bytes.load(Relaxed), Relaxed);
        self.give_back_slots(0).await;
        self.give_back_claim().await;
    }

    /// Gives the blocks of the slot that the log has claimed back to the file system. Nothing was written there yet.
    async fn give_back_claim(&self) {
        let Engine { disk, log, .. } = &*self.engine;
        let geometry = disk.segments.geometry;
        let Some(slot) = log.lend_claim() else { return };
        let punched = disk.file.punch(geometry.offset(slot, 0), geometry.segment_bytes()).await;
        log.return_claim(punched.is_ok());
        if let Err(error) = punched {
            tracing::debug!(%error, "the file system does not take space back");
        }
    }

    /// Gives free slots beyond those that are kept back to the file system, until the store is closed. `Upkeep::slots` is
    /// held.
    async fn give_back_slots(&self, keep: usize) {
        let disk = &self.engine.disk;
        let geometry = disk.segments.geometry;
        while !self.is_closing()
            && let Some((slot, had)) = disk.segments.take_surplus(keep)
        {
            let punched = disk.file.punch(geometry.offset(slot, 0), geometry.segment_bytes()).await;
            let worked = if punched.is_ok() { Worked::Punched } else { Worked::Partly };
            disk.segments.give_back(slot, worked);
            if let Err(error) = punched {
                tracing::debug!(%error, "the file system does not take space back");
                return;
            }
            match had {
                Had::Blocks => {
                    self.engine.upkeep.reclaim.punched_bytes.fetch_add(geometry.segment_bytes(), Relaxed);
                }
                // Most likely a hole that was there before.
                Had::Unknown => {}
            }
        }
    }
}
