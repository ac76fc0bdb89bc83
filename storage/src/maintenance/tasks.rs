//! All of it together: starting the tasks, what needs two of them, and ending them.

use super::{
    checkpoint::Checkpointer,
    exclusive::ExclusiveBytes,
    reclaim::{Effort, Reclaimer},
    scrub::Scrubber,
    slot_pool::SlotPool,
    wake::Failures,
    watchdog::Watchdog,
};
use crate::{
    base::{Kind, Result},
    catalog::Volumes,
    format::Superblock,
};
use futures_util::future::join5;
use std::{cell::RefCell, sync::Arc};
use tokio::sync::Notify;

/// What background work may read and write, in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// Of reclaim, while no writer waits for it.
    pub(crate) reclaim: u64,
    /// Of the scrub; 0 for none but when it is asked for, and then as much as there is.
    pub(crate) scrub: u64,
}

/// The background work of an open store.
pub(crate) struct Maintenance {
    pub(super) volumes: Arc<Volumes>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) reclaimer: Reclaimer,
    pub(crate) scrubber: Scrubber,
    pub(crate) slot_pool: Arc<SlotPool>,
    pub(crate) exclusive: ExclusiveBytes,
    pub(super) watchdog: Watchdog,
    ended: Notify,
}

impl Maintenance {
    /// Goes on from the superblock that counts.
    pub(crate) fn new(volumes: Arc<Volumes>, superblock: Superblock, rates: Rates) -> Self {
        let checkpointer = Arc::new(Checkpointer::new(Arc::clone(&volumes), superblock));
        let slot_pool = Arc::new(SlotPool::new(Arc::clone(&volumes.engine)));
        let (checkpoints, slots) = (Arc::clone(&checkpointer), Arc::clone(&slot_pool));
        Self {
            reclaimer: Reclaimer::new(Arc::clone(&volumes), checkpoints, slots, rates.reclaim),
            scrubber: Scrubber::new(Arc::clone(&volumes), Arc::clone(&checkpointer), rates.scrub),
            exclusive: ExclusiveBytes::new(Arc::clone(&volumes)),
            watchdog: Watchdog::default(),
            ended: Notify::new(),
            checkpointer,
            slot_pool,
            volumes,
        }
    }

    /// Runs all tasks, on the thread that opened the store, until it closes.
    pub(crate) async fn run(&self) {
        let _turn_end = self.volumes.engine.attach_runtime();
        let failures = RefCell::new(Failures::default());
        let checkpoint = async || {
            let result = self.checkpoint().await;
            failures.borrow_mut().log(result, "a checkpoint");
        };
        join5(
            self.checkpointer.run(checkpoint),
            self.reclaimer.run(),
            self.slot_pool.run(),
            self.slot_pool.run_returns(),
            self.scrubber.run(),
        )
        .await;
        self.ended.notify_one();
    }

    /// Writes a checkpoint, if anything changed since the last one. Where it would take the room
    /// that reclaim needs for its own, which frees what they leave behind, that goes first.
    ///
    /// # Errors
    /// Those of [`Checkpointer::write_if_changed`].
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let engine = &self.volumes.engine;
        // Only then does a checkpoint wait for a round: whichever comes first would take the room
        // of the other.
        if engine.is_room_for_checkpoints_short() && !engine.shutdown.has_begun() {
            match self.reclaimer.round(Effort::Needed).await {
                Ok(_) => {}
                // Another one would take what is left for that of reclaim.
                Err(error) if error.kind() == Kind::NoSpace => return Err(error),
                // A map that cannot be read, which is told elsewhere, does not keep a checkpoint
                // from being written.
                Err(error) => {
                    tracing::debug!(%error, "a round of reclaim before a checkpoint failed")
                }
            }
        }
        self.checkpointer.write_if_changed().await
    }

    /// Ends all tasks, a thorough reclaim too, and waits for their end.
    pub(crate) async fn shut_down(&self) {
        let engine = &self.volumes.engine;
        // A write that waits for room would hold up the end.
        engine.health.cancel_waits();
        if engine.shutdown.begin() {
            self.ended.notified().await;
        }
        self.reclaimer.wait_idle().await;
    }
}
