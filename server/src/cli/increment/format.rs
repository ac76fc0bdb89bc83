//! The file of an increment: a header, records in the order of the volume, a trailer. All numbers
//! are little-endian.
//!
//! ```text
//!   header     0   8  magic "sandincr"
//!              8   4  version, 1
//!             12   4  block bytes of the store it was made from; ranges are whole blocks but at the volume's end
//!             16  16  id of the volume
//!             32  16  id of the snapshot that it follows (`from`)
//!             48  16  id of the snapshot that it leads to (`to`)
//!             64   8  size of `to`, bytes
//!             72   4  zero
//!             76   4  CRC-32 of the 76 bytes before
//!
//!   record     0   8  offset, bytes: not before the end of the record before
//!              8   8  length, bytes, not zero; of data at most 1 MiB, which follow the record
//!             16   4  state in `to`: 1 data, 2 zeroes, 3 a hole
//!             20   4  CRC-32 of what `from` has there; behind its end it has zeroes
//!             24   4  CRC-32 of the data; zero where there are none
//!             28   4  CRC-32 of the 28 bytes before
//!
//!   trailer    0   8  number of records
//!              8   8  bytes of data in all of them
//!             16   4  0
//!             20   4  CRC-32 of the file up to here
//!             24   4  zero
//!             28   4  CRC-32 of the 28 bytes before; the file ends here
//! ```
//!
//! A file that was cut off has no trailer; one with a changed bit has a wrong checksum near it, and
//! in the trailer too.

use crate::cli::copy::{CHUNK_BYTES, Span, buffer};
use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;
use std::io::{self, Read, Write};
use thiserror::Error;
use uuid::Uuid;

pub(crate) const MAGIC: [u8; 8] = *b"sandincr";
const VERSION: u32 = 1;
const BLOCK_BYTES: u32 = 4096;

const HEADER_BYTES: usize = 80;
/// Of a record without its data, and of the trailer.
const RECORD_BYTES: usize = 32;
/// The checksum at the end of either.
const CRC_BYTES: usize = 4;

const STATE_END: u32 = 0;
const STATE_DATA: u32 = 1;
const STATE_ZERO: u32 = 2;
const STATE_HOLE: u32 = 3;

/// Between which states an increment leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) volume: Uuid,
    pub(super) from: Uuid,
    pub(super) to: Uuid,
    /// Size of `to`.
    pub(super) size_bytes: u64,
}

/// A range that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) span: Span,
    /// CRC-32 of what was there.
    pub(super) before: u32,
    pub(super) now: Now,
}

/// What is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// As long as the range.
    Data(Bytes),
    Zero,
    Hole,
}

/// What an increment holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) records: u64,
    pub(crate) data_bytes: u64,
}

/// Why an increment cannot be used. Shown behind the file's name.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
    /// It begins with something else.
    #[error("is none: `export --since` makes them")]
    Foreign,
    /// It was made by a later version.
    #[error("has format {0}, and this program knows {VERSION}: use the version that wrote it")]
    Version(u32),
    /// It ends before its trailer.
    #[error("is cut off: copy it again from where it was made")]
    CutOff,
    /// Something in it before this byte is not what was written.
    #[error("is damaged before byte {offset}: copy it again from where it was made")]
    Damaged { offset: u64 },
}

/// Writes an increment from its beginning to its end.
pub(super) struct Writer<W> {
    output: W,
    /// Of all that was written.
    sum: Hasher,
    totals: Totals,
}

impl<W: Write> Writer<W> {
    pub(super) fn begin(output: W, header: &Header) -> io::Result<Writer<W>> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(BLOCK_BYTES);
        for id in [header.volume, header.from, header.to] {
            bytes.put_slice(id.as_bytes());
        }
        bytes.put_u64_le(header.size_bytes);
        bytes.put_u32_le(0);
        let mut writer = Writer { output, sum: Hasher::new(), totals: Totals::default() };
        writer.put(&sealed(bytes))?;
        Ok(writer)
    }

    pub(super) fn record(&mut self, record: &Record) -> io::Result<()> {
        let data: &[u8] = match &record.now {
            Now::Data(data) => data,
            Now::Zero | Now::Hole => &[],
        };
        let (state, content) = match &record.now {
            Now::Data(data) => (STATE_DATA, crc32fast::hash(data)),
            Now::Zero => (STATE_ZERO, 0),
            Now::Hole => (STATE_HOLE, 0),
        };
        self.put(&frame(record.span.offset, record.span.len, [state, record.before, content]))?;
        self.put(data)?;
        self.totals.records += 1;
        self.totals.data_bytes += data.len() as u64;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Totals> {
        let sum = self.sum.clone().finalize();
        self.put(&frame(self.totals.records, self.totals.data_bytes, [STATE_END, sum, 0]))?;
        self.output.flush()?;
        Ok(self.totals)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.output.write_all(bytes)
    }
}

fn frame(first: u64, second: u64, words: [u32; 3]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    bytes.put_u64_le(first);
    bytes.put_u64_le(second);
    words.into_iter().for_each(|word| bytes.put_u32_le(word));
    sealed(bytes)
}

/// With their checksum behind them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.put_u32_le(crc32fast::hash(&bytes));
    bytes
}

/// Reads an increment and checks all of it on the way.
pub(super) struct Reader<R> {
    input: R,
    header: Header,
    /// Of all that was read.
    sum: Hasher,
    position: u64,
    totals: Totals,
    /// End of the last range.
    end: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn open(mut input: R) -> Result<Reader<R>, ReadError> {
        let mut bytes = [0; HEADER_BYTES];
        fill(&mut input, &mut bytes)?;
        let offset = HEADER_BYTES as u64;
        if bytes[..MAGIC.len()] != MAGIC {
            return Err(ReadError::Foreign);
        }
        let mut fields = &bytes[MAGIC.len()..];
        let version = fields.get_u32_le();
        // Before the checksum, which may lie elsewhere in a later version.
        if version != VERSION {
            return Err(ReadError::Version(version));
        }
        check_seal(&bytes, offset)?;
        let block_bytes = fields.get_u32_le();
        let [volume, from, to] = [(); 3].map(|()| Uuid::from_u128(fields.get_u128()));
        let header = Header { volume, from, to, size_bytes: fields.get_u64_le() };
        if block_bytes != BLOCK_BYTES {
            return Err(ReadError::Damaged { offset });
        }
        let mut sum = Hasher::new();
        sum.update(&bytes);
        Ok(Reader { input, header, sum, position: offset, totals: Totals::default(), end: 0 })
    }

    pub(super) fn header(&self) -> Header {
        self.header
    }

    /// What was read so far; after the last record, all of it.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// The next record; none behind the last one, when the trailer was found and is right.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ReadError> {
        let whole = self.sum.clone();
        let mut bytes = [0; RECORD_BYTES];
        self.take(&mut bytes)?;
        check_seal(&bytes, self.position)?;
        let damaged = Err(ReadError::Damaged { offset: self.position });
        let mut fields = bytes.as_slice();
        let [first, second] = [(); 2].map(|()| fields.get_u64_le());
        let [state, sum, content] = [(); 3].map(|()| fields.get_u32_le());
        if state == STATE_END {
            let right = Totals { records: first, data_bytes: second } == self.totals;
            return if right && sum == whole.finalize() && self.is_at_end()? {
                Ok(None)
            } else {
                damaged
            };
        }
        let span = Span { offset: first, len: second };
        let is_inside = first.checked_add(second).is_some_and(|end| end <= self.header.size_bytes);
        if span.len == 0 || span.offset < self.end || !is_inside {
            return damaged;
        }
        let now = match state {
            STATE_DATA if span.len <= CHUNK_BYTES => {
                let mut data = buffer(span.len).map_err(ReadError::Io)?;
                self.take(&mut data)?;
                if crc32fast::hash(&data) != content {
                    return Err(ReadError::Damaged { offset: self.position });
                }
                self.totals.data_bytes += span.len;
                Now::Data(data.freeze())
            }
            STATE_ZERO => Now::Zero,
            STATE_HOLE => Now::Hole,
            _ => return damaged,
        };
        self.end = span.end();
        self.totals.records += 1;
        Ok(Some(Record { span, before: sum, now }))
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        fill(&mut self.input, bytes)?;
        self.sum.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn is_at_end(&mut self) -> Result<bool, ReadError> {
        match self.input.read_exact(&mut [0]) {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(ReadError::Io(error)),
        }
    }
}

fn check_seal(bytes: &[u8], end: u64) -> Result<(), ReadError> {
    let (sealed, mut seal) = bytes.split_at(bytes.len() - CRC_BYTES);
    if seal.get_u32_le() == crc32fast::hash(sealed) {
        Ok(())
    } else {
        Err(ReadError::Damaged { offset: end })
    }
}

fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), ReadError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::CutOff,
        _ => ReadError::Io(error),
    })
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
