//! What a slot of the store is, and what becomes of a free one.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Free since before the store was opened; may have blocks in the file, which nothing on disk tells.
    Unknown,
    /// Free; without blocks in the file.
    Raw,
    /// Free; has some of its blocks in the file.
    Partial,
    /// Free; has its blocks in the file.
    Allocated,
    /// Free; written.
    Prepared,
    /// Holds a segment, or is being worked on.
    Used,
}

impl SlotState {
    pub(super) fn is_free(self) -> bool {
        match self {
            Self::Unknown | Self::Raw | Self::Partial | Self::Allocated | Self::Prepared => true,
            Self::Used => false,
        }
    }

    /// Whether a segment can be written into it without a block more for the file.
    pub(super) fn is_backed(self) -> bool {
        match self {
            Self::Allocated | Self::Prepared => true,
            Self::Unknown | Self::Raw | Self::Partial | Self::Used => false,
        }
    }
}

/// What has become of a free slot that was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worked {
    /// It has no blocks in the file.
    Punched,
    /// It has its blocks.
    Allocated,
    /// It was written throughout.
    Written,
}

/// What a free slot had that is to be given back to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Had {
    /// Blocks in the file.
    Blocks,
    /// Blocks or none.
    Unknown,
}
