//! Numbers for Prometheus: what the admin side counts itself, and what store, registry and workers
//! say when they are asked.
//!
//! ```text
//!   exporter     the HTTP requests, and all of it as text
//!   exposition   the two text formats
//!   families     one metric, one line or many
//!   store        the store: space, log, checkpoints, cache, reclaim, scrub
//!   traffic      requests of NBD clients: all, by worker, by volume
//! ```
//!
//! Labels are bounded: the commands of NBD, the routes of the API, the workers, and of the volumes
//! and snapshots those that have had a connection since the start.

mod active_exports;
mod exporter;
mod exposition;
mod families;
mod store;
mod traffic;

pub(super) use active_exports::{ActiveExport, active_exports};
pub(crate) use exporter::Metrics;
pub(super) use exposition::Exposition;
