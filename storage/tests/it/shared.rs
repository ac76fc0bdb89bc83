//! Many who read the same blocks: they come from the disk once, whoever asks first, whoever leaves
//! meanwhile, and whatever fails.

use crate::world::{
    BLOCK, Random, Shape, World, change, filled, leave_staging, name, read, shape, volume, write,
};
use futures_util::{future::join_all, poll};
use sandstone_ring::{OpKind, Runtime, runtime};
use sandstone_storage::{ForkSpec, Health, Kind, Readahead, Result, Store, Volume};
use std::time::Duration;

const EIO: i32 = 5;
const BASE_BLOCKS: u64 = 1024;

fn roomy() -> Shape {
    Shape { slots: 200, cache_bytes: 16 << 20, ..shape() }
}

/// A base whose data is on the disk alone, and forks of it. At random, its blocks lie apart.
async fn fleet(store: &Store, forks: u128, at_random: bool) -> Vec<Volume> {
    let base = volume(store, 1, BASE_BLOCKS, false).await;
    for block in (0..BASE_BLOCKS).step_by(16) {
        write(&base, block, &filled(16, block as u8)).await;
    }
    if at_random {
        let mut random = Random::new(1);
        let mut left: Vec<u64> = (0..BASE_BLOCKS).collect();
        while !left.is_empty() {
            let block = left.swap_remove(random.below(left.len() as u64) as usize);
            write(&base, block, &filled(16, (block / 16 * 16) as u8).slice(within(block))).await;
        }
    }
    change(store, 1, |settings| settings.cache_bytes = 1 << 30).await;
    leave_staging(store, 1).await;
    let mut made = Vec::new();
    for number in 10..10 + forks {
        let id = name(number);
        let spec = ForkSpec { id, size_bytes: None, settings: None, attributes: Vec::new() };
        made.push(store.create_fork(name(1), spec).await.expect("a fork"));
    }
    made
}

fn within(block: u64) -> std::ops::Range<usize> {
    let at = (block % 16 * BLOCK) as usize;
    at..at + BLOCK as usize
}

/// Reads all of a fork in requests of so many blocks, several in flight, and checks the bytes.
async fn read_all(fork: &Volume, blocks: u64) {
    for first in (0..BASE_BLOCKS).step_by(4 * blocks as usize) {
        let at_once = (0..4).map(|i| first + i * blocks).filter(|at| *at < BASE_BLOCKS);
        join_all(at_once.map(|at| async move {
            let len = blocks.min(BASE_BLOCKS - at);
            let found = read(fork, at * BLOCK, len * BLOCK).await.expect("a read");
            for (i, found) in (at..at + len).zip(found.chunks_exact(BLOCK as usize)) {
                let written = filled(16, (i / 16 * 16) as u8);
                assert!(found == &written[within(i)], "block {i}");
            }
        }))
        .await;
    }
}

#[test]
fn forks_that_read_at_once_read_their_base_once() {
    for (seed, at_random) in [(1, false), (2, true)] {
        for blocks in [1, 7, 32, 64] {
            let world = World::new(roomy(), seed);
            Runtime::simulated(seed).block_on(async {
                let (store, _) = world.open().await.expect("a new store");
                let forks = fleet(&store, 12, at_random).await;
                let before = world.disk.read_bytes();
                join_all(forks.iter().map(|fork| read_all(fork, blocks))).await;
                let first = world.disk.read_bytes() - before;
                let base = BASE_BLOCKS * BLOCK;
                assert!(first >= base - (64 << 10) && first <= base + base / 20, "{first}");
                join_all(forks.iter().map(|fork| read_all(fork, blocks))).await;
                assert_eq!(world.disk.read_bytes() - before, first, "the second time nothing");
            });
        }
    }
}

/// The one that reads for all goes away; the others read by themselves, once.
#[test]
fn reader_that_leaves_hands_its_reads_on() {
    let world = World::new(roomy(), 3);
    Runtime::simulated(3).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let forks = fleet(&store, 3, false).await;
        for fork in &forks {
            // So that the maps are in memory.
            read(fork, (BASE_BLOCKS - 1) * BLOCK, BLOCK).await.expect("a read");
            fork.block_status(0, BASE_BLOCKS * BLOCK, 10_000).await.expect("a status");
        }
        let before = world.disk.read_bytes();
        let mut leads = Box::pin(forks[0].read(0, 64 * BLOCK as u32));
        assert!(poll!(&mut leads).is_pending());
        let mut follows = Box::pin(forks[1].read(16 * BLOCK, 16 * BLOCK as u32));
        assert!(poll!(&mut follows).is_pending());
        drop(leads);
        let (followed, ()) = futures_util::join!(follows, read_all(&forks[2], 32));
        assert!(followed.is_ok());
        let read = world.disk.read_bytes() - before;
        // The reads that were abandoned end by themselves.
        assert!(read <= (BASE_BLOCKS + 64) * BLOCK, "{read}");
    });
}

/// A read that fails for one fails for those who wait for it, and for no other block.
#[test]
fn failure_is_that_of_the_blocks_that_failed() {
    let world = World::new(roomy(), 4);
    Runtime::simulated(4).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let forks = fleet(&store, 2, false).await;
        for fork in &forks {
            fork.block_status(0, BASE_BLOCKS * BLOCK, 10_000).await.expect("a status");
        }
        world.disk.fail_next(OpKind::Read, 0, EIO);
        let one = forks[0].read(0, BLOCK as u32);
        let same = forks[1].read(0, BLOCK as u32);
        let (one, same) = futures_util::join!(one, same);
        let kind = |result: Result<_>| result.map_err(|error| error.kind());
        assert_eq!((kind(one).err(), kind(same).err()), (Some(Kind::Io), Some(Kind::Io)));
        // Of several the one that failed is read by itself.
        world.disk.fail_next(OpKind::Read, 1, EIO);
        let large = forks[0].read(0, 128 * BLOCK as u32);
        let within = forks[1].read(40 * BLOCK, 4 * BLOCK as u32);
        let (large, within) = futures_util::join!(large, within);
        assert!(large.is_ok() && within.is_ok(), "the second try was good");
        assert_eq!(store.health(), Health::Ready);
        read_all(&forks[1], 64).await;
    });
}

/// What is read ahead and what is asked for are one read.
#[test]
fn stream_joins_what_is_read_ahead_for_it() {
    let world = World::new(roomy(), 5);
    Runtime::simulated(5).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let forks = fleet(&store, 1, false).await;
        change(&store, 10, |settings| settings.prefetch_mib = 1).await;
        let reader = Readahead::new(forks[0].clone());
        let before = world.disk.read_bytes();
        for block in (0..BASE_BLOCKS).step_by(32) {
            reader.read(block * BLOCK, 32 * BLOCK as u32).await.expect("a read");
            // Short, so that steps of the fetch are under way when their blocks are asked for.
            runtime::sleep(Duration::from_micros(150)).await;
        }
        let read = world.disk.read_bytes() - before;
        assert!(read <= BASE_BLOCKS * BLOCK * 21 / 20, "{read}");
        assert!(forks[0].stats().prefetch_used_bytes >= BASE_BLOCKS * BLOCK / 2);
    });
}
