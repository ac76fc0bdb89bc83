//! The store's file or block device, real or simulated: opening, locking and properties, without
//! transfers.
//!
//! I1  The lock is taken on the very file description that the engines write through, so it lasts
//!     as long as any write of a killed process may still land (measured: seconds after the process
//!     has ended).
//! I2  Operations in flight keep the file, so it is closed and its lock given back only after the
//!     last of them. The lock is given back by name, since a ring's table of files may hold the
//!     description for longer.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;

use super::placement::{self, Coverage, Placement};
use super::sim::SimDisk;

/// An open file or block device, shared by all clones and by the operations in flight.
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
    /// Opens a file or block device for reading and writing past the page cache, or through it
    /// where the file system does not offer that (see [`placement`]). With `create_len`, a missing
    /// or empty file is made that long (sparse, mode 0600), durably.
    ///
    /// # Errors
    /// The errors of open(2) and ftruncate(2). A file that was created may stay behind.
    ///
    /// [`placement`]: File::placement
    pub fn open(path: &Path, create_len: Option<u64>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create_len.is_some()).mode(0o600);
        File::open_with(&options, path, create_len)
    }

    /// Opens an existing file or block device for reading only.
    ///
    /// # Errors
    /// The errors of open(2); later those of writing to a file that is open for reading.
    pub fn open_read_only(path: &Path) -> io::Result<File> {
        File::open_with(OpenOptions::new().read(true), path, None)
    }

    fn open_with(options: &OpenOptions, path: &Path, create_len: Option<u64>) -> io::Result<File> {
        // Before the open, because opening a pipe or another device has effects.
        check_type(std::fs::metadata(path))?;
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
        let mut len =
            if is_device { rustix::fs::seek(&file, SeekFrom::End(0))? } else { metadata.len() };
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

    /// The placement: whether a completed plain write survives a crash of the host.
    #[must_use]
    pub fn placement(&self) -> Placement {
        match &self.0 {
            Kind::Real(file) => file.placement,
            Kind::Simulated(disk) => disk.placement(),
        }
    }

    /// Which parts of a range have written blocks. Blocking, and quick.
    pub fn coverage(&self, range: Range<u64>) -> Coverage {
        match &self.0 {
            Kind::Real(file) if file.is_device => Coverage::default(),
            Kind::Real(file) => placement::coverage(file, range),
            Kind::Simulated(disk) => disk.coverage(range),
        }
    }

    pub(crate) fn is_direct(&self) -> bool {
        match &self.0 {
            Kind::Real(file) => file.direct,
            Kind::Simulated(_) => true,
        }
    }

    /// Length in bytes, as of the opening or the last `set_len`.
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
    /// The errors of fstat(2).
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        match &self.0 {
            // st_blocks counts 512 bytes whatever the file system's block.
            Kind::Real(file) => Ok(rustix::fs::fstat(file)?.st_blocks as u64 * 512),
            Kind::Simulated(disk) => Ok(disk.allocated_bytes()),
        }
    }

    /// Bytes that the file system can still give to the file, without the reserve for root; `None`
    /// where there is no known limit, above all for a block device, whose size is fixed.
    ///
    /// # Errors
    /// The errors of fstatvfs(3).
    pub fn room_bytes(&self) -> io::Result<Option<u64>> {
        match &self.0 {
            Kind::Real(file) if file.is_device => Ok(None),
            Kind::Real(file) => {
                let below = rustix::fs::fstatvfs(file)?;
                // A file system without a size, such as some tmpfs, reports zeroes.
                Ok((below.f_blocks > 0).then_some(below.f_bavail * below.f_frsize))
            }
            Kind::Simulated(disk) => Ok(disk.room_bytes()),
        }
    }

    /// Sets the length of a file in bytes. Blocking, and quick.
    ///
    /// # Errors
    /// The errors of ftruncate(2); a block device refuses.
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

    /// Tries once to take the exclusive lock on this file description. It is released when the last
    /// clone is dropped and the last operation in flight has ended.
    pub(crate) fn try_lock(&self) -> rustix::io::Result<()> {
        match &self.0 {
            Kind::Real(file) => {
                rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
                file.locked.store(true, Ordering::Relaxed);
                Ok(())
            }
            Kind::Simulated(_) => Ok(()), // no other process can know of it
        }
    }
}

/// Refuses anything but a file or block device. A missing file is the caller's matter.
fn check_type(there: io::Result<std::fs::Metadata>) -> io::Result<()> {
    match there {
        Ok(metadata) if metadata.is_file() || metadata.file_type().is_block_device() => Ok(()),
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"))
        }
        Err(_) => Ok(()),
    }
}
