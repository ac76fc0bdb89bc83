//! The keeper: the task that checkpoints, reclaims and prepares segments in the background.

use crate::{
    address::BLOCK_BYTES,
    engine::Engine,
    error::Result,
    io::{WriteBuf, aligned},
    log::SYNCED_BYTES,
    reclaim::Effort,
    runtime, scrub,
    segments::{Had, PREPARED_KEPT, Worked},
    store::Shared,
};
use futures_util::future::{Either, join, select};
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
/// Segments kept allocated ahead of the log, beside those that it takes in a tick.
const ALLOCATED_AHEAD: usize = 4;
/// Free slots that keep their blocks in the file, beside those that the log will soon take again.
const BLOCKS_KEPT: usize = 8;
/// Log bytes of a tick from which on it counts as streaming.
const STREAM_BYTES: u64 = 1 << 20;
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
    flushes: u64,
    /// A failure was told already.
    told: bool,
}

/// Runs until the store closes.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let _turn_end = shared.attach_runtime();
    join(keep_up(&shared), scrub::keep(&shared)).await;
    shared.kept.notify_one();
}

/// Checkpoints, reclaims and gets slots ready as it becomes due.
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
    let flushes = engine.log.counters.flushes.load(Relaxed);
    let flushed = flushes - std::mem::replace(&mut pace.flushes, flushes);
    // Nobody waits here for a thorough reclaim, which may have terabytes to give back.
    let Ok(_no_other) = upkeep.slots.try_lock() else { return Ok(()) };
    // What was logged before all slots were given back is no reason to get some ready again. They may just have been.
    let streamed = log_bytes.saturating_sub(log_bytes_before.max(upkeep.settled_log_bytes.load(Relaxed)));
    shared.give_back_slots(BLOCKS_KEPT + pace.taken_lately as usize).await;
    if streamed >= STREAM_BYTES {
        allocate(shared, ALLOCATED_AHEAD + taken as usize).await;
    }
    // Writing a slot twice is worth it where clients wait for syncs; a log that streams is better off without.
    if streamed > 0 && flushed * SYNCED_BYTES >= streamed && streamed < 2 * segment_bytes {
        prepare(shared).await;
    }
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

/// Gives free slots their blocks in the file, so that the log's writes need not look for some.
async fn allocate(shared: &Shared, ahead: usize) {
    let disk = &shared.engine.disk;
    let geometry = disk.segments.geometry;
    while !shared.engine.upkeep.settling.load(Acquire)
        && let Some(slot) = disk.segments.take_to(Worked::Allocated, ahead)
    {
        let allocated = disk.file.allocate(geometry.offset(slot, 0), geometry.segment_bytes()).await;
        let worked = if allocated.is_ok() { Worked::Allocated } else { Worked::Punched };
        disk.segments.give_back(slot, worked);
        if allocated.is_err() {
            // Not offered, or no room: the log's own write will tell.
            return;
        }
    }
}

/// Writes free slots once, so that the log's writes into them change no metadata of the file system.
async fn prepare(shared: &Shared) {
    // Each step changes metadata, for which the next sync waits: few and large ones make few syncs wait. With pauses, because
    // somebody waits for a sync meanwhile: about 150 MiB a second.
    const STEP_BYTES: usize = 2 << 20;
    const PAUSE: Duration = Duration::from_millis(12);
    let disk = &shared.engine.disk;
    let geometry = disk.segments.geometry;
    let mut has_one = disk.segments.has_prepared();
    while let Some(slot) = disk.segments.take_to(Worked::Written, PREPARED_KEPT) {
        let start = geometry.offset(slot, 0);
        let mut at = 0;
        let mut written = true;
        while at < geometry.segment_bytes() && written {
            if shared.engine.upkeep.settling.load(Acquire) {
                disk.segments.give_back(slot, Worked::Allocated);
                return;
            }
            let step = STEP_BYTES.min((geometry.segment_bytes() - at) as usize);
            let mut zeroes = aligned(step);
            zeroes.resize(step, 0);
            written = disk.file.write(start + at, WriteBuf::Owned(zeroes)).await.is_ok();
            at += step as u64;
            if written {
                shared.engine.upkeep.prepared_bytes.fetch_add(step as u64, Relaxed);
            }
            if has_one {
                // Without any the log is where each sync is slow, until this is done.
                runtime::sleep(PAUSE).await;
            }
        }
        disk.segments.give_back(slot, if written { Worked::Written } else { Worked::Punched });
        has_one = true;
        if !written || shared.is_closing() {
            return;
        }
    }
}
