//! Memory that the kernel reads and writes: aligned buffers and the shared staging mapping.
//!
//! I1  A buffer of [`aligned`] keeps its alignment for as long as it does not grow past its
//!     capacity.
//! I2  A range of a [`SharedMemory`] has one writer at a time, chosen by the log that hands the
//!     ranges out.
//! I3  A range is read only after its writer has committed it, and the commit happened before the
//!     read, by a release and an acquire (a mutex, a channel).
//! I4  A range given to a write (`WriteBuf::Shared`) has no writer until that write has completed.
//!
//! The mapping itself lives in an `Arc`, which every operation on it holds until its completion, so
//! no copy and no device access outlives it. Units: bytes.

#![expect(
    unsafe_code,
    reason = "raw copies into a mapping, and the length of buffers that the kernel has filled"
)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use rustix::fs::FallocateFlags;

use super::mapping::{HUGE_BYTES, Mapping};

/// Alignment of memory addresses for direct I/O, in bytes. A page satisfies every device.
const ALIGNMENT_BYTES: usize = 4096;

/// An empty buffer whose spare capacity is at least `len` bytes and begins at a multiple of 4,096.
///
/// It stays aligned until it has to grow (I1).
#[must_use]
pub fn aligned(len: usize) -> BytesMut {
    let is_aligned = |buf: &BytesMut| buf.as_ptr().addr().is_multiple_of(ALIGNMENT_BYTES);
    // The server's allocator aligns whole blocks by itself.
    let buf = BytesMut::with_capacity(len);
    if is_aligned(&buf) {
        return buf;
    }
    // One page more than asked, and the front of it cut off up to the next boundary. The
    // allocator's own alignment cannot be asked for, since `BytesMut` frees its memory as plain
    // bytes.
    let mut buf = BytesMut::with_capacity(len + ALIGNMENT_BYTES);
    let pad = buf.as_ptr().align_offset(ALIGNMENT_BYTES);
    buf.put_bytes(0, pad);
    buf.advance(pad);
    debug_assert!(buf.is_empty() && buf.capacity() >= len && is_aligned(&buf));
    buf
}

/// Appends to `buf` what `fill` puts at the front of its spare capacity, of which it is shown at
/// most `len_max` bytes.
///
/// `fill` returns the part it has initialised, so the count cannot be wrong.
pub(crate) fn append_with<F>(buf: &mut BytesMut, len_max: usize, fill: F) -> io::Result<usize>
where
    F: for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]>,
{
    let spare = buf.spare_capacity_mut();
    let len_shown = spare.len().min(len_max);
    let start = spare.as_ptr().cast::<u8>();
    let filled = fill(&mut spare[..len_shown])?;
    let (filled_at, filled_len) = (filled.as_ptr(), filled.len());
    assert!(
        filled_len == 0 || (filled_at == start && filled_len <= len_shown),
        "fill returned another slice"
    );
    // SAFETY: `fill` handed back an initialised slice that begins where the spare capacity does and
    // ends inside it.
    unsafe { grow(buf, filled_len) };
    Ok(filled_len)
}

/// Counts `len` bytes of the spare capacity as part of the buffer.
///
/// # Safety
/// The first `len` bytes of the spare capacity have been written, by the kernel or by the caller.
pub(crate) unsafe fn grow(buf: &mut BytesMut, len: usize) {
    assert!(len <= buf.capacity() - buf.len(), "more bytes were filled than there was room for");
    // SAFETY: the caller's promise, and the room was checked.
    unsafe { buf.set_len(buf.len() + len) };
}

/// Memory shared by all threads, and where it is backed by a file also with the next process that
/// maps the file.
///
/// Writers and readers agree on ranges by themselves (I2 and I3 of the module); this type only
/// asserts bounds.
#[derive(Debug)]
pub struct SharedMemory {
    map: Mapping,
}

impl SharedMemory {
    /// Maps a file that no other process can truncate, `len` bytes long or empty; an empty file is
    /// made that long.
    ///
    /// All of its space is taken here. A full /dev/shm is an error now rather than a bus error at
    /// the first touch.
    ///
    /// # Errors
    /// The errors of the file system, above all "no space left".
    pub fn of_file(file: &File, len: usize) -> io::Result<SharedMemory> {
        assert!(len > 0, "an empty mapping holds nothing");
        let len_before = file.metadata()?.len();
        if len_before != 0 && len_before != len as u64 {
            let text = format!("it has {len_before} bytes and not {len}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let map = Mapping::of_file(file, len)?;
        if let Err(error) = take_space(file, &map, len_before) {
            // The length is restored, so that the file does not look used; the first error is
            // reported.
            let _length_restored = file.set_len(len_before);
            return Err(error);
        }
        Ok(SharedMemory { map })
    }

    /// Memory without a file, which dies with the process.
    ///
    /// # Errors
    /// Where the kernel refuses the mapping.
    pub fn anonymous(len: usize) -> io::Result<SharedMemory> {
        Ok(SharedMemory { map: Mapping::anonymous(len)? })
    }

    /// Memory without a file that holds a copy of `content`, as an earlier process may have left
    /// it.
    ///
    /// # Errors
    /// As [`Self::anonymous`].
    pub fn holding(content: &[u8]) -> io::Result<SharedMemory> {
        let memory = Self::anonymous(content.len())?;
        memory.copy_in(0, content);
        Ok(memory)
    }

    /// A copy of the whole content.
    ///
    /// # Safety
    /// No thread writes to it meanwhile: its store is closed, or is suspended on this very thread.
    #[must_use]
    pub unsafe fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.len_bytes()];
        self.copy_out(0, &mut content);
        content
    }

    /// Length of the mapping in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.map.len_bytes()
    }

    /// Copies `data` to `offset`.
    ///
    /// # Panics
    /// Where the range is not inside the mapping, as in all methods with a range.
    pub fn copy_in(&self, offset: usize, data: &[u8]) {
        let to = self.pointer(offset, data.len());
        // SAFETY: `pointer` checked the bounds; the caller is the range's one writer (I2), so no
        // other thread touches it, and `data` cannot overlap it because no safe reference into the
        // mapping outlives a call.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// Copies from `offset` into all of `out`.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        let from = self.pointer(offset, out.len());
        // SAFETY: in bounds, and the range was committed before (I3), so it has no writer.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
    }

    /// Appends `len` bytes from `offset` to `out`.
    pub fn append_to(&self, offset: usize, len: usize, out: &mut BytesMut) {
        out.extend_from_slice(self.slice(&(offset..offset + len)));
    }

    /// A committed range as a slice, to be used up before the caller returns to the log.
    fn slice(&self, range: &Range<usize>) -> &[u8] {
        let len =
            range.end.checked_sub(range.start).expect("a range does not end before it begins");
        let from = self.pointer(range.start, len);
        // SAFETY: in bounds; the range is committed (I3) and, where it is being written out, frozen
        // until then (I4).
        unsafe { std::slice::from_raw_parts(from, len) }
    }

    fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len).expect("an end past the address space");
        assert!(
            end <= self.len_bytes(),
            "{offset}..{end} is not inside the {} mapped bytes",
            self.len_bytes()
        );
        // SAFETY: `offset` is at most the length of the mapping, which lives as long as `self`.
        unsafe { self.map.start().add(offset) }
    }
}

/// Makes the file as long as its mapping and takes all of its space, in huge pages where there are
/// such.
fn take_space(file: &File, map: &Mapping, len_before: u64) -> io::Result<()> {
    use rustix::io::Errno;
    let len = map.len_bytes();
    if len_before < len as u64 {
        file.set_len(len as u64)?;
    }
    let allocate = |at: usize, len: usize| {
        rustix::fs::fallocate(file, FallocateFlags::empty(), at as u64, len as u64)
    };
    // A huge page replaces small ones, so one small page of each is touched first; the others are
    // then never allocated.
    for at in (0..len).step_by(HUGE_BYTES) {
        match allocate(at, ALIGNMENT_BYTES.min(len - at)) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if len_before == 0 => {
                return take_space_by_writing(file, len);
            }
            // Its space was taken when the file was made.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    if let Err(error) = map.collapse() {
        tracing::debug!(%error, "some of the staging buffer stays in small pages");
    }
    Ok(allocate(0, len)?)
}

/// For file systems where space cannot be asked for.
fn take_space_by_writing(file: &File, len: usize) -> io::Result<()> {
    let zeroes = vec![0; HUGE_BYTES];
    for at in (0..len).step_by(HUGE_BYTES) {
        file.write_all_at(&zeroes[..HUGE_BYTES.min(len - at)], at as u64)?;
    }
    file.sync_data()
}

/// The bytes of a write. The operation owns it until its completion.
#[derive(Debug)]
pub enum WriteBuf {
    /// A range of the staging memory, frozen until the write has completed (I4 of the module).
    Shared(Arc<SharedMemory>, Range<usize>),
    /// A buffer of its own, from [`aligned`] where the file is open for direct I/O.
    Owned(BytesMut),
}

impl WriteBuf {
    /// Number of bytes that it writes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.as_slice().len()
    }

    /// The bytes themselves.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            WriteBuf::Shared(memory, range) => memory.slice(range),
            WriteBuf::Owned(buf) => buf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn aligned_buffers_are_aligned_and_empty() {
        for len in [0, 1, 512, 4095, 4096, 4097, 1 << 20, 3 << 20] {
            let mut buf = aligned(len);
            let at = buf.as_ptr();
            assert!(buf.is_empty());
            assert!(buf.capacity() >= len);
            assert_eq!(at.addr() % ALIGNMENT_BYTES, 0);
            buf.resize(len, 7); // keeps I1
            assert_eq!(buf.as_ptr(), at);
        }
    }

    #[test]
    fn append_with_shows_no_more_than_asked() {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::write(&writer, b"abcdefg").unwrap();
        let mut buf = aligned(64);
        let n = append_with(&mut buf, 5, |spare| Ok(rustix::io::read(&reader, spare)?.0));
        assert_eq!(n.unwrap(), 5);
        assert_eq!(&buf[..], b"abcde");
    }

    #[test]
    fn shared_memory_gives_back_what_was_put_in() {
        let memory = SharedMemory::anonymous(8192).unwrap();
        memory.copy_in(4000, &[5; 200]);
        memory.copy_in(4100, &[0; 50]);
        let mut out = [1; 200];
        memory.copy_out(4000, &mut out);
        assert_eq!(out[..100], [5; 100]);
        assert_eq!(out[100..150], [0; 50]);
        assert_eq!(out[150..], [5; 50]);
        let mut appended = BytesMut::from(&b"x"[..]);
        memory.append_to(4099, 2, &mut appended);
        assert_eq!(&appended[..], [b'x', 5, 0]);
        let holding = SharedMemory::holding(&[7; 300]).unwrap();
        holding.copy_in(299, &[8]);
        // SAFETY: no other thread has it.
        let content = unsafe { holding.content() };
        assert_eq!((content.len(), content[0], content[299]), (300, 7, 8));
    }

    fn opened(path: &Path) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    #[test]
    fn shared_memory_outlives_its_process_through_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("staging");
        let memory = SharedMemory::of_file(&opened(&path), 8192).unwrap();
        memory.copy_in(100, b"still here");
        drop(memory);
        let memory = SharedMemory::of_file(&opened(&path), 8192).unwrap();
        let mut out = [0; 10];
        memory.copy_out(100, &mut out);
        assert_eq!(&out, b"still here");
        assert!(
            SharedMemory::of_file(&opened(&path), 4096).is_err(),
            "what is longer is another's"
        );
        assert!(
            SharedMemory::of_file(&opened(&path), 12288).is_err(),
            "what is shorter was cut off"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
    }

    #[test]
    fn space_that_cannot_be_asked_for_is_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("staging");
        let (file, len) = (opened(&path), HUGE_BYTES + 4096);
        file.set_len(len as u64).unwrap();
        take_space_by_writing(&file, len).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), len as u64);
        assert!(
            metadata.blocks() * 512 >= len as u64,
            "{} of {len} bytes",
            metadata.blocks() * 512
        );
    }

    #[test]
    fn what_is_there_stays_when_it_is_put_into_huge_pages() {
        // Where there are no huge pages, this tests small ones.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path().join("staging");
        let bytes = 2 * HUGE_BYTES + ALIGNMENT_BYTES;
        // As a server without huge pages would have left it.
        let pages: Vec<u8> = (0..bytes).map(|at| (at / ALIGNMENT_BYTES) as u8).collect();
        std::fs::write(&path, &pages).unwrap();
        let memory = SharedMemory::of_file(&opened(&path), bytes).unwrap();
        let mut found = vec![0; bytes];
        memory.copy_out(0, &mut found);
        assert!(found == pages);
        memory.copy_in(HUGE_BYTES - 1, &[7; 2]);
        drop(memory);
        let memory = SharedMemory::of_file(&opened(&path), bytes).unwrap();
        memory.copy_out(0, &mut found);
        assert_eq!(found[HUGE_BYTES - 2..HUGE_BYTES + 2], [255, 7, 7, 0]);
    }

    #[test]
    #[should_panic(expected = "not inside")]
    fn shared_memory_refuses_a_range_past_its_end() {
        SharedMemory::anonymous(4096).unwrap().copy_in(4090, &[0; 7]);
    }
}
