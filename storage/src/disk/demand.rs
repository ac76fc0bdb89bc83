//! How many reads of the disk a request waits for, so that what is read ahead can go after them.

use sandstone_ring::runtime;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// Longest wait of a step for reads that requests wait for. A guess: some reads of a slow disk.
const DEFER_MAX: Duration = Duration::from_millis(5);
/// How often it looks.
const DEFER_STEP: Duration = Duration::from_micros(100);

/// Reads of the disk that a request waits for.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    under_way: Arc<AtomicU32>,
}

/// One of them.
pub(crate) struct Demanded(Arc<AtomicU32>);

impl Demand {
    pub(crate) fn begin(&self) -> Demanded {
        self.under_way.fetch_add(1, Relaxed);
        Demanded(Arc::clone(&self.under_way))
    }

    /// Waits until there are none, at most for [`DEFER_MAX`]: what is read ahead goes after them.
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
