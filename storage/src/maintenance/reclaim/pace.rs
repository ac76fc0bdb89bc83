//! The I/O budget of reclaim: a number of bytes a second, unless a writer waits for the space that
//! it frees or soon will. It ends with the store.

use crate::{
    base::{Progress, Result},
    core::Engine,
};
use futures_util::future::select;
use sandstone_ring::runtime;
use std::{pin::pin, time::Duration};

/// Bytes that may be spent at once.
const BURST_BYTES: u64 = 4 << 20;

/// The budget of a round.
pub(crate) struct Pace<'a> {
    engine: &'a Engine,
    progress: &'a Progress,
    bytes_per_second: u64,
    /// Bytes that were spent and not waited for yet.
    owed: u64,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(engine: &'a Engine, progress: &'a Progress, bytes_per_second: u64) -> Self {
        Self { engine, progress, bytes_per_second: bytes_per_second.max(1), owed: 0 }
    }

    /// Spends bytes that were read or written: waits for as long as they may take.
    ///
    /// # Errors
    /// The store is being closed.
    pub(crate) async fn spend(&mut self, bytes: u64) -> Result<()> {
        let shutdown = &self.engine.shutdown;
        self.progress.step();
        self.owed += bytes;
        if self.owed >= BURST_BYTES {
            let owed = std::mem::take(&mut self.owed);
            if !self.engine.reclaim.is_wanted() && !self.engine.is_short() {
                let time = Duration::from_secs_f64(owed as f64 / self.bytes_per_second as f64);
                select(pin!(shutdown.begun()), runtime::sleep(time)).await;
            }
        }
        shutdown.check()
    }

    /// Yields the thread, after much work without I/O.
    ///
    /// # Errors
    /// The store is being closed.
    pub(crate) async fn give_way(&self) -> Result<()> {
        self.progress.step();
        runtime::yield_now().await;
        self.engine.shutdown.check()
    }
}
