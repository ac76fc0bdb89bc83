//! What reclaim is doing and has done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// Counts that, beside the rounds.
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

    /// What was counted so far.
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
