//! Options for opening a store, and the report of it.

use sandstone_ring::{File, Placement};
use std::{path::PathBuf, time::Duration};

/// Options for opening a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store file or block device. A missing file is created.
    pub path: PathBuf,
    /// Size of a new store in bytes. An existing store grows to it, and never shrinks.
    pub size_bytes: u64,
    /// Directory of shared memory for the staging buffer; the store's own directory when there is
    /// no room in it.
    pub staging_dir: PathBuf,
    /// Limit of the block cache, in bytes.
    pub cache_bytes: u64,
    /// Limit of the node cache, in bytes; dirty nodes have a budget of the same size.
    pub metadata_bytes: u64,
    /// Bytes a second that reclaim may read and write while no writer waits for space.
    pub reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for no passes unless asked for, and then without a
    /// limit.
    pub scrub_rate: u64,
}

/// The report of opening a store.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    /// Whether the store was created.
    pub created: bool,
    /// Time from the lock until the store was ready.
    pub duration: Duration,
    /// Number of records that were replayed.
    pub records: u64,
    /// Bytes of log that were replayed.
    pub log_bytes: u64,
    /// Number of these records that were only in the staging buffer.
    pub staged_records: u64,
    /// Number of volumes and snapshots.
    pub volumes: usize,
    /// Whether the last server had closed the store.
    pub clean: bool,
    /// The fate of its staging buffer.
    pub staging: StagingFate,
    /// Whether plain writes survive a crash of the host.
    pub placement: Placement,
    /// Number of this start (the epoch); the first is 1.
    pub epoch: u32,
}

/// The fate of the last server's staging buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagingFate {
    /// The staging buffer was replayed, or there was none: no acknowledged write is missing.
    Kept,
    /// The last server did not close the store, and its staging buffer is lost, as after a crash of
    /// the host: the last writes to volumes with write-back may be missing.
    Lost,
}

/// The parts that a store is opened on, without a path: the seam for simulated disks.
#[derive(Clone)]
pub struct Parts {
    /// The store file, locked where locks exist.
    pub file: File,
    /// Size of a new store in bytes.
    pub size_bytes: u64,
    /// Blocks in a segment of a new store: 64 to 16,384, a multiple of 4.
    pub segment_blocks: u32,
    /// The kernel's boot id, or a stand-in.
    pub boot: [u8; 16],
    /// Limit of the block cache, in bytes.
    pub cache_bytes: u64,
    /// Limit of the node cache, in bytes; dirty nodes have a budget of the same size.
    pub metadata_bytes: u64,
    /// Bytes a second that reclaim may read and write while no writer waits for space.
    pub reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for no passes unless asked for, and then without a
    /// limit.
    pub scrub_rate: u64,
}
