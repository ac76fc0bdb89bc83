//! What a slot of the store is, and what becomes of a free one.

use crate::base::{Blindness, is_blind_to};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Free since before the store was opened; may have blocks in the file, which nothing on disk
    /// tells.
    Unknown,
    /// Free; without blocks in the file.
    Raw,
    /// Free; has some of its blocks in the file.
    Partial,
    /// Free; has its blocks in the file, which were not written.
    Allocated,
    /// Free; has its blocks in the file, written but for what the segment that it held last left
    /// out here and there.
    Gapped,
    /// Free; all of its blocks are in the file, were written, and that was synced.
    Prepared,
    /// Holds a segment, or is being preparation on.
    Used,
}

impl SlotState {
    pub(super) fn is_free(self) -> bool {
        match self {
            Self::Unknown
            | Self::Raw
            | Self::Partial
            | Self::Allocated
            | Self::Gapped
            | Self::Prepared => true,
            Self::Used => false,
        }
    }

    /// Whether a segment can be written into it without a block more for the file.
    pub(super) fn is_backed(self) -> bool {
        match self {
            Self::Allocated | Self::Gapped | Self::Prepared => true,
            Self::Unknown | Self::Raw | Self::Partial | Self::Used => false,
        }
    }
}

/// What a plain write into a segment's slot is worth when the host crashes, in a file that is
/// overwritten in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It is there: the slot was prepared when the segment took it.
    Ready,
    /// It is there after a sync.
    Unready,
}

impl Readiness {
    /// What the slot is when the segment is gone, if nothing was punched out of it.
    pub(super) fn slot_when_free(self) -> SlotState {
        match self {
            Self::Unready if !is_blind_to(Blindness::SlotReadiness) => SlotState::Gapped,
            Self::Ready | Self::Unready => SlotState::Prepared,
        }
    }
}

/// What has become of a free slot that was preparation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotPreparation {
    /// It has no blocks in the file.
    Punched,
    /// It has some of its blocks.
    Partly,
    /// It has its blocks.
    Allocated,
    /// It was written throughout, and that was synced.
    Prepared,
}

/// What a free slot had that is to be given back to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotBacking {
    /// Blocks in the file.
    Blocks,
    /// Blocks or none.
    Unknown,
}
