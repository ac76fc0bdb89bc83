//! Streams put in order what they meet in many pieces, and nothing else changes: not a byte, not
//! what is shared, not what a crash leaves.

use crate::world::{
    BLOCK, Death, Random, Shape, World, filled, for_seeds, leave_staging, name, read, shape,
    volume, write,
};
use futures_util::future::join;
use sandstone_ring::{Runtime, runtime};
use sandstone_storage::{Durability, ForkSpec, Health, Readahead, Store, Volume};
use std::{cell::RefCell, time::Duration};

const BLOCKS: u64 = 600;
/// As long as the defragmenter takes for all of it, and longer.
const A_WHILE: Duration = Duration::from_secs(3);

fn roomy() -> Shape {
    Shape { slots: 200, ..shape() }
}

/// A volume whose blocks were written one by one in no order, some of them not at all.
async fn scattered(store: &Store, number: u128, seed: u64) -> (Volume, Vec<u8>) {
    let volume = volume(store, number, BLOCKS, false).await;
    let (mut random, mut tags) = (Random::new(seed), vec![0; BLOCKS as usize]);
    let mut left: Vec<u64> = (0..BLOCKS).filter(|block| block % 100 < 97).collect();
    while !left.is_empty() {
        let block = left.swap_remove(random.below(left.len() as u64) as usize);
        tags[block as usize] = 1 + random.below(250) as u8;
        put(&volume, block, tags[block as usize]).await;
    }
    leave_staging(store, number).await;
    (volume, tags)
}

async fn put(volume: &Volume, block: u64, tag: u8) {
    write(volume, block, &vec![tag; BLOCK as usize].into()).await;
}

async fn holds(volume: &Volume, tags: &[u8]) {
    let found = read(volume, 0, BLOCKS * BLOCK).await.expect("a read");
    for (block, (found, tag)) in found.chunks_exact(BLOCK as usize).zip(tags).enumerate() {
        assert!(found.iter().all(|byte| byte == tag), "block {block}: {} not {tag}", found[0]);
    }
}

/// Reads all of it in requests of 128 KiB, one after the other.
async fn stream(volume: &Volume) {
    let reader = Readahead::new(volume.clone());
    for block in (0..BLOCKS).step_by(32) {
        let blocks = 32.min(BLOCKS - block);
        reader.read(block * BLOCK, (blocks * BLOCK) as u32).await.expect("a read");
    }
}

async fn snapshot(store: &Store, number: u128) {
    store.create_snapshot(name(1), name(number), Vec::new()).await.expect("a snapshot");
}

#[test]
fn a_stream_puts_in_order_what_it_meets_in_pieces() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, tags) = scattered(&store, 1, 1).await;
        let used = store.stats().used_bytes;
        let reads = async || {
            let before = world.disk.reads();
            stream(&volume).await;
            world.disk.reads() - before
        };
        assert!(reads().await > 500, "each block by itself");
        runtime::sleep(A_WHILE).await;
        let stats = store.stats();
        assert_eq!(stats.defragmented_leaves, 3);
        assert!(stats.defragmented_bytes <= BLOCKS * BLOCK);
        leave_staging(&store, 2).await;
        let after = reads().await;
        assert!(after < 120, "{after} reads of the disk");
        holds(&volume, &tags).await;
        let used_after = store.stats().used_bytes - 400 * BLOCK;
        assert_eq!(used_after, used, "what lives is as much as before");
        runtime::sleep(A_WHILE).await;
        assert_eq!(store.stats().defragmented_leaves, 3, "there is nothing left to do");
    });
}

#[test]
fn who_reads_at_random_or_in_small_pieces_moves_nothing() {
    let world = World::new(roomy(), 2);
    Runtime::simulated(2).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, _) = scattered(&store, 1, 2).await;
        let (reader, mut random) = (Readahead::new(volume.clone()), Random::new(2));
        for block in 0..BLOCKS {
            reader.read(block * BLOCK, BLOCK as u32).await.expect("a read");
        }
        for _ in 0..200 {
            let block = random.below(BLOCKS - 64);
            reader.read(block * BLOCK, 64 * BLOCK as u32).await.expect("a read");
        }
        runtime::sleep(A_WHILE).await;
        assert_eq!(store.stats().defragmented_leaves, 0);
    });
}

/// What lies between holes cannot become one run, and is in order all the same.
#[test]
fn data_between_holes_is_put_in_order_once() {
    let world = World::new(roomy(), 7);
    Runtime::simulated(7).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, BLOCKS, false).await;
        for block in (0..512).rev().filter(|block| block % 8 < 4) {
            put(&volume, block, 1 + (block % 200) as u8).await;
        }
        leave_staging(&store, 1).await;
        for _ in 0..3 {
            stream(&volume).await;
            runtime::sleep(A_WHILE).await;
        }
        assert_eq!(store.stats().defragmented_leaves, 2);
        assert_eq!(store.stats().defragmented_bytes, 256 * BLOCK);
    });
}

/// What a snapshot or a fork holds too stays where it is: a copy would take space.
pub(crate) fn what_is_shared_is_left_where_it_is() {
    let world = World::new(roomy(), 3);
    Runtime::simulated(3).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, tags) = scattered(&store, 1, 3).await;
        snapshot(&store, 50).await;
        let id = name(60);
        let spec = ForkSpec { id, size_bytes: None, settings: None, attributes: Vec::new() };
        let fork = store.create_fork(name(1), spec).await.expect("a fork");
        store.checkpoint().await.expect("a checkpoint");
        let (used, written) = (store.stats().used_bytes, store.stats().checkpoint_bytes);
        for entry in [&volume, &fork, &store.snapshot(name(1), name(50)).expect("the snapshot")] {
            stream(entry).await;
            runtime::sleep(A_WHILE).await;
            holds(entry, &tags).await;
        }
        store.checkpoint().await.expect("a checkpoint");
        assert_eq!((store.stats().defragmented_leaves, store.stats().used_bytes), (0, used));
        // Not even the maps: who reads forks writes nothing.
        assert_eq!(store.stats().checkpoint_bytes, written);
        // A leaf that is all the fork's own again is put in order.
        for block in (0..256).rev() {
            put(&fork, block, 9).await;
        }
        leave_staging(&store, 4).await;
        stream(&fork).await;
        runtime::sleep(A_WHILE).await;
        assert_eq!(store.stats().defragmented_leaves, 1);
        holds(&volume, &tags).await;
    });
}

/// A snapshot is taken while a leaf is being read to be moved.
#[test]
fn snapshot_beside_a_move_shares_all_that_it_holds() {
    let world = World::new(roomy(), 4);
    Runtime::simulated(4).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, tags) = scattered(&store, 1, 4).await;
        stream(&volume).await;
        // Soon enough that moves are under way.
        let mut number = 100;
        while store.stats().defragmented_leaves == 0 && number < 150 {
            snapshot(&store, number).await;
            number += 1;
            runtime::sleep(Duration::from_micros(300)).await;
        }
        runtime::sleep(A_WHILE).await;
        let used = store.stats().used_bytes;
        assert!(used <= (BLOCKS + 400) * BLOCK, "copies take space: {used}");
        holds(&volume, &tags).await;
    });
}

/// Writers, streams, snapshots and restores beside the defragmenter; then a crash. Everything has
/// what was written last.
pub(crate) fn writes_beside_moves(seed: u64) {
    let mut world = World::new(roomy(), seed);
    world.reclaim_rate = 1 << 30; // many moves
    let expected = RefCell::new(Vec::new());
    Runtime::simulated(seed).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, tags) = scattered(&store, 1, seed).await;
        *expected.borrow_mut() = tags;
        let mut random = Random::new(seed);
        let streams = async {
            for _ in 0..12 {
                stream(&volume).await;
                runtime::sleep(Duration::from_millis(40)).await;
            }
        };
        let writes = async {
            for i in 0..400u32 {
                let (block, tag) = (random.below(BLOCKS), 1 + random.below(250) as u8);
                if random.one_in(8) {
                    volume.trim(block * BLOCK, BLOCK, Durability::Volatile).await.expect("a trim");
                    expected.borrow_mut()[block as usize] = 0;
                } else {
                    put(&volume, block, tag).await;
                    expected.borrow_mut()[block as usize] = tag;
                }
                if i == 200 {
                    snapshot(&store, 500).await;
                }
                runtime::sleep(Duration::from_micros(random.below(2000))).await;
            }
        };
        join(streams, writes).await;
        let now = expected.borrow().clone();
        holds(&volume, &now).await;
        assert!(store.stats().defragmented_leaves > 0);
        volume.flush().await.expect("a flush");
        // Moves go on, or have just ended, when the machine dies.
        stream(&volume).await;
        runtime::sleep(Duration::from_millis(random.below(60))).await;
        assert_eq!(store.health(), Health::Ready);
    });
    let death = [Death::Process, Death::Host, Death::Power][(seed % 3) as usize];
    world.die(death, &mut Random::new(seed));
    Runtime::simulated(seed).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let volume = store.volume(name(1)).expect("the volume");
        let now = expected.borrow().clone();
        holds(&volume, &now).await;
    });
}

#[test]
fn shared_leaves_are_left_alone() {
    what_is_shared_is_left_where_it_is();
}

#[test]
fn bytes_are_those_that_were_written_last() {
    for_seeds(1, 12, writes_beside_moves);
}

#[test]
fn nothing_moves_while_the_store_is_short_of_room() {
    let world = World::new(Shape { slots: 40, ..shape() }, 6);
    Runtime::simulated(6).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, _) = scattered(&store, 1, 6).await;
        let rest = store.stats().free_bytes / BLOCK - 20;
        let filler = crate::world::volume(&store, 9, rest, false).await;
        for block in (0..rest).step_by(8) {
            write(&filler, block, &filled(8.min(rest - block), 1)).await;
        }
        for _ in 0..3 {
            stream(&volume).await;
            runtime::sleep(Duration::from_millis(300)).await;
        }
        assert_eq!(store.stats().defragmented_leaves, 0);
        assert_eq!(store.health(), Health::Ready);
    });
}
