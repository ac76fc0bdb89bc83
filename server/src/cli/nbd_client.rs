//! A volume over NBD, from the client's side.

use super::transfer::{CopyError, Device, Extent, Span};
use crate::endpoints::ExportAddress;
use bytes::Bytes;
use std::io;

/// A connection in transmission. None can exist before the client is written.
pub(super) enum NbdClient {}

/// Connects to an export.
pub(super) fn connect(_address: &ExportAddress) -> io::Result<NbdClient> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no NBD client"))
}

impl Device for NbdClient {
    fn size_bytes(&self) -> u64 {
        match *self {}
    }

    fn extents(&mut self, _span: Span) -> io::Result<Vec<Extent>> {
        match *self {}
    }

    fn read(
        &mut self,
        _spans: &mut dyn Iterator<Item = Span>,
        _take: &mut dyn FnMut(u64, Bytes) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        match *self {}
    }

    fn write(&mut self, _offset: u64, _data: Bytes) -> io::Result<()> {
        match *self {}
    }

    fn zero(&mut self, _span: Span) -> io::Result<()> {
        match *self {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match *self {}
    }
}
