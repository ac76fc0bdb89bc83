//! The status flags of a block descriptor: what their bits mean is for the context to say.
//!
//! The bits are the same 32 for every context, and bit 0 is a hole in one and a change in the
//! other. So there are three types: what stands on the wire, and what it says once the context is
//! known. A reader has to name the context by [`StatusFlags::allocation`] or
//! [`StatusFlags::change`]; a writer names it by what it converts from.
//!
//! Source: "Metadata querying" ("the semantics of which are defined by the metadata context"),
//! "`base:allocation` metadata context", `NBD_REPLY_TYPE_BLOCK_STATUS` under "Structured reply
//! types".

/// Status flags as they are on the wire, of a context that only the descriptor's chunk knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusFlags(u32);

flag_set! {
    /// What is known of a range in the context `base:allocation`.
    pub struct AllocationFlags: u32 {
        /// `NBD_STATE_HOLE`: not allocated; a write there may find no room.
        HOLE = 0,
        /// `NBD_STATE_ZERO`: reads as zeroes.
        ZERO = 1,
    }
}

flag_set! {
    /// What is known of a range in a context `x-sandstone:changed-since:<snapshot id>`.
    pub struct ChangeFlags: u32 {
        /// It may differ from the snapshot; where it is clear, nothing differs. The bit of
        /// `NBD_STATE_DIRTY` in `qemu:dirty-bitmap:`, so that what reads one reads the other.
        CHANGED = 0,
    }
}

impl StatusFlags {
    /// The flags with exactly these bits, as they come from the wire.
    pub const fn from_bits(bits: u32) -> StatusFlags {
        StatusFlags(bits)
    }

    /// The bits, as they go to the wire.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What they say if they are of `base:allocation`.
    pub const fn allocation(self) -> AllocationFlags {
        AllocationFlags::from_bits(self.0)
    }

    /// What they say if they are of a context `x-sandstone:changed-since:<snapshot id>`.
    pub const fn change(self) -> ChangeFlags {
        ChangeFlags::from_bits(self.0)
    }
}

impl From<AllocationFlags> for StatusFlags {
    fn from(flags: AllocationFlags) -> StatusFlags {
        StatusFlags(flags.bits())
    }
}

impl From<ChangeFlags> for StatusFlags {
    fn from(flags: ChangeFlags) -> StatusFlags {
        StatusFlags(flags.bits())
    }
}
