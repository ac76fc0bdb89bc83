//! Salvage: reading a range block by block where a whole read fails, so that one bad sector does
//! not cost the blocks around it.

use crate::base::BLOCK_BYTES;
use sandstone_ring::{File, aligned};

/// Fill byte for a block that cannot be read. Such a block is not blank, and no magic begins with
/// it; if it matches the checksum of what was written, then it is what was written.
const UNREADABLE: u8 = 0xdb;

/// Reads `blocks` blocks at a byte offset; where that fails, block by block. A block that fails
/// again is filled with bytes that fail every checksum.
pub(crate) async fn read_blocks(file: &File, offset: u64, blocks: u32) -> Vec<u8> {
    let len = blocks as usize * BLOCK_BYTES;
    if let Ok(bytes) = file.read(offset, aligned(len), len).await {
        return bytes.to_vec();
    }
    let mut all = Vec::with_capacity(len);
    for at in (offset..offset + len as u64).step_by(BLOCK_BYTES) {
        match file.read(at, aligned(BLOCK_BYTES), BLOCK_BYTES).await {
            Ok(block) => all.extend_from_slice(&block),
            Err(error) => {
                tracing::error!(offset = at, %error, "a block cannot be read");
                all.resize(all.len() + BLOCK_BYTES, UNREADABLE);
            }
        }
    }
    all
}
