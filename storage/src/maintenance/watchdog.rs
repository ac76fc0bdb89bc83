//! The watchdog: finds work that makes no progress, and says who waits for what, and for how long.
//!
//! Work that may hang notes in a [`Progress`] that it is under way, and each step. Another thread
//! looks, so a thread that hangs need not report it itself.

use super::{reclaim::ReclaimPhase, tasks::Maintenance};
use crate::base::Health;
use sandstone_ring::runtime;
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Time without a step after which work counts as stalled: 30 seconds. It is longer than a disk
/// takes that retries a bad sector, or a multipath failover.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Work that is under way and makes no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The kind of a stall: which work waits for what.
    pub kind: StallKind,
    /// Time since its last step; [`STALLED_AFTER`] at least.
    pub lasts: Duration,
}

/// The kind of a stall: which work waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallKind {
    /// A batch of the log is not in the store yet.
    LogWrite,
    /// The device has not answered a sync.
    Sync,
    /// A checkpoint makes no progress with its writes, or waits for the log or a sync.
    Checkpoint,
    /// Writers wait for a checkpoint to write dirty nodes, and none makes progress.
    WriterForCheckpoint,
    /// Writers wait for space, and reclaim, which is in this phase, makes no progress.
    WriterForReclaim(ReclaimPhase),
    /// Writers wait for space, and reclaim quiesces: it waits for reads that began before it frees
    /// their slots.
    WriterForReads,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.lasts.as_secs();
        match self.kind {
            StallKind::LogWrite => {
                write!(f, "the log has waited for the device to write a batch for {seconds} s")
            }
            StallKind::Sync => write!(f, "a sync has waited for the device for {seconds} s"),
            StallKind::Checkpoint => {
                write!(f, "a checkpoint has waited for the device or the log for {seconds} s")
            }
            StallKind::WriterForCheckpoint => {
                write!(
                    f,
                    "writers have waited for a checkpoint that makes no progress for {seconds} s"
                )
            }
            StallKind::WriterForReclaim(phase) => {
                let doing = match phase {
                    ReclaimPhase::Idle => "does not begin",
                    ReclaimPhase::Marking => "is finding out what is alive",
                    ReclaimPhase::Forwarding => "is moving blocks",
                    ReclaimPhase::Checkpointing => "is waiting for its checkpoint",
                    ReclaimPhase::Punching => "is giving space back to the file system",
                };
                write!(
                    f,
                    "writers have waited for {seconds} s for reclaim, \
                     which {doing} and makes no progress"
                )
            }
            StallKind::WriterForReads => {
                write!(
                    f,
                    "writers have waited for reclaim, \
                     and reclaim for a read that began before, for {seconds} s"
                )
            }
        }
    }
}

/// When the store last stood still for a reason that [`Health`] reports.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    /// In microseconds of the runtime's clock.
    excused_us: AtomicU64,
}

impl Maintenance {
    /// Work that has made no progress for [`STALLED_AFTER`], causes before effects. Empty while
    /// [`Health`] reports a reason. Any thread may call it.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let (engine, now) = (&*self.volumes.engine, runtime::clock());
        let excused_us = &self.watchdog.excused_us;
        if engine.health.get() != Health::Ready {
            excused_us.store(now.as_micros() as u64, Relaxed);
            return Vec::new();
        }
        let excused = Duration::from_micros(excused_us.load(Relaxed));
        let (checkpoint, reclaim) = (self.checkpointer.progress(), self.reclaimer.work_progress());
        let for_checkpoint = engine
            .dirty
            .waiting()
            .waits_since()
            .map(|at| at.max(checkpoint.moved()).max(reclaim.moved()));
        let phase = self.reclaimer.phase();
        let step = match phase {
            ReclaimPhase::Checkpointing => reclaim.moved().max(checkpoint.moved()),
            _ => reclaim.moved(),
        };
        let (reclaiming, step) = match engine.pins.quiescing.waits_since() {
            // Quiescing begins a little after reclaim's last step. A checkpoint that something else
            // asked for meanwhile is no step of it.
            Some(since) if now.saturating_sub(since) >= STALLED_AFTER / 2 => {
                (StallKind::WriterForReads, since)
            }
            _ => (StallKind::WriterForReclaim(phase), step),
        };
        let for_reclaim = engine.reclaim.waiting().waits_since().map(|at| at.max(step));
        [
            (StallKind::LogWrite, engine.log.unwritten_since()),
            (StallKind::Sync, engine.log.syncing().waits_since()),
            (StallKind::Checkpoint, checkpoint.waits_since()),
            (StallKind::WriterForCheckpoint, for_checkpoint),
            (reclaiming, for_reclaim),
        ]
        .into_iter()
        .filter_map(|(kind, since)| {
            Some(Stall { kind, lasts: now.saturating_sub(since?.max(excused)) })
        })
        .filter(|stall| stall.lasts >= STALLED_AFTER)
        .collect()
    }
}
