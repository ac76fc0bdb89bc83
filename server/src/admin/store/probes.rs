//! Health, readiness, metrics and the description of the API: for machines that have no token.

use super::capacity::fullness;
use crate::{
    admin::{
        base::{ApiError, Description, OPENAPI, Shared, Success},
        metrics::Exposition,
    },
    api::{Code, Health, HealthStatus, Readiness, ReadinessStatus, ReadinessStore, StoreState},
};
use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, header},
    response::IntoResponse,
};
use sandstone_storage as storage;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
}

/// The process answers
///
/// A latched store does not turn this red: whether a restart is wise is the operator's choice.
#[utoipa::path(get, path = "/healthz", responses(
    (status = 200, description = "It does.", body = Health),
))]
async fn healthz() -> Success<Health> {
    Success::ok(Health { status: HealthStatus::Ok })
}

/// Volumes can be made, read and written
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, description = "They can.", body = Readiness),
    (status = 503, description = "They cannot; the message says why."),
))]
async fn readyz(State(admin): State<Shared>) -> Result<Success<Readiness>, ApiError> {
    let unavailable = |why: String| Err(ApiError::new(Code::Unavailable, why));
    if admin.is_stopping() {
        return unavailable("the server is stopping".to_owned());
    }
    match admin.store.health() {
        storage::Health::Ready => {}
        storage::Health::Starved(why) => {
            return unavailable(format!(
                "the file system below the store is full ({why}): writes wait until it has room"
            ));
        }
        storage::Health::Latched(why) => {
            return unavailable(format!(
                "a write to the store failed, so it takes no more until the server restarts: {why}"
            ));
        }
        storage::Health::Corrupt(why) => {
            return unavailable(format!("the store is damaged and serves reads only: {why}"));
        }
    }
    let hanging = admin.watchdog.look();
    if !hanging.is_empty() {
        let reasons: Vec<_> = hanging.iter().map(ToString::to_string).collect();
        return unavailable(reasons.join("; "));
    }
    let stats = admin.store.stats();
    let state = fullness(&stats);
    // Full is no failure: overwrites, trims, deletions and reads go on. But it is said.
    let status =
        if state == StoreState::Full { ReadinessStatus::Full } else { ReadinessStatus::Ready };
    let (placement, told) = (stats.placement.name().to_owned(), stats.placement.to_string());
    Ok(Success::ok(Readiness { status, store: ReadinessStore { placement, told, state } }))
}

/// Numbers for Prometheus, as OpenMetrics for scrapers that ask for it
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "The numbers.", content(
        (String = "text/plain"), (String = "application/openmetrics-text"),
    )),
))]
async fn metrics(
    State(admin): State<Shared>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    let accept =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::asked_for_by(accept);
    // Off the control threads: with thousands of volumes at work it is a long text, and clients
    // wait there to be let in.
    let text = tokio::task::spawn_blocking(move || admin.metrics.exposition(exposition)).await;
    let text = text.map_err(|_| ApiError::new(Code::Unavailable, "the server is stopping"))?;
    Ok(([(header::CONTENT_TYPE, exposition.content_type())], text))
}

/// This description
#[utoipa::path(get, path = OPENAPI, responses(
    (status = 200, description = "The description.", body = Object),
))]
async fn openapi(Extension(Description(text)): Extension<Description>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}
