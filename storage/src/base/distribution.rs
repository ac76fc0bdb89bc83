//! Histograms for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A histogram: counts of values by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Upper bounds of the buckets, inclusive, in the unit of the values; one more bucket has no
    /// bound.
    pub bounds: &'static [u64],
    /// Number of values in each bucket, the unbounded last one included.
    pub counts: Vec<u64>,
    /// Sum of all values, in their unit.
    pub sum: u64,
}

/// The counters behind a [`Distribution`]; any thread may count.
#[derive(Debug)]
pub(crate) struct Counting<const N: usize> {
    bounds: &'static [u64; N],
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Counting<N> {
    pub(crate) fn new(bounds: &'static [u64; N]) -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self { bounds, counts, beyond: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.beyond, |i| &self.counts[i]).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(crate) fn distribution(&self) -> Distribution {
        let counts =
            self.counts.iter().chain([&self.beyond]).map(|count| count.load(Relaxed)).collect();
        Distribution { bounds: self.bounds, counts, sum: self.sum.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_first_bucket_that_holds_it() {
        let counting = Counting::new(&[1, 10]);
        [0, 1, 2, 10, 11, 500].into_iter().for_each(|value| counting.add(value));
        let expected = Distribution { bounds: &[1, 10], counts: vec![2, 2, 2], sum: 524 };
        assert_eq!(counting.distribution(), expected);
    }
}
