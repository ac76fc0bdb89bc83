//! The reserve: free slots that are kept for the work that makes room again, and how much may live
//! in a store beside it.
//!
//! ```text
//!   slots:  │ usable, for what lives                          │ working room                │
//!   free:   │ data takes these … │ moved blocks too │ records too (trims) │ checkpoints alone │
//! ```
//!
//! I1  A checkpoint finds room: without it nothing comes back. Others leave it as many slots as it
//!     may take, and one at least.
//! I2  Records without data leave it that; moved blocks leave records one more, and data leaves two
//!     checkpoints and two slots for moved blocks, because a checkpoint may take more than it frees
//!     until the mark finds what it has written anew.

use crate::base::{Blindness, is_blind_to};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The purpose of a new segment; each may take more of the reserve than the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// New data; takes nothing of the reserve.
    Data,
    /// Moved blocks, which empty more segments than they take.
    Forward,
    /// Records without data: they make room again, and so must go on when the store is full.
    Record,
    /// A checkpoint, without which no slot becomes free; the other needs leave it one.
    Checkpoint,
}

/// Fewest slots of working room: the open segments of the log, of nodes and of moved blocks, the
/// log's next one, and four of reserve make eight; the other six are for maps and dead blocks.
const WORKING_SLOTS: u32 = 14;
/// A checkpoint has at most a slot of so many kept for it.
const CHECKPOINT_PART: u32 = 16;
/// Maps and catalogs may take a slot of so many before they count as data: a full leaf is a block a
/// MiB (0.4 %), and a checkpoint writes the new one before the old one is free.
pub(crate) const MAPS_PART: u32 = 100;

/// The reserve of a store.
#[derive(Debug)]
pub(super) struct Reserve {
    /// All slots of the store.
    slots: u32,
    /// Slots that a checkpoint takes, at most.
    checkpoint: AtomicU32,
}

impl Reserve {
    /// That of a store with so many slots, whose checkpoints take none yet.
    pub(super) fn new(slots: u32) -> Self {
        Self { slots, checkpoint: AtomicU32::new(0) }
    }

    /// A checkpoint takes so many slots from now on, at most.
    pub(super) fn keep_for_checkpoint(&self, slots: u32) {
        self.checkpoint.store(slots, Relaxed);
    }

    /// Slots that are left to others than these, in a store that can use so many.
    pub(super) fn kept(&self, need: Need, reachable: u32) -> u32 {
        if is_blind_to(Blindness::Reserve) {
            return 0;
        }
        // Where maps and catalog are so many that it may take more, it gets no more.
        let checkpoint = self.checkpoint.load(Relaxed).min(reachable / CHECKPOINT_PART);
        // At least four, so that records can have two: the log leaves the first for the second, and
        // only then can the first be found dead.
        let least = (self.slots / 8).clamp(4, 6).min(self.slots / 2);
        match need {
            // Two more for what reclaim moves, so that it goes on while data waits.
            Need::Data => least.max(2 * checkpoint + 2),
            Need::Forward => 2.max(checkpoint + 1),
            Need::Record => 1.max(checkpoint),
            Need::Checkpoint => 0,
        }
    }

    /// Slots for what lives, of those that the store can use. The others are the working room: the
    /// reserve, open segments, maps, and what is dead among what is alive until reclaim has parted
    /// them. It is 6.7 % of the slots, at least [`WORKING_SLOTS`] of them, and more where maps and
    /// catalog are so many that checkpoints need it; never more than half.
    pub(super) fn usable(&self, reachable: u32) -> u32 {
        let part = u64::from(reachable) * 67 / 1000;
        let least = (part as u32).max(WORKING_SLOTS);
        // A third of it, and six slots, are for checkpoints. Where maps and catalog are so many
        // that they need more, that is not taken from what reclaim works with.
        let beyond = self.kept(Need::Data, reachable).saturating_sub((least / 3).max(6));
        reachable - (least + beyond).min(reachable / 2)
    }
}
