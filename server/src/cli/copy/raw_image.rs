//! Raw images: sparse files, or block devices.

use super::{
    read_at::ImageFile,
    span::{Span, buffer},
};
use bytes::Bytes;
use rustix::{fs::SeekFrom, io::Errno};
use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Seek, Write},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Mode of an image that is made.
const IMAGE_MODE: u32 = 0o600;

/// An image that is read.
pub(crate) struct Source {
    file: File,
    len_bytes: u64,
}

/// What stands at a place of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Data(Span),
    /// Nothing was ever written there.
    Hole(Span),
}

impl Source {
    /// An image that was opened before.
    pub(crate) fn of(ImageFile { file, len_bytes }: ImageFile) -> Source {
        Source { file, len_bytes }
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The segment that begins at `offset`, which lies before the end.
    pub(crate) fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        let up_to = |end: u64| Span { offset, len: end.min(self.len_bytes) - offset };
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Segment::Hole(up_to(data))),
            Ok(_) => {
                Ok(Segment::Data(up_to(rustix::fs::seek(&self.file, SeekFrom::Hole(offset))?)))
            }
            Err(Errno::NXIO) => Ok(Segment::Hole(up_to(self.len_bytes))),
            // Block devices and some file systems know no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Segment::Data(up_to(self.len_bytes))),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn read(&self, span: Span) -> io::Result<Bytes> {
        let mut data = buffer(span.len)?;
        self.file.read_exact_at(&mut data, span.offset)?;
        Ok(data.freeze())
    }
}

/// Opens a file or a block device.
///
/// # Errors
/// Of opening, and for anything else.
pub(crate) fn open(path: &Path) -> io::Result<ImageFile> {
    refuse_others(&fs::metadata(path)?)?;
    // What is put into its place in between must not hold us up.
    let mut file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    refuse_others(&file.metadata()?)?;
    // A block device has no length in its metadata, but an end.
    let len_bytes = file.seek(io::SeekFrom::End(0))?;
    Ok(ImageFile { file, len_bytes })
}

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// Lets files and block devices through. A pipe or a terminal has no place that could be read or
/// written, and opening one may wait for ever.
pub(crate) fn refuse_others(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() || metadata.file_type().is_block_device() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"))
}

/// An image that is written.
pub(crate) struct Target {
    file: File,
    kind: Kind,
}

enum Kind {
    /// A new file, put into its place when it is whole: before, the old one or none is there.
    File(Partial),
    /// A device, written in place. It holds something already, so zeroes have to be written.
    Device,
}

impl Target {
    /// Begins an image of that size; a file is all hole.
    pub(crate) fn create(path: &Path, len_bytes: u64) -> io::Result<Target> {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                refuse_others(&metadata)?;
                let mut file = OpenOptions::new().write(true).open(path)?;
                let device_bytes = file.seek(io::SeekFrom::End(0))?;
                if device_bytes < len_bytes {
                    let text = format!("it has {device_bytes} bytes and the volume {len_bytes}");
                    return Err(io::Error::new(io::ErrorKind::StorageFull, text));
                }
                Ok(Target { file, kind: Kind::Device })
            }
            Ok(_) | Err(_) => {
                let partial = Partial::beside(path)?;
                let file = partial.file.as_file().try_clone()?;
                file.set_len(len_bytes)?;
                Ok(Target { file, kind: Kind::File(partial) })
            }
        }
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Sees to it that `span`, which was not written, reads as zeroes.
    pub(crate) fn zero(&self, span: Span) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        match self.kind {
            Kind::File(_) => Ok(()),
            Kind::Device => {
                let mut offset = span.offset;
                while offset < span.end() {
                    let len = (span.end() - offset).min(ZEROES.len() as u64);
                    self.file.write_all_at(&ZEROES[..len as usize], offset)?;
                    offset += len;
                }
                Ok(())
            }
        }
    }

    /// Makes the image durable and puts it into its place.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.sync_all()?;
        match self.kind {
            Kind::File(partial) => partial.finish(),
            Kind::Device => Ok(()),
        }
    }
}

/// A file under a passing name beside its place. Dropped, it is gone.
pub(crate) struct Partial {
    file: NamedTempFile,
    place: PathBuf,
}

impl Partial {
    pub(crate) fn beside(path: &Path) -> io::Result<Partial> {
        // Through a link to the file that it means, so that the link stays.
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let directory = place
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut prefix = OsString::from(".");
        prefix.push(place.file_name().unwrap_or_default());
        prefix.push(".");
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".partial")
            // For its owner alone, whatever the umask: it holds all that a tenant's disk does.
            .permissions(fs::Permissions::from_mode(IMAGE_MODE))
            .tempfile_in(directory)?;
        Ok(Partial { file, place })
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts a file that is whole and durable into its place.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.file.persist(&self.place).map(drop).map_err(|error| error.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_files_and_block_devices() {
        let directory = tempfile::tempdir().unwrap();
        for place in [directory.path(), Path::new("/dev/zero")] {
            assert_eq!(open(place).err().unwrap().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(Target::create(place, 0).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
        let file = directory.path().join("image");
        Target::create(&file, 5).unwrap().finish().unwrap();
        assert_eq!(open(&file).map(Source::of).unwrap().len_bytes(), 5);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
