//! Map nodes on disk.
//!
//! ```text
//!   | magic 4 | level 1 | 0 | entries 2 | 0 … 16 |
//!   leaf:   entries × { start 1, len-1 1, state+address 8 }, then crc32 of each data block
//!   inner:  entries × { index 1, tag 1, address 8, crc32 4, mapped 4 }
//! ```
//! A node takes one block, an inner node with many children two. Its checksum is in its parent.
//! This file knows a node as a list of entries; `map/node.rs` has the node in memory.

use super::Malformed;
use crate::base::{
    Address, BLOCK_BYTES, Blindness, LEAF_BLOCKS, SEGMENT_BLOCKS_MAX, blocks_for, checksum,
    is_blind_to,
};
use bytes::{Buf, BufMut};

const LEAF_MAGIC: u32 = u32::from_le_bytes(*b"SSL1");
const INNER_MAGIC: u32 = u32::from_le_bytes(*b"SSI1");
const HEADER_BYTES: usize = 16;
/// Where the header has the number of entries.
const ENTRIES_AT: usize = 6;
const ZERO_RUN: u64 = 1 << 62;

/// Most blocks a node takes.
const NODE_BLOCKS_MAX: u32 = 2;

const _: () = assert!(HEADER_BYTES + 256 * (10 + 4) <= BLOCK_BYTES);
const _: () = assert!(HEADER_BYTES + 256 * 18 <= NODE_BLOCKS_MAX as usize * BLOCK_BYTES);

/// Where a node lies on disk, and what its bytes must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRef {
    pub(crate) address: Address,
    /// Checksum of the node's blocks.
    pub(crate) checksum: u32,
    /// 1 or 2.
    pub(crate) blocks: u8,
    /// Data blocks mapped below it. Not kept for a root, whose volume knows.
    pub(crate) mapped: u32,
}

/// The state of a run of blocks. Blocks without a run are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    /// Data, one block after the other from this address on.
    Data(Address),
    /// Zero and reserved.
    Zero,
}

impl RunState {
    /// The state `blocks` further into the run.
    pub(crate) fn plus(self, blocks: u16) -> Self {
        match self {
            Self::Data(address) if blocks > 0 => Self::Data(address.plus(u32::from(blocks))),
            Self::Data(_) | Self::Zero => self,
        }
    }
}

/// Blocks of a leaf that are alike and follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRun {
    /// First block within the leaf.
    pub(crate) start: u8,
    /// Blocks, 1 to 256.
    pub(crate) len: u16,
    pub(crate) state: RunState,
    /// One for each block of data.
    pub(crate) checksums: Vec<u32>,
}

/// A child of an inner node that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredChild {
    /// Zero and reserved throughout.
    Zero,
    /// A node.
    Node(NodeRef),
}

/// A node as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredNode {
    Leaf(Vec<StoredRun>),
    /// Children with their places.
    Inner(Vec<(u8, StoredChild)>),
}

fn begin(magic: u32, level: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(NODE_BLOCKS_MAX as usize * BLOCK_BYTES);
    out.put_u32_le(magic);
    out.put_u8(u8::try_from(level).expect("four levels"));
    out.resize(HEADER_BYTES, 0);
    out
}

/// Writes the number of entries, fills up to whole blocks, and gives their checksum with them.
fn end(mut out: Vec<u8>, entries: u16) -> (Vec<u8>, u32) {
    out[ENTRIES_AT..ENTRIES_AT + 2].copy_from_slice(&entries.to_le_bytes());
    out.resize(blocks_for(out.len()) as usize * BLOCK_BYTES, 0);
    let crc = checksum::plain(&out);
    (out, crc)
}

/// A leaf's block and its checksum: runs in order, each with its first block, and the checksum of
/// each block of data.
pub(crate) fn encode_leaf(
    runs: impl Iterator<Item = (u8, u16, RunState)> + Clone,
    checksum: impl Fn(u8) -> u32,
) -> (Vec<u8>, u32) {
    let (mut out, mut entries) = (begin(LEAF_MAGIC, 0), 0);
    for (start, len, state) in runs.clone() {
        entries += 1;
        out.put_u8(start);
        out.put_u8((len - 1) as u8);
        out.put_u64_le(match state {
            RunState::Data(address) => address.raw(),
            RunState::Zero => ZERO_RUN,
        });
    }
    for (start, len, _) in runs.filter(|(_, _, state)| matches!(state, RunState::Data(_))) {
        for i in 0..len {
            out.put_u32_le(checksum((u16::from(start) + i) as u8));
        }
    }
    end(out, entries)
}

/// An inner node's blocks and their checksum: children that are not empty, in order, each with its
/// place.
pub(crate) fn encode_inner(
    level: u32,
    children: impl Iterator<Item = (usize, StoredChild)>,
) -> (Vec<u8>, u32) {
    assert!(level > 0);
    let (mut out, mut entries) = (begin(INNER_MAGIC, level), 0);
    for (i, child) in children {
        entries += 1;
        let (tag, home) = match child {
            StoredChild::Zero => (0, None),
            StoredChild::Node(home) => (home.blocks, Some(home)),
        };
        out.put_u8(i as u8);
        out.put_u8(tag);
        out.put_u64_le(home.map_or(0, |h| h.address.raw()));
        out.put_u32_le(home.map_or(0, |h| h.checksum));
        out.put_u32_le(home.map_or(0, |h| h.mapped));
    }
    end(out, entries)
}

/// Reads the node at `home` from its blocks.
///
/// # Errors
/// When the checksum is not the parent's, or the bytes make no sense (a bug, not damage).
pub(crate) fn decode_node(
    home: &NodeRef,
    level: u32,
    blocks: &[u8],
) -> Result<StoredNode, Malformed> {
    if checksum::plain(blocks) != home.checksum && !is_blind_to(Blindness::NodeChecksum) {
        return Err(Malformed("a map node's checksum does not match"));
    }
    let mut b = blocks;
    let magic = b.try_get_u32_le()?;
    let stored_level = u32::from(b.try_get_u8()?);
    let _reserved = b.try_get_u8()?;
    let entries = b.try_get_u16_le()?;
    let _reserved = b.try_get_u64_le()?;
    if stored_level != level || magic != if level == 0 { LEAF_MAGIC } else { INNER_MAGIC } {
        return Err(Malformed("a map node is of another level"));
    }
    if level == 0 {
        decode_leaf(b, entries).map(StoredNode::Leaf)
    } else {
        decode_inner(b, entries).map(StoredNode::Inner)
    }
}

fn decode_leaf(mut b: &[u8], entries: u16) -> Result<Vec<StoredRun>, Malformed> {
    let mut runs = Vec::with_capacity(usize::from(entries));
    for _ in 0..entries {
        let (start, len) = (b.try_get_u8()?, u16::from(b.try_get_u8()?) + 1);
        let raw = b.try_get_u64_le()?;
        let state = match raw {
            ZERO_RUN => RunState::Zero,
            raw => RunState::Data(Address::from_raw(raw).ok_or(Malformed("a run has no address"))?),
        };
        if u64::from(start) + u64::from(len) > LEAF_BLOCKS {
            return Err(Malformed("a run leaves its leaf"));
        }
        runs.push(StoredRun { start, len, state, checksums: Vec::new() });
    }
    for run in &mut runs {
        if let RunState::Data(address) = run.state {
            if address.block() + u32::from(run.len) > SEGMENT_BLOCKS_MAX {
                return Err(Malformed("a run leaves its segment"));
            }
            for _ in 0..run.len {
                run.checksums.push(b.try_get_u32_le()?);
            }
        }
    }
    Ok(runs)
}

fn decode_inner(mut b: &[u8], entries: u16) -> Result<Vec<(u8, StoredChild)>, Malformed> {
    let mut children = Vec::with_capacity(usize::from(entries));
    for _ in 0..entries {
        let (index, tag) = (b.try_get_u8()?, b.try_get_u8()?);
        let address = b.try_get_u64_le()?;
        let (checksum, mapped) = (b.try_get_u32_le()?, b.try_get_u32_le()?);
        let child = match tag {
            0 => StoredChild::Zero,
            1 | 2 => StoredChild::Node(NodeRef {
                address: Address::from_raw(address).ok_or(Malformed("a child has no address"))?,
                checksum,
                blocks: tag,
                mapped,
            }),
            _ => return Err(Malformed("a child is of an unknown kind")),
        };
        children.push((index, child));
    }
    Ok(children)
}
