//! Fairness between volumes that write at the same time.
//!
//! The log acknowledges in order, so whoever writes waits for all that stands before him: of one volume that writes flat
//! out that would be all of its queue, up to its `buffer_size` or what fits into staging. So while several volumes write,
//! the log takes in no more than what keeps the device busy, and one with little in it goes before one with much.
//!
//! A volume that writes alone is not held back: then there is nobody to be fair to.

use super::{Log, State};
use crate::address::VolumeNumber;
use std::sync::atomic::Ordering::*;

/// What all volumes together may have in the log before it is in the store, while several write: the work of half a
/// millisecond for a fast disk, and as much as two device writes of half a batch.
const CROWDED_BYTES_MAX: u64 = 1 << 20;

/// What each volume may have there in any case.
const OWN_BYTES: u64 = 128 << 10;

/// A volume counts as writing until so many batches after its last data. Batches and not time, because a busy log sends
/// out thousands a second, and an idle one keeps nobody waiting.
const CROWD_BATCHES: u64 = 1024;

impl Log {
    /// That volume's data was given a place.
    pub(super) fn note_writer(&self, state: &mut State, volume: VolumeNumber) {
        let last = state.last_writer.replace(volume);
        if last.is_some_and(|last| last != volume) {
            self.crowded_until.store(self.counters.batches.load(Relaxed) + CROWD_BATCHES, Relaxed);
        }
    }

    /// Whether a volume that has so many bytes in the log has to leave room for others.
    pub(crate) fn is_others_turn(&self, own_bytes: u64) -> bool {
        own_bytes >= OWN_BYTES
            && self.unwritten_bytes.load(Relaxed) >= CROWDED_BYTES_MAX
            && self.counters.batches.load(Relaxed) < self.crowded_until.load(Relaxed)
    }
}
