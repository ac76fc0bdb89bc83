//! Demand reads: the number of disk reads that requests wait for, so that readahead can go after
//! them.

use sandstone_ring::runtime;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// Longest wait of a readahead step for demand reads. A guess: some reads of a slow disk.
const DEFER_MAX: Duration = Duration::from_millis(5);
/// Interval at which it looks.
const DEFER_STEP: Duration = Duration::from_micros(100);

/// The count of demand reads.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    under_way: Arc<AtomicU32>,
}

/// One demand read, until it is dropped.
pub(crate) struct Demanded(Arc<AtomicU32>);

impl Demand {
    pub(crate) fn begin(&self) -> Demanded {
        self.under_way.fetch_add(1, Relaxed);
        Demanded(Arc::clone(&self.under_way))
    }

    /// Waits until there are no demand reads, at most for [`DEFER_MAX`]: readahead goes after them.
    pub(crate) async fn wait_idle(&self) {
        let give_up_at = runtime::now() + DEFER_MAX;
        while self.under_way.load(Relaxed) > 0 && runtime::now() < give_up_at {
            runtime::sleep(DEFER_STEP).await;
        }
    }
}

impl Drop for Demanded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
