//! What goes on without getting on: who waits for what, and for how long.
//!
//! What may hang notes that it is under way, and each step that it gets on by. Another thread
//! looks, so that what hangs need not say so itself.

use super::{reclaim::ReclaimPhase, tasks::Maintenance};
use crate::base::Health;
use sandstone_ring::runtime;
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// After this long without a step what is under way counts as stalled. Longer than a disk takes
/// that tries a bad sector again and again, or a path of two fails over.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Something that is under way and does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Who waits for what.
    pub kind: StallKind,
    /// Since its last step; [`STALLED_AFTER`] at least.
    pub lasts: Duration,
}

/// Who waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallKind {
    /// A batch of the log is not in the store yet.
    LogWrite,
    /// The device has not answered a sync.
    Sync,
    /// A checkpoint writes nothing more, or waits for the log or a sync.
    Checkpoint,
    /// Writers need what a checkpoint makes durable, and nothing gets on.
    WriterForCheckpoint,
    /// Writers need space, and reclaim, which is in this phase, does not get on.
    WriterForReclaim(ReclaimPhase),
    /// The same, while reclaim waits for reads that began before it frees what they may be reading.
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
                    "writers have waited for a checkpoint that does not get on for {seconds} s"
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
                    "writers have waited for {seconds} s for reclaim, which {doing} and does not get on"
                )
            }
            StallKind::WriterForReads => {
                write!(
                    f,
                    "writers have waited for reclaim, and reclaim for a read that began before, for {seconds} s"
                )
            }
        }
    }
}

/// When the store last did not go on for a reason that [`Health`] has.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    /// In microseconds.
    excused_us: AtomicU64,
}

impl Maintenance {
    /// What is under way and has not got on for [`STALLED_AFTER`], causes before effects. None
    /// while [`Health`] has a reason why nothing goes on. May be asked on any thread.
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
        let for_reclaim = engine.reclaim.waiting().waits_since().map(|at| at.max(step));
        let reclaiming = match engine.pins.quiescing.waits_since() {
            // It begins a little after the last step of reclaim.
            Some(since) if now.saturating_sub(since) >= STALLED_AFTER / 2 => {
                StallKind::WriterForReads
            }
            _ => StallKind::WriterForReclaim(phase),
        };
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
