//! The store's file or block device, real or simulated.
//!
//! I1  The lock is taken on the very file description that the engines write through, so it lasts as long as any write
//!     of a killed process may still land (measured: seconds after the process is gone).
//! I2  Operations in flight keep the file, so it is closed and its lock given back only after the last of them. The
//!     lock is given back by name, since a ring's table of files may hold the description for longer.
//! I3  Reads and writes here are whole: what an engine does short is continued, from a sector's beginning where the
//!     file is open for direct I/O.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;

use super::buffer::WriteBuf;
use super::op::{Op, WriteMode};
use super::operation::start;
use super::placement::{self, Coverage, Placement};
use super::sim::SimDisk;
use crate::runtime;

/// Where a short transfer may be continued: at the smallest sector that direct I/O knows.
const SECTOR_BYTES: usize = 512;
/// How often a lock that another holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// An open file or block device, shared by all who hold a clone and by the operations in flight.
#[derive(Clone, Debug)]
pub struct File(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Real(Arc<RealFile>),
    Simulated(SimDisk),
}

/// The open file description.
#[derive(Debug)]
pub(crate) struct RealFile {
    fd: OwnedFd,
    len: AtomicU64,
    direct: bool,
    placement: Placement,
    is_device: bool,
    locked: AtomicBool,
}

impl RealFile {
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        if *self.locked.get_mut()
            && let Err(error) = rustix::fs::flock(&self.fd, FlockOperation::Unlock)
        {
            tracing::warn!(%error, "the store's lock could not be given back"); // keeps I2
        }
    }
}

impl File {
    /// Opens a file or block device for reading and writing past the page cache, or through it where the file system
    /// does not offer that (see [`placement`]). With `create_len`, a file that is not there or empty is made that long
    /// (sparse, mode 0600), durably.
    ///
    /// # Errors
    /// Those of open(2) and ftruncate(2).
    ///
    /// [`placement`]: File::placement
    pub fn open(path: &Path, create_len: Option<u64>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create_len.is_some()).mode(0o600);
        File::open_with(&options, path, create_len)
    }

    /// Opens a file or block device that is there, and cannot change it.
    ///
    /// # Errors
    /// Those of open(2); later those of writing to what is open for reading.
    pub fn open_read_only(path: &Path) -> io::Result<File> {
        File::open_with(OpenOptions::new().read(true), path, None)
    }

    fn open_with(options: &OpenOptions, path: &Path, create_len: Option<u64>) -> io::Result<File> {
        check_type(std::fs::metadata(path))?; // a pipe or another device does something when it is opened
        let open = |flags: OFlags| {
            let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
            options.clone().custom_flags(flags.bits() as i32).open(path)
        };
        let (file, direct) = match open(OFlags::DIRECT) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                (open(OFlags::empty())?, false)
            }
            result => (result?, true),
        };
        let metadata = file.metadata()?;
        check_type(Ok(metadata.clone()))?; // it may be another one by now
        rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        let is_device = metadata.file_type().is_block_device();
        let mut len = if is_device { rustix::fs::seek(&file, SeekFrom::End(0))? } else { metadata.len() };
        if let Some(create_len) = create_len
            && len == 0
            && !is_device
        {
            placement::prefer_in_place(file.as_fd());
            file.set_len(create_len)?;
            file.sync_all()?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            len = create_len;
        }
        let placement = if is_device && direct {
            Placement::Device
        } else if is_device {
            Placement::Buffered("the device offers no direct I/O")
        } else {
            placement::of_file(file.as_fd(), direct)?
        };
        let (len, locked) = (AtomicU64::new(len), AtomicBool::new(false));
        Ok(File(Kind::Real(Arc::new(RealFile {
            fd: file.into(),
            len,
            direct,
            placement,
            is_device,
            locked,
        }))))
    }

    /// A file on a simulated disk, for a simulated runtime.
    #[must_use]
    pub fn simulated(disk: &SimDisk) -> File {
        File(Kind::Simulated(disk.clone()))
    }

    /// Takes the exclusive lock on this file description, trying for as long as `deadline`; `on_wait` is called once
    /// if another has it. It is given back when the last clone and the last operation in flight are gone.
    ///
    /// # Errors
    /// `WouldBlock` when the deadline has passed. Dropping the future is safe.
    pub async fn lock(&self, deadline: Duration, on_wait: impl FnOnce()) -> io::Result<()> {
        let file = match &self.0 {
            Kind::Real(file) => file,
            Kind::Simulated(_) => return Ok(()), // no other process can know of it
        };
        let give_up_at = runtime::now() + deadline;
        let mut on_wait = Some(on_wait);
        loop {
            match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    file.locked.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            if runtime::now() >= give_up_at {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has the store open"));
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            runtime::sleep(LOCK_INTERVAL).await;
        }
    }

    /// Appends exactly `len` bytes from `offset` to `buf`, which must have the room.
    ///
    /// With direct I/O, `offset`, `len` and the address of the spare capacity are multiples of 4,096
    /// (see [`aligned`](super::aligned)). Dropping the future leaves the buffer to the read.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end, else the device's.
    ///
    /// # Panics
    /// Without room, and outside a runtime (as all of these).
    pub async fn read(&self, offset: u64, mut buf: BytesMut, len: usize) -> io::Result<BytesMut> {
        let start_len = buf.len();
        assert!(buf.capacity() - start_len >= len, "a read of {len} bytes needs as much room");
        let mut done = 0;
        while done < len {
            let op = Op::Read { file: self.clone(), offset: offset + done as u64, len: len - done, buf };
            let (result, op) = start(op).await;
            let Op::Read { buf: returned, .. } = op else { unreachable!("a read comes back as one") };
            buf = returned;
            let advanced = self.continue_at(done, retried(result)?, len);
            if let Some(0) = advanced {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += advanced.unwrap_or(0);
            buf.truncate(start_len + done); // a sector read in part is read again
        }
        Ok(buf)
    }

    /// Writes all of `data` to `offset`. The data belongs to the write until its completion, also when the future is
    /// dropped, which does not stop it.
    ///
    /// It is on the device when this returns, but safe from a power loss only after a [`sync`](File::sync), and from a crash of
    /// the host where [`placement`](File::placement) says so.
    ///
    /// # Errors
    /// The device's. Then any part of the range may have been written.
    pub(crate) async fn write(&self, offset: u64, data: WriteBuf) -> io::Result<()> {
        self.try_write(offset, data, WriteMode::Plain).await.map_err(|(error, _)| error)
    }

    /// The same in either mode, for a write that may be tried again: its data comes back with the error.
    pub(crate) async fn try_write(
        &self,
        offset: u64,
        mut data: WriteBuf,
        mode: WriteMode,
    ) -> Result<(), (io::Error, WriteBuf)> {
        let len = data.len_bytes();
        let mut done = 0;
        while done < len {
            let op = Op::Write { file: self.clone(), offset: offset + done as u64, data, skip: done, mode };
            let (result, op) = start(op).await;
            let Op::Write { data: returned, .. } = op else { unreachable!("a write comes back as one") };
            data = returned;
            let advanced = match retried(result) {
                Ok(count) => self.continue_at(done, count, len),
                Err(error) => return Err((error, data)),
            };
            if let Some(0) = advanced {
                return Err((io::ErrorKind::WriteZero.into(), data));
            }
            done += advanced.unwrap_or(0);
        }
        Ok(())
    }

    /// Makes durable every write that completed before this was called (fdatasync).
    ///
    /// # Errors
    /// The device's. Afterwards nothing is known about those writes, and a second sync that succeeds says nothing.
    pub async fn sync(&self) -> io::Result<()> {
        self.simple(|file| Op::Sync { file }).await
    }

    /// Reserves the space of a range, which reads as before; a file grows where the range ends past it.
    ///
    /// # Errors
    /// "No space left" (`StorageFull`), or `Unsupported` where the file system or device has no such thing.
    pub async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.simple(|file| Op::Allocate { file, offset, len }).await
    }

    /// Has the device fill a range with zeroes, in blocks that count as written from then on.
    ///
    /// # Errors
    /// "No space left" (`StorageFull`), or `Unsupported` where the kernel (before Linux 6.17), the file system or the device
    /// has no such thing.
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        self.simple(|file| Op::Zero { file, offset, len }).await
    }

    /// Gives the space of a range back; it reads as zeroes.
    ///
    /// # Errors
    /// `Unsupported` where the file system or device has no such thing.
    pub async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.simple(|file| Op::Punch { file, offset, len }).await
    }

    /// What a completed plain write is worth when the host crashes.
    #[must_use]
    pub fn placement(&self) -> Placement {
        match &self.0 {
            Kind::Real(file) => file.placement,
            Kind::Simulated(disk) => disk.placement(),
        }
    }

    /// What a range has. Blocking, and quick.
    pub(crate) fn coverage(&self, range: Range<u64>) -> Coverage {
        match &self.0 {
            Kind::Real(file) if file.is_device => Coverage::default(),
            Kind::Real(file) => placement::coverage(file, range),
            Kind::Simulated(disk) => disk.coverage(range),
        }
    }

    fn is_direct(&self) -> bool {
        match &self.0 {
            Kind::Real(file) => file.direct,
            Kind::Simulated(_) => true,
        }
    }

    /// Length, as of the opening or the last `set_len`.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match &self.0 {
            Kind::Real(file) => file.len.load(Ordering::Relaxed),
            Kind::Simulated(disk) => disk.len_bytes(),
        }
    }

    /// Bytes that the file really takes on its file system (zero for a block device).
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        match &self.0 {
            // st_blocks counts 512 bytes whatever the file system's block.
            Kind::Real(file) => Ok(rustix::fs::fstat(file)?.st_blocks as u64 * 512),
            Kind::Simulated(disk) => Ok(disk.allocated_bytes()),
        }
    }

    /// Bytes that the file system can still give to the file, without what it keeps for root; `None` where there is no
    /// limit to tell, above all for a block device, which has all it will ever have.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn room_bytes(&self) -> io::Result<Option<u64>> {
        match &self.0 {
            Kind::Real(file) if file.is_device => Ok(None),
            Kind::Real(file) => {
                let below = rustix::fs::fstatvfs(file)?;
                // One without a size, as a tmpfs can be, tells zeroes.
                Ok((below.f_blocks > 0).then_some(below.f_bavail * below.f_frsize))
            }
            Kind::Simulated(disk) => Ok(disk.room_bytes()),
        }
    }

    /// Makes a file longer or shorter. Blocking, and quick.
    ///
    /// # Errors
    /// Those of ftruncate(2); a block device refuses.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => {
                rustix::fs::ftruncate(file, len)?;
                file.len.store(len, Ordering::Relaxed);
            }
            Kind::Simulated(disk) => disk.set_len(len),
        }
        Ok(())
    }

    /// The description behind it, for the engines that work on real ones.
    pub(crate) fn real(&self) -> &Arc<RealFile> {
        match &self.0 {
            Kind::Real(file) => file,
            Kind::Simulated(_) => panic!("a simulated file needs a simulated runtime"),
        }
    }

    /// The disk behind it, for the engine that works on simulated ones.
    pub(crate) fn disk(&self) -> &SimDisk {
        match &self.0 {
            Kind::Real(_) => panic!("a simulated runtime has no real files"),
            Kind::Simulated(disk) => disk,
        }
    }

    async fn simple(&self, op: impl Fn(File) -> Op) -> io::Result<()> {
        while retried(start(op(self.clone())).await.0)?.is_none() {}
        Ok(())
    }

    /// How far a transfer of `len` bytes may count itself done after `count` more: to a sector's beginning, unless it
    /// is complete. `Some(0)` is the end of the file; `None` an interruption.
    fn continue_at(&self, done: usize, count: Option<usize>, len: usize) -> Option<usize> {
        let count = count?;
        if done + count == len || !self.is_direct() {
            Some(count)
        } else {
            Some(count - count % SECTOR_BYTES)
        }
    }
}

/// Whether a store can be in what is there. That nothing is there is for others to say.
fn check_type(there: io::Result<std::fs::Metadata>) -> io::Result<()> {
    match there {
        Ok(metadata) if metadata.is_file() || metadata.file_type().is_block_device() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device")),
        Err(_) => Ok(()),
    }
}

/// `None` for an operation that a signal interrupted before it did anything.
fn retried(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
