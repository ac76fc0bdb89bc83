//! Metrics whose values are looked up at each scrape, as the encoder wants them.

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use sandstone_storage::Distribution;
use std::{fmt, time::Duration};

/// Writes metrics, each under its whole name.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

/// A histogram at one moment.
pub(super) struct Histogram {
    pub(super) sum: f64,
    /// Upper bound and count of each bucket; the last bound is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    fn encode(&self, family: &mut MetricEncoder<'_>) -> fmt::Result {
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        family.encode_histogram::<NoLabelSet>(self.sum, count, &self.buckets, None)
    }
}

impl From<Distribution> for Histogram {
    fn from(distribution: Distribution) -> Histogram {
        let bounds = distribution.bounds.iter().map(|bound| *bound as f64).chain([f64::INFINITY]);
        Histogram {
            sum: distribution.sum as f64,
            buckets: bounds.zip(distribution.counts).collect(),
        }
    }
}

impl<'a> Families<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Families<'a> {
        Families(encoder)
    }

    /// A number that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |family| family.encode_gauge(&value))
    }

    /// A number that only grows; its sample gets `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |family| {
            family.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    /// A number that only grows and is not whole.
    pub(super) fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |family| {
            family.encode_counter::<NoLabelSet, f64, f64>(&value.as_secs_f64(), None)
        })
    }

    /// One histogram.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        histogram: Histogram,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, |family| histogram.encode(family))
    }

    /// A gauge for each item.
    pub(super) fn gauges<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        items: impl Iterator<Item = (S, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |family| {
            for (labels, value) in items {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
            Ok(())
        })
    }

    /// A counter for each item.
    pub(super) fn counters<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        items: impl Iterator<Item = (S, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |family| {
            for (labels, value) in items {
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
            Ok(())
        })
    }

    /// A histogram for each item.
    pub(super) fn histograms<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        items: impl Iterator<Item = (S, Histogram)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, |family| {
            for (labels, histogram) in items {
                histogram.encode(&mut family.encode_family(&labels)?)?;
            }
            Ok(())
        })
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        encode(&mut self.0.encode_descriptor(&format!("sandstone_{name}"), help, None, kind)?)
    }
}
