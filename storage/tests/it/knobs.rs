//! The four knobs of a volume: each does what it says, and the test fails where it does nothing.

use crate::world::{
    BLOCK, Death, Random, Shape, World, assert_holds, change, filled, name, shape, volume, write,
};
use futures_util::poll;
use sandstone_ring::{OpKind, Runtime, runtime};
use sandstone_storage::{
    Begun, BegunRead, Durability, Kind, Piece, Readahead, SettingsOverride, StagingFate, Volume,
};
use std::time::Duration;

/// What an extent of the cache takes that was read block by block: sixteen of them, and the books.
const EXTENT: u64 = 16 * (BLOCK + 64) + 192;
const BLOCKS: u64 = 2048;

fn roomy() -> Shape {
    Shape { slots: 120, cache_bytes: 16 << 20, ..shape() }
}

/// Writes a volume full and lets the log leave staging, so that its blocks are read from the disk.
async fn full(store: &sandstone_storage::Store, number: u128, blocks: u64) -> Volume {
    let volume = volume(store, number, blocks, false).await;
    for block in (0..blocks).step_by(16) {
        write(&volume, block, &filled(16, number as u8)).await;
    }
    let other = crate::world::volume(store, number + 1000, 200, false).await;
    write(&other, 0, &filled(200, 1)).await;
    volume
}

async fn touch(volume: &Volume, blocks: impl Iterator<Item = u64>) {
    for block in blocks {
        volume.read(block * BLOCK, BLOCK as u32).await.expect("a read");
    }
}

#[test]
fn cache_size_bounds_what_a_volume_keeps_and_changes_at_once() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (one, two) = (full(&store, 1, BLOCKS).await, full(&store, 2, 512).await);
        change(&store, 2, |s| s.cache_bytes = 8 << 20).await;
        change(&store, 1, |s| s.cache_bytes = 20 * EXTENT).await;
        touch(&two, 0..200).await;
        touch(&one, 0..BLOCKS).await;
        // To the extent: the last one was not filled.
        let is_full =
            |bytes: u64, extents: u64| bytes <= extents * EXTENT && bytes >= (extents - 1) * EXTENT;
        assert!(is_full(one.stats().cache_bytes, 20), "{:?}", one.stats());
        let before = two.stats();
        assert!(before.cache_bytes >= 200 * BLOCK, "{before:?}");
        touch(&two, 0..200).await;
        let after = two.stats();
        assert_eq!(after.cache_misses, before.cache_misses, "the other volume's are left alone");
        assert_eq!(after.cache_hits, before.cache_hits + 200);
        change(&store, 1, |s| s.cache_bytes = 10 * EXTENT).await;
        assert!(is_full(one.stats().cache_bytes, 10), "{:?}", one.stats());
        change(&store, 1, |s| s.cache_bytes = 0).await;
        touch(&one, 0..100).await;
        assert_eq!(one.stats().cache_bytes, 0);
        assert!(store.stats().cache_bytes <= 16 << 20);
    });
}

#[test]
fn what_is_read_back_from_staging_stays_in_memory_when_that_moves_on() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (one, other) =
            (volume(&store, 1, 64, false).await, volume(&store, 2, 200, false).await);
        change(&store, 1, |s| s.cache_bytes = 1 << 20).await;
        write(&one, 0, &filled(20, 1)).await;
        touch(&one, 0..10).await;
        write(&other, 0, &filled(200, 2)).await;
        touch(&one, 0..20).await;
        let stats = one.stats();
        assert_eq!(
            (stats.cache_hits, stats.cache_misses),
            (20, 10),
            "only what was not read is gone"
        );
        assert_holds(&one, 0, &filled(20, 1)).await;
    });
}

#[test]
fn forks_find_what_another_brought_in() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let base = full(&store, 1, 256).await;
        change(&store, 1, |s| s.cache_bytes = 1 << 30).await;
        touch(&base, 0..256).await;
        let held = store.stats().cache_bytes;
        for number in 10..20 {
            let spec = sandstone_storage::ForkSpec {
                id: name(number),
                size_bytes: None,
                settings: None,
                attributes: Vec::new(),
            };
            let fork = store.create_fork(name(1), spec).await.expect("a fork");
            touch(&fork, 0..256).await;
            assert_eq!((fork.stats().cache_hits, fork.stats().cache_misses), (256, 0));
        }
        assert_eq!(store.stats().cache_bytes, held, "each block is held once");
    });
}

#[test]
fn reading_a_large_volume_once_leaves_a_hot_set_in_the_cache() {
    let world = World::new(Shape { cache_bytes: 2 << 20, ..roomy() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (hot, large) = (full(&store, 1, 128).await, full(&store, 2, BLOCKS).await);
        change(&store, 2, |s| s.cache_bytes = 1 << 30).await;
        for _ in 0..3 {
            touch(&hot, 0..128).await;
        }
        touch(&large, 0..BLOCKS).await;
        let before = hot.stats().cache_misses;
        touch(&hot, 0..128).await;
        let missed = hot.stats().cache_misses - before;
        assert!(missed <= 6, "{missed} of 128 hot blocks are gone");
    });
}

/// A volume on the disk alone, of which a MiB is read ahead, and its reader.
async fn read_ahead(store: &sandstone_storage::Store) -> (Volume, Readahead) {
    let volume = full(store, 1, BLOCKS).await;
    change(store, 1, |s| (s.cache_bytes, s.prefetch_mib) = (1 << 30, 1)).await;
    (volume.clone(), Readahead::new(volume))
}

/// Reads in sequence from `from`, each request after a pause in which a fetch can run ahead.
async fn stream(reader: &Readahead, from: u64, blocks: u64) {
    for block in (from..from + blocks).step_by(4) {
        reader.read(block * BLOCK, 4 * BLOCK as u32).await.expect("a read");
        runtime::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn prefetch_has_what_comes_next_in_the_cache_and_nothing_else() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = full(&store, 1, BLOCKS).await;
        change(&store, 1, |s| s.cache_bytes = 1 << 30).await;
        let reader = Readahead::new(volume.clone());
        stream(&reader, 0, 256).await;
        assert_eq!(volume.stats().prefetched_bytes, 0, "it is off");
        assert_eq!(volume.stats().cache_misses, 256);

        change(&store, 1, |s| s.prefetch_mib = 1).await;
        let before = volume.stats();
        stream(&reader, 512, 512).await;
        let after = volume.stats();
        let missed = after.cache_misses - before.cache_misses;
        assert!(missed <= 16, "{missed} blocks of a stream of 512 had to be waited for");
        assert!(after.prefetch_used_bytes >= 490 * BLOCK, "{after:?}");
        assert!(
            after.prefetched_bytes <= (512 + 256) * BLOCK,
            "a MiB ahead and no more: {after:?}"
        );

        let mut random = Random::new(1);
        for _ in 0..100 {
            let block = random.below(BLOCKS / 4) * 4;
            reader.read(block * BLOCK, BLOCK as u32).await.expect("a read");
            runtime::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(
            volume.stats().prefetched_bytes,
            after.prefetched_bytes,
            "random reads are no stream"
        );
    });
}

#[test]
fn several_streams_of_a_connection_are_told_apart() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, reader) = read_ahead(&store).await;
        for step in 0..32 {
            for start in [0, 600, 1200, 1800] {
                reader.read((start + step * 4) * BLOCK, 4 * BLOCK as u32).await.expect("a read");
                runtime::sleep(Duration::from_millis(1)).await;
            }
        }
        let stats = volume.stats();
        assert!(stats.cache_misses <= 4 * 16, "{stats:?}");
        assert!(stats.prefetch_used_bytes >= 4 * 110 * BLOCK, "{stats:?}");
    });
}

#[test]
fn reading_ahead_throws_out_nothing_that_is_used() {
    let world = World::new(Shape { cache_bytes: 2 << 20, ..roomy() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (hot, streamed) = (full(&store, 1, 256).await, full(&store, 2, BLOCKS).await);
        change(&store, 1, |s| s.cache_bytes = 1 << 30).await;
        change(&store, 2, |s| (s.cache_bytes, s.prefetch_mib) = (1 << 30, 64)).await;
        for _ in 0..3 {
            touch(&hot, 0..256).await;
        }
        stream(&Readahead::new(streamed.clone()), 0, BLOCKS).await;
        assert!(streamed.stats().prefetch_used_bytes > 0);
        let before = hot.stats().cache_misses;
        touch(&hot, 0..256).await;
        let missed = hot.stats().cache_misses - before;
        assert!(missed <= 8, "{missed} of 256 hot blocks are gone");
    });
}

/// A disk that is slow for one step of the fetch keeps no read of other blocks waiting, and the
/// blocks of that step are read once.
#[test]
fn demanded_read_joins_the_step_that_has_its_blocks_and_waits_for_no_other() {
    const LATE: Duration = Duration::from_secs(2);
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, reader) = read_ahead(&store).await;
        // The fourth read of the disk and those behind it are the first step of the fetch.
        (3..8).for_each(|nth| world.disk.delay_next(OpKind::Read, nth, LATE));
        stream(&reader, 0, 12).await;
        let began = runtime::now();
        touch(&volume, 1000..1010).await;
        assert!(runtime::now() - began < LATE / 4, "{:?}", runtime::now() - began);
        stream(&reader, 12, 16).await;
        assert!(runtime::now() - began >= LATE, "it joined the step");
        assert!(volume.stats().prefetch_used_bytes >= 16 * BLOCK, "{:?}", volume.stats());
    });
}

/// The same of a read that was begun at once and goes on later.
#[test]
fn fetch_does_not_go_before_the_read_that_it_is_for() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (volume, reader) = read_ahead(&store).await;
        stream(&reader, 0, 8).await;
        let Some(BegunRead::Started(third)) = reader.read_now(8 * BLOCK, 4 * BLOCK as u32) else {
            panic!("its map is in memory, its data is not");
        };
        // Less than it waits for others at most.
        runtime::sleep(Duration::from_millis(3)).await;
        assert_eq!(volume.stats().prefetched_bytes, 0);
        third.finish().await.expect("a read");
        runtime::sleep(Duration::from_millis(3)).await;
        assert!(volume.stats().prefetched_bytes > 0);
    });
}

#[test]
fn cache_command_brings_a_range_in() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = full(&store, 1, BLOCKS).await;
        change(&store, 1, |s| s.cache_bytes = 1 << 30).await;
        volume.prefetch(100, 1000 * BLOCK).await.expect("a prefetch");
        touch(&volume, 0..1000).await;
        assert_eq!((volume.stats().cache_hits, volume.stats().cache_misses), (1000, 0));
        assert_eq!(volume.stats().prefetched_bytes, 0, "it was asked for, not guessed");
    });
}

/// Writes while the disk hangs: with write-back they are acknowledged from staging, up to the bound
/// of `buffer_size`.
#[test]
fn buffer_size_bounds_what_is_not_in_the_store() {
    const LATE: Duration = Duration::from_millis(800);
    for (writeback, buffer_blocks, expected) in [(false, 8, 0), (true, 8, 8), (true, 4, 4)] {
        let world = World::new(roomy(), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let volume = volume(&store, 1, 64, writeback).await;
            change(&store, 1, |s| s.buffer_bytes = buffer_blocks * BLOCK).await;
            (0..4).for_each(|nth| world.disk.delay_next(OpKind::Write, nth, LATE));
            let mut acknowledged = 0;
            for block in 0..12 {
                let write = volume.write(block * BLOCK, filled(1, 7), Durability::Volatile);
                let deadline = runtime::sleep(Duration::from_millis(20));
                match futures_util::future::select(std::pin::pin!(write), deadline).await {
                    futures_util::future::Either::Left((written, _)) => written.expect("a write"),
                    futures_util::future::Either::Right(_) => break,
                }
                acknowledged += 1;
            }
            assert_eq!(
                acknowledged, expected,
                "writeback {writeback}, buffer of {buffer_blocks} blocks"
            );
            assert_eq!(volume.stats().buffered_bytes, expected.max(1) * BLOCK);
            runtime::sleep(3 * LATE).await;
            assert_eq!(volume.stats().buffered_bytes, 0);
        });
    }
}

/// What was acknowledged from staging and nobody waits for goes to the device in few writes; a wait
/// ends that at once.
#[test]
fn write_back_gathers_what_nobody_waits_for() {
    const LINGER: Duration = Duration::from_millis(2);
    // No window of the log ends meanwhile.
    let world = World::on_device(Shape { segment_blocks: 4096, ..roomy() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (buffered, through) =
            (volume(&store, 1, 64, true).await, volume(&store, 2, 64, false).await);
        let batches = || store.stats().log_batches;
        let before = batches();
        for block in 0..20 {
            write(&buffered, block, &filled(1, 1)).await;
            runtime::yield_now().await;
        }
        assert_eq!(batches(), before, "all of it lingers");
        assert_eq!(buffered.stats().buffered_bytes, 20 * BLOCK);
        runtime::sleep(2 * LINGER).await;
        assert_eq!((batches(), buffered.stats().buffered_bytes), (before + 1, 0), "not for long");

        let began = runtime::now();
        write(&buffered, 0, &filled(1, 2)).await;
        write(&through, 0, &filled(1, 2)).await;
        assert_eq!(batches(), before + 2, "both with the same write");
        write(&buffered, 0, &filled(1, 3)).await;
        buffered.flush().await.expect("a flush");
        assert_eq!(batches(), before + 3);
        change(&store, 1, |s| s.buffer_bytes = 4 * BLOCK).await;
        for block in 0..64 {
            write(&buffered, block, &filled(1, 4)).await;
        }
        // Sixteen times room had to be waited for.
        assert!(runtime::now() - began < 8 * LINGER, "nobody waited for more to come");
    });
}

#[test]
fn write_back_acknowledges_at_most_a_second_ahead_of_the_store() {
    let world = World::on_device(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, 64, true).await;
        const LATE: Duration = Duration::from_secs(5);
        world.disk.delay_next(OpKind::Write, 0, LATE);
        let began = runtime::now();
        let mut last = began;
        for round in 0..2000 {
            write(&volume, round % 8, &filled(1, 3)).await;
            if runtime::now() - began > LATE / 2 {
                break;
            }
            last = runtime::now();
            // Slow enough that staging has room for all of it.
            runtime::sleep(Duration::from_millis(60)).await;
        }
        let ahead = last - began;
        assert!(
            ahead > Duration::from_millis(900) && ahead <= Duration::from_millis(1100),
            "{ahead:?}"
        );
        assert!(runtime::now() - began >= LATE, "the next one waited for the store");
    });
}

#[test]
fn a_write_begins_at_once_or_not_at_all() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let (through, buffered) =
            (volume(&store, 1, 64, false).await, volume(&store, 2, 64, true).await);
        for (offset, len) in [(1, BLOCK), (0, BLOCK - 1), (64 * BLOCK, BLOCK), (0, 0)] {
            let data = filled(1, 1).slice(..len as usize);
            assert!(through.write_now(offset, &data).is_none(), "{len} bytes at {offset}");
        }
        let logged = |block, tag| match through.write_now(block * BLOCK, &filled(2, tag)) {
            Some(Begun::Logged(receipt)) => receipt,
            other => panic!("{other:?}"),
        };
        let (one, two) = (logged(0, 1), logged(1, 2));
        assert!(one.is_shared_with(&two));
        assert_holds(&through, 1, &filled(2, 2)).await;
        one.written().await.expect("a write");
        assert!(matches!(buffered.write_now(0, &filled(1, 1)), Some(Begun::Done)));

        change(&store, 1, |s| s.buffer_bytes = BLOCK).await;
        let three = logged(4, 3);
        assert!(!three.is_shared_with(&two));
        let full = through.write_now(0, &filled(1, 5));
        assert!(full.is_none(), "two blocks are on their way: {full:?}");
        three.written().await.expect("a write");
        world.disk.fail_next(OpKind::Write, 0, 5);
        let failed = logged(0, 6);
        assert_eq!(failed.written().await.map_err(|e| e.kind()), Err(Kind::Latched));
        assert!(through.write_now(0, &filled(1, 7)).is_none(), "a latched store takes nothing");
    });
}

#[test]
fn a_reader_follows_the_map_wherever_it_goes() {
    let world = World::new(Shape { cache_bytes: 16 << 20, ..roomy() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = full(&store, 1, 512).await;
        let reader = Readahead::new(volume.clone());
        for tag in 2..6 {
            store.checkpoint().await.expect("a checkpoint");
            for _ in 0..2 {
                reader.read(300 * BLOCK, BLOCK as u32).await.expect("a read");
            }
            // From the nodes that the reader remembers.
            assert!(matches!(reader.read_now(300 * BLOCK, BLOCK as u32), Some(BegunRead::Done(_))));
            write(&volume, 300, &filled(1, tag)).await;
            let Some(BegunRead::Done(found)) = reader.read_now(300 * BLOCK, BLOCK as u32) else {
                panic!("it is staged");
            };
            assert_eq!(found, [Piece::Data(filled(1, tag))]);
        }
    });
}

#[test]
fn attachments_override_what_they_name_and_follow_in_the_rest() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = full(&store, 1, BLOCKS).await;
        change(&store, 1, |s| s.cache_bytes = 1 << 30).await;
        let overrides = SettingsOverride {
            cache_bytes: Some(20 * EXTENT),
            writeback: Some(true),
            ..SettingsOverride::default()
        };
        let tuned = volume.with_override(overrides);
        touch(&tuned, 0..800).await;
        let extents = || volume.stats().cache_bytes.div_ceil(EXTENT);
        assert!((19..=20).contains(&extents()), "numbers are of all handles: {}", extents());
        touch(&volume, 900..1700).await;
        assert!((69..=72).contains(&extents()), "shares are each handle's own: {}", extents());
        change(&store, 1, |s| s.cache_bytes = 30 * EXTENT).await;
        assert!((48..=50).contains(&tuned.stats().cache_bytes.div_ceil(EXTENT)));

        world.disk.delay_next(OpKind::Write, 0, Duration::from_millis(500));
        let mut through = Box::pin(volume.write(0, filled(1, 1), Durability::Volatile));
        assert!(poll!(&mut through).is_pending());
        let began = runtime::now();
        write(&tuned, 4, &filled(1, 2)).await;
        assert_eq!(runtime::now(), began, "acknowledged from staging");
        change(&store, 1, |s| s.prefetch_mib = 1).await;
        stream(&Readahead::new(tuned.clone()), 512, 64).await;
        assert!(volume.stats().prefetched_bytes > 0, "what is not overridden follows the volume");
        through.await.expect("a write");
    });
}

#[test]
fn start_tells_whether_staged_writes_may_be_missing() {
    let mut world = World::new(roomy(), 1);
    let mut random = Random::new(5);
    for (epoch, close, death, fate) in [
        (1, false, Death::Process, StagingFate::Kept), // a new store
        (2, true, Death::Host, StagingFate::Kept),     // after the death of the process
        (3, false, Death::Power, StagingFate::Kept), // after a close, though the host was switched off
        (4, true, Death::Process, StagingFate::Lost), // after a power loss
        (5, false, Death::Host, StagingFate::Kept),
        (6, false, Death::Host, StagingFate::Lost),
    ] {
        let simulation = Runtime::simulated(epoch.into());
        simulation.block_on(async {
            let (store, report) = world.open().await.expect("the store");
            assert_eq!((report.epoch, report.staging), (epoch, fate));
            let volume = match store.volume(name(1)) {
                Some(volume) => volume,
                None => volume(&store, 1, 64, true).await,
            };
            write(&volume, 0, &filled(1, epoch as u8)).await;
            if close {
                store.close().await.expect("an end");
            }
        });
        drop(simulation);
        world.die(death, &mut random);
    }
}

/// A block that is lost on the disk is not brought in ahead, and told to whoever reads it.
#[test]
fn rot_met_while_reading_ahead_is_told_to_the_reader() {
    let world = World::new(roomy(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = full(&store, 1, BLOCKS).await;
        change(&store, 1, |s| (s.cache_bytes, s.prefetch_mib) = (1 << 30, 1)).await;
        for byte in 0..100 {
            world.disk.flip_bit((1 << 20) + (300 + byte * 7) * BLOCK, 1);
        }
        let reader = Readahead::new(volume.clone());
        let mut lost = 0;
        for block in 0..BLOCKS {
            match reader.read(block * BLOCK, BLOCK as u32).await {
                Ok(_) => {
                    assert_holds(
                        &volume,
                        block,
                        &filled(16, 1).slice(
                            (block % 16 * BLOCK) as usize..(block % 16 * BLOCK + BLOCK) as usize,
                        ),
                    )
                    .await
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Corrupt);
                    lost += 1;
                }
            }
        }
        assert!(lost > 50, "{lost}");
    });
}
