//! What the headers of disk images say: which other files an image refers to, and whether the file ends too early.
//!
//! qemu-img opens what a header names as soon as it opens the image, and takes what lies behind a file's end for zeroes.
//! A header may have been written by a guest, into its raw disk. So these are read here before qemu-img sees the file.
//!
//! ```text
//!   format    refers to                               ends too early where
//!   qcow2     backing file, external data file        the header's tables or an L2 table lie behind the end; qemu-img's
//!                                                     own check sees the rest
//!   vmdk      parent, extents of a descriptor         a grain table lies behind the end; streams have no footer; the same
//!   vhd       parent (refused: qemu-img forgets it)   there is no footer, or a block lies behind the end
//!   vhdx      parent (refused, also by qemu-img)      a block lies behind the end
//!   vdi       parent (the same)                       the same
//! ```
//!
//! I1  No parser panics, whatever the bytes are, and none takes more memory than [`TEXT_BYTES_MAX`] and a piece of a table.
//! I2  What a parser does not understand is an error, never "refers to nothing".
//!
//! Source: qemu's docs/interop/qcow2.txt; VMware's "Virtual Disk Format 5.0"; Microsoft's "Virtual Hard Disk Image Format
//! Specification" and MS-VHDX; VirtualBox' VDI header as documented by its authors.

mod qcow2;
mod read_at;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

#[cfg(test)]
mod tests;

pub(super) use read_at::{ImageFile, ReadAt};
pub(super) use vhd::has_footer as has_vhd_footer;

use super::image_format::Format;
use std::{error, fmt, io};

/// Longest text of a header that is read: a descriptor, or the area of header extensions. VMware's own are a few KiB;
/// qemu reads 20 sectors of an embedded one, and 2 MiB of a file.
pub(super) const TEXT_BYTES_MAX: usize = 2 << 20;

/// What an image refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    /// The image that holds what this one does not.
    pub(super) backing: Option<Reference>,
    /// The file that holds the data of a qcow2 image which only has the tables.
    pub(super) data_file: Option<String>,
    /// The files that a VMDK descriptor is put together from.
    pub(super) extents: Vec<ExtentFile>,
}

impl References {
    pub(super) fn is_empty(&self) -> bool {
        self.backing.is_none() && self.data_file.is_none() && self.extents.is_empty()
    }
}

/// A backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// As the header has it.
    pub(super) name: String,
    /// Its format, in the header's word; None where the header does not say.
    pub(super) format: Option<String>,
}

/// A file that a VMDK descriptor names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentFile {
    pub(super) name: String,
    pub(super) kind: ExtentKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// Bytes of the disk, so many and from there on.
    Flat { end_bytes: u64 },
    /// A sparse file with a header of its own.
    Sparse,
}

/// Why an image is refused by its header.
#[derive(Debug)]
pub(super) enum HeaderError {
    Io(io::Error),
    /// The file ends before something that it must have.
    CutOff {
        what: &'static str,
        end_bytes: u64,
        len_bytes: u64,
    },
    /// A field has a value that it cannot have.
    Malformed(&'static str),
    /// Something that a conversion would lose, or that needs a key.
    Unsupported(&'static str),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Io(error) => error.fmt(f),
            HeaderError::CutOff { what, end_bytes, len_bytes } => write!(
                f,
                "it is cut off: {what} would end at byte {end_bytes}, and the file has {len_bytes}; fetch it again"
            ),
            HeaderError::Malformed(what) => write!(f, "its header is damaged: {what}"),
            HeaderError::Unsupported(what) => f.write_str(what),
        }
    }
}

impl error::Error for HeaderError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            HeaderError::Io(error) => Some(error),
            HeaderError::CutOff { .. } | HeaderError::Malformed(_) | HeaderError::Unsupported(_) => None,
        }
    }
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> HeaderError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return HeaderError::Malformed("the file ends inside it");
        }
        HeaderError::Io(error)
    }
}

/// Reads the header of an image of that format, looks whether the file is as long as its tables say, and tells what it
/// refers to.
///
/// # Errors
/// [`HeaderError`].
pub(super) fn references(from: &impl ReadAt, format: Format) -> Result<References, HeaderError> {
    match format {
        Format::Raw => Ok(References::default()),
        Format::Qcow2 => qcow2::references(from),
        Format::Vmdk => vmdk::references(from),
        Format::Vhd => vhd::check(from).map(|()| References::default()),
        Format::Vhdx => vhdx::check(from).map(|()| References::default()),
        Format::Vdi => vdi::check(from).map(|()| References::default()),
    }
}

/// Reads a VMDK file that a descriptor names as a sparse extent: it must hold grains, and name nothing itself.
///
/// # Errors
/// [`HeaderError`].
pub(super) fn check_sparse_extent(from: &impl ReadAt) -> Result<(), HeaderError> {
    vmdk::check_extent(from)
}

/// Whether `offset + len` lies within the file.
fn within(from: &impl ReadAt, what: &'static str, offset: u64, len: u64) -> Result<(), HeaderError> {
    let len_bytes = from.len_bytes();
    match offset.checked_add(len) {
        Some(end_bytes) if end_bytes > len_bytes => Err(HeaderError::CutOff { what, end_bytes, len_bytes }),
        Some(_) => Ok(()),
        None => Err(HeaderError::Malformed("an offset is beyond any file")),
    }
}

/// Text of a header, which must be UTF-8 without a zero: other names are no names that could be told.
fn text(bytes: Vec<u8>) -> Result<String, HeaderError> {
    let text = String::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains('\0'));
    text.ok_or(HeaderError::Malformed("a file name in it is empty or no UTF-8"))
}
