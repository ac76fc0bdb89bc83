//! Progress of reclaim.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The phase of a round of reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimPhase {
    /// No round is under way.
    Idle,
    /// Walking the maps to find live blocks.
    Marking,
    /// Copying live blocks out of sparse segments.
    Forwarding,
    /// Writing a checkpoint, which makes freed segments reusable.
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

/// Reclaim's phase now, and its totals since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimProgress {
    /// The phase now.
    pub phase: ReclaimPhase,
    /// Number of rounds that ended.
    pub rounds: u64,
    /// Number of map nodes that the mark visited.
    pub marked_nodes: u64,
    /// Bytes of segments that became free.
    pub freed_bytes: u64,
    /// Bytes moved out of sparse segments.
    pub forwarded_bytes: u64,
    /// Bytes given back to the file system.
    pub punched_bytes: u64,
}

/// The counters behind [`ReclaimProgress`], without the rounds.
#[derive(Debug, Default)]
pub(super) struct Counters {
    phase: AtomicU64,
    pub(super) marked_nodes: AtomicU64,
    pub(super) freed_bytes: AtomicU64,
    pub(super) forwarded_bytes: AtomicU64,
    pub(super) punched_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn phase(&self) -> ReclaimPhase {
        PHASES[self.phase.load(Relaxed) as usize]
    }

    pub(super) fn enter(&self, phase: ReclaimPhase) {
        self.phase.store(phase as u64, Relaxed);
    }

    /// The progress so far.
    pub(super) fn progress(&self, rounds: u64) -> ReclaimProgress {
        ReclaimProgress {
            phase: self.phase(),
            rounds,
            marked_nodes: self.marked_nodes.load(Relaxed),
            freed_bytes: self.freed_bytes.load(Relaxed),
            forwarded_bytes: self.forwarded_bytes.load(Relaxed),
            punched_bytes: self.punched_bytes.load(Relaxed),
        }
    }
}
