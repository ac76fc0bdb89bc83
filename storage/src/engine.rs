//! What all volumes of a store share: the disk, the log, and the books of what is dirty.

use crate::{
    closing::Closing, disk::Disk, health::HealthCell, log::Log, map::Touched, readers::Readers, reclaim,
    scrub::Scrub, segments::Need, space::Space, watchdog::Watchdog,
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::*},
};
use tokio::sync::Notify;

/// A changed node's bytes in memory, for the metadata budget: a leaf written at random has up to 256 runs of 16 bytes, in a
/// list with room for more, and 1 KiB of checksums; an inner node has 256 children.
const NODE_MEMORY_BYTES: u64 = 8192;

pub(crate) struct Engine {
    pub(crate) disk: Arc<Disk>,
    pub(crate) log: Arc<Log>,
    pub(crate) health: Arc<HealthCell>,
    pub(crate) readers: Readers,
    pub(crate) space: Space,
    pub(crate) upkeep: Upkeep,
    pub(crate) watchdog: Watchdog,
    /// Bytes a second that reclaim may read and write while nobody waits for it.
    pub(crate) reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for none but when somebody asks, and then as many as there are.
    pub(crate) scrub_rate: u64,
}

/// What tells the keeper that there is work, and the others that it was done.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// Nodes changed since the last checkpoint began.
    dirty_nodes: AtomicU64,
    /// Nodes that checkpoints took since the last one that found room for all.
    taken_nodes: AtomicU64,
    dirty_nodes_max: u64,
    /// Blocks that were overwritten, trimmed or deleted since the last mark; a hint, the mark counts.
    pub(crate) garbage_blocks: AtomicU64,
    /// Somebody waits for space.
    pub(crate) wanted: Notify,
    /// So much is dirty that a checkpoint is due.
    pub(crate) checkpoint_wanted: Notify,
    /// A checkpoint ended.
    pub(crate) checkpointed: Notify,
    /// Bytes of maps and catalogs that checkpoints wrote.
    pub(crate) checkpoint_bytes: AtomicU64,
    /// Bytes written to get slots ready.
    pub(crate) prepared_bytes: AtomicU64,
    /// A round of reclaim ended. Its number counts them.
    pub(crate) reclaimed: Notify,
    pub(crate) reclaims: AtomicU64,
    /// A writer found the store full and waits for the round of this number.
    pub(crate) reclaim_wanted: AtomicU64,
    /// The last round found sparse segments that the next one will empty.
    pub(crate) sparse: AtomicBool,
    /// The last round neither freed anything nor found what the next one could.
    pub(crate) barren: AtomicBool,
    pub(crate) reclaim: reclaim::Counters,
    pub(crate) freed: Mutex<reclaim::Freed>,
    pub(crate) scrub: Scrub,
    /// Held while free slots are got ready or given back.
    pub(crate) slots: tokio::sync::Mutex<()>,
    /// All free slots are about to be given back, so whoever gets some ready lets go of them.
    pub(crate) settling: AtomicBool,
    /// Bytes logged when all free slots were last given back to the file system.
    pub(crate) settled_log_bytes: AtomicU64,
    pub(crate) closing: Closing,
}

impl Upkeep {
    pub(crate) fn new(metadata_bytes: u64) -> Self {
        Self {
            dirty_nodes: AtomicU64::new(0),
            taken_nodes: AtomicU64::new(0),
            dirty_nodes_max: (metadata_bytes / NODE_MEMORY_BYTES).max(256),
            // Nothing was counted yet.
            garbage_blocks: AtomicU64::new(1),
            wanted: Notify::new(),
            checkpoint_wanted: Notify::new(),
            checkpointed: Notify::new(),
            checkpoint_bytes: AtomicU64::new(0),
            prepared_bytes: AtomicU64::new(0),
            reclaimed: Notify::new(),
            reclaims: AtomicU64::new(0),
            reclaim_wanted: AtomicU64::new(0),
            sparse: AtomicBool::new(false),
            barren: AtomicBool::new(false),
            reclaim: reclaim::Counters::default(),
            freed: Mutex::default(),
            scrub: Scrub::default(),
            slots: tokio::sync::Mutex::default(),
            settling: AtomicBool::new(false),
            settled_log_bytes: AtomicU64::new(0),
            closing: Closing::default(),
        }
    }

    /// These many nodes became dirty. What they were on disk is garbage with the next checkpoint.
    pub(crate) fn add_dirty(&self, nodes: u64) {
        if nodes > 0 {
            self.garbage_blocks.fetch_add(nodes, Relaxed);
            let before = self.dirty_nodes.fetch_add(nodes, Relaxed);
            if before + nodes > self.dirty_nodes_max / 2 && before <= self.dirty_nodes_max / 2 {
                self.checkpoint_wanted.notify_one();
            }
        }
    }

    pub(crate) fn dirty_nodes(&self) -> u64 {
        self.dirty_nodes.load(Relaxed)
    }

    /// A checkpoint takes what is dirty now.
    pub(crate) fn take_dirty(&self) {
        self.taken_nodes.fetch_add(self.dirty_nodes.swap(0, Relaxed), Relaxed);
    }

    /// What was taken is on disk.
    pub(crate) fn taken_is_durable(&self) {
        self.taken_nodes.store(0, Relaxed);
    }
}

impl Engine {
    /// Nodes that may be dirty: the budget of memory, and no more than the next checkpoint surely finds room for. A store
    /// that fills up with changed maps in memory could not write them any more, and so never free anything.
    fn dirty_max(&self) -> u64 {
        let segments = &self.disk.segments;
        // A node takes two blocks at most; the other half is left to the catalog and to the checkpoint after.
        let room = u64::from(segments.usable()) * u64::from(segments.geometry.segment_blocks) / 4;
        self.upkeep.dirty_nodes_max.min(room)
    }

    /// Segments that moved blocks can have: a checkpoint must find room for what is dirty, or else what was moved never
    /// frees the old places.
    pub(crate) fn room_to_move(&self) -> u32 {
        let segments = &self.disk.segments;
        let dirty = self.upkeep.dirty_nodes() + self.upkeep.taken_nodes.load(Relaxed);
        let blocks = 2 * dirty + self.space.catalog_blocks();
        let needed = blocks.div_ceil(u64::from(segments.geometry.segment_blocks));
        segments.room_to_move(u32::try_from(needed).unwrap_or(u32::MAX))
    }

    /// An operation has changed nodes of a map.
    pub(crate) fn note_touched(&self, touched: Touched) {
        self.upkeep.add_dirty(touched.dirtied);
        self.space.add_maps(touched.added_blocks);
    }

    /// Blocks in used segments that nothing refers to, about.
    pub(crate) fn garbage_blocks(&self) -> u64 {
        let alive = self.space.live_blocks() + self.space.map_blocks();
        self.disk.segments.used_blocks().saturating_sub(alive)
    }

    /// Whether there is room for less than two checkpoints.
    pub(crate) fn is_room_for_checkpoints_short(&self) -> bool {
        let segments = &self.disk.segments;
        let blocks = self.space.catalog_blocks() + 2 * self.upkeep.dirty_nodes();
        let needed = blocks.div_ceil(u64::from(segments.geometry.segment_blocks)) + 1;
        u64::from(segments.room(Need::Checkpoint)) < 2 * needed
    }

    /// Whether so much is dirty that a checkpoint is due.
    pub(crate) fn is_half_dirty(&self) -> bool {
        self.upkeep.dirty_nodes() > self.dirty_max() / 2
    }

    /// Whether so much is dirty that nothing more may be.
    pub(crate) fn is_too_dirty(&self) -> bool {
        self.upkeep.dirty_nodes() > self.dirty_max()
    }

    /// Waits while too much is dirty: a checkpoint makes room.
    pub(crate) async fn wait_clean(&self) {
        if !self.is_too_dirty() {
            return;
        }
        let _waiting = self.watchdog.for_checkpoint.begin();
        while self.is_too_dirty() && !self.health.is_stopped() && !self.upkeep.closing.has_begun() {
            let done = self.upkeep.checkpointed.notified();
            self.upkeep.checkpoint_wanted.notify_one();
            if self.is_too_dirty() {
                done.await;
            }
        }
    }
}
