//! The defragmenter: puts leaves in order that reads in sequence met in many pieces, in the
//! background.
//!
//! It works within a budget of bytes and of time, after reads that requests wait for, and only
//! while the store has ample room: what it logs again is garbage at its old place until reclaim
//! frees it. A volume that is only read at random is left alone, because no stream meets its
//! leaves.

use super::wake::{Failures, TICK, first_of};
use crate::{
    base::{Health, Result},
    catalog::Volumes,
    core::LeafId,
    volume::Moved,
};
use futures_util::future::select;
use sandstone_ring::runtime;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Its budget, as a part of the rate of reclaim, beside which it stands: for what it reads and for
/// what it logs.
const RATE_PART: u64 = 4;
/// It rests for so many times as long as a leaf took, on a disk that is slower than its budget.
const REST: u32 = 3;

/// It works while at least one in this many blocks is free: in a fuller store reclaim has enough to
/// do with what clients write.
const FREE_PART: u64 = 10;

/// The defragmenter.
pub(crate) struct Defragmenter {
    volumes: Arc<Volumes>,
    bytes_per_second: u64,
    leaves: AtomicU64,
    bytes: AtomicU64,
}

/// Wakes the task.
enum Event {
    ShutDown,
    Noted,
    Tick,
}

impl Defragmenter {
    /// `reclaim_rate` is in bytes a second.
    pub(crate) fn new(volumes: Arc<Volumes>, reclaim_rate: u64) -> Self {
        let bytes_per_second = (reclaim_rate / RATE_PART).max(1);
        let (leaves, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { volumes, bytes_per_second, leaves, bytes }
    }

    /// Leaves that were put in order since the start.
    pub(crate) fn leaves(&self) -> u64 {
        self.leaves.load(Relaxed)
    }

    /// Bytes that were logged again for that.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Runs until the store closes.
    pub(crate) async fn run(&self) {
        let engine = &self.volumes.engine;
        let mut failures = Failures::default();
        loop {
            let event = first_of(
                (engine.shutdown.begun(), Event::ShutDown),
                (engine.fragmented.noted(), Event::Noted),
                (TICK, Event::Tick),
            )
            .await;
            match event {
                Event::ShutDown => return,
                Event::Noted | Event::Tick => {}
            }
            while let Some(leaf) = self.next() {
                let logged = self.defragment(leaf).await;
                if engine.shutdown.has_begun() {
                    return;
                }
                failures.log(logged, "defragmenting");
            }
        }
    }

    /// The next leaf, if there is room for its garbage.
    fn next(&self) -> Option<LeafId> {
        let engine = &self.volumes.engine;
        let space = &engine.space;
        let has_room = engine.has_ample_room()
            && !space.throttle().is_on()
            && space.free_blocks() >= space.usable_blocks() / FREE_PART;
        let is_ready = has_room && engine.health.get() == Health::Ready;
        if is_ready { engine.fragmented.next() } else { None }
    }

    async fn defragment(&self, LeafId { volume, leaf }: LeafId) -> Result<()> {
        let engine = &self.volumes.engine;
        let found = self.volumes.lock().by_number(volume).cloned();
        let Some(volume) = found else {
            runtime::yield_now().await;
            return Ok(()); // deleted meanwhile
        };
        engine.disk.demand.wait_idle().await;
        let began = runtime::now();
        let done = volume.defragment(leaf).await;
        if let Ok(Moved { logged, .. }) = done
            && logged > 0
        {
            self.leaves.fetch_add(1, Relaxed);
            self.bytes.fetch_add(logged, Relaxed);
        }
        let Moved { read, logged } = *done.as_ref().unwrap_or(&Moved::default());
        let budget = Duration::from_secs_f64((read + logged) as f64 / self.bytes_per_second as f64);
        let rest = budget.max(REST * runtime::now().saturating_sub(began));
        select(pin!(engine.shutdown.begun()), runtime::sleep(rest)).await;
        done.map(|_| ())
    }
}
