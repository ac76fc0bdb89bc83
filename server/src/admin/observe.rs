//! Around every request: its id, its log line, its numbers.

use super::base::{LoggedError, STATS, Shared};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::Response,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Most characters of a request id that a caller may bring.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// What requests to no route count as: a label for each path that was tried would grow without
/// bound.
const NO_ROUTE: &str = "none";

pub(super) async fn observe(State(admin): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let _under_way = admin.under_way.token();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or(NO_ROUTE.to_owned(), |path| path.as_str().to_owned());

    let mut response = next.run(request).await;

    let took = began.elapsed();
    admin.metrics.count_request(method_label(&method), &route, response.status(), took);
    log(&id, &method, &path, &route, &response, took);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

fn log(id: &str, method: &Method, path: &str, route: &str, response: &Response, took: Duration) {
    let status = response.status().as_u16();
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // Probes come every few seconds. A store that is not ready has said so once; they would repeat
    // it for ever.
    if !route.starts_with("/api/") || route == STATS {
        return tracing::debug!(request_id = id, %method, path, status, took_us, "probe");
    }
    match response.extensions().get::<LoggedError>() {
        Some(LoggedError(error)) if response.status().is_server_error() => {
            tracing::error!(request_id = id, %method, path, status, took_us, error, "request");
        }
        Some(LoggedError(error)) => {
            tracing::info!(request_id = id, %method, path, status, took_us, error, "request")
        }
        None => tracing::info!(request_id = id, %method, path, status, took_us, "request"),
    }
}

/// The caller's id where it is sane, else a new one.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    given.filter(|id| is_sane(id)).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Whether an id can stand in a header and a log line without escaping anything.
fn is_sane(id: &str) -> bool {
    (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The method as a label: methods are free text on the wire, labels are few.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_short_ids_are_taken_over() {
        for id in ["a", "A-1_b.c", &"x".repeat(128)] {
            assert!(is_sane(id), "{id}");
        }
        for id in ["", " ", "a b", "a/b", "a\"b", "ä", &"x".repeat(129)] {
            assert!(!is_sane(id), "{id:?}");
        }
    }
}
