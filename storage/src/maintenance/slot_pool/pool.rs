//! The slot pool's state, and returning free slots to the file system.

use crate::{
    core::Engine,
    disk::{SlotBacking, SlotPreparation},
    maintenance::wake::TICK,
};
use futures_util::future::{Either, select};
use sandstone_ring::runtime;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::*},
    },
};
use tokio::sync::Mutex;

/// Bytes of free slots that keep their blocks in the file, beside the slots that the log will soon
/// take again.
const BLOCKS_KEPT_BYTES: u64 = 512 << 20;
/// Decay of the number of segments taken lately, for each tick: down to a third after about twenty
/// seconds.
const FORGET: f64 = 0.99;

/// An event that wakes the pool to return slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Tick,
    ShutDown,
}

/// Prepares free slots for the log, and returns surplus ones to the file system.
pub(crate) struct SlotPool {
    pub(super) engine: Arc<Engine>,
    /// Held while free slots are prepared or returned.
    pub(super) work: Mutex<()>,
    /// All free slots are about to be returned, so preparation stops.
    is_returning_all: AtomicBool,
    /// Bytes logged when all free slots were last returned.
    log_bytes_when_returned: AtomicU64,
    /// Bytes written to prepare slots.
    prepared_bytes: AtomicU64,
    /// Bytes of slots that the file system got back.
    returned_bytes: AtomicU64,
}

impl SlotPool {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            work: Mutex::default(),
            is_returning_all: AtomicBool::new(false),
            log_bytes_when_returned: AtomicU64::new(0),
            prepared_bytes: AtomicU64::new(0),
            returned_bytes: AtomicU64::new(0),
        }
    }

    /// Returns free slots that the log will not soon take, until the store closes.
    pub(crate) async fn run_returns(&self) {
        let segments = &self.engine.disk.segments;
        let kept = (BLOCKS_KEPT_BYTES / segments.geometry.segment_bytes()).max(8) as usize;
        let (mut next_segment, mut taken_lately) = (segments.next().0, 0.0);
        loop {
            match self.next_return().await {
                Event::ShutDown => break,
                Event::Tick if self.engine.health.is_stopped() => {}
                Event::Tick => {
                    let next = segments.next().0;
                    let taken = next - std::mem::replace(&mut next_segment, next);
                    taken_lately = taken_lately * FORGET + taken as f64;
                    // A thorough reclaim may have terabytes to return: this does not wait for it.
                    let Ok(_no_other) = self.work.try_lock() else { continue };
                    self.return_surplus(kept + taken_lately as usize).await;
                }
            }
        }
    }

    async fn next_return(&self) -> Event {
        match select(pin!(self.engine.shutdown.begun()), pin!(runtime::sleep(TICK))).await {
            Either::Left(_) => Event::ShutDown,
            Either::Right(_) => Event::Tick,
        }
    }

    /// Returns all free slots to the file system, including slots that are being prepared, until
    /// the store closes.
    pub(crate) async fn return_all(&self) {
        self.is_returning_all.store(true, Release);
        let _no_other = self.work.lock().await;
        self.is_returning_all.store(false, Release);
        self.log_bytes_when_returned.store(self.engine.log.counters.bytes.load(Relaxed), Relaxed);
        self.return_surplus(0).await;
        self.return_claim().await;
    }

    /// Whether preparing slots goes on.
    pub(super) fn goes_on(&self) -> bool {
        !self.engine.shutdown.has_begun() && !self.is_returning_all.load(Acquire)
    }

    pub(super) fn log_bytes_when_returned(&self) -> u64 {
        self.log_bytes_when_returned.load(Relaxed)
    }

    pub(super) fn add_prepared(&self, bytes: u64) {
        self.prepared_bytes.fetch_add(bytes, Relaxed);
    }

    /// Bytes written to prepare slots, since the store was opened.
    pub(crate) fn prepared_bytes(&self) -> u64 {
        self.prepared_bytes.load(Relaxed)
    }

    /// Bytes of slots that the file system got back.
    pub(crate) fn returned_bytes(&self) -> u64 {
        self.returned_bytes.load(Relaxed)
    }

    /// Returns the blocks of the claimed segment's slot to the file system. Nothing was written
    /// there yet.
    async fn return_claim(&self) {
        let (disk, log) = (&self.engine.disk, &self.engine.log);
        let geometry = disk.segments.geometry;
        let Some(slot) = log.lend_claim() else { return };
        let punched = disk.file.punch(geometry.offset(slot, 0), geometry.segment_bytes()).await;
        log.return_claim(punched.is_ok());
        if let Err(error) = punched {
            tracing::debug!(%error, "the file system does not take space back");
        }
    }

    /// Returns free slots, except `keep` of them, to the file system, until the store closes.
    /// `work` is held.
    async fn return_surplus(&self, keep: usize) {
        let disk = &self.engine.disk;
        let geometry = disk.segments.geometry;
        while !self.engine.shutdown.has_begun()
            && let Some((slot, had)) = disk.segments.take_surplus(keep)
        {
            let punched = disk.file.punch(geometry.offset(slot, 0), geometry.segment_bytes()).await;
            let preparation =
                if punched.is_ok() { SlotPreparation::Punched } else { SlotPreparation::Partly };
            disk.segments.give_back(slot, preparation);
            if let Err(error) = punched {
                tracing::debug!(%error, "the file system does not take space back");
                return;
            }
            match had {
                SlotBacking::Blocks => {
                    self.returned_bytes.fetch_add(geometry.segment_bytes(), Relaxed);
                }
                // Most likely a hole already.
                SlotBacking::Unknown => {}
            }
        }
    }
}
