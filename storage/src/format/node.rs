//! Map nodes on disk.
//!
//! ```text
//!   | magic 4 | level 1 | 0 | entries 2 | 0 … 16 |
//!   leaf:   entries × { start 1, len-1 1, state+address 8 }, then a crc32 for each data block, in order
//!   inner:  entries × { index 1, tag 1, address 8, crc32 4, mapped 4 }
//! ```
//! A node takes one block, an inner node with many children two. Its checksum stands with its parent.

use super::Malformed;
use crate::{
    address::{Address, BLOCK_BYTES, LEAF_BLOCKS, blocks_for},
    blindness::{Blindness, is_blind_to},
    checksum,
    map::{Child, Inner, Leaf, Node, NodeBody, NodeRef, RunState},
};
use bytes::{Buf, BufMut};

const LEAF_MAGIC: u32 = u32::from_le_bytes(*b"SSL1");
const INNER_MAGIC: u32 = u32::from_le_bytes(*b"SSI1");
const HEADER_BYTES: usize = 16;
const ZERO_RUN: u64 = 1 << 62;

/// Most blocks a node takes.
const NODE_BLOCKS_MAX: u32 = 2;

const _: () = assert!(HEADER_BYTES + 256 * (10 + 4) <= BLOCK_BYTES);
const _: () = assert!(HEADER_BYTES + 256 * 18 <= NODE_BLOCKS_MAX as usize * BLOCK_BYTES);

/// The node's blocks and their checksum. All children must have a home.
pub(crate) fn encode_node(node: &Node, level: u32) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(NODE_BLOCKS_MAX as usize * BLOCK_BYTES);
    let header = |out: &mut Vec<u8>, magic: u32, entries: usize| {
        out.put_u32_le(magic);
        out.put_u8(u8::try_from(level).expect("four levels"));
        out.put_u8(0);
        out.put_u16_le(u16::try_from(entries).expect("at most 256"));
        out.put_u64_le(0);
    };
    match node.body() {
        NodeBody::Leaf(leaf) => {
            assert_eq!(level, 0);
            header(&mut out, LEAF_MAGIC, leaf.runs().len());
            for run in leaf.runs() {
                out.put_u8(run.start);
                out.put_u8((run.len - 1) as u8);
                out.put_u64_le(match run.state {
                    RunState::Data(address) => address.raw(),
                    RunState::Zero => ZERO_RUN,
                });
            }
            for run in leaf.runs().iter().filter(|r| matches!(r.state, RunState::Data(_))) {
                for i in 0..run.len {
                    out.put_u32_le(leaf.checksum((u16::from(run.start) + i) as u8));
                }
            }
        }
        NodeBody::Inner(inner) => {
            assert!(level > 0);
            let used = inner.children.iter().filter(|c| !matches!(c, Child::Empty)).count();
            header(&mut out, INNER_MAGIC, used);
            for (i, child) in inner.children.iter().enumerate() {
                let (tag, home) = match child {
                    Child::Empty => continue,
                    Child::Zero => (0, None),
                    Child::Stored(home) => (home.blocks, Some(*home)),
                    Child::Loaded(node) => {
                        let home = node.home().expect("children are written before their parent");
                        (home.blocks, Some(home))
                    }
                };
                out.put_u8(i as u8);
                out.put_u8(tag);
                out.put_u64_le(home.map_or(0, |h| h.address.raw()));
                out.put_u32_le(home.map_or(0, |h| h.checksum));
                out.put_u32_le(home.map_or(0, |h| h.mapped));
            }
        }
    }
    out.resize(blocks_for(out.len()) as usize * BLOCK_BYTES, 0);
    let crc = checksum::plain(&out);
    (out, crc)
}

/// Reads the node at `home` from its blocks.
///
/// # Errors
/// When they are not the bytes that its parent vouches for, or (a bug, not bit rot) make no sense.
pub(crate) fn decode_node(home: &NodeRef, level: u32, blocks: &[u8]) -> Result<Node, Malformed> {
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
    let body = if level == 0 {
        NodeBody::Leaf(decode_leaf(b, entries)?)
    } else {
        NodeBody::Inner(decode_inner(b, entries)?)
    };
    Ok(Node::stored(body, *home))
}

fn decode_leaf(mut b: &[u8], entries: u16) -> Result<Leaf, Malformed> {
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
        runs.push((start, len, state));
    }
    let mut leaf = Leaf::default();
    for (start, len, state) in runs {
        let mut sums = Vec::new();
        if let RunState::Data(address) = state {
            if address.block() + u32::from(len) > crate::address::SEGMENT_BLOCKS_MAX {
                return Err(Malformed("a run leaves its segment"));
            }
            for _ in 0..len {
                sums.push(b.try_get_u32_le()?);
            }
        }
        leaf.replace(start, len, Some(state), &sums);
    }
    Ok(leaf)
}

fn decode_inner(mut b: &[u8], entries: u16) -> Result<Inner, Malformed> {
    let mut inner = Inner { children: Box::new(std::array::from_fn(|_| Child::Empty)), mapped: 0 };
    for _ in 0..entries {
        let (index, tag) = (b.try_get_u8()?, b.try_get_u8()?);
        let address = b.try_get_u64_le()?;
        let (checksum, mapped) = (b.try_get_u32_le()?, b.try_get_u32_le()?);
        let child = match tag {
            0 => Child::Zero,
            1 | 2 => Child::Stored(NodeRef {
                address: Address::from_raw(address).ok_or(Malformed("a child has no address"))?,
                checksum,
                blocks: tag,
                mapped,
            }),
            _ => return Err(Malformed("a child is of an unknown kind")),
        };
        inner.mapped += child.mapped();
        inner.children[usize::from(index)] = child;
    }
    Ok(inner)
}
