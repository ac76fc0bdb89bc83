//! Reclaim and scrub.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The present or last run of reclaim that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Reclaim {
    pub(crate) running: bool,
    /// What the run does now; idle between rounds and when none runs.
    pub(crate) phase: ReclaimPhase,
    /// Rounds that ended during the run. This and the next four count what the store did on its own
    /// meanwhile, too.
    pub(crate) rounds: u64,
    /// Map nodes visited to find out what is alive.
    pub(crate) marked_nodes: u64,
    /// Bytes of segments that became free.
    pub(crate) freed_bytes: u64,
    /// Bytes moved out of sparse segments.
    pub(crate) forwarded_bytes: u64,
    /// Bytes given back to the file system.
    pub(crate) punched_bytes: u64,
    /// Bytes that the store's file takes on its file system now.
    pub(crate) store_allocated_bytes: u64,
    /// Why the last run did not come to its end, in words; null where it did.
    #[schema(required = true)]
    pub(crate) error: Option<String>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ReclaimPhase {
    Idle,
    Marking,
    Forwarding,
    Checkpointing,
    Punching,
}

/// The present or last pass of the scrub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Scrub {
    /// A pass is under way.
    pub(crate) running: bool,
    /// Passes that came to their end since the server started.
    pub(crate) passes: u64,
    /// Volumes and snapshots of the pass.
    pub(crate) volumes: usize,
    /// Of them, those that are done.
    pub(crate) volumes_done: usize,
    /// Bytes of maps and data that were read and compared; what is shared, once.
    pub(crate) checked_bytes: u64,
    /// Bytes of them that are not what was written, or cannot be read.
    pub(crate) corrupt_bytes: u64,
    /// Where: the first hundred ranges.
    pub(crate) corrupt: Vec<CorruptRange>,
    /// The name of `corrupt_bytes` until version 0.2.
    #[schema(deprecated)]
    pub(crate) rotten_bytes: u64,
    /// The name of `corrupt` until version 0.2.
    #[schema(deprecated)]
    pub(crate) rots: Vec<CorruptRange>,
}

/// A range of a volume or snapshot that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CorruptRange {
    /// A volume or snapshot that reads it; others may share it.
    pub(crate) id: Uuid,
    /// First byte that is lost.
    pub(crate) offset: u64,
    /// Bytes that are lost.
    pub(crate) length: u64,
    /// `map`: a node, and with it all below.
    pub(crate) what: CorruptWhat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CorruptWhat {
    Data,
    Map,
}
