//! Answers that only say that something is so.

use super::store::StoreState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// It does not exist any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Deleted {
    pub(crate) deleted: bool,
}

/// The mount has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Unmounted {
    pub(crate) unmounted: bool,
}

/// The volume is what its snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Restored {
    pub(crate) status: RestoredStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RestoredStatus {
    Restored,
}

/// The process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Health {
    pub(crate) status: HealthStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthStatus {
    Ok,
}

/// Volumes can be made, read and written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Readiness {
    /// `full` is no failure: overwrites, trims, deletions and reads go on.
    pub(crate) status: ReadinessStatus,
    pub(crate) store: ReadinessStore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadinessStatus {
    Ready,
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ReadinessStore {
    /// What an acknowledged write is worth when the host crashes: device, in_place, moving,
    /// buffered or memory. On a device and in a file that is overwritten in place it is there.
    /// Where blocks move or the page cache is between, every write of the log is synced, so it is
    /// there too. In memory nothing is.
    pub(crate) placement: String,
    /// The same in words, with the reason.
    pub(crate) told: String,
    pub(crate) state: StoreState,
}
