//! Whether to look for completions for a while before sleeping.
//!
//! Falling asleep and being woken costs some 20 µs of latency and about as much processor time on a virtual machine
//! (measured: two thirds of a worker's cycles at depth 1 were spent in it). Looking costs processor time alone, for as
//! long as one looks. So a thread looks when its recent waits were short, and sleeps when they were not: a client at
//! depth 1 whose blocks are in memory is answered without sleep, one that waits for the disk is not waited for.

use std::{cell::Cell, time::Duration};

/// Waits that are longer on average are not worth looking. Below a disk's latency (60 µs and up here), above what a
/// client takes to send its next request (10 to 30 µs).
const SHORT: Duration = Duration::from_micros(40);
/// One wait counts as this long at most, so that a busy thread is busy again soon after a pause.
const LONG: Duration = Duration::from_micros(400);

/// Remembers how long the thread waited lately.
#[derive(Debug)]
pub(super) struct Patience {
    /// Longest look; zero: never.
    max: Cell<Duration>,
    /// Moving average over about eight waits.
    average: Cell<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { max: Cell::new(Duration::ZERO), average: Cell::new(LONG) }
    }
}

impl Patience {
    pub(super) fn set_max(&self, max: Duration) {
        self.max.set(max);
    }

    /// How long to look now, if at all.
    pub(super) fn window(&self) -> Option<Duration> {
        let max = self.max.get();
        (!max.is_zero() && self.average.get() < SHORT).then_some(max)
    }

    /// The thread has waited, looking or asleep.
    pub(super) fn waited(&self, wait: Duration) {
        self.average.set((self.average.get() * 7 + wait.min(LONG)) / 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_after_short_waits_and_sleeps_after_long_ones() {
        let patience = Patience::default();
        assert_eq!(patience.window(), None, "not asked for");
        patience.set_max(Duration::from_micros(100));
        assert_eq!(patience.window(), None, "nothing is known yet");
        (0..40).for_each(|_| patience.waited(Duration::from_micros(20)));
        assert_eq!(patience.window(), Some(Duration::from_micros(100)));
        patience.waited(Duration::from_secs(1));
        assert_eq!(patience.window(), None);
        (0..40).for_each(|_| patience.waited(Duration::from_micros(80)));
        assert_eq!(patience.window(), None, "a disk's latency");
    }
}
