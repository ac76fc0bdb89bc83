//! The units of the store: blocks, segments, addresses and log sequence numbers.
//!
//! Index, count and size differ: each unit is its own type, and a name says when it counts bytes.
//! Source: DESIGN section 2.

use std::fmt;

/// Bytes in a block: the unit of mapping and of checksums.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks in a leaf of the map (1 MiB of a volume).
pub(crate) const LEAF_BLOCKS: u64 = 256;
/// Largest volume: four radix levels of 256 over 4 KiB blocks.
pub const VOLUME_BYTES_MAX: u64 = 16 << 40;
/// Blocks in a segment, at most: an address keeps 14 bits for the block.
pub(crate) const SEGMENT_BLOCKS_MAX: u32 = 1 << BLOCK_BITS;

const BLOCK_BITS: u32 = 14;

const _: () = assert!(VOLUME_BYTES_MAX / BLOCK_BYTES as u64 == 1 << 32);

/// Number of a segment. Numbers only grow and are never used twice, so an address names the same
/// bytes forever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SegmentId(pub(crate) u64);

/// Place of a segment in the store file: the `n`th stretch that is as long as a segment. Slots are
/// reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Slot(pub(crate) u32);

/// One block of the store: segment and block within it. Never zero, because segment numbers begin
/// at one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(u64);

impl Address {
    /// The address of `block` (below [`SEGMENT_BLOCKS_MAX`]) in `segment`.
    pub(crate) fn new(segment: SegmentId, block: u32) -> Self {
        assert!(block < SEGMENT_BLOCKS_MAX);
        assert!(segment.0 > 0 && segment.0 < 1 << 48);
        Self(segment.0 << BLOCK_BITS | u64::from(block))
    }

    /// Reads an address from disk; `None` for a number that no address can have.
    pub(crate) fn from_raw(raw: u64) -> Option<Self> {
        let segment = raw >> BLOCK_BITS;
        (segment > 0 && segment < 1 << 48).then_some(Self(raw))
    }

    /// The number on disk.
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// The segment.
    pub(crate) fn segment(self) -> SegmentId {
        SegmentId(self.0 >> BLOCK_BITS)
    }

    /// The block within the segment.
    pub(crate) fn block(self) -> u32 {
        (self.0 & u64::from(SEGMENT_BLOCKS_MAX - 1)) as u32
    }

    /// The address `blocks` further on in the same segment.
    pub(crate) fn plus(self, blocks: u32) -> Self {
        Self::new(self.segment(), self.block() + blocks)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment().0, self.block())
    }
}

/// Number of a log record. The store has one counter; it grows by one for each record and has no
/// gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// The record `n` further on.
    pub(crate) fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

/// Number of a volume within its store, as log records carry it. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct VolumeNumber(pub(crate) u32);

/// Number of whole blocks that `bytes` take, rounded up.
pub(crate) fn blocks_for(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).expect("below 16 TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_keeps_segment_and_block() {
        let a = Address::new(SegmentId(77), 16383);
        assert_eq!((a.segment(), a.block()), (SegmentId(77), 16383));
        assert_eq!(Address::from_raw(a.raw()), Some(a));
        assert_eq!(Address::from_raw(16383), None);
        assert!(Address::new(SegmentId(78), 0) > a);
    }
}
