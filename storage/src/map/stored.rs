//! Conversion between nodes in memory and the format's nodes.

use super::{
    Leaf,
    node::{Child, Inner, Node, NodeBody},
    tree::Tree,
};
use crate::{
    base::Lsn,
    format::{
        self, Malformed, NodeRef, StoredChild, StoredMap, StoredNode, VolumeEntry, VolumeMeta,
    },
};

/// The node's blocks and their checksum. All children must have a home.
pub(crate) fn encode_node(node: &Node, level: u32) -> (Vec<u8>, u32) {
    match node.body() {
        NodeBody::Leaf(leaf) => {
            assert_eq!(level, 0);
            let runs = leaf.runs().iter().map(|run| (run.start, run.len, run.state));
            format::encode_leaf(runs, |block| leaf.checksum(block))
        }
        NodeBody::Inner(inner) => {
            let children = inner.children.iter().enumerate();
            format::encode_inner(
                level,
                children.filter_map(|(i, child)| Some((i, child.stored()?))),
            )
        }
    }
}

/// Reads the node at `home` from its blocks.
///
/// # Errors
/// When the checksum is not the parent's, or the bytes make no sense (a bug, not damage).
pub(crate) fn decode_node(home: &NodeRef, level: u32, blocks: &[u8]) -> Result<Node, Malformed> {
    let body = match format::decode_node(home, level, blocks)? {
        StoredNode::Leaf(runs) => {
            let mut leaf = Leaf::default();
            for run in runs {
                leaf.replace(run.start, run.len, Some(run.state), &run.checksums);
            }
            NodeBody::Leaf(leaf)
        }
        StoredNode::Inner(stored) => {
            let mut inner =
                Inner { children: Box::new(std::array::from_fn(|_| Child::Empty)), mapped: 0 };
            for (index, child) in stored {
                let child = Child::from(child);
                inner.mapped += child.mapped();
                inner.children[usize::from(index)] = child;
            }
            NodeBody::Inner(inner)
        }
    };
    Ok(Node::stored(body, *home))
}

impl From<StoredChild> for Child {
    fn from(child: StoredChild) -> Self {
        match child {
            StoredChild::Zero => Self::Zero,
            StoredChild::Node(home) => Self::Stored(home),
        }
    }
}

impl Child {
    /// The child as its parent on disk names it; `None` where it is empty.
    ///
    /// # Panics
    /// Where it was not written yet: children are written before their parent.
    fn stored(&self) -> Option<StoredChild> {
        match self {
            Self::Empty => None,
            Self::Zero => Some(StoredChild::Zero),
            Self::Stored(home) => Some(StoredChild::Node(*home)),
            Self::Loaded(node) => Some(StoredChild::Node(node.home().expect("it was written"))),
        }
    }
}

/// A volume or snapshot at one moment.
#[derive(Clone)]
pub(crate) struct VolumeImage {
    pub(crate) meta: VolumeMeta,
    /// Records of this volume below this LSN are in `tree`.
    pub(crate) applied: Lsn,
    pub(crate) tree: Tree,
}

impl From<VolumeEntry> for VolumeImage {
    fn from(VolumeEntry { meta, applied, map }: VolumeEntry) -> Self {
        let root = map.root.map_or(Child::Empty, Child::from);
        Self { meta, applied, tree: Tree::from_root(root, map.mapped, map.birthday) }
    }
}

impl VolumeImage {
    /// Its entry for the catalog.
    ///
    /// # Panics
    /// Where its map was not written yet.
    pub(crate) fn entry(&self) -> VolumeEntry {
        let map = StoredMap {
            root: self.tree.root().stored(),
            mapped: self.tree.mapped_blocks(),
            birthday: self.tree.birthday(),
        };
        VolumeEntry { meta: self.meta.clone(), applied: self.applied, map }
    }

    /// Whether the catalog's entry has the same properties and the same map.
    pub(crate) fn is_stored_as(&self, entry: &VolumeEntry) -> bool {
        let root = match self.tree.root() {
            Child::Empty => None,
            Child::Zero => Some(StoredChild::Zero),
            Child::Stored(home) => Some(StoredChild::Node(*home)),
            Child::Loaded(_) => return false,
        };
        let map =
            StoredMap { root, mapped: self.tree.mapped_blocks(), birthday: self.tree.birthday() };
        map == entry.map && self.meta == entry.meta
    }
}
