//! Statistics of a store, for metrics.

use super::open::Store;
use crate::base::{BLOCK_BYTES, Distribution};
use sandstone_ring::Placement;
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

/// Statistics of a store, for metrics.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// Bytes of all segments.
    pub capacity_bytes: u64,
    /// Bytes of data that may live in the store: `capacity_bytes` without the working room of the
    /// log, maps, checkpoints and reclaim, and without segments that the file system below cannot
    /// back.
    pub usable_bytes: u64,
    /// Bytes of live data of all volumes and snapshots, shared blocks counted once. An upper bound:
    /// a mark counts exactly.
    pub used_bytes: u64,
    /// Bytes of new data that writers may still store.
    pub free_bytes: u64,
    /// Approximate bytes of garbage in used segments, which reclaim frees.
    pub garbage_bytes: u64,
    /// Bytes of free segments, as far as the file system below can back them.
    pub free_segment_bytes: u64,
    /// Bytes that the store file takes on its file system.
    pub file_allocated_bytes: u64,
    /// Records logged since the start.
    pub log_records: u64,
    /// Device writes of the log since the start.
    pub log_batches: u64,
    /// Bytes of these writes, headers included.
    pub log_bytes: u64,
    /// Sizes of these writes, in bytes.
    pub batch_bytes: Distribution,
    /// Bytes in staging that are not in the store yet, of all volumes.
    pub buffered_bytes: u64,
    /// Device syncs since the start.
    pub syncs: u64,
    /// Requests (flushes, FUA writes, changes of the catalog) that these syncs served.
    pub sync_requests: u64,
    /// Requests that shared each sync.
    pub sync_sharing: Distribution,
    /// Checkpoints since the start.
    pub checkpoints: u64,
    /// Time that they took, all together.
    pub checkpoint_time: Duration,
    /// Bytes of maps and catalogs that they wrote.
    pub checkpoint_bytes: u64,
    /// Number of the log's device writes that were written through, because no slot was ready for
    /// them.
    pub written_through: u64,
    /// Bytes of free slots that are prepared. 0 where preparation makes no difference, as on a
    /// block device.
    pub ready_bytes: u64,
    /// Whether plain writes survive a crash of the host, and if not, why the log is always written
    /// through.
    pub placement: Placement,
    /// Bytes of zeroes written since the start to prepare slots.
    pub prepared_bytes: u64,
    /// Leaves (MiB of volumes) that the defragmenter put in order since the start.
    pub defragmented_leaves: u64,
    /// Bytes that it logged again for that.
    pub defragmented_bytes: u64,
    /// Rounds of reclaim since the start.
    pub reclaims: u64,
    /// Look-ups of data blocks that the cache answered.
    pub cache_hits: u64,
    /// Look-ups of data blocks that went to the disk.
    pub cache_misses: u64,
    /// Bytes of data in the cache.
    pub cache_bytes: u64,
    /// Bytes of maps in the cache.
    pub metadata_bytes: u64,
    /// Blocks and nodes that differed from what was written, since the start.
    pub corrupt_blocks: u64,
    /// Number of this start (the epoch).
    pub epoch: u32,
}

impl Store {
    /// Statistics of a store, for metrics.
    pub fn stats(&self) -> StoreStats {
        let (engine, maintenance) = (&self.0.volumes.engine, &self.0.maintenance);
        let checkpoints = maintenance.checkpointer.stats();
        let (segments, counters) = (&engine.disk.segments, &engine.log.counters);
        let cache = engine.disk.usage.stats();
        let geometry = segments.geometry;
        StoreStats {
            capacity_bytes: u64::from(geometry.slots) * geometry.segment_bytes(),
            usable_bytes: engine.space.usable_blocks() * BLOCK_BYTES as u64,
            used_bytes: engine.space.live_blocks() * BLOCK_BYTES as u64,
            free_bytes: engine.space.free_blocks() * BLOCK_BYTES as u64,
            garbage_bytes: engine.garbage_blocks() * BLOCK_BYTES as u64,
            free_segment_bytes: u64::from(segments.usable()) * geometry.segment_bytes(),
            file_allocated_bytes: engine.disk.file.allocated_bytes().unwrap_or(0),
            log_records: counters.records.load(Relaxed),
            log_batches: counters.batches.load(Relaxed),
            log_bytes: counters.bytes.load(Relaxed),
            batch_bytes: counters.batch_bytes.distribution(),
            buffered_bytes: self
                .0
                .volumes
                .all()
                .iter()
                .map(|entry| entry.stats().buffered_bytes)
                .sum(),
            syncs: counters.syncs.load(Relaxed),
            sync_requests: counters.sync_requests.load(Relaxed),
            sync_sharing: counters.sync_sharing.distribution(),
            checkpoints: checkpoints.count,
            checkpoint_time: checkpoints.took,
            checkpoint_bytes: checkpoints.bytes,
            written_through: counters.through.load(Relaxed),
            ready_bytes: segments.prepared() as u64 * geometry.segment_bytes(),
            placement: engine.disk.file.placement(),
            prepared_bytes: maintenance.slot_pool.prepared_bytes(),
            defragmented_leaves: maintenance.defragmenter.leaves(),
            defragmented_bytes: maintenance.defragmenter.bytes(),
            reclaims: engine.reclaim.rounds_ended(),
            cache_hits: cache.cache_hits,
            cache_misses: cache.cache_misses,
            cache_bytes: engine.disk.blocks.bytes(),
            metadata_bytes: engine.disk.nodes.bytes(),
            corrupt_blocks: engine.disk.corrupt.load(Relaxed),
            epoch: self.0.epoch,
        }
    }
}
