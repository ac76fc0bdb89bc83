//! Volumes.

use super::{
    field::{Field, Size},
    mount::Attachment,
    tuning::Tuning,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;
use utoipa::ToSchema;
use uuid::Uuid;

/// A volume. Source: the API contract, field by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Volume {
    pub(crate) id: Uuid,
    /// `default` while there is one token.
    pub(crate) team_id: String,
    /// `admin` while there is one token.
    pub(crate) user_id: String,
    /// Only on a fork: what it was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) source_volume_id: Option<Uuid>,
    /// Only on a fork of a snapshot: that snapshot, of the volume source_volume_id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) source_snapshot_id: Option<Uuid>,
    /// As it was given.
    pub(crate) cache_size: String,
    /// As it was given.
    pub(crate) buffer_size: String,
    /// MiB.
    pub(crate) prefetch: u32,
    pub(crate) writeback: bool,
    /// Only where there is such a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) iops_max: Option<u64>,
    /// Only where there is such a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) bytes_per_second_max: Option<u64>,
    pub(crate) access_mode: AccessMode,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// Last change of the settings; writes to blocks do not count.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) updated_at: Timestamp,
    pub(crate) backend: Backend,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) name: Option<String>,
    pub(crate) size_bytes: u64,
    /// Logical blocks that are mapped, in bytes.
    pub(crate) used_bytes: u64,
    /// What its deletion, with its snapshots, would give back of data. Left out where that cannot
    /// be told: a map cannot be read, or it takes more than 5 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) exclusive_bytes: Option<u64>,
    /// `restoring` while a restore waits for clients to be gone and replaces the content.
    pub(crate) state: VolumeState,
    /// What an NBD client asks for.
    pub(crate) export_name: String,
    /// The export as nbd:// and nbd+unix:// addresses.
    pub(crate) uris: Vec<String>,
    /// How many clients use it now.
    pub(crate) attachments: usize,
    /// Those clients, whether mounted or connected under a plain name.
    pub(crate) mounts: Vec<Attachment>,
}

/// The constant that clients of the later releases insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum Backend {
    #[serde(rename = "s0fs")]
    S0fs,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum VolumeState {
    Ready,
    /// Its clients are cut off and its content is being replaced.
    Restoring,
    /// Of the contract; no volume of this server is in it.
    Failed,
}

/// What a volume is asked to become; all of it or nothing is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = VolumeChange)]
#[serde(default)]
pub(crate) struct VolumeFields {
    /// For people: printable, without "/" and without blanks at the ends, not like a UUID. No two
    /// volumes have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128)]
    pub(crate) name: Option<Field<String>>,
    /// Size of the volume, or its bytes as a number: from 1 to 16T. A volume only grows. Of a fork,
    /// from the source's; the source's unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Size>)]
    pub(crate) size: Option<Field<Size>>,
    /// RWO, ROX or RWX, in any case. RWO unless given, of a fork too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) access_mode: Option<Field<String>>,
    #[serde(flatten)]
    pub(crate) tuning: Tuning,
    /// Most operations a second of all clients of the volume together, flushes apart: from 10 to
    /// 10000000, or 0 for no limit. Of a new volume none unless given, of a fork the source's. A
    /// change takes effect at once, for connected clients too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub(crate) iops_max: Option<Field<u64>>,
    /// Most bytes that they may read and write a second: from 1M to 1T, or 0 for no limit. Of a new
    /// volume none unless given, of a fork the source's. A change takes effect at once, for
    /// connected clients too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Size>)]
    pub(crate) bytes_per_second_max: Option<Field<Size>>,
}

/// A volume, or a fork, that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct NewVolume {
    /// An id of the caller's own choice, a UUID; a new one unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub(crate) id: Option<Field<String>>,
    #[serde(flatten)]
    pub(crate) fields: VolumeFields,
}

/// Who may attach, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum AccessMode {
    /// One attachment at a time may write.
    Rwo,
    /// Read-only for everyone.
    Rox,
    /// Any number may write.
    Rwx,
}

impl AccessMode {
    pub(crate) const ALL: [AccessMode; 3] = [AccessMode::Rwo, AccessMode::Rox, AccessMode::Rwx];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AccessMode::Rwo => "RWO",
            AccessMode::Rox => "ROX",
            AccessMode::Rwx => "RWX",
        }
    }

    /// How many attachments may write at a time.
    pub(crate) fn writers_max(self) -> usize {
        match self {
            AccessMode::Rwo => 1,
            AccessMode::Rox => 0,
            AccessMode::Rwx => usize::MAX,
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not one of the access modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must be RWO, ROX or RWX")]
pub(crate) struct UnknownAccessMode;

/// In any case.
impl FromStr for AccessMode {
    type Err = UnknownAccessMode;

    fn from_str(text: &str) -> Result<AccessMode, UnknownAccessMode> {
        AccessMode::ALL
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or(UnknownAccessMode)
    }
}
