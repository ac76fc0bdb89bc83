//! Two maps side by side: what differs between a volume and its snapshot.
//!
//! The comparison skips subtrees that both hold, so the cost follows what changed, not the size.

use super::{
    node::{Child, Node, NodeBody},
    tree::{Missing, Nodes, ROOT_LEVEL, Tree, parts},
};
use crate::{
    base::{Address, LEAF_BLOCKS},
    format::RunState,
};
use std::{ops::ControlFlow, sync::Arc};

/// Identity of a subtree, compared without reading it. Equal identities have equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Identity {
    Empty,
    Zero,
    /// On disk: an address names the same bytes forever.
    Stored(Address),
    /// In memory only. Valid as long as the node is held.
    Loaded(*const Node),
}

impl Child {
    /// Its identity.
    pub(crate) fn identity(&self) -> Identity {
        match self {
            Self::Empty => Identity::Empty,
            Self::Zero => Identity::Zero,
            Self::Stored(node) => Identity::Stored(node.address),
            Self::Loaded(node) => match node.home() {
                Some(home) => Identity::Stored(home.address),
                None => Identity::Loaded(Arc::as_ptr(node)),
            },
        }
    }
}

/// How a stretch of one map compares with the same stretch of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Mapped alike.
    Same,
    /// Mapped differently; with the state in the newer map (`None`: a hole).
    Differs(Option<RunState>),
}

impl Tree {
    /// Calls `each` in order with how the blocks from `start` on compare with those of `older`.
    /// Calls before a missing node are valid. Blocks that were written anew with the same bytes
    /// differ.
    pub(crate) fn compare(
        &self,
        older: &Tree,
        nodes: &impl Nodes,
        start: u64,
        len: u64,
        each: &mut impl FnMut(u64, Comparison) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Missing> {
        compare(self.root(), older.root(), nodes, ROOT_LEVEL, start, len, each)
    }
}

fn compare(
    newer: &Child,
    older: &Child,
    nodes: &impl Nodes,
    level: u32,
    start: u64,
    len: u64,
    each: &mut impl FnMut(u64, Comparison) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Missing> {
    if newer.identity() == older.identity() {
        return Ok(each(len, Comparison::Same));
    }
    let (new_node, old_node) = (resolve(newer, nodes, level)?, resolve(older, nodes, level)?);
    if new_node.is_none() && old_node.is_none() {
        return Ok(each(len, Comparison::Differs(uniform(newer))));
    }
    if level == 0 {
        let (new, old) = (cells(newer, new_node.as_deref()), cells(older, old_node.as_deref()));
        return Ok(compare_leaves(&new, &old, start as usize, len as usize, each));
    }
    for (i, from, len) in parts(level, start, len) {
        let (new, old) =
            (below(newer, new_node.as_deref(), i), below(older, old_node.as_deref(), i));
        if compare(new, old, nodes, level - 1, from, len, each)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The node at a place, if there is one.
fn resolve(child: &Child, nodes: &impl Nodes, level: u32) -> Result<Option<Arc<Node>>, Missing> {
    match child {
        Child::Empty | Child::Zero => Ok(None),
        Child::Stored(node) => nodes.get(node).map(Some).ok_or(Missing { node: *node, level }),
        Child::Loaded(node) => Ok(Some(Arc::clone(node))),
    }
}

fn uniform(child: &Child) -> Option<RunState> {
    matches!(child, Child::Zero).then_some(RunState::Zero)
}

/// The `i`th child of a place; where there is no node, the place's own state.
fn below<'a>(child: &'a Child, node: Option<&'a Node>, i: usize) -> &'a Child {
    match node.map(Node::body) {
        Some(NodeBody::Inner(inner)) => &inner.children[i],
        Some(NodeBody::Leaf(_)) | None => child,
    }
}

type Cells = [Option<RunState>; LEAF_BLOCKS as usize];

/// A leaf block by block.
pub(crate) fn cells(child: &Child, node: Option<&Node>) -> Box<Cells> {
    let mut cells = Box::new([uniform(child); LEAF_BLOCKS as usize]);
    if let Some(NodeBody::Leaf(leaf)) = node.map(Node::body) {
        for run in leaf.runs() {
            for i in 0..run.len {
                cells[usize::from(run.start) + usize::from(i)] = Some(run.state.plus(i));
            }
        }
    }
    cells
}

fn compare_leaves(
    newer: &Cells,
    older: &Cells,
    start: usize,
    len: usize,
    each: &mut impl FnMut(u64, Comparison) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let of = |i: usize| {
        if newer[i] == older[i] { Comparison::Same } else { Comparison::Differs(newer[i]) }
    };
    let alike = |a: Comparison, b: Comparison| match (a, b) {
        (
            Comparison::Differs(Some(RunState::Data(_))),
            Comparison::Differs(Some(RunState::Data(_))),
        ) => true,
        _ => a == b,
    };
    let (mut at, end) = (start, start + len);
    while at < end {
        let first = of(at);
        let run = (at..end).take_while(|i| alike(first, of(*i))).count();
        each(run as u64, first)?;
        at += run;
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests;
