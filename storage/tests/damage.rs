//! What the store does when the disk does not hold what was written to it: damage is told, never cut off with the end of the
//! log, and never shown.

mod world;

use bytes::Bytes;
use sandstone_storage::{Durability, Health, Kind, Runtime, SimDisk, runtime};
use std::time::Duration;
use world::{BLOCK, Death, Random, World, assert_holds, filled, name, read, shape, spec, volume, write};

const SLOTS_AT: u64 = 1 << 20;

/// A store of some segments, all of it synced, that was not closed.
fn synced_log(rounds: u64) -> (World, Vec<Bytes>) {
    synced_log_on(rounds, |_, _| {})
}

/// The same on a disk to which `before` did something before a round.
fn synced_log_on(rounds: u64, before: impl Fn(u64, &SimDisk)) -> (World, Vec<Bytes>) {
    let mut world = World::on_device(shape(), 7);
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
