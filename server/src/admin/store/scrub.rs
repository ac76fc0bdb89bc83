//! The scrub, asked for and watched. It is the store's own, and goes on when the caller leaves.

use crate::{
    admin::base::{Shared, Success},
    api::{CorruptRange, CorruptWhat, Scrub},
};
use axum::extract::State;
use sandstone_storage::{Rot, RotKind, ScrubProgress};
use utoipa_axum::{router::OpenApiRouter, routes};

const SCRUB: &str = "/api/v1/admin/scrub";

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(start, progress))
}

/// Read all maps and data and compare them with their checksums, in the background
///
/// Joins the pass that is under way, if there is one. It keeps to store.scrub_rate.
#[utoipa::path(post, path = SCRUB, operation_id = "startScrub", responses(
    (status = 202, description = "It runs; this is how far it is.", body = Scrub),
))]
async fn start(State(admin): State<Shared>) -> Success<Scrub> {
    admin.store.start_scrub();
    Success::accepted(view(admin.store.scrub_progress()))
}

/// How far the present pass is, or what the last one found
#[utoipa::path(get, path = SCRUB, operation_id = "getScrub", responses(
    (status = 200, description = "The present or last pass since the server started; zeroes when \
        there was none.", body = Scrub),
))]
async fn progress(State(admin): State<Shared>) -> Success<Scrub> {
    Success::ok(view(admin.store.scrub_progress()))
}

fn view(progress: ScrubProgress) -> Scrub {
    let ScrubProgress { running, passes, lines, lines_done, checked_bytes, rotten_bytes, rots, .. } =
        progress;
    let corrupt: Vec<CorruptRange> = rots.into_iter().map(range).collect();
    Scrub {
        running,
        passes,
        volumes: lines,
        volumes_done: lines_done,
        checked_bytes,
        corrupt_bytes: rotten_bytes,
        rotten_bytes,
        rots: corrupt.clone(),
        corrupt,
    }
}

fn range(Rot { line, offset, len, what }: Rot) -> CorruptRange {
    let what = match what {
        RotKind::Data => CorruptWhat::Data,
        RotKind::Map => CorruptWhat::Map,
    };
    CorruptRange { id: line, offset, length: len, what }
}
