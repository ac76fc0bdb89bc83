//! The mark against a plain recursive walk over all entries, after random work; and the blocks that
//! a deletion frees against the exclusive bytes before it.

use super::*;
use crate::maintenance::Effort;
use crate::{
    Allocation, Durability, ForkSpec, Kind, Store, Volume, VolumeSpec,
    base::{Progress, Settings, bitmap},
    sim::Parts,
};
use proptest::prelude::*;
use sandstone_ring::{File, Runtime, SharedMemory, sim::SimDisk};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
};
use uuid::Uuid;

const BLOCK: u64 = BLOCK_BYTES as u64;
const VOLUME_BLOCKS: u64 = 1200;

/// Blocks and nodes that the entries refer to.
#[derive(Default)]
struct Found {
    alive: BTreeMap<SegmentId, BTreeSet<Live>>,
    data: BTreeSet<Address>,
}

impl Found {
    async fn of(store: &Store) -> Self {
        let mut found = Self::default();
        let _pin = store.0.volumes.engine.pins.pin();
        for entry in store.0.volumes.all() {
            let tree = entry.inner.lock().tree.clone();
            found.look(&store.0.volumes.engine.disk, tree.root(), ROOT_LEVEL).await;
        }
        found
    }

    /// Visits everything, however often it was seen before.
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
    let engine = &store.0.volumes.engine;
    let segments = &engine.disk.segments;
    let candidates = segments.candidates();
    let found = Found::of(store).await;
    let root =
        |entry: &Volume| Root { family: entry.inner.family, tree: entry.inner.lock().tree.clone() };
    let roots: Vec<_> = store.0.volumes.all().iter().map(root).collect();
    for to_move in [&candidates[..], &[]] {
        let _pin = engine.pins.pin();
        let mut mark = Mark::new(&candidates, to_move, segments.geometry.segment_blocks);
        mark.walk(&engine.disk, &roots, &mut Pace::new(engine, &Progress::default(), u64::MAX))
            .await
            .expect("a walk");
        let mut dead = Vec::new();
        for id in &candidates {
            let alive = found.alive.get(id).cloned().unwrap_or_default();
            let blocks: Vec<u32> = alive.iter().flat_map(|l| l.block..l.block + l.blocks).collect();
            assert_eq!(
                bitmap::ones(mark.alive(*id).expect("it is judged")).collect::<Vec<_>>(),
                blocks
            );
            if blocks.is_empty() {
                dead.push(*id);
            }
            let noted = mark.noted(*id);
            assert_eq!(noted, (!to_move.is_empty()).then(|| alive.into_iter().collect()));
        }
        assert_eq!(mark.dead(), dead);
    }
}

/// The counts are never less than what lives, and a round of reclaim makes them exact.
async fn check_counts(store: &Store) {
    let volumes = &store.0.volumes;
    let live = || volumes.engine.space.live_blocks();
    let own: u64 = volumes.all().iter().map(|l| l.inner.lock().tree.birthday().own_blocks).sum();
    let in_common: u64 =
        volumes.lock().shared_in(&(0..u32::MAX)).iter().map(|family| family.shared_blocks).sum();
    assert_eq!(own + in_common, live(), "the sum is that of its parts");
    let found = Found::of(store).await.data.len() as u64;
    assert!(live() >= found, "{} blocks live, the counts say {}", found, live());
    store.0.maintenance.reclaimer.round(Effort::Usual).await.expect("a round");
    assert_eq!(live(), found, "counted again");
}

fn id(n: usize) -> Uuid {
    Uuid::from_u128(n as u128)
}

/// One step with the entry that `n` chooses.
async fn step(store: &Store, (kind, n, at, len): (u8, usize, u64, u64), fresh: usize) {
    let entries = store.0.volumes.all();
    let settings =
        Settings { cache_bytes: 0, buffer_bytes: 1 << 20, prefetch_mib: 0, writeback: false };
    let Some(entry) = entries.get(n % entries.len().max(1)) else {
        let size_bytes = VOLUME_BLOCKS * BLOCK;
        let spec = VolumeSpec { id: id(fresh), size_bytes, settings, attributes: Vec::new() };
        store.create_volume(spec).await.expect("a volume");
        return;
    };
    let (offset, len) = (at * BLOCK, len.min(VOLUME_BLOCKS - at) * BLOCK);
    let volume = entries
        .iter()
        .find(|v| Some(v.inner.number) == entry.inner.snapshot_of)
        .unwrap_or(entry)
        .id();
    let done = match kind {
        0 => store.create_snapshot(volume, id(fresh), Vec::new()).await.map(|_| ()),
        1 | 2 => {
            let fork = ForkSpec {
                id: id(fresh),
                size_bytes: None,
                settings: None,
                attributes: Vec::new(),
            };
            store.create_fork(entry.id(), fork).await.map(|_| ())
        }
        3 if entry.is_snapshot() => store.restore(volume, entry.id()).await,
        4 if entry.is_snapshot() => store.delete_snapshot(volume, entry.id()).await.map(|_| ()),
        5 if entries.len() > 8 => store.delete_volume(volume).await.map(|_| ()),
        6 => store.checkpoint().await,
        7 => store.reclaim().await,
        8 => entry.trim(offset, len, Durability::Volatile).await,
        9 => entry.write_zeroes(offset, len, Allocation::Reserve, Durability::Volatile).await,
        _ => {
            let bytes: Vec<u8> = (0..len).map(|i| (i / BLOCK) as u8 ^ fresh as u8 | 1).collect();
            entry.write(offset, bytes.into(), Durability::Volatile).await
        }
    };
    if let Err(error) = done {
        // A snapshot never changes, and the store is small.
        assert!(matches!(error.kind(), Kind::Invalid | Kind::NoSpace), "{error}");
    }
}

/// Deletes an entry; it frees as much as its exclusive bytes said.
async fn delete(store: &Store, entry: &crate::Volume) {
    let said = store.exclusive_bytes(Some(entry.id())).await.expect("the sums")[&entry.id()];
    let before = Found::of(store).await.data.len();
    let volume =
        store.0.volumes.all().into_iter().find(|v| Some(v.inner.number) == entry.inner.snapshot_of);
    let deleted = match volume {
        Some(volume) => store.delete_snapshot(volume.id(), entry.id()).await,
        None => store.delete_volume(entry.id()).await,
    };
    assert!(deleted.expect("a deletion"));
    let after = Found::of(store).await.data.len();
    assert_eq!((before - after) as u64 * BLOCK, said);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mark_finds_what_a_walk_over_everything_finds(
        steps in prop::collection::vec(
            (0u8..20, 0usize..100, 0u64..VOLUME_BLOCKS, 1u64..60),
            1..80,
        ),
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
            let memory =
                |_: &[u8; 16], bytes| Ok((Arc::new(SharedMemory::anonymous(bytes)?), false));
            let (store, _) = Store::open_on(parts, memory).await.expect("a new store");
            for (fresh, one) in steps.into_iter().enumerate() {
                step(&store, one, fresh).await;
            }
            check_counts(&store).await;
            check(&store).await;
            let volumes = || store.0.volumes.all();
            while let Some(entry) = volumes().get(seed as usize % 3 % volumes().len().max(1)) {
                delete(&store, entry).await;
            }
            check_counts(&store).await;
            assert_eq!(store.0.volumes.engine.space.live_blocks(), 0, "nothing is left");
            check(&store).await;
        });
    }
}
