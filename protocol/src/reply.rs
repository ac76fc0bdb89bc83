//! Replies of the transmission phase.
//!
//! ```text
//!   simple: | magic u32 | error u32 | cookie u64 |  then, for a READ that succeeded, its data
//!   chunk:  see `chunk`
//! ```
//!
//! The `encode_*` functions are what a server uses: they append headers only, so that data can
//! follow without a copy. [`Reply::decode`] is the client's side of them.
//!
//! Which kind: a READ is answered by one simple reply, or by chunks where they were negotiated
//! ("MUST NOT use a simple reply for `NBD_CMD_READ`"). The success of a command without data is a
//! simple reply in both cases (MAY, and four bytes shorter). Failures go as error chunks where
//! possible, because only these carry a text (SHOULD).
//!
//! Source: "Simple reply message", "Structured reply chunk message".

use bytes::{Buf, BufMut, BytesMut};

use crate::chunk::{Chunk, ChunkBody};
use crate::chunk_head::More;
use crate::constants::{CHUNK_MAGIC, SIMPLE_REPLY_MAGIC};
use crate::error::{DecodeError, WireError};
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
    /// A simple one. If it says that a READ succeeded, as many bytes as were asked for follow in
    /// the stream; only who sent the request knows.
    Simple(SimpleReply),
    /// A chunk, with all its data.
    Chunk(Chunk),
}

/// The command succeeded. For a READ in simple mode the data is to follow, all of it; in structured
/// mode use [`encode_offset_data`](crate::encode_offset_data), [`encode_hole`](crate::encode_hole),
/// [`encode_none`](crate::encode_none).
#[inline]
pub fn encode_success(out: &mut BytesMut, cookie: Cookie) {
    SimpleReply { cookie, result: Ok(()) }.encode(out);
}

/// The command failed. `text` goes along where the mode allows; words of the client in it are to be
/// [`escaped`](crate::escaped).
#[cold]
pub fn encode_failure(
    out: &mut BytesMut,
    cookie: Cookie,
    mode: ReplyMode,
    error: WireError,
    text: &str,
) {
    match mode {
        ReplyMode::Simple => SimpleReply { cookie, result: Err(error) }.encode(out),
        ReplyMode::Structured => {
            let body = ChunkBody::Error { error, text: Text::message(text) };
            Chunk { cookie, more: More::Done, body }.encode(out);
        }
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
        let Some(magic) = buf.first_chunk().map(|magic| u32::from_be_bytes(*magic)) else {
            return Ok(None);
        };
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
