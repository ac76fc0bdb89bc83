//! The admin API over HTTP: volumes' lifecycle and lineage, mounts, reclaim, scrub, probes,
//! statistics and metrics.
//!
//! ```text
//!  request ─► observe (request id, log line, metrics) ─► authorize ─► route ─► handler
//!                                                          401      404, 405     400…
//!          ─► lifecycle, lineage ─► store, registry
//!                  409, 507…
//! ```
//!
//! Every answer that is not a success is an `error::ApiError`, so the envelope is the same on every
//! path. Each group of routes is a file with a `routes()` function; `router` puts them together.
//! `openapi.json` is generated from them and from the types in `api`, and a test compares it with
//! the answers.

mod base;
mod metrics;
mod mounts;
mod observe;
mod router;
mod snapshots;
mod store;
mod volumes;

pub(crate) use base::{Admin, Reclaim};
pub(crate) use metrics::Metrics;
pub(crate) use router::router;

#[cfg(test)]
mod tests;
