//! Exclusive bytes: the data that deletion would give back, because no other volume or snapshot
//! holds it.
//!
//! Blocks are shared within a family only, and only at the same place of the volumes, because they
//! are shared by copying maps. So the maps of a family are walked side by side: where all maps that
//! are not empty have the same node, the walk goes no further; where they differ, it goes down, and
//! in the leaves it compares single addresses.
//!
//! I1  A volume is deleted together with its snapshots, so it gives back what only it and they
//!     hold; a snapshot gives back what it alone holds.
//!
//! Maps themselves are not counted: a leaf takes one block for each MiB.

use crate::{
    base::{Address, BLOCK_BYTES, LEAF_BLOCKS, Lsn, Result, VolumeNumber},
    catalog::Volumes,
    disk::Disk,
    format::RunState,
    map::{Child, Identity, Missing, Node, NodeBody, ROOT_LEVEL, Tree, cells},
};
use sandstone_ring::runtime;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};
use uuid::Uuid;

/// Nodes read at once.
const LOADS_MAX: usize = 64;
/// Nodes after which the walk yields the thread: about a millisecond where all are in memory. A
/// guess, not tuned.
const NODES_AT_ONCE: usize = 256;

/// The last answers, by family, with the versions that they are for.
type Answers = HashMap<VolumeNumber, (Vec<Version>, Arc<Blocks>)>;

/// Counts what deletion would give back, and keeps the last answers.
pub(crate) struct ExclusiveBytes {
    volumes: Arc<Volumes>,
    answers: Mutex<Answers>,
}

/// A state of an entry: its number, and the LSN below which its records are in it.
type Version = (VolumeNumber, Lsn);

/// Blocks that only this entry, or this volume with its snapshots, holds.
type Blocks = HashMap<VolumeNumber, u64>;

/// An entry as the walk needs it.
struct Entry {
    id: Uuid,
    number: VolumeNumber,
    snapshot_of: Option<VolumeNumber>,
    tree: Tree,
    applied: Lsn,
}

/// Which entry holds a subtree or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    One(VolumeNumber),
    Many,
}

impl Holder {
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Many }
    }
}

/// The holders of a subtree or block: as entries, and as volumes with their snapshots.
#[derive(Clone, Copy, Debug)]
struct Holders {
    entry: Holder,
    volume: Holder,
}

impl Holders {
    fn and(self, other: Self) -> Self {
        Self { entry: self.entry.and(other.entry), volume: self.volume.and(other.volume) }
    }

    /// Whether more than one holder has everything below.
    fn is_shared(self) -> bool {
        self.volume == Holder::Many
    }
}

/// A node that some entries have at the place of the walk.
struct Group {
    child: Child,
    mapped: u64,
    holders: Holders,
}

impl ExclusiveBytes {
    pub(crate) fn new(volumes: Arc<Volumes>) -> Self {
        Self { volumes, answers: Mutex::default() }
    }

    /// Bytes of data that deleting each volume and snapshot would give back, by id: of all, or of
    /// the family of one id (empty if there is no such volume or snapshot).
    ///
    /// # Errors
    /// [`crate::Kind::Io`], [`crate::Kind::Corrupt`] when a map cannot be read.
    pub(crate) async fn of(&self, of: Option<Uuid>) -> Result<HashMap<Uuid, u64>> {
        // Held until the end: the blocks that the maps refer to now stay where they are.
        let _pin = self.volumes.engine.pins.pin();
        let mut out = HashMap::new();
        let families = self.families(of);
        if of.is_none() {
            self.answers().retain(|family, _| families.contains_key(family));
        }
        for (family, entries) in families {
            let blocks = self.exclusive_of(family, &entries).await?;
            for entry in entries {
                out.insert(
                    entry.id,
                    blocks.get(&entry.number).copied().unwrap_or(0) * BLOCK_BYTES as u64,
                );
            }
        }
        Ok(out)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().expect("no panics under this lock")
    }

    fn families(&self, of: Option<Uuid>) -> BTreeMap<VolumeNumber, Vec<Entry>> {
        let catalog = self.volumes.lock();
        let mut families: BTreeMap<_, Vec<Entry>> = BTreeMap::new();
        let only = match of.map(|id| catalog.entry(id)) {
            None => None,
            Some(Ok(entry)) => Some(entry.inner.lock().meta.family),
            // Deleted since the caller saw it.
            Some(Err(_)) => return families,
        };
        for volume in catalog.all() {
            let state = volume.inner.lock();
            if only.is_none_or(|family| family == state.meta.family) {
                families.entry(state.meta.family).or_default().push(Entry {
                    id: volume.id(),
                    number: volume.inner.number,
                    snapshot_of: volume.inner.snapshot_of,
                    tree: state.tree.clone(),
                    applied: state.applied,
                });
            }
        }
        families
    }

    async fn exclusive_of(&self, family: VolumeNumber, entries: &[Entry]) -> Result<Arc<Blocks>> {
        if let [entry] = entries {
            return Ok(Arc::new(HashMap::from([(entry.number, entry.tree.mapped_blocks())])));
        }
        let versions: Vec<Version> =
            entries.iter().map(|entry| (entry.number, entry.applied)).collect();
        let known = |all: &Answers| {
            all.get(&family).filter(|(of, _)| *of == versions).map(|(_, b)| Arc::clone(b))
        };
        if let Some(blocks) = known(&self.answers()) {
            return Ok(blocks);
        }
        let blocks = Arc::new(walk(&self.volumes.engine.disk, entries).await?);
        self.answers().insert(family, (versions, Arc::clone(&blocks)));
        Ok(blocks)
    }
}

/// Counts blocks that have one holder.
async fn walk(disk: &Disk, entries: &[Entry]) -> Result<Blocks> {
    let mut found = Blocks::new();
    let mut roots = Gathering::default();
    for entry in entries {
        let volume = entry.snapshot_of.unwrap_or(entry.number);
        let holders = Holders { entry: Holder::One(entry.number), volume: Holder::One(volume) };
        roots.add(entry.tree.root(), entry.tree.mapped_blocks(), holders);
    }
    let snapshots: HashMap<_, _> =
        entries.iter().map(|l| (l.number, l.snapshot_of.is_some())).collect();
    let mut count = |holders: Holders, blocks: u64| {
        // A snapshot's own blocks; those of a volume with its snapshots.
        if let Holder::One(entry) = holders.entry
            && snapshots[&entry]
        {
            *found.entry(entry).or_default() += blocks;
        }
        if let Holder::One(volume) = holders.volume {
            *found.entry(volume).or_default() += blocks;
        }
    };
    let mut stack = vec![(ROOT_LEVEL, roots.finish())];
    let mut looked_at = 0;
    while let Some((level, groups)) = stack.pop() {
        looked_at += groups.len();
        if looked_at >= NODES_AT_ONCE {
            looked_at = 0;
            runtime::yield_now().await;
        }
        if let [group] = &groups[..] {
            count(group.holders, group.mapped);
            continue;
        }
        if groups.iter().all(|group| group.holders.is_shared()) {
            continue;
        }
        let nodes = load(disk, level, &groups).await?;
        if level == 0 {
            count_leaves(&groups, &nodes, &mut count);
            continue;
        }
        let mut below: Vec<Gathering> = (0..256).map(|_| Gathering::default()).collect();
        for (group, node) in groups.iter().zip(&nodes) {
            if let NodeBody::Inner(inner) = node.body() {
                for (gathering, child) in below.iter_mut().zip(&*inner.children) {
                    gathering.add(child, child.mapped(), group.holders);
                }
            }
        }
        stack.extend(
            below.into_iter().map(|g| (level - 1, g.finish())).filter(|(_, g)| !g.is_empty()),
        );
    }
    Ok(found)
}

fn count_leaves(groups: &[Group], nodes: &[Arc<Node>], count: &mut impl FnMut(Holders, u64)) {
    let leaves: Vec<_> = groups
        .iter()
        .zip(nodes)
        .map(|(g, node)| (g.holders, cells(&g.child, Some(node))))
        .collect();
    let mut at: Vec<(Address, Holders)> = Vec::with_capacity(leaves.len());
    for block in 0..LEAF_BLOCKS as usize {
        at.extend(leaves.iter().filter_map(|(holders, cells)| match cells[block] {
            Some(RunState::Data(address)) => Some((address, *holders)),
            Some(RunState::Zero) | None => None,
        }));
        // Sorted rather than searched: thousands of forks may each have written the block.
        at.sort_unstable_by_key(|(address, _)| *address);
        for same in at.chunk_by(|(one, _), (other, _)| one == other) {
            let all = same.iter().map(|(_, holders)| *holders).reduce(Holders::and);
            count(all.expect("chunks are not empty"), 1);
        }
        at.clear();
    }
}

/// The nodes of the groups, from memory or disk.
async fn load(disk: &Disk, level: u32, groups: &[Group]) -> Result<Vec<Arc<Node>>> {
    let mut nodes = Vec::with_capacity(groups.len());
    for groups in groups.chunks(LOADS_MAX) {
        let loads = groups.iter().map(async |group| match &group.child {
            Child::Loaded(node) => Ok(Arc::clone(node)),
            Child::Stored(node) => match disk.nodes.peek(node) {
                Some(node) => Ok(node),
                // Bypasses the cache: the walk must not evict what the volumes use.
                None => disk.read_node(Missing { node: *node, level }).await,
            },
            Child::Empty | Child::Zero => unreachable!("left out when groups are gathered"),
        });
        nodes.extend(futures_util::future::try_join_all(loads).await?);
    }
    Ok(nodes)
}

/// Groups under construction: equal nodes become one.
#[derive(Default)]
struct Gathering {
    groups: Vec<Group>,
    by_identity: HashMap<Identity, usize>,
}

impl Gathering {
    fn add(&mut self, child: &Child, mapped: u64, holders: Holders) {
        if matches!(child, Child::Empty | Child::Zero) || mapped == 0 {
            return;
        }
        match self.by_identity.get(&child.identity()) {
            Some(at) => {
                let group = &mut self.groups[*at];
                group.holders = group.holders.and(holders);
            }
            None => {
                self.by_identity.insert(child.identity(), self.groups.len());
                self.groups.push(Group { child: child.clone(), mapped, holders });
            }
        }
    }

    fn finish(self) -> Vec<Group> {
        self.groups
    }
}
