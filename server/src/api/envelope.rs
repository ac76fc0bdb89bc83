//! What every answer is wrapped in.

use super::mount::Attachment;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use utoipa::ToSchema;
use uuid::Uuid;

/// An answer: `{"success":true,"data":…}`, or `{"success":false,"error":…}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl<T> Envelope<T> {
    /// The envelope of a success.
    pub(crate) fn success(data: T) -> Envelope<T> {
        Envelope { success: true, data: Some(data), error: None }
    }

    /// The envelope of a failure.
    pub(crate) fn failure(error: Failure) -> Envelope<T> {
        Envelope { success: false, data: None, error: Some(error) }
    }

    /// What it holds; `None` where that is neither data nor an error.
    pub(crate) fn into_result(self) -> Option<Result<T, Failure>> {
        if self.success { self.data.map(Ok) } else { self.error.map(Err) }
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// A sentence for people: what is wrong and what is allowed.
    pub(crate) message: String,
    /// The same for programs: field and allowed, line and column, active_mounts, mounts and hint,
    /// or holder and hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub(crate) details: Option<Box<Details>>,
}

/// The kinds of failures that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    Unavailable,
    InternalError,
    InsufficientStorage,
}

/// What a program may want to know of a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Details {
    /// Attachments are in the way.
    InUse { active_mounts: usize, mounts: Vec<Attachment>, hint: String },
    /// The volume takes one writer, and another attachment is that.
    Held { holder: Attachment, hint: String },
    /// The body is not JSON at this place.
    Syntax { line: usize, column: usize },
    /// A field has a value that is not allowed.
    Field { field: String, allowed: String },
    /// A volume only grows.
    Shrinks { field: String, size_bytes: u64 },
    /// Another volume has the name.
    NameTaken { field: String, sandboxvolume_id: Uuid },
    /// Of a server that knows more.
    Other(Map<String, Value>),
}

impl Details {
    /// A field, and what it may be.
    pub(crate) fn field(field: &str, allowed: impl fmt::Display) -> Details {
        Details::Field { field: field.to_owned(), allowed: allowed.to_string() }
    }

    /// The holders of the attachments that are in the way, where that is why the request failed.
    pub(crate) fn holders(&self) -> Option<Vec<String>> {
        let Details::InUse { mounts, .. } = self else { return None };
        Some(mounts.iter().map(|mount| mount.holder.clone()).collect())
    }

    /// What can be done, in HTTP's words.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Details::InUse { hint, .. } | Details::Held { hint, .. } => Some(hint),
            _ => None,
        }
    }
}
