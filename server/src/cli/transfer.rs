//! Copying a raw image into a volume and out of it, leaving out what is zero on either side.
//!
//! ```text
//!   import   file: SEEK_DATA, SEEK_HOLE ─► chunks ─► blocks of zeroes apart from blocks of data ─► zero, write ─► flush
//!   export   volume: block status ─► data spans, in chunks ─► read ─► the same parting ─► write; the rest stays a hole
//! ```
//!
//! The loops think in one request after the other; [`Device`] keeps several of them in flight.

use super::{
    interrupt::Interrupt,
    progress::Progress,
    raw_image::{Segment, Source, Target},
};
use bytes::{Bytes, BytesMut};
use std::{fmt, io};

/// Bytes of one read or write request. A guess: large enough that the cost of a request is small beside it, small enough
/// that a dozen of them in flight are no memory worth speaking of.
pub(super) const CHUNK_BYTES: u64 = 1 << 20;

/// Zeroes are looked for in blocks of the store; a smaller hole would save nothing there.
const BLOCK_BYTES: usize = 4096;

/// Most bytes of one zero request. A request's length has 32 bits; whole GiB keep its ends on block boundaries.
pub(super) const ZERO_BYTES_MAX: u64 = 1 << 30;

/// How much of a volume is asked about, then read, in one go. It bounds the spans that are kept in between.
const WINDOW_BYTES: u64 = 1 << 30;

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Span {
    pub(super) fn end(self) -> u64 {
        self.offset + self.len
    }

    /// The span in pieces of at most `len_max` bytes.
    pub(super) fn pieces(self, len_max: u64) -> impl Iterator<Item = Span> {
        let piece = move |offset: u64| Span { offset, len: len_max.min(self.end() - offset) };
        (0..self.len.div_ceil(len_max)).map(move |i| piece(self.offset + i * len_max))
    }
}

/// What a part of a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) len: u64,
    pub(super) content: Content,
}

/// Whether there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Data,
    /// Reads as zeroes, reserved or not.
    Zero,
}

/// A volume as an NBD client has it. Requests may be in flight together, and end in any order.
pub(super) trait Device {
    /// Size of the volume.
    fn size_bytes(&self) -> u64;

    /// What `span` holds, from its beginning: at least one entry, perhaps not to the end of the span.
    fn extents(&mut self, span: Span) -> io::Result<Vec<Extent>>;

    /// Reads every span, several at a time, and hands each to `take` with its offset as it comes in.
    fn read(
        &mut self,
        spans: &mut dyn Iterator<Item = Span>,
        take: &mut dyn FnMut(u64, Bytes) -> Result<(), CopyError>,
    ) -> Result<(), CopyError>;

    /// Begins to write. An error may belong to an earlier request.
    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()>;

    /// Begins to turn `span`, at most [`ZERO_BYTES_MAX`] bytes, into a hole that reads as zeroes. Errors as for `write`.
    fn zero(&mut self, span: Span) -> io::Result<()>;

    /// Waits for all that was begun, and makes it durable.
    fn flush(&mut self) -> io::Result<()>;
}

/// Which side failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Image(io::Error),
    Device(io::Error),
    /// Neither: somebody wants us to end.
    Interrupted,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyError::Image(error) => write!(f, "image: {error}"),
            CopyError::Device(error) => write!(f, "volume: {error}"),
            CopyError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for CopyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CopyError::Image(error) | CopyError::Device(error) => Some(error),
            CopyError::Interrupted => None,
        }
    }
}

/// What the volume holds before an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Zeroes: it was made a moment ago.
    Zeroes,
    Anything,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// Bytes that were written because they are not zero.
    pub(super) data_bytes: u64,
}

/// Copies an image to the beginning of a volume, and makes it durable. What lies behind the image's end stays as it is.
pub(super) fn import(
    source: &Source,
    device: &mut impl Device,
    before: Before,
    progress: &Progress,
) -> Result<Copied, CopyError> {
    let mut importer = Importer { device, before, zeroes: None, copied: Copied::default() };
    let mut offset = 0;
    while offset < source.len_bytes() {
        match source.segment_at(offset).map_err(CopyError::Image)? {
            Segment::Hole(span) => {
                importer.zeroes(span)?;
                progress.advance(span.len);
                offset = span.end();
            }
            Segment::Data(span) => {
                for piece in span.pieces(CHUNK_BYTES) {
                    importer.chunk(piece.offset, source.read(piece).map_err(CopyError::Image)?)?;
                    progress.advance(piece.len);
                }
                offset = span.end();
            }
        }
    }
    importer.finish()
}

/// Copies what a reader has, `len_bytes` as they were counted before, as [`import`] does.
pub(super) fn import_stream(
    reader: &mut dyn io::Read,
    len_bytes: u64,
    device: &mut impl Device,
    before: Before,
    progress: &Progress,
) -> Result<Copied, CopyError> {
    let mut importer = Importer { device, before, zeroes: None, copied: Copied::default() };
    for piece in (Span { offset: 0, len: len_bytes }).pieces(CHUNK_BYTES) {
        let mut data = buffer(piece.len).map_err(CopyError::Image)?;
        reader.read_exact(&mut data).map_err(CopyError::Image)?;
        importer.chunk(piece.offset, data.freeze())?;
        progress.advance(piece.len);
    }
    if reader.read(&mut [0]).map_err(CopyError::Image)? > 0 {
        return Err(CopyError::Image(io::Error::other("it has become longer meanwhile")));
    }
    importer.finish()
}

struct Importer<'a, D> {
    device: &'a mut D,
    before: Before,
    /// Zeroes that were met but not sent, because more may follow.
    zeroes: Option<Span>,
    copied: Copied,
}

impl<D: Device> Importer<'_, D> {
    fn chunk(&mut self, offset: u64, data: Bytes) -> Result<(), CopyError> {
        for run in runs(&data) {
            let offset = offset + run.start as u64;
            match run.content {
                Content::Zero => self.zeroes(Span { offset, len: run.len as u64 })?,
                Content::Data => {
                    self.send_zeroes()?;
                    self.copied.data_bytes += run.len as u64;
                    let data = data.slice(run.start..run.start + run.len);
                    self.device.write(offset, data).map_err(CopyError::Device)?;
                }
            }
        }
        Ok(())
    }

    fn zeroes(&mut self, span: Span) -> Result<(), CopyError> {
        match &mut self.zeroes {
            Some(zeroes) if zeroes.end() == span.offset => zeroes.len += span.len,
            Some(_) | None => {
                self.send_zeroes()?;
                self.zeroes = Some(span);
            }
        }
        Ok(())
    }

    fn send_zeroes(&mut self) -> Result<(), CopyError> {
        match (self.zeroes.take(), self.before) {
            (None, _) | (Some(_), Before::Zeroes) => Ok(()),
            (Some(span), Before::Anything) => span
                .pieces(ZERO_BYTES_MAX)
                .try_for_each(|piece| self.device.zero(piece))
                .map_err(CopyError::Device),
        }
    }

    fn finish(mut self) -> Result<Copied, CopyError> {
        self.send_zeroes()?;
        self.device.flush().map_err(CopyError::Device)?;
        Ok(self.copied)
    }
}

/// Copies a volume into an image of the same size.
pub(super) fn export(
    device: &mut impl Device,
    target: &Target,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Copied, CopyError> {
    let whole = Span { offset: 0, len: device.size_bytes() };
    let mut copied = Copied::default();
    for window in whole.pieces(WINDOW_BYTES) {
        let spans = data_spans(device, window, target, progress)?;
        let mut take = |offset: u64, data: Bytes| {
            if interrupt.has_come() {
                return Err(CopyError::Interrupted);
            }
            for run in runs(&data) {
                let at = offset + run.start as u64;
                match run.content {
                    Content::Zero => target.zero(Span { offset: at, len: run.len as u64 }),
                    Content::Data => {
                        copied.data_bytes += run.len as u64;
                        target.write(at, &data[run.start..run.start + run.len])
                    }
                }
                .map_err(CopyError::Image)?;
            }
            progress.advance(data.len() as u64);
            Ok(())
        };
        device.read(&mut spans.into_iter().flat_map(|span| span.pieces(CHUNK_BYTES)), &mut take)?;
    }
    Ok(copied)
}

/// The parts of a window that have to be read; what is zero is dealt with on the way.
fn data_spans(
    device: &mut impl Device,
    window: Span,
    target: &Target,
    progress: &Progress,
) -> Result<Vec<Span>, CopyError> {
    let mut spans: Vec<Span> = Vec::new();
    let mut offset = window.offset;
    while offset < window.end() {
        let asked = Span { offset, len: window.end() - offset };
        let before = offset;
        for extent in device.extents(asked).map_err(CopyError::Device)? {
            // A server may tell more than it was asked.
            let span = Span { offset, len: extent.len.min(window.end() - offset) };
            offset = span.end();
            match extent.content {
                Content::Zero => {
                    target.zero(span).map_err(CopyError::Image)?;
                    progress.advance(span.len);
                }
                Content::Data => match spans.last_mut() {
                    Some(last) if last.end() == span.offset => last.len += span.len,
                    Some(_) | None => spans.push(span),
                },
            }
        }
        if offset == before {
            return Err(CopyError::Device(io::Error::other("the server's block status says nothing")));
        }
    }
    Ok(spans)
}

/// Neighbouring blocks that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    len: usize,
    content: Content,
}

/// The runs of a chunk. The last block may be short.
fn runs(data: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, block) in data.chunks(BLOCK_BYTES).enumerate() {
        let content = if is_zero(block) { Content::Zero } else { Content::Data };
        match runs.last_mut() {
            Some(run) if run.content == content => run.len += block.len(),
            Some(_) | None => runs.push(Run { start: i * BLOCK_BYTES, len: block.len(), content }),
        }
    }
    runs
}

/// Whether all bytes are zero, sixteen at a time: every byte of an image passes here.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// A buffer of `len` zero bytes, to be filled.
pub(super) fn buffer(len: u64) -> io::Result<BytesMut> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    Ok(BytesMut::zeroed(len))
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
pub(super) mod tests;
