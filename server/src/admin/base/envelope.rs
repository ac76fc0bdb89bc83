//! Answers on their way out.

use crate::api::Envelope;
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// A success with its data.
pub(crate) struct Success<T>(StatusCode, T);

impl<T> Success<T> {
    pub(crate) fn ok(data: T) -> Success<T> {
        Success(StatusCode::OK, data)
    }

    pub(crate) fn created(data: T) -> Success<T> {
        Success(StatusCode::CREATED, data)
    }

    /// It was begun; the data says how far it is.
    pub(crate) fn accepted(data: T) -> Success<T> {
        Success(StatusCode::ACCEPTED, data)
    }
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        (self.0, Json(Envelope::success(self.1))).into_response()
    }
}
