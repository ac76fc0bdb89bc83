//! The keeper: the task that checkpoints and reclaims in the background.

use crate::{
    address::BLOCK_BYTES,
    error::Result,
    reclaim::Effort,
    runtime, scrub,
    segments::{Had, Worked},
    slot_pool,
    store::Shared,
};
use futures_util::future::{Either, join3, select};
use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::*},
    time::Duration,
};

/// How often the keeper looks around when nobody calls it.
const TICK: Duration = Duration::from_millis(200);
/// Log bytes after which a checkpoint is due: what replay has to read at most, about.
const LOG_BYTES_DUE: u64 = 1 << 30;
/// Quiet ticks after which what is not checkpointed is.
const QUIET_TICKS: u32 = 25;
/// Free slots that keep their blocks in the file, beside those that the log will soon take again.
const BLOCKS_KEPT: usize = 8;
/// The number of segments taken lately is forgotten at this rate a tick: by a third after about twenty seconds.
const FORGET: f64 = 0.99;

/// What the keeper remembers from tick to tick.
#[derive(Default)]
struct Pace {
    log_bytes: u64,
    checkpoint_log_bytes: u64,
    quiet_ticks: u32,
    /// Number of the next segment when the keeper last looked.
    next_segment: u64,
    /// Segments taken lately, fading.
    taken_lately: f64,
    /// A failure was told already.
    told: bool,
}

/// Runs until the store closes.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let _turn_end = shared.attach_runtime();
    join3(keep_up(&shared), scrub::keep(&shared), slot_pool::keep(&shared)).await;
    shared.kept.notify_one();
}

/// Checkpoints, reclaims and gives slots back as it becomes due.
async fn keep_up(shared: &Shared) {
    let next_segment = shared.engine.disk.segments.next().0;
    let mut pace = Pace { next_segment, ..Pace::default() };
    while !shared.is_closing() {
        let tick = pin!(runtime::sleep(TICK));
        match select(pin!(shared.engine.upkeep.wanted.notified()), tick).await {
            Either::Left(_) | Either::Right(_) => {}
        }
        if shared.is_closing() {
            break;
        }
        match look_around(shared, &mut pace).await {
            Ok(()) => pace.told = false,
            // What was given up for that is no failure.
            Err(_) if shared.is_closing() => break,
            Err(error) if pace.told => tracing::debug!(%error, "upkeep failed again"),
            Err(error) => {
                pace.told = true;
                tracing::error!(%error, "upkeep failed; it is tried again");
            }
        }
    }
}

async fn look_around(shared: &Shared, pace: &mut Pace) -> Result<()> {
    let engine = &shared.engine;
    let upkeep = &engine.upkeep;
    if engine.health.is_stopped() {
        // Nobody waits for what will not come.
        upkeep.checkpointed.notify_waiters();
        upkeep.reclaimed.notify_waiters();
        return Ok(());
    }
    engine.look_below();
    let log_bytes = engine.log.counters.bytes.load(Relaxed);
    let log_bytes_before = std::mem::replace(&mut pace.log_bytes, log_bytes);
    pace.quiet_ticks = if log_bytes > log_bytes_before { 0 } else { pace.quiet_ticks.saturating_add(1) };

    let quiet = pace.quiet_ticks == QUIET_TICKS;
    let segment_bytes = engine.disk.segments.geometry.segment_bytes();
    let garbage = upkeep.garbage_blocks.load(Relaxed) * BLOCK_BYTES as u64;
    let sparse = upkeep.sparse.load(Acquire);
    if upkeep.is_wanted() || sparse || engine.garbage_is_due() || (quiet && garbage >= segment_bytes) {
        pace.checkpoint_log_bytes = log_bytes;
        // A writer takes whatever there is.
        let effort = if upkeep.is_wanted() { Effort::Thorough } else { Effort::Usual };
        shared.reclaim_round(effort).await?;
    } else if log_bytes - pace.checkpoint_log_bytes >= LOG_BYTES_DUE || engine.is_half_dirty() || quiet {
        pace.checkpoint_log_bytes = log_bytes;
        shared.checkpoint().await?;
    }
    let next_segment = engine.disk.segments.next().0;
    let taken = next_segment - std::mem::replace(&mut pace.next_segment, next_segment);
    pace.taken_lately = pace.taken_lately * FORGET + taken as f64;
    // Nobody waits here for a thorough reclaim, which may have terabytes to give back.
    let Ok(_no_other) = upkeep.slots.try_lock() else { return Ok(()) };
    shared.give_back_slots(BLOCKS_KEPT + pace.taken_lately as usize).await;
    Ok(())
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
            let worked = if punched.is_ok() { Worked::Punched } else { Worked::Allocated };
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
