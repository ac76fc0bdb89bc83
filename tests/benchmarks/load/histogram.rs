//! Counts of latencies, in buckets that grow with the value.

/// Buckets to a doubling: a bucket is at most 1/64 of its values wide.
const STEPS_BITS: u32 = 6;
const STEPS: u64 = 1 << STEPS_BITS;
/// The bucket of `u64::MAX`, and one.
const BUCKETS: usize = ((64 - STEPS_BITS + 1) * (1 << STEPS_BITS)) as usize;

/// How often each latency was seen. Nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The middle of the bucket that this part of all values does not exceed; 0 without values.
    pub(crate) fn percentile_ns(&self, part: f64) -> u64 {
        let rank = ((self.count() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index as u64);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEPS_BITS;
    (u64::from(shift) * STEPS + (ns >> shift)) as usize
}

fn middle(bucket: u64) -> u64 {
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS) << shift) + (1 << (shift - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_near_all_of_its_values() {
        for bits in 0..64 {
            for ns in [1u64 << bits, (1 << bits) | (1 << bits >> 1), (1 << bits) - 1] {
                let near = middle(bucket(ns) as u64);
                assert!(near.abs_diff(ns) <= ns / STEPS, "{ns} is shown as {near}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_count_values_and_not_buckets() {
        let mut one = Histogram::new();
        let mut other = Histogram::new();
        assert_eq!(one.percentile_ns(0.5), 0);
        (0..99).for_each(|_| one.record(10));
        other.record(1_000_000);
        one.merge(&other);
        assert_eq!(one.count(), 100);
        assert_eq!(one.percentile_ns(0.5), 10);
        assert_eq!(one.percentile_ns(0.99), 10);
        assert!(one.percentile_ns(0.995).abs_diff(1_000_000) <= 1_000_000 / STEPS);
    }
}
