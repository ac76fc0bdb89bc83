//! One kind of work that may hang: how much of it is under way, and when it last got on.

use sandstone_ring::runtime;
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::*},
    time::Duration,
};

/// One kind of work: how much of it is under way, and when it last got on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    under_way: AtomicU32,
    /// In microseconds of the clock.
    moved_us: AtomicU64,
}

/// Some of that work, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Progress);

impl Progress {
    /// Some of it begins.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        if self.under_way.load(Acquire) == 0 {
            // Before it counts, so that nobody takes the end of the last one for its last step.
            self.step();
        }
        self.under_way.fetch_add(1, AcqRel);
        UnderWay(self)
    }

    /// It gets on.
    pub(crate) fn step(&self) {
        self.moved_us.store(runtime::clock().as_micros() as u64, Release);
    }

    pub(crate) fn moved(&self) -> Duration {
        Duration::from_micros(self.moved_us.load(Acquire))
    }

    /// When that which is under way last got on.
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
