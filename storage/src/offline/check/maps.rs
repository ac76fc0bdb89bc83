//! The maps: every distinct node once, its content against what it refers to, and the data on
//! request.

use super::{CheckOptions, CheckProgress, CheckReport, FindingKind, Place};
use crate::{
    base::{Address, BLOCK_BYTES, Result, SegmentId, bitmap},
    disk::{Disk, Retired},
    format::{NodeRef, RunState, SegmentKind},
    map::{Child, Leaf, Missing, Node, NodeBody, ROOT_LEVEL, VolumeImage, node_blocks},
    recovery::Found,
};
use futures_util::future::join_all;
use sandstone_ring::runtime;
use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
};
use uuid::Uuid;

/// Nodes read at once.
const LOADS_MAX: usize = 64;
/// Blocks of data that are gathered before they are read, in the order of their addresses.
const GATHERED_BLOCKS: u64 = 4096;
/// Runs of data read at once.
const READS_MAX: usize = 32;

/// The walk of all maps, and what it has seen.
pub(super) struct Maps<'a, P> {
    found: &'a Found,
    disk: &'a Disk,
    kinds: HashMap<SegmentId, SegmentKind>,
    /// Nodes on disk that were checked with all below them, and the blocks mapped there; `None`
    /// where it is not known.
    counted: HashMap<Address, Option<u64>>,
    /// The same for nodes that only the replayed log has.
    counted_in_memory: HashMap<*const Node, Option<u64>>,
    /// Blocks of data that were met, one bit each.
    alive: HashMap<SegmentId, Box<[u64]>>,
    data: bool,
    gathered: Vec<Gathered>,
    gathered_blocks: u64,
    progress: CheckProgress,
    report: &'a mut CheckReport,
    on_progress: P,
}

/// Blocks in a row that are to be read and compared.
struct Gathered {
    address: Address,
    checksums: Vec<u32>,
    line: Uuid,
    /// First block of the volume.
    block: u64,
}

/// A child on the walk down.
struct Visit<'c> {
    child: &'c Child,
    level: u32,
    /// First block of the volume.
    start: u64,
    line: Uuid,
}

impl<'a, P: FnMut(CheckProgress)> Maps<'a, P> {
    pub(super) fn new(
        found: &'a Found,
        options: CheckOptions,
        report: &'a mut CheckReport,
        on_progress: P,
    ) -> Self {
        let disk = &*found.disk;
        let kinds = disk.segments.entries(&Retired::default());
        Self {
            found,
            disk,
            kinds: kinds.into_iter().map(|entry| (entry.id, entry.kind)).collect(),
            counted: HashMap::new(),
            counted_in_memory: HashMap::new(),
            alive: HashMap::new(),
            data: options.data,
            gathered: Vec::new(),
            gathered_blocks: 0,
            progress: CheckProgress::default(),
            report,
            on_progress,
        }
    }

    /// Walks the maps of all volumes and snapshots.
    pub(super) async fn walk(mut self) {
        let found = self.found;
        let blocks = found.volumes.iter().map(|v| v.tree.mapped_blocks()).sum::<u64>();
        self.progress.total_bytes = blocks * BLOCK_BYTES as u64;
        for VolumeImage { meta, tree, .. } in &found.volumes {
            let root = Visit { child: tree.root(), level: ROOT_LEVEL, start: 0, line: meta.id };
            let counted = self.visit(root, None).await;
            if let Some(counted) = counted.filter(|counted| *counted != tree.mapped_blocks()) {
                let what = format!(
                    "volume {} counts {} blocks of data, and its map has {counted}",
                    meta.number.0,
                    tree.mapped_blocks()
                );
                self.report.find(FindingKind::Count, what);
            }
        }
        self.compare_gathered().await;
        let unique: u64 =
            self.alive.values().flat_map(|words| &**words).map(|w| u64::from(w.count_ones())).sum();
        self.report.unique_bytes = unique * BLOCK_BYTES as u64;
        self.report.nodes = (self.counted.len() + self.counted_in_memory.len()) as u64;
    }

    /// Checks a child and all below it, which was read before if it is `read`. Returns the number
    /// of blocks mapped there, if it is known.
    fn visit<'v>(
        &'v mut self,
        at: Visit<'v>,
        read: Option<Result<Arc<Node>>>,
    ) -> Pin<Box<dyn Future<Output = Option<u64>> + 'v>> {
        Box::pin(async move {
            match at.child {
                Child::Empty | Child::Zero => Some(0),
                Child::Loaded(node) => match node.home() {
                    Some(home) => self.stored(home, &at, read).await,
                    None => self.in_memory(node, &at).await,
                },
                Child::Stored(home) => self.stored(*home, &at, read).await,
            }
        })
    }

    async fn in_memory(&mut self, node: &Arc<Node>, at: &Visit<'_>) -> Option<u64> {
        let key = Arc::as_ptr(node);
        if let Some(counted) = self.counted_in_memory.get(&key).copied() {
            self.pass(counted.unwrap_or(0));
            return counted;
        }
        let counted = self.below(node, at).await;
        self.counted_in_memory.insert(key, counted);
        counted
    }

    async fn stored(
        &mut self,
        home: NodeRef,
        at: &Visit<'_>,
        read: Option<Result<Arc<Node>>>,
    ) -> Option<u64> {
        let counted = match self.counted.get(&home.address).copied() {
            Some(counted) => {
                self.pass(counted.unwrap_or(0));
                counted
            }
            None => {
                let counted = self.read_and_descend(home, at, read).await;
                self.counted.insert(home.address, counted);
                counted
            }
        };
        // A root's own count is its volume's.
        if let Some(counted) = counted
            && at.level < ROOT_LEVEL
            && counted != u64::from(home.mapped)
        {
            let what = format!(
                "the node above {:?} counts {} blocks of data there, and there are {counted}",
                home.address, home.mapped
            );
            self.report.find_at(FindingKind::Count, what, Some(at.place()));
        }
        counted
    }

    async fn read_and_descend(
        &mut self,
        home: NodeRef,
        at: &Visit<'_>,
        read: Option<Result<Arc<Node>>>,
    ) -> Option<u64> {
        if let Some(why) = self.misses(home.address, u32::from(home.blocks), SegmentKind::Node) {
            let what = format!("a map has a node at {:?}, {why}", home.address);
            self.report.find_at(FindingKind::Address, what, Some(at.place()));
            return None;
        }
        let read = match read {
            Some(read) => read,
            None => self.disk.read_node(Missing { node: home, level: at.level }).await,
        };
        match read {
            Ok(node) => self.below(&node, at).await,
            Err(error) => {
                self.report.find_at(FindingKind::Map, error.with_cause(), Some(at.place()));
                self.pass(u64::from(home.mapped));
                None
            }
        }
    }

    /// The number of blocks mapped below a node; `None` where a part of it cannot be read.
    async fn below(&mut self, node: &Node, at: &Visit<'_>) -> Option<u64> {
        match node.body() {
            NodeBody::Leaf(leaf) => {
                self.leaf(leaf, at);
                if self.gathered_blocks >= GATHERED_BLOCKS {
                    self.compare_gathered().await;
                }
                let blocks = leaf.data_blocks();
                self.pass(blocks);
                Some(blocks)
            }
            NodeBody::Inner(inner) => {
                let (level, mut sum) = (at.level - 1, Some(0));
                let starts = (at.start..).step_by(node_blocks(level) as usize);
                let children: Vec<_> = starts
                    .zip(&*inner.children)
                    .filter(|(_, child)| !matches!(child, Child::Empty | Child::Zero))
                    .collect();
                for children in children.chunks(LOADS_MAX) {
                    let mut reads = self.read(children, level).await;
                    for (start, child) in children {
                        let read = home_of(child).and_then(|home| reads.remove(&home.address));
                        let visit = Visit { child, level, start: *start, line: at.line };
                        let below = self.visit(visit, read).await;
                        sum = sum.zip(below).map(|(sum, below)| sum + below);
                    }
                    runtime::yield_now().await;
                }
                sum
            }
        }
    }

    /// Reads the children that were not met before, together.
    async fn read(
        &self,
        children: &[(u64, &Child)],
        level: u32,
    ) -> HashMap<Address, Result<Arc<Node>>> {
        let mut wanted = HashSet::new();
        let fresh = children.iter().filter_map(|(_, child)| home_of(child)).filter(|home| {
            !self.counted.contains_key(&home.address)
                && self.misses(home.address, u32::from(home.blocks), SegmentKind::Node).is_none()
                && wanted.insert(home.address)
        });
        let reads = fresh.map(|node| async move {
            (node.address, self.disk.read_node(Missing { node, level }).await)
        });
        join_all(reads.collect::<Vec<_>>()).await.into_iter().collect()
    }

    fn leaf(&mut self, leaf: &Leaf, at: &Visit<'_>) {
        for run in leaf.runs() {
            let RunState::Data(address) = run.state else { continue };
            let (blocks, block) = (u32::from(run.len), at.start + u64::from(run.start));
            if let Some(why) = self.misses(address, blocks, SegmentKind::Log) {
                let what = format!("a map has {blocks} blocks of data at {address:?}, {why}");
                self.report.find_at(
                    FindingKind::Address,
                    what,
                    Some(place(at.line, block, u64::from(blocks))),
                );
                continue;
            }
            let words = (self.disk.segments.geometry.segment_blocks as usize).div_ceil(64);
            let bits = self.alive.entry(address.segment()).or_insert_with(|| vec![0; words].into());
            let fresh: Vec<u32> =
                (0..blocks).filter(|i| bitmap::set(bits, address.block() + i)).collect();
            if !self.data {
                continue;
            }
            for stretch in fresh.chunk_by(|a, b| a + 1 == *b) {
                let checksum = |i: &u32| leaf.checksum((u32::from(run.start) + i) as u8);
                self.gathered_blocks += stretch.len() as u64;
                self.gathered.push(Gathered {
                    address: address.plus(stretch[0]),
                    checksums: stretch.iter().map(checksum).collect(),
                    line: at.line,
                    block: block + u64::from(stretch[0]),
                });
            }
        }
    }

    /// Why an address of a map cannot be right, if so.
    fn misses(&self, address: Address, blocks: u32, kind: SegmentKind) -> Option<&'static str> {
        match self.kinds.get(&address.segment()) {
            None => Some("which is in no segment of the store"),
            Some(had) if *had != kind => Some("where the segment is of another kind"),
            Some(_) if self.disk.segments.stretches(address, blocks).is_none() => {
                Some("and that part of the segment was given up")
            }
            Some(_) => None,
        }
    }

    /// Reads what was gathered and compares it. Data that is only in staging was compared when the
    /// log was replayed.
    async fn compare_gathered(&mut self) {
        self.gathered_blocks = 0;
        let mut gathered = std::mem::take(&mut self.gathered);
        let checked: usize = gathered.iter().map(|run| run.checksums.len()).sum();
        self.report.checked_bytes += (checked * BLOCK_BYTES) as u64;
        gathered.retain(|run| !self.is_staged(run));
        gathered.sort_unstable_by_key(|run| run.address);
        for runs in gathered.chunks(READS_MAX) {
            let corrupt = join_all(
                runs.iter().map(|run| self.disk.find_corrupt(run.address, &run.checksums)),
            )
            .await;
            for (run, corrupt) in runs.iter().zip(corrupt) {
                for lost in corrupt.chunk_by(|a, b| a + 1 == *b) {
                    let (first, blocks) = (lost[0], lost.len());
                    let what = format!(
                        "{blocks} block(s) of data at {:?} are not what was written there, \
                         or cannot be read",
                        run.address.plus(first)
                    );
                    let place = place(run.line, run.block + u64::from(first), blocks as u64);
                    self.report.find_at(FindingKind::Data, what, Some(place));
                }
            }
        }
    }

    /// A run is of one batch, because there is a header between two; and a batch is in staging as a
    /// whole or not at all.
    fn is_staged(&self, run: &Gathered) -> bool {
        let (staged, first) = (&self.found.staged, run.address.raw());
        // In the order of the log, which is that of the addresses.
        let behind = staged.partition_point(|(start, _)| start.raw() <= first);
        behind.checked_sub(1).is_some_and(|i| first < staged[i].0.raw() + u64::from(staged[i].1))
    }

    fn pass(&mut self, blocks: u64) {
        self.progress.done_bytes += blocks * BLOCK_BYTES as u64;
        (self.on_progress)(self.progress);
    }
}

impl Visit<'_> {
    fn place(&self) -> Place {
        place(self.line, self.start, node_blocks(self.level))
    }
}

fn place(line: Uuid, block: u64, blocks: u64) -> Place {
    Place { line, offset: block * BLOCK_BYTES as u64, len: blocks * BLOCK_BYTES as u64 }
}

fn home_of(child: &Child) -> Option<NodeRef> {
    match child {
        Child::Empty | Child::Zero => None,
        Child::Loaded(node) => node.home(),
        Child::Stored(home) => Some(*home),
    }
}
