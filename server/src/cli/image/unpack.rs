//! Unpacking what holds one image: gzip, xz, zstd and bzip2, as a stream.
//!
//! Every byte is unpacked before a volume is touched, for only then is it known how many there are
//! and that none is missing: all four have checksums. A raw image is unpacked again while it is
//! copied, so that it takes no room; another is put aside in a file, because qemu-img reads here
//! and there.
//!
//! Memory is bounded by what a decoder may ask for, and bytes by what the caller has room for: a
//! few packed bytes may unpack to as many as one likes.

use super::{
    error::{ImageError, LimitedBy},
    format::{LOOK_BYTES, Packing},
};
use crate::cli::{base::Progress, copy::is_zero};
use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
};
use tempfile::NamedTempFile;

/// Most memory of a decoder of xz. Its highest level takes 65 MiB.
const XZ_KIB_MAX: u32 = 256 << 10;

/// Most bytes that zstd looks back, as a power of two: 128 MiB, what its own program takes without
/// being asked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Most bytes that are put aside to be converted. A guess: published images have a tenth.
pub(super) const SPOOL_BYTES_MAX: u64 = 64 << 30;

const BUFFER_BYTES: usize = 1 << 20;

/// Holes of a file are made of whole blocks.
const BLOCK_BYTES: usize = 4096;

/// How many bytes may come out, and why not more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) bytes_max: u64,
    pub(super) by: LimitedBy,
}

/// A packed file, unpacked from its beginning.
pub(super) struct Unpacked<'a> {
    packing: Packing,
    reader: Box<dyn Read + 'a>,
}

impl<'a> Unpacked<'a> {
    /// `packed` tells how much was read of the packed file.
    ///
    /// # Errors
    /// Of the decoder.
    pub(super) fn new(
        file: &'a File,
        packing: Packing,
        packed: &'a (dyn Fn(u64) + 'a),
    ) -> Result<Unpacked<'a>, ImageError> {
        let from =
            BufReader::with_capacity(BUFFER_BYTES, Counted { file, offset: 0, told: packed });
        let reader: Box<dyn Read + 'a> = match packing {
            Packing::Gzip => Box::new(MultiGzDecoder::new(from)),
            Packing::Xz => Box::new(XzReader::new_mem_limit(from, true, XZ_KIB_MAX)),
            Packing::Bzip2 => Box::new(MultiBzDecoder::new(from)),
            Packing::Zstd => {
                let failed = |error| ImageError::Damaged { packing, error };
                let mut decoder = zstd::stream::read::Decoder::with_buffer(from).map_err(failed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
                Box::new(decoder)
            }
        };
        Ok(Unpacked { packing, reader })
    }

    /// The first bytes, by which one tells what was packed.
    ///
    /// # Errors
    /// [`ImageError::Damaged`].
    pub(super) fn begin(mut self) -> Result<Vec<u8>, ImageError> {
        let mut begin = vec![0; LOOK_BYTES];
        let len = self.fill(&mut begin)?;
        begin.truncate(len);
        Ok(begin)
    }

    /// How many bytes there are. All of them are unpacked for it, and their checksums compared.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], and [`ImageError::Unpacked`] where there are more than `bound`.
    pub(super) fn measure(self, bound: Bound) -> Result<u64, ImageError> {
        self.each(bound, |_, _| Ok(()))
    }

    /// Puts all of it into a file, with holes where it is zero. How many bytes there are.
    ///
    /// # Errors
    /// As for [`Unpacked::measure`], and of writing.
    pub(super) fn spool(self, into: &NamedTempFile, bound: Bound) -> Result<u64, ImageError> {
        let failed = |error| ImageError::Spool(std::env::temp_dir(), error);
        let file = into.as_file();
        let len = self.each(bound, |offset, data| {
            let blocks = data.chunks(BLOCK_BYTES).zip((offset..).step_by(BLOCK_BYTES));
            for (block, offset) in blocks.filter(|(block, _)| !is_zero(block)) {
                file.write_all_at(block, offset).map_err(failed)?;
            }
            Ok(())
        })?;
        file.set_len(len).map_err(failed)?;
        Ok(len)
    }

    fn each(
        mut self,
        bound: Bound,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), ImageError>,
    ) -> Result<u64, ImageError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut offset = 0;
        loop {
            let len = self.fill(&mut buffer)?;
            if len == 0 {
                return Ok(offset);
            }
            let end = offset + len as u64;
            if end > bound.bytes_max {
                return Err(ImageError::Unpacked { bytes_max: bound.bytes_max, by: bound.by });
            }
            take(offset, &buffer[..len])?;
            offset = end;
        }
    }

    /// Fills the buffer as far as there is something left. How far.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        fill(&mut self.reader, buffer)
            .map_err(|error| ImageError::Damaged { packing: self.packing, error })
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Fills the buffer as far as the reader has something. How far.
pub(super) fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a file from its beginning, wherever others that share it have come.
struct Counted<'a> {
    file: &'a File,
    offset: u64,
    told: &'a dyn Fn(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        (self.told)(len as u64);
        Ok(len)
    }
}

/// Without a message.
pub(super) fn untold(_bytes: u64) {}

/// Tells a bar over the packed bytes.
pub(super) fn telling(progress: &Progress) -> impl Fn(u64) + '_ {
    |bytes| progress.advance(bytes)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
