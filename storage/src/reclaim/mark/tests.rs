//! The mark against a plain recursive walk over all lines, after random work; and what deletion gives back against what
//! was said before.

use super::*;
use crate::reclaim::Effort;
use crate::{
    Allocation, Durability, ForkSpec, Kind, Parts, Settings, SimDisk, Store, Volume, VolumeSpec, bitmap,
    io::{File, SharedMemory},
    runtime::Runtime,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
};
use uuid::Uuid;

const BLOCK: u64 = BLOCK_BYTES as u64;
const VOLUME_BLOCKS: u64 = 1200;

/// What the lines refer to.
#[derive(Default)]
struct Found {
    alive: BTreeMap<SegmentId, BTreeSet<Live>>,
    data: BTreeSet<Address>,
}

impl Found {
    async fn of(store: &Store) -> Self {
        let mut found = Self::default();
        let _token = store.0.engine.readers.enter();
        for line in store.0.lines() {
            let tree = line.inner.lock().tree.clone();
            found.look(&store.0.engine.disk, tree.root(), ROOT_LEVEL).await;
        }
        found
    }

    /// Everything, however often it was seen before.
    fn look<'a>(
        &'a mut self,
        disk: &'a Disk,
        child: &'a Child,
        level: u32,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let (node, home) = match child {
                Child::Empty | Child::Zero => return,
                Child::Loaded(node) => (Arc::clone(node), node.home()),
                Child::Stored(home) => {
                    let missing = Missing { node: *home, level };
                    (disk.read_node(missing).await.expect("a node of a live map"), Some(*home))
                }
            };
            if let Some(NodeRef { address, checksum, blocks, .. }) = home {
                self.add(address, u32::from(blocks), checksum);
            }
            match node.body() {
                NodeBody::Inner(inner) => {
                    for child in &*inner.children {
                        self.look(disk, child, level - 1).await;
                    }
                }
                NodeBody::Leaf(leaf) => {
                    for run in leaf.runs() {
                        let RunState::Data(first) = run.state else { continue };
                        for i in 0..run.len {
                            let address = first.plus(u32::from(i));
                            self.data.insert(address);
                            self.add(address, 1, leaf.checksum((u16::from(run.start) + i) as u8));
                        }
                    }
                }
            }
        })
    }

    fn add(&mut self, address: Address, blocks: u32, checksum: u32) {
        let live = Live { block: address.block(), blocks, checksum };
        self.alive.entry(address.segment()).or_default().insert(live);
    }
}

/// Every judged segment, bit by bit and checksum by checksum.
async fn check(store: &Store) {
    let engine = &store.0.engine;
    let segments = &engine.disk.segments;
    let candidates = segments.candidates();
    let found = Found::of(store).await;
    let root = |line: &Volume| Root { family: line.inner.family, tree: line.inner.lock().tree.clone() };
    let roots: Vec<_> = store.0.lines().iter().map(root).collect();
    for to_move in [&candidates[..], &[]] {
        let _token = engine.readers.enter();
        let mut mark = Mark::new(&candidates, to_move, segments.geometry.segment_blocks);
        mark.walk(&engine.disk, &roots, &mut Pace::new(engine, u64::MAX)).await.expect("a walk");
        let mut dead = Vec::new();
        for id in &candidates {
            let alive = found.alive.get(id).cloned().unwrap_or_default();
            let blocks: Vec<u32> = alive.iter().flat_map(|l| l.block..l.block + l.blocks).collect();
            assert_eq!(bitmap::ones(mark.alive(*id).expect("it is judged")).collect::<Vec<_>>(), blocks);
            if blocks.is_empty() {
                dead.push(*id);
            }
            let noted = mark.noted(*id);
            assert_eq!(noted, (!to_move.is_empty()).then(|| alive.into_iter().collect()));
        }
        assert_eq!(mark.dead(), dead);
    }
}

/// The books never say less than what lives, and a round of reclaim makes them exact.
async fn check_books(store: &Store) {
    let shared = &store.0;
    let live = || shared.engine.space.live_blocks();
    let own: u64 = shared.lines().iter().map(|l| l.inner.lock().tree.birthday().own_blocks).sum();
    let in_common: u64 = shared.lock().shared().iter().map(|family| family.shared_blocks).sum();
    assert_eq!(own + in_common, live(), "the sum is that of its parts");
    let found = Found::of(store).await.data.len() as u64;
    assert!(live() >= found, "{} blocks live, the books have {}", found, live());
    shared.reclaim_round(Effort::Usual).await.expect("a round");
    assert_eq!(live(), found, "counted again");
}

fn id(n: usize) -> Uuid {
    Uuid::from_u128(n as u128)
}

/// One step with the line that `n` chooses.
async fn step(store: &Store, (kind, n, at, len): (u8, usize, u64, u64), fresh: usize) {
    let lines = store.0.lines();
    let settings = Settings { cache_bytes: 0, buffer_bytes: 1 << 20, prefetch_mib: 0, writeback: false };
    let Some(line) = lines.get(n % lines.len().max(1)) else {
        let size_bytes = VOLUME_BLOCKS * BLOCK;
        let spec = VolumeSpec { id: id(fresh), size_bytes, settings, attributes: Vec::new() };
        store.create_volume(spec).await.expect("a volume");
        return;
    };
    let (offset, len) = (at * BLOCK, len.min(VOLUME_BLOCKS - at) * BLOCK);
    let volume = lines.iter().find(|v| Some(v.inner.number) == line.inner.snapshot_of).unwrap_or(line).id();
    let done = match kind {
        0 => store.create_snapshot(volume, id(fresh), Vec::new()).await.map(|_| ()),
        1 | 2 => {
            let fork = ForkSpec { id: id(fresh), size_bytes: None, settings: None, attributes: Vec::new() };
            store.create_fork(line.id(), fork).await.map(|_| ())
        }
        3 if line.is_snapshot() => store.restore(volume, line.id()).await,
        4 if line.is_snapshot() => store.delete_snapshot(volume, line.id()).await.map(|_| ()),
        5 if lines.len() > 8 => store.delete_volume(volume).await.map(|_| ()),
        6 => store.checkpoint().await,
        7 => store.reclaim().await,
        8 => line.trim(offset, len, Durability::Volatile).await,
        9 => line.write_zeroes(offset, len, Allocation::Reserve, Durability::Volatile).await,
        _ => {
            let bytes: Vec<u8> = (0..len).map(|i| (i / BLOCK) as u8 ^ fresh as u8 | 1).collect();
            line.write(offset, bytes.into(), Durability::Volatile).await
        }
    };
    if let Err(error) = done {
        // A snapshot never changes, and the store is small.
        assert!(matches!(error.kind(), Kind::Invalid | Kind::NoSpace), "{error}");
    }
}

/// Deletes a line; as much is given back as was said before.
async fn delete(store: &Store, line: &crate::Volume) {
    let said = store.exclusive_bytes(Some(line.id())).await.expect("the sums")[&line.id()];
    let before = Found::of(store).await.data.len();
    let volume = store.0.lines().into_iter().find(|v| Some(v.inner.number) == line.inner.snapshot_of);
    let deleted = match volume {
        Some(volume) => store.delete_snapshot(volume.id(), line.id()).await,
        None => store.delete_volume(line.id()).await,
    };
    assert!(deleted.expect("a deletion"));
    let after = Found::of(store).await.data.len();
    assert_eq!((before - after) as u64 * BLOCK, said);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mark_finds_what_a_walk_over_everything_finds(
        steps in prop::collection::vec((0u8..20, 0usize..100, 0u64..VOLUME_BLOCKS, 1u64..60), 1..80),
        cache in prop_oneof![Just(0u64), Just(8 << 20)],
        seed in any::<u64>(),
    ) {
        Runtime::simulated(seed).block_on(async {
            let size_bytes = (1 << 20) + 120 * 64 * BLOCK;
            let parts = Parts {
                file: File::simulated(&SimDisk::new(size_bytes, seed)),
                size_bytes,
                segment_blocks: 64,
                boot: [1; 16],
                cache_bytes: 0,
                metadata_bytes: cache,
                reclaim_rate: u64::MAX,
                scrub_rate: 0,
            };
            let memory = |_: &[u8; 16], bytes| Ok((Arc::new(SharedMemory::anonymous(bytes)?), false));
            let (store, _) = Store::open_on(parts, memory).await.expect("a new store");
            for (fresh, one) in steps.into_iter().enumerate() {
                step(&store, one, fresh).await;
            }
            check_books(&store).await;
            check(&store).await;
            while let Some(line) = store.0.lines().get(seed as usize % 3 % store.0.lines().len().max(1)) {
                delete(&store, line).await;
            }
            check_books(&store).await;
            assert_eq!(store.0.engine.space.live_blocks(), 0, "nothing is left");
            check(&store).await;
        });
    }
}
