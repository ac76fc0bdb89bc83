//! What the store does when the disk fails, lies, or is full; and the finds of the random suites, frozen.

mod world;

use bytes::Bytes;
use futures_util::poll;
use sandstone_storage::{
    Allocation, Durability, Extent, ExtentState, Health, Kind, OpKind, Runtime, SimDisk, Store,
    VOLUME_BYTES_MAX, Volume, VolumeChange, runtime,
};
use std::time::Duration;
use world::{
    BLOCK, Death, Random, Seed, Shape, World, assert_holds, filled, name, read, shape, spec, trim, volume,
    write,
};

const SLOTS_AT: u64 = 1 << 20;
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
    for (kind, nth) in [(OpKind::Write, 0), (OpKind::Write, 1), (OpKind::Sync, 0), (OpKind::Sync, 1)] {
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

/// A store of some segments, all of it synced, that was not closed.
fn synced_log(rounds: u64) -> (World, Vec<Bytes>) {
    synced_log_on(rounds, |_, _| {})
}

/// The same on a disk to which `before` did something before a round.
fn synced_log_on(rounds: u64, before: impl Fn(u64, &SimDisk)) -> (World, Vec<Bytes>) {
    let mut world = World::new(shape(), 7);
    let written: Vec<_> = (0..rounds).map(|round| filled(4, round as u8 * 2)).collect();
    let simulation = Runtime::simulated(7);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 4 * rounds, false).await;
        for (round, data) in written.iter().enumerate() {
            before(round as u64, &world.disk);
            write(&volume, round as u64 * 4, data).await;
            volume.flush().await.expect("a flush");
        }
    });
    drop(simulation);
    world.die(Death::Power, &mut Random::new(7));
    (world, written)
}

/// Whether the store opens ready to be written to. Then all is there, or its reading says what is not.
fn opens_ready(world: &World, written: &[Bytes]) -> bool {
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let ready = store.health() == Health::Ready;
        let Some(volume) = store.volume(name(1)) else {
            assert!(!ready, "the volume is gone");
            return false;
        };
        for (round, data) in written.iter().enumerate() {
            match read(&volume, round as u64 * 4 * BLOCK, data.len() as u64).await {
                Ok(found) => assert!(found == data[..] || !ready, "round {round} is gone"),
                Err(error) => assert_eq!(error.kind(), Kind::Corrupt),
            }
        }
        if !ready {
            assert!(matches!(store.health(), Health::Corrupt(_)));
            let refused = volume.write(0, filled(1, 9), Durability::Volatile).await;
            assert_eq!(refused.map_err(|e| e.kind()), Err(Kind::ReadOnly));
            assert_eq!(store.checkpoint().await.map_err(|e| e.kind()), Err(Kind::ReadOnly));
            assert_eq!(store.reclaim().await.map_err(|e| e.kind()), Err(Kind::ReadOnly));
            let refused = store.create_volume(spec(name(2), BLOCK, false)).await.err();
            assert_eq!(refused.map(|e| e.kind()), Some(Kind::ReadOnly));
            runtime::sleep(Duration::from_secs(20)).await;
            store.close().await.expect("an end");
        }
        ready
    })
}

#[test]
pub(crate) fn damage_below_what_was_synced_is_never_taken_for_the_end() {
    let (world, written) = synced_log(30);
    let mut random = Random::new(1);
    // All but the last batch: that nothing behind it was written is what a torn end looks like too.
    for slot in 0..2 {
        for block in 0..64 {
            let at = SLOTS_AT + (slot * 64 + block) * BLOCK;
            let byte = match block {
                63 => BLOCK - 128 + random.below(104),
                _ => random.below(100),
            };
            world.disk.flip_bit(at + byte, 3);
            let was_ready = opens_ready(&world.reboot(), &written);
            world.disk.flip_bit(at + byte, 3);
            println!(
                "slot {slot} block {block} byte {byte}: {}",
                if was_ready { "ready" } else { "corrupt" }
            );
        }
    }
    assert!(opens_ready(&world.reboot(), &written));
}

#[test]
fn damaged_log_is_opened_for_reading_only_and_not_cut_off() {
    let (world, written) = synced_log(6);
    // The header of the second batch, behind the one that makes the volume.
    let at = SLOTS_AT + BLOCK + 17;
    world.disk.flip_bit(at, 0);
    for _ in 0..3 {
        assert!(!opens_ready(&world, &written));
    }
    world.disk.flip_bit(at, 0);
    assert!(opens_ready(&world, &written), "nothing was cut off");
}

#[test]
fn damaged_trailer_does_not_hide_the_segments_behind_it() {
    let (world, written) = synced_log(40);
    world.disk.flip_bit(SLOTS_AT + 64 * BLOCK - 128 + 40, 0);
    // Replay can do without the footer only if it was not the way to the next segment.
    assert!(!opens_ready(&world, &written));
}

/// P8: no header in the damaged segment says that it was synced, because it was only when the log had left it.
#[test]
fn damage_is_told_by_what_the_next_segment_knows() {
    let mut world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 200, false).await;
        for round in 0..8 {
            write(&volume, round * 10, &filled(10, round as u8)).await;
        }
        volume.flush().await.expect("a flush");
        write(&volume, 100, &filled(1, 9)).await;
    });
    world.die(Death::Host, &mut Random::new(1));
    // The header of the second batch.
    world.disk.flip_bit(SLOTS_AT + BLOCK + 17, 0);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        assert!(matches!(store.health(), Health::Corrupt(_)), "{:?}", store.health());
    });
}

#[test]
fn damaged_block_is_an_error_never_wrong_bytes() {
    let (world, written) = synced_log(4);
    for block in 2..6 {
        world.disk.flip_bit(SLOTS_AT + block * BLOCK + 100, 5);
    }
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let volume = store.volume(name(1)).expect("the volume");
        assert_eq!(store.health(), Health::Ready);
        let failed = read(&volume, 0, BLOCK).await.map(|_| ()).map_err(|e| e.kind());
        assert_eq!(failed, Err(Kind::Corrupt));
        assert_holds(&volume, 12, &written[3]).await;
    });
}

/// P4, P8: the disk says that it has written a batch, and has not, or has written it over another one.
#[test]
fn lost_and_misdirected_writes_are_told_and_never_show_wrong_bytes() {
    // A segment has room for twelve rounds. The first write of one that begins a segment is the footer of the segment before:
    // without it the log ends there, as it does where it was never written, and nothing that is looked at knows better. The
    // last round looks like a torn end.
    const SEGMENT_ROUNDS: u64 = 12;
    let mut told_at_once = 0;
    for round in (0..29).filter(|round| *round == 0 || round % SEGMENT_ROUNDS != 0) {
        let (lost, written) = synced_log_on(30, |at, disk| {
            if at == round {
                disk.lose_next(0);
            }
        });
        // A footer may still have its records: then reading them says what is missing.
        told_at_once += u32::from(!opens_ready(&lost, &written));
        // Over the header and the data of another round, before it or behind it.
        let (misdirected, written) = synced_log_on(30, |at, disk| {
            if at == round {
                disk.misdirect_next(0, SLOTS_AT + (1 + 5 * (29 - round) % 50) * BLOCK);
            }
        });
        told_at_once += u32::from(!opens_ready(&misdirected, &written));
    }
    // Those of the segment that has no footer yet.
    assert!(told_at_once >= 4, "{told_at_once}");
}

#[test]
fn lost_checkpoint_is_refused() {
    let mut world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        write(&volume, 0, &filled(5, 1)).await;
        volume.flush().await.expect("a flush");
        world.disk.lose_next(0);
        store.checkpoint().await.expect("the disk says that all went well");
    });
    world.die(Death::Host, &mut Random::new(1));
    Runtime::simulated(1).block_on(async {
        assert_eq!(world.open().await.err().map(|e| e.kind()), Some(Kind::Corrupt));
    });
}

#[test]
fn stale_read_is_tried_again_and_never_believed() {
    let (world, written) = synced_log(4);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let volume = store.volume(name(1)).expect("the volume");
        world.disk.stale_next(0);
        assert_holds(&volume, 0, &written[0]).await;
        world.disk.stale_next(0);
        world.disk.stale_next(1);
        let failed = read(&volume, 0, BLOCK).await.map(drop).map_err(|e| e.kind());
        assert_eq!(failed, Err(Kind::Corrupt));
        assert_holds(&volume, 0, &written[0]).await;
    });
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
                let life = std::pin::pin!(async { world.open().await.expect("it can always be made") });
                futures_util::future::select(death, life).await;
            });
            drop(simulation);
            world.die(Death::Power, &mut random);
        }
    }
}

#[test]
fn somebody_elses_disk_is_left_alone() {
    for at in [0, 100, 511, 600, 4000, 4091, (64 << 10) + 5] {
        let world = World::new(shape(), 1);
        world.disk.flip_bit(at, 1);
        Runtime::simulated(1).block_on(async {
            let before = world.disk.allocated_bytes();
            let refused = world.open().await.err().map(|e| e.kind());
            assert_eq!(refused, Some(Kind::Corrupt), "byte {at}");
            assert_eq!(world.disk.allocated_bytes(), before);
        });
    }
}

/// Some writes are lost, or some of them, and the store goes on without them: in the same places, with the same shapes, so
/// that what was lost would fit. Whatever was found at the second start stays, but for what was changed since.
#[test]
fn lost_end_of_the_log_does_not_come_back() {
    (0..400).for_each(lose_the_end);
}

pub(crate) fn lose_the_end(seed: u64) {
    let _seed = Seed(seed);
    let mut random = Random::new(seed);
    let mut world = World::new(Shape { slots: 12 + random.below(20), ..shape() }, seed);
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
                // Perhaps until the next segment's beginning has made the last one durable, perhaps not.
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

/// A batch is lost, and a record without data behind it is not: it fills the last block of a window of sixteen. The store
/// goes on with another batch of the same shape, and then, having data, in the next window: so the old record stays where
/// it is, and fits the chain in all but its epoch.
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
            // What is refused for ten blocks may fit for one; reclaim finds a segment here and there.
            let mut singles = 0;
            while let Ok(()) = large.write(3990 * BLOCK, filled(1, 1), Durability::Volatile).await {
                singles += 1;
                assert!(singles < 2000, "it is full");
            }
            let refused = small.write(8 * BLOCK, filled(1, 1), Durability::Volatile).await;
            assert_eq!(refused.map_err(|e| e.kind()), Err(Kind::NoSpace));
            for block in (0..300).step_by(20) {
                large.trim(block * BLOCK, 20 * BLOCK, Durability::Fua).await.expect("a trim in a full store");
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
        // Without a pause where they are staged: what is acknowledged was sent out for the most part not at all.
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

/// The volume ends in the middle of a block. While the trim to its end reads the map, it grows, and the rest of that block
/// is written.
#[test]
fn trim_to_the_end_leaves_alone_what_was_written_behind_it_meanwhile() {
    let mut world = World::new(Shape { metadata_bytes: 0, ..shape() }, 1);
    let (old_end, behind) = (4 * BLOCK + 100, filled(1, 9).slice(..200));
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let made = store.create_volume(spec(name(1), old_end, false)).await.expect("a volume");
        made.write(0, filled(5, 3).slice(..old_end as usize), Durability::Volatile).await.expect("a write");
        store.close().await.expect("an end");
    });
    world.die(Death::Host, &mut Random::new(1));
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let volume = store.volume(name(1)).expect("the volume");
        world.disk.delay_next(OpKind::Read, 0, Duration::from_secs(2));
        let mut trim = Box::pin(volume.trim(0, old_end, Durability::Volatile));
        assert!(poll!(&mut trim).is_pending());
        let grow = VolumeChange { size_bytes: Some(8 * BLOCK), ..VolumeChange::default() };
        store.update_volume(name(1), grow).await.expect("a resize");
        volume.write(old_end, behind.clone(), Durability::Volatile).await.expect("a write");
        assert!(poll!(&mut trim).is_pending(), "the trim was overtaken");
        trim.await.expect("a trim");
        assert!(read(&volume, old_end, 200).await.expect("a read") == behind[..], "it was trimmed too");
        assert_eq!(read(&volume, 0, 4 * BLOCK).await.expect("a read"), vec![0; 4 * BLOCK as usize]);
    });
}

/// A round that could not read a map leaves the garbage where it is, and must not forget that there is some.
#[test]
fn failed_round_of_reclaim_does_not_forget_the_garbage() {
    let world = World::new(Shape { metadata_bytes: 0, ..shape() }, 2);
    Runtime::simulated(2).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (small, large) = (volume(&store, 1, 64, false).await, volume(&store, 2, 4000, false).await);
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
                volume.write_zeroes(0, VOLUME_BYTES_MAX, how, Durability::Fua).await.expect("zeroes");
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
            assert_eq!(read(&volume, 0, 20_000 * BLOCK).await.expect("a read").len() as u64, 20_000 * BLOCK);
        });
        drop(simulation);
        world.die(Death::Process, &mut Random::new(generation));
    }
}
