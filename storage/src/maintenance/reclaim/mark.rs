//! The mark: which blocks any map reaches.
//!
//! It walks the distinct nodes of all live maps and sets one bit a block that they refer to. Of
//! segments that are going to be moved it notes the checksums too, against which the copies are
//! checked.
//!
//! I1  Only segments that were sealed before the roots were taken are judged: later writes are not
//!     in the bits. A block that no root reached then is reached by none later, because every map
//!     is a copy of a map.
//! I2  There are no reference counts. The mark can be late, it cannot be wrong: overwritten,
//!     trimmed and deleted blocks are all found by the same walk, and a crash loses nothing but the
//!     walk.
//!
//! The same walk counts what lives, entry by entry and family by family, which corrects the counts
//! of `core/space.rs`.
//!
//! I3  A block that is an entry's own by the birthday rule is in a leaf that only this entry has,
//!     so the walk meets it once, on its way from that entry's root. Other blocks are counted when
//!     their bit is new.
//!
//! I4  Pages of the catalog that the next checkpoint may keep are alive, both copies. Those that it
//!     replaces in any case, and the head of the catalog, are dead by the time that something is
//!     freed.
//!
//! The cost follows the unique data: one node a MiB, however many volumes share it.

use super::pace::Pace;
use crate::{
    base::{Address, BLOCK_BYTES, Blindness, Result, SegmentId, VolumeNumber, bitmap, is_blind_to},
    disk::Disk,
    format::{NodeRef, PageRef, RunState},
    map::{Child, Leaf, Missing, Node, NodeBody, ROOT_LEVEL, Tree, node_disk_blocks_max},
};
use futures_util::future::try_join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Nodes read at once.
const LOADS_MAX: usize = 32;
/// Nodes in memory that are visited before the walk yields: a millisecond's worth (measured: 4 µs
/// each, where no two blocks lie in a row). The thread that walks also makes snapshots.
const TURN_NODES: u32 = 256;

/// The mark: the live blocks of the judged segments.
pub(crate) struct Mark {
    alive: HashMap<SegmentId, Box<[u64]>>,
    /// Live blocks of the segments that are going to be moved, in no order.
    noted: HashMap<SegmentId, Vec<Live>>,
    /// Nodes on disk in other segments that were visited.
    visited: HashSet<Address>,
    /// Blocks of data in other segments that may be shared.
    shared_elsewhere: HashSet<Address>,
    nodes: u64,
    counted: Counted,
}

/// An entry's map as the walk begins with it.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) family: VolumeNumber,
    pub(crate) tree: Tree,
}

/// Live blocks, counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// Data that is an entry's own, in the order of the roots.
    pub(crate) own: Vec<u64>,
    /// Shared data, each block once, by family.
    pub(crate) shared: HashMap<VolumeNumber, u64>,
    /// Blocks of map nodes, including nodes that are not on disk yet.
    pub(crate) maps: u64,
}

/// A place in the walk: a child, its level, and from which root it was reached.
type Place = (Child, u32, usize);

/// Blocks that one checksum covers: a block of data, those of a node, or of a catalog's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Live {
    pub(crate) block: u32,
    pub(crate) blocks: u32,
    pub(crate) checksum: u32,
}

impl Mark {
    /// An empty mark that judges `candidates`, and notes checksums of `to_move` among them.
    pub(crate) fn new(
        candidates: &[SegmentId],
        to_move: &[SegmentId],
        segment_blocks: u32,
    ) -> Self {
        let words = (segment_blocks as usize).div_ceil(64);
        Self {
            alive: candidates.iter().map(|id| (*id, vec![0; words].into_boxed_slice())).collect(),
            noted: to_move.iter().map(|id| (*id, Vec::new())).collect(),
            visited: HashSet::new(),
            shared_elsewhere: HashSet::new(),
            nodes: 0,
            counted: Counted::default(),
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

    /// Live blocks of a segment whose checksums were noted, in order.
    pub(crate) fn noted(&self, segment: SegmentId) -> Option<Vec<Live>> {
        let mut live = self.noted.get(&segment)?.clone();
        live.sort_unstable();
        Some(live)
    }

    /// Nodes visited.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// The counts of live blocks.
    pub(crate) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Marks everything that `roots` reach. They must have been taken after this was made; hold a
    /// read pin.
    ///
    /// # Errors
    /// A map cannot be read, or the store is being closed: the mark is then incomplete and must not
    /// be used.
    pub(crate) async fn walk(
        &mut self,
        disk: &Disk,
        roots: &[Root],
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        self.counted.own = vec![0; roots.len()];
        let mut in_memory = HashSet::new();
        let mut stack: Vec<Place> = roots
            .iter()
            .enumerate()
            .map(|(i, root)| (root.tree.root().clone(), ROOT_LEVEL, i))
            .collect();
        let mut loads: Vec<(Missing, usize)> = Vec::new();
        let mut turn = 0;
        loop {
            while let Some((child, level, root)) = stack.pop() {
                turn += 1;
                if turn % TURN_NODES == 0 {
                    pace.give_way().await?;
                }
                match child {
                    Child::Empty | Child::Zero => {}
                    Child::Loaded(node) => {
                        let fresh = match node.home() {
                            Some(home) => self.node(&home),
                            None => {
                                let fresh = in_memory.insert(Arc::as_ptr(&node));
                                self.counted.maps +=
                                    if fresh { node_disk_blocks_max(level) } else { 0 };
                                fresh
                            }
                        };
                        if fresh {
                            self.descend(&node, level, roots, root, &mut stack);
                        }
                    }
                    Child::Stored(node) => {
                        if self.node(&node) {
                            match disk.nodes.peek(&node) {
                                Some(node) => self.descend(&node, level, roots, root, &mut stack),
                                None => loads.push((Missing { node, level }, root)),
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
            // Bypasses the cache: the walk must not evict what the volumes use.
            let nodes =
                try_join_all(loads.iter().map(|(missing, _)| disk.read_node(*missing))).await?;
            let blocks: u64 = loads.iter().map(|(missing, _)| u64::from(missing.node.blocks)).sum();
            pace.spend(blocks * BLOCK_BYTES as u64).await?;
            for ((missing, root), node) in loads.drain(..).zip(nodes) {
                self.descend(&node, missing.level, roots, root, &mut stack);
            }
        }
    }

    /// Marks the pages of the catalog as alive (I4). Call it while no checkpoint is under way.
    pub(crate) fn catalog(&mut self, pages: &[PageRef]) {
        if is_blind_to(Blindness::MarkedPages) {
            return;
        }
        for page in pages {
            for copy in page.copies {
                self.together(copy, page.blocks, page.checksum);
            }
        }
    }

    /// Marks a node on disk as alive. Returns whether it was not marked before.
    fn node(&mut self, node: &NodeRef) -> bool {
        let blocks = u32::from(node.blocks);
        let fresh = self.together(node.address, blocks, node.checksum);
        self.nodes += u64::from(fresh);
        self.counted.maps += if fresh { u64::from(blocks) } else { 0 };
        fresh
    }

    /// Marks blocks that one checksum covers as alive. Returns whether they were not marked before.
    fn together(&mut self, address: Address, blocks: u32, checksum: u32) -> bool {
        let fresh = match self.alive.get_mut(&address.segment()) {
            Some(words) => (address.block()..address.block() + blocks)
                .fold(false, |any, block| bitmap::set(words, block) | any),
            None => self.visited.insert(address),
        };
        if fresh && let Some(noted) = self.noted.get_mut(&address.segment()) {
            noted.push(Live { block: address.block(), blocks, checksum });
        }
        fresh
    }

    /// Marks a run of data as alive, in a leaf that was not met before, on the way from
    /// `roots[root]`.
    fn data(
        &mut self,
        address: Address,
        start: u16,
        len: u16,
        leaf: &Leaf,
        roots: &[Root],
        root: usize,
    ) {
        let Root { family, tree } = &roots[root];
        let shared_below = tree.birthday().shared_below;
        let own = tree.birthday().own_in(address, u64::from(len));
        self.counted.own[root] += own; // keeps I3
        let Some(words) = self.alive.get_mut(&address.segment()) else {
            let shared =
                (0..u32::from(len)).map(|i| address.plus(i)).filter(|at| at.raw() < shared_below);
            let fresh = shared.filter(|at| self.shared_elsewhere.insert(*at)).count();
            *self.counted.shared.entry(*family).or_default() += fresh as u64;
            return;
        };
        let mut noted = self.noted.get_mut(&address.segment());
        let mut fresh = 0;
        for i in 0..len {
            let block = address.block() + u32::from(i);
            if bitmap::set(words, block) {
                fresh += u64::from(address.raw() + u64::from(i) < shared_below);
                if let Some(noted) = &mut noted {
                    noted.push(Live {
                        block,
                        blocks: 1,
                        checksum: leaf.checksum((start + i) as u8),
                    });
                }
            }
        }
        *self.counted.shared.entry(*family).or_default() += fresh;
    }

    fn descend(
        &mut self,
        node: &Node,
        level: u32,
        roots: &[Root],
        root: usize,
        stack: &mut Vec<Place>,
    ) {
        match node.body() {
            NodeBody::Leaf(leaf) => {
                for run in leaf.runs() {
                    match run.state {
                        RunState::Data(address) => {
                            self.data(address, u16::from(run.start), run.len, leaf, roots, root);
                        }
                        RunState::Zero => {}
                    }
                }
            }
            NodeBody::Inner(inner) => {
                let below =
                    inner.children.iter().filter(|c| !matches!(c, Child::Empty | Child::Zero));
                stack.extend(below.map(|child| (child.clone(), level - 1, root)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
