//! How many slots the file system below the store can back.
//!
//! I1  A store counts as free only what the file system can back. So it is full, with all that a
//!     full store still can do, before a write fails for want of blocks.

use super::Engine;

/// Segments that are open at once, each of which may not have its blocks in the file yet: of the
/// log, of nodes, of moved blocks. The claimed segment is counted apart.
const OPEN_SEGMENTS: u64 = 3;

impl Engine {
    /// Measures how many slots the file system can still back (I1).
    pub(crate) fn measure_backing(&self) {
        let segments = &self.disk.segments;
        let room = match self.disk.file.room_bytes() {
            Ok(Some(bytes)) => {
                let segment_bytes = segments.geometry.segment_bytes();
                // Blocks of the file beyond the slots that are known to have some are in slots
                // whose state is unknown.
                let known = u64::from(segments.with_blocks()) * segment_bytes;
                let unknown = self.disk.file.allocated_bytes().unwrap_or(0).saturating_sub(known);
                let open = OPEN_SEGMENTS + segments.claimed();
                let whole = ((bytes + unknown) / segment_bytes).saturating_sub(open);
                u32::try_from(whole).unwrap_or(u32::MAX)
            }
            Ok(None) => u32::MAX,
            Err(error) => {
                tracing::debug!(%error, "the file system does not report its room");
                u32::MAX
            }
        };
        segments.set_backing(room);
        self.space.measure(segments);
        self.keep_room_for_checkpoints();
    }
}
