//! What the headers of disk images say: which other files an image refers to, and whether the file
//! ends too early.
//!
//! qemu-img opens what a header names as soon as it opens the image, and takes what lies behind a
//! file's end for zeroes. A header may have been written by a guest, into its raw disk. So these
//! are read here before qemu-img sees the file.
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
//! I1  No parser panics, whatever the bytes are, and none takes more memory than [`TEXT_BYTES_MAX`]
//!     and a piece of a table.
//! I2  What a parser does not understand is an error, never "refers to nothing".
//!
//! Source: qemu's docs/interop/qcow2.txt; VMware's "Virtual Disk Format 5.0"; Microsoft's "Virtual
//! Hard Disk Image Format Specification" and MS-VHDX; VirtualBox' VDI header as documented by its
//! authors.

mod error;
mod qcow2;
mod read;
mod reference;
#[cfg(test)]
mod tests;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

pub(super) use error::HeaderError;
pub(super) use read::{check_sparse_extent, references};
pub(super) use reference::{ExtentKind, Reference};
pub(super) use vhd::has_footer as has_vhd_footer;
