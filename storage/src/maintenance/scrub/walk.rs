//! One pass: the distinct nodes of all maps, and the distinct blocks of data that are in the store,
//! each read once and compared with the checksum that its parent has for it.

use super::scrubber::{CorruptKind, Corruption, Scrubber};
use crate::{
    base::{Address, BLOCK_BYTES, Result, SegmentId, bitmap},
    core::Engine,
    format::RunState,
    map::{Child, Leaf, Missing, Node, NodeBody, ROOT_LEVEL, node_blocks},
    volume::Volume,
};
use futures_util::future::select;
use sandstone_ring::runtime;
use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

/// Bytes after which a step ends: the limit of reads under one read pin, and of reads without a
/// pause.
pub(super) const STEP_BYTES: u64 = 2 << 20;
/// Most nodes that a step looks at, read or not, before it yields the thread.
const STEP_NODES: u32 = 1024;

/// A pass under way.
pub(super) struct Pass<'a> {
    scrubber: &'a Scrubber,
    engine: &'a Engine,
    /// Nodes that were checked with all below them.
    done: HashSet<Address>,
    /// Blocks of data that were checked: one bit each.
    checked: HashMap<SegmentId, Box<[u64]>>,
    /// The nodes on the way down to where the last step ended, by level, so that they are read once
    /// and not at each step.
    path: [Option<(Address, Arc<Node>)>; ROOT_LEVEL as usize + 1],
}

/// An entry of the walk's stack.
enum Visit {
    /// A subtree, its level, and its first block in the volume.
    Child(Child, u32, u64),
    /// Everything below this node was checked.
    Done(Address),
}

/// Bytes and nodes that a step has read.
#[derive(Default)]
struct Spent {
    bytes: u64,
    nodes: u32,
}

impl<'a> Pass<'a> {
    pub(super) fn new(scrubber: &'a Scrubber) -> Self {
        let engine = &*scrubber.volumes.engine;
        Self {
            scrubber,
            engine,
            done: HashSet::new(),
            checked: HashMap::new(),
            path: Default::default(),
        }
    }

    /// Goes through all volumes and snapshots that there are now.
    ///
    /// # Errors
    /// The store is being closed.
    pub(super) async fn run(mut self) -> Result<()> {
        let entries = self.scrubber.volumes.all();
        self.scrubber.lock().entries = entries.len();
        for entry in entries {
            let mut from = Some(0);
            while let Some(block) = from {
                let mut spent = Spent::default();
                from = self.step(&entry, block, &mut spent).await;
                self.scrubber.lock().checked(spent.bytes);
                self.pause(spent.bytes).await?;
            }
            self.path = Default::default();
            self.scrubber.lock().entries_done += 1;
        }
        Ok(())
    }

    /// Waits for as long as reading these bytes may take.
    async fn pause(&self, bytes: u64) -> Result<()> {
        let shutdown = self.scrubber.shutdown();
        match self.scrubber.bytes_per_second {
            0 => runtime::yield_now().await,
            rate => {
                let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
                select(pin!(shutdown.begun()), runtime::sleep(time)).await;
            }
        }
        shutdown.check()
    }

    /// Checks what `entry` maps from a block on. Returns the block where the next step goes on.
    async fn step(&mut self, entry: &Volume, from: u64, spent: &mut Spent) -> Option<u64> {
        let _pin = self.engine.pins.pin();
        let root = {
            let state = entry.inner.lock();
            if state.deleted {
                return None;
            }
            state.tree.root().clone()
        };
        let mut stack = vec![Visit::Child(root, ROOT_LEVEL, 0)];
        while let Some(visit) = stack.pop() {
            let (child, level, start) = match visit {
                Visit::Done(address) => {
                    self.done.insert(address);
                    continue;
                }
                Visit::Child(child, level, start) => (child, level, start),
            };
            if start + node_blocks(level) <= from || matches!(child, Child::Empty | Child::Zero) {
                continue;
            }
            if spent.bytes >= STEP_BYTES || spent.nodes >= STEP_NODES {
                return Some(start.max(from));
            }
            spent.nodes += 1;
            let Some(node) = self.node(entry, &child, level, start, spent).await else { continue };
            if let Some(home) = node.home() {
                stack.push(Visit::Done(home.address));
            }
            match node.body() {
                NodeBody::Leaf(leaf) => self.leaf(entry, leaf, start, spent).await,
                NodeBody::Inner(inner) => {
                    let below = node_blocks(level - 1);
                    let children = (start..).step_by(below as usize).zip(&*inner.children);
                    let visits = children
                        .map(|(start, child)| Visit::Child(child.clone(), level - 1, start));
                    stack.extend(visits.collect::<Vec<_>>().into_iter().rev());
                }
            }
        }
        None
    }

    /// The node, after its bytes on disk, if it has some, were compared; `None` where there is
    /// nothing more to check.
    async fn node(
        &mut self,
        entry: &Volume,
        child: &Child,
        level: u32,
        start: u64,
        spent: &mut Spent,
    ) -> Option<Arc<Node>> {
        let (home, in_memory) = match child {
            Child::Empty | Child::Zero => return None,
            Child::Loaded(node) => match node.home() {
                Some(home) => (home, Some(Arc::clone(node))),
                // Not on disk yet; nodes below it may be.
                None => return Some(Arc::clone(node)),
            },
            Child::Stored(home) => (*home, self.engine.disk.nodes.peek(home)),
        };
        if self.done.contains(&home.address) {
            return None;
        }
        let way = &mut self.path[level as usize];
        if let Some((address, node)) = way
            && *address == home.address
        {
            return Some(Arc::clone(node));
        }
        spent.bytes += u64::from(home.blocks) * BLOCK_BYTES as u64;
        let node = match self.engine.disk.read_node(Missing { node: home, level }).await {
            Ok(node) => Some(node),
            Err(_) => {
                let bytes = u64::from(home.blocks) * BLOCK_BYTES as u64;
                self.corrupt(
                    entry,
                    CorruptKind::Map,
                    home.address,
                    bytes,
                    (start, node_blocks(level)),
                );
                in_memory
            }
        };
        let Some(node) = node else {
            self.done.insert(home.address);
            return None;
        };
        self.path[level as usize] = Some((home.address, Arc::clone(&node)));
        Some(node)
    }

    /// Compares the data of a leaf that begins at block `start` of the entry.
    async fn leaf(&mut self, entry: &Volume, leaf: &Leaf, start: u64, spent: &mut Spent) {
        let segments = &self.engine.disk.segments;
        for run in leaf.runs() {
            let RunState::Data(address) = run.state else { continue };
            // Blocks that the log is still writing may not be there yet. Blocks that are there may
            // stay in its open segment forever.
            let written = self.engine.log.written_blocks(address.segment());
            let words = (segments.geometry.segment_blocks as usize).div_ceil(64);
            let bits =
                self.checked.entry(address.segment()).or_insert_with(|| vec![0; words].into());
            let fresh: Vec<u32> = (0..u32::from(run.len)
                .min(written.saturating_sub(address.block())))
                .filter(|i| bitmap::set(bits, address.block() + i))
                .collect();
            for stretch in fresh.chunk_by(|a, b| a + 1 == *b) {
                let (first, at) = (stretch[0], u64::from(run.start) + u64::from(stretch[0]));
                let checksums: Vec<u32> = (at..at + stretch.len() as u64)
                    .map(|block| leaf.checksum(block as u8))
                    .collect();
                spent.bytes += checksums.len() as u64 * BLOCK_BYTES as u64;
                let address = address.plus(first);
                let corrupt = self.engine.disk.find_corrupt(address, &checksums).await;
                for lost in corrupt.chunk_by(|a, b| a + 1 == *b) {
                    let blocks = lost.len() as u64;
                    let place = (start + at + u64::from(lost[0]), blocks);
                    let bytes = blocks * BLOCK_BYTES as u64;
                    self.corrupt(entry, CorruptKind::Data, address.plus(lost[0]), bytes, place);
                }
            }
        }
    }

    /// Notes that `bytes` at `address` are lost, and with them these blocks of the entry (the
    /// first, and how many).
    fn corrupt(
        &self,
        entry: &Volume,
        what: CorruptKind,
        address: Address,
        bytes: u64,
        (first, blocks): (u64, u64),
    ) {
        let (entry, block_bytes) = (entry.id(), BLOCK_BYTES as u64);
        let corruption =
            Corruption { entry, offset: first * block_bytes, len: blocks * block_bytes, what };
        tracing::error!(%entry, offset = corruption.offset, len = corruption.len, ?what, ?address,
            "not what was written there, or not to be read");
        self.scrubber.lock().corrupt(bytes, corruption);
    }
}
