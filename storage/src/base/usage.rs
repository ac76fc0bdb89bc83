//! A volume's use of the resources that all volumes share, counted for metrics and for its
//! settings.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counts of one volume, by all handles of it together.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
    pub(crate) cache_bytes: AtomicU64,
    pub(crate) prefetched_bytes: AtomicU64,
    pub(crate) prefetch_used_bytes: AtomicU64,
    pub(crate) prefetch_wasted_bytes: AtomicU64,
    pub(crate) buffered_bytes: AtomicU64,
}

/// Statistics of one volume, for metrics. Shared blocks in the cache count for the volume that
/// brought them in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Blocks that reads found in memory (cache or staging).
    pub cache_hits: u64,
    /// Blocks that reads had to fetch from the store.
    pub cache_misses: u64,
    /// Bytes of memory that blocks brought in by this volume take now, overhead included.
    pub cache_bytes: u64,
    /// Bytes that were read ahead.
    pub prefetched_bytes: u64,
    /// Bytes of them that were then read.
    pub prefetch_used_bytes: u64,
    /// Bytes of them that were evicted unread.
    pub prefetch_wasted_bytes: u64,
    /// Bytes that are accepted and not in the store yet.
    pub buffered_bytes: u64,
}

impl Usage {
    pub(crate) fn stats(&self) -> VolumeStats {
        VolumeStats {
            cache_hits: self.cache_hits.load(Relaxed),
            cache_misses: self.cache_misses.load(Relaxed),
            cache_bytes: self.cache_bytes.load(Relaxed),
            prefetched_bytes: self.prefetched_bytes.load(Relaxed),
            prefetch_used_bytes: self.prefetch_used_bytes.load(Relaxed),
            prefetch_wasted_bytes: self.prefetch_wasted_bytes.load(Relaxed),
            buffered_bytes: self.buffered_bytes.load(Relaxed),
        }
    }
}
