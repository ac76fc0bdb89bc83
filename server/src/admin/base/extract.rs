//! Reading what a request brings along: path, query and body, each refused in the envelope.

use super::{error::ApiError, state::Admin};
use crate::{
    api::Details,
    record::{NAME_CHARS_MAX, is_sandbox_id, parse_id},
    registry::Entry,
};
use axum::{
    body::{self, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};
use utoipa::IntoParams;
use uuid::Uuid;

/// Most bytes of a request's body. Bodies are a handful of fields; 64 KiB is far more.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;

/// Longest time from a request's head to the end of its body, so that a client that stopped sending
/// holds nothing for ever. A guess, not tuned.
const BODY_SECS_MAX: u64 = 30;

/// A body, whole.
pub(crate) struct Body(Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Body, ApiError> {
        let too_large = || {
            ApiError::bad_request(format!("the body has more than {BODY_BYTES_MAX} bytes"))
                .with_status(StatusCode::PAYLOAD_TOO_LARGE)
        };
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if announced
            .and_then(|len| len.parse::<u64>().ok())
            .is_some_and(|len| len > BODY_BYTES_MAX as u64)
        {
            return Err(too_large());
        }
        // One byte more than allowed tells a body that is too large from one that broke off.
        let reading = body::to_bytes(request.into_body(), BODY_BYTES_MAX + 1);
        match tokio::time::timeout(Duration::from_secs(BODY_SECS_MAX), reading).await {
            Ok(Ok(bytes)) if bytes.len() <= BODY_BYTES_MAX => Ok(Body(bytes)),
            Ok(Ok(_)) => Err(too_large()),
            Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
            Ok(Err(error)) => Err(ApiError::bad_request(format!("the body broke off: {error}"))),
            Err(_elapsed) => Err(ApiError::bad_request(format!(
                "the body did not arrive within {BODY_SECS_MAX} s"
            ))
            .with_status(StatusCode::REQUEST_TIMEOUT)),
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error)
        .is_some_and(|source| source.to_string().contains("length limit"))
}

impl Body {
    /// The request, where an empty body is one without fields.
    pub(crate) fn request_or_default<T: DeserializeOwned + Default>(self) -> Result<T, ApiError> {
        if self.0.is_empty() { Ok(T::default()) } else { self.request() }
    }

    /// The request of a body that must be a JSON object. What stands in its fields is checked
    /// later.
    pub(crate) fn request<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        if self.0.is_empty() {
            return Err(ApiError::bad_request(
                "the body is missing: send a JSON object, {} for all defaults",
            ));
        }
        match serde_json::from_slice(&self.0) {
            Ok(object @ Value::Object(_)) => serde_json::from_value(object)
                .map_err(|error| ApiError::bad_request(error.to_string())),
            Ok(other) => Err(ApiError::bad_request(format!(
                "the body must be a JSON object, not {}",
                type_of(&other)
            ))),
            Err(error) => {
                // serde_json's own text ends with the place; it stands in front here and in the
                // details.
                let text = error.to_string();
                let what = text.split(" at line ").next().unwrap_or_default();
                let (line, column) = (error.line(), error.column());
                Err(ApiError::bad_request(format!(
                    "the body is not JSON: line {line}, column {column}: {what}"
                ))
                .with_details(Details::Syntax { line, column }))
            }
        }
    }
}

/// A JSON type in words, with its article.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// `{id}` of a path. What cannot be an id is kept: it is the id of no volume, which each method
/// answers in its way.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct VolumeId {
    #[param(ignore)]
    pub(crate) text: String,
    /// The volume's id.
    #[param(value_type = Uuid)]
    pub(crate) id: Option<Uuid>,
}

impl VolumeId {
    /// What may be the id of a volume.
    pub(crate) fn known(&self) -> Result<Uuid, ApiError> {
        self.id.ok_or_else(|| ApiError::no_volume(&self.text))
    }

    /// The volume.
    pub(crate) fn find(&self, admin: &Admin) -> Result<Arc<Entry>, ApiError> {
        admin.registry.get(self.known()?).ok_or_else(|| ApiError::no_volume(&self.text))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for VolumeId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<VolumeId, ApiError> {
        let text = captured(parts, state, "id").await?;
        Ok(VolumeId { id: parse_id(&text), text })
    }
}

/// `{snapshot_id}` of a path, as [`VolumeId`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SnapshotId {
    #[param(ignore)]
    text: String,
    /// The snapshot's id.
    #[param(value_type = Uuid, rename = "snapshot_id")]
    pub(crate) id: Option<Uuid>,
}

impl SnapshotId {
    /// What may be the id of a snapshot.
    pub(crate) fn known(&self, of: &VolumeId) -> Result<Uuid, ApiError> {
        self.id.ok_or_else(|| ApiError::no_snapshot(&of.text, &self.text))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SnapshotId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<SnapshotId, ApiError> {
        let text = captured(parts, state, "snapshot_id").await?;
        Ok(SnapshotId { id: parse_id(&text), text })
    }
}

/// `{sandbox_id}` of a path: the name of a sandbox, of its owner's choice.
#[derive(IntoParams)]
#[into_params(
    parameter_in = Path,
    names("sandbox_id")
)]
pub(crate) struct SandboxId(
    /// The sandbox's id, 1 to 128 printable characters of its owner's choice.
    pub(crate) String,
);

impl<S: Send + Sync> FromRequestParts<S> for SandboxId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<SandboxId, ApiError> {
        let text = captured(parts, state, "sandbox_id").await?;
        if is_sandbox_id(&text) {
            Ok(SandboxId(text))
        } else {
            let allowed =
                format!("1 to {NAME_CHARS_MAX} printable characters, not all of them blank");
            Err(ApiError::bad_request(format!("the sandbox's id must be {allowed}, not {text:?}"))
                .with_details(Details::field("sandbox_id", allowed)))
        }
    }
}

async fn captured<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<String, ApiError> {
    let Path(mut captured) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    Ok(captured.remove(name).unwrap_or_default())
}

/// The query of what clients may stand in the way of.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is only described; `Force` is what is read")]
pub(crate) struct ForceQuery {
    /// Cut off the clients first that stand in the way.
    #[param(value_type = Option<bool>, default = false)]
    force: Option<bool>,
}

/// Whether clients that stand in the way are disconnected: `?force=true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Force {
    No,
    Yes,
}

impl<S: Send + Sync> FromRequestParts<S> for Force {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Force, ApiError> {
        match query(parts, state).await?.get("force").map(String::as_str) {
            None | Some("false") => Ok(Force::No),
            Some("true") => Ok(Force::Yes),
            Some(other) => {
                Err(ApiError::bad_request(format!("force must be true or false, not {other:?}"))
                    .with_details(Details::field("force", "true or false")))
            }
        }
    }
}

/// The query, by name; of several values the last.
pub(crate) async fn query<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<HashMap<String, String>, ApiError> {
    let Query(query) = Query::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    Ok(query)
}
