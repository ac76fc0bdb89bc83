//! The engine: what all volumes of a store share, namely the disk, the log, and counts of changes
//! in memory.

use super::{DirtyNodes, Fragmented, ReadPins, ReclaimDemand, Space};
use crate::{
    base::{BLOCK_BYTES, HealthCell, Shutdown},
    disk::{Disk, Need},
    log::Log,
    map::Touched,
};
use sandstone_ring::{TurnEnd, runtime};
use std::{rc::Rc, sync::Arc};

/// The shared part of an open store.
pub(crate) struct Engine {
    pub(crate) disk: Arc<Disk>,
    pub(crate) log: Arc<Log>,
    pub(crate) health: Arc<HealthCell>,
    pub(crate) pins: ReadPins,
    pub(crate) space: Space,
    pub(crate) dirty: DirtyNodes,
    pub(crate) reclaim: ReclaimDemand,
    pub(crate) fragmented: Fragmented,
    pub(crate) shutdown: Shutdown,
}

impl Engine {
    /// Counts the nodes that an operation changed. Their copies on disk are garbage after the next
    /// checkpoint.
    pub(crate) fn note_touched(&self, touched: Touched) {
        if touched.dirtied > 0 {
            self.reclaim.add_garbage(touched.dirtied);
            self.dirty.add(touched.dirtied);
        }
        if touched.added_blocks > 0 {
            self.space.add_maps(touched.added_blocks);
            self.keep_room_for_checkpoints();
        }
    }

    /// Limit of dirty nodes: the budget of memory, and no more than the next checkpoint surely
    /// finds room for. A store with more dirty nodes than room could not write them, and so never
    /// free anything.
    fn dirty_max(&self) -> u64 {
        let segments = &self.disk.segments;
        // A node takes two blocks at most; the other half is left for the catalog and for the next
        // checkpoint.
        let room = u64::from(segments.usable()) * u64::from(segments.geometry.segment_blocks) / 4;
        self.dirty.max().min(room)
    }

    /// Whether so much is dirty that a checkpoint is due.
    pub(crate) fn is_half_dirty(&self) -> bool {
        self.dirty.count() > self.dirty_max() / 2
    }

    /// Whether dirty nodes are at their limit.
    pub(crate) fn is_too_dirty(&self) -> bool {
        self.dirty.count() > self.dirty_max()
    }

    /// Waits while too much is dirty: a checkpoint makes room.
    pub(crate) async fn wait_clean(&self) {
        let is_over = || self.health.is_stopped() || self.shutdown.has_begun();
        self.dirty.wait_while(|| self.is_too_dirty() && !is_over()).await;
    }

    /// Segments that a checkpoint takes, at most: it writes the catalog, and of the maps no more
    /// than there is, or than may be dirty.
    pub(crate) fn checkpoint_segments(&self) -> u32 {
        let nodes = self.space.map_blocks().max(2 * self.dirty.count()).min(2 * self.dirty.max());
        let blocks = self.space.catalog_blocks() + nodes;
        let segments = blocks.div_ceil(u64::from(self.disk.segments.geometry.segment_blocks)) + 1;
        u32::try_from(segments).unwrap_or(u32::MAX)
    }

    /// Has data, records and moved blocks leave room for the next checkpoint, and data for the one
    /// after it too. Without the first nothing that reclaim moves is ever freed; and it may take
    /// more than it frees, until the mark finds what it has written anew.
    pub(crate) fn keep_room_for_checkpoints(&self) {
        self.disk.segments.keep_for_checkpoint(self.checkpoint_segments());
    }

    /// Segments that the next checkpoint may count on: what it takes at most, or half of what data
    /// leaves where that is less, as with very many maps.
    pub(crate) fn checkpoint_share(&self) -> u32 {
        self.checkpoint_segments().min(self.disk.segments.left_by_data() / 2)
    }

    /// Whether there is no room for a checkpoint and the one after it.
    pub(crate) fn is_room_for_checkpoints_short(&self) -> bool {
        let needed = self.checkpoint_segments().saturating_mul(2);
        self.disk.segments.room(Need::Checkpoint) < needed
    }

    /// Approximate number of dead blocks in used segments.
    pub(crate) fn garbage_blocks(&self) -> u64 {
        let alive = self.space.live_blocks() + self.space.map_blocks();
        self.disk.segments.used_blocks().saturating_sub(alive)
    }

    /// Whether the garbage is worth a mark: an eighth of the used blocks, and at least four
    /// segments.
    pub(crate) fn is_garbage_due(&self) -> bool {
        let geometry = &self.disk.segments.geometry;
        let used = u64::from(geometry.slots - self.disk.segments.free()) * geometry.segment_bytes();
        let garbage = self.reclaim.garbage_blocks() * BLOCK_BYTES as u64;
        garbage >= (used / 8).max(4 * geometry.segment_bytes())
    }

    /// Free segments below which reclaim works as fast as it can, and writers are slowed to what it
    /// frees: the free-space watermark.
    pub(crate) fn low_room(&self) -> u32 {
        (self.disk.segments.geometry.slots / 32).clamp(2, 64)
    }

    /// Whether the log's room is below the free-space watermark.
    pub(crate) fn is_short(&self) -> bool {
        self.disk.segments.room(Need::Data) < self.low_room()
    }

    /// Whether the log's room is far above the watermark.
    pub(crate) fn has_ample_room(&self) -> bool {
        self.disk.segments.room(Need::Data) >= 2 * self.low_room()
    }

    /// Pumps the log at the end of each of this thread's turns, as long as the guard is held.
    pub(crate) fn attach_runtime(&self) -> TurnEnd {
        let log = Arc::clone(&self.log);
        runtime::on_turn_end(Rc::new(move || log.pump()))
    }
}
