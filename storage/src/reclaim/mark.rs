//! The mark: which blocks any map reaches.
//!
//! It walks the distinct nodes of all live maps and sets one bit a block that they refer to. Of segments that are going to
//! be moved it notes the checksums too, so that what is copied is what was written.
//!
//! I1  Only segments that were sealed before the roots were taken are judged: what was written later is not in the
//!     bits. What no root reached then, no root reaches later, because maps only ever come from maps.
//! I2  There are no reference counts. The mark can be late, it cannot be wrong: overwritten, trimmed and deleted blocks
//!     are all found by the same walk, and a crash loses nothing but the walk.
//!
//! The cost follows the unique data: one node a MiB, however many volumes share it.

use super::pace::Pace;
use crate::{
    address::{Address, BLOCK_BYTES, SegmentId},
    bitmap,
    disk::Disk,
    error::Result,
    map::{Child, Leaf, Missing, Node, NodeBody, NodeRef, ROOT_LEVEL, RunState, Tree},
};
use futures_util::future::try_join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Nodes read at once.
const LOADS_MAX: usize = 32;
/// Nodes in memory that are visited before others get their turn: a millisecond's worth (measured: 4 µs each, where no
/// two blocks lie in a row). The thread that walks also makes snapshots.
const TURN_NODES: u32 = 256;

/// What is alive in the segments that are judged.
pub(crate) struct Mark {
    alive: HashMap<SegmentId, Box<[u64]>>,
    /// Of the segments that are going to be moved: what is alive, in no order.
    noted: HashMap<SegmentId, Vec<Live>>,
    /// Nodes on disk in other segments that were visited.
    visited: HashSet<Address>,
    nodes: u64,
}

/// Blocks that one checksum vouches for: one of data, or those of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Live {
    pub(crate) block: u32,
    pub(crate) blocks: u32,
    pub(crate) checksum: u32,
}

impl Mark {
    /// Nothing is alive yet. Judges `candidates`, and notes checksums in `to_move` among them.
    pub(crate) fn new(candidates: &[SegmentId], to_move: &[SegmentId], segment_blocks: u32) -> Self {
        let words = (segment_blocks as usize).div_ceil(64);
        Self {
            alive: candidates.iter().map(|id| (*id, vec![0; words].into_boxed_slice())).collect(),
            noted: to_move.iter().map(|id| (*id, Vec::new())).collect(),
            visited: HashSet::new(),
            nodes: 0,
        }
    }

    /// Segments without anything alive.
    pub(crate) fn dead(&self) -> Vec<SegmentId> {
        let none = |words: &[u64]| words.iter().all(|word| *word == 0);
        let mut dead: Vec<_> =
            self.alive.iter().filter(|(_, words)| none(words)).map(|(id, _)| *id).collect();
        dead.sort_unstable();
        dead
    }

    /// Which blocks of a judged segment are alive.
    pub(crate) fn alive(&self, segment: SegmentId) -> Option<&[u64]> {
        self.alive.get(&segment).map(|words| &**words)
    }

    /// What is alive in a segment whose checksums were noted, in order.
    pub(crate) fn noted(&self, segment: SegmentId) -> Option<Vec<Live>> {
        let mut live = self.noted.get(&segment)?.clone();
        live.sort_unstable();
        Some(live)
    }

    /// Nodes visited.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Marks everything that `roots` reach. They must have been taken after this was made; hold a read token.
    ///
    /// # Errors
    /// A map cannot be read, or the store is being closed: what is marked is then worth nothing.
    pub(crate) async fn walk(&mut self, disk: &Disk, roots: &[Tree], pace: &mut Pace<'_>) -> Result<()> {
        let mut in_memory = HashSet::new();
        let mut stack: Vec<(Child, u32)> =
            roots.iter().map(|tree| (tree.root().clone(), ROOT_LEVEL)).collect();
        let mut loads: Vec<Missing> = Vec::new();
        let mut turn = 0;
        loop {
            while let Some((child, level)) = stack.pop() {
                turn += 1;
                if turn % TURN_NODES == 0 {
                    pace.give_way().await?;
                }
                match child {
                    Child::Empty | Child::Zero => {}
                    Child::Loaded(node) => {
                        let fresh = match node.home() {
                            Some(home) => self.node(&home),
                            None => in_memory.insert(Arc::as_ptr(&node)),
                        };
                        if fresh {
                            self.descend(&node, level, &mut stack);
                        }
                    }
                    Child::Stored(node) => {
                        if self.node(&node) {
                            match disk.nodes.peek(&node) {
                                Some(node) => self.descend(&node, level, &mut stack),
                                None => loads.push(Missing { node, level }),
                            }
                        }
                    }
                }
                if loads.len() == LOADS_MAX {
                    break;
                }
            }
            if loads.is_empty() {
                return Ok(());
            }
            // Past the cache: the walk must not push out what the volumes use.
            let nodes = try_join_all(loads.iter().map(|missing| disk.read_node(*missing))).await?;
            pace.spend(loads.iter().map(|missing| u64::from(missing.node.blocks) * BLOCK_BYTES as u64).sum())
                .await?;
            for (missing, node) in loads.drain(..).zip(nodes) {
                self.descend(&node, missing.level, &mut stack);
            }
        }
    }

    /// A node on disk is alive. Whether that is news.
    fn node(&mut self, node: &NodeRef) -> bool {
        let (address, blocks) = (node.address, u32::from(node.blocks));
        let fresh = match self.alive.get_mut(&address.segment()) {
            Some(words) => (address.block()..address.block() + blocks)
                .fold(false, |any, block| bitmap::set(words, block) | any),
            None => self.visited.insert(address),
        };
        if fresh && let Some(noted) = self.noted.get_mut(&address.segment()) {
            noted.push(Live { block: address.block(), blocks, checksum: node.checksum });
        }
        self.nodes += u64::from(fresh);
        fresh
    }

    /// A run of data is alive.
    fn data(&mut self, address: Address, start: u16, len: u16, leaf: &Leaf) {
        let Some(words) = self.alive.get_mut(&address.segment()) else { return };
        let mut noted = self.noted.get_mut(&address.segment());
        for i in 0..len {
            let block = address.block() + u32::from(i);
            if bitmap::set(words, block)
                && let Some(noted) = &mut noted
            {
                noted.push(Live { block, blocks: 1, checksum: leaf.checksum((start + i) as u8) });
            }
        }
    }

    fn descend(&mut self, node: &Node, level: u32, stack: &mut Vec<(Child, u32)>) {
        match node.body() {
            NodeBody::Leaf(leaf) => {
                for run in leaf.runs() {
                    match run.state {
                        RunState::Data(address) => self.data(address, u16::from(run.start), run.len, leaf),
                        RunState::Zero => {}
                    }
                }
            }
            NodeBody::Inner(inner) => {
                let below = inner.children.iter().filter(|c| !matches!(c, Child::Empty | Child::Zero));
                stack.extend(below.map(|child| (child.clone(), level - 1)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
