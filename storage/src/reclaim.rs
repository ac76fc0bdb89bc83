//! Reclaim: finds out what is alive, and gives the rest back.
//!
//! *Mark* walks the distinct nodes of all live maps and sets one bit a block that they refer to. *Sweep* retires the
//! segments without a bit. The next checkpoint, which no longer names them, frees their slots.
//!
//! I1  Only segments that were sealed before the roots were taken are judged: what was written later is not in the
//!     bits. What no root reached then, no root reaches later, because maps only ever come from maps.
//! I2  There are no reference counts. The mark can be late, it cannot be wrong: overwritten, trimmed and deleted blocks
//!     are all found by the same walk, and a crash loses nothing but the walk.
//!
//! The cost follows the unique data: one node a MiB.

use crate::{
    address::{Address, BLOCK_BYTES, SegmentId},
    engine::Engine,
    error::{Error, Kind, Result},
    map::{Child, Missing, Node, NodeBody, RunState, Tree},
    segments::Need,
};
use futures_util::future::try_join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::*},
};

/// Rounds that a writer waits for. The first may have begun before there was something to find; what the last finds,
/// others may have taken.
const ROUNDS_MAX: u32 = 3;
/// Nodes read at once while marking.
const LOADS_MAX: usize = 32;

/// One bit a block, for the segments that are judged.
pub(crate) struct Bits {
    segments: HashMap<SegmentId, Box<[u64]>>,
}

impl Bits {
    pub(crate) fn new(segments: &[SegmentId], segment_blocks: u32) -> Self {
        let words = (segment_blocks as usize).div_ceil(64);
        Self { segments: segments.iter().map(|id| (*id, vec![0; words].into_boxed_slice())).collect() }
    }

    /// Marks blocks alive. Whether the first of them was not marked before; `true` for segments that are not judged.
    pub(crate) fn mark(&mut self, address: Address, blocks: u32) -> bool {
        let Some(words) = self.segments.get_mut(&address.segment()) else { return true };
        let (mut fresh, first) = (false, address.block());
        for block in first..first + blocks {
            let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
            if block == first {
                fresh = words[word] & bit == 0;
            }
            words[word] |= bit;
        }
        fresh
    }

    /// Segments without anything alive.
    pub(crate) fn dead(&self) -> Vec<SegmentId> {
        let mut dead: Vec<_> = self
            .segments
            .iter()
            .filter(|(_, words)| words.iter().all(|w| *w == 0))
            .map(|(id, _)| *id)
            .collect();
        dead.sort_unstable();
        dead
    }

    /// Blocks alive.
    pub(crate) fn alive_blocks(&self) -> u64 {
        self.segments.values().flat_map(|words| words.iter()).map(|w| u64::from(w.count_ones())).sum()
    }
}

impl Engine {
    /// Marks everything that `roots` reach. The roots must have been taken after `bits` was made.
    pub(crate) async fn mark(&self, roots: &[Tree], bits: &mut Bits) -> Result<()> {
        let mut in_memory = HashSet::new();
        let mut stack: Vec<(Child, u32)> = roots.iter().map(|tree| (tree.root().clone(), 3)).collect();
        let mut loads: Vec<Missing> = Vec::new();
        loop {
            while let Some((child, level)) = stack.pop() {
                match child {
                    Child::Empty | Child::Zero => {}
                    Child::Loaded(node) => {
                        if let Some(home) = node.home() {
                            bits.mark(home.address, u32::from(home.blocks));
                        }
                        if in_memory.insert(Arc::as_ptr(&node)) {
                            descend(&node, level, bits, &mut stack);
                        }
                    }
                    Child::Stored(node) => {
                        if bits.mark(node.address, u32::from(node.blocks)) {
                            match self.disk.nodes.peek(&node) {
                                Some(node) => descend(&node, level, bits, &mut stack),
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
            let nodes = try_join_all(loads.iter().map(|missing| self.disk.read_node(*missing))).await?;
            for (missing, node) in loads.drain(..).zip(nodes) {
                descend(&node, missing.level, bits, &mut stack);
            }
        }
    }

    /// A writer found the store full: waits for rounds of reclaim, as long as there may be something to find.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] when there is no room after them either.
    pub(crate) async fn wait_reclaim(&self, need: Need) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            if self.disk.segments.has_room(need) || self.health.is_stopped() {
                return Ok(());
            }
            if self.upkeep.garbage_blocks.load(Relaxed) == 0 && self.disk.segments.retired().is_empty() {
                break;
            }
            let round = self.upkeep.reclaims.load(Acquire) + 1;
            self.upkeep.reclaim_wanted.fetch_max(round, AcqRel);
            self.upkeep.wanted.notify_one();
            while self.upkeep.reclaims.load(Acquire) < round && !self.health.is_stopped() {
                let done = self.upkeep.reclaimed.notified();
                if self.upkeep.reclaims.load(Acquire) < round {
                    done.await;
                }
            }
        }
        if self.disk.segments.has_room(need) {
            Ok(())
        } else {
            Err(Error::new(Kind::NoSpace, "the store is full"))
        }
    }

    /// Bytes of garbage that are worth a mark: an eighth of what is in use, and at least four segments.
    pub(crate) fn garbage_is_due(&self) -> bool {
        let used = u64::from(self.disk.segments.geometry.slots - self.disk.segments.free())
            * self.disk.segments.geometry.segment_bytes();
        let garbage = self.upkeep.garbage_blocks.load(Relaxed) * BLOCK_BYTES as u64;
        garbage >= (used / 8).max(4 * self.disk.segments.geometry.segment_bytes())
    }
}

fn descend(node: &Arc<Node>, level: u32, bits: &mut Bits, stack: &mut Vec<(Child, u32)>) {
    match node.body() {
        NodeBody::Leaf(leaf) => {
            for run in leaf.runs() {
                match run.state {
                    RunState::Data(address) => {
                        bits.mark(address, u32::from(run.len));
                    }
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
