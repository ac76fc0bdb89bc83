//! The map against a naive twin, with nodes going to disk and back in between.

use super::*;
use crate::{
    base::SegmentId,
    map::{decode_node, encode_node},
};
use proptest::prelude::*;
use std::collections::HashMap;

/// A disk of nodes, of which all or none are in memory.
#[derive(Default)]
pub(in crate::map) struct Disk {
    blocks: HashMap<u64, (Vec<u8>, u32)>,
    pub(in crate::map) memory: HashMap<u64, Arc<Node>>,
    next: u32,
}

impl Nodes for Disk {
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>> {
        self.memory.get(&node.address.raw()).cloned()
    }
}

impl Disk {
    pub(in crate::map) fn checkpoint(&mut self, child: &Child, level: u32) {
        let Child::Loaded(node) = child else { return };
        if node.home().is_some() {
            return;
        }
        if let NodeBody::Inner(inner) = node.body() {
            inner.children.iter().for_each(|c| self.checkpoint(c, level - 1));
        }
        let (bytes, checksum) = encode_node(node, level);
        let address = Address::new(SegmentId(9), self.next);
        self.next += (bytes.len() / 4096) as u32;
        let mapped = if level == ROOT_LEVEL { 0 } else { node.mapped() as u32 };
        node.set_home(NodeRef { address, checksum, blocks: (bytes.len() / 4096) as u8, mapped });
        self.blocks.insert(address.raw(), (bytes, level));
    }

    pub(in crate::map) fn load(&mut self, missing: Missing) {
        let (bytes, level) = &self.blocks[&missing.node.address.raw()];
        assert_eq!(*level, missing.level);
        let node = decode_node(&missing.node, missing.level, bytes).expect("what was written");
        self.memory.insert(missing.node.address.raw(), Arc::new(node));
    }
}

type Twin = HashMap<u64, (u64, u32)>;

fn compare(tree: &Tree, disk: &mut Disk, twin: &Twin, zero: &HashMap<u64, ()>, at: u64, len: u64) {
    let mut out = SmallVec::new();
    loop {
        out.clear();
        match tree.lookup(&*disk, at, len, &mut out) {
            Ok(()) => break,
            Err(missing) => disk.load(missing),
        }
    }
    let mut block = at;
    for mapping in out {
        for i in 0..mapping.blocks {
            match &mapping.state {
                MappingState::Hole => {
                    assert!(!twin.contains_key(&block) && !zero.contains_key(&block), "{block}")
                }
                MappingState::Zero => assert!(zero.contains_key(&block), "{block}"),
                MappingState::Data(a, sums) => {
                    assert_eq!(twin[&block], (a.raw() + i, sums[i as usize]), "{block}");
                }
            }
            block += 1;
        }
    }
    assert_eq!(block, at + len);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tree_equals_a_table_of_blocks(
        steps in prop::collection::vec((0u64..3, 0u64..1200, 1u64..700, 0u8..5, 0u32..8000), 1..40)
    ) {
        // Three regions far apart, so that all levels take part.
        let bases = [0, (1 << 24) - 600, (1 << 32) - 2000];
        let (mut tree, mut disk) = (Tree::default(), Disk::default());
        let (mut twin, mut zero) = (Twin::new(), HashMap::new());
        let mut frozen = None;
        for (region, at, len, kind, target) in steps {
            let at = bases[region as usize] + at;
            let sums = (0..len).map(|i| target ^ i as u32).collect::<Vec<_>>();
            let state = match kind {
                0 => NewState::Hole,
                1 => NewState::Zero,
                2 => {
                    disk.checkpoint(&tree.root, ROOT_LEVEL);
                    tree.prune();
                    disk.memory.clear();
                    prop_assert!(!matches!(tree.root, Child::Loaded(_)));
                    continue;
                }
                3 => {
                    frozen = Some((tree.clone(), twin.clone(), zero.clone()));
                    continue;
                }
                _ => NewState::Data(Address::new(SegmentId(5), target), &sums),
            };
            loop {
                let before = tree.mapped_blocks();
                match tree.replace(&disk, at, len, state) {
                    Ok(_) => break,
                    Err(missing) => {
                        prop_assert_eq!(tree.mapped_blocks(), before);
                        disk.load(missing);
                    }
                }
            }
            for i in 0..len {
                twin.remove(&(at + i));
                zero.remove(&(at + i));
                match state {
                    NewState::Hole => {}
                    NewState::Zero => { zero.insert(at + i, ()); }
                    NewState::Data(a, sums) => {
                        twin.insert(at + i, (a.raw() + i, sums[i as usize]));
                    }
                }
            }
            prop_assert_eq!(tree.mapped_blocks(), twin.len() as u64);
        }
        for base in bases {
            compare(&tree, &mut disk, &twin, &zero, base, 2000);
            if let Some((tree, twin, zero)) = &frozen {
                compare(tree, &mut disk, twin, zero, base, 2000);
            }
        }
    }
}

#[test]
fn whole_children_cost_one_place() {
    let (mut tree, disk) = (Tree::default(), Disk::default());
    // 16 TiB reserved, then given back.
    let dirtied = tree.replace(&disk, 0, 1 << 32, NewState::Zero).expect("nothing to load");
    assert_eq!(dirtied, Touched::default());
    let sums = [7];
    tree.replace(&disk, 12_345, 1, NewState::Data(Address::new(SegmentId(1), 1), &sums))
        .expect("nothing to load");
    let mut out = SmallVec::new();
    tree.lookup(&disk, 0, 1 << 32, &mut out).expect("nothing to load");
    assert_eq!(out.iter().map(|m| m.blocks).collect::<Vec<_>>(), [12_345, 1, (1 << 32) - 12_346]);
    assert_eq!(
        tree.replace(&disk, 0, 1 << 32, NewState::Hole).expect("nothing to load"),
        Touched::default()
    );
    assert_eq!(tree.mapped_blocks(), 0);
}

/// Blocks that were dropped unseen may have been the map's own: the count says so until the mark,
/// and never more than there are.
#[test]
fn own_blocks_are_at_most_as_many_as_there_are() {
    let (mut tree, mut disk) = (Tree::default(), Disk::default());
    let write = |tree: &mut Tree, disk: &mut Disk, start: u64, len: u64, segment: u64| {
        let sums = vec![7; len as usize];
        let data = NewState::Data(Address::new(SegmentId(segment), 0), &sums);
        while let Err(missing) = tree.replace(&*disk, start, len, data) {
            disk.load(missing);
        }
    };
    write(&mut tree, &mut disk, 0, 100, 1);
    let (_snapshot, shared) = tree.branch(Address::new(SegmentId(2), 0));
    assert_eq!((shared, tree.birthday().own_blocks), (100, 0));
    write(&mut tree, &mut disk, 256, 40, 3);
    assert_eq!(tree.birthday().own_blocks, 40);
    let then = tree.clone();
    disk.checkpoint(&tree.root, ROOT_LEVEL);
    tree.prune();
    for (start, len) in [(256, 256), (0, 70)] {
        while let Err(missing) = tree.replace(&disk, start, len, NewState::Hole) {
            disk.load(missing);
        }
    }
    assert_eq!((tree.mapped_blocks(), tree.birthday().own_blocks), (30, 30));
    // The mark of before has nothing to take from what was cut since.
    assert_eq!(tree.own_excess(&then, 40), 0);
    assert_eq!(tree.become_unshared(), 0);
    assert_eq!(tree.birthday(), Birthday { shared_below: 0, own_blocks: 30 });
}
