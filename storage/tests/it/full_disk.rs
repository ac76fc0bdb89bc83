//! A file system below the store that is smaller than the store may become: it is as if the store
//! were full, nothing is lost, and it goes on when there is room. (P7)

use crate::world::{
    BLOCK, Death, Random, World, assert_holds, filled, name, shape, trim, volume, write,
};
use futures_util::poll;
use sandstone_ring::{File, Runtime, runtime};
use sandstone_storage::{Durability, Health, Kind, Store, Volume};
use std::time::Duration;

const SEGMENT_BYTES: u64 = 64 * BLOCK;
/// Blocks of one write.
const STEP: u64 = 16;

async fn try_write(volume: &Volume, step: u64, tag: u8) -> Result<(), Kind> {
    let data = filled(STEP, tag);
    volume
        .write(step * STEP * BLOCK, data, Durability::Volatile)
        .await
        .map_err(|error| error.kind())
}

/// Writes until there is no room. Gives the number of steps that were acknowledged.
async fn fill(volume: &Volume, tag: u8) -> u64 {
    for step in 0..400 {
        match try_write(volume, step, tag).await {
            Ok(()) => {}
            Err(kind) => {
                assert_eq!(kind, Kind::NoSpace, "step {step}");
                return step;
            }
        }
    }
    panic!("the disk is never full")
}

async fn written_in_time(volume: &Volume, step: u64, tag: u8) {
    let deadline = runtime::now() + Duration::from_secs(20);
    while let Err(kind) = try_write(volume, step, tag).await {
        assert_eq!(kind, Kind::NoSpace);
        assert!(runtime::now() < deadline, "no room after 20 seconds");
        runtime::sleep(Duration::from_millis(50)).await;
    }
}

async fn assert_steps(volume: &Volume, steps: std::ops::Range<u64>, tag: u8) {
    for step in steps {
        assert_holds(volume, step * STEP, &filled(STEP, tag)).await;
    }
}

async fn assert_zeroes(volume: &Volume, steps: std::ops::Range<u64>) {
    for step in steps {
        assert_holds(volume, step * STEP, &vec![0; (STEP * BLOCK) as usize].into()).await;
    }
}

#[test]
fn full_file_system_is_a_full_store_that_recovers() {
    for seed in 0..10 {
        let mut world = World::new(shape(), seed);
        // Of forty segments the file system can back twenty.
        world.disk.limit_space(Some(20 * SEGMENT_BYTES));
        let simulation = Runtime::simulated(seed);
        let (filled, again) = simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 400 * STEP, false).await;
            let filled = fill(&volume, 1).await;
            // Half of what there is, at least: the rest is kept for what makes room.
            assert!(filled * STEP > 10 * 64 / 2, "{filled} steps");
            assert_eq!(store.health(), Health::Ready);
            assert_steps(&volume, 0..filled, 1).await;
            volume.flush().await.expect("a flush");

            // Trims need no room, and make some.
            trim(&volume, 0, filled / 2 * STEP).await;
            for step in 0..filled / 4 {
                written_in_time(&volume, step, 2).await;
            }
            // So does who makes some outside.
            let again = fill(&volume, 3).await;
            world.disk.limit_space(None);
            written_in_time(&volume, again + 1, 4).await;
            volume.flush().await.expect("a flush");
            assert_eq!(store.health(), Health::Ready);
            (filled, again)
        });
        drop(simulation);
        let death = [Death::Process, Death::Host, Death::Power][(seed % 3) as usize];
        world.die(death, &mut Random::new(seed));
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            let volume = store.volume(name(1)).expect("the volume");
            assert_steps(&volume, 0..again, 3).await;
            // Of the one that was refused there may be a part.
            assert_steps(&volume, again + 1..again + 2, 4).await;
            let rest = again + 2;
            assert_steps(&volume, rest..filled / 4, 2).await;
            assert_zeroes(&volume, rest.max(filled / 4)..filled / 2).await;
            assert_steps(&volume, rest.max(filled / 2)..filled, 1).await;
        });
    }
}

#[test]
fn store_that_has_all_its_blocks_needs_no_room_below() {
    let world = World::new(shape(), 1);
    let size = shape().size_bytes();
    world.disk.limit_space(Some(size));
    Runtime::simulated(1).block_on(async {
        File::simulated(&world.disk).allocate(0, size).await.expect("there is room for all of it");
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 400 * STEP, false).await;
        // All but the reserve and what headers and footers take.
        assert!(fill(&volume, 1).await * STEP > 25 * 64);
        assert_eq!(store.health(), Health::Ready);
    });
}

/// Others take the room that was there a moment ago.
async fn starve(world: &World) -> (Store, Volume) {
    let (store, _) = world.open().await.expect("a new store");
    let volume = volume(&store, 1, 400 * STEP, false).await;
    write(&volume, 0, &filled(STEP, 1)).await;
    volume.flush().await.expect("a flush");
    world.disk.limit_space(Some(world.disk.allocated_bytes()));
    (store, volume)
}

#[test]
fn write_that_finds_no_room_waits_and_says_so() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, volume) = starve(&world).await;
        let data = filled(STEP, 2);
        let mut writing = Box::pin(write(&volume, STEP, &data));
        assert!(poll!(&mut writing).is_pending());
        runtime::sleep(Duration::from_secs(5)).await;
        assert!(poll!(&mut writing).is_pending());
        assert!(matches!(store.health(), Health::Starved(_)), "{:?}", store.health());
        assert_holds(&volume, 0, &filled(STEP, 1)).await;

        world.disk.limit_space(None);
        writing.await;
        assert_eq!(store.health(), Health::Ready);
        volume.flush().await.expect("a flush");
        assert_steps(&volume, 1..2, 2).await;
    });
}

/// The segments that have their blocks are full, and no free slot has its own.
#[test]
fn write_that_waits_for_a_segment_that_the_file_system_cannot_back_says_so() {
    for backed in 3..8 {
        let world = World::new(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 400 * STEP, false).await;
            write(&volume, 0, &filled(STEP, 1)).await;
            let bytes = (1 << 20) + backed * SEGMENT_BYTES;
            File::simulated(&world.disk).allocate(0, bytes).await.expect("there is room");
            world.disk.limit_space(Some(world.disk.allocated_bytes()));
            let mut tag = 1;
            let waiting = loop {
                tag += 1;
                assert!(tag < 200, "{backed} segments are room enough");
                let mut writing = Box::pin(try_write(&volume, 0, tag));
                let mut waited = Duration::ZERO;
                while waited < Duration::from_secs(3) && poll!(&mut writing).is_pending() {
                    runtime::sleep(Duration::from_millis(50)).await;
                    waited += Duration::from_millis(50);
                }
                if waited >= Duration::from_secs(3) {
                    break writing;
                }
            };
            assert!(matches!(store.health(), Health::Starved(_)), "{backed}: {:?}", store.health());
            world.disk.limit_space(None);
            assert_eq!(waiting.await, Ok(()));
            assert_eq!(store.health(), Health::Ready);
            assert_steps(&volume, 0..1, tag).await;
        });
    }
}

#[test]
fn store_that_waits_for_room_can_be_closed_and_loses_nothing_that_was_acknowledged() {
    let mut world = World::new(shape(), 1);
    let simulation = Runtime::simulated(1);
    simulation.block_on(async {
        let (store, volume) = starve(&world).await;
        let mut writing = Box::pin(try_write(&volume, 1, 2));
        assert!(poll!(&mut writing).is_pending());
        runtime::sleep(Duration::from_secs(1)).await;
        // It ends, and says that it could not write its last checkpoint.
        assert_eq!(store.close().await.map_err(|error| error.kind()), Err(Kind::NoSpace));
        assert_eq!(writing.await, Err(Kind::Latched));
    });
    drop(simulation);
    world.die(Death::Process, &mut Random::new(1));
    for has_room in [false, true] {
        if has_room {
            world.disk.limit_space(None);
        }
        let opened = Runtime::simulated(1).block_on(async {
            let opened = world.open().await;
            if let Ok((store, _)) = &opened {
                let volume = store.volume(name(1)).expect("the volume");
                assert_steps(&volume, 0..1, 1).await;
                // It was in staging all the time.
                assert_steps(&volume, 1..2, 2).await;
            }
            opened.map(drop).map_err(|error| error.kind())
        });
        // Without room the log cannot be completed from staging.
        assert_eq!(opened, if has_room { Ok(()) } else { Err(Kind::Io) });
    }
}
