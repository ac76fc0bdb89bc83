//! What a request can be refused with, and how the store's errors become that.

use crate::api::{Code, Details, Envelope, Failure};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sandstone_storage::Kind;
use std::error::Error as _;

/// The status of a code, unless its error says another.
fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict => StatusCode::CONFLICT,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        Code::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    status: StatusCode,
    failure: Failure,
    /// What only the log is told: causes underneath the message.
    cause: Option<String>,
}

/// What the log line of a request says beside its status, carried there in the response's
/// extensions.
#[derive(Clone)]
pub(crate) struct LoggedError(pub(crate) String);

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> ApiError {
        let failure = Failure { code, message: message.into(), details: None };
        ApiError { status: status(code), failure, cause: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(Code::BadRequest, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> ApiError {
        ApiError::new(Code::Conflict, message)
    }

    pub(crate) fn no_volume(id: &str) -> ApiError {
        ApiError::new(Code::NotFound, format!("there is no volume {id:?}"))
    }

    pub(crate) fn no_snapshot(volume: &str, id: &str) -> ApiError {
        ApiError::new(Code::NotFound, format!("volume {volume:?} has no snapshot {id:?}"))
    }

    /// Statuses without a code of their own (405, 408, 413) are told as `bad_request`, which
    /// clients know.
    pub(crate) fn with_status(mut self, status: StatusCode) -> ApiError {
        self.status = status;
        self
    }

    pub(crate) fn with_details(mut self, details: Details) -> ApiError {
        self.failure.details = Some(Box::new(details));
        self
    }
}

/// The code of each kind of storage error. The wire has its own such match, in NBD's words.
fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::NoSpace => Code::InsufficientStorage,
        Kind::OutOfRange | Kind::Invalid => Code::BadRequest,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::Conflict,
        Kind::Corrupt | Kind::Io => Code::InternalError,
        // The store takes no change until an operator has looked at it and restarted.
        Kind::Latched | Kind::ReadOnly => Code::Unavailable,
    }
}

impl From<sandstone_storage::Error> for ApiError {
    fn from(error: sandstone_storage::Error) -> ApiError {
        let mut api_error = ApiError::new(code_of(error.kind()), error.to_string());
        api_error.cause = error.source().map(ToString::to_string);
        api_error
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError { status, failure, cause } = self;
        let logged = match cause {
            Some(cause) => format!("{}: {cause}", failure.message),
            None => failure.message.clone(),
        };
        let code = failure.code;
        let mut response = (status, Json(Envelope::<()>::failure(failure))).into_response();
        response.extensions_mut().insert(LoggedError(logged));
        if code == Code::Unauthorized {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_storage_error_has_its_status() {
        for (kind, status, code) in [
            (Kind::NoSpace, 507, "insufficient_storage"),
            (Kind::OutOfRange, 400, "bad_request"),
            (Kind::NotFound, 404, "not_found"),
            (Kind::Exists, 409, "conflict"),
            (Kind::Invalid, 400, "bad_request"),
            (Kind::Corrupt, 500, "internal_error"),
            (Kind::Io, 500, "internal_error"),
            (Kind::Latched, 503, "unavailable"),
            (Kind::ReadOnly, 503, "unavailable"),
        ] {
            assert_eq!(super::status(code_of(kind)).as_u16(), status, "{kind:?}");
            assert_eq!(serde_json::to_value(code_of(kind)).unwrap(), code, "{kind:?}");
        }
    }

    #[test]
    fn details_stand_in_the_envelope_only_where_there_are_some() {
        let shown = |error: ApiError| {
            serde_json::to_string(&Envelope::<()>::failure(error.failure)).unwrap()
        };
        assert_eq!(
            shown(ApiError::conflict("no")),
            r#"{"success":false,"error":{"code":"conflict","message":"no"}}"#
        );
        assert!(
            shown(ApiError::conflict("no").with_details(Details::Syntax { line: 1, column: 2 }))
                .contains(r#""details":{"line":1,"column":2}"#)
        );
    }
}
