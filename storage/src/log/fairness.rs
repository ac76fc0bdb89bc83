//! Fairness between volumes that write at the same time.
//!
//! The log acknowledges in order, so a write waits for everything before it (head-of-line
//! blocking): of one volume that writes flat out that would be its whole queue, up to its
//! `buffer_size` or what fits into staging. So while several volumes write, the log takes in no
//! more than keeps the device busy, and a volume with little data in the log goes before one with
//! much.
//!
//! A batch with a write of a volume that has little there goes to the device beside the batches
//! under way, instead of after one of them.
//!
//! A volume that writes alone is not held back.

use super::append::{Log, State};
use crate::base::VolumeNumber;
use std::sync::atomic::Ordering::*;

/// Bytes that all volumes together may have in the log before they are in the store, while several
/// write: two device writes that are large enough to keep a fast disk at its best, and no longer
/// than a lone write can bear to wait for.
const SHARED_BYTES_MAX: u64 = 128 << 10;

/// Bytes that each volume may have there in any case.
const OWN_BYTES: u64 = 32 << 10;

/// A volume counts as writing until so many batches after its last data. The unit is batches, not
/// time, because a busy log sends out thousands a second, and an idle one delays no write.
const SHARED_BATCHES: u64 = 1024;

/// The volume that has much in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heavy {
    volume: VolumeNumber,
    /// It counts as heavy until the log has sent out this many batches.
    until: u64,
}

impl Log {
    /// Notes that data of `volume`, which had `own_bytes` in the log before, got a place in the
    /// open batch.
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

    /// Whether a volume that has `own_bytes` in the log must yield to others.
    pub(crate) fn must_yield(&self, own_bytes: u64) -> bool {
        own_bytes >= OWN_BYTES
            && self.unwritten_bytes.load(Relaxed) >= SHARED_BYTES_MAX
            && self.counters.batches.load(Relaxed) < self.shared_until.load(Relaxed)
    }
}
