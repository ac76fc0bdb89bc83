//! An extent of data in the cache: up to sixteen blocks that follow each other, in the pieces in
//! which they were read.

use super::{
    s3_fifo::Origin,
    shard::{Parts, Use},
};
use crate::base::{Address, BLOCK_BYTES};
use bytes::Bytes;
use smallvec::SmallVec;

/// Blocks of an extent (64 KiB). It begins at a multiple of that within its segment.
pub(crate) const EXTENT_BLOCKS: u64 = 16;

/// Overhead of a buffer in bytes: its place in the extent, its reference count, the allocator's
/// head.
pub(super) const BUFFER_BYTES: usize = 64;

/// A part of a buffer that is at most one in so many of its bytes is copied out, so that the
/// replies of a client that does not take them hold no more than this many times what they were
/// admitted for.
const COPIED_PART: usize = 4;

/// The number of the extent that a block lies in.
pub(crate) fn extent_of(block: Address) -> u64 {
    block.raw() / EXTENT_BLOCKS
}

/// Blocks from `first` to the end of its extent.
pub(crate) fn blocks_to_border(first: Address) -> u32 {
    (EXTENT_BLOCKS - first.raw() % EXTENT_BLOCKS) as u32
}

/// What the cache has of some blocks: of the first, and of as many behind it as share its lot.
#[derive(Debug)]
pub(crate) enum Look<T> {
    /// These.
    Hit(T),
    /// So many are not there.
    Miss(u32),
}

/// What is in memory of an extent.
#[derive(Debug, Default)]
pub(crate) struct CachedExtent {
    /// None of them overlap.
    buffers: SmallVec<[Buffer; 1]>,
    /// Blocks that a request has used, a bit each.
    used: u16,
    /// Blocks that were read ahead and no request has used yet.
    ahead: u16,
}

/// Blocks that were read together, in memory of their own.
#[derive(Debug)]
struct Buffer {
    first: u8,
    data: Bytes,
}

/// The bits of `blocks` blocks from `first` on.
fn bits(first: u32, blocks: u32) -> u16 {
    (((1u32 << blocks) - 1) << first) as u16
}

/// A block's number within its extent.
fn within(block: Address) -> u32 {
    (block.raw() % EXTENT_BLOCKS) as u32
}

impl Buffer {
    fn first(&self) -> u32 {
        u32::from(self.first)
    }

    fn end(&self) -> u32 {
        self.first() + (self.data.len() / BLOCK_BYTES) as u32
    }
}

impl Parts for CachedExtent {
    fn used(&self) -> u16 {
        self.used
    }
}

impl CachedExtent {
    /// Whether a block is there.
    pub(super) fn holds(&self, block: Address) -> bool {
        self.buffer_at(within(block)).is_some()
    }

    fn buffer_at(&self, at: u32) -> Option<&Buffer> {
        self.buffers.iter().find(|buffer| buffer.first() <= at && at < buffer.end())
    }

    /// Blocks of these that are missing from the first on.
    pub(super) fn missing(&self, first: Address, blocks: u32) -> u32 {
        let at = within(first);
        let next = self.buffers.iter().map(Buffer::first).filter(|first| *first >= at).min();
        match self.buffer_at(at) {
            Some(_) => 0,
            None => next.map_or(blocks, |next| blocks.min(next - at)),
        }
    }

    /// Blocks from `first` on, as many as lie in one buffer, at most `blocks`.
    pub(super) fn get(&self, first: Address, blocks: u32) -> Option<Bytes> {
        let at = within(first);
        let buffer = self.buffer_at(at)?;
        let end = buffer.end().min(at + blocks);
        let from = (at - buffer.first()) as usize * BLOCK_BYTES;
        let part = from..from + (end - at) as usize * BLOCK_BYTES;
        // A part keeps all of the buffer in memory, also when the cache has evicted it.
        if part.len() * COPIED_PART <= buffer.data.len() {
            return Some(Bytes::copy_from_slice(&buffer.data[part]));
        }
        Some(buffer.data.slice(part))
    }

    /// The same, and counts the use.
    pub(super) fn take(&mut self, first: Address, blocks: u32) -> Option<(Bytes, Use)> {
        let data = self.get(first, blocks)?;
        let taken = bits(within(first), (data.len() / BLOCK_BYTES) as u32);
        let ahead_bytes = (self.ahead & taken).count_ones() * BLOCK_BYTES as u32;
        let is_again = self.used & taken != 0;
        self.used |= taken;
        self.ahead &= !taken;
        Some((data, Use { is_again, ahead_bytes }))
    }

    /// Adds blocks, none of which is there yet: all that their memory holds.
    pub(super) fn add(&mut self, first: Address, data: Bytes, origin: Origin) {
        let at = within(first);
        let added = bits(at, (data.len() / BLOCK_BYTES) as u32);
        match origin {
            Origin::Demand => self.used |= added,
            Origin::Readahead => self.ahead |= added,
        }
        self.buffers.push(Buffer { first: at as u8, data });
    }
}
