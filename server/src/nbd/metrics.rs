//! What the NBD side counts itself, for `/metrics`.

use super::{abort::AbortReason, disconnect::Disconnect, in_flight_pool::InFlightPool};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, sync::Arc};

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    cut_off: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Counter,
}

impl Metrics {
    /// Has them, and what is taken of `pool`, shown.
    pub(super) fn register(&self, pool: Arc<InFlightPool>, exported: &mut Registry) {
        exported.register(
            "sandstone_connections_cut_off",
            "Connections that the server ended, by reason: what was announced did not come, replies were not taken, the \
             protocol was broken",
            self.cut_off.clone(),
        );
        exported.register(
            "sandstone_connections_refused",
            "Clients sent away because there were nbd.connections_max of them",
            self.refused.clone(),
        );
        exported.register_collector(Box::new(InFlightCollector(pool)));
    }

    pub(super) fn count_disconnect(&self, reason: &Disconnect) {
        let reason = match reason {
            Disconnect::Aborted(AbortReason::PayloadStalled) => "payload_stalled",
            Disconnect::Aborted(AbortReason::ReplyStalled) => "reply_stalled",
            Disconnect::Protocol(_) => "protocol",
            Disconnect::Aborted(AbortReason::HungUp)
            | Disconnect::Failed(_)
            | Disconnect::Truncated(_) => {
                return;
            }
            Disconnect::Closed | Disconnect::Soft => return,
        };
        self.cut_off.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn count_refused(&self) {
        self.refused.inc();
    }
}

struct InFlightCollector(Arc<InFlightPool>);

impl fmt::Debug for InFlightCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlightCollector")
    }
}

impl Collector for InFlightCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            ("sandstone_in_flight_bytes", "Bytes taken of nbd.in_flight", self.0.taken_bytes()),
            (
                "sandstone_in_flight_waiting",
                "Connections that wait for room in it",
                self.0.waiting() as u64,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
