//! The admin API over HTTP: volumes' lifecycle and lineage, mounts, reclaim, scrub, probes, statistics and metrics.
//!
//! ```text
//!  request ─► observe (request id, log line, metrics) ─► authorize ─► route ─► handler ─► lifecycle, lineage ─► keeper, registry
//!                                                          401      404, 405     400…        409, 507…
//! ```
//!
//! Every answer that is not a success is an `error::ApiError`, so the envelope is the same on every path.
//! Each group of routes is a file with a `routes()` function; `routes` puts them together, and `openapi.json` describes
//! them (a test holds the two against each other).

mod at_work;
mod body;
mod diff;
mod envelope;
mod error;
mod fields;
mod lifecycle;
mod lineage;
mod metrics;
mod mounting;
mod mounts;
mod observe;
mod probes;
mod reclaim;
mod routes;
mod scrub;
mod snapshot_view;
mod snapshots;
mod state;
mod stats;
mod steps;
mod store_view;
mod volume_view;
mod volumes;
mod walks;

pub(crate) use metrics::Metrics;
pub(crate) use reclaim::Reclaim;
pub(crate) use routes::router;
pub(crate) use state::Admin;

#[cfg(test)]
mod tests;
