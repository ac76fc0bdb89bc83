//! Progress of one kind of work that may hang: how much of it is under way, and when it last made
//! progress.

use sandstone_ring::runtime;
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::*},
    time::Duration,
};

/// Progress of one kind of work: how much of it is under way, and when it last made a step.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    under_way: AtomicU32,
    /// Time of the last step, in microseconds of the runtime's clock.
    moved_us: AtomicU64,
}

/// A piece of that work, under way until this guard is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Progress);

impl Progress {
    /// A piece of the work begins.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        if self.under_way.load(Acquire) == 0 {
            // Before it counts, so that the watchdog does not take the end of the last piece for a
            // step of this one.
            self.step();
        }
        self.under_way.fetch_add(1, AcqRel);
        UnderWay(self)
    }

    /// The work makes a step.
    pub(crate) fn step(&self) {
        self.moved_us.store(runtime::clock().as_micros() as u64, Release);
    }

    pub(crate) fn moved(&self) -> Duration {
        Duration::from_micros(self.moved_us.load(Acquire))
    }

    /// When the work under way last made a step; `None` while none is under way.
    pub(crate) fn waits_since(&self) -> Option<Duration> {
        (self.under_way.load(Acquire) > 0).then(|| self.moved())
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.step();
        self.0.under_way.fetch_sub(1, AcqRel);
    }
}
