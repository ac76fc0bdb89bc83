//! A batch on its way from staging to the store.

use crate::base::{Error, Kind, Lsn, Result, SegmentId, Slot, Usage};
use sandstone_ring::{WriteMode, runtime};
use std::{
    future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*},
    },
    task::{Poll, Waker},
    time::Duration,
};
use tokio::sync::Notify;

const ON_ITS_WAY: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;

/// Bytes in staging that are not in the store yet, of a volume or of an attachment with a buffer of
/// its own: `buffer_size` bounds them.
#[derive(Debug)]
pub(crate) struct Gauge {
    unwritten_bytes: AtomicU64,
    /// Notified when something was written.
    pub(crate) room: Notify,
    usage: Arc<Usage>,
}

impl Gauge {
    pub(crate) fn new(usage: &Arc<Usage>) -> Arc<Self> {
        Arc::new(Self {
            unwritten_bytes: AtomicU64::new(0),
            room: Notify::new(),
            usage: Arc::clone(usage),
        })
    }

    pub(crate) fn unwritten_bytes(&self) -> u64 {
        self.unwritten_bytes.load(Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.unwritten_bytes.fetch_add(bytes, Relaxed);
        self.usage.buffered_bytes.fetch_add(bytes, Relaxed);
    }

    fn sub(&self, bytes: u64) {
        self.unwritten_bytes.fetch_sub(bytes, Relaxed);
        self.usage.buffered_bytes.fetch_sub(bytes, Relaxed);
    }
}

/// One device write: its place, and its waiters.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) segment: SegmentId,
    pub(crate) slot: Slot,
    /// Block of the header in the segment.
    pub(crate) block: u32,
    pub(crate) mode: WriteMode,
    pub(crate) window: usize,
    pub(crate) first_lsn: Lsn,
    pub(crate) previous: Lsn,
    /// When it was opened.
    pub(crate) since: Duration,
    /// Records whose place is taken but which are not filled in yet.
    pub(crate) leases: AtomicU32,
    state: AtomicU8,
    /// A request waits for it, or for room that it takes.
    is_awaited: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Waker>,
    gauges: Vec<(Arc<Gauge>, u64)>,
}

impl Batch {
    pub(crate) fn new(
        (segment, slot, block): (SegmentId, Slot, u32),
        mode: WriteMode,
        window: usize,
        first_lsn: Lsn,
        previous: Lsn,
    ) -> Self {
        Self {
            segment,
            slot,
            block,
            mode,
            window,
            first_lsn,
            previous,
            since: runtime::now(),
            leases: AtomicU32::new(0),
            state: AtomicU8::new(ON_ITS_WAY),
            is_awaited: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panics under this lock")
    }

    /// Counts bytes of a volume that this batch carries.
    pub(crate) fn charge(&self, gauge: &Arc<Gauge>, bytes: u64) {
        gauge.add(bytes);
        let mut waiting = self.waiting();
        match waiting.gauges.last_mut() {
            Some((last, charged)) if Arc::ptr_eq(last, gauge) => *charged += bytes,
            Some(_) | None => waiting.gauges.push((Arc::clone(gauge), bytes)),
        }
    }

    /// Ends the wait: the batch and all before it are in the store, or never will be.
    pub(crate) fn finish(&self, written: bool) {
        self.state.store(if written { WRITTEN } else { FAILED }, Release);
        let Waiting { wakers, gauges } = std::mem::take(&mut *self.waiting());
        for (gauge, bytes) in gauges {
            gauge.sub(bytes);
            gauge.room.notify_waiters();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes the next pump send it out.
    pub(crate) fn hurry(&self) {
        self.is_awaited.store(true, Release);
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited.load(Acquire)
    }

    /// Waits until this batch and all before it are in the store. Dropping the future changes
    /// nothing.
    ///
    /// # Errors
    /// [`Kind::Latched`] when writing failed.
    pub(crate) async fn written(&self) -> Result<()> {
        self.hurry();
        future::poll_fn(|cx| {
            if let Some(result) = self.result() {
                return Poll::Ready(result);
            }
            let mut waiting = self.waiting();
            // Finished between the two looks: `finish` has emptied the list already.
            if let Some(result) = self.result() {
                return Poll::Ready(result);
            }
            if !waiting.wakers.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn result(&self) -> Option<Result<()>> {
        match self.state.load(Acquire) {
            ON_ITS_WAY => None,
            WRITTEN => Some(Ok(())),
            _ => Some(Err(Error::new(Kind::Latched, "the log could not be written"))),
        }
    }
}
