//! All background tasks together: starting them, work that needs two of them, and ending them.

use super::{
    checkpoint::Checkpointer,
    defragmenter::Defragmenter,
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
};
use futures_util::future::{join, join5};
use std::{cell::RefCell, sync::Arc};
use tokio::sync::Notify;

/// Limits of background reads and writes, in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// Rate of reclaim while no writer waits for it.
    pub(crate) reclaim: u64,
    /// Rate of the scrub; 0 for no passes unless asked for, and then without a limit.
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
    pub(crate) defragmenter: Defragmenter,
    pub(super) watchdog: Watchdog,
    ended: Notify,
}

impl Maintenance {
    /// The background work of a store with this checkpointer.
    pub(crate) fn new(volumes: Arc<Volumes>, checkpointer: Checkpointer, rates: Rates) -> Self {
        let checkpointer = Arc::new(checkpointer);
        let slot_pool = Arc::new(SlotPool::new(Arc::clone(&volumes.engine)));
        let (checkpoints, slots) = (Arc::clone(&checkpointer), Arc::clone(&slot_pool));
        Self {
            reclaimer: Reclaimer::new(Arc::clone(&volumes), checkpoints, slots, rates.reclaim),
            scrubber: Scrubber::new(Arc::clone(&volumes), Arc::clone(&checkpointer), rates.scrub),
            exclusive: ExclusiveBytes::new(Arc::clone(&volumes)),
            defragmenter: Defragmenter::new(Arc::clone(&volumes), rates.reclaim),
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
        let usual = join5(
            self.checkpointer.run(checkpoint),
            self.reclaimer.run(),
            self.slot_pool.run(),
            self.slot_pool.run_returns(),
            self.scrubber.run(),
        );
        join(usual, self.defragmenter.run()).await;
        self.ended.notify_one();
    }

    /// Writes a checkpoint, if anything changed since the last one. Where it would take the room
    /// that reclaim needs for its own checkpoint, which frees slots, a round of reclaim goes first.
    ///
    /// # Errors
    /// The errors of [`Checkpointer::write_if_changed`].
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let engine = &self.volumes.engine;
        // Only then does a checkpoint wait for a round: otherwise the checkpoint would take the
        // round's room.
        if engine.is_room_for_checkpoints_short() && !engine.shutdown.has_begun() {
            let before = self.checkpointer.moment();
            match self.reclaimer.round(Effort::Needed).await {
                Ok(_) => {}
                // Another checkpoint would take the room that is left for reclaim's.
                Err(error) if error.kind() == Kind::NoSpace => return Err(error),
                // A map that cannot be read, which is reported elsewhere, does not prevent a
                // checkpoint.
                Err(error) => {
                    tracing::debug!(%error, "a round of reclaim before a checkpoint failed")
                }
            }
            if engine.is_room_for_checkpoints_short()
                && self.checkpointer.has_completed_since(before)
            {
                return Ok(()); // the round has written it
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
