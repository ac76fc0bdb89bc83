//! What passes between an export and its clients: counted, and for a volume limited.
//!
//! ```text
//!   connection ─► limits: wait ─► meter: taken in ─► storage ─► meter: answered
//!   table: one Traffic an export
//! ```
//!
//! All connections of an export share its `Traffic`, on whatever worker they are. It is made when
//! the first one comes, so ten thousand forks that are never attached cost nothing here.

mod latency;
mod limits;
mod meter;
mod table;

pub(crate) use latency::{LATENCY_BOUNDS_US, Latencies};
pub(crate) use limits::{Cost, Rates};
pub(crate) use meter::{Meter, Operation, OperationTally, Success, Tally};
pub(crate) use table::{Traffic, TrafficTable};
