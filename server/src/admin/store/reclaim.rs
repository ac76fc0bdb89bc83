//! Reclaim, asked for and watched.

use crate::{
    admin::base::{Shared, Success},
    api::Reclaim,
};
use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};

const RECLAIM: &str = "/api/v1/admin/reclaim";

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(start, progress))
}

/// Give back all space that nothing refers to, now and in the background
///
/// Joins the run that is under way, if there is one. A run ends early when the server stops.
#[utoipa::path(post, path = RECLAIM, operation_id = "startReclaim", responses(
    (status = 202, description = "It runs; this is how far it is.", body = Reclaim),
))]
async fn start(State(admin): State<Shared>) -> Success<Reclaim> {
    admin.reclaim.start(&admin.store, &admin.store_thread);
    Success::accepted(admin.reclaim.progress(&admin.store))
}

/// How far the present reclaim is, or how the last one ended
#[utoipa::path(get, path = RECLAIM, operation_id = "getReclaim", responses(
    (status = 200, description = "The present or last run since the server started; zeroes when \
        there was none.", body = Reclaim),
))]
async fn progress(State(admin): State<Shared>) -> Success<Reclaim> {
    Success::ok(admin.reclaim.progress(&admin.store))
}
