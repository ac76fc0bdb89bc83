//! How long requests took, as counts in buckets that double.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The first bucket's upper bound, as a power of two of microseconds: below it, the wire is all
/// that is measured.
const FIRST_BOUND_LOG2: u32 = 3;
/// Buckets that have an upper bound: from 8 µs to 8.4 s. The kernel's client gives up at 30 s,
/// others sooner.
const BOUNDED: usize = 21;

/// Upper bounds of the buckets but for the last, which has none, in microseconds.
pub(crate) const LATENCY_BOUNDS_US: [u64; BOUNDED] = {
    let mut bounds = [0; BOUNDED];
    let mut i = 0;
    while i < BOUNDED {
        bounds[i] = 1 << (FIRST_BOUND_LOG2 + i as u32);
        i += 1;
    }
    bounds
};

/// Counts of what is under way.
#[derive(Debug, Default)]
pub(super) struct LatencyCounts {
    buckets: [AtomicU64; BOUNDED + 1],
    sum_ns: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latencies {
    /// Requests by [`LATENCY_BOUNDS_US`], and behind them the slower ones.
    pub(crate) buckets: [u64; BOUNDED + 1],
    /// All of their times together, in nanoseconds.
    pub(crate) sum_ns: u64,
}

/// The bucket of a duration. A bound is part of its bucket, as Prometheus has it.
fn bucket(took_ns: u64) -> usize {
    let above_bound_us = took_ns.div_ceil(1000).saturating_sub(1);
    let doublings = (u64::BITS - above_bound_us.leading_zeros()).saturating_sub(FIRST_BOUND_LOG2);
    BOUNDED.min(doublings as usize)
}

impl LatencyCounts {
    pub(super) fn count(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(took_ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(took_ns, Relaxed);
    }

    pub(super) fn read(&self) -> Latencies {
        let buckets = std::array::from_fn(|i| self.buckets[i].load(Relaxed));
        Latencies { buckets, sum_ns: self.sum_ns.load(Relaxed) }
    }
}

impl Latencies {
    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn add(&mut self, other: &Latencies) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.sum_ns += other.sum_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_the_bucket_below() {
        assert_eq!((LATENCY_BOUNDS_US[0], LATENCY_BOUNDS_US[BOUNDED - 1]), (8, 8 << 20));
        for (took_ns, expected) in [
            (0, 0),
            (8_000, 0),
            (8_001, 1),
            (16_000, 1),
            (16_001, 2),
            ((8 << 20) * 1000, BOUNDED - 1),
            ((8 << 20) * 1000 + 1, BOUNDED),
            (u64::MAX, BOUNDED),
        ] {
            assert_eq!(bucket(took_ns), expected, "{took_ns} ns");
        }
    }

    #[test]
    fn every_request_is_in_one_bucket_and_in_the_sum() {
        let counts = LatencyCounts::default();
        for us in [1, 100, 100, 60_000_000] {
            counts.count(Duration::from_micros(us));
        }
        let read = counts.read();
        assert_eq!((read.count(), read.sum_ns), (4, 60_000_201_000));
        assert_eq!((read.buckets[0], read.buckets[4], read.buckets[BOUNDED]), (1, 2, 1));
    }
}
