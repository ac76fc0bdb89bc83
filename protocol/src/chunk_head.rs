//! The heads of structured reply chunks, which a server sends before data that it does not copy.
//!
//! ```text
//!   | magic u32 | flags u16 | type u16 | cookie u64 | length u32 | payload ... |
//! ```
//!
//! Source: "Structured reply chunk message", "Structured reply flags", "Structured reply types".

use bytes::{BufMut, BytesMut};

use crate::constants::{CHUNK_FLAG_DONE, CHUNK_MAGIC};
use crate::limits::BLOCK_DESCRIPTORS_MAX;
use crate::request::Cookie;
use crate::status_flags::StatusFlags;

pub(crate) const HEADER_BYTES: usize = 20;

wire_enum! {
    pub(crate) enum ChunkType: u16 {
        None = 0,
        OffsetData = 1,
        OffsetHole = 2,
        BlockStatus = 5,
        Error = 0x8001,
        ErrorOffset = 0x8002,
    }
}

/// Whether a chunk is the last of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Further chunks follow.
    Follows,
    /// It is the last (`NBD_REPLY_FLAG_DONE`).
    Done,
}

/// The status of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDescriptor {
    /// So many bytes, behind those of the descriptor before; never zero.
    pub len: u32,
    /// What is known of them, in the context of the chunk.
    pub flags: StatusFlags,
}

/// A chunk that only ends a structured reply (`NBD_REPLY_TYPE_NONE`).
#[inline]
pub fn encode_none(out: &mut BytesMut, cookie: Cookie) {
    put_header(out, cookie, More::Done, ChunkType::None, 0);
}

/// The head of a chunk with `len` bytes of the export from `offset` on; the data is to follow
/// (`NBD_REPLY_TYPE_OFFSET_DATA`). Pass `More::Done` only when no error can turn up any more.
///
/// # Panics
/// When `len` is zero ("each chunk MUST describe at least one byte") or beyond 4 GiB - 9.
#[inline]
pub fn encode_offset_data(out: &mut BytesMut, cookie: Cookie, offset: u64, len: u32, more: More) {
    assert_ne!(len, 0, "a data chunk without data");
    put_header(out, cookie, more, ChunkType::OffsetData, 8 + len);
    out.put_u64(offset);
}

/// A chunk for `len` zero bytes of the export from `offset` on (`NBD_REPLY_TYPE_OFFSET_HOLE`).
///
/// # Panics
/// When `len` is zero.
#[inline]
pub fn encode_hole(out: &mut BytesMut, cookie: Cookie, offset: u64, len: u32, more: More) {
    assert_ne!(len, 0, "a hole of nothing");
    put_header(out, cookie, more, ChunkType::OffsetHole, 12);
    out.put_u64(offset);
    out.put_u32(len);
}

/// A chunk that describes, for one context, the range of a BLOCK_STATUS from its offset on
/// (`NBD_REPLY_TYPE_BLOCK_STATUS`). One for each selected context, the last one `More::Done`.
///
/// # Panics
/// Without descriptors, with an empty one, and with more than [`BLOCK_DESCRIPTORS_MAX`].
pub fn encode_block_status(
    out: &mut BytesMut,
    cookie: Cookie,
    context_id: u32,
    descriptors: &[BlockDescriptor],
    more: More,
) {
    assert!(!descriptors.is_empty(), "a block status chunk without descriptors");
    assert!(descriptors.len() <= BLOCK_DESCRIPTORS_MAX, "too many block descriptors");
    put_header(out, cookie, more, ChunkType::BlockStatus, 4 + 8 * descriptors.len() as u32);
    out.put_u32(context_id);
    for descriptor in descriptors {
        assert_ne!(descriptor.len, 0, "an empty block descriptor");
        out.put_u32(descriptor.len);
        out.put_u32(descriptor.flags.bits());
    }
}

#[inline]
pub(crate) fn put_header(
    out: &mut BytesMut,
    cookie: Cookie,
    more: More,
    chunk_type: ChunkType,
    len: u32,
) {
    let flags = match more {
        More::Follows => 0,
        More::Done => CHUNK_FLAG_DONE,
    };
    let mut bytes = [0; HEADER_BYTES];
    let mut rest = &mut bytes[..];
    rest.put_u32(CHUNK_MAGIC);
    rest.put_u16(flags);
    rest.put_u16(chunk_type.to_wire());
    rest.put_u64(cookie.0);
    rest.put_u32(len);
    out.put_slice(&bytes);
}
