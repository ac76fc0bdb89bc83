//! Structured reply chunks.
//!
//! ```text
//!   | magic u32 | flags u16 | type u16 | cookie u64 | length u32 | payload ... |
//!
//!   OFFSET_DATA   | offset u64 | data ... |
//!   OFFSET_HOLE   | offset u64 | size u32 |
//!   BLOCK_STATUS  | context id u32 | (length u32, status flags u32) ... |
//!   ERROR         | error u32 | text length u16 | text ... |
//!   ERROR_OFFSET  | error u32 | text length u16 | text ... | offset u64 |
//! ```
//!
//! Source: "Structured reply chunk message", "Structured reply flags", "Structured reply types".

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::chunk_head::{
    BlockDescriptor, ChunkType, HEADER_BYTES, More, encode_block_status, encode_hole, encode_none,
    encode_offset_data, put_header,
};
use crate::constants::{CHUNK_FLAG_DONE, CHUNK_TYPE_ERROR_BIT};
use crate::error::{DecodeError, WireError};
use crate::limits::CHUNK_BYTES_MAX;
use crate::request::Cookie;
use crate::status_flags::StatusFlags;
use crate::text::Text;

/// One chunk of a structured reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of the request.
    pub cookie: Cookie,
    /// Whether it is the last.
    pub more: More,
    /// What it says.
    pub body: ChunkBody,
}

/// What a chunk says. Offsets are bytes from the beginning of the export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkBody {
    /// Nothing; always the last.
    None,
    /// Data of a READ.
    OffsetData {
        /// Where it belongs.
        offset: u64,
        /// Never empty.
        data: Bytes,
    },
    /// Zeroes of a READ.
    OffsetHole {
        /// Where they belong.
        offset: u64,
        /// How many bytes; never zero.
        len: u32,
    },
    /// One context's status of the range of a BLOCK_STATUS, from its offset on.
    BlockStatus {
        /// Id of the context, as SET_META_CONTEXT told it.
        context_id: u32,
        /// Never empty.
        descriptors: Vec<BlockDescriptor>,
    },
    /// The request failed.
    Error {
        /// Why.
        error: WireError,
        /// Why, for people; may be empty.
        text: Text,
    },
    /// The request failed at some byte.
    ErrorOffset {
        /// Why.
        error: WireError,
        /// Why, for people; may be empty.
        text: Text,
        /// Where.
        offset: u64,
    },
    /// The request failed, and the server said more than this crate understands. "It MUST consider
    /// the current reply as errored, but MAY continue transmission".
    UnknownError {
        /// Type of the chunk; bit 15 is set.
        code: u16,
        /// Why.
        error: WireError,
        /// Why, for people; may be empty.
        text: Text,
    },
}

fn put_error(
    out: &mut BytesMut,
    (cookie, more): (Cookie, More),
    chunk_type: ChunkType,
    (error, text): (WireError, &Text),
    offset: Option<u64>,
) {
    let offset_len = if offset.is_some() { 8 } else { 0 };
    put_header(out, cookie, more, chunk_type, 6 + text.len() as u32 + offset_len);
    out.put_u32(error.to_wire());
    out.put_u16(text.len() as u16); // at most STRING_BYTES_MAX
    out.put_slice(text.as_bytes());
    if let Some(offset) = offset {
        out.put_u64(offset);
    }
}

impl Chunk {
    /// Appends the chunk, data included. On the data path use [`encode_offset_data`] and send the
    /// data behind it.
    ///
    /// # Panics
    /// When a content chunk is empty, see the `encode_*` functions.
    pub fn encode(&self, out: &mut BytesMut) {
        let Chunk { cookie, more, ref body } = *self;
        match body {
            ChunkBody::None => encode_none(out, cookie),
            ChunkBody::OffsetData { offset, data } => {
                let len = u32::try_from(data.len()).expect("a data chunk beyond 4 GiB");
                encode_offset_data(out, cookie, *offset, len, more);
                out.put_slice(data);
            }
            ChunkBody::OffsetHole { offset, len } => encode_hole(out, cookie, *offset, *len, more),
            ChunkBody::BlockStatus { context_id, descriptors } => {
                encode_block_status(out, cookie, *context_id, descriptors, more);
            }
            ChunkBody::Error { error, text } => {
                put_error(out, (cookie, more), ChunkType::Error, (*error, text), None);
            }
            ChunkBody::ErrorOffset { error, text, offset } => {
                put_error(
                    out,
                    (cookie, more),
                    ChunkType::ErrorOffset,
                    (*error, text),
                    Some(*offset),
                );
            }
            ChunkBody::UnknownError { code, error, text } => {
                put_error(out, (cookie, more), ChunkType::from_wire(*code), (*error, text), None);
            }
        }
    }

    /// Takes a chunk from the front of `buf`, which begins with the magic of one.
    pub(crate) fn decode(buf: &mut BytesMut) -> Result<Option<Chunk>, DecodeError> {
        let Some(mut header) = buf.get(4..HEADER_BYTES) else { return Ok(None) };
        // "Clients MUST ignore unrecognized flags."
        let more = if header.get_u16() & CHUNK_FLAG_DONE == 0 { More::Follows } else { More::Done };
        let code = header.get_u16();
        let cookie = Cookie(header.get_u64());
        let len = header.get_u32();
        if len > CHUNK_BYTES_MAX {
            let (len, max) = (len.into(), CHUNK_BYTES_MAX.into());
            return Err(DecodeError::TooLong { message: "reply chunk", len, max });
        }
        if buf.len() - HEADER_BYTES < len as usize {
            return Ok(None);
        }
        buf.advance(HEADER_BYTES);
        let body = ChunkBody::parse(code, buf.split_to(len as usize).freeze())?;
        if body == ChunkBody::None && more == More::Follows {
            return Err(malformed("a chunk of type NONE must be the last"));
        }
        Ok(Some(Chunk { cookie, more, body }))
    }
}

impl ChunkBody {
    fn parse(code: u16, mut data: Bytes) -> Result<ChunkBody, DecodeError> {
        Ok(match ChunkType::from_wire(code) {
            ChunkType::None if data.is_empty() => ChunkBody::None,
            ChunkType::OffsetData if data.len() > 8 => {
                ChunkBody::OffsetData { offset: data.get_u64(), data }
            }
            ChunkType::OffsetHole if data.len() == 12 => match (data.get_u64(), data.get_u32()) {
                (_, 0) => return Err(malformed("a hole of nothing")),
                (offset, len) => ChunkBody::OffsetHole { offset, len },
            },
            ChunkType::BlockStatus if data.len() >= 12 && (data.len() - 4).is_multiple_of(8) => {
                let context_id = data.get_u32();
                let mut descriptors = Vec::with_capacity(data.len() / 8);
                while data.has_remaining() {
                    let (len, flags) = (data.get_u32(), StatusFlags::from_bits(data.get_u32()));
                    if len == 0 {
                        return Err(malformed("an empty block descriptor"));
                    }
                    descriptors.push(BlockDescriptor { len, flags });
                }
                ChunkBody::BlockStatus { context_id, descriptors }
            }
            ChunkType::None
            | ChunkType::OffsetData
            | ChunkType::OffsetHole
            | ChunkType::BlockStatus => {
                return Err(malformed("its length does not fit its type"));
            }
            ChunkType::Error => {
                let (error, text) = take_error(&mut data)?;
                ChunkBody::Error { error, text }
            }
            ChunkType::ErrorOffset => {
                let (error, text) = take_error(&mut data)?;
                let offset = data
                    .try_get_u64()
                    .map_err(|_| malformed("the offset of the error is missing"))?;
                ChunkBody::ErrorOffset { error, text, offset }
            }
            ChunkType::Unknown(code) if code & CHUNK_TYPE_ERROR_BIT != 0 => {
                let (error, text) = take_error(&mut data)?;
                ChunkBody::UnknownError { code, error, text }
            }
            // "For all other messages with unknown or unexpected type [...] the client MUST
            // initiate a hard disconnect."
            ChunkType::Unknown(_) => return Err(malformed("unknown type")),
        })
    }
}

/// The fields that all error chunks begin with. What follows the text is left in `data`. A text
/// that is no good string is repaired: the error matters more.
fn take_error(data: &mut Bytes) -> Result<(WireError, Text), DecodeError> {
    let too_short = |_| malformed("an error chunk that is too short");
    let error = WireError::from_wire(data.try_get_u32().map_err(too_short)?)
        .ok_or(malformed("an error chunk that says success"))?;
    let text_len = usize::from(data.try_get_u16().map_err(too_short)?);
    if text_len > data.len() {
        return Err(malformed("the text of an error is longer than its chunk"));
    }
    let text = data.split_to(text_len);
    let text =
        Text::from_utf8(&text).unwrap_or_else(|_| Text::message(&String::from_utf8_lossy(&text)));
    Ok((error, text))
}

fn malformed(flaw: &'static str) -> DecodeError {
    DecodeError::Malformed { message: "reply chunk", flaw }
}
