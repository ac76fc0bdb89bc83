//! The store.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the store has room for, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Store {
    /// Of the store.
    pub(crate) size: u64,
    /// What volumes and snapshots may have in it together.
    pub(crate) usable: u64,
    /// What they have, shared blocks once.
    pub(crate) used: u64,
    /// What may still be written that is new. Overwrites need none.
    pub(crate) free: u64,
    /// What nothing refers to and reclaim has not given back yet.
    pub(crate) garbage: u64,
    /// What the log, maps, checkpoints and reclaim need to go on.
    pub(crate) held_back: u64,
    pub(crate) state: StoreState,
    pub(crate) reasons: Vec<String>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum StoreState {
    Ready,
    NearlyFull,
    /// New blocks are refused; overwrites, trims and deletions go on.
    Full,
    ReadOnly,
    Latched,
}
