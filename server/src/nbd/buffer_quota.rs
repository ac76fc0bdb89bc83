//! Room for a receive buffer that is larger than the least.

use super::in_flight_pool::InFlightPool;
use std::{cell::Cell, sync::Arc};

/// Room that a receive buffer has beyond the least.
pub(super) struct BufferQuota {
    pool: Arc<InFlightPool>,
    bytes: Cell<u64>,
}

impl BufferQuota {
    pub(super) fn new(pool: &Arc<InFlightPool>) -> BufferQuota {
        BufferQuota { pool: Arc::clone(pool), bytes: Cell::new(0) }
    }

    /// Has room for that many bytes from now on, or for none where there is not plenty. Which of
    /// both.
    pub(super) fn resize(&self, bytes: u64) -> bool {
        let before = self.bytes.get();
        if before != bytes {
            self.pool.give_back_buffer(self.bytes.replace(0));
            if bytes > 0 && self.pool.try_take_buffer(bytes) {
                self.bytes.set(bytes);
            }
        }
        self.bytes.get() == bytes
    }
}

impl Drop for BufferQuota {
    fn drop(&mut self) {
        self.pool.give_back_buffer(self.bytes.get());
    }
}
