//! A volume as what is copied from and to.

use super::span::{Extent, Span};
use bytes::Bytes;
use std::io;
use thiserror::Error;

/// A volume as an NBD client has it. Requests may be in flight together, and end in any order.
pub(crate) trait Device {
    /// Size of the volume.
    fn size_bytes(&self) -> u64;

    /// What `span` holds, from its beginning: at least one entry, perhaps not to the end of the
    /// span.
    fn extents(&mut self, span: Span) -> io::Result<Vec<Extent>>;

    /// Reads every span, several at a time, and hands each to `take` with its offset as it comes
    /// in.
    fn read(
        &mut self,
        spans: &mut dyn Iterator<Item = Span>,
        take: &mut dyn FnMut(u64, Bytes) -> Result<(), CopyError>,
    ) -> Result<(), CopyError>;

    /// Begins to write. An error may belong to an earlier request.
    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()>;

    /// Begins to turn `span`, at most [`ZERO_BYTES_MAX`] bytes, into a hole that reads as zeroes.
    /// Errors as for `write`.
    fn zero(&mut self, span: Span) -> io::Result<()>;

    /// Waits for all that was begun, and makes it durable.
    fn flush(&mut self) -> io::Result<()>;
}

/// Which side failed.
#[derive(Debug, Error)]
pub(crate) enum CopyError {
    #[error("image: {0}")]
    Image(#[source] io::Error),
    #[error("volume: {0}")]
    Device(#[source] io::Error),
    /// Neither: a signal asked the command to end.
    #[error("interrupted")]
    Interrupted,
}
