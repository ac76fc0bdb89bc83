//! The scrub, asked for and watched. It is the store's own, and goes on whoever watches.

use crate::admin::base::{Route, Shared, Success};
use axum::{
    extract::State,
    routing::{get, post},
};
use sandstone_storage::{Rot, RotKind, ScrubProgress};
use serde::Serialize;
use uuid::Uuid;

const SCRUB: &str = "/api/v1/admin/scrub";

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new("POST", SCRUB, post(start)), Route::new("GET", SCRUB, get(progress))]
}

async fn start(State(admin): State<Shared>) -> Success<Progress> {
    admin.store.start_scrub();
    Success::accepted(admin.store.scrub_progress().into())
}

async fn progress(State(admin): State<Shared>) -> Success<Progress> {
    Success::ok(admin.store.scrub_progress().into())
}

/// What a caller is told.
#[derive(Debug, Serialize)]
struct Progress {
    running: bool,
    passes: u64,
    volumes: usize,
    volumes_done: usize,
    checked_bytes: u64,
    rotten_bytes: u64,
    rots: Vec<Place>,
}

/// A place that is lost.
#[derive(Debug, Serialize)]
struct Place {
    /// A volume's or a snapshot's.
    id: Uuid,
    offset: u64,
    length: u64,
    what: &'static str,
}

impl From<ScrubProgress> for Progress {
    fn from(progress: ScrubProgress) -> Progress {
        let ScrubProgress { running, passes, lines, lines_done, checked_bytes, rotten_bytes, rots, .. } =
            progress;
        Progress {
            running,
            passes,
            volumes: lines,
            volumes_done: lines_done,
            checked_bytes,
            rotten_bytes,
            rots: rots.into_iter().map(Place::from).collect(),
        }
    }
}

impl From<Rot> for Place {
    fn from(Rot { line, offset, len, what }: Rot) -> Place {
        let what = match what {
            RotKind::Data => "data",
            RotKind::Map => "map",
        };
        Place { id: line, offset, length: len, what }
    }
}
