//! What a store has room for: new blocks up to its usable size, overwrites always, and after a
//! deletion what that held. (P7)

use crate::world::{
    BLOCK, Death, Effort, Random, Shape, World, assert_holds, filled, name, volume,
};
use futures_util::future::join_all;
use sandstone_ring::{Runtime, runtime};
use sandstone_storage::{Durability, Health, Kind, Store, Volume};
use std::time::Duration;

fn shape(slots: u64) -> Shape {
    Shape { segment_blocks: 64, slots, cache_bytes: 0, metadata_bytes: 1 << 20 }
}

async fn write(volume: &Volume, block: u64, blocks: u64, tag: u8) -> Result<(), Kind> {
    let wrote = volume.write(block * BLOCK, filled(blocks, tag), Durability::Volatile).await;
    wrote.map_err(|error| error.kind())
}

fn usable_blocks(store: &Store) -> u64 {
    store.stats().usable_bytes / BLOCK
}

fn free_blocks(store: &Store) -> u64 {
    store.stats().free_bytes / BLOCK
}

/// Overwrites of one block at random places, so many at once as a client has in flight. No one
/// fails, none waits for a second without any other being done.
async fn overwrite(volume: &Volume, blocks: u64, times: u64, random: &mut Random) {
    const DEPTH: u64 = 32;
    for _ in 0..times.div_ceil(DEPTH) {
        let began = runtime::now();
        let places: Vec<_> = (0..DEPTH).map(|_| random.below(blocks)).collect();
        let writes = places.iter().map(|block| write(volume, *block, 1, *block as u8));
        for done in join_all(writes).await {
            assert_eq!(done, Ok(()), "an overwrite of a volume of {blocks} blocks");
        }
        let took = runtime::now() - began;
        assert!(took < Duration::from_secs(1), "{took:?} without progress");
    }
}

#[test]
fn random_overwrites_go_on_at_every_fill_level() {
    let rounds = match Effort::asked() {
        Effort::Quick => 1,
        Effort::Whole => 4,
        Effort::Long => 20,
    };
    // In halves of the volume. With segments of 64 blocks the maps of so many are several segments,
    // which checkpoints write anew again and again, and after some times the catalog is too.
    let shapes = [
        (128, 400, 70, 1),
        (128, 400, 80, 1),
        (128, 400, 90, 1),
        (128, 400, 95, 1),
        (128, 400, 100, 1),
    ];
    let shapes = shapes.into_iter().chain([(64, 800, 90, 8)]);
    for (seed, (segment_blocks, slots, percent, halves)) in (0..).zip(shapes) {
        let world = World::new(Shape { segment_blocks, ..shape(slots) }, seed);
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let blocks = usable_blocks(&store) * percent / 100 / 8 * 8 - 64;
            let full = volume(&store, 1, blocks, false).await;
            for block in (0..blocks).step_by(8) {
                assert_eq!(
                    write(&full, block, 8, block as u8).await,
                    Ok(()),
                    "{percent} %: block {block}"
                );
            }
            let mut random = Random::new(seed);
            overwrite(&full, blocks, rounds * halves * blocks / 2, &mut random).await;
            assert_eq!(store.health(), Health::Ready);
            full.flush().await.expect("a flush");
            // Each block is what was written there last, or else first.
            for block in (0..blocks).step_by(97) {
                let found = crate::world::read(&full, block * BLOCK, BLOCK).await.expect("a read");
                let first = filled(8, (block / 8 * 8) as u8);
                let at = (block % 8 * BLOCK) as usize;
                let is_first = found == first[at..at + BLOCK as usize];
                assert!(
                    is_first || found == filled(1, block as u8)[..],
                    "{percent} %: block {block}"
                );
            }
        });
    }
}

/// Records without data may take segments that data may not, and data must not fill them: with maps
/// of several segments nothing would be left for checkpoints.
#[test]
fn overwrites_beside_trims_go_on_in_a_store_with_large_maps() {
    let world = World::new(shape(800), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let blocks = usable_blocks(&store) * 95 / 100 / 8 * 8;
        let full = volume(&store, 1, blocks, false).await;
        for block in (0..blocks).step_by(8) {
            assert_eq!(write(&full, block, 8, 1).await, Ok(()), "block {block}");
        }
        let mut random = Random::new(1);
        for round in 0..40 {
            overwrite(&full, blocks, blocks / 40, &mut random).await;
            for _ in 0..20 {
                let block = random.below(blocks);
                let trimmed = full.trim(block * BLOCK, BLOCK, Durability::Fua).await;
                trimmed.unwrap_or_else(|error| panic!("a trim in round {round}: {error}"));
                assert_eq!(write(&full, block, 1, 2).await, Ok(()), "round {round}");
            }
        }
    });
}

/// A block in each MiB takes a leaf each: half of what the store is full of is maps. Nothing is
/// left to overwrite in at the very end, but with a tenth of it trimmed it goes on.
#[test]
fn blocks_that_lie_far_apart_are_overwritten_in_a_store_that_was_full_of_them() {
    for (slots, seed) in [(60, 1), (400, 2)] {
        let world = World::new(shape(slots), seed);
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let sparse = volume(&store, 1, 256 << 16, false).await;
            let mut written = 0;
            while let Ok(()) = write(&sparse, written * 256, 1, written as u8).await {
                written += 1;
            }
            assert!(written * 5 >= usable_blocks(&store), "{written} blocks");
            for block in (0..written).step_by(10) {
                let at = block * 256 * BLOCK;
                sparse.trim(at, BLOCK, Durability::Fua).await.expect("a trim in a full store");
            }
            let mut random = Random::new(seed);
            for _ in 0..2 * written {
                let block = random.below(written) / 10 * 10 + 1 + random.below(9);
                let overwritten = write(&sparse, block.min(written - 1) * 256, 1, 7).await;
                assert_eq!(overwritten, Ok(()), "{slots} slots: {block}");
            }
            assert_eq!(store.health(), Health::Ready);
        });
    }
}

#[test]
fn new_blocks_are_refused_at_the_usable_size_and_nowhere_before() {
    for (seed, slots) in (0..).zip([40, 100, 200, 400]) {
        let world = World::new(shape(slots), seed);
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let usable = usable_blocks(&store);
            let all = slots * 64;
            let working = (all * 67).div_ceil(1000).max(14 * 64);
            assert!(usable >= all - working - 64, "{usable} of {all} blocks are usable");
            let large = volume(&store, 1, 2 * all, false).await;
            let mut written = 0;
            while let Ok(()) = write(&large, written, 8, written as u8).await {
                written += 8;
            }
            // The maps of so small a store are more than what is kept for them.
            assert!(written + 64 >= usable, "{written} of {usable} blocks");
            // A recount of the maps may have come since.
            assert!(free_blocks(&store) < 64);
            assert_eq!(store.health(), Health::Ready);
            // What is there goes on being written, and the rest is as it was.
            assert_eq!(write(&large, 0, 64, 9).await, Ok(()));
            assert_eq!(write(&large, written, 8, 9).await, Err(Kind::NoSpace));
            assert_holds(&large, written - 8, &filled(8, (written - 8) as u8)).await;
            let hole =
                crate::world::read(&large, written * BLOCK, 8 * BLOCK).await.expect("a read");
            assert!(hole.iter().all(|byte| *byte == 0), "a refused write has changed nothing");
        });
    }
}

/// Ten volumes are written in turn until nothing more fits, so that each segment holds a part of
/// all of them. Some are deleted, in any order; after each deletion and one reclaim the others have
/// at least nine tenths of what it held.
#[test]
fn what_interleaved_volumes_held_comes_back() {
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let world = World::new(shape(random.pick(&[60, 150, 300])), seed);
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let mut volumes = Vec::new();
            for number in 1..=10 {
                volumes.push((volume(&store, number, 1 << 20, false).await, 0));
            }
            let mut next = 0;
            let step = random.pick(&[1, 4, 16]);
            loop {
                let (volume, written) = &mut volumes[next % 10];
                match write(volume, *written, step, next as u8).await {
                    Ok(()) => *written += step,
                    Err(kind) => {
                        assert_eq!(kind, Kind::NoSpace);
                        break;
                    }
                }
                next += 1;
            }
            let mut fresh = 100;
            while volumes.len() > 2 {
                let (gone, held) = volumes.swap_remove(random.below(volumes.len() as u64) as usize);
                assert!(store.delete_volume(gone.id()).await.expect("a deletion in a full store"));
                store.reclaim().await.expect("a reclaim");
                fresh += 1;
                let again = volume(&store, fresh, 1 << 20, false).await;
                let mut written = 0;
                while let Ok(()) = write(&again, written, step, fresh as u8).await {
                    written += step;
                }
                assert!(
                    written * 10 >= held * 9,
                    "seed {seed}: {written} of {held} blocks came back"
                );
                volumes.push((again, written));
                if random.one_in(2) {
                    let (gone, _) = volumes.pop().expect("just pushed");
                    assert!(store.delete_volume(gone.id()).await.expect("a deletion"));
                }
            }
        });
    }
}

#[test]
fn deletions_trims_and_restores_go_in_a_full_store() {
    for seed in 0..4 {
        let mut world = World::new(shape(80), seed);
        let simulation = Runtime::simulated(seed);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let first = volume(&store, 1, 1 << 16, false).await;
            let mut written = 0;
            for block in (0..1024).step_by(16) {
                assert_eq!(write(&first, block, 16, 1).await, Ok(()));
            }
            store.create_snapshot(name(1), name(2), Vec::new()).await.expect("a snapshot");
            let second = volume(&store, 3, 1 << 16, false).await;
            while let Ok(()) = write(&second, written, 16, 3).await {
                written += 16;
            }
            // Overwriting what a snapshot holds is new: it is refused, and nothing happens to the
            // snapshot.
            let mut refused = None;
            for block in (0..1024).step_by(16) {
                refused = refused.or(write(&first, block, 16, 7).await.err());
            }
            assert_eq!(refused, Some(Kind::NoSpace));
            // A hundred of each, each durable, so that they take what is kept for them many times
            // over.
            for round in 0..100 {
                let block = round * 16 % written;
                second
                    .trim(block * BLOCK, BLOCK, Durability::Fua)
                    .await
                    .expect("a trim in a full store");
                assert_eq!(write(&second, block, 1, 3).await, Ok(()), "what was trimmed");
                store.restore(name(1), name(2)).await.expect("a restore in a full store");
                store.reclaim().await.expect("a reclaim");
            }
            assert_holds(&first, 0, &filled(16, 1)).await;
            assert!(
                store.delete_snapshot(name(1), name(2)).await.expect("a deletion in a full store")
            );
            assert_eq!(write(&first, 0, 16, 7).await, Ok(()), "nobody shares it any more");
            assert!(store.delete_volume(name(3)).await.expect("a deletion in a full store"));
            for block in (1024..2048).step_by(16) {
                assert_eq!(write(&first, block, 16, 8).await, Ok(()));
            }
        });
        drop(simulation);
        world.die(Death::Power, &mut Random::new(seed));
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            // The books are those of what is there.
            store.reclaim().await.expect("a reclaim");
            let exact = free_blocks(&store);
            store.reclaim().await.expect("a reclaim");
            assert_eq!(free_blocks(&store), exact);
        });
    }
}

/// A volume with a snapshot is overwritten, and the snapshot deleted, again and again: what only it
/// held comes back each time, also where a fork shares the rest.
#[test]
fn what_only_a_deleted_snapshot_held_comes_back() {
    let world = World::new(shape(200), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let blocks = usable_blocks(&store) / 3 / 16 * 16;
        let line = volume(&store, 1, blocks, false).await;
        for block in (0..blocks).step_by(16) {
            assert_eq!(write(&line, block, 16, 1).await, Ok(()));
        }
        for round in 0..6u8 {
            let snapshot = name(100 + u128::from(round));
            store.create_snapshot(name(1), snapshot, Vec::new()).await.expect("a snapshot");
            for block in (0..blocks).step_by(16) {
                let wrote = write(&line, block, 16, 2 + round).await;
                assert_eq!(wrote, Ok(()), "round {round}, block {block}");
            }
            assert!(store.delete_snapshot(name(1), snapshot).await.expect("a deletion"));
        }
        assert_holds(&line, 0, &filled(16, 7)).await;
    });
}

/// A map that cannot be read keeps reclaim from counting: writers are told so in the end, and none
/// waits for ever.
#[test]
fn writers_do_not_wait_for_rounds_that_fail() {
    let world = World::new(Shape { metadata_bytes: 0, ..shape(60) }, 3);
    Runtime::simulated(3).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let line = volume(&store, 1, 1 << 16, false).await;
        for block in (0..512).step_by(16) {
            assert_eq!(write(&line, block, 16, 1).await, Ok(()));
        }
        store.create_snapshot(name(1), name(2), Vec::new()).await.expect("a snapshot");
        store.checkpoint().await.expect("a checkpoint");
        let other = volume(&store, 3, 1 << 16, false).await;
        // Every node that is on the disk now.
        for at in (1 << 20..world.disk.len_bytes()).step_by(BLOCK as usize) {
            if [*b"SSL1", *b"SSI1"].iter().any(|magic| world.disk.peek(at, 4) == magic) {
                world.disk.spoil_sector(at);
            }
        }
        let began = runtime::now();
        let mut block = 0;
        let refused = loop {
            match write(&other, block % 1024, 16, 3).await {
                Ok(()) => block += 16,
                Err(kind) => break kind,
            }
            assert!(runtime::now() - began < Duration::from_secs(300), "it goes on for ever");
        };
        assert_eq!(refused, Kind::NoSpace);
    });
}
