//! What the NBD side counts itself, for `/metrics`.

use super::{ending::Ending, loss::Lost, room::Room};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, sync::Arc};

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    cut_off: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Counter,
}

impl Numbers {
    /// Has them, and what is taken of `room`, shown.
    pub(super) fn register(&self, room: Arc<Room>, exported: &mut Registry) {
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
        exported.register_collector(Box::new(RoomNumbers(room)));
    }

    pub(super) fn count_ending(&self, ending: &Ending) {
        let reason = match ending {
            Ending::Lost(Lost::PayloadStalled) => "payload_stalled",
            Ending::Lost(Lost::ReplyStalled) => "reply_stalled",
            Ending::Broken(_) => "protocol",
            Ending::Lost(Lost::HungUp) | Ending::Failed(_) | Ending::Torn(_) => return,
            Ending::Closed | Ending::Disconnected => return,
        };
        self.cut_off.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn count_refused(&self) {
        self.refused.inc();
    }
}

struct RoomNumbers(Arc<Room>);

impl fmt::Debug for RoomNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomNumbers")
    }
}

impl Collector for RoomNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            ("sandstone_in_flight_bytes", "Bytes taken of nbd.in_flight", self.0.taken_bytes()),
            ("sandstone_in_flight_waiting", "Connections that wait for room in it", self.0.waiting() as u64),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
