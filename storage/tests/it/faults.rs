//! What the store does when the disk fails or is full, or loses the end of the log; and the finds
//! of the random suites, frozen. What it does when the disk lies stands in `damage.rs`.

use crate::world::{
    BLOCK, Death, Random, Seed, Shape, World, assert_holds, filled, name, read, shape, spec, trim,
    volume, write,
};
use futures_util::poll;
use sandstone_ring::{OpKind, Runtime, runtime};
use sandstone_storage::{
    Allocation, Durability, Extent, ExtentState, Health, Kind, Store, VOLUME_BYTES_MAX, Volume,
    VolumeChange,
};
use std::{cell::Cell, rc::Rc, time::Duration};

const EIO: i32 = 5;

async fn assert_latched(store: &Store, volume: &Volume) {
    assert!(matches!(store.health(), Health::Latched(_)), "{:?}", store.health());
    for durability in [Durability::Volatile, Durability::Fua] {
        let data = filled(1, 99);
        let refused = volume.write(0, data, durability).await.map_err(|e| e.kind());
        assert_eq!(refused, Err(Kind::Latched));
    }
    assert_eq!(volume.flush().await.map_err(|e| e.kind()), Err(Kind::Latched));
    let zeroed = volume.write_zeroes(0, BLOCK, Allocation::Hole, Durability::Volatile).await;
    assert_eq!(zeroed.map_err(|e| e.kind()), Err(Kind::Latched));
    assert_eq!(store.checkpoint().await.map_err(|e| e.kind()), Err(Kind::Latched));
    assert_eq!(store.delete_volume(volume.id()).await.map_err(|e| e.kind()), Err(Kind::Latched));
}

#[test]
fn failed_write_latches_and_reopening_recovers() {
    for seed in 0..20 {
        let _seed = Seed(seed);
        let mut world = World::new(shape(), seed);
        let (before, lost) = (filled(5, 1), filled(3, 2));
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, false).await;
            write(&volume, 0, &before).await;
            volume.flush().await.expect("a flush");
            world.disk.fail_next(OpKind::Write, 0, EIO);
            let failed = volume.write(8 * BLOCK, lost.clone(), Durability::Volatile).await;
            assert_eq!(failed.map_err(|e| e.kind()), Err(Kind::Latched));
            assert_latched(&store, &volume).await;
            assert_holds(&volume, 0, &before).await;
        });
        let death = [Death::Process, Death::Power][(seed % 2) as usize];
        world.die(death, &mut Random::new(seed));
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            let volume = store.volume(name(1)).expect("the volume");
            assert_holds(&volume, 0, &before).await;
            if death == Death::Process {
                // Staging had it all the time.
                assert_holds(&volume, 8, &lost).await;
            }
            write(&volume, 0, &lost).await;
            volume.flush().await.expect("a flush");
        });
    }
}

#[test]
fn failed_sync_latches_even_when_nobody_waits_for_it() {
    [false, true].into_iter().for_each(fail_a_sync);
}

pub(crate) fn fail_a_sync(dropped: bool) {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        write(&volume, 0, &filled(5, 1)).await;
        world.disk.fail_next(OpKind::Sync, 0, EIO);
        if dropped {
            let mut flush = Box::pin(volume.flush());
            assert!(poll!(&mut flush).is_pending());
            runtime::yield_now().await;
            drop(flush);
            runtime::sleep(Duration::from_millis(50)).await;
        } else {
            assert_eq!(volume.flush().await.map_err(|e| e.kind()), Err(Kind::Latched));
        }
        assert_latched(&store, &volume).await;
        assert_holds(&volume, 0, &filled(5, 1)).await;
    });
}

#[test]
fn failed_checkpoint_write_or_sync_latches() {
    for (kind, nth) in
        [(OpKind::Write, 0), (OpKind::Write, 1), (OpKind::Sync, 0), (OpKind::Sync, 1)]
    {
        let mut world = World::new(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, false).await;
            write(&volume, 0, &filled(5, 1)).await;
            volume.flush().await.expect("a flush");
            world.disk.fail_next(kind, nth, EIO);
            let failed = store.checkpoint().await.expect_err("the disk failed");
            assert!(matches!(failed.kind(), Kind::Latched | Kind::Io), "{kind:?} {nth}: {failed}");
            assert_latched(&store, &volume).await;
        });
        world.die(Death::Power, &mut Random::new(1));
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            assert_holds(&store.volume(name(1)).expect("the volume"), 0, &filled(5, 1)).await;
        });
    }
}

#[test]
fn checkpoint_that_nobody_waits_for_ends_whole() {
    for seed in 0..100 {
        let _seed = Seed(seed);
        let polls = seed % 20;
        let mut world = World::new(shape(), seed);
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 1024, false).await;
            for block in 0..20 {
                write(&volume, block * 50, &filled(1, block as u8)).await;
            }
            let mut checkpoint = Box::pin(store.checkpoint());
            for _ in 0..polls {
                if poll!(&mut checkpoint).is_ready() {
                    break;
                }
                runtime::sleep(Duration::from_micros(60)).await;
            }
            drop(checkpoint);
            write(&volume, 3, &filled(2, 200)).await;
            store.checkpoint().await.expect("a checkpoint");
        });
        world.die(Death::Power, &mut Random::new(seed));
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            let volume = store.volume(name(1)).expect("the volume");
            assert_holds(&volume, 950, &filled(1, 19)).await;
            assert_holds(&volume, 3, &filled(2, 200)).await;
        });
    }
}

#[test]
fn making_a_store_can_be_interrupted_anywhere() {
    for seed in 0..300 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut world = World::new(shape(), seed);
        for _ in 0..3 {
            let simulation = Runtime::simulated(seed);
            let lifetime = Duration::from_micros(random.below(4000));
            simulation.block_on(async {
                let death = std::pin::pin!(runtime::sleep(lifetime));
                let life =
                    std::pin::pin!(async { world.open().await.expect("it can always be made") });
                futures_util::future::select(death, life).await;
            });
            drop(simulation);
            world.die(Death::Power, &mut random);
        }
    }
}

/// Some writes are lost, or some of them, and the store goes on without them: in the same places,
/// with the same shapes, so that what was lost would fit. Whatever was found at the second start
/// stays, but for what was changed since.
#[test]
fn lost_end_of_the_log_does_not_come_back() {
    (0..400).for_each(lose_the_end);
}

pub(crate) fn lose_the_end(seed: u64) {
    let _seed = Seed(seed);
    let mut random = Random::new(seed);
    let mut world = World::on_device(Shape { slots: 12 + random.below(20), ..shape() }, seed);
    let blocks = 400;
    let mut expected = Vec::new();
    let writes = 1 + random.below(26);
    let writeback = random.one_in(3);
    for epoch in 0..5 {
        let simulation = Runtime::simulated(random.next());
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            let volume = match store.volume(name(1)) {
                Some(volume) => volume,
                None => volume(&store, 1, blocks, writeback).await,
            };
            let found = read(&volume, 0, blocks * BLOCK).await.expect("a read");
            assert!(epoch < 2 || found == expected, "epoch {epoch}");
            expected = found;
            if epoch == 0 {
                if random.one_in(2) {
                    write(&volume, 380, &filled(1, 9)).await;
                    store.checkpoint().await.expect("a checkpoint");
                }
                for i in 0..writes {
                    write(&volume, i * 5, &filled(5, 1)).await;
                    if random.one_in(4) {
                        trim(&volume, 370, 1).await;
                    }
                }
                // Perhaps until the next segment's beginning has made the last one durable, perhaps
                // not.
                runtime::sleep(Duration::from_micros(random.below(600))).await;
            }
            if epoch > 0 && random.one_in(2) {
                for i in 0..random.below(writes + 1) {
                    let data = filled(5, 2 + epoch);
                    write(&volume, i * 5, &data).await;
                    expected[(i * 5 * BLOCK) as usize..][..data.len()].copy_from_slice(&data);
                }
            }
            if epoch > 0 && random.one_in(2) {
                // Numbers that grow faster than the log.
                let count = random.pick(&[1, 10, 150]);
                let trims = (0..count).map(|_| trim(&volume, 370, 1));
                futures_util::future::join_all(trims).await;
            }
            if epoch > 0 && random.one_in(4) {
                store.checkpoint().await.expect("a checkpoint");
            }
            if epoch > 0 {
                volume.flush().await.expect("a flush");
            }
        });
        drop(simulation);
        let death = match epoch {
            0 => random.pick(&[Death::Host, Death::Power, Death::Power]),
            _ => random.pick(&[Death::Process, Death::Process, Death::Power]),
        };
        world.die(death, &mut random);
    }
}

/// A batch is lost, and a record without data behind it is not: it fills the last block of a window
/// of sixteen. The store goes on with another batch of the same shape, and then, having data, in
/// the next window: so the old record stays where it is, and fits the chain in all but its epoch.
#[test]
fn lost_record_at_the_end_of_a_window_does_not_come_back() {
    (0..100).for_each(lose_a_record);
}

pub(crate) fn lose_a_record(seed: u64) {
    let _seed = Seed(seed);
    let mut random = Random::new(seed);
    let mut world = World::new(shape(), seed);
    let mut expected = Vec::new();
    for epoch in 0..5 {
        let simulation = Runtime::simulated(random.next());
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready, "epoch {epoch}");
            let volume = match store.volume(name(1)) {
                Some(volume) => volume,
                None => volume(&store, 1, 64, false).await, // block 0
            };
            let found = read(&volume, 0, 64 * BLOCK).await.expect("a read");
            assert!(epoch < 2 || found == expected, "epoch {epoch}");
            match epoch {
                0 => {
                    write(&volume, 0, &filled(7, 1)).await; // blocks 1 to 8
                    volume.flush().await.expect("a flush");
                    write(&volume, 10, &filled(5, 2)).await; // blocks 9 to 14
                    trim(&volume, 0, 1).await; // block 15
                }
                1 => {
                    write(&volume, 10, &filled(5, 3)).await;
                    write(&volume, 20, &filled(2, 4)).await; // block 16, in the next window
                    volume.flush().await.expect("a flush");
                    expected = read(&volume, 0, 64 * BLOCK).await.expect("a read");
                }
                _ => {}
            }
        });
        drop(simulation);
        world.die(Death::Power, &mut random);
    }
}

/// Writes the volume full until the store is.
async fn fill_up(volume: &Volume, blocks: u64) -> u64 {
    for at in (0..blocks).step_by(10) {
        match volume.write(at * BLOCK, filled(10, at as u8), Durability::Volatile).await {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), Kind::NoSpace, "{error}");
                return at;
            }
        }
    }
    panic!("a volume larger than the store fits");
}

#[test]
fn full_store_answers_and_comes_back() {
    (0..10).for_each(run_full);
}

pub(crate) fn run_full(seed: u64) {
    let _seed = Seed(seed);
    let mut world = World::new(shape(), seed);
    let simulation = Runtime::simulated(seed);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let small = volume(&store, 2, 64, false).await;
        write(&small, 0, &filled(4, 3)).await;
        for round in 0..4 {
            let large = volume(&store, 10 + round, 4000, round % 2 == 0).await;
            let full_at = fill_up(&large, 4000).await;
            assert!(full_at > 1500, "the store took {full_at} blocks in round {round}");
            assert_holds(&large, full_at - 10, &filled(10, (full_at - 10) as u8)).await;
            // What is refused for ten blocks may fit for one, and what the first count of maps had
            // too much comes back.
            let mut singles = 0;
            loop {
                let single =
                    |block: u64| large.write(block * BLOCK, filled(1, 1), Durability::Volatile);
                while let Ok(()) = single(3999 - singles).await {
                    singles += 1;
                    assert!(singles < 2000, "it is full");
                }
                let refused = small.write(8 * BLOCK, filled(1, 1), Durability::Volatile).await;
                if refused.map_err(|e| e.kind()) == Err(Kind::NoSpace) {
                    break;
                }
                small.trim(8 * BLOCK, BLOCK, Durability::Volatile).await.expect("a trim");
            }
            // What stores nothing new goes on.
            large
                .write(0, filled(10, 0), Durability::Fua)
                .await
                .expect("an overwrite in a full store");
            for block in (0..300).step_by(20) {
                large
                    .trim(block * BLOCK, 20 * BLOCK, Durability::Fua)
                    .await
                    .expect("a trim in a full store");
            }
            large
                .write_zeroes(600 * BLOCK, 100 * BLOCK, Allocation::Reserve, Durability::Fua)
                .await
                .expect("zeroes");
            large.flush().await.expect("a flush");
            store.checkpoint().await.expect("a checkpoint");
            // What was trimmed is whole segments, so there is room.
            write(&small, 8, &filled(2, 7)).await;
            assert_holds(&small, 0, &filled(4, 3)).await;
            assert!(store.delete_volume(large.id()).await.expect("a delete in a full store"));
        }
        let again = volume(&store, 50, 4000, false).await;
        assert!(fill_up(&again, 4000).await > 1500);
    });
    drop(simulation);
    world.die(Death::Power, &mut Random::new(seed));
    Runtime::simulated(seed).block_on(async {
        let (store, _) = world.open().await.expect("a full store opens");
        assert_eq!(store.health(), Health::Ready);
        let small = store.volume(name(2)).expect("the volume");
        assert_holds(&small, 0, &filled(4, 3)).await;
        assert!(store.delete_volume(name(50)).await.expect("a delete"));
        write(&small, 8, &filled(2, 8)).await;
    });
}

#[test]
fn write_back_survives_the_process_across_segments() {
    (1..120).step_by(3).for_each(die_with_staged);
}

pub(crate) fn die_with_staged(writes: u64) {
    let mut world = World::new(shape(), writes);
    let simulation = Runtime::simulated(writes);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 240, true).await;
        // Without a pause where they are staged: what is acknowledged was sent out for the most
        // part not at all.
        for i in 0..writes {
            write(&volume, i * 2, &filled(2, i as u8)).await;
        }
    });
    drop(simulation);
    world.die(Death::Process, &mut Random::new(writes));
    Runtime::simulated(writes).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        assert_eq!(store.health(), Health::Ready);
        let volume = store.volume(name(1)).expect("the volume");
        for i in 0..writes {
            assert_holds(&volume, i * 2, &filled(2, i as u8)).await;
        }
    });
}

/// The volume ends in the middle of a block. While the trim to its end reads the map, it grows, and
/// the rest of that block is written.
#[test]
fn trim_to_the_end_leaves_alone_what_was_written_behind_it_meanwhile() {
    let mut world = World::new(Shape { metadata_bytes: 0, ..shape() }, 1);
    // The trim needs two leaves, and the write only the second of them.
    let (old_end, behind) = (260 * BLOCK + 100, filled(1, 9).slice(..200));
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let made = store.create_volume(spec(name(1), old_end, false)).await.expect("a volume");
        made.write(0, filled(261, 3).slice(..old_end as usize), Durability::Volatile)
            .await
            .expect("a write");
        store.close().await.expect("an end");
    });
    world.die(Death::Host, &mut Random::new(1));
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let volume = store.volume(name(1)).expect("the volume");
        // Behind the reads of the root and of the leaf that both need.
        world.disk.delay_next(OpKind::Read, 3, Duration::from_secs(2));
        let is_done = Rc::new(Cell::new(false));
        let trim = {
            let (volume, is_done) = (volume.clone(), Rc::clone(&is_done));
            async move {
                volume.trim(BLOCK, old_end - BLOCK, Durability::Volatile).await.expect("a trim");
                is_done.set(true);
            }
        };
        runtime::spawn(trim);
        runtime::sleep(Duration::from_millis(100)).await;
        let grow = VolumeChange { size_bytes: Some(264 * BLOCK), ..VolumeChange::default() };
        store.update_volume(name(1), grow).await.expect("a resize");
        volume.write(old_end, behind.clone(), Durability::Volatile).await.expect("a write");
        assert!(!is_done.get(), "the trim was overtaken");
        runtime::sleep(Duration::from_secs(3)).await;
        assert!(is_done.get());
        assert!(
            read(&volume, old_end, 200).await.expect("a read") == behind[..],
            "it was trimmed too"
        );
        let whole = read(&volume, BLOCK, 259 * BLOCK).await.expect("a read");
        assert!(whole.iter().all(|byte| *byte == 0));
    });
}

/// A round that could not read a map leaves the garbage where it is, and must not forget that there
/// is some.
#[test]
fn failed_round_of_reclaim_does_not_forget_the_garbage() {
    let world = World::new(Shape { metadata_bytes: 0, ..shape() }, 2);
    Runtime::simulated(2).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (small, large) =
            (volume(&store, 1, 64, false).await, volume(&store, 2, 4000, false).await);
        fill_up(&large, 4000).await;
        store.checkpoint().await.expect("a checkpoint");
        trim(&large, 0, 1000).await;
        // So that nothing else is left to do than what is garbage.
        store.checkpoint().await.expect("a checkpoint");
        world.disk.fail_next(OpKind::Read, 0, EIO);
        assert_eq!(store.reclaim().await.map_err(|e| e.kind()), Err(Kind::Io));
        write(&small, 0, &filled(10, 5)).await;
    });
}

#[test]
fn segments_come_back_when_a_volume_is_overwritten() {
    let world = World::new(shape(), 3);
    Runtime::simulated(3).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 800, false).await;
        let capacity = store.stats().capacity_bytes;
        let mut written = 0;
        for round in 0u64.. {
            for at in (0..800).step_by(16) {
                write(&volume, at, &filled(16, round as u8)).await;
                written += 16 * BLOCK;
            }
            assert_holds(&volume, 16 * (round % 50), &filled(16, round as u8)).await;
            if written > 6 * capacity {
                break;
            }
        }
        assert!(store.stats().reclaims > 0);
    });
}

#[test]
fn largest_volume_is_zeroed_and_told_in_one_piece() {
    let mut world = World::new(shape(), 3);
    for step in 0..3 {
        let simulation = Runtime::simulated(step);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("the store");
            let volume = match store.volume(name(1)) {
                Some(volume) => volume,
                None => volume(&store, 1, VOLUME_BYTES_MAX / BLOCK, false).await,
            };
            let state = if step == 2 { ExtentState::Hole } else { ExtentState::Zero };
            if step > 0 {
                // The whole map was on disk only.
                let how = if step == 2 { Allocation::Hole } else { Allocation::Reserve };
                volume
                    .write_zeroes(0, VOLUME_BYTES_MAX, how, Durability::Fua)
                    .await
                    .expect("zeroes");
                let told = volume.block_status(0, VOLUME_BYTES_MAX, 9).await.expect("block status");
                assert_eq!(told, [Extent { len_bytes: VOLUME_BYTES_MAX, state }]);
                assert_eq!(volume.used_bytes(), 0);
                assert_eq!(
                    read(&volume, 4095, u64::from(u32::MAX)).await.expect("a read").len(),
                    u32::MAX as usize
                );
            }
            write(&volume, (1 << 32) - 3, &filled(2, 4)).await;
            store.close().await.expect("an end");
        });
        drop(simulation);
        world.die(Death::Process, &mut Random::new(step));
    }
}

#[test]
fn operation_needs_no_more_of_the_node_cache_than_there_is() {
    let mut world = World::new(Shape { metadata_bytes: 0, slots: 80, ..shape() }, 3);
    for generation in 0..2 {
        let simulation = Runtime::simulated(generation);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("the store");
            if generation == 0 {
                let volume = volume(&store, 1, 20_000, false).await;
                for block in (0..20_000).step_by(100) {
                    write(&volume, block, &filled(1, block as u8)).await;
                }
                store.checkpoint().await.expect("a checkpoint");
                for block in (50..20_000).step_by(100) {
                    write(&volume, block, &filled(1, block as u8)).await;
                }
                // A whole leaf that is on disk only, taken by the log in parts.
                store.checkpoint().await.expect("a checkpoint");
                write(&volume, 256, &filled(256, 5)).await;
            }
            let volume = store.volume(name(1)).expect("the volume");
            assert_holds(&volume, 256, &filled(256, 5)).await;
            let told = volume.block_status(0, 20_000 * BLOCK, 10_000).await.expect("block status");
            assert!(told.len() > 700, "{}", told.len());
            assert_eq!(
                read(&volume, 0, 20_000 * BLOCK).await.expect("a read").len() as u64,
                20_000 * BLOCK
            );
        });
        drop(simulation);
        world.die(Death::Process, &mut Random::new(generation));
    }
}
