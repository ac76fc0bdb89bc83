//! States of a slot, and the preparation of free ones.

use crate::base::{Blindness, is_blind_to};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Free since before the store was opened; may have blocks in the file, of which nothing on
    /// disk is known.
    Unknown,
    /// Free; without blocks in the file.
    Raw,
    /// Free; has some of its blocks in the file.
    Partial,
    /// Free; has its blocks in the file, which were not written.
    Allocated,
    /// Free; has its blocks in the file, written except for gaps that its last segment left out.
    Gapped,
    /// Free; all of its blocks are in the file, were written, and that was synced.
    Prepared,
    /// Holds a segment, or is being prepared.
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

    /// Whether a segment can be written into it without further blocks for the file.
    pub(super) fn is_backed(self) -> bool {
        match self {
            Self::Allocated | Self::Gapped | Self::Prepared => true,
            Self::Unknown | Self::Raw | Self::Partial | Self::Used => false,
        }
    }
}

/// Whether a plain write into a segment's slot survives a crash of the host, in a file that is
/// overwritten in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It survives: the slot was prepared when the segment took it.
    Ready,
    /// It survives after a sync.
    Unready,
}

impl Readiness {
    /// State of the slot when the segment is freed, if nothing was punched out of it.
    pub(super) fn slot_when_free(self) -> SlotState {
        match self {
            Self::Unready if !is_blind_to(Blindness::SlotReadiness) => SlotState::Gapped,
            Self::Ready | Self::Unready => SlotState::Prepared,
        }
    }
}

/// How far the preparation of a free slot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotPreparation {
    /// The slot has no blocks in the file.
    Punched,
    /// The slot has some of its blocks.
    Partly,
    /// The slot has all of its blocks.
    Allocated,
    /// All of the slot's blocks were written and synced.
    Prepared,
}

/// Whether a free slot that is to be given back to the file system has blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotBacking {
    /// Blocks in the file.
    Blocks,
    /// Blocks or none.
    Unknown,
}
