//! Reclaim, asked for and watched.

use crate::admin::base::{Progress, Route, Shared, Success};
use axum::{
    extract::State,
    routing::{get, post},
};

const RECLAIM: &str = "/api/v1/admin/reclaim";

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new("POST", RECLAIM, post(start)), Route::new("GET", RECLAIM, get(progress))]
}

async fn start(State(admin): State<Shared>) -> Success<Progress> {
    admin.reclaim.start(&admin.store, &admin.keeper);
    Success::accepted(admin.reclaim.progress(&admin.store))
}

async fn progress(State(admin): State<Shared>) -> Success<Progress> {
    Success::ok(admin.reclaim.progress(&admin.store))
}
