//! Attachments, and the requests of NBD clients: of all exports together, by worker, and by volume
//! or snapshot.
//!
//! Of the volumes and snapshots only those are shown that have had a connection since the start,
//! and of the commands only those that a client has used: a server with ten thousand volumes has a
//! few hundred lines for the active ones.

use super::{
    active_exports::{ActiveExport, active_exports},
    families::{Families, Histogram},
};
use crate::{
    nbd::Load,
    registry::Registry,
    traffic::{LATENCY_BOUNDS_US, Latencies, OperationTally},
};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use std::{fmt, sync::Arc};

/// How many of the counted buckets make one of a volume's histogram: with every second one, each is
/// four times the one before, and a volume's lines are half as many. The histograms of all volumes
/// together have all of them.
const VOLUME_BUCKET_STEP: usize = 2;

/// With more volumes and snapshots than these at work each has one bucket for all below the last
/// bound: a scrape of ten thousand had 71 MB, most of it bounds.
const VOLUMES_IN_DETAIL: usize = 1000;

/// What a metric shows of something.
type Number<T> = fn(&T) -> u64;

pub(super) struct TrafficCollector {
    pub(super) registry: Arc<Registry>,
    pub(super) workers: Vec<Arc<Load>>,
}

impl fmt::Debug for TrafficCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficCollector")
    }
}

impl Collector for TrafficCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        self.encode_all(&mut families)?;
        self.encode_workers(&mut families)?;
        self.encode_exports(&mut families)
    }
}

impl TrafficCollector {
    fn encode_all(&self, families: &mut Families<'_>) -> fmt::Result {
        let registry = &self.registry;
        let total = registry.traffic.total();
        for (name, help, value) in [
            ("volumes", "Volumes", as_u64(registry.volume_count())),
            ("snapshots", "Snapshots", as_u64(registry.snapshot_count())),
            (
                "attachments",
                "Attachments of all volumes and snapshots",
                as_u64(registry.attachments()),
            ),
            ("connections", "Connections of NBD clients", total.connections),
            ("requests_in_flight", "Requests taken in and not answered yet", total.in_flight),
        ] {
            families.gauge(name, help, value)?;
        }
        let mounts = registry.mounts.count_by_state().into_iter();
        let mounts = mounts.map(|(state, count)| ([("state", <&str>::from(state))], as_u64(count)));
        families.gauges("mounts", "Mounts, by state", mounts)?;
        let by_command = |value: Number<OperationTally>| {
            total.used().map(move |(command, tally)| ([("command", command.name())], value(tally)))
        };
        families.counters(
            "requests",
            "Answered requests of NBD clients",
            by_command(|t| t.latencies.count()),
        )?;
        families.counters(
            "request_errors",
            "Those answered with an error",
            by_command(|t| t.errors),
        )?;
        families.counters(
            "request_bytes",
            "Bytes of those that succeeded",
            by_command(|t| t.bytes),
        )?;
        let durations = total.used().map(|(command, tally)| {
            ([("command", command.name())], durations(&tally.latencies, 1))
        });
        families.histograms(
            "request_duration_seconds",
            "Time from a request's arrival until its reply leaves, waits for limits and for room included",
            durations,
        )
    }

    fn encode_workers(&self, families: &mut Families<'_>) -> fmt::Result {
        let gauges: [(&str, &str, Number<Load>); 3] = [
            ("worker_connections", "Connections of a worker", Load::connections),
            (
                "worker_requests_in_flight",
                "Requests that a worker has taken in and whose replies have not been sent yet",
                Load::requests,
            ),
            ("worker_bytes_in_flight", "Bytes of their payloads and replies, at most", Load::bytes),
        ];
        for (name, help, value) in gauges {
            let workers = self.workers.iter().enumerate();
            families.gauges(
                name,
                help,
                workers.map(|(i, load)| ([("worker", i.to_string())], value(load))),
            )?;
        }
        Ok(())
    }

    fn encode_exports(&self, families: &mut Families<'_>) -> fmt::Result {
        let exports: Vec<(String, ActiveExport)> = active_exports(&self.registry)
            .into_iter()
            .map(|export| (export.id.to_string(), export))
            .collect();
        let info =
            exports.iter().map(|(id, e)| ([("volume", id.as_str()), ("name", e.name.as_str())], 1));
        families.gauges(
            "volume_info",
            "A volume or snapshot that has had a connection since the start, and its name",
            info,
        )?;
        let gauges: [(&str, &str, Number<ActiveExport>); 5] = [
            ("volume_attachments", "Attachments", |e| as_u64(e.attachments)),
            ("volume_connections", "Connections of NBD clients", |e| e.tally.connections),
            ("volume_requests_in_flight", "Requests taken in and not answered yet", |e| {
                e.tally.in_flight
            }),
            ("volume_buffered_bytes", "Bytes accepted and not in the store yet", |e| {
                e.stats.buffered_bytes
            }),
            ("volume_cache_bytes", "Bytes of the cache that it has brought in", |e| {
                e.stats.cache_bytes
            }),
        ];
        for (name, help, value) in gauges {
            let items = exports.iter().map(|(id, e)| ([("volume", id.as_str())], value(e)));
            families.gauges(name, help, items)?;
        }
        let counters: [(&str, &str, Number<ActiveExport>); 5] = [
            ("volume_cache_hits", "Blocks that reads found in memory", |e| e.stats.cache_hits),
            ("volume_cache_misses", "Blocks that reads had to fetch", |e| e.stats.cache_misses),
            ("volume_prefetched_bytes", "Bytes read ahead", |e| e.stats.prefetched_bytes),
            ("volume_prefetch_used_bytes", "Those that were then read", |e| {
                e.stats.prefetch_used_bytes
            }),
            ("volume_prefetch_wasted_bytes", "Those thrown out unread", |e| {
                e.stats.prefetch_wasted_bytes
            }),
        ];
        for (name, help, value) in counters {
            let items = exports.iter().map(|(id, e)| ([("volume", id.as_str())], value(e)));
            families.counters(name, help, items)?;
        }
        let counters: [(&str, &str, Number<OperationTally>); 3] = [
            ("volume_requests", "Answered requests", |t| t.latencies.count()),
            ("volume_request_errors", "Those answered with an error", |t| t.errors),
            ("volume_request_bytes", "Bytes of those that succeeded", |t| t.bytes),
        ];
        for (name, help, value) in counters {
            families.counters(
                name,
                help,
                by_command(&exports).map(|(labels, tally)| (labels, value(tally))),
            )?;
        }
        let step = volume_bucket_step(exports.len());
        families.histograms(
            "volume_request_duration_seconds",
            "Time from a request's arrival until its reply leaves, waits for limits and for room included",
            by_command(&exports).map(|(labels, tally)| (labels, durations(&tally.latencies, step))),
        )
    }
}

fn volume_bucket_step(volumes: usize) -> usize {
    if volumes > VOLUMES_IN_DETAIL { LATENCY_BOUNDS_US.len() } else { VOLUME_BUCKET_STEP }
}

/// The used commands of all exports, with their labels.
fn by_command(
    exports: &[(String, ActiveExport)],
) -> impl Iterator<Item = ([(&'static str, &str); 2], &OperationTally)> {
    exports.iter().flat_map(|(id, export)| {
        let labels = |command| [("volume", id.as_str()), ("command", command)];
        export.tally.used().map(move |(command, tally)| (labels(command.name()), tally))
    })
}

/// With `step` of the counted buckets in each. The last one always has what took longer than all
/// bounds.
fn durations(latencies: &Latencies, step: usize) -> Histogram {
    let bounds = LATENCY_BOUNDS_US.map(|us| us as f64 / 1e6);
    let (bounded, rest) = latencies.buckets.split_at(bounds.len());
    let chunks = bounded.chunks(step).zip(bounds.chunks(step));
    let mut buckets: Vec<(f64, u64)> =
        chunks.map(|(counts, bounds)| (bounds[bounds.len() - 1], counts.iter().sum())).collect();
    buckets.push((f64::INFINITY, rest.iter().sum()));
    Histogram { sum: latencies.sum_ns as f64 / 1e9, buckets }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarser_buckets_hold_the_same_requests() {
        let latencies =
            Latencies { buckets: std::array::from_fn(|i| i as u64 + 1), sum_ns: 1_500_000_000 };
        for (step, first, second) in [
            (1, (0.000_008, 1), (0.000_016, 2)),
            (volume_bucket_step(1000), (0.000_016, 3), (0.000_064, 7)),
            (volume_bucket_step(1001), (8.388_608, 231), (f64::INFINITY, 22)),
        ] {
            let histogram = durations(&latencies, step);
            assert_eq!(
                (histogram.buckets[0], histogram.buckets[1], histogram.sum),
                (first, second, 1.5)
            );
            assert_eq!(
                histogram.buckets.iter().map(|(_, count)| count).sum::<u64>(),
                latencies.count()
            );
            assert_eq!(histogram.buckets.last(), Some(&(f64::INFINITY, 22)));
        }
    }
}
