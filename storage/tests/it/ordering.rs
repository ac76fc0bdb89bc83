//! The orders that the store keeps between things that overlap: reads and the reuse of slots,
//! rounds of reclaim, acknowledgements and the log. What the others have to wait for is late
//! because the disk is told so.

use crate::world::{
    BLOCK, Death, Random, Seed, Shape, World, assert_holds, filled, name, read, shape, trim,
    volume, write,
};
use futures_util::{future::join, poll};
use sandstone_ring::{OpKind, Runtime, runtime};
use sandstone_storage::{BegunRead, Durability, Piece, Readahead, Store, Volume};
use std::{pin::pin, time::Duration};

/// How late the disk is: hundreds of times what a round of reclaim or some writes take.
const LATE: Duration = Duration::from_secs(2);
/// Blocks of the volume that is read: some segments, of which staging has the last blocks only.
const BLOCKS: u64 = 200;

/// What becomes of the data under a read.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Overwritten,
    Trimmed,
    Deleted,
}

async fn meet(fate: Fate, store: &Store, volume: &Volume) {
    match fate {
        Fate::Overwritten => write(volume, 0, &filled(BLOCKS, 64)).await,
        Fate::Trimmed => trim(volume, 0, BLOCKS).await,
        Fate::Deleted => assert!(store.delete_volume(volume.id()).await.expect("a delete")),
    }
}

/// Runs `reader`, whose first read of the disk is late. Meanwhile the data of `volume` meets its
/// fate, is reclaimed, and more is written, which goes to slots that were written before where
/// there are any.
async fn outlasts_reclaim(
    world: &World,
    volume: &Volume,
    fate: Fate,
    store: &Store,
    reader: impl Future,
) {
    let other = crate::world::volume(store, 2, 2 * BLOCKS, false).await;
    world.disk.delay_next(OpKind::Read, 0, LATE);
    let mut reader = pin!(reader);
    assert!(poll!(&mut reader).is_pending());
    meet(fate, store, volume).await;

    let free_before = store.stats().free_segment_bytes;
    let mut reclaim = pin!(store.reclaim());
    assert!(poll!(&mut reclaim).is_pending());
    runtime::sleep(LATE / 10).await;
    let free_during = store.stats().free_segment_bytes;
    write(&other, 0, &filled(2 * BLOCKS, 128)).await;
    let free_at_the_end = store.stats().free_segment_bytes;
    assert!(poll!(&mut reader).is_pending(), "the disk is late enough");

    reader.await;
    assert_eq!(store.stats().corrupt_blocks, 0);
    assert!(free_during <= free_before, "slots were free for use while they were read");
    reclaim.await.expect("a round of reclaim");
    assert!(
        store.stats().free_segment_bytes > free_at_the_end,
        "the read was all that it waited for"
    );
    assert_holds(&other, 0, &filled(2 * BLOCKS, 128)).await;
}

#[test]
pub(crate) fn slot_is_not_reused_under_a_read() {
    for fate in [Fate::Overwritten, Fate::Trimmed, Fate::Deleted] {
        println!("{fate:?}");
        let world = World::on_device(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, BLOCKS, false).await;
            let old = filled(BLOCKS, 0);
            let first = old.slice(..4 * BLOCK as usize);
            write(&volume, 0, &old).await;
            // What it was when the read began, whatever became of it since.
            let reader = assert_holds(&volume, 0, &first);
            outlasts_reclaim(&world, &volume, fate, &store, reader).await;
        });
    }
}

/// A read is begun, and goes on only when its data was overwritten and reclaimed.
#[test]
pub(crate) fn slot_is_not_reused_under_a_read_that_was_begun() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, other) =
            (volume(&store, 1, BLOCKS, false).await, volume(&store, 2, 2 * BLOCKS, false).await);
        let old = filled(BLOCKS, 0);
        write(&volume, 0, &old).await;
        let begun = Readahead::new(volume.clone()).read_now(0, 4 * BLOCK as u32);
        let Some(BegunRead::Started(rest)) = begun else {
            panic!("its map is in memory, its data is not")
        };

        write(&volume, 0, &filled(BLOCKS, 64)).await;
        let mut reclaim = pin!(store.reclaim());
        assert!(poll!(&mut reclaim).is_pending());
        runtime::sleep(LATE).await;
        write(&other, 0, &filled(2 * BLOCKS, 128)).await;
        let free_before = store.stats().free_segment_bytes;
        let pieces = rest.finish().await.expect("a read");
        assert_eq!(pieces, [Piece::Data(old.slice(..4 * BLOCK as usize))]);
        reclaim.await.expect("a round of reclaim");
        assert!(
            store.stats().free_segment_bytes > free_before,
            "the read was all that it waited for"
        );
    });
}

#[test]
pub(crate) fn slot_is_not_reused_under_the_read_of_a_partial_write() {
    for fate in [Fate::Overwritten, Fate::Trimmed] {
        println!("{fate:?}");
        let world = World::on_device(shape(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, BLOCKS, false).await;
            write(&volume, 0, &filled(BLOCKS, 0)).await;
            let part = filled(1, 200).slice(..100);
            let writer = async {
                volume.write(10, part.clone(), Durability::Volatile).await.expect("a write");
            };
            outlasts_reclaim(&world, &volume, fate, &store, writer).await;
            // Around the part is what the block became meanwhile, not what was read first.
            let mut expected = match fate {
                Fate::Overwritten => filled(1, 64).to_vec(),
                Fate::Trimmed | Fate::Deleted => vec![0; BLOCK as usize],
            };
            expected[10..110].copy_from_slice(&part);
            assert_holds(&volume, 0, &expected.into()).await;
        });
    }
}

/// The checkpoint that gives slots back is late, more is written meanwhile, and the host dies:
/// recovery goes by the checkpoint before, whose log runs through those slots.
#[test]
pub(crate) fn slot_is_not_reused_before_the_checkpoint_that_frees_it() {
    let mut world = World::new(shape(), 1);
    let simulation = Runtime::simulated(1);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        // More slots than are kept for those who sync.
        let (overwritten, later) = (
            volume(&store, 1, 2 * BLOCKS, false).await,
            volume(&store, 2, 2 * BLOCKS, false).await,
        );
        write(&overwritten, 0, &filled(2 * BLOCKS, 0)).await;
        write(&overwritten, 0, &filled(2 * BLOCKS, 64)).await;

        let checkpoints = store.stats().checkpoints;
        world.disk.delay_next(OpKind::Sync, 0, LATE);
        let mut reclaim = pin!(store.reclaim());
        assert!(poll!(&mut reclaim).is_pending());
        runtime::sleep(LATE / 10).await;
        write(&later, 0, &filled(2 * BLOCKS, 128)).await;
        assert!(poll!(&mut reclaim).is_pending(), "the disk is late enough");
        assert_eq!(store.stats().checkpoints, checkpoints);
    });
    drop(simulation);
    world.die(Death::Host, &mut Random::new(1));
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("the store");
        let of = |number| store.volume(name(number)).expect("the volume");
        assert_holds(&of(1), 0, &filled(2 * BLOCKS, 64)).await;
        assert_holds(&of(2), 0, &filled(2 * BLOCKS, 128)).await;
        // There was something to give back.
        let free_before = store.stats().free_segment_bytes;
        store.reclaim().await.expect("a round of reclaim");
        assert!(store.stats().free_segment_bytes > free_before);
    });
}

#[test]
fn reads_hold_back_the_reuse_of_what_they_read() {
    for seed in 0..40 {
        let _seed = Seed(seed);
        let world = World::new(Shape { slots: 16, ..shape() }, seed);
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 100, false).await;
            let reading = async {
                for _ in 0..200 {
                    read(&volume, 0, 100 * BLOCK).await.expect("whatever it is, it can be read");
                }
            };
            let overwriting = async {
                for round in 0..30 {
                    write(&volume, 0, &filled(100, round)).await;
                    store.reclaim().await.expect("a round of reclaim");
                }
            };
            join(reading, overwriting).await;
        });
    }
}

#[test]
fn rounds_of_reclaim_may_meet() {
    let world = World::new(shape(), 3);
    Runtime::simulated(3).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 400, false).await;
        for round in 0..6 {
            for at in (0..400).step_by(16) {
                write(&volume, at, &filled(16, round)).await;
            }
            let (one, other) = join(store.reclaim(), store.reclaim()).await;
            one.and(other).expect("both end well");
            assert_holds(&volume, 0, &filled(16, round)).await;
        }
    });
}

/// A write at `block` that was logged and sent out, but has not come back.
async fn sent<'a>(
    volume: &'a Volume,
    block: u64,
    tag: u8,
) -> std::pin::Pin<Box<impl Future<Output = ()> + 'a>> {
    let mut write = Box::pin(async move { write(volume, block, &filled(2, tag)).await });
    assert!(poll!(&mut write).is_pending());
    runtime::yield_now().await; // past the end of the turn, when batches leave
    write
}

/// The first of two batches is late, the second is in the store behind it, and the host dies.
#[test]
pub(crate) fn acknowledged_write_is_never_behind_a_hole() {
    let mut lost = 0;
    for seed in 0..50 {
        let _seed = Seed(seed);
        let mut world = World::new(shape(), seed);
        let simulation = Runtime::simulated(seed);
        let acknowledged = simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, false).await;
            world.disk.delay_next(OpKind::Write, 0, LATE);
            let batches = store.stats().log_batches;
            let (mut first, mut second) = (sent(&volume, 0, 10).await, sent(&volume, 8, 20).await);
            runtime::sleep(LATE / 10).await;
            assert_eq!(store.stats().log_batches, batches + 2, "each has a batch of its own");
            [poll!(&mut first).is_ready(), poll!(&mut second).is_ready()]
        });
        drop(simulation);
        world.die(Death::Host, &mut Random::new(seed));
        Runtime::simulated(seed).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            let volume = store.volume(name(1)).expect("the volume");
            let is_there = async |block: u64, tag| {
                read(&volume, block * BLOCK, 2 * BLOCK).await.expect("a read") == filled(2, tag)[..]
            };
            let found = [is_there(0, 10).await, is_there(8, 20).await];
            for (acknowledged, found) in acknowledged.into_iter().zip(found) {
                assert!(found || !acknowledged, "an acknowledged write is gone");
            }
            assert!(found[0] || !found[1], "a later write was found without the one before");
            lost += u32::from(!found[0]);
        });
    }
    assert!(lost > 0 && lost < 50, "{lost}");
}

/// Beside a batch of many writes the next one gathers until it has many too, or the first is there.
#[test]
fn what_comes_beside_a_batch_of_many_gathers() {
    // No window of the log ends meanwhile.
    let world = World::new(Shape { segment_blocks: 4096, ..shape() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 128, false).await;
        let batches = || store.stats().log_batches;
        let before = batches();
        world.disk.delay_next(OpKind::Write, 0, LATE);
        let mut many = Vec::new();
        for block in 0..8 {
            let one = filled(1, 1);
            let volume = volume.clone();
            many.push(Box::pin(async move { write(&volume, block, &one).await }));
            assert!(poll!(many.last_mut().expect("just pushed")).is_pending());
        }
        runtime::yield_now().await;
        assert_eq!(batches(), before + 1, "all with the same write of the device");
        let mut later = Vec::new();
        for at in (20..50).step_by(2) {
            later.push(sent(&volume, at, 2).await);
        }
        assert_eq!(batches(), before + 1, "fifteen are not enough");
        later.push(sent(&volume, 60, 2).await);
        assert_eq!(batches(), before + 2);
        // They have the device full, so this one waits for the first to come back, and then for
        // nothing.
        later.push(sent(&volume, 70, 3).await);
        assert_eq!(batches(), before + 2);
        for write in many {
            write.await;
        }
        for write in later {
            write.await;
        }
        assert_eq!(batches(), before + 3);
    });
}

/// However large, and beside however many of another volume.
#[test]
fn lone_writes_do_not_wait_for_each_other() {
    let world = World::on_device(Shape { segment_blocks: 4096, ..shape() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (one, other) =
            (volume(&store, 1, 128, false).await, volume(&store, 2, 128, false).await);
        let batches = || store.stats().log_batches;
        let before = batches();
        world.disk.delay_next(OpKind::Write, 0, LATE);
        let data = filled(15, 1);
        let mut first = pin!(write(&one, 0, &data));
        assert!(poll!(&mut first).is_pending());
        runtime::yield_now().await;
        let second = sent(&other, 0, 1).await;
        assert_eq!(batches(), before + 2);
        first.await;
        second.await;

        let before = batches();
        world.disk.delay_next(OpKind::Write, 0, LATE);
        let mut many = Vec::new();
        for block in 0..9 {
            let (one, data) = (one.clone(), filled(1, 1));
            many.push(Box::pin(async move { write(&one, block, &data).await }));
            assert!(poll!(many.last_mut().expect("just pushed")).is_pending());
        }
        runtime::yield_now().await;
        let lone = sent(&other, 0, 2).await;
        assert_eq!(
            batches(),
            before + 2,
            "the volume with much in the log holds nobody else's back"
        );
        for write in many {
            write.await;
        }
        lone.await;
    });
}

#[test]
fn acknowledgements_and_flushes_wait_for_the_batches_before() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        world.disk.delay_next(OpKind::Write, 0, LATE);
        let (mut first, mut second) = (sent(&volume, 0, 10).await, sent(&volume, 8, 20).await);
        let mut flush = pin!(volume.flush());
        assert!(poll!(&mut flush).is_pending());
        runtime::sleep(LATE / 10).await;
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending(), "the one before is not in the store");
        assert!(poll!(&mut flush).is_pending());
        first.await;
        second.await;
        flush.await.expect("a flush");
        assert!(runtime::now() >= LATE);
    });
}
