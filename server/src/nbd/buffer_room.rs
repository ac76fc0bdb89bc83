//! Room for a receive buffer that is larger than the least.

use super::room::Room;
use std::{cell::Cell, sync::Arc};

/// Room that a receive buffer has beyond the least.
pub(super) struct BufferRoom {
    room: Arc<Room>,
    bytes: Cell<u64>,
}

impl BufferRoom {
    pub(super) fn new(room: &Arc<Room>) -> BufferRoom {
        BufferRoom { room: Arc::clone(room), bytes: Cell::new(0) }
    }

    /// Has room for that many bytes from now on, or for none where there is not plenty. Which of both.
    pub(super) fn resize(&self, bytes: u64) -> bool {
        let before = self.bytes.get();
        if before != bytes {
            self.room.give_back_buffer(self.bytes.replace(0));
            if bytes > 0 && self.room.try_take_buffer(bytes) {
                self.bytes.set(bytes);
            }
        }
        self.bytes.get() == bytes
    }
}

impl Drop for BufferRoom {
    fn drop(&mut self) {
        self.room.give_back_buffer(self.bytes.get());
    }
}
