//! Reading the header of any format.

use super::{error::HeaderError, qcow2, reference::References, vdi, vhd, vhdx, vmdk};
use crate::cli::{copy::ReadAt, image::format::Format};

/// Reads the header of an image of that format, looks whether the file is as long as its tables
/// say, and tells what it refers to.
///
/// # Errors
/// [`HeaderError`].
pub(crate) fn references(from: &impl ReadAt, format: Format) -> Result<References, HeaderError> {
    match format {
        Format::Raw => Ok(References::default()),
        Format::Qcow2 => qcow2::references(from),
        Format::Vmdk => vmdk::references(from),
        Format::Vhd => vhd::check(from).map(|()| References::default()),
        Format::Vhdx => vhdx::check(from).map(|()| References::default()),
        Format::Vdi => vdi::check(from).map(|()| References::default()),
    }
}

/// Reads a VMDK file that a descriptor names as a sparse extent: it must hold grains, and name
/// nothing itself.
///
/// # Errors
/// [`HeaderError`].
pub(crate) fn check_sparse_extent(from: &impl ReadAt) -> Result<(), HeaderError> {
    vmdk::check_extent(from)
}
