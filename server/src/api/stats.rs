//! What goes on now, in numbers that only grow.

use super::maintenance::ReclaimPhase;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// Counts since the server started: two answers give rates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Stats {
    /// Microseconds by a clock that never goes back, the same one while the server runs.
    pub(crate) at_us: u64,
    /// Upper bounds of the buckets of latencies, in microseconds. Behind them is one more, of
    /// requests that took longer.
    pub(crate) latency_bounds_us: Vec<u64>,
    pub(crate) store: StoreStats,
    /// Volumes and snapshots that have had a connection since the start.
    pub(crate) volumes: Vec<VolumeStats>,
}

/// Of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StoreStats {
    /// Why the store takes no writes; null while it does.
    #[schema(required = true)]
    pub(crate) trouble: Option<String>,
    pub(crate) capacity_bytes: u64,
    pub(crate) free_bytes: u64,
    /// Written to the log.
    pub(crate) log_bytes: u64,
    /// In so many device writes.
    pub(crate) log_batches: u64,
    /// Device syncs.
    pub(crate) syncs: u64,
    /// Flushes and the like that they served.
    pub(crate) sync_requests: u64,
    pub(crate) checkpoints: u64,
    /// Accepted and not in the store yet, of all volumes.
    pub(crate) buffered_bytes: u64,
    /// Blocks that reads found in the cache.
    pub(crate) cache_hits: u64,
    /// Blocks that they had to fetch.
    pub(crate) cache_misses: u64,
    pub(crate) reclaim: ReclaimPhase,
    pub(crate) scrub_running: bool,
}

/// Of a volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct VolumeStats {
    /// Of a volume or snapshot.
    pub(crate) id: Uuid,
    /// Empty where it has none.
    pub(crate) name: String,
    pub(crate) attachments: usize,
    pub(crate) connections: u64,
    pub(crate) requests_in_flight: u64,
    /// Accepted and not in the store yet.
    pub(crate) buffered_bytes: u64,
    /// Blocks that reads found in memory.
    pub(crate) cache_hits: u64,
    /// Blocks that they had to fetch.
    pub(crate) cache_misses: u64,
    /// By the name of the command: read, write, flush, trim, write_zeroes, cache, block_status;
    /// those that clients used.
    pub(crate) commands: BTreeMap<String, CommandStats>,
}

/// Of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CommandStats {
    /// Answered.
    pub(crate) requests: u64,
    /// Of them, with an error.
    pub(crate) errors: u64,
    /// Of those that succeeded.
    pub(crate) bytes: u64,
    /// Requests by latency_bounds_us.
    pub(crate) latencies: Vec<u64>,
}
