//! The numbers of the HTTP requests, and all numbers as text.

use super::{exposition::Exposition, store::StoreCollector, traffic::TrafficCollector};
use crate::{nbd::Load, registry::Registry};
use axum::http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry as Exported, Unit},
};
use sandstone_storage::Store;
use std::{sync::Arc, time::Duration};

/// Upper bounds of the buckets of request durations, in seconds: a sync of a good disk is at the
/// low end, a deletion that waits for clients at the high end.
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

impl Metrics {
    /// Numbers of that store, those volumes and those workers, beside what other parts of the
    /// server have put into `exported`.
    pub(crate) fn new(
        mut exported: Exported,
        store: Store,
        registry: Arc<Registry>,
        workers: Vec<Arc<Load>>,
    ) -> Metrics {
        let requests = Family::<RequestLabels, Counter>::default();
        let durations =
            Family::<DurationLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(DURATION_BUCKETS)
            });
        exported.register(
            "sandstone_http_requests",
            "Answered requests of the admin API",
            requests.clone(),
        );
        exported.register_with_unit(
            "sandstone_http_request_duration",
            "Time from a request's head to its answer",
            Unit::Seconds,
            durations.clone(),
        );
        exported.register_collector(Box::new(StoreCollector { store }));
        exported.register_collector(Box::new(TrafficCollector { registry, workers }));
        Metrics { exported, requests, durations }
    }

    pub(crate) fn count_request(
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

    pub(crate) fn exposition(&self, exposition: Exposition) -> String {
        let mut openmetrics = String::new();
        text::encode(&mut openmetrics, &self.exported)
            .expect("a String takes all that is written to it");
        exposition.of(openmetrics)
    }
}
