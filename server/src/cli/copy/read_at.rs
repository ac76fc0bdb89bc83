//! Reading fields of a header that a stranger wrote.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Something with bytes at offsets: a file, or a slice in tests.
pub(crate) trait ReadAt {
    /// Bytes that there are.
    fn len_bytes(&self) -> u64;

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// Of reading; [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file whose length was looked up once: a block device has none in its metadata.
#[derive(Debug)]
pub(crate) struct ImageFile {
    pub(crate) file: File,
    pub(crate) len_bytes: u64,
}

impl ReadAt for ImageFile {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let past_the_end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(offset).map_err(|_| past_the_end())?;
        let found = self.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or_else(past_the_end)?);
        Ok(())
    }
}

/// Bytes of a table that are read in one go.
const PIECE_BYTES: u64 = 1 << 20;

/// Reads `len` bytes at `offset`, which the caller has bounded.
pub(crate) fn bytes_at(from: &impl ReadAt, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    from.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// At most `len_max` bytes at `offset`: fewer where the end is nearer.
pub(crate) fn bytes_up_to(from: &impl ReadAt, offset: u64, len_max: usize) -> io::Result<Vec<u8>> {
    let there = from.len_bytes().saturating_sub(offset);
    bytes_at(from, offset, usize::try_from(there).unwrap_or(usize::MAX).min(len_max))
}

/// Calls `each` with every entry of `N` bytes of a table, in pieces, so that its length costs no
/// memory.
///
/// # Errors
/// Of reading, and those of `each`.
pub(crate) fn each_entry<const N: usize, E: From<io::Error>>(
    from: &impl ReadAt,
    offset: u64,
    entries: u64,
    mut each: impl FnMut([u8; N]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut at, mut left) = (offset, entries.saturating_mul(N as u64));
    while left > 0 {
        let len = left.min(PIECE_BYTES);
        // A piece fits into memory, and holds whole entries: N divides it.
        let piece = bytes_at(from, at, len as usize)?;
        for entry in piece.as_chunks::<N>().0 {
            each(*entry)?;
        }
        at = at.saturating_add(len);
        left -= len;
    }
    Ok(())
}

/// A header of `N` bytes, whose fields are taken by their offsets.
pub(crate) struct Fields<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Fields<N> {
    pub(crate) fn read(from: &impl ReadAt, offset: u64) -> io::Result<Fields<N>> {
        let mut bytes = [0; N];
        from.read_exact_at(&mut bytes, offset)?;
        Ok(Fields(bytes))
    }

    /// The bytes of a field, which lies within the header.
    pub(crate) fn bytes<const LEN: usize>(&self, at: usize) -> [u8; LEN] {
        self.0[at..at + LEN].try_into().expect("the slice has that length")
    }

    pub(crate) fn u16_le(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u32_le(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u64_le(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u32_be(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    pub(crate) fn u64_be(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }
}
