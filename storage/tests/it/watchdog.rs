//! What hangs is told in time, says who waits for what, and is over when it goes on.

use crate::world::{BLOCK, World, assert_holds, filled, shape, trim, volume, write};
use futures_util::future::join;
use sandstone_ring::{OpKind, Runtime, runtime};
use sandstone_storage::{
    Durability, Health, ReclaimPhase, STALLED_AFTER, StallKind, Store, Volume,
};
use std::time::Duration;

const LATE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Looks each second while `work` is done, as a server does. What hangs must be told from
/// [`STALLED_AFTER`] and a second on until it goes on, not before and not after; `kind` first of
/// all.
async fn told_while(store: &Store, kind: StallKind, work: impl Future<Output = ()>) {
    let began = runtime::now();
    let mut worked = std::pin::pin!(work);
    let mut seen = Vec::new();
    loop {
        let tick = std::pin::pin!(runtime::sleep(SECOND));
        let ended = matches!(
            futures_util::future::select(worked.as_mut(), tick).await,
            futures_util::future::Either::Left(_)
        );
        if ended {
            break;
        }
        assert_eq!(store.health(), Health::Ready);
        if let Some(first) = store.stalls().first() {
            assert!(first.lasts >= STALLED_AFTER, "{first:?}");
            assert_eq!(first.kind, kind, "{first}");
            seen.push(runtime::now() - began);
        }
    }
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else {
        panic!("{kind:?} was never told")
    };
    assert!(
        *first >= STALLED_AFTER && *first <= STALLED_AFTER + 2 * SECOND,
        "told after {first:?}"
    );
    assert!(*last + 2 * SECOND >= LATE, "no longer told after {last:?}");
    runtime::sleep(SECOND).await;
    assert_eq!(store.stalls(), [], "it went on");
}

#[test]
fn batch_that_the_device_does_not_take_is_told() {
    let world = World::new(shape(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        runtime::sleep(LATE).await;
        assert_eq!(store.stalls(), [], "nothing is under way");
        world.disk.delay_next(OpKind::Write, 0, LATE);
        told_while(&store, StallKind::LogWrite, write(&volume, 0, &filled(1, 1))).await;
    });
}

#[test]
fn sync_that_the_device_does_not_answer_is_told() {
    let world = World::new(shape(), 2);
    Runtime::simulated(2).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        write(&volume, 0, &filled(1, 1)).await;
        world.disk.delay_next(OpKind::Sync, 0, LATE);
        let flush = async { volume.flush().await.expect("a flush") };
        told_while(&store, StallKind::Sync, flush).await;
    });
}

#[test]
fn checkpoint_whose_write_hangs_is_told() {
    let world = World::new(shape(), 3);
    Runtime::simulated(3).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        write(&volume, 0, &filled(1, 1)).await;
        volume.flush().await.expect("a flush");
        world.disk.delay_next(OpKind::Write, 0, LATE);
        let checkpoint = async { store.checkpoint().await.expect("a checkpoint") };
        told_while(&store, StallKind::Checkpoint, checkpoint).await;
    });
}

#[test]
fn those_who_wait_for_what_hangs_are_told_behind_it() {
    let world = World::new(shape(), 6);
    Runtime::simulated(6).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 400 << 8, false).await;
        world.disk.delay_next(OpKind::Sync, 0, LATE);
        // A leaf each, of which no more may be changed than a checkpoint writes.
        let writes = async {
            for leaf in 0..400 {
                write(&volume, leaf << 8, &filled(1, 1)).await;
            }
        };
        let look = async {
            runtime::sleep(LATE - SECOND).await;
            let kinds: Vec<_> = store.stalls().iter().map(|stall| stall.kind).collect();
            assert_eq!(
                kinds,
                [StallKind::Sync, StallKind::Checkpoint, StallKind::WriterForCheckpoint]
            );
        };
        join(writes, look).await;
        assert_eq!(store.stalls(), []);
    });
}

/// A full store whose segments are all alive in part. Gives what is free in it.
async fn full_of_gaps(volume: &Volume) -> Vec<u64> {
    let mut end = 0;
    while volume.write(end * BLOCK, filled(1, 1), Durability::Volatile).await.is_ok() {
        end += 1;
    }
    let gaps: Vec<_> = (0..end).step_by(3).collect();
    for block in &gaps {
        trim(volume, *block, 1).await;
    }
    gaps
}

#[test]
fn reclaim_that_hangs_while_a_writer_waits_for_it_is_told() {
    let world = World::new(shape(), 4);
    Runtime::simulated(4).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 5000, false).await;
        let gaps = full_of_gaps(&volume).await;
        let writes = async {
            for block in gaps {
                write(&volume, block, &filled(1, 2)).await;
            }
        };
        let late = async {
            while store.reclaim_progress().phase != ReclaimPhase::Forwarding {
                runtime::sleep(Duration::from_micros(20)).await;
            }
            world.disk.delay_next(OpKind::Read, 0, LATE);
        };
        let work = async {
            join(writes, late).await;
        };
        told_while(&store, StallKind::WriterForReclaim(ReclaimPhase::Forwarding), work).await;
    });
}

#[test]
fn read_that_reclaim_waits_for_while_a_writer_waits_for_it_is_told() {
    let world = World::new(shape(), 4);
    Runtime::simulated(4).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 5000, false).await;
        let gaps = full_of_gaps(&volume).await;
        world.disk.delay_next(OpKind::Read, 0, LATE);
        let read = async { assert_holds(&volume, 1, &filled(1, 1)).await };
        let writes = async {
            for block in gaps {
                write(&volume, block, &filled(1, 2)).await;
            }
        };
        let work = async {
            join(read, writes).await;
        };
        told_while(&store, StallKind::WriterForReads, work).await;
    });
}

#[test]
fn store_that_has_a_reason_of_its_own_stalls_for_none() {
    let world = World::new(shape(), 5);
    Runtime::simulated(5).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, false).await;
        world.disk.limit_space(Some(0));
        let starved = async {
            for _ in 0..LATE.as_secs() {
                runtime::sleep(SECOND).await;
                assert!(matches!(store.health(), Health::Starved(_)), "{:?}", store.health());
                assert_eq!(store.stalls(), []);
            }
            world.disk.limit_space(None);
            runtime::sleep(SECOND).await;
            assert_eq!(store.stalls(), [], "it went on");
        };
        let write = async { write(&volume, 0, &filled(1, 1)).await };
        join(starved, write).await;
    });
}
