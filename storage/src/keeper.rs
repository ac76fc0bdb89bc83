//! The keeper: the task that checkpoints, reclaims and prepares segments in the background.

use crate::{
    address::BLOCK_BYTES,
    error::Result,
    io::{WriteBuf, aligned},
    reclaim::Bits,
    runtime,
    store::Shared,
};
use futures_util::future::{Either, select};
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
/// Segments kept prepared ahead of the log.
const PREPARED_AHEAD: usize = 2;
/// Prepared slots that are kept; more are given back to the file system.
const PREPARED_KEPT: usize = 16;

/// What the keeper remembers from tick to tick.
#[derive(Default)]
struct Pace {
    log_bytes: u64,
    checkpoint_log_bytes: u64,
    quiet_ticks: u32,
    /// A failure was told already.
    told: bool,
}

/// Runs until the store closes.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let _turn_end = shared.attach_runtime();
    let mut pace = Pace::default();
    while !shared.is_closing() {
        let tick = pin!(runtime::sleep(TICK));
        match select(pin!(shared.engine.upkeep.wanted.notified()), tick).await {
            Either::Left(_) | Either::Right(_) => {}
        }
        if shared.is_closing() {
            break;
        }
        match look_around(&shared, &mut pace).await {
            Ok(()) => pace.told = false,
            Err(error) if pace.told => tracing::debug!(%error, "upkeep failed again"),
            Err(error) => {
                pace.told = true;
                tracing::error!(%error, "upkeep failed; it is tried again");
            }
        }
    }
    shared.kept.notify_one();
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
    let log_bytes = engine.log.counters.bytes.load(Relaxed);
    let streamed = log_bytes - pace.log_bytes;
    pace.quiet_ticks = if streamed > 0 { 0 } else { pace.quiet_ticks.saturating_add(1) };
    pace.log_bytes = log_bytes;

    let quiet = pace.quiet_ticks == QUIET_TICKS;
    let segment_bytes = engine.disk.segments.geometry.segment_bytes();
    let garbage = upkeep.garbage_blocks.load(Relaxed) * BLOCK_BYTES as u64;
    let asked = upkeep.reclaim_wanted.load(Acquire) > upkeep.reclaims.load(Acquire);
    if asked || engine.garbage_is_due() || (quiet && garbage >= segment_bytes) {
        pace.checkpoint_log_bytes = log_bytes;
        let result = shared.reclaim().await;
        upkeep.reclaims.fetch_add(1, AcqRel);
        upkeep.reclaimed.notify_waiters();
        result?;
    } else if log_bytes - pace.checkpoint_log_bytes >= LOG_BYTES_DUE || upkeep.is_half_dirty() || quiet {
        pace.checkpoint_log_bytes = log_bytes;
        shared.checkpoint().await?;
    }
    give_back_surplus(shared).await;
    // A log that fills segments faster than they can be prepared is better off without the second write.
    if log_bytes > 0 && streamed < segment_bytes / 4 {
        prepare(shared).await;
    }
    Ok(())
}

impl Shared {
    /// One round of reclaim: mark, retire, and the checkpoint that frees.
    pub(crate) async fn reclaim(&self) -> Result<()> {
        let engine = &self.engine;
        let segments = &engine.disk.segments;
        let _alone = self.reclaiming.lock().await;
        let mut bits = Bits::new(&segments.candidates(), segments.geometry.segment_blocks);
        engine.upkeep.garbage_blocks.store(0, Relaxed);
        let roots: Vec<_> = self.volumes().iter().map(|v| v.0.lock().tree.clone()).collect();
        let token = engine.readers.enter();
        engine.mark(&roots, &mut bits).await?;
        drop(token);
        drop(roots);
        let dead = bits.dead();
        tracing::debug!(dead = dead.len(), alive_blocks = bits.alive_blocks(), "marked");
        segments.retire(&dead);
        self.checkpoint().await
    }
}

/// Gives prepared slots beyond those that are kept back to the file system.
async fn give_back_surplus(shared: &Shared) {
    let disk = &shared.engine.disk;
    let geometry = disk.segments.geometry;
    while let Some(slot) = disk.segments.take_surplus(PREPARED_KEPT) {
        let punched = disk.file.punch(geometry.offset(slot, 0), geometry.segment_bytes()).await;
        disk.segments.give_back(slot, punched.is_err());
        if let Err(error) = punched {
            tracing::debug!(%error, "the file system does not take space back");
            return;
        }
    }
}

/// Writes free slots once, so that the log's writes into them change no metadata of the file system.
async fn prepare(shared: &Shared) {
    const STEP_BYTES: usize = 1 << 20;
    let disk = &shared.engine.disk;
    let geometry = disk.segments.geometry;
    while let Some(slot) = disk.segments.take_raw(PREPARED_AHEAD) {
        let start = geometry.offset(slot, 0);
        let mut at = 0;
        let mut written = true;
        while at < geometry.segment_bytes() && written {
            let step = STEP_BYTES.min((geometry.segment_bytes() - at) as usize);
            let mut zeroes = aligned(step);
            zeroes.resize(step, 0);
            written = disk.file.write(start + at, WriteBuf::Owned(zeroes)).await.is_ok();
            at += step as u64;
        }
        disk.segments.give_back(slot, written);
        if !written || shared.is_closing() {
            return;
        }
    }
}
