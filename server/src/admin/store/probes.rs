//! Health, readiness, metrics and the description of the API: for machines that have no token.

use super::capacity::{StoreState, fullness};
use crate::admin::{
    base::{ApiError, Code, Route, Shared, Success},
    metrics::Exposition,
};
use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::IntoResponse,
    routing::get,
};
use sandstone_storage::Health;
use serde_json::{Value, json};

/// The OpenAPI description, kept by hand beside the code.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new("GET", "/healthz", get(healthz)),
        Route::new("GET", "/readyz", get(readyz)),
        Route::new("GET", "/metrics", get(metrics)),
        Route::new("GET", "/openapi.json", get(openapi)),
    ]
}

/// The process answers. A latched store does not turn this red: whether a restart is wise is the operator's choice.
async fn healthz() -> Success<Value> {
    Success::ok(json!({ "status": "ok" }))
}

/// Volumes can be made, read and written.
async fn readyz(State(admin): State<Shared>) -> Result<Success<Value>, ApiError> {
    if admin.is_stopping() {
        return Err(ApiError::new(Code::Unavailable, "the server is stopping"));
    }
    match admin.store.health() {
        Health::Ready => {
            let hanging = admin.watchdog.look();
            if !hanging.is_empty() {
                let reasons: Vec<_> = hanging.iter().map(ToString::to_string).collect();
                return Err(ApiError::new(Code::Unavailable, reasons.join("; ")));
            }
            let stats = admin.store.stats();
            let fullness = fullness(&stats);
            // Full is no failure: overwrites, trims, deletions and reads go on. But it is said.
            let status = if fullness == StoreState::Full { "full" } else { "ready" };
            let placement = stats.placement;
            let store =
                json!({ "placement": placement.name(), "told": placement.to_string(), "state": fullness });
            Ok(Success::ok(json!({ "status": status, "store": store })))
        }
        Health::Starved(why) => Err(ApiError::new(
            Code::Unavailable,
            format!("the file system below the store is full ({why}): writes wait until it has room"),
        )),
        Health::Latched(why) => Err(ApiError::new(
            Code::Unavailable,
            format!("a write to the store failed, so it takes no more until the server restarts: {why}"),
        )),
        Health::Corrupt(why) => Err(ApiError::new(
            Code::Unavailable,
            format!("the store is damaged and serves reads only: {why}"),
        )),
    }
}

async fn metrics(State(admin): State<Shared>, headers: HeaderMap) -> Result<impl IntoResponse, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::asked_for_by(accept);
    // Off the control threads: with thousands of volumes at work it is a long text, and clients wait there to be let in.
    let text = tokio::task::spawn_blocking(move || admin.metrics.exposition(exposition)).await;
    let text = text.map_err(|_| ApiError::new(Code::Unavailable, "the server is stopping"))?;
    Ok(([(header::CONTENT_TYPE, exposition.content_type())], text))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}
