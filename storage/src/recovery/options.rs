//! What a store is opened with, and how opening went.

use sandstone_ring::{File, Placement};
use std::{path::PathBuf, time::Duration};

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store file or block device. A file is made when it is not there.
    pub path: PathBuf,
    /// Bytes of a new store. An older one grows to it, and never shrinks.
    pub size_bytes: u64,
    /// Directory of shared memory for the staging buffer; the store's own directory when there is
    /// no room in it.
    pub staging_dir: PathBuf,
    /// Most bytes of data in the cache.
    pub cache_bytes: u64,
    /// Most bytes of maps in the cache, and once more of changed maps.
    pub metadata_bytes: u64,
    /// Bytes a second that reclaim may read and write while nobody waits for it.
    pub reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for none but when somebody asks, and then as many
    /// as there are.
    pub scrub_rate: u64,
}

/// How opening went.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    /// The store was made just now.
    pub created: bool,
    /// From the lock to being ready.
    pub duration: Duration,
    /// Records replayed.
    pub records: u64,
    /// Bytes of log that they came from.
    pub log_bytes: u64,
    /// Of the records, those that were in the staging buffer only.
    pub staged_records: u64,
    /// Volumes and snapshots.
    pub volumes: usize,
    /// The last server had closed it.
    pub clean: bool,
    /// What became of what it had staged.
    pub staging: StagingFate,
    /// What an acknowledged write is worth when the host crashes.
    pub placement: Placement,
    /// Number of this start; the first is 1.
    pub epoch: u32,
}

/// What became of what the last server had staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagingFate {
    /// It was replayed, or there was none: nothing that was acknowledged is missing.
    Kept,
    /// The last server did not close the store, and its staging buffer was gone, as after a crash
    /// of the host: the last writes to volumes with write-back may be.
    Lost,
}

/// What a store is opened on, apart from its path: the seam for simulated disks.
#[derive(Clone)]
pub struct Parts {
    /// The file, locked if that means anything.
    pub file: File,
    /// Bytes of a new store.
    pub size_bytes: u64,
    /// Blocks in a segment of a new store: 64 to 16,384, a multiple of 4.
    pub segment_blocks: u32,
    /// The kernel's boot id, or what stands for it.
    pub boot: [u8; 16],
    /// Most bytes of data in the cache.
    pub cache_bytes: u64,
    /// Most bytes of maps in the cache, and once more of changed maps.
    pub metadata_bytes: u64,
    /// Bytes a second that reclaim may read and write while nobody waits for it.
    pub reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for none but when somebody asks, and then as many
    /// as there are.
    pub scrub_rate: u64,
}
