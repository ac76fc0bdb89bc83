//! Slots for connections: as many as there are descriptors for, with some left for control. A
//! client that finds none is refused, with the reason, instead of taking the descriptors of the
//! admin API.

use prometheus_client::metrics::counter::Counter;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clients that are told the reason at a time; others are closed at once. They take descriptors of
/// control's.
const ANSWERED_MAX: usize = 16;

/// The slots, shared by all who accept.
#[derive(Clone)]
pub(crate) struct ConnectionSlots {
    max: usize,
    free: Arc<Semaphore>,
    answering: Arc<Semaphore>,
    /// There was none for the last client.
    full: Arc<AtomicBool>,
    refused: Counter,
}

impl ConnectionSlots {
    pub(crate) fn new(max: usize) -> ConnectionSlots {
        ConnectionSlots {
            max,
            free: Arc::new(Semaphore::new(max)),
            answering: Arc::new(Semaphore::new(ANSWERED_MAX)),
            full: Arc::default(),
            refused: Counter::default(),
        }
    }

    /// Clients that there was no slot for.
    pub(crate) fn refused(&self) -> Counter {
        self.refused.clone()
    }

    /// A slot, until it is dropped.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.free).try_acquire_owned().ok()?;
        if self.full.swap(false, Relaxed) {
            tracing::info!("there are places for NBD connections again");
        }
        Some(place)
    }

    /// Counts a client that there is no slot for. Gives what to tell it, and the right to, while
    /// few are told.
    pub(super) fn refuse(&self, peer: &str) -> Option<(OwnedSemaphorePermit, String)> {
        self.refused.inc();
        let connections = self.max;
        // Told once, until there is one again.
        if !self.full.swap(true, Relaxed) {
            tracing::warn!(
                peer,
                connections,
                "a client is refused: the limit of open files (ulimit -n, LimitNOFILE) has no room for more connections"
            );
        }
        let why = format!(
            "the server has {connections} connections, and its limit of open files has no room for more: close some, or raise it"
        );
        Some((Arc::clone(&self.answering).try_acquire_owned().ok()?, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_has_ended() {
        let slots = ConnectionSlots::new(2);
        let [first, _second] = [slots.take().unwrap(), slots.take().unwrap()];
        assert!(slots.take().is_none());
        assert!(slots.refuse("one").unwrap().1.contains("2 connections"));
        drop(first);
        assert!(slots.take().is_some());
        assert_eq!(slots.refused().get(), 1);
    }

    #[test]
    fn few_are_told_at_a_time_and_all_are_counted() {
        let slots = ConnectionSlots::new(0);
        let told: Vec<_> = (0..2 * ANSWERED_MAX).filter_map(|_| slots.refuse("one")).collect();
        assert_eq!((told.len(), slots.refused().get()), (ANSWERED_MAX, 2 * ANSWERED_MAX as u64));
    }
}
