//! Snapshots, forks, restore and deletion, one thing at a time; the model test does them at random.

use crate::world::{BLOCK, Death, Random, Shape, World, read, spec};
use bytes::Bytes;
use futures_util::future::join_all;
use sandstone_ring::{Runtime, runtime};
use sandstone_storage::{
    Allocation, Change, Durability, ExtentState, ForkSpec, Kind, Store, Volume, VolumeChange,
};
use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};
use uuid::Uuid;

const SIZE: u64 = 600 * BLOCK;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn fork_spec(n: u128) -> ForkSpec {
    ForkSpec { id: id(n), size_bytes: None, settings: None, attributes: Vec::new() }
}

async fn fill(volume: &Volume, block: u64, blocks: u64, byte: u8) {
    let data = Bytes::from(vec![byte; (blocks * BLOCK) as usize]);
    volume.write(block * BLOCK, data, Durability::Volatile).await.expect("a write");
}

async fn byte(volume: &Volume, block: u64) -> u8 {
    let bytes = read(volume, block * BLOCK, BLOCK).await.expect("a read");
    assert!(bytes.iter().all(|b| *b == bytes[0]));
    bytes[0]
}

fn with_store(seed: u64, work: impl AsyncFn(&Store)) -> World {
    let shape =
        Shape { segment_blocks: 64, slots: 200, cache_bytes: 1 << 20, metadata_bytes: 400 << 10 };
    let world = World::new(shape, seed);
    reopen(&world, seed, work);
    world
}

fn reopen(world: &World, seed: u64, work: impl AsyncFn(&Store)) {
    Runtime::simulated(seed).block_on(async {
        let (store, _) = world.open().await.expect("the store opens");
        work(&store).await;
    });
}

#[test]
fn a_snapshot_keeps_what_was_and_restore_brings_it_back() {
    with_store(1, async |store| {
        let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        fill(&volume, 0, 300, 1).await;
        let snapshot = store.create_snapshot(id(1), id(2), vec![7]).await.expect("a snapshot");
        assert!(snapshot.is_snapshot() && !volume.is_snapshot());
        assert_eq!((&snapshot.attributes()[..], snapshot.used_bytes()), (&[7][..], 300 * BLOCK));
        fill(&volume, 10, 5, 2).await;
        volume.trim(100 * BLOCK, 50 * BLOCK, Durability::Volatile).await.expect("a trim");
        let larger = VolumeChange { size_bytes: Some(2 * SIZE), ..VolumeChange::default() };
        store.update_volume(id(1), larger).await.expect("a larger size");
        assert_eq!((byte(&volume, 10).await, byte(&volume, 120).await), (2, 0));
        assert_eq!((byte(&snapshot, 10).await, byte(&snapshot, 120).await), (1, 1));
        assert_eq!(snapshot.size_bytes(), SIZE);

        for refused in [
            snapshot.write(0, Bytes::from_static(b"x"), Durability::Volatile).await,
            snapshot.trim(0, SIZE, Durability::Volatile).await,
            store.update_volume(id(2), VolumeChange::default()).await,
            store.create_snapshot(id(2), id(3), Vec::new()).await.map(|_| ()),
        ] {
            let kind = refused.expect_err("a snapshot never changes").kind();
            assert!(matches!(kind, Kind::Invalid | Kind::NotFound), "{kind:?}");
        }

        store.restore(id(1), id(2)).await.expect("a restore");
        assert_eq!((volume.size_bytes(), volume.used_bytes()), (SIZE, 300 * BLOCK));
        assert_eq!((byte(&volume, 10).await, byte(&volume, 120).await), (1, 1));
        fill(&volume, 10, 1, 3).await;
        assert_eq!((byte(&volume, 10).await, byte(&snapshot, 10).await), (3, 1));
    });
}

#[test]
fn deletion_works_in_any_order_and_takes_a_volume_s_snapshots() {
    let world = with_store(2, async |store| {
        let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        fill(&volume, 0, 10, 1).await;
        store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
        let of_snapshot =
            store.create_fork(id(2), fork_spec(3)).await.expect("a fork of a snapshot");
        fill(&volume, 0, 1, 2).await;
        let of_volume = store.create_fork(id(1), fork_spec(4)).await.expect("a fork of a volume");
        assert_eq!((byte(&of_snapshot, 0).await, byte(&of_volume, 0).await), (1, 2));
        assert!(
            store.delete_snapshot(id(3), id(2)).await.is_ok_and(|was| !was),
            "it is another volume's"
        );
        assert!(!store.delete_volume(id(2)).await.expect("no volume of that id"));
        assert!(store.delete_volume(id(1)).await.expect("a deletion"));
        assert!(store.snapshot(id(1), id(2)).is_none() && store.volume(id(1)).is_none());
        assert_eq!(store.restore(id(1), id(2)).await.map_err(|e| e.kind()), Err(Kind::NotFound));
        let again = store.create_fork(id(3), fork_spec(4)).await.map(|_| ());
        assert_eq!(again.map_err(|e| e.kind()), Err(Kind::Exists));
        store.reclaim().await.expect("a round of reclaim");
        assert_eq!((byte(&of_snapshot, 0).await, byte(&of_volume, 0).await), (1, 2));
    });
    reopen(&world, 3, async |store| {
        assert_eq!(store.volumes().len(), 2);
        for (fork, expected) in [(id(3), 1), (id(4), 2)] {
            assert_eq!(byte(&store.volume(fork).expect("it lives on"), 0).await, expected);
        }
    });
}

#[test]
fn everything_survives_a_death_at_once_and_with_a_checkpoint_between() {
    for checkpoint in [false, true] {
        let mut world = with_store(4, async |store| {
            let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
            fill(&volume, 0, 10, 1).await;
            store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
            if checkpoint {
                store.checkpoint().await.expect("a checkpoint");
            }
            fill(&volume, 0, 10, 2).await;
            let fork = store.create_fork(id(1), fork_spec(3)).await.expect("a fork");
            fill(&fork, 0, 5, 3).await;
            store.restore(id(1), id(2)).await.expect("a restore");
            fill(&volume, 9, 1, 4).await;
            volume.flush().await.expect("a flush");
        });
        world.die(Death::Power, &mut Random::new(5));
        reopen(&world, 6, async |store| {
            let volume = store.volume(id(1)).expect("the volume");
            let snapshot = store.snapshot(id(1), id(2)).expect("the snapshot");
            let fork = store.volume(id(3)).expect("the fork");
            let mut found = Vec::new();
            for line in [&volume, &snapshot, &fork] {
                found.push((byte(line, 0).await, byte(line, 7).await, byte(line, 9).await));
            }
            assert_eq!(found, [(1, 1, 4), (1, 1, 1), (3, 2, 2)]);
            assert_eq!(store.snapshots(id(1)).expect("a volume").len(), 1);
            let all: Vec<_> =
                store.all_snapshots().iter().map(|(of, line)| (*of, line.id())).collect();
            assert_eq!(all, [(id(1), id(2))]);
        });
    }
}

#[test]
fn a_thousandth_descendant_is_a_volume_like_any_other() {
    let world = with_store(7, async |store| {
        let first = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        fill(&first, 0, 20, 255).await;
        for n in 1..=1000 {
            let fork = store.create_fork(id(n), fork_spec(n + 1)).await.expect("a fork");
            fill(&fork, (n % 16) as u64, 1, (n % 250) as u8).await;
            if n > 1 {
                assert!(store.delete_volume(id(n)).await.expect("a deletion"));
            }
        }
    });
    reopen(&world, 8, async |store| {
        let last = store.volume(id(1001)).expect("the last one");
        for block in 0..16 {
            let n = (985..=1000).find(|n| n % 16 == block).expect("one of sixteen");
            assert_eq!(byte(&last, block).await, (n % 250) as u8);
        }
        assert_eq!(byte(&last, 17).await, 255);
        assert_eq!(byte(&store.volume(id(1)).expect("the first one"), 3).await, 255);
    });
}

#[test]
fn changes_are_told_by_range_and_from_where_the_last_answer_ended() {
    with_store(9, async |store| {
        let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        fill(&volume, 0, 400, 1).await;
        let old = store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
        store.checkpoint().await.expect("a checkpoint");
        fill(&volume, 5, 2, 2).await;
        fill(&volume, 7, 1, 3).await;
        volume.trim(300 * BLOCK, 10 * BLOCK, Durability::Volatile).await.expect("a trim");
        let new = store.create_snapshot(id(1), id(3), Vec::new()).await.expect("a snapshot");
        fill(&volume, 0, 1, 9).await;
        let change = |block: u64, blocks: u64, state| Change {
            offset: block * BLOCK,
            len_bytes: blocks * BLOCK,
            state,
        };
        let expected = [change(5, 3, ExtentState::Data), change(300, 10, ExtentState::Hole)];
        let found = new.changes_since(&old, 0, SIZE, 100).await.expect("the changes");
        assert_eq!((&found.changes[..], found.looked_to), (&expected[..], SIZE));
        let first = new.changes_since(&old, 0, SIZE, 1).await.expect("the first change");
        assert_eq!((&first.changes[..], first.looked_to), (&expected[..1], 300 * BLOCK));
        let part = new.changes_since(&old, 6 * BLOCK + 7, BLOCK, 9).await.expect("a part");
        assert_eq!(
            part.changes,
            [Change { offset: 6 * BLOCK + 7, len_bytes: BLOCK, state: ExtentState::Data }]
        );
        assert!(old.changes_since(&old, 0, SIZE, 9).await.expect("none").changes.is_empty());
        let stranger = store.create_volume(spec(id(9), SIZE, false)).await.expect("another volume");
        let refused = new.changes_since(&stranger, 0, SIZE, 9).await.map(|_| ());
        assert_eq!(refused.map_err(|e| e.kind()), Err(Kind::Invalid));
    });
}

#[test]
fn exclusive_bytes_are_what_nobody_else_holds() {
    with_store(10, async |store| {
        let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        fill(&volume, 0, 300, 1).await;
        store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
        fill(&volume, 0, 10, 2).await;
        let fork = store.create_fork(id(1), fork_spec(3)).await.expect("a fork");
        fill(&fork, 100, 20, 3).await;
        let check = async |expected: &[(u128, u64)]| {
            let found = store.exclusive_bytes(None).await.expect("the sums");
            for (n, blocks) in expected {
                assert_eq!(found[&id(*n)], blocks * BLOCK, "of {n}");
            }
            assert_eq!(found.len(), expected.len());
        };
        // The volume with its snapshot: the 10 blocks that the snapshot kept, and the 20 that the
        // fork wrote anew.
        check(&[(1, 30), (2, 10), (3, 20)]).await;
        store.checkpoint().await.expect("a checkpoint");
        check(&[(1, 30), (2, 10), (3, 20)]).await;
        assert!(store.delete_volume(id(1)).await.expect("a deletion"));
        check(&[(3, 300)]).await;
    });
}

#[test]
fn nothing_changed_in_an_empty_range() {
    with_store(11, async |store| {
        let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        let old = store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
        fill(&volume, 5, 1, 2).await;
        for offset in [5 * BLOCK, 5 * BLOCK + 7] {
            let none = volume.changes_since(&old, offset, 0, 9).await.expect("the changes");
            assert_eq!((none.changes, none.looked_to), (Vec::new(), offset));
        }
    });
}

/// A write that was taken in for a larger volume, and has to read the rest of its block first,
/// meets a restore.
#[test]
fn a_write_is_refused_where_a_restore_took_the_place_away() {
    let shape = Shape { segment_blocks: 64, slots: 200, cache_bytes: 0, metadata_bytes: 400 << 10 };
    let world = World::new(shape, 12);
    reopen(&world, 12, async |store| {
        let volume = store.create_volume(spec(id(1), 10 * BLOCK, false)).await.expect("a volume");
        store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
        let larger = VolumeChange { size_bytes: Some(SIZE), ..VolumeChange::default() };
        store.update_volume(id(1), larger.clone()).await.expect("a larger size");
        fill(&volume, 0, 400, 1).await;
        let part = Bytes::from_static(b"part of a block");
        let write = volume.write(50 * BLOCK + 9, part, Durability::Volatile);
        let (written, restored) =
            futures_util::future::join(write, store.restore(id(1), id(2))).await;
        restored.expect("a restore");
        assert_eq!(written.map_err(|e| e.kind()), Err(Kind::OutOfRange));
        assert_eq!(volume.used_bytes(), 0);
        store.update_volume(id(1), larger).await.expect("a larger size");
        assert_eq!(byte(&volume, 50).await, 0);
    });
}

/// In memory, on disk and in the cache, read from disk.
#[test]
fn exclusive_bytes_of_many_forks_are_counted_wherever_the_maps_are() {
    const FORKS: u128 = 300;
    let check = async |store: &Store, expected: &dyn Fn(u128) -> u64| {
        let found = store.exclusive_bytes(None).await.expect("the sums");
        assert_eq!(found.len(), FORKS as usize + 3);
        for n in 1..=FORKS + 3 {
            assert_eq!(found[&id(n)], expected(n) * BLOCK, "of {n}");
        }
    };
    // Volume 1 has three leaves and snapshot 2; fork 3 reserves the first leaf, fork 4 the whole
    // volume.
    let expected = |n: u128| match n {
        // The snapshot holds the block that the volume changed together with those forks that did
        // not.
        1 => 1,
        2..=4 => 0,
        _ if n.is_multiple_of(3) => 1,
        _ => 0,
    };
    let world = with_store(13, async |store| {
        let volume =
            store.create_volume(spec(id(1), 3 * 256 * BLOCK, false)).await.expect("a volume");
        for leaf in 0..3 {
            fill(&volume, leaf * 256, 256, 1).await;
        }
        store.create_snapshot(id(1), id(2), Vec::new()).await.expect("a snapshot");
        for n in 3..=FORKS + 3 {
            let fork = store.create_fork(id(2), fork_spec(n)).await.expect("a fork");
            match n {
                3 => {
                    fork.write_zeroes(0, 256 * BLOCK, Allocation::Reserve, Durability::Volatile)
                        .await
                }
                4 => {
                    fork.write_zeroes(0, 768 * BLOCK, Allocation::Reserve, Durability::Volatile)
                        .await
                }
                _ => Ok(()),
            }
            .expect("zeroes");
            if n > 4 && n.is_multiple_of(3) {
                fill(&fork, n as u64, 1, 2).await;
            }
        }
        fill(&volume, 700, 1, 2).await;
        check(store, &expected).await;
        store.checkpoint().await.expect("a checkpoint");
        check(store, &expected).await;
        fill(&store.volume(id(5)).expect("a fork"), 700, 2, 2).await;
        check(store, &|n| if n == 5 { 2 } else { expected(n) }).await;
        store.checkpoint().await.expect("a checkpoint");
    });
    reopen(&world, 14, async |store| {
        check(store, &|n| if n == 5 { 2 } else { expected(n) }).await;
        // A leaf that all others give up is the volume's with its snapshot, then the snapshot's
        // alone.
        let zeroes = async |n| {
            let line = store.volume(id(n)).expect("a volume");
            let allocation = if n % 2 == 0 { Allocation::Reserve } else { Allocation::Hole };
            line.write_zeroes(256 * BLOCK, 256 * BLOCK, allocation, Durability::Volatile)
                .await
                .expect("zeroes");
        };
        for n in 3..=FORKS + 3 {
            zeroes(n).await;
        }
        let own = |n: u128| match n {
            5 => 2,
            // Their block lay in what they gave up.
            _ if n >= 256 => 0,
            _ => expected(n),
        };
        check(store, &|n| if n == 1 { 257 } else { own(n) }).await;
        zeroes(1).await;
        check(store, &|n| if n <= 2 { 256 + u64::from(n == 1) } else { own(n) }).await;
    });
}

/// Where all maps are in memory, the walk waits for nothing, and yet the thread is everybody's.
#[test]
fn exclusive_bytes_of_large_maps_leave_others_their_turns() {
    const LEAVES: u64 = 2000;
    let shape =
        Shape { segment_blocks: 64, slots: 400, cache_bytes: 1 << 20, metadata_bytes: 64 << 20 };
    let world = World::new(shape, 15);
    reopen(&world, 15, async |store| {
        let volume =
            store.create_volume(spec(id(1), LEAVES * 256 * BLOCK, false)).await.expect("a volume");
        let fork = store.create_fork(id(1), fork_spec(2)).await.expect("a fork");
        for leaf in 0..LEAVES {
            fill(&volume, leaf * 256, 1, 1).await;
            fill(&fork, leaf * 256, 1, 2).await;
        }
        let turns = Rc::new(Cell::new(0));
        let counted = Rc::clone(&turns);
        runtime::spawn(async move {
            loop {
                counted.set(counted.get() + 1);
                runtime::yield_now().await;
            }
        });
        let before = turns.get();
        let found = store.exclusive_bytes(None).await.expect("the sums");
        assert_eq!(found[&id(2)], LEAVES * BLOCK);
        let had = turns.get() - before;
        assert!((8..200).contains(&had), "others had {had} turns");
    });
}

#[test]
fn exclusive_bytes_of_nobody_are_none() {
    with_store(16, async |store| {
        let volume = store.create_volume(spec(id(1), SIZE, false)).await.expect("a volume");
        fill(&volume, 0, 30, 1).await;
        assert!(store.exclusive_bytes(Some(id(9))).await.expect("the sums").is_empty());
        let found = store.exclusive_bytes(Some(id(1))).await.expect("the sums");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(id(1), 30 * BLOCK)]);
    });
}

/// How long it takes to delete half of so many volumes, and to replay that, at best.
fn deletions(volumes: u128) -> [Duration; 2] {
    let shape = Shape { segment_blocks: 4096, slots: 60, cache_bytes: 0, metadata_bytes: 8 << 20 };
    let mut best = [Duration::MAX; 2];
    for _ in 0..2 {
        let mut world = World::new(shape, 7);
        let simulation = Runtime::simulated(7);
        let live = simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let made = (1..=volumes).map(|n| store.create_volume(spec(id(n), BLOCK, false)));
            join_all(made).await.into_iter().for_each(|made| drop(made.expect("a volume")));
            store.checkpoint().await.expect("a checkpoint");
            let began = Instant::now();
            let gone = (1..=volumes / 2).map(|n| store.delete_volume(id(n)));
            join_all(gone).await.into_iter().for_each(|gone| assert!(gone.expect("a deletion")));
            began.elapsed()
        });
        drop(simulation);
        world.die(Death::Power, &mut Random::new(7));
        let began = Instant::now();
        let replayed = Runtime::simulated(1).block_on(async {
            let (store, report) = world.open().await.expect("the store");
            assert_eq!(
                (report.records, store.volumes().len()),
                (volumes as u64 / 2, volumes as usize / 2)
            );
            began.elapsed()
        });
        best = [best[0].min(live), best[1].min(replayed)];
    }
    best
}

/// Eight times as many volumes take about eight times as long. A look at all of them for each would
/// be some hundred million looks, which take more than a second.
#[test]
fn deletion_costs_the_same_however_many_volumes_there_are() {
    const NOISE: Duration = Duration::from_millis(400);
    let (few, many) = (deletions(3000), deletions(24_000));
    println!("live, and replayed: {few:?}, {many:?}");
    assert!(many.iter().zip(few).all(|(many, few)| *many < 8 * few + NOISE), "{few:?}, {many:?}");
}
