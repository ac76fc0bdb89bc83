//! The status flags of a block descriptor: what their bits mean is for the context to say.
//!
//! The bits are the same 32 for every context. So what stands on the wire and what it says once the context
//! is known are two types: a reader has to name the context, [`StatusFlags::allocation`], and a writer names
//! it by what it converts from.
//!
//! Source: "Metadata querying" ("the semantics of which are defined by the metadata context"),
//! "`base:allocation` metadata context", `NBD_REPLY_TYPE_BLOCK_STATUS` under "Structured reply types".

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
}

impl From<AllocationFlags> for StatusFlags {
    fn from(flags: AllocationFlags) -> StatusFlags {
        StatusFlags(flags.bits())
    }
}
