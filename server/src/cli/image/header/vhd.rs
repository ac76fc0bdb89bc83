//! VHD, which qemu calls vpc: a footer of 512 bytes at the end, a copy of it at the beginning of a
//! dynamic one, and a table of blocks. Big-endian.

use super::error::{HeaderError, within};
use crate::cli::copy::{Fields, ReadAt, each_entry};

const COOKIE: &[u8; 8] = b"conectix";
const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";

const FOOTER_BYTES: u64 = 512;
const SECTOR_BYTES: u64 = 512;

/// Disk types.
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// A block that is not there.
const UNUSED: u32 = u32::MAX;

/// Whether a footer is at the end of the file. Versions of 2003 and before wrote one of 511 bytes.
pub(crate) fn has_footer(from: &impl ReadAt) -> bool {
    [FOOTER_BYTES, FOOTER_BYTES - 1].into_iter().any(|footer_bytes| {
        let at = from.len_bytes().checked_sub(footer_bytes);
        at.and_then(|at| Fields::<8>::read(from, at).ok()).is_some_and(|cookie| cookie.0 == *COOKIE)
    })
}

pub(crate) fn check(from: &impl ReadAt) -> Result<(), HeaderError> {
    if !has_footer(from) {
        let len_bytes = from.len_bytes();
        let end_bytes = len_bytes.saturating_add(FOOTER_BYTES);
        return Err(HeaderError::CutOff {
            what: "the footer that it must have",
            end_bytes,
            len_bytes,
        });
    }
    let dynamic: Fields<{ FOOTER_BYTES as usize }> = Fields::read(from, 0)?;
    if dynamic.bytes(0) != *COOKIE {
        return check_fixed(from);
    }
    match dynamic.u32_be(60) {
        FIXED => check_fixed(from),
        DYNAMIC => check_blocks(from, dynamic.u64_be(16)),
        DIFFERENCING => Err(HeaderError::Unsupported(
            "it is a differencing disk, which has only what its parent has not, and qemu-img reads it without the parent: \
             merge them with the program that made them",
        )),
        _ => Err(HeaderError::Malformed("it is neither a fixed nor a dynamic disk")),
    }
}

fn check_fixed(from: &impl ReadAt) -> Result<(), HeaderError> {
    let footer: Fields<64> = Fields::read(from, from.len_bytes().saturating_sub(FOOTER_BYTES))?;
    // A footer of 511 bytes is read a byte too early, and the programs that wrote it made no fixed
    // disks that are too short.
    if footer.bytes(0) != *COOKIE {
        return Ok(());
    }
    match footer.u32_be(60) {
        FIXED => within(from, "the disk", footer.u64_be(48), FOOTER_BYTES),
        DYNAMIC | DIFFERENCING => {
            Err(HeaderError::Malformed("the beginning of a dynamic disk is missing"))
        }
        _ => Err(HeaderError::Malformed("it is neither a fixed nor a dynamic disk")),
    }
}

fn check_blocks(from: &impl ReadAt, header_offset: u64) -> Result<(), HeaderError> {
    within(from, "its second header", header_offset, 1024)?;
    let header: Fields<64> = Fields::read(from, header_offset)?;
    if header.bytes(0) != *DYNAMIC_COOKIE {
        return Err(HeaderError::Malformed("there is no second header where it must be"));
    }
    let (table, blocks, block_bytes) = (header.u64_be(16), header.u32_be(28), header.u32_be(32));
    within(from, "its table of blocks", table, u64::from(blocks) * 4)?;
    each_entry(from, table, u64::from(blocks), |entry: [u8; 4]| match u32::from_be_bytes(entry) {
        UNUSED => Ok(()),
        sector => within(from, "a block", u64::from(sector) * SECTOR_BYTES, u64::from(block_bytes)),
    })
}
