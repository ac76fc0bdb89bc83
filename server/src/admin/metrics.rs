//! Numbers for Prometheus: what the admin side counts itself, and what store and registry say when they are asked.

use crate::registry::Registry;
use axum::http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::{Registry as Exported, Unit},
};
use sandstone_storage::{Health, Store};
use std::{fmt, sync::Arc, time::Duration};

/// Upper bounds of the buckets of request durations, in seconds: a sync of a good disk is at the low end, a deletion
/// that waits for clients at the high end.
const DURATION_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    method: &'static str,
    route: String,
}

/// The numbers of the server.
pub(crate) struct Metrics {
    exported: Exported,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
}

/// Which text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// What every scraper reads.
    Prometheus,
    /// Its successor, for those who ask for it.
    OpenMetrics,
}

impl Exposition {
    pub(super) fn asked_for_by(accept: &str) -> Exposition {
        if accept.contains("application/openmetrics-text") {
            Exposition::OpenMetrics
        } else {
            Exposition::Prometheus
        }
    }

    /// Source: the content types of the two formats' specifications.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// Numbers of that store and those volumes, beside what other parts of the server have put into `exported`.
    pub(crate) fn new(mut exported: Exported, store: Store, registry: Arc<Registry>) -> Metrics {
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<DurationLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(DURATION_BUCKETS)
        });
        exported.register("sandstone_http_requests", "Answered requests of the admin API", requests.clone());
        exported.register_with_unit(
            "sandstone_http_request_duration",
            "Time from a request's head to its answer",
            Unit::Seconds,
            durations.clone(),
        );
        exported.register_collector(Box::new(Asked { store, registry }));
        Metrics { exported, requests, durations }
    }

    pub(super) fn count_request(
        &self,
        method: &'static str,
        route: &str,
        status: StatusCode,
        took: Duration,
    ) {
        let labels = RequestLabels { method, route: route.to_owned(), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        let labels = DurationLabels { method, route: route.to_owned() };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn exposition(&self, exposition: Exposition) -> String {
        let mut openmetrics = String::new();
        text::encode(&mut openmetrics, &self.exported).expect("a String takes all that is written to it");
        match exposition {
            Exposition::OpenMetrics => openmetrics,
            Exposition::Prometheus => to_prometheus(&openmetrics),
        }
    }
}

/// The older format names a counter's family like its samples, with `_total`, and knows neither `# UNIT` nor `# EOF`.
/// Source: Prometheus' "Exposition formats" and the OpenMetrics 1.0 specification.
fn to_prometheus(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut prometheus = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT"), ..) | (Some("#"), Some("EOF"), ..) => continue,
            (Some("#"), Some(what), Some(family), Some(rest)) if counters.contains(&family) => {
                prometheus.push_str(&format!("# {what} {family}_total {rest}"));
            }
            _ => prometheus.push_str(line),
        }
        prometheus.push('\n');
    }
    prometheus
}

/// What is asked for at each scrape.
struct Asked {
    store: Store,
    registry: Arc<Registry>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.store.stats();
        let reclaim = self.store.reclaim_progress();
        let scrub = self.store.scrub_progress();
        for (name, help, value) in [
            ("store_capacity", "Bytes that the store can hold", stats.capacity_bytes),
            ("store_free", "Bytes of it that are free", stats.free_bytes),
            (
                "store_file_allocated",
                "Bytes that the store's file takes on its file system",
                stats.file_allocated_bytes,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let name = format!("sandstone_{name}");
            gauge.encode(encoder.encode_descriptor(
                &name,
                help,
                Some(&Unit::Bytes),
                gauge.metric_type(),
            )?)?;
        }
        for (name, help, value) in [
            ("store_log_batches", "Batches written to the log", stats.log_batches),
            ("store_log_bytes", "Bytes written to the log", stats.log_bytes),
            ("store_syncs", "Device syncs", stats.syncs),
            ("store_checkpoints", "Checkpoints", stats.checkpoints),
            ("reclaim_rounds", "Rounds of reclaim", reclaim.rounds),
            ("reclaim_marked_nodes", "Map nodes that reclaim visited", reclaim.marked_nodes),
            ("reclaim_freed_bytes", "Bytes of segments that reclaim made free", reclaim.freed_bytes),
            ("reclaim_forwarded_bytes", "Bytes moved out of sparse segments", reclaim.forwarded_bytes),
            ("reclaim_punched_bytes", "Bytes given back to the file system", reclaim.punched_bytes),
            ("scrub_passes", "Times that all maps and data were read and compared", scrub.passes),
            ("scrub_checked_bytes", "Bytes that the scrub read and compared", scrub.checked_bytes_total),
            ("scrub_rotten_bytes", "Bytes of them that are lost", scrub.rotten_bytes_total),
            ("store_corrupt_blocks", "Blocks that were not what was written there", stats.corrupt_blocks),
            ("cache_hits", "Blocks that reads found in the cache", stats.cache_hits),
            ("cache_misses", "Blocks that reads had to fetch", stats.cache_misses),
        ] {
            let counter = ConstCounter::new(value);
            let name = format!("sandstone_{name}");
            counter.encode(encoder.encode_descriptor(&name, help, None, counter.metric_type())?)?;
        }
        let ready = u64::from(matches!(self.store.health(), Health::Ready));
        for (name, help, value) in [
            ("store_ready", "1 while the store takes writes", ready),
            ("scrub_running", "1 while the scrub reads", u64::from(scrub.running)),
            ("volumes", "Volumes", as_u64(self.registry.volume_count())),
            ("snapshots", "Snapshots", as_u64(self.registry.snapshot_count())),
            ("attachments", "Attachments of all volumes and snapshots", as_u64(self.registry.attachments())),
        ] {
            let gauge = ConstGauge::new(value);
            let name = format!("sandstone_{name}");
            gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_like_their_samples() {
        let openmetrics = "# HELP a_requests All.\n# TYPE a_requests counter\na_requests_total{x=\"# UNIT\"} 1\n\
                           # HELP b_bytes Size.\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n# EOF\n";
        assert_eq!(
            to_prometheus(openmetrics),
            "# HELP a_requests_total All.\n# TYPE a_requests_total counter\na_requests_total{x=\"# UNIT\"} 1\n\
             # HELP b_bytes Size.\n# TYPE b_bytes gauge\nb_bytes 2\n"
        );
    }

    #[test]
    fn only_who_asks_for_openmetrics_gets_it() {
        let prometheus_asks =
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Exposition::asked_for_by(prometheus_asks), Exposition::OpenMetrics);
        for accept in ["", "*/*", "text/plain"] {
            assert_eq!(Exposition::asked_for_by(accept), Exposition::Prometheus);
        }
    }
}
