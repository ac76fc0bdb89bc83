//! The router: all routes, and what is around every one of them.

use super::{
    base::{Admin, ApiError, Description, Shared},
    mounts,
    observe::observe,
    snapshots, store, volumes,
};
use crate::api::Code;
use axum::{
    Extension, Router,
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
};
use std::sync::Arc;

/// What lies below needs a token, the unknown routes included.
const GUARDED: &str = "/api/";

/// The admin API.
pub(crate) fn router(admin: Arc<Admin>) -> Router {
    let (router, document) = volumes::routes()
        .merge(snapshots::routes())
        .merge(volumes::diff_routes())
        .merge(mounts::routes())
        .merge(store::routes())
        .split_for_parts();
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(Description::new(document)))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), authorize))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), observe))
        .layer(middleware::from_fn(end_refused))
        .with_state(admin)
}

/// Ends the connection after a request with a body was refused, and says so. A body that was not
/// read ends it in any case, and a client that is not told sends its next request into it.
async fn end_refused(request: Request, next: Next) -> Response {
    let has_body = !request.body().is_end_stream();
    let mut response = next.run(request).await;
    if has_body && response.status().is_client_error() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn unknown_route(request: Request) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no route {:?}", request.uri().path()))
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("{} is not a method of {:?}", request.method(), request.uri().path());
    ApiError::bad_request(message).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn authorize(
    State(admin): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !request.uri().path().starts_with(GUARDED) {
        return Ok(next.run(request).await);
    }
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(bearer);
    match given {
        Some(token) if admin.token.matches(token) => Ok(next.run(request).await),
        Some(_) => Err(ApiError::new(Code::Unauthorized, "the token is not this server's")),
        None => Err(ApiError::new(
            Code::Unauthorized,
            "a token is needed: send \"Authorization: Bearer TOKEN\" with the text of the admin.token file in the data \
             directory",
        )),
    }
}

/// The token of `Bearer TOKEN`. Source: RFC 6750 section 2.1; the scheme is matched without case,
/// RFC 9110 section 11.1.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_matched_without_case() {
        for value in ["Bearer t", "bearer t", "BEARER   t", " bEaReR t "] {
            assert_eq!(bearer(value), Some("t"), "{value:?}");
        }
        for value in ["", "t", "Bearer", "Basic t", "Bearert"] {
            assert_eq!(bearer(value), None, "{value:?}");
        }
    }
}
