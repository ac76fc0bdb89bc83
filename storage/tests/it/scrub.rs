//! The scrub: finds what corruptions while nobody reads it, wherever it lies, once; and is in
//! nobody's way.

use crate::world::{
    BLOCK, Death, Random, Shape, World, assert_holds, filled, name, read, shape, trim, volume,
    write,
};
use futures_util::poll;
use sandstone_ring::{OpKind, Runtime, runtime};
use sandstone_storage::{
    CorruptKind, Corruption, ForkSpec, Health, Kind, ScrubProgress, Store, Volume,
};
use std::{pin::pin, time::Duration};

/// Blocks of the volume: a leaf and a bit.
const BLOCKS: u64 = 300;

async fn scrubbed(store: &Store) -> ScrubProgress {
    store.start_scrub();
    ended(store).await
}

async fn ended(store: &Store) -> ScrubProgress {
    while store.scrub_progress().running {
        runtime::sleep(Duration::from_millis(1)).await;
    }
    store.scrub_progress()
}

/// A volume whose blocks are all in sealed segments and in a map on disk.
async fn prepared(store: &Store) -> Volume {
    let volume = volume(store, 1, BLOCKS, false).await;
    write(&volume, 0, &filled(BLOCKS, 3)).await;
    settle(store).await;
    volume
}

/// Lets the log leave its segment.
async fn settle(store: &Store) {
    store.reclaim().await.expect("a reclaim");
}

/// Where the disk has a block that holds this.
fn places_of(world: &World, block: &[u8]) -> Vec<u64> {
    (0..world.disk.len_bytes() / BLOCK)
        .map(|i| i * BLOCK)
        .filter(|at| world.disk.peek(*at, BLOCK as usize) == block)
        .collect()
}

/// Flips a bit of whatever the disk has of this block.
fn rot(world: &World, block: &[u8]) {
    let places = places_of(world, block);
    assert!(!places.is_empty());
    places.iter().for_each(|at| world.disk.flip_bit(at + 1234, 5));
}

fn block_of(data: &[u8], number: u64) -> &[u8] {
    &data[(number * BLOCK) as usize..((number + 1) * BLOCK) as usize]
}

#[test]
fn sound_store_is_read_once_however_many_share_it() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        prepared(&store).await;
        let alone = scrubbed(&store).await;
        assert_eq!(
            (alone.passes, alone.entries, alone.entries_done, alone.corrupt_bytes),
            (1, 1, 1, 0)
        );
        // Two leaves, and three nodes above them, of two blocks at most.
        let data = BLOCKS * BLOCK;
        assert!((data + 5 * BLOCK..=data + 10 * BLOCK).contains(&alone.checked_bytes), "{alone:?}");

        for number in 10..30 {
            let spec = ForkSpec {
                id: name(number),
                size_bytes: None,
                settings: None,
                attributes: Vec::new(),
            };
            store.create_fork(name(1), spec).await.expect("a fork");
        }
        let together = scrubbed(&store).await;
        assert_eq!((together.entries, together.entries_done), (21, 21));
        assert_eq!(together.checked_bytes, alone.checked_bytes);
        assert_eq!(together.checked_bytes_total, 2 * alone.checked_bytes);
    });
}

#[test]
fn rotten_data_is_found_and_named_behind_a_cache_that_has_it() {
    let world = World::new(Shape { cache_bytes: 8 << 20, ..shape() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = prepared(&store).await;
        let data = filled(BLOCKS, 3);
        for block in 0..BLOCKS {
            assert_holds(
                &volume,
                block,
                &data.slice((block * BLOCK) as usize..((block + 1) * BLOCK) as usize),
            )
            .await;
        }
        // `filled` makes blocks in pairs.
        for block in [100, 200] {
            rot(&world, block_of(&data, block));
        }
        let found = scrubbed(&store).await;
        let lost = |block: u64, blocks: u64| Corruption {
            entry: name(1),
            offset: block * BLOCK,
            len: blocks * BLOCK,
            what: CorruptKind::Data,
        };
        assert_eq!(found.corruptions, [lost(100, 2), lost(200, 2)]);
        assert_eq!(found.corrupt_bytes, 4 * BLOCK);
        assert_eq!(store.stats().corrupt_blocks, 4);
        // It changes nothing: whoever has the block cached goes on.
        assert_holds(&volume, 100, &data.slice(100 * BLOCK as usize..101 * BLOCK as usize)).await;
        // What was trimmed is nobody's loss.
        trim(&volume, 100, 2).await;
        assert_eq!(scrubbed(&store).await.corruptions, [lost(200, 2)]);
    });
}

/// Of the segment that the log is in, what is in the store is read, and what is on its way is left
/// alone.
#[test]
fn end_of_the_log_is_read_as_far_as_it_is_written() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 16, false).await;
        let (data, coming) = (filled(1, 3), filled(1, 9));
        write(&volume, 0, &data).await;
        world.disk.delay_next(OpKind::Write, 0, Duration::from_secs(2));
        let mut late = pin!(write(&volume, 8, &coming));
        assert!(poll!(&mut late).is_pending());
        let sound = scrubbed(&store).await;
        assert_eq!((sound.checked_bytes_total, sound.corrupt_bytes_total), (BLOCK, 0));
        late.await;
        rot(&world, &data);
        rot(&world, &coming);
        assert_eq!(scrubbed(&store).await.corrupt_bytes_total, 2 * BLOCK);
    });
}

#[test]
fn rotten_node_is_found_with_what_lies_below_it() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        prepared(&store).await;
        let mut leaves = Vec::new();
        for at in (0..world.disk.len_bytes()).step_by(BLOCK as usize) {
            if world.disk.peek(at, 4) == b"SSL1" {
                leaves.push(at);
            }
        }
        leaves.iter().for_each(|at| world.disk.flip_bit(at + 40, 0));
        let found = scrubbed(&store).await;
        let mib = 1 << 20;
        let leaf = |number: u64| Corruption {
            entry: name(1),
            offset: number * mib,
            len: mib,
            what: CorruptKind::Map,
        };
        assert_eq!(found.corruptions, [leaf(0), leaf(1)]);
        // The data below is read all the same where a copy of the leaf is in memory.
        assert!(found.checked_bytes > BLOCKS * BLOCK, "{found:?}");
        assert_eq!(found.passes, 1);
    });
}

#[test]
fn moved_blocks_are_followed_to_their_new_place() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = prepared(&store).await;
        // One block in four stays, so that what is left moves together.
        for block in (0..BLOCKS).filter(|block| block % 4 != 0) {
            trim(&volume, block, 1).await;
        }
        settle(&store).await;
        assert!(store.reclaim_progress().forwarded_bytes > 0);
        assert_eq!(scrubbed(&store).await.corruptions, []);
        let data = filled(BLOCKS, 3);
        rot(&world, block_of(&data, 60));
        let found = scrubbed(&store).await;
        assert_eq!(found.corruptions.len(), 1, "{found:?}");
        assert_eq!((found.corruptions[0].offset, found.corruptions[0].len), (60 * BLOCK, BLOCK));
        let refused = read(&volume, 60 * BLOCK, BLOCK).await.expect_err("it is rotten");
        assert_eq!(refused.kind(), Kind::Corrupt);
    });
}

#[test]
fn scrub_keeps_to_its_rate_and_comes_again_every_day() {
    let mut world = World::new(shape(), 1);
    world.scrub_rate = 64 << 10;
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        prepared(&store).await;
        let began = runtime::now();
        let first = scrubbed(&store).await;
        let took = runtime::now() - began;
        let least = Duration::from_secs(first.checked_bytes / world.scrub_rate);
        assert!(took >= least && took < least * 2, "{took:?} for {} bytes", first.checked_bytes);
        for passes in 2..5 {
            runtime::sleep(Duration::from_secs(24 * 60 * 60)).await;
            assert_eq!(ended(&store).await.passes, passes);
        }
    });
}

#[test]
fn scrub_does_not_hold_up_reclaim_writers_or_the_end() {
    let mut world = World::new(shape(), 1);
    world.scrub_rate = 1; // a pass would take weeks
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = prepared(&store).await;
        store.start_scrub();
        runtime::sleep(Duration::from_secs(1)).await;
        let began = runtime::now();
        for round in 0..20 {
            write(&volume, 0, &filled(BLOCKS, round)).await;
            store.reclaim().await.expect("a reclaim");
        }
        assert!(runtime::now() - began < Duration::from_secs(60));
        assert!(store.scrub_progress().running);
        let began = runtime::now();
        store.close().await.expect("the store closes");
        assert!(runtime::now() - began < Duration::from_secs(1));
    });
}

/// A start would find the store damaged, and nobody reads there before it.
#[test]
fn damaged_superblock_and_catalog_are_written_anew() {
    // One of the two copies of a part of the catalog, or both.
    let parts = ["SSC1", "SSV1", "SSX1", "both SSC1", "both SSV1", "both SSX1"];
    for place in ["slot 0", "slot 1"].into_iter().chain(parts) {
        let mut world = World::new(shape(), 1);
        let simulation = Runtime::simulated(1);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            prepared(&store).await;
            match place {
                "slot 0" => world.disk.flip_bit(100, 1),
                "slot 1" => world.disk.spoil_sector(64 << 10),
                part => {
                    let both = part.strip_prefix("both ");
                    let magic = both.unwrap_or(part).as_bytes();
                    let blocks = (0..world.disk.len_bytes()).step_by(BLOCK as usize);
                    blocks
                        .filter(|at| world.disk.peek(*at, 4) == magic)
                        .step_by(if both.is_some() { 1 } else { 2 })
                        .for_each(|at| world.disk.flip_bit(at + 33, 1));
                }
            }
            let generation = store.stats().checkpoints;
            scrubbed(&store).await;
            assert_eq!(store.stats().checkpoints, generation + 2, "{place}");
            scrubbed(&store).await;
            assert_eq!(store.stats().checkpoints, generation + 2, "{place}");
        });
        drop(simulation);
        world.die(Death::Power, &mut Random::new(1));
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready, "{place}");
            assert_holds(&store.volume(name(1)).expect("the volume"), 0, &filled(BLOCKS, 3)).await;
        });
    }
}
