//! Spin policy: whether a thread busy-polls for a while before sleeping.
//!
//! Falling asleep and being woken costs some 25 µs of latency and about as much processor time on a
//! virtual machine (measured: two thirds of a worker's cycles at depth 1 were spent in it).
//! Busy-polling costs only processor time, for as long as it lasts. So a thread busy-polls when its
//! recent waits were short, and sleeps when they were not.
//!
//! Waits for clients and waits for the disk are tracked apart, because at depth 1 they alternate:
//! the next request comes within 10 to 30 µs and is worth polling for, the disk takes 50 µs and
//! more and is not.

use std::{cell::Cell, time::Duration};

/// Average wait above which busy-polling does not pay.
const SHORT: Duration = Duration::from_micros(40);
/// Time that a wake-up adds to a wait that was slept through.
const WAKING: Duration = Duration::from_micros(25);
/// One wait counts as this long at most, so that a busy thread is busy again soon after a pause.
const LONG: Duration = Duration::from_micros(400);

/// The subject of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Requests, or other threads.
    Others,
    /// File operations too.
    Disk,
}

/// How it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Looking,
    Asleep,
}

/// Remembers how long the thread waited lately.
#[derive(Debug)]
pub(super) struct SpinPolicy {
    /// Longest busy-poll; zero for none.
    max: Cell<Duration>,
    /// Moving averages over about eight waits.
    others: Cell<Duration>,
    disk: Cell<Duration>,
}

impl Default for SpinPolicy {
    fn default() -> Self {
        Self { max: Cell::new(Duration::ZERO), others: Cell::new(LONG), disk: Cell::new(LONG) }
    }
}

impl SpinPolicy {
    pub(super) fn set_max(&self, max: Duration) {
        self.max.set(max);
    }

    fn average(&self, what: For) -> &Cell<Duration> {
        match what {
            For::Others => &self.others,
            For::Disk => &self.disk,
        }
    }

    /// How long to busy-poll now, if at all.
    pub(super) fn window(&self, what: For) -> Option<Duration> {
        let max = self.max.get();
        (!max.is_zero() && self.average(what).get() < SHORT).then_some(max)
    }

    /// Notes a wait of the thread.
    pub(super) fn waited(&self, what: For, how: How, wait: Duration) {
        let wait = match how {
            How::Looking => wait,
            How::Asleep => wait.saturating_sub(WAKING),
        };
        let average = self.average(what);
        average.set((average.get() * 7 + wait.min(LONG)) / 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn looks_after_short_waits_and_sleeps_after_long_ones() {
        let policy = SpinPolicy::default();
        assert_eq!(policy.window(For::Others), None, "not asked for");
        policy.set_max(US * 100);
        assert_eq!(policy.window(For::Others), None, "nothing is known yet");
        (0..40).for_each(|_| policy.waited(For::Others, How::Asleep, US * 40));
        assert_eq!(policy.window(For::Others), Some(US * 100));
        policy.waited(For::Others, How::Asleep, Duration::from_secs(1));
        assert_eq!(policy.window(For::Others), None);
    }

    #[test]
    fn waits_for_the_disk_do_not_spoil_those_for_clients() {
        let policy = SpinPolicy::default();
        policy.set_max(US * 100);
        for _ in 0..40 {
            policy.waited(For::Others, How::Looking, US * 10);
            policy.waited(For::Disk, How::Asleep, US * 90);
        }
        assert_eq!((policy.window(For::Others), policy.window(For::Disk)), (Some(US * 100), None));
    }
}
