//! Mounts and attachments.

use super::{field::Field, tuning::Tuning};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;
use uuid::Uuid;

/// A mount. Source: the API contract, field by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Mount {
    pub(crate) sandboxvolume_id: Uuid,
    pub(crate) sandbox_id: String,
    pub(crate) mount_point: String,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) mounted_at: Timestamp,
    pub(crate) mounted_duration_sec: i64,
    /// A secret: a client that knows it may use the mount.
    pub(crate) mount_session_id: Uuid,
    /// `pending` before the first NBD connection of this start of the server. `stale` when a host
    /// crash lost writes that were acknowledged to it: it takes no connection until the volume is
    /// unmounted and mounted again.
    pub(crate) state: MountState,
    /// What an NBD client asks for: the volume's id, a slash, the session.
    pub(crate) export_name: String,
    /// The export as nbd:// and nbd+unix:// addresses.
    pub(crate) uris: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) connections: usize,
}

/// How far a mount is.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum MountState {
    /// No connection has come yet.
    Pending,
    Mounted,
    /// A host crash took acknowledged writes: it takes no connection, and blocks no other
    /// attachment.
    Stale,
}

/// The mounts of one sandbox, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SandboxMounts {
    pub(crate) mounts: Vec<Mount>,
}

/// A mount, or the connections of one peer, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Attachment {
    pub(crate) sandboxvolume_id: Uuid,
    /// A sandbox, or, under a plain export name, a local process or a peer's address.
    pub(crate) holder: String,
    /// Without the session of a mount.
    pub(crate) export_name: String,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) mounted_at: Timestamp,
    pub(crate) read_only: bool,
    pub(crate) connections: usize,
    pub(crate) state: MountState,
}

/// A mount that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct NewMount {
    #[schema(value_type = Uuid, required = true)]
    pub(crate) sandboxvolume_id: Option<Field<String>>,
    /// Where the sandbox mounts the file system, for the record: absolute, not "/" and without
    /// "..".
    #[schema(value_type = String, required = true)]
    pub(crate) mount_point: Option<Field<String>>,
    /// That of the path, or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) sandbox_id: Option<Field<String>>,
    /// Tuning that is otherwise for this mount than for its volume. What is absent follows the
    /// volume, also when that is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Tuning>)]
    pub(crate) volume_config: Option<Field<Tuning>>,
}

/// A mount that is to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Unmount {
    #[schema(value_type = Uuid, required = true)]
    pub(crate) sandboxvolume_id: Option<Field<String>>,
    #[schema(value_type = Uuid, required = true)]
    pub(crate) mount_session_id: Option<Field<String>>,
}
