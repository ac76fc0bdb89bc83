//! The form of a success: `{"success":true,"data":…}`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// A success with its data.
pub(crate) struct Success<T>(pub(crate) StatusCode, pub(crate) T);

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

#[derive(Serialize)]
struct Envelope<T> {
    success: bool,
    data: T,
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        (self.0, Json(Envelope { success: true, data: self.1 })).into_response()
    }
}
