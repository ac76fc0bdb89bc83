//! Snapshots, and what changed since one.

use super::field::Field;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A snapshot. Source: the API contract, field by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Snapshot {
    pub(crate) id: Uuid,
    pub(crate) volume_id: Uuid,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) description: Option<String>,
    pub(crate) size_bytes: u64,
    /// In whole seconds.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// Logical blocks that are mapped, in bytes.
    pub(crate) used_bytes: u64,
    /// What its deletion would give back of data. Left out where that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) exclusive_bytes: Option<u64>,
    /// What an NBD client asks for; the export is read-only.
    pub(crate) export_name: String,
    /// The export as nbd:// and nbd+unix:// addresses.
    pub(crate) uris: Vec<String>,
    /// How many clients read it now.
    pub(crate) attachments: usize,
}

/// A snapshot that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct NewSnapshot {
    /// For people: printable and not blank. Several snapshots may share one.
    #[schema(value_type = String, required = true, min_length = 1, max_length = 128)]
    pub(crate) name: Option<Field<String>>,
    /// For people: printable, in lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 320)]
    pub(crate) description: Option<Field<String>>,
}

/// A page of what changed between two states of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Diff {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Of to.
    pub(crate) size_bytes: u64,
    pub(crate) ranges: Vec<DiffRange>,
    /// Where the next page begins, null at the end.
    #[schema(required = true)]
    pub(crate) next_offset: Option<u64>,
}

/// A range that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct DiffRange {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// What it is in to: data, zeroes with their place reserved, or nothing, which reads as zeroes.
    pub(crate) state: RangeState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RangeState {
    Data,
    Zero,
    Hole,
}
