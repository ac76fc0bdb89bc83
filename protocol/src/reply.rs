//! Replies of the transmission phase.
//!
//! ```text
//!   simple: | magic u32 | error u32 | cookie u64 |  then, for a READ that succeeded, its data
//!   chunk:  see `chunk`
//! ```
//!
//! The `encode_*` functions are what a server uses: they append headers only, so that data can follow without
//! a copy. [`Reply::decode`] is the client's side of them.
//!
//! Which kind: a READ is answered by one simple reply, or by chunks where they were negotiated ("MUST NOT use
//! a simple reply for `NBD_CMD_READ`"). The success of a command without data is a simple reply in both cases
//! (MAY, and four bytes shorter). Failures go as error chunks where possible, because only these carry a text
//! (SHOULD).
//!
//! Source: "Simple reply message", "Structured reply chunk message".

use bytes::{Buf, BufMut, BytesMut};

use crate::chunk::{self, BlockDescriptor, Chunk, ChunkBody, ChunkType};
use crate::constants::{CHUNK_MAGIC, SIMPLE_REPLY_MAGIC};
use crate::error::{DecodeError, WireError};
use crate::limits::BLOCK_DESCRIPTORS_MAX;
use crate::request::Cookie;
use crate::text::Text;

/// Which replies were negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// Simple replies only.
    Simple,
    /// Chunks for READ and BLOCK_STATUS, either kind for the rest.
    Structured,
}

/// Whether a chunk is the last of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Further chunks follow.
    Follows,
    /// It is the last (`NBD_REPLY_FLAG_DONE`).
    Done,
}

/// A simple reply, without the data of a READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// Of the request.
    pub cookie: Cookie,
    /// How it went.
    pub result: Result<(), WireError>,
}

/// Any reply, as a client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple one. If it says that a READ succeeded, as many bytes as were asked for follow in the stream;
    /// only who sent the request knows.
    Simple(SimpleReply),
    /// A chunk, with all its data.
    Chunk(Chunk),
}

/// The command succeeded. For a READ in simple mode the data is to follow, all of it; in structured mode use
/// [`encode_offset_data`], [`encode_hole`], [`encode_none`].
#[inline]
pub fn encode_success(out: &mut BytesMut, cookie: Cookie) {
    SimpleReply { cookie, result: Ok(()) }.encode(out);
}

/// The command failed. `text` goes along where the mode allows; words of the client in it are to be
/// [`escaped`](crate::escaped).
#[cold]
pub fn encode_failure(out: &mut BytesMut, cookie: Cookie, mode: ReplyMode, error: WireError, text: &str) {
    match mode {
        ReplyMode::Simple => SimpleReply { cookie, result: Err(error) }.encode(out),
        ReplyMode::Structured => {
            let body = ChunkBody::Error { error, text: Text::message(text) };
            Chunk { cookie, more: More::Done, body }.encode(out);
        }
    }
}

/// A chunk that only ends a structured reply (`NBD_REPLY_TYPE_NONE`).
#[inline]
pub fn encode_none(out: &mut BytesMut, cookie: Cookie) {
    chunk::put_header(out, cookie, More::Done, ChunkType::None, 0);
}

/// The head of a chunk with `len` bytes of the export from `offset` on; the data is to follow
/// (`NBD_REPLY_TYPE_OFFSET_DATA`). Pass `More::Done` only when no error can turn up any more.
///
/// # Panics
/// When `len` is zero ("each chunk MUST describe at least one byte") or beyond 4 GiB - 9.
#[inline]
pub fn encode_offset_data(out: &mut BytesMut, cookie: Cookie, offset: u64, len: u32, more: More) {
    assert_ne!(len, 0, "a data chunk without data");
    chunk::put_header(out, cookie, more, ChunkType::OffsetData, 8 + len);
    out.put_u64(offset);
}

/// A chunk for `len` zero bytes of the export from `offset` on (`NBD_REPLY_TYPE_OFFSET_HOLE`).
///
/// # Panics
/// When `len` is zero.
#[inline]
pub fn encode_hole(out: &mut BytesMut, cookie: Cookie, offset: u64, len: u32, more: More) {
    assert_ne!(len, 0, "a hole of nothing");
    chunk::put_header(out, cookie, more, ChunkType::OffsetHole, 12);
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
    chunk::put_header(out, cookie, more, ChunkType::BlockStatus, 4 + 8 * descriptors.len() as u32);
    out.put_u32(context_id);
    for descriptor in descriptors {
        assert_ne!(descriptor.len, 0, "an empty block descriptor");
        out.put_u32(descriptor.len);
        out.put_u32(descriptor.flags.bits());
    }
}

impl SimpleReply {
    /// Bytes on the wire, without data.
    pub const BYTES: usize = 16;

    /// Appends the reply.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        let error = match self.result {
            Ok(()) => 0,
            Err(error) => error.to_wire(),
        };
        let mut bytes = [0; SimpleReply::BYTES];
        let mut rest = &mut bytes[..];
        rest.put_u32(SIMPLE_REPLY_MAGIC);
        rest.put_u32(error);
        rest.put_u64(self.cookie.0);
        out.put_slice(&bytes);
    }
}

impl Reply {
    /// Appends the reply.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Reply::Simple(reply) => reply.encode(out),
            Reply::Chunk(chunk) => chunk.encode(out),
        }
    }

    /// Takes a reply from the front of `buf`; `None` when there are too few bytes.
    ///
    /// # Errors
    /// Any: the server's bytes make no sense, or a chunk is longer than
    /// [`CHUNK_BYTES_MAX`](crate::limits::CHUNK_BYTES_MAX); the connection must end.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Reply>, DecodeError> {
        let Some(magic) = buf.first_chunk().map(|magic| u32::from_be_bytes(*magic)) else { return Ok(None) };
        match magic {
            SIMPLE_REPLY_MAGIC => {
                let Some(mut header) = buf.get(4..SimpleReply::BYTES) else { return Ok(None) };
                let result = match WireError::from_wire(header.get_u32()) {
                    None => Ok(()),
                    Some(error) => Err(error),
                };
                let cookie = Cookie(header.get_u64());
                buf.advance(SimpleReply::BYTES);
                Ok(Some(Reply::Simple(SimpleReply { cookie, result })))
            }
            CHUNK_MAGIC => Ok(Chunk::decode(buf)?.map(Reply::Chunk)),
            found => Err(DecodeError::BadMagic { message: "reply", found: found.into() }),
        }
    }
}
