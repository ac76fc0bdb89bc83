//! The store's own numbers.

use super::families::Families;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use sandstone_storage::{Health, Store};
use std::fmt;

pub(super) struct StoreCollector {
    pub(super) store: Store,
}

impl fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreCollector")
    }
}

impl Collector for StoreCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        let stats = self.store.stats();
        let reclaim = self.store.reclaim_progress();
        let scrub = self.store.scrub_progress();
        let ready = u64::from(matches!(self.store.health(), Health::Ready));
        for (name, help, value) in [
            ("store_capacity_bytes", "Bytes that the store can hold", stats.capacity_bytes),
            ("store_usable_bytes", "Bytes of data that may live in it", stats.usable_bytes),
            (
                "store_used_bytes",
                "Bytes of data that live in it, shared blocks once",
                stats.used_bytes,
            ),
            ("store_free_bytes", "Bytes of new data that may still be written", stats.free_bytes),
            (
                "store_garbage_bytes",
                "Bytes that nothing refers to, before reclaim",
                stats.garbage_bytes,
            ),
            (
                "store_file_allocated_bytes",
                "Bytes that the store's file takes on its file system",
                stats.file_allocated_bytes,
            ),
            (
                "store_slots_ready_bytes",
                "Bytes of free slots that are ready for the log",
                stats.ready_bytes,
            ),
            (
                "store_written_in_place",
                "1 where the log need not be written through: on a block device, or in a file that is overwritten in place",
                u64::from(stats.placement.is_trusted()),
            ),
            ("store_ready", "1 while the store takes writes", ready),
            ("scrub_running", "1 while the scrub reads", u64::from(scrub.running)),
            ("cache_bytes", "Bytes of data in the cache", stats.cache_bytes),
            (
                "store_buffered_bytes",
                "Bytes accepted and not in the store yet",
                stats.buffered_bytes,
            ),
            ("cache_metadata_bytes", "Bytes of maps in the cache", stats.metadata_bytes),
        ] {
            families.gauge(name, help, value)?;
        }
        for (name, help, value) in [
            ("store_log_records", "Records logged", stats.log_records),
            ("store_log_batches", "Batches written to the log", stats.log_batches),
            ("store_log_bytes", "Bytes written to the log", stats.log_bytes),
            (
                "store_log_batches_through",
                "Batches of the log that were written through, because no slot was ready for them",
                stats.written_through,
            ),
            ("store_syncs", "Device syncs", stats.syncs),
            (
                "store_sync_requests",
                "Flushes and the like that waited for a device sync",
                stats.sync_requests,
            ),
            ("store_checkpoints", "Checkpoints", stats.checkpoints),
            (
                "store_checkpoint_bytes",
                "Bytes of maps and catalogs that checkpoints wrote",
                stats.checkpoint_bytes,
            ),
            (
                "store_prepared_bytes",
                "Zeroes written to get slots ready for the log",
                stats.prepared_bytes,
            ),
            (
                "store_defragmented_leaves",
                "MiB of volumes whose blocks were put in order, because reads in sequence met them",
                stats.defragmented_leaves,
            ),
            (
                "store_defragmented_bytes",
                "Bytes logged again to put blocks in order",
                stats.defragmented_bytes,
            ),
            ("reclaim_rounds", "Rounds of reclaim", reclaim.rounds),
            ("reclaim_marked_nodes", "Map nodes that reclaim visited", reclaim.marked_nodes),
            (
                "reclaim_freed_bytes",
                "Bytes of segments that reclaim made free",
                reclaim.freed_bytes,
            ),
            (
                "reclaim_forwarded_bytes",
                "Bytes moved out of sparse segments",
                reclaim.forwarded_bytes,
            ),
            ("reclaim_punched_bytes", "Bytes given back to the file system", reclaim.punched_bytes),
            ("scrub_passes", "Times that all maps and data were read and compared", scrub.passes),
            (
                "scrub_checked_bytes",
                "Bytes that the scrub read and compared",
                scrub.checked_bytes_total,
            ),
            ("scrub_corrupt_bytes", "Bytes of them that are lost", scrub.corrupt_bytes_total),
            (
                "scrub_rotten_bytes",
                "Deprecated: the old name of sandstone_scrub_corrupt_bytes",
                scrub.corrupt_bytes_total,
            ),
            (
                "store_corrupt_blocks",
                "Blocks that were not what was written there",
                stats.corrupt_blocks,
            ),
            ("cache_hits", "Blocks that reads found in the cache", stats.cache_hits),
            ("cache_misses", "Blocks that reads had to fetch", stats.cache_misses),
        ] {
            families.counter(name, help, value)?;
        }
        families.seconds(
            "store_checkpoint_seconds",
            "Time that checkpoints took",
            stats.checkpoint_time,
        )?;
        let (batches, sharing) = (stats.batch_bytes.into(), stats.sync_sharing.into());
        families.histogram(
            "store_log_batch_bytes",
            "How large the batches of the log were",
            batches,
        )?;
        families.histogram(
            "store_sync_callers",
            "How many waited for each device sync together",
            sharing,
        )
    }
}
