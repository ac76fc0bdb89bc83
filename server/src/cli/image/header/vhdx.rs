//! VHDX: a table of regions, of which one holds metadata and one the table of blocks.
//! Little-endian.

use super::error::{HeaderError, within};
use crate::cli::copy::{Fields, ReadAt, each_entry};

/// Where the table of regions is.
const REGIONS_OFFSET: u64 = 192 << 10;
const REGIONS_SIGNATURE: &[u8; 4] = b"regi";
const METADATA_SIGNATURE: &[u8; 8] = b"metadata";
/// Source: MS-VHDX, for either table.
const ENTRIES_MAX: u16 = 2047;

/// GUIDs, as they lie in the file.
const BLOCKS: [u8; 16] = guid(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
const METADATA: [u8; 16] = guid(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);
const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);

const HAS_PARENT: u32 = 1 << 1;

/// States of a block that has a place, in the low bits of its entry; the high ones are its MiB in
/// the file.
const STATE: u64 = 7;
const PRESENT: u64 = 6;
const PARTLY_PRESENT: u64 = 7;
const MIB_SHIFT: u32 = 20;

/// The first three parts of a GUID are little-endian.
const fn guid(value: u128) -> [u8; 16] {
    let b = value.to_be_bytes();
    [
        b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13],
        b[14], b[15],
    ]
}

pub(super) fn check(from: &impl ReadAt) -> Result<(), HeaderError> {
    let head: Fields<16> = Fields::read(from, REGIONS_OFFSET)?;
    if head.bytes(0) != *REGIONS_SIGNATURE {
        return Err(HeaderError::Malformed("there is no table of regions where it must be"));
    }
    let (mut blocks, mut metadata) = (None, None);
    for i in 0..head.u32_le(8).min(u32::from(ENTRIES_MAX)) {
        let entry: Fields<32> = Fields::read(from, REGIONS_OFFSET + 16 + u64::from(i) * 32)?;
        let region = (entry.u64_le(16), entry.u32_le(24));
        match entry.bytes(0) {
            BLOCKS => blocks = Some(region),
            METADATA => metadata = Some(region),
            _ => {}
        }
    }
    let (Some((table, table_bytes)), Some((metadata, metadata_bytes))) = (blocks, metadata) else {
        return Err(HeaderError::Malformed("a region that it must have is missing"));
    };
    within(from, "its table of blocks", table, u64::from(table_bytes))?;
    within(from, "its metadata", metadata, u64::from(metadata_bytes))?;
    let block_bytes = block_bytes(from, metadata)?;
    each_entry(from, table, u64::from(table_bytes) / 8, |entry: [u8; 8]| {
        let entry = u64::from_le_bytes(entry);
        match entry & STATE {
            // Between the blocks' entries are those of bitmaps, which only a disk with a parent
            // has.
            PRESENT if entry >> MIB_SHIFT != 0 => {
                within(from, "a block", entry >> MIB_SHIFT << MIB_SHIFT, u64::from(block_bytes))
            }
            PARTLY_PRESENT => Err(parent()),
            _ => Ok(()),
        }
    })
}

/// Bytes of a block, of a disk without a parent.
fn block_bytes(from: &impl ReadAt, metadata: u64) -> Result<u32, HeaderError> {
    let head: Fields<32> = Fields::read(from, metadata)?;
    if head.bytes(0) != *METADATA_SIGNATURE {
        return Err(HeaderError::Malformed("there is no metadata where it must be"));
    }
    for i in 0..head.u16_le(10).min(ENTRIES_MAX) {
        let entry: Fields<32> = Fields::read(from, metadata + 32 + u64::from(i) * 32)?;
        if entry.bytes(0) == FILE_PARAMETERS {
            let parameters: Fields<8> =
                Fields::read(from, metadata.saturating_add(u64::from(entry.u32_le(16))))?;
            return if parameters.u32_le(4) & HAS_PARENT == 0 {
                Ok(parameters.u32_le(0))
            } else {
                Err(parent())
            };
        }
    }
    Err(HeaderError::Malformed("it does not say how large its blocks are"))
}

fn parent() -> HeaderError {
    HeaderError::Unsupported(
        "it is a differencing disk, which has only what its parent has not: merge them with the program that made them",
    )
}
