//! Ranges of bytes of an image or a volume.

use bytes::BytesMut;
use std::io;

/// Bytes of one read or write request. A guess: large enough that the cost of a request is small
/// beside it, small enough that a dozen of them in flight are no memory worth speaking of.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// Most bytes of one zero request. A request's length has 32 bits; whole GiB keep its ends on block
/// boundaries.
pub(crate) const ZERO_BYTES_MAX: u64 = 1 << 30;

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Span {
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }

    /// The span in pieces of at most `len_max` bytes.
    pub(crate) fn pieces(self, len_max: u64) -> impl Iterator<Item = Span> {
        let piece = move |offset: u64| Span { offset, len: len_max.min(self.end() - offset) };
        (0..self.len.div_ceil(len_max)).map(move |i| piece(self.offset + i * len_max))
    }
}

/// What a part of a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) len: u64,
    pub(crate) content: Content,
}

/// Whether there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Data,
    /// Reads as zeroes, reserved or not.
    Zero,
}

/// Whether all bytes are zero, sixteen at a time: every byte of an image passes here.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// A buffer of `len` zero bytes, to be filled.
pub(crate) fn buffer(len: u64) -> io::Result<BytesMut> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    Ok(BytesMut::zeroed(len))
}
