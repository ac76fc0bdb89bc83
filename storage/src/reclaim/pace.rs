//! The I/O budget of reclaim: so many bytes a second, unless somebody waits for what it frees.

use crate::{engine::Upkeep, runtime};
use std::time::Duration;

/// Bytes that may be spent at once.
const BURST_BYTES: u64 = 4 << 20;

/// What a round has spent.
pub(crate) struct Pace<'a> {
    upkeep: &'a Upkeep,
    bytes_per_second: u64,
    /// Not yet waited for.
    owed: u64,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(upkeep: &'a Upkeep, bytes_per_second: u64) -> Self {
        Self { upkeep, bytes_per_second: bytes_per_second.max(1), owed: 0 }
    }

    /// These bytes were read or written: waits for as long as they may take.
    pub(crate) async fn spend(&mut self, bytes: u64) {
        self.owed += bytes;
        if self.owed < BURST_BYTES {
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        if !self.upkeep.is_wanted() {
            runtime::sleep(Duration::from_secs_f64(owed as f64 / self.bytes_per_second as f64)).await;
        }
    }
}
