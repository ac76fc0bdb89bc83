//! A node of the map: inner with 256 children, or a leaf.

use super::Leaf;
use crate::format::NodeRef;
use std::sync::{Arc, OnceLock};

/// Children of an inner node.
pub(crate) const FANOUT: usize = 256;

/// A child of an inner node.
#[derive(Clone, Debug, Default)]
pub(crate) enum Child {
    /// Nothing but holes.
    #[default]
    Empty,
    /// Zero and reserved throughout.
    Zero,
    /// On disk; perhaps in the node cache too.
    Stored(NodeRef),
    /// Changed since the last checkpoint, or just written by it.
    Loaded(Arc<Node>),
}

/// An inner node's children.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub(crate) children: Box<[Child; FANOUT]>,
    /// Data blocks mapped below it.
    pub(crate) mapped: u64,
}

/// The two kinds of nodes.
#[derive(Clone, Debug)]
pub(crate) enum NodeBody {
    Inner(Inner),
    Leaf(Leaf),
}

/// A node in memory.
#[derive(Debug)]
pub(crate) struct Node {
    body: NodeBody,
    /// Where the same bytes are on disk (I3). Set once, by the checkpoint that writes them.
    home: OnceLock<NodeRef>,
}

impl Clone for Node {
    /// A copy to be changed: it has no home.
    fn clone(&self) -> Self {
        Self { body: self.body.clone(), home: OnceLock::new() }
    }
}

impl Node {
    /// A new node that is not on disk.
    pub(crate) fn new(body: NodeBody) -> Self {
        Self { body, home: OnceLock::new() }
    }

    /// A node as read from `home`.
    pub(crate) fn stored(body: NodeBody, home: NodeRef) -> Self {
        Self { body, home: OnceLock::from(home) }
    }

    /// An inner node whose children are all alike.
    pub(crate) fn filled(child: &Child) -> Self {
        let children = Box::new(std::array::from_fn(|_| child.clone()));
        Self::new(NodeBody::Inner(Inner { children, mapped: 0 }))
    }

    pub(crate) fn body(&self) -> &NodeBody {
        &self.body
    }

    /// The body, to be changed: the node then differs from what is on disk (I3).
    pub(crate) fn body_mut(&mut self) -> &mut NodeBody {
        self.home.take();
        &mut self.body
    }

    /// Where it lies on disk, if it is unchanged since it was written or read.
    pub(crate) fn home(&self) -> Option<NodeRef> {
        self.home.get().copied()
    }

    /// Notes where the checkpoint has written it.
    pub(crate) fn set_home(&self, home: NodeRef) {
        let set = self.home.set(home);
        assert!(set.is_ok(), "a node is written once");
    }

    /// Data blocks mapped below it.
    pub(crate) fn mapped(&self) -> u64 {
        match &self.body {
            NodeBody::Inner(inner) => inner.mapped,
            NodeBody::Leaf(leaf) => leaf.data_blocks(),
        }
    }

    /// Approximate bytes in memory, for the metadata budget.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.body {
            NodeBody::Inner(_) => 64 + FANOUT * size_of::<Child>(),
            NodeBody::Leaf(leaf) => 1200 + std::mem::size_of_val(leaf.runs()),
        }
    }
}

impl Child {
    /// Data blocks mapped below it.
    pub(crate) fn mapped(&self) -> u64 {
        match self {
            Self::Empty | Self::Zero => 0,
            Self::Stored(node) => u64::from(node.mapped),
            Self::Loaded(node) => node.mapped(),
        }
    }
}
