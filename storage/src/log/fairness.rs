//! Fairness between volumes that write at the same time.
//!
//! The log acknowledges in order, so a write waits for all that stands before it: of one volume
//! that writes flat out that would be all of its queue, up to its `buffer_size` or what fits into
//! staging. So while several volumes write, the log takes in no more than what keeps the device
//! busy, and one with little in it goes before one with much.
//!
//! And a batch with a write of a volume that has little there goes to the device beside those that
//! are under way, instead of after one of them.
//!
//! A volume that writes alone is not held back.

use super::append::{Log, State};
use crate::base::VolumeNumber;
use std::sync::atomic::Ordering::*;

/// What all volumes together may have in the log before it is in the store, while several write:
/// two device writes that are large enough to keep a fast disk at its best, and no longer than a
/// lone write can bear to wait for.
const SHARED_BYTES_MAX: u64 = 128 << 10;

/// What each volume may have there in any case.
const OWN_BYTES: u64 = 32 << 10;

/// A volume counts as writing until so many batches after its last data. Batches and not time,
/// because a busy log sends out thousands a second, and an idle one delays no write.
const SHARED_BATCHES: u64 = 1024;

/// The volume that has much in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heavy {
    volume: VolumeNumber,
    /// It counts as such until the log has sent out so many batches.
    until: u64,
}

impl Log {
    /// That volume's data, which had so many bytes in the log before, was given a place in the open
    /// batch.
    pub(super) fn note_writer(&self, state: &mut State, volume: VolumeNumber, own_bytes: u64) {
        let batches = self.counters.batches.load(Relaxed);
        let last = state.last_writer.replace(volume);
        if last.is_some_and(|last| last != volume) {
            self.shared_until.store(batches + SHARED_BATCHES, Relaxed);
        }
        if own_bytes >= OWN_BYTES {
            state.heavy = Some(Heavy { volume, until: batches + SHARED_BATCHES });
        } else if let Some(heavy) = state.heavy
            && heavy.volume != volume
            && batches < heavy.until
            && let Some(open) = &mut state.open
        {
            open.goes_beside = true;
        }
    }

    /// Whether a volume that has so many bytes in the log must yield to others.
    pub(crate) fn must_yield(&self, own_bytes: u64) -> bool {
        own_bytes >= OWN_BYTES
            && self.unwritten_bytes.load(Relaxed) >= SHARED_BYTES_MAX
            && self.counters.batches.load(Relaxed) < self.shared_until.load(Relaxed)
    }
}
