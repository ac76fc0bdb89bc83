//! What the store does when the disk does not hold what was written to it: damage is told, never
//! cut off with the end of the log, and never shown.

use crate::world::{
    BLOCK, Death, Random, Shape, World, assert_holds, filled, name, read, shape, spec, volume,
    write,
};
use bytes::Bytes;
use sandstone_ring::{OpKind, Runtime, runtime, sim::SimDisk};
use sandstone_storage::{Durability, Health, Kind, StagingFate, Store};
use std::time::Duration;

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

/// Whether the store opens ready to be written to. Then all is there, or its reading says what is
/// not.
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
    let at_block = |number: u64| SLOTS_AT + number * BLOCK;
    let last_batch = (0..3 * 64).rfind(|number| world.disk.peek(at_block(*number), 4) == b"SSB1");
    for slot in 0..3 {
        for block in (0..64).filter(|block| Some(slot * 64 + block) < last_batch) {
            let at = at_block(slot * 64 + block);
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
    // The batches know where the log goes on.
    for _ in 0..3 {
        assert!(opens_ready(&world, &written));
    }
}

/// P8: no header in the damaged segment says that it was synced, because it was only when the log
/// had left it.
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

/// P4, P8: the disk says that it has written a batch, and has not, or has written it over another
/// one.
#[test]
fn lost_and_misdirected_writes_are_told_and_never_show_wrong_bytes() {
    // The last round looks like a torn end.
    let mut told_at_once = 0;
    for round in 0..29 {
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
fn stale_read_is_tried_again_and_never_believed() {
    let mut world = World::new(shape(), 7);
    let data = filled(4, 2);
    Runtime::simulated(7).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        write(&volume(&store, 1, 4, false).await, 0, &data).await;
        store.close().await.expect("an end");
    });
    world.die(Death::Power, &mut Random::new(7));
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let volume = store.volume(name(1)).expect("the volume");
        assert_holds(&volume, 3, &data.slice(3 * BLOCK as usize..)).await;
        world.disk.stale_next(0);
        assert_holds(&volume, 0, &data).await;
        world.disk.stale_next(0);
        world.disk.stale_next(1);
        let failed = read(&volume, 0, BLOCK).await.map(drop).map_err(|e| e.kind());
        assert_eq!(failed, Err(Kind::Corrupt));
        assert_holds(&volume, 0, &data).await;
    });
}

/// Device writes of a small checkpoint before its superblock: of entries, index and head each the
/// first copy goes out with what comes before, and the second with what comes behind.
const CATALOG_WRITES: u32 = 4;

/// Nodes, catalog and its copy are lost together: the superblock before names those before, and its
/// log goes on.
#[test]
fn lost_checkpoint_is_told_and_all_is_read_from_the_one_before() {
    let mut world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        write(&volume, 0, &filled(5, 1)).await;
        volume.flush().await.expect("a flush");
        (0..CATALOG_WRITES).for_each(|nth| world.disk.lose_next(nth));
        store.checkpoint().await.expect("the disk says that all went well");
        write(&volume, 8, &filled(2, 2)).await;
        volume.flush().await.expect("a flush");
    });
    world.die(Death::Host, &mut Random::new(1));
    for _ in 0..2 {
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_is_read_only(&store).await;
            let volume = store.volume(name(1)).expect("the volume");
            assert_holds(&volume, 0, &filled(5, 1)).await;
            assert_holds(&volume, 8, &filled(2, 2)).await;
        });
    }
}

/// No device write has both copies of a part of the catalog. The first has nodes too, of which
/// there is one copy: what it takes of the map is an error, and nothing else is.
#[test]
fn one_lost_write_of_a_catalog_is_read_past() {
    for nth in 0..CATALOG_WRITES {
        let mut world = World::new(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, false).await;
            write(&volume, 0, &filled(5, 1)).await;
            world.disk.lose_next(nth);
            store.checkpoint().await.expect("the disk says that all went well");
        });
        world.die(Death::Power, &mut Random::new(1));
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready, "write {nth}");
            let volume = store.volume(name(1)).expect("the volume");
            let found = read(&volume, 0, 5 * BLOCK).await.map_err(|error| error.kind());
            let expected = if nth == 0 { Err(Kind::Corrupt) } else { Ok(filled(5, 1).to_vec()) };
            assert_eq!(found, expected, "write {nth}");
        });
    }
}

/// P8: the superblock is lost, or lands in the other slot, and the disk says that all went well.
/// Nothing that it would free is given to others: the store is latched at once.
#[test]
fn superblock_that_the_disk_does_not_keep_latches_the_store() {
    for misdirected in [false, true] {
        let mut world = World::new(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, false).await;
            write(&volume, 0, &filled(5, 1)).await;
            volume.flush().await.expect("a flush");
            // Generation 3, behind the nodes; slot 0 has the one that counts.
            if misdirected {
                world.disk.misdirect_next(CATALOG_WRITES, SUPERBLOCKS_AT[0]);
            } else {
                world.disk.lose_next(CATALOG_WRITES);
            }
            let failed = store.checkpoint().await.map_err(|e| e.kind());
            assert_eq!(failed, Err(Kind::Corrupt));
            assert!(matches!(store.health(), Health::Latched(_)), "{:?}", store.health());
            assert_holds(&volume, 0, &filled(5, 1)).await;
        });
        world.die(Death::Power, &mut Random::new(1));
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            if misdirected {
                assert_is_read_only(&store).await;
            } else {
                assert_eq!(store.health(), Health::Ready);
            }
            assert_holds(&store.volume(name(1)).expect("the volume"), 0, &filled(5, 1)).await;
        });
    }
}

#[test]
fn start_whose_superblock_the_disk_does_not_keep_serves_reads_alone() {
    let (world, written) = synced_log(6);
    Runtime::simulated(1).block_on(async {
        // The end of the log and the superblock are written once more, and then the next
        // superblock.
        (0..4).for_each(|nth| world.disk.lose_next(nth));
        let (store, _) = world.open().await.expect("the store");
        assert!(matches!(store.health(), Health::Latched(_)), "{:?}", store.health());
        let volume = store.volume(name(1)).expect("the volume");
        assert_holds(&volume, 20, &written[5]).await;
        let refused = volume.write(0, filled(1, 9), Durability::Volatile).await;
        assert_eq!(refused.map_err(|e| e.kind()), Err(Kind::Latched));
    });
}

async fn assert_is_read_only(store: &Store) {
    assert!(matches!(store.health(), Health::Corrupt(_)), "{:?}", store.health());
    let refused = store.create_volume(spec(name(77), BLOCK, false)).await.err();
    assert_eq!(refused.map(|e| e.kind()), Some(Kind::ReadOnly));
}

const SUPERBLOCKS_AT: [u64; 2] = [0, 64 << 10];

fn generation(world: &World, slot: usize) -> u64 {
    u64::from_le_bytes(
        world.disk.peek(SUPERBLOCKS_AT[slot] + 56, 8).try_into().expect("eight bytes"),
    )
}

/// A store that is overwritten again and again, so that each checkpoint gives slots away that the
/// one before names; and what its volume of 200 blocks holds, all of it flushed. `after` is shown
/// the disk after each round.
fn worn(rounds: u64, mut after: impl FnMut(&SimDisk)) -> (World, Bytes) {
    let mut world = World::new(shape(), 7);
    let simulation = Runtime::simulated(7);
    let mut last = Bytes::new();
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 200, false).await;
        for round in 0..rounds {
            last = filled(200, round as u8);
            for part in 0..10 {
                let bytes = (part * 20 * BLOCK) as usize..((part + 1) * 20 * BLOCK) as usize;
                write(&volume, part * 20, &last.slice(bytes)).await;
            }
            volume.flush().await.expect("a flush");
            // The keeper makes checkpoints, and frees what is garbage.
            runtime::sleep(Duration::from_millis(300)).await;
            after(&world.disk);
        }
    });
    drop(simulation);
    world.die(Death::Power, &mut Random::new(7));
    (world, last)
}

/// Opens a store of which something was damaged. Whether it is ready; then all is as it should be.
fn opens_whole(world: &World, right: &Bytes) -> bool {
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let ready = store.health() == Health::Ready;
        if ready {
            assert_holds(&store.volume(name(1)).expect("the volume"), 0, right).await;
            return true;
        }
        assert_is_read_only(&store).await;
        if let Some(volume) = store.volume(name(1)) {
            for block in 0..200 {
                if let Err(error) = read(&volume, block * BLOCK, BLOCK).await {
                    assert_eq!(error.kind(), Kind::Corrupt);
                }
            }
        }
        false
    })
}

/// P8: the newest superblock is the way to all that was written since the one before, whose log may
/// be gone.
#[test]
pub(crate) fn damaged_superblock_is_told_in_a_store_that_reuses_slots() {
    for rounds in (20..44).step_by(3) {
        let (world, last) = worn(rounds, |_| {});
        assert!(opens_whole(&world.reboot(), &last));
        for at in SUPERBLOCKS_AT {
            for byte in [3, 10, 57, 300, 509] {
                world.disk.flip_bit(at + byte, 0);
                assert!(
                    !opens_whole(&world.reboot(), &last),
                    "{rounds} rounds, at {at}, byte {byte}"
                );
                world.disk.flip_bit(at + byte, 0);
            }
            // What nobody reads.
            world.disk.flip_bit(at + 1000, 0);
            assert!(opens_whole(&world.reboot(), &last));
        }
    }
}

/// P8: the disk kept the newest superblock for as long as anybody looked, and has the one from
/// before in its place now.
#[test]
fn superblock_that_went_back_is_told() {
    let mut told = 0;
    for rounds in 20..32 {
        let mut held = [vec![], vec![]];
        let (world, last) = worn(rounds, |disk| {
            for (at, held) in SUPERBLOCKS_AT.into_iter().zip(&mut held) {
                held.push(disk.peek(at, 512));
            }
        });
        let slot = usize::from(generation(&world, 1) > generation(&world, 0));
        let now = world.disk.peek(SUPERBLOCKS_AT[slot], 512);
        // From long enough ago that what it names was given to others since.
        let older = &held[slot][held[slot].len() / 2];
        assert!(older[56..64] != now[56..64]);
        for (at, (was, is)) in (SUPERBLOCKS_AT[slot]..).zip(older.iter().zip(&now)) {
            (0..8)
                .filter(|bit| (was ^ is) >> bit & 1 == 1)
                .for_each(|bit| world.disk.flip_bit(at, bit));
        }
        assert_eq!(generation(&world, slot).to_le_bytes(), older[56..64]);
        // Where nothing was logged behind it, and nothing reused, all is there all the same.
        told += u32::from(!opens_whole(&world.reboot(), &last));
    }
    assert!(told > 2, "{told}");
}

/// P8: the write of a footer is lost, and with it what told where the log goes on, although that is
/// synced.
#[test]
pub(crate) fn lost_footer_does_not_hide_what_comes_behind_it() {
    let has_footer = |world: &World, slot: u64| {
        world.disk.peek(SLOTS_AT + (slot + 1) * 64 * BLOCK - 128, 4) == b"SSF1"
    };
    let mut footers = 0;
    for (round, nth) in (1..29).flat_map(|round| [(round, 0), (round, 1)]) {
        let (mut world, written) = synced_log_on(30, |at, disk| {
            if at == round {
                disk.lose_next(nth);
            }
        });
        if has_footer(&world, 0) && has_footer(&world, 1) {
            continue;
        }
        footers += 1;
        assert!(opens_ready(&world.reboot(), &written), "round {round}");
        // It is put in its place, and what is written behind it stays.
        for generation in 0..3 {
            let simulation = Runtime::simulated(1);
            simulation.block_on(async {
                let (store, _) = world.open().await.expect("the store");
                let volume = store.volume(name(1)).expect("the volume");
                assert_holds(&volume, 4 * 27, &written[27]).await;
                if generation > 0 {
                    assert_holds(&volume, 0, &filled(4, 99 + generation)).await;
                }
                write(&volume, 0, &filled(4, 100 + generation)).await;
                volume.flush().await.expect("a flush");
            });
            drop(simulation);
            world.die(Death::Power, &mut Random::new(round));
            assert!(has_footer(&world, 0) && has_footer(&world, 1));
        }
    }
    assert!(footers >= 2, "{footers} footers were lost");
}

/// The same where the store is so full that no next segment could be settled: it is looked for.
#[test]
pub(crate) fn lost_footer_of_a_full_store_does_not_hide_what_comes_behind_it() {
    // No more than fit a segment: the next one would take a checkpoint, behind which nobody needs
    // the footer.
    const TRIMS: u64 = 64;
    let shape = Shape { slots: 20, ..shape() };
    let full = |lost: Option<(u64, u32)>| {
        let mut world = World::on_device(shape, 3);
        let simulation = Runtime::simulated(3);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 4000, false).await;
            for block in (0..4000).step_by(10) {
                let written =
                    volume.write(block * BLOCK, filled(10, 1), Durability::Volatile).await;
                if written.is_err() {
                    break;
                }
            }
            for block in 0..TRIMS {
                if let Some((at, nth)) = lost
                    && at == block
                {
                    world.disk.lose_next(nth);
                }
                volume.trim(block * BLOCK, BLOCK, Durability::Fua).await.expect("a trim");
            }
        });
        drop(simulation);
        world.die(Death::Host, &mut Random::new(1));
        world
    };
    let footers = |world: &World| {
        let trailer_at = |slot: u64| SLOTS_AT + (slot + 1) * 64 * BLOCK - 128;
        (0..shape.slots).filter(|slot| world.disk.peek(trailer_at(*slot), 4) == b"SSF1").count()
    };
    let all = footers(&full(None));
    let mut lost_footers = 0;
    let lost = (0..TRIMS - 1).flat_map(|block| [(block, 0), (block, 1)]);
    for world in lost.map(|lost| full(Some(lost))).filter(|world| footers(world) < all) {
        lost_footers += 1;
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            let volume = store.volume(name(1)).expect("the volume");
            let trimmed = read(&volume, 0, TRIMS * BLOCK).await.expect("a read");
            assert!(trimmed.iter().all(|byte| *byte == 0), "some trims are gone");
        });
    }
    assert!(lost_footers > 0);
}

/// P1: what can be read after a failed sync may be nowhere but in a cache. What was served from
/// there is not lost with it.
#[test]
pub(crate) fn what_is_served_after_a_failed_sync_survives_the_power() {
    for seed in 0..30 {
        let mut world = World::on_device(shape(), seed);
        let simulation = Runtime::simulated(seed);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 200, false).await;
            world.disk.fail_next(OpKind::Sync, 0, 5);
            // Over the end of a segment, or not.
            for part in 0..1 + seed % 12 {
                let written =
                    volume.write(part * 7 * BLOCK, filled(7, 3), Durability::Volatile).await;
                if written.is_err() {
                    break;
                }
            }
            volume.flush().await.expect_err("the sync failed");
        });
        drop(simulation);
        world.die(Death::Host, &mut Random::new(seed));
        let mut served = Vec::new();
        for life in 0..2 {
            let simulation = Runtime::simulated(seed);
            simulation.block_on(async {
                let (store, _) = world.open().await.expect("the store");
                assert_eq!(store.health(), Health::Ready);
                let volume = store.volume(name(1)).expect("the volume");
                let found = read(&volume, 0, 200 * BLOCK).await.expect("a read");
                assert!(life == 0 || found == served, "seed {seed}: what was served is gone");
                served = found;
            });
            drop(simulation);
            world.die(Death::Power, &mut Random::new(seed));
        }
    }
}

/// The same of the superblock, whose place would tell of one that was lost.
#[test]
fn superblock_of_a_failed_sync_is_as_good_as_any_after_a_restart() {
    for seed in 0..20 {
        let mut world = World::new(shape(), seed);
        let simulation = Runtime::simulated(seed);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, false).await;
            write(&volume, 0, &filled(5, 1)).await;
            volume.flush().await.expect("a flush");
            // The one behind the superblock.
            world.disk.fail_next(OpKind::Sync, 1, 5);
            store.checkpoint().await.expect_err("the sync failed");
        });
        drop(simulation);
        for death in [Death::Process, Death::Power, Death::Power] {
            world.die(death, &mut Random::new(seed));
            let simulation = Runtime::simulated(seed);
            simulation.block_on(async {
                let (store, _) = world.open().await.expect("the store");
                assert_eq!(store.health(), Health::Ready, "seed {seed}");
                assert_holds(&store.volume(name(1)).expect("the volume"), 0, &filled(5, 1)).await;
            });
        }
    }
}

/// The staging buffer's place is changed between crashes, and changed back. What an older start
/// left there is not taken for what the last one left.
#[test]
fn staging_of_an_older_start_is_not_taken_for_that_of_the_last() {
    let mut world = World::new(shape(), 1);
    let life = |world: &mut World, tag: u8| {
        let simulation = Runtime::simulated(1);
        let (report, staging) = simulation.block_on(async {
            let (store, report) = world.open().await.expect("the store");
            let volume = match store.volume(name(1)) {
                Some(volume) => volume,
                None => volume(&store, 1, 64, true).await,
            };
            // Acknowledged from staging: nothing has been sent to the disk in this turn.
            write(&volume, u64::from(tag), &filled(1, tag)).await;
            (report, world.staging_content().expect("it has one"))
        });
        drop(simulation);
        world.die(Death::Process, &mut Random::new(1));
        (report, staging)
    };
    let (_, first) = life(&mut world, 1);
    let (report, second) = life(&mut world, 2);
    assert_eq!(
        (report.staging, report.staged_records),
        (StagingFate::Kept, 1),
        "nobody changed it"
    );
    world.replace_staging(Some(&first));
    let (report, _) = life(&mut world, 3);
    assert_eq!(report.staging, StagingFate::Lost, "of the start before the last");
    world.replace_staging(None);
    assert_eq!(life(&mut world, 4).0.staging, StagingFate::Lost, "it is elsewhere");
    world.replace_staging(Some(&second));
    assert_eq!(life(&mut world, 5).0.staging, StagingFate::Lost, "back where it was before");
    let (report, sixth) = life(&mut world, 6);
    assert_eq!(report.staging, StagingFate::Kept);
    Runtime::simulated(1).block_on(async {
        let (store, report) = world.open().await.expect("the store");
        assert_eq!(report.staging, StagingFate::Kept);
        store.close().await.expect("an end");
    });
    // What was closed had nothing there.
    for staging in [None, Some(&first), Some(&sixth)] {
        world.replace_staging(staging.map(|content| &content[..]));
        Runtime::simulated(1).block_on(async {
            let (store, report) = world.open().await.expect("the store");
            assert_eq!((report.staging, report.staged_records), (StagingFate::Kept, 0));
            store.close().await.expect("an end");
        });
    }
    assert_eq!(life(&mut world, 7).0.staging, StagingFate::Kept);
    let left = world.staging_content();
    world.die(Death::Host, &mut Random::new(1));
    world.replace_staging(left.as_deref());
    assert_eq!(life(&mut world, 8).0.staging, StagingFate::Lost, "it is of another boot");
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
