//! The admin API: volumes' lifecycle, probes and metrics over HTTP.
//!
//! ```text
//!  request ─► observe (request id, log line, metrics) ─► authorize ─► route ─► handler ─► lifecycle ─► keeper, registry
//!                                                          401      404, 405     400…        409, 507…
//! ```
//!
//! Every answer that is not a success is an `error::ApiError`, so the envelope is the same on every path.
//! Each group of routes is a file with a `routes()` function; `routes` puts them together, and `openapi.json` describes
//! them (a test holds the two against each other).

mod body;
mod envelope;
mod error;
mod fields;
mod lifecycle;
mod metrics;
mod observe;
mod probes;
mod routes;
mod state;
mod volume_view;
mod volumes;

pub(crate) use metrics::Metrics;
pub(crate) use routes::router;
pub(crate) use state::Admin;

#[cfg(test)]
mod tests;
