//! The store over HTTP: its room, its maintenance, its health and its numbers.

mod capacity;
mod probes;
mod reclaim;
mod scrub;
mod stats;

#[cfg(test)]
pub(super) use probes::OPENAPI;
pub(super) use stats::STATS;

use super::base::Route;

/// All routes of the room.
pub(super) fn routes() -> Vec<Route> {
    [capacity::routes(), reclaim::routes(), scrub::routes(), stats::routes(), probes::routes()]
        .into_iter()
        .flatten()
        .collect()
}
