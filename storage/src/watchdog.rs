//! What goes on without getting on: who waits for what, and for how long.
//!
//! Whatever may hang notes that it is under way, and each step that it gets on by. Somebody else looks, on any thread, so that
//! what hangs need not say so itself.

use crate::{engine::Engine, health::Health, reclaim::ReclaimPhase, runtime, store::Store};
use std::{
    fmt,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::*},
    time::Duration,
};

/// After this long without a step what is under way counts as stalled. Longer than a disk takes that tries a bad sector
/// again and again, or a path of two fails over.
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
                write!(f, "writers have waited for a checkpoint that does not get on for {seconds} s")
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

/// One kind of work: how much of it is under way, and when it last got on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    under_way: AtomicU32,
    /// In microseconds of the clock.
    moved_us: AtomicU64,
}

/// Some of that work, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Progress);

impl Progress {
    /// Some of it begins.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        if self.under_way.load(Acquire) == 0 {
            // Before it counts, so that nobody takes the end of the last one for its last step.
            self.step();
        }
        self.under_way.fetch_add(1, AcqRel);
        UnderWay(self)
    }

    /// It gets on.
    pub(crate) fn step(&self) {
        self.moved_us.store(runtime::clock().as_micros() as u64, Release);
    }

    fn moved(&self) -> Duration {
        Duration::from_micros(self.moved_us.load(Acquire))
    }

    /// When that which is under way last got on.
    fn waits_since(&self) -> Option<Duration> {
        (self.under_way.load(Acquire) > 0).then(|| self.moved())
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.step();
        self.0.under_way.fetch_sub(1, AcqRel);
    }
}

/// What is watched, beside the log's own.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    pub(crate) checkpoint: Progress,
    /// A round of reclaim.
    pub(crate) reclaim: Progress,
    /// Writers that wait for it.
    pub(crate) for_reclaim: Progress,
    /// Writers that wait for a checkpoint.
    pub(crate) for_checkpoint: Progress,
    /// When somebody last saw that the store does not go on for a reason that [`Health`] has, in microseconds.
    excused_us: AtomicU64,
}

impl Store {
    /// What is under way and has not got on for [`STALLED_AFTER`], causes before effects. None while [`Store::health`] has a
    /// reason why nothing goes on. May be asked on any thread.
    pub fn stalls(&self) -> Vec<Stall> {
        self.0.engine.stalls(runtime::clock())
    }
}

impl Engine {
    fn stalls(&self, now: Duration) -> Vec<Stall> {
        let watchdog = &self.watchdog;
        if self.health.get() != Health::Ready {
            watchdog.excused_us.store(now.as_micros() as u64, Relaxed);
            return Vec::new();
        }
        let excused = Duration::from_micros(watchdog.excused_us.load(Relaxed));
        let (checkpoint, reclaim) = (&watchdog.checkpoint, &watchdog.reclaim);
        let for_checkpoint =
            watchdog.for_checkpoint.waits_since().map(|at| at.max(checkpoint.moved()).max(reclaim.moved()));
        let phase = self.upkeep.reclaim.progress(0).phase;
        let step = match phase {
            ReclaimPhase::Checkpointing => reclaim.moved().max(checkpoint.moved()),
            _ => reclaim.moved(),
        };
        let for_reclaim = watchdog.for_reclaim.waits_since().map(|at| at.max(step));
        let reclaiming = match self.readers.draining.waits_since() {
            // It begins a little after the last step of reclaim.
            Some(since) if now.saturating_sub(since) >= STALLED_AFTER / 2 => StallKind::WriterForReads,
            _ => StallKind::WriterForReclaim(phase),
        };
        [
            (StallKind::LogWrite, self.log.unwritten_since()),
            (StallKind::Sync, self.log.syncing().waits_since()),
            (StallKind::Checkpoint, checkpoint.waits_since()),
            (StallKind::WriterForCheckpoint, for_checkpoint),
            (reclaiming, for_reclaim),
        ]
        .into_iter()
        .filter_map(|(kind, since)| Some(Stall { kind, lasts: now.saturating_sub(since?.max(excused)) }))
        .filter(|stall| stall.lasts >= STALLED_AFTER)
        .collect()
    }
}
