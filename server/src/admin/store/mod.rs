//! The store over HTTP: its room, its maintenance, its health and its numbers.

mod capacity;
mod probes;
mod reclaim;
mod routes;
mod scrub;
mod stats;

pub(super) use routes::routes;
