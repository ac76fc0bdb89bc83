//! The scrub, asked for and watched. It is the store's own, and goes on when the caller leaves.

use crate::{
    admin::base::{Shared, Success},
    api::{CorruptRange, CorruptWhat, Scrub},
};
use axum::extract::State;
use sandstone_storage::{CorruptKind, Corruption, ScrubProgress};
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
    let ScrubProgress { running, passes, checked_bytes, corrupt_bytes, .. } = progress;
    let corrupt: Vec<CorruptRange> = progress.corruptions.into_iter().map(range).collect();
    Scrub {
        running,
        passes,
        volumes: progress.entries,
        volumes_done: progress.entries_done,
        checked_bytes,
        corrupt_bytes,
        rotten_bytes: corrupt_bytes,
        rots: corrupt.clone(),
        corrupt,
    }
}

fn range(Corruption { entry, offset, len, what }: Corruption) -> CorruptRange {
    let what = match what {
        CorruptKind::Data => CorruptWhat::Data,
        CorruptKind::Map => CorruptWhat::Map,
    };
    CorruptRange { id: entry, offset, length: len, what }
}
