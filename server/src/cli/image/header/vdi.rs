//! VDI: a header and a table of blocks. Little-endian.

use super::error::{HeaderError, within};
use crate::cli::copy::{Fields, ReadAt, each_entry};

/// Where the signature stands, and what it is.
const SIGNATURE_OFFSET: u64 = 0x40;
const SIGNATURE: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];

/// Image types that stand alone.
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;

/// From here on a table's entry is no place: the block reads as zeroes, or was never written.
const NO_PLACE: u32 = 0xffff_fffe;

pub(super) fn check(from: &impl ReadAt) -> Result<(), HeaderError> {
    let header: Fields<0x1c8> = Fields::read(from, 0)?;
    if header.bytes(SIGNATURE_OFFSET as usize) != SIGNATURE {
        return Err(HeaderError::Malformed("it has no signature"));
    }
    if ![DYNAMIC, FIXED].contains(&header.u32_le(0x4c)) {
        return Err(HeaderError::Unsupported(
            "it has only what its parent has not: merge them with VBoxManage clonemedium",
        ));
    }
    let (table, data) = (header.u32_le(0x154), header.u32_le(0x158));
    let (block_bytes, blocks) = (header.u32_le(0x178), header.u32_le(0x180));
    within(from, "its table of blocks", u64::from(table), u64::from(blocks) * 4)?;
    each_entry(from, u64::from(table), u64::from(blocks), |entry: [u8; 4]| {
        match u32::from_le_bytes(entry) {
            NO_PLACE.. => Ok(()),
            // 32 bits times 32 bits, and as much again, fit into 64.
            block => within(
                from,
                "a block",
                u64::from(data) + u64::from(block) * u64::from(block_bytes),
                u64::from(block_bytes),
            ),
        }
    })
}
