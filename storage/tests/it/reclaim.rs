//! Space comes back: dead segments, sparse ones, long dead runs; and nothing alive goes with it.

use crate::world::{BLOCK, Death, Random, Shape, World, read, spec};
use bytes::Bytes;
use futures_util::future::{join, join_all};
use sandstone_ring::{Backend, OpKind, Runtime, runtime};
use sandstone_storage::{
    Allocation, Durability, ForkSpec, Kind, ReclaimPhase, Store, StoreOptions, Volume, VolumeSpec,
};
use std::{cell::Cell, collections::HashSet, rc::Rc, time::Duration};
use tempfile::TempDir;
use uuid::Uuid;

const SEGMENT: u64 = 64 * BLOCK;

fn shape() -> Shape {
    Shape { segment_blocks: 64, slots: 60, cache_bytes: 0, metadata_bytes: 1 << 20 }
}

/// Of a store in a real file.
fn options(directory: &TempDir) -> StoreOptions {
    StoreOptions {
        path: directory.path().join("store"),
        size_bytes: 2 << 30,
        staging_dir: directory.path().to_owned(),
        cache_bytes: 16 << 20,
        metadata_bytes: 16 << 20,
        reclaim_rate: 1 << 40,
        scrub_rate: 0,
    }
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn block_bytes(block: u64, version: u64) -> Bytes {
    let word = (block << 20 | version << 1 | 1).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK as usize).collect()
}

async fn write(volume: &Volume, block: u64, version: u64) {
    let wrote =
        volume.write(block * BLOCK, block_bytes(block, version), Durability::Volatile).await;
    wrote.expect("a write");
}

async fn assert_block(volume: &Volume, block: u64, version: u64) {
    let found = read(volume, block * BLOCK, BLOCK).await.expect("a read");
    assert!(found == block_bytes(block, version), "block {block} of {}", volume.id());
}

/// A volume of which every fourth block is as old as it gets and the others were written again, so
/// that old segments are alive in a quarter.
async fn sparse(store: &Store, blocks: u64) -> Volume {
    let volume = store.create_volume(spec(id(1), blocks * BLOCK, false)).await.expect("a volume");
    for block in 0..blocks {
        write(&volume, block, 1).await;
    }
    for block in (0..blocks).filter(|block| block % 4 != 0) {
        write(&volume, block, 2).await;
    }
    volume
}

fn version(block: u64) -> u64 {
    if block.is_multiple_of(4) { 1 } else { 2 }
}

#[test]
fn sparse_segments_are_emptied_and_what_is_alive_stays_readable() {
    const BLOCKS: u64 = 600;
    for death in [Death::Process, Death::Power] {
        let mut world = World::new(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = sparse(&store, BLOCKS).await;
            let fork =
                ForkSpec { id: id(2), size_bytes: None, settings: None, attributes: Vec::new() };
            let fork = store.create_fork(id(1), fork).await.expect("a fork");
            write(&fork, 8, 3).await;
            store.reclaim().await.expect("a reclaim");
            let progress = store.reclaim_progress();
            assert!(progress.forwarded_bytes >= BLOCKS / 8 * BLOCK, "{progress:?}");
            let stats = store.stats();
            // 600 blocks of data with their headers, and the maps.
            let used = stats.capacity_bytes - stats.free_segment_bytes;
            assert!(used <= 14 * SEGMENT, "{} segments are used", used / SEGMENT);
            for block in 0..BLOCKS {
                assert_block(&volume, block, version(block)).await;
                assert_block(&fork, block, if block == 8 { 3 } else { version(block) }).await;
            }
        });
        world.die(death, &mut Random::new(2));
        Runtime::simulated(3).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            let (volume, fork) =
                (store.volume(id(1)).expect("it"), store.volume(id(2)).expect("its fork"));
            for block in 0..BLOCKS {
                assert_block(&volume, block, version(block)).await;
            }
            // Once more, so that what was moved is moved again.
            for block in (0..BLOCKS).filter(|block| block % 8 == 0) {
                write(&volume, block, 4).await;
            }
            assert!(store.delete_volume(id(2)).await.expect("a deletion"));
            store.reclaim().await.expect("a reclaim");
            assert_eq!(fork.flush().await.map_err(|e| e.kind()), Err(Kind::NotFound));
            for block in 0..BLOCKS {
                assert_block(&volume, block, if block % 8 == 0 { 4 } else { version(block) }).await;
            }
            assert_eq!(store.stats().corrupt_blocks, 0);
        });
    }
}

#[test]
fn a_full_store_recovers_from_trims_that_are_scattered() {
    let world = World::new(shape(), 4);
    Runtime::simulated(4).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = store.create_volume(spec(id(1), 5000 * BLOCK, false)).await.expect("a volume");
        let mut end = 0;
        while volume.write(end * BLOCK, block_bytes(end, 1), Durability::Volatile).await.is_ok() {
            end += 1;
        }
        // Every third block: no segment is empty.
        for block in (0..end).step_by(3) {
            volume
                .trim(block * BLOCK, BLOCK, Durability::Volatile)
                .await
                .expect("a trim in a full store");
        }
        let room = (0..).take_while(|n| n * 3 < end).count() as u64;
        for n in 0..room * 3 / 4 {
            write(&volume, n * 3, 2).await;
        }
        for block in 0..end {
            match block % 3 {
                0 if block / 3 < room * 3 / 4 => assert_block(&volume, block, 2).await,
                0 => assert_eq!(
                    read(&volume, block * BLOCK, BLOCK).await.expect("a read"),
                    [0; 4096]
                ),
                _ => assert_block(&volume, block, 1).await,
            }
        }
    });
}

/// Wherever a reclaim is then: it would take some twenty minutes.
#[test]
fn closing_the_store_ends_reclaim_soon_and_loses_nothing() {
    const BLOCKS: u64 = 6000;
    const SECOND: Duration = Duration::from_secs(1);
    let mut phases = HashSet::new();
    for (seed, wait) in
        [0, 1, 3, 10, 30, 100, 300, 1000, 10_000, 100_000, 300_000].into_iter().enumerate()
    {
        let shape = Shape { slots: 500, metadata_bytes: 8 << 20, ..shape() };
        let mut world = World::new(shape, seed as u64);
        world.reclaim_rate = 32 << 10;
        Runtime::simulated(seed as u64).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = sparse(&store, BLOCKS).await;
            volume.flush().await.expect("a flush");
            let reclaim = async {
                let ended = store.reclaim().await;
                (ended.map_err(|error| error.kind()), runtime::now())
            };
            let close = async {
                runtime::sleep(Duration::from_millis(wait)).await;
                phases.insert(format!("{:?}", store.reclaim_progress().phase));
                let began = runtime::now();
                store.clone().close().await.expect("an end");
                (began, runtime::now())
            };
            let ((reclaimed, ended), (began, closed)) = join(reclaim, close).await;
            assert_eq!(reclaimed, Err(Kind::Latched), "after {wait} ms");
            assert!(closed - began < SECOND, "closed in {:?} after {wait} ms", closed - began);
            // The task that waits for it may be told a turn later.
            assert!(ended <= closed + Duration::from_millis(1), "it went on after {wait} ms");
        });
        world.reclaim_rate = 64 << 20;
        Runtime::simulated(seed as u64).block_on(async {
            let (store, report) = world.open().await.expect("the store");
            assert!(report.clean, "{report:?} after {wait} ms");
            let volume = store.volume(id(1)).expect("it");
            for block in 0..BLOCKS {
                assert_block(&volume, block, version(block)).await;
            }
            store.reclaim().await.expect("a reclaim");
            let stats = store.stats();
            let used = stats.capacity_bytes - stats.free_segment_bytes;
            assert!(used <= 110 * SEGMENT, "{} segments are used after {wait} ms", used / SEGMENT);
            for block in 0..BLOCKS {
                assert_block(&volume, block, version(block)).await;
            }
        });
    }
    assert!(phases.contains("Forwarding"), "{phases:?}");
}

#[test]
fn what_rotted_in_a_sparse_segment_stays_an_error_and_takes_nothing_along() {
    const BLOCKS: u64 = 300;
    let world = World::new(shape(), 5);
    Runtime::simulated(5).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = sparse(&store, BLOCKS).await;
        volume.flush().await.expect("a flush");
        // Somewhere in the first segments: headers, dead blocks, or blocks that are alive.
        for block in 0..20 {
            world.disk.flip_bit((1 << 20) + block * BLOCK + 99, 3);
        }
        store.reclaim().await.expect("a reclaim");
        let mut rotten = 0;
        for block in 0..BLOCKS {
            match read(&volume, block * BLOCK, BLOCK).await {
                Ok(found) => assert!(found == block_bytes(block, version(block)), "block {block}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Corrupt);
                    rotten += 1;
                }
            }
        }
        assert!((1..20).contains(&rotten), "{rotten} are rotten");
        assert!(store.reclaim_progress().forwarded_bytes > 0, "the other segments were emptied");
    });
}

/// Reclaims until the file takes no more than that. The first time may meet the keeper, which gets
/// slots ready for a log that has just been streaming.
async fn reclaim_to(store: &Store, bytes_max: u64) {
    let mut allocated = u64::MAX;
    for _ in 0..10 {
        store.reclaim().await.expect("a reclaim");
        allocated = store.stats().file_allocated_bytes;
        if allocated <= bytes_max {
            return;
        }
        runtime::sleep(Duration::from_secs(1)).await;
    }
    panic!("{allocated} bytes are more than {bytes_max}");
}

#[test]
fn after_deleting_everything_the_file_is_as_small_as_an_empty_store_s() {
    let directory = tempfile::tempdir().expect("a directory");
    Runtime::new(Backend::Threads).expect("a runtime").block_on(async {
        let (store, _) = Store::open(options(&directory)).await.expect("a new store");
        store.checkpoint().await.expect("a checkpoint");
        let empty = store.stats().file_allocated_bytes;
        let volume = store.create_volume(spec(id(1), 1 << 30, false)).await.expect("a volume");
        let data = Bytes::from(vec![7; 1 << 20]);
        for at in 0..300 {
            volume.write(at << 20, data.clone(), Durability::Volatile).await.expect("a write");
            if at % 100 == 0 {
                store
                    .create_snapshot(id(1), id(10 + u128::from(at)), Vec::new())
                    .await
                    .expect("a snapshot");
            }
        }
        volume.flush().await.expect("a flush");
        assert!(store.stats().file_allocated_bytes > 300 << 20);
        // A hole in the middle of segments goes back to the file system though they stay.
        volume.trim(10 << 20, 20 << 20, Durability::Fua).await.expect("a trim");
        for snapshot in store.snapshots(id(1)).expect("its snapshots") {
            assert!(store.delete_snapshot(id(1), snapshot.id()).await.expect("a deletion"));
        }
        let used = volume.used_bytes();
        reclaim_to(&store, used + used / 20 + (4 << 20)).await;

        assert!(store.delete_volume(id(1)).await.expect("a deletion"));
        // An empty store is three blocks; a catalog of deleted things and a segment's first blocks
        // are a few more.
        reclaim_to(&store, empty + empty / 20 + (64 << 10)).await;
        store.close().await.expect("an end");
    });
}

/// Snapshots are made on the thread that marks: they must not wait for its end where it has nothing
/// to read.
#[test]
fn a_mark_of_maps_in_memory_gives_others_their_turns() {
    const LEAVES: u64 = 2048;
    const LEAF: u64 = 256 * BLOCK;
    let directory = tempfile::tempdir().expect("a directory");
    Runtime::new(Backend::Threads).expect("a runtime").block_on(async {
        let (store, _) = Store::open(options(&directory)).await.expect("a new store");
        let volume = store.create_volume(spec(id(1), LEAVES * LEAF, true)).await.expect("a volume");
        for leaf in 0..LEAVES {
            let wrote = volume.write(leaf * LEAF, block_bytes(leaf, 1), Durability::Volatile).await;
            wrote.expect("a write");
        }
        store.checkpoint().await.expect("a checkpoint, which leaves all nodes in memory");
        let (turns, looked_at) = (Rc::new(Cell::new(0)), store.clone());
        let counted = Rc::clone(&turns);
        runtime::spawn(async move {
            loop {
                if looked_at.reclaim_progress().phase == ReclaimPhase::Marking {
                    counted.set(counted.get() + 1);
                }
                runtime::yield_now().await;
            }
        });
        store.reclaim().await.expect("a reclaim");
        let marked = store.reclaim_progress().marked_nodes;
        assert!(marked > LEAVES, "{marked} nodes");
        assert!(
            turns.get() >= marked / 512,
            "{} turns while {marked} nodes were marked",
            turns.get()
        );
    });
}

#[test]
fn reclaim_is_not_undone_by_slots_that_are_being_got_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    Runtime::new(Backend::Threads).expect("a runtime").block_on(async {
        let (store, _) = Store::open(options(&directory)).await.expect("a new store");
        let volume = store.create_volume(spec(id(1), 1 << 20, false)).await.expect("a volume");
        // A client that flushes a little makes the keeper write slots in advance, for the better
        // part of a second.
        let allocated = || store.stats().file_allocated_bytes;
        while allocated() < 16 << 20 {
            volume.write(0, Bytes::from(vec![7; 4096]), Durability::Fua).await.expect("a write");
            volume.flush().await.expect("a flush");
            runtime::sleep(Duration::from_millis(10)).await;
        }
        assert!(allocated() < 64 << 20, "too late: it is ready");
        assert!(store.delete_volume(id(1)).await.expect("a deletion"));
        store.reclaim().await.expect("a reclaim");
        assert!(allocated() < 1 << 20, "{} bytes after a reclaim", allocated());
        runtime::sleep(Duration::from_secs(1)).await;
        assert!(allocated() < 1 << 20, "{} bytes a second later", allocated());
        store.close().await.expect("an end");
    });
}

/// Slots are prepared once something is logged, and the log goes on there.
#[test]
fn slots_are_prepared_ahead_of_the_log() {
    const SEGMENT_BLOCKS: u32 = 1024;
    let world = World::new(Shape { segment_blocks: SEGMENT_BLOCKS, slots: 40, ..shape() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let look_around = || runtime::sleep(Duration::from_millis(500));
        look_around().await;
        // Nobody writes to it, so it takes no room.
        assert_eq!((store.stats().prepared_bytes, store.stats().ready_bytes), (0, 0));

        let volume =
            store.create_volume(spec(id(1), 8192 * BLOCK, false)).await.expect("a new volume");
        look_around().await;
        let ready = store.stats().ready_bytes;
        assert!(ready >= 2 * u64::from(SEGMENT_BLOCKS) * BLOCK, "{ready} bytes are ready");
        let through = store.stats().written_through;
        for at in 0..1500 {
            write(&volume, at, 1).await;
        }
        let through = store.stats().written_through - through;
        assert!(
            through <= 2,
            "{through}: the batch that tells where the log goes on, and the footer of what it left"
        );
        look_around().await;
        assert!(store.stats().ready_bytes >= ready, "others take their place");
    });
}

/// What was prepared before a restart is found to be, and nothing is written again for it.
#[test]
fn slots_that_were_prepared_before_a_restart_are_ready() {
    let mut world = World::new(Shape { segment_blocks: 64, slots: 40, ..shape() }, 1);
    let life = |world: &World, from: u64| {
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            let volume = match store.volume(id(1)) {
                Some(volume) => volume,
                None => store
                    .create_volume(spec(id(1), 400 * BLOCK, false))
                    .await
                    .expect("a new volume"),
            };
            for at in from..from + 8 {
                write(&volume, at, 1).await;
                runtime::sleep(Duration::from_millis(50)).await;
            }
            store.stats()
        })
    };
    let before = life(&world, 0);
    world.die(Death::Process, &mut Random::new(1));
    let after = life(&world, 8);
    assert!(before.prepared_bytes > 0 && before.ready_bytes > 0);
    assert_eq!(after.prepared_bytes, 0);
    assert!(after.ready_bytes >= 2 * 64 * BLOCK);
}

#[test]
fn free_slots_that_had_blocks_before_a_restart_are_given_back() {
    let directory = tempfile::tempdir().expect("a directory");
    Runtime::new(Backend::Threads).expect("a runtime").block_on(async {
        let (store, _) = Store::open(options(&directory)).await.expect("a new store");
        let volume = store.create_volume(spec(id(1), 1 << 30, false)).await.expect("a volume");
        for at in 0..300 {
            volume
                .write(at << 20, Bytes::from(vec![7; 1 << 20]), Durability::Volatile)
                .await
                .expect("a write");
        }
        volume.flush().await.expect("a flush");
        assert!(store.delete_volume(id(1)).await.expect("a deletion"));
        store.checkpoint().await.expect("a checkpoint");
        drop(volume);
        store.close().await.expect("an end");

        let (store, _) = Store::open(options(&directory)).await.expect("the store again");
        let allocated = store.stats().file_allocated_bytes;
        assert!(allocated > 64 << 20, "{allocated} bytes: nothing to give back");
        store.reclaim().await.expect("a reclaim");
        let allocated = store.stats().file_allocated_bytes;
        assert!(allocated < 1 << 20, "{allocated} bytes of an empty store");
        let punched = store.reclaim_progress().punched_bytes;
        assert!(punched < 512 << 20, "{punched} bytes counted for holes that were there");
        store.close().await.expect("an end");
    });
}

#[test]
fn a_catalog_may_be_longer_than_a_segment() {
    const VOLUMES: u128 = 400;
    let mut world = World::new(Shape { slots: 120, ..shape() }, 6);
    Runtime::simulated(6).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        for n in 1..=VOLUMES {
            let attributes = vec![n as u8; 2048];
            let volume =
                store.create_volume(VolumeSpec { attributes, ..spec(id(n), BLOCK, false) }).await;
            write(&volume.expect("a volume"), 0, n as u64).await;
        }
        for _ in 0..5 {
            store.checkpoint().await.expect("a checkpoint");
            store.reclaim().await.expect("a reclaim");
        }
        let stats = store.stats();
        let used = (stats.capacity_bytes - stats.free_segment_bytes) / SEGMENT;
        assert!(used < 50, "{used} segments are used");
    });
    world.die(Death::Power, &mut Random::new(6));
    Runtime::simulated(7).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        for n in 1..=VOLUMES {
            let volume = store.volume(id(n)).expect("a volume");
            assert_eq!(volume.attributes()[..], [n as u8; 2048]);
            assert_block(&volume, 0, n as u64).await;
        }
    });
}

/// Waits until reclaim comes to this phase.
async fn phase_is(store: &Store, phase: ReclaimPhase) {
    let late = runtime::now() + Duration::from_secs(1);
    while store.reclaim_progress().phase != phase {
        assert!(runtime::now() < late, "it never comes to {phase:?}");
        runtime::sleep(Duration::from_micros(10)).await;
    }
}

/// What a round was going to move dies before it begins; and a checkpoint that is asked for while
/// the round reads waits for nothing of it.
#[test]
fn what_was_to_be_moved_may_die_and_a_checkpoint_does_not_wait_for_the_round() {
    let world = World::new(shape(), 7);
    Runtime::simulated(7).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = sparse(&store, 300).await;
        let meanwhile = async {
            phase_is(&store, ReclaimPhase::Checkpointing).await;
            volume.trim(0, 80 * BLOCK, Durability::Volatile).await.expect("a trim");
            // Behind the one of the superblock that the checkpoint writes.
            world.disk.delay_next(OpKind::Read, 1, Duration::from_secs(2));
            phase_is(&store, ReclaimPhase::Forwarding).await;
            runtime::sleep(Duration::from_millis(100)).await;
            assert_eq!(store.reclaim_progress().phase, ReclaimPhase::Forwarding);
            let began = runtime::now();
            store.checkpoint().await.expect("a checkpoint");
            let took = runtime::now() - began;
            assert!(
                took < Duration::from_millis(100),
                "a checkpoint waited for the round: {took:?}"
            );
            assert_eq!(store.reclaim_progress().phase, ReclaimPhase::Forwarding);
        };
        let (reclaimed, ()) = join(store.reclaim(), meanwhile).await;
        reclaimed.expect("a reclaim");
        assert!(store.reclaim_progress().forwarded_bytes > 0);
        for block in 80..300 {
            assert_block(&volume, block, version(block)).await;
        }
    });
}

/// Maps change while a round moves blocks: it must leave the next checkpoint the room that it
/// needs.
#[test]
fn moving_leaves_room_for_a_checkpoint_of_what_is_dirty() {
    for slots in 44..60 {
        let world = World::new(Shape { slots, ..shape() }, slots);
        Runtime::simulated(slots).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let other = store.create_volume(spec(id(2), 300 << 20, false)).await.expect("a volume");
            let volume = sparse(&store, 500).await;
            let zeroes = async {
                phase_is(&store, ReclaimPhase::Checkpointing).await;
                let each = (0..250).map(|leaf| {
                    other.write_zeroes(leaf << 20, BLOCK, Allocation::Reserve, Durability::Volatile)
                });
                join_all(each).await.into_iter().for_each(|done| done.expect("zeroes"));
            };
            let (reclaimed, ()) = join(store.reclaim(), zeroes).await;
            reclaimed.unwrap_or_else(|error| panic!("{slots} slots: {error}"));
            store.checkpoint().await.unwrap_or_else(|error| panic!("{slots} slots: {error}"));
            for block in 0..500 {
                assert_block(&volume, block, version(block)).await;
            }
        });
    }
}

/// Records without data fill segments too, and all that they free may be those segments.
#[test]
fn a_full_store_takes_any_number_of_trims_and_deletions() {
    for slots in [8, 14, 40] {
        let mut world = World::new(Shape { slots, ..shape() }, slots);
        Runtime::simulated(slots).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume =
                store.create_volume(spec(id(1), 5000 * BLOCK, false)).await.expect("a volume");
            let mut end = 0;
            while volume.write(end * BLOCK, block_bytes(end, 1), Durability::Volatile).await.is_ok()
            {
                end += 1;
            }
            for n in 0..1000 {
                let trimmed = volume.trim(4000 * BLOCK, 10 * BLOCK, Durability::Fua).await;
                trimmed.unwrap_or_else(|e| panic!("{slots} slots, trim {n}: {e}"));
            }
            for block in 0..end {
                assert_block(&volume, block, 1).await;
            }
        });
        world.die(Death::Power, &mut Random::new(slots));
        Runtime::simulated(slots).block_on(async {
            let (store, _) = world.open().await.expect("a full store opens");
            assert!(store.delete_volume(id(1)).await.expect("a deletion"));
            let volume =
                store.create_volume(spec(id(2), 5000 * BLOCK, false)).await.expect("a volume");
            write(&volume, 0, 1).await;
        });
    }
}

/// The log has claimed a segment ahead. Whatever ends the server, it is not there for nobody after
/// the next start.
#[test]
fn segment_that_the_log_had_claimed_is_free_after_a_start() {
    for death in [None, Some(Death::Process), Some(Death::Host), Some(Death::Power)] {
        let mut world = World::new(shape(), 5);
        let mut free = Vec::new();
        for life in 0..8 {
            let simulation = Runtime::simulated(life);
            simulation.block_on(async {
                let (store, _) = world.open().await.expect("the store");
                let volume = match store.volume(id(1)) {
                    Some(volume) => volume,
                    None => {
                        store.create_volume(spec(id(1), 64 * BLOCK, false)).await.expect("a volume")
                    }
                };
                free.push(store.stats().free_segment_bytes);
                write(&volume, 1, life).await;
                volume.flush().await.expect("a flush");
                if life % 2 == 1 {
                    store.checkpoint().await.expect("a checkpoint");
                }
                if death.is_none() {
                    store.close().await.expect("an end");
                }
            });
            drop(simulation);
            world.die(death.unwrap_or(Death::Process), &mut Random::new(life));
        }
        // One of the log, one that it has claimed, two of nodes: each checkpoint writes ten blocks.
        let least = (shape().slots - 4) * SEGMENT;
        assert!(free.iter().all(|free| *free >= least), "{death:?}: {least} of {free:?}");
    }
}
