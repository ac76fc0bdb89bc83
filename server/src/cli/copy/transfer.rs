//! Copying a raw image into a volume and out of it, leaving out what is zero on either side.
//!
//! ```text
//!   import   file: SEEK_DATA, SEEK_HOLE ─► chunks ─► blocks of zeroes apart from blocks of data
//!            ─► zero, write ─► flush
//!   export   volume: block status ─► data spans, in chunks ─► read ─► the same parting
//!            ─► write; the rest stays a hole
//! ```
//!
//! The loops think in one request after the other; [`Device`] keeps several of them in flight.

use super::{
    device::{CopyError, Device},
    raw_image::{Segment, Source, Target},
    span::{CHUNK_BYTES, Content, Span, ZERO_BYTES_MAX, buffer, is_zero},
};
use crate::cli::base::{Interrupt, Progress};
use bytes::Bytes;
use std::io;

/// Zeroes are looked for in blocks of the store; a smaller hole would save nothing there.
const BLOCK_BYTES: usize = 4096;

/// How much of a volume is asked about, then read, in one go. It bounds the spans that are kept in
/// between.
const WINDOW_BYTES: u64 = 1 << 30;

/// What the volume holds before an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Zeroes: it was made a moment ago.
    Zeroes,
    Anything,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes that were written because they are not zero.
    pub(crate) data_bytes: u64,
}

/// Copies an image to the beginning of a volume, and makes it durable. What lies behind the image's
/// end stays as it is.
pub(crate) fn import(
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
pub(crate) fn import_stream(
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
pub(crate) fn export(
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
            return Err(CopyError::Device(io::Error::other(
                "the server's block status says nothing",
            )));
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

#[cfg(test)]
#[path = "transfer_tests.rs"]
pub(crate) mod tests;
