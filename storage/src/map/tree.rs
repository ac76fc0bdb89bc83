//! Looking up and changing a volume's map.

use super::{
    Leaf,
    node::{Child, Node, NodeBody},
};
use crate::{
    base::{Address, Blindness, LEAF_BLOCKS, is_blind_to},
    format::{Birthday, NodeRef, RunState},
};
use smallvec::SmallVec;
use std::{ops::ControlFlow, sync::Arc};

/// Levels of inner nodes above the leaves.
pub(crate) const ROOT_LEVEL: u32 = 3;
/// Blocks of the largest volume.
const TREE_BLOCKS: u64 = 1 << 32;

/// Blocks below one child of a node at `level` (leaves are level 0).
fn child_blocks(level: u32) -> u64 {
    debug_assert!(level > 0);
    LEAF_BLOCKS << (8 * (level - 1))
}

/// Nodes that are on disk and in memory. Implemented by the bounded cache, and by the nodes that
/// the checkpoint has just written.
pub(crate) trait Nodes {
    /// The node, if it is in memory.
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>>;
}

/// A node that must be read before the operation can go on. No block was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) node: NodeRef,
    /// 0 for a leaf.
    pub(crate) level: u32,
}

/// The state that a range gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewState<'a> {
    /// Data from this address on, with one checksum a block.
    Data(Address, &'a [u32]),
    Zero,
    Hole,
}

impl<'a> NewState<'a> {
    fn part(self, from: u64, len: u64) -> Self {
        match self {
            Self::Data(address, sums) => {
                let from = usize::try_from(from).expect("a data run is within a segment");
                let len = usize::try_from(len).expect("a data run is within a segment");
                Self::Data(address.plus(from as u32), &sums[from..from + len])
            }
            Self::Zero | Self::Hole => self,
        }
    }
}

/// How a range is going to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplaceMode {
    /// The whole range at once, so nodes that it covers need not be read.
    Whole,
    /// Perhaps only a part of the range.
    Parts,
}

/// The state of a stretch of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MappingState {
    /// Data at this address; one checksum a block.
    Data(Address, SmallVec<[u32; 8]>),
    Zero,
    Hole,
}

/// A stretch of a volume that has one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) blocks: u64,
    pub(crate) state: MappingState,
}

/// A volume's map. Cloning it is the snapshot: O(1), and both sides may go on changing (I2).
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    root: Child,
    mapped: u64,
    birthday: Birthday,
    /// Counts the replacements of `birthday` as a whole.
    birthday_changes: u64,
    /// Blocks that `own_blocks` was cut by, because it cannot be more than there are in all.
    clipped: u64,
}

/// Nodes that an operation copied or took over to change them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Nodes that became dirty.
    pub(crate) dirtied: u64,
    /// Upper bound of the blocks by which the maps grow: the new copy of an unshared node replaces
    /// the old one.
    pub(crate) added_blocks: u64,
}

/// The effects of a change of the map.
struct Change {
    /// That of the map before.
    birthday: Birthday,
    touched: Touched,
    /// Data blocks removed that were the map's alone.
    own_removed: u64,
}

impl Change {
    fn new(birthday: Birthday) -> Self {
        Self { birthday, touched: Touched::default(), own_removed: 0 }
    }

    /// A node at `level` becomes dirty. `was_own` says that it replaces a node that no other map
    /// has.
    fn touch(&mut self, level: u32, was_own: bool) {
        self.touched.dirtied += 1;
        self.touched.added_blocks += if was_own { 0 } else { node_disk_blocks_max(level) };
    }

    /// A leaf's run of data is removed.
    fn remove(&mut self, address: Address, blocks: u64) {
        self.own_removed += self.birthday.own_in(address, blocks);
    }

    /// All below a child is removed.
    fn remove_all(&mut self, child: &Child) {
        let leaf = match child {
            Child::Loaded(node) => match node.body() {
                NodeBody::Leaf(leaf) => Some(leaf),
                NodeBody::Inner(_) => None,
            },
            Child::Empty | Child::Zero | Child::Stored(_) => None,
        };
        match leaf {
            Some(leaf) => leaf
                .each_data(0, LEAF_BLOCKS as u16, |address, blocks| self.remove(address, blocks)),
            None if self.birthday.shared_below == 0 => self.own_removed += child.mapped(),
            // Whether its blocks are the map's own is unknown: until the mark counts, they stay in
            // the count.
            None => {}
        }
    }
}

impl Tree {
    /// A tree from its root, the number of data blocks below it, and how many of them are its own.
    pub(crate) fn from_root(root: Child, mapped: u64, birthday: Birthday) -> Self {
        Self { root, mapped, birthday, birthday_changes: 0, clipped: 0 }
    }

    /// Which of its blocks no other map can have.
    pub(crate) fn birthday(&self) -> Birthday {
        self.birthday
    }

    /// A copy that begins where the log stands at `point`, for a snapshot or fork: from here on
    /// neither has blocks of its own. Returns the copy, and the number of blocks that were this
    /// map's alone and may be shared now.
    pub(crate) fn branch(&mut self, point: Address) -> (Tree, u64) {
        let shared = std::mem::replace(
            &mut self.birthday,
            Birthday { shared_below: point.raw(), own_blocks: 0 },
        );
        self.birthday_changes += 1;
        (self.clone(), shared.own_blocks)
    }

    /// Becomes a copy of `other`, at `point` of the log. Returns the number of blocks that were
    /// this map's alone, and are garbage now.
    pub(crate) fn become_copy_of(&mut self, other: &Tree, point: Address) -> u64 {
        let formerly_own = self.birthday.own_blocks;
        let birthday = Birthday { shared_below: point.raw(), own_blocks: 0 };
        *self = Self { birthday, birthday_changes: self.birthday_changes + 1, ..other.clone() };
        formerly_own
    }

    /// No other map is left that could share with it. Returns how many more of its blocks are its
    /// own than before.
    pub(crate) fn become_unshared(&mut self) -> u64 {
        let before = std::mem::replace(
            &mut self.birthday,
            Birthday { shared_below: 0, own_blocks: self.mapped },
        );
        self.birthday_changes += 1;
        self.mapped - before.own_blocks
    }

    /// The mark has counted `own_blocks` of its own in this map as it was at `then`. Returns by how
    /// many the count is too much now; 0 where it is unknown how many of them changed since.
    pub(crate) fn own_excess(&self, then: &Tree, own_blocks: u64) -> u64 {
        if self.birthday_changes != then.birthday_changes {
            return 0;
        }
        // Blocks that were clipped since may have been a part of the excess.
        let clipped = self.clipped - then.clipped;
        let excess = then.birthday.own_blocks.saturating_sub(own_blocks).saturating_sub(clipped);
        excess.min(self.birthday.own_blocks)
    }

    /// Corrects the count of own blocks by [`Self::own_excess`].
    pub(crate) fn correct_own(&mut self, excess: u64) {
        self.birthday.own_blocks -= excess;
    }

    /// Data blocks of a range that are this map's alone.
    ///
    /// # Errors
    /// A node is not in memory.
    pub(crate) fn own_in(&self, nodes: &impl Nodes, start: u64, len: u64) -> Result<u64, Missing> {
        let mut own = 0;
        let done = self.visit(nodes, start, len, &mut |blocks, state, _| {
            if let Some(RunState::Data(address)) = state {
                own += self.birthday.own_in(address, blocks);
            }
            ControlFlow::Continue(())
        });
        done.map(|_| own)
    }

    /// Whether the blocks from `start` on have these addresses, and all of them are this map's
    /// alone.
    ///
    /// # Errors
    /// A node is not in memory.
    pub(crate) fn owns_at(
        &self,
        nodes: &impl Nodes,
        start: u64,
        addresses: &[Address],
    ) -> Result<bool, Missing> {
        let (mut expected, len) = (addresses.iter(), addresses.len() as u64);
        let done = self.visit(nodes, start, len, &mut |blocks, state, _| {
            let Some(RunState::Data(first)) = state else { return ControlFlow::Break(()) };
            let is_own = self.birthday.own_in(first, blocks) == blocks;
            let is_there = (0..blocks as u32).all(|i| expected.next() == Some(&first.plus(i)));
            let is_own = is_own || is_blind_to(Blindness::MoveShared);
            let is_there = is_there || is_blind_to(Blindness::MoveChanged);
            if is_own && is_there { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        done.map(|done| done == ControlFlow::Continue(()))
    }

    /// The root.
    pub(crate) fn root(&self) -> &Child {
        &self.root
    }

    /// Data blocks in it.
    pub(crate) fn mapped_blocks(&self) -> u64 {
        self.mapped
    }

    /// Calls `each` for the blocks from `start` on, in order, with number of blocks, state (`None`:
    /// a hole), and within a leaf that leaf with its checksums and the block in it. Calls before a
    /// missing node are valid.
    pub(crate) fn visit(
        &self,
        nodes: &impl Nodes,
        start: u64,
        len: u64,
        each: &mut impl FnMut(u64, Option<RunState>, Option<(&Leaf, u8)>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Missing> {
        assert!(start + len <= TREE_BLOCKS);
        visit(&self.root, nodes, ROOT_LEVEL, start, len, each)
    }

    /// Appends the mappings of the blocks from `start` on; neighbours that continue each other are
    /// joined.
    pub(crate) fn lookup(
        &self,
        nodes: &impl Nodes,
        start: u64,
        len: u64,
        out: &mut SmallVec<[Mapping; 4]>,
    ) -> Result<(), Missing> {
        let done = self.visit(nodes, start, len, &mut |blocks, state, leaf| {
            let state = match (state, leaf) {
                (None, _) => MappingState::Hole,
                (Some(RunState::Zero), _) => MappingState::Zero,
                (Some(RunState::Data(address)), Some((leaf, at))) => {
                    let at = u64::from(at);
                    MappingState::Data(
                        address,
                        (at..at + blocks).map(|i| leaf.checksum(i as u8)).collect(),
                    )
                }
                (Some(RunState::Data(_)), None) => unreachable!("data stands in leaves"),
            };
            push(out, blocks, state);
            ControlFlow::Continue(())
        });
        done.map(|_| ())
    }

    /// Makes a range ready for [`Self::replace_prepared`]: the tree holds the nodes on its path
    /// from now on, and they count as changed. Adds to `touched` also when a node is missing.
    pub(crate) fn prepare(
        &mut self,
        nodes: &impl Nodes,
        start: u64,
        len: u64,
        mode: ReplaceMode,
        touched: &mut Touched,
    ) -> Result<(), Missing> {
        let mut change = Change::new(self.birthday);
        let prepared = prepare(&mut self.root, nodes, ROOT_LEVEL, start, len, mode, &mut change);
        touched.dirtied += change.touched.dirtied;
        touched.added_blocks += change.touched.added_blocks;
        prepared
    }

    /// Sets the state of a prepared range.
    ///
    /// # Panics
    /// If it, or a part of it, is not prepared.
    pub(crate) fn replace_prepared(
        &mut self,
        start: u64,
        len: u64,
        state: NewState<'_>,
    ) -> Touched {
        struct AllInHand;
        impl Nodes for AllInHand {
            fn get(&self, _node: &NodeRef) -> Option<Arc<Node>> {
                None
            }
        }
        self.replace_ensured(&AllInHand, start, len, state)
    }

    /// Sets the state of a range.
    pub(crate) fn replace(
        &mut self,
        nodes: &impl Nodes,
        start: u64,
        len: u64,
        state: NewState<'_>,
    ) -> Result<Touched, Missing> {
        assert!(len > 0 && start + len <= TREE_BLOCKS);
        ensure(&self.root, nodes, ROOT_LEVEL, start, len)?;
        Ok(self.replace_ensured(nodes, start, len, state))
    }

    fn replace_ensured(
        &mut self,
        nodes: &impl Nodes,
        start: u64,
        len: u64,
        state: NewState<'_>,
    ) -> Touched {
        if len == TREE_BLOCKS && !matches!(state, NewState::Data(..)) {
            // A root on disk does not know its count, the volume does.
            self.root = if matches!(state, NewState::Hole) { Child::Empty } else { Child::Zero };
            self.mapped = 0;
            self.birthday.own_blocks = 0;
            self.birthday_changes += 1;
            return Touched::default();
        }
        let mut change = Change::new(self.birthday);
        let delta = replace(&mut self.root, nodes, ROOT_LEVEL, start, len, state, &mut change);
        self.mapped = self.mapped.checked_add_signed(delta).expect("the count follows the map");
        let own = &mut self.birthday.own_blocks;
        *own = own.saturating_sub(change.own_removed);
        if let NewState::Data(address, _) = state {
            debug_assert_eq!(change.birthday.own_in(address, len), len, "younger than every copy");
            *own += len;
        }
        let clipped = own.saturating_sub(self.mapped);
        *own -= clipped;
        self.clipped += clipped;
        change.touched
    }

    /// All nodes that [`Self::replace`] of this range would have to wait for, as far as they are
    /// known: the nodes below a missing one are known once it is read.
    pub(crate) fn missing(&self, nodes: &impl Nodes, start: u64, len: u64) -> Option<Missing> {
        ensure(&self.root, nodes, ROOT_LEVEL, start, len).err()
    }

    /// After a checkpoint: releases the nodes that are on disk now, so that only the cache holds
    /// them.
    pub(crate) fn prune(&mut self) {
        prune(&mut self.root);
    }
}

fn push(out: &mut SmallVec<[Mapping; 4]>, blocks: u64, state: MappingState) {
    if let Some(last) = out.last_mut() {
        match (&mut last.state, &state) {
            (MappingState::Zero, MappingState::Zero) | (MappingState::Hole, MappingState::Hole) => {
                last.blocks += blocks;
                return;
            }
            (MappingState::Data(a, sums), MappingState::Data(b, more))
                if a.raw() + last.blocks == b.raw() =>
            {
                sums.extend_from_slice(more);
                last.blocks += blocks;
                return;
            }
            _ => {}
        }
    }
    out.push(Mapping { blocks, state });
}

fn visit(
    child: &Child,
    nodes: &impl Nodes,
    level: u32,
    start: u64,
    len: u64,
    each: &mut impl FnMut(u64, Option<RunState>, Option<(&Leaf, u8)>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Missing> {
    let cached;
    let node = match child {
        Child::Empty => return Ok(each(len, None, None)),
        Child::Zero => return Ok(each(len, Some(RunState::Zero), None)),
        Child::Stored(node) => {
            cached = nodes.get(node).ok_or(Missing { node: *node, level })?;
            &cached
        }
        Child::Loaded(node) => node,
    };
    match node.body() {
        NodeBody::Leaf(leaf) => Ok(leaf.lookup(start as u8, len as u16, |at, blocks, state| {
            each(u64::from(blocks), state, Some((leaf, at)))
        })),
        NodeBody::Inner(inner) => {
            for (i, from, len) in parts(level, start, len) {
                if visit(&inner.children[i], nodes, level - 1, from, len, each)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
    }
}

fn prepare(
    child: &mut Child,
    nodes: &impl Nodes,
    level: u32,
    start: u64,
    len: u64,
    mode: ReplaceMode,
    change: &mut Change,
) -> Result<(), Missing> {
    let is_uniform = matches!(child, Child::Empty | Child::Zero);
    if is_uniform || (mode == ReplaceMode::Whole && len == node_blocks(level)) {
        return Ok(());
    }
    match own(child, nodes, level, change)? {
        NodeBody::Leaf(_) => Ok(()),
        NodeBody::Inner(inner) => parts(level, start, len).try_for_each(|(i, from, len)| {
            prepare(&mut inner.children[i], nodes, level - 1, from, len, mode, change)
        }),
    }
}

/// The children of a node at `level` that a range touches: index, start within the child, length.
pub(super) fn parts(level: u32, start: u64, len: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let each = child_blocks(level);
    let end = start + len;
    let mut at = start;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let (i, from) = (at / each, at % each);
        let n = (each - from).min(end - at);
        at += n;
        Some((usize::try_from(i).expect("an index below 256"), from, n))
    })
}

/// Blocks of the store that a node at `level` takes, at most: a leaf with 256 runs fits one, an
/// inner node with 256 children does not (FORMAT.md).
pub(crate) fn node_disk_blocks_max(level: u32) -> u64 {
    if level == 0 { 1 } else { 2 }
}

/// Blocks below a node at `level`.
pub(crate) fn node_blocks(level: u32) -> u64 {
    if level == 0 { LEAF_BLOCKS } else { child_blocks(level) * 256 }
}

fn ensure(
    child: &Child,
    nodes: &impl Nodes,
    level: u32,
    start: u64,
    len: u64,
) -> Result<(), Missing> {
    if len == node_blocks(level) {
        return Ok(());
    }
    let cached;
    let node = match child {
        Child::Empty | Child::Zero => return Ok(()),
        Child::Stored(node) => {
            cached = nodes.get(node).ok_or(Missing { node: *node, level })?;
            &cached
        }
        Child::Loaded(node) => node,
    };
    match node.body() {
        NodeBody::Leaf(_) => Ok(()),
        NodeBody::Inner(inner) => parts(level, start, len)
            .try_for_each(|(i, from, len)| ensure(&inner.children[i], nodes, level - 1, from, len)),
    }
}

/// The node at `child`, made so that it may be changed: loaded, unshared, without a home.
fn own<'a>(
    child: &'a mut Child,
    nodes: &impl Nodes,
    level: u32,
    change: &mut Change,
) -> Result<&'a mut NodeBody, Missing> {
    // The addresses of nodes do not show their age as those of data do: a segment of nodes may be
    // newer than the log's next one.
    let is_own = |change: &Change| change.birthday.shared_below == 0;
    let mut was_own = false;
    let fresh = match child {
        Child::Loaded(node) => {
            // A node that others hold too is copied first.
            if node.home().is_some() || Arc::strong_count(node) > 1 {
                change.touch(level, is_own(change));
            }
            None
        }
        Child::Stored(node) => {
            let stored = nodes.get(node).ok_or(Missing { node: *node, level })?;
            was_own = is_own(change);
            Some(Node::clone(&stored))
        }
        Child::Empty if level == 0 => Some(Node::new(NodeBody::Leaf(Leaf::default()))),
        Child::Zero if level == 0 => Some(Node::new(NodeBody::Leaf(Leaf::zero()))),
        Child::Empty => Some(Node::filled(&Child::Empty)),
        Child::Zero => Some(Node::filled(&Child::Zero)),
    };
    if let Some(node) = fresh {
        change.touch(level, was_own);
        *child = Child::Loaded(Arc::new(node));
    }
    match child {
        Child::Loaded(node) => Ok(Arc::make_mut(node).body_mut()),
        Child::Empty | Child::Zero | Child::Stored(_) => unreachable!("loaded above"),
    }
}

fn replace(
    child: &mut Child,
    nodes: &impl Nodes,
    level: u32,
    start: u64,
    len: u64,
    state: NewState<'_>,
    change: &mut Change,
) -> i64 {
    let whole = len == node_blocks(level);
    match (state, &child) {
        (NewState::Hole, Child::Empty) | (NewState::Zero, Child::Zero) => return 0,
        (NewState::Hole | NewState::Zero, _) if whole => {
            let removed = child.mapped();
            change.remove_all(child);
            *child = if matches!(state, NewState::Hole) { Child::Empty } else { Child::Zero };
            return -i64::try_from(removed).expect("below 2^32 blocks");
        }
        (NewState::Data(..), _) if whole && level == 0 => {
            // Nothing of the old leaf remains, so it need not be in memory.
            let removed = child.mapped();
            change.remove_all(child);
            let mut leaf = Leaf::default();
            let added = replace_leaf(&mut leaf, start, len, state);
            change.touch(0, false);
            *child = Child::Loaded(Arc::new(Node::new(NodeBody::Leaf(leaf))));
            return added - i64::try_from(removed).expect("below 2^32 blocks");
        }
        _ => {}
    }
    match own(child, nodes, level, change).expect("ensured before") {
        NodeBody::Leaf(leaf) => {
            leaf.each_data(start as u8, len as u16, |address, blocks| {
                change.remove(address, blocks)
            });
            replace_leaf(leaf, start, len, state)
        }
        NodeBody::Inner(inner) => {
            let mut delta = 0;
            for (i, from, part) in parts(level, start, len) {
                let done = i as u64 * child_blocks(level) + from - start;
                delta += replace(
                    &mut inner.children[i],
                    nodes,
                    level - 1,
                    from,
                    part,
                    state.part(done, part),
                    change,
                );
            }
            inner.mapped =
                inner.mapped.checked_add_signed(delta).expect("the count follows the map");
            delta
        }
    }
}

fn replace_leaf(leaf: &mut Leaf, start: u64, len: u64, state: NewState<'_>) -> i64 {
    let (start, len) = (start as u8, len as u16);
    match state {
        NewState::Data(address, sums) => {
            leaf.replace(start, len, Some(RunState::Data(address)), sums)
        }
        NewState::Zero => leaf.replace(start, len, Some(RunState::Zero), &[]),
        NewState::Hole => leaf.replace(start, len, None, &[]),
    }
}

fn prune(child: &mut Child) {
    let Child::Loaded(node) = child else { return };
    if let Some(home) = node.home() {
        *child = Child::Stored(home);
        return;
    }
    // A node without a home that others hold too will be written by the next checkpoint; pruned
    // then.
    if let Some(node) = Arc::get_mut(node)
        && let NodeBody::Inner(inner) = node.body_mut()
    {
        inner.children.iter_mut().for_each(prune);
    }
}

#[cfg(test)]
pub(super) mod tests;
