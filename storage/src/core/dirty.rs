//! Dirty nodes: nodes of maps that changed since the last checkpoint began.

use crate::base::Progress;
use std::sync::atomic::{AtomicU64, Ordering::*};
use tokio::sync::Notify;

/// A changed node's bytes in memory, for the metadata budget: a leaf written at random has up to
/// 256 runs of 16 bytes, in a list with room for more, and 1 KiB of checksums; an inner node has
/// 256 children.
const NODE_MEMORY_BYTES: u64 = 8192;

/// Counts dirty nodes, for the writers that change them and the checkpointer.
#[derive(Debug)]
pub(crate) struct DirtyNodes {
    /// Changed since the last checkpoint began.
    dirty: AtomicU64,
    /// Most that memory has room for.
    max: u64,
    /// Notified when so much is dirty that a checkpoint is due.
    due: Notify,
    /// Notified when a checkpoint ends.
    checkpoint_ended: Notify,
    /// Writers that wait for a checkpoint.
    waiting: Progress,
}

impl DirtyNodes {
    /// No dirty nodes yet, with a budget of memory in bytes.
    pub(crate) fn new(metadata_bytes: u64) -> Self {
        Self {
            dirty: AtomicU64::new(0),
            max: (metadata_bytes / NODE_MEMORY_BYTES).max(256),
            due: Notify::new(),
            checkpoint_ended: Notify::new(),
            waiting: Progress::default(),
        }
    }

    /// Counts nodes that became dirty.
    pub(crate) fn add(&self, nodes: u64) {
        let before = self.dirty.fetch_add(nodes, Relaxed);
        if before + nodes > self.max / 2 && before <= self.max / 2 {
            self.due.notify_one();
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.dirty.load(Relaxed)
    }

    /// Most that memory has room for.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// A checkpoint takes the nodes that are dirty now.
    pub(crate) fn take(&self) {
        self.dirty.store(0, Relaxed);
    }

    /// Asks for a checkpoint.
    pub(crate) fn want_checkpoint(&self) {
        self.due.notify_one();
    }

    /// Waits until a checkpoint is asked for.
    pub(crate) async fn checkpoint_wanted(&self) {
        self.due.notified().await;
    }

    /// Wakes the writers that wait for a checkpoint: one ended, or none will come.
    pub(crate) fn wake_waiters(&self) {
        self.checkpoint_ended.notify_waiters();
    }

    /// Writers that wait for a checkpoint.
    pub(crate) fn waiting(&self) -> &Progress {
        &self.waiting
    }

    /// Waits while `is_too_dirty` says so: a checkpoint makes room.
    pub(crate) async fn wait_while(&self, is_too_dirty: impl Fn() -> bool) {
        if !is_too_dirty() {
            return;
        }
        let _waiting = self.waiting.begin();
        while is_too_dirty() {
            let ended = self.checkpoint_ended.notified();
            self.want_checkpoint();
            if is_too_dirty() {
                ended.await;
            }
        }
    }
}
