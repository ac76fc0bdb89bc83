//! Two maps of one origin against two naive twins, with nodes going to disk and back in between.

use super::*;
use crate::{
    base::SegmentId,
    map::{NewState, tree::tests::Disk},
};
use proptest::prelude::*;
use std::collections::HashMap;

/// Blocks far apart, so that all levels take part.
const BASES: [u64; 3] = [0, (1 << 24) - 600, (1 << 32) - 2000];

/// A map and what it is by block: zero, or data at an address.
#[derive(Clone, Default)]
struct Pair {
    tree: Tree,
    twin: HashMap<u64, RunState>,
}

impl Pair {
    fn replace(&mut self, disk: &mut Disk, at: u64, len: u64, state: Option<RunState>) {
        let sums: Vec<u32> = (0..len as u32).collect();
        let new = match state {
            Some(RunState::Data(address)) => NewState::Data(address, &sums),
            Some(RunState::Zero) => NewState::Zero,
            None => NewState::Hole,
        };
        while let Err(missing) = self.tree.replace(disk, at, len, new) {
            disk.load(missing);
        }
        for i in 0..len {
            match state {
                Some(state) => self.twin.insert(at + i, state.plus(i as u16)),
                None => self.twin.remove(&(at + i)),
            };
        }
    }

    fn checkpoint(&mut self, disk: &mut Disk) {
        disk.checkpoint(self.tree.root(), ROOT_LEVEL);
        self.tree.prune();
    }
}

/// The comparison of a range, asked for a few stretches at a time; and how many nodes had to be
/// read.
fn compared(
    newer: &Pair,
    older: &Pair,
    disk: &mut Disk,
    start: u64,
    len: u64,
    max: usize,
) -> (Vec<(u64, Comparison)>, u64) {
    let (mut all, mut at, mut loads) = (Vec::new(), start, 0);
    while at < start + len {
        let (from, mut count) = (at, 0);
        let compared = newer.tree.compare(
            &older.tree,
            &*disk,
            from,
            start + len - from,
            &mut |blocks, comparison| {
                if count == max {
                    return ControlFlow::Break(());
                }
                count += 1;
                all.push((blocks, comparison));
                at += blocks;
                ControlFlow::Continue(())
            },
        );
        if let Err(missing) = compared {
            disk.load(missing);
            loads += 1;
        }
    }
    assert_eq!(at, start + len);
    (all, loads)
}

fn check(newer: &Pair, older: &Pair, disk: &mut Disk, start: u64, len: u64, max: usize) {
    let mut block = start;
    for (blocks, comparison) in compared(newer, older, disk, start, len, max).0 {
        // Long stretches were never written.
        for at in block..block + blocks.min(5000) {
            let (new, old) = (newer.twin.get(&at).copied(), older.twin.get(&at).copied());
            match comparison {
                Comparison::Same => assert_eq!(new, old, "{at}"),
                Comparison::Differs(state) => {
                    assert_ne!(new, old, "{at}");
                    let kind = |state: Option<RunState>| state.map(|s| matches!(s, RunState::Zero));
                    assert_eq!(kind(new), kind(state), "{at}");
                    assert!(at > block || new == state, "{at}");
                }
            }
        }
        block += blocks;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn comparison_equals_one_block_by_block(
        steps in prop::collection::vec(
            (0usize..2, 0usize..3, 0u64..1200, 1u64..700, 0u8..8, 0u32..8000),
            1..40,
        ),
        max in 1usize..50,
        part in (0u64..1500, 1u64..500),
    ) {
        let (mut maps, mut disk) = ([Pair::default(), Pair::default()], Disk::default());
        for (which, region, at, len, kind, target) in steps {
            let at = BASES[region] + at;
            match kind {
                0 => maps[which].replace(&mut disk, at, len, None),
                1 => maps[which].replace(&mut disk, at, len, Some(RunState::Zero)),
                2 => maps[which].checkpoint(&mut disk),
                3 => disk.memory.clear(),
                // A fork or restore.
                4 => maps[which] = maps[1 - which].clone(),
                // A whole child, which becomes one place.
                5 => {
                    let state = (target % 2 == 0).then_some(RunState::Zero);
                    maps[which].replace(&mut disk, at.next_multiple_of(256), 256, state);
                }
                _ => {
                    let state = RunState::Data(Address::new(SegmentId(5), target));
                    maps[which].replace(&mut disk, at, len, Some(state));
                }
            }
        }
        let [a, b] = &maps;
        for base in BASES {
            for (newer, older) in [(a, b), (b, a)] {
                disk.memory.clear();
                check(newer, older, &mut disk, base + part.0, part.1, max);
                check(newer, older, &mut disk, base, 2000, usize::MAX);
            }
        }
        check(a, b, &mut disk, 0, 1 << 32, usize::MAX);
    }
}

#[test]
fn what_is_shared_is_not_looked_at() {
    let (mut base, mut disk) = (Pair::default(), Disk::default());
    for leaf in 0..600 {
        base.replace(
            &mut disk,
            leaf * 256,
            256,
            Some(RunState::Data(Address::new(SegmentId(5 + leaf), 0))),
        );
    }
    base.tree.replace(&disk, 1 << 30, 1 << 24, NewState::Zero).expect("nothing to load");
    base.checkpoint(&mut disk);
    let mut fork = base.clone();
    disk.memory.clear();
    assert_eq!(
        compared(&fork, &base, &mut disk, 0, 1 << 32, 9),
        (vec![(1 << 32, Comparison::Same)], 0)
    );

    let data = RunState::Data(Address::new(SegmentId(6), 0));
    fork.replace(&mut disk, 300 * 256 + 7, 2, Some(data));
    fork.checkpoint(&mut disk);
    disk.memory.clear();
    let (found, loads) = compared(&fork, &base, &mut disk, 0, 1 << 32, 9);
    let differs: Vec<_> = found.iter().filter(|(_, c)| *c != Comparison::Same).collect();
    assert_eq!(differs, [&(2, Comparison::Differs(Some(data)))]);
    // The four nodes above the change, of each.
    assert_eq!(loads, 8);
}

#[test]
fn nothing_and_zeroes_differ_without_a_node() {
    let (mut zero, mut disk) = (Pair::default(), Disk::default());
    zero.tree.replace(&disk, 0, 1 << 32, NewState::Zero).expect("nothing to load");
    let hole = Pair::default();
    let whole = |comparison| (vec![(1 << 32, comparison)], 0);
    assert_eq!(
        compared(&zero, &hole, &mut disk, 0, 1 << 32, 9),
        whole(Comparison::Differs(Some(RunState::Zero)))
    );
    assert_eq!(compared(&hole, &zero, &mut disk, 0, 1 << 32, 9), whole(Comparison::Differs(None)));
    assert_eq!(compared(&zero, &zero.clone(), &mut disk, 0, 1 << 32, 9), whole(Comparison::Same));
}
