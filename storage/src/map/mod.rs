//! The map of a volume: a fixed radix tree, 256-way, over leaves of one MiB.
//!
//! ```text
//!   root ─ 256 × 64 GiB ─ 256 × 256 MiB ─ 256 × 1 MiB (leaf) ─ 256 blocks as runs, one crc32 each
//! ```
//!
//! I1  A node's range follows from its position; there are no splits, no rebalancing and no key
//!     compares.
//! I2  Nodes are shared. A write copies the nodes on its path that others hold too, and never
//!     changes what they see.
//! I3  A node with a `home` is on disk byte for byte; the first change takes the home away.
//! I4  A node on disk is verified by its parent (address and checksum), never by itself.
//!
//! A write needs its path and the leaves it covers in part to be in memory. Where they are not, the
//! operation changes nothing and names the missing node; the caller loads it and asks again. (The
//! alternative is a delta that is merged later. It reads the same leaf after the write instead of
//! before it, and every count of blocks is a guess until then.)
//!
//! Source: DESIGN section 3, "Map".

mod compare;
mod leaf;
mod node;
mod stored;
mod tree;

pub(crate) use compare::{Comparison, Identity, cells};
pub(crate) use leaf::Leaf;
pub(crate) use node::{Child, Inner, Node, NodeBody};
pub(crate) use stored::{VolumeImage, decode_node, encode_node};
pub(crate) use tree::{
    Mapping, MappingState, Missing, NewState, Nodes, ROOT_LEVEL, ReplaceMode, Touched, Tree,
    node_blocks, node_disk_blocks_max,
};
