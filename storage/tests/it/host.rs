//! What was acknowledged survives a crash of the host, in young stores and in old ones, whatever
//! the file system has told its journal of. (P2)

use crate::world::{
    BLOCK, Random, Shape, World, assert_holds, filled, for_seeds, name, shape, trim, volume, write,
};
use bytes::Bytes;
use sandstone_ring::{OpKind, Placement, Runtime, runtime, sim::Kept, sim::SimDisk};
use sandstone_storage::{Store, Volume};
use std::time::Duration;

/// A store that runs through its slots many times.
const SHAPE: fn() -> Shape = || Shape { slots: 24, ..shape() };
const BLOCKS: u64 = 60;

/// The disk at some moment, and what had been acknowledged.
struct Moment {
    disk: SimDisk,
    holds: Vec<Bytes>,
}

/// The host crashes now, and nothing, or half, of what waits for the journal is in it.
fn crashes(disk: &SimDisk, holds: &[Bytes]) -> impl Iterator<Item = Moment> {
    let in_flight = disk.unsynced().iter().filter(|change| change.in_flight).count();
    [0, disk.unjournaled() / 2]
        .map(|journaled| {
            let disk = disk.kill_host_keeping(&vec![Kept::Nothing; in_flight], journaled);
            Moment { disk, holds: holds.to_vec() }
        })
        .into_iter()
}

/// Writes pieces of a volume, with and without pauses, trims some, and has the host crash after
/// each few of them.
async fn work(store: &Store, disk: &SimDisk, random: &mut Random) -> Vec<Moment> {
    let volume: Volume = volume(store, 1, BLOCKS, false).await;
    let mut holds = vec![Bytes::from(vec![0; BLOCK as usize]); BLOCKS as usize];
    let mut moments = Vec::new();
    for round in 0..500u64 {
        let first = random.below(BLOCKS - 8);
        let blocks = if random.one_in(12) { 8 } else { 1 + random.below(2) };
        if random.one_in(20) {
            trim(&volume, first, blocks).await;
            holds[first as usize..][..blocks as usize].fill(Bytes::from(vec![0; BLOCK as usize]));
        } else {
            let data = filled(blocks, (round * 2) as u8);
            write(&volume, first, &data).await;
            for i in 0..blocks as usize {
                holds[first as usize + i] =
                    data.slice(i * BLOCK as usize..(i + 1) * BLOCK as usize);
            }
        }
        if random.one_in(6) {
            moments.extend(crashes(disk, &holds));
        }
        if random.one_in(8) {
            runtime::sleep(Duration::from_millis(random.below(90))).await;
        }
    }
    moments
}

fn check(moment: Moment, seed: u64) {
    let world = World::on(moment.disk, SHAPE(), None);
    Runtime::simulated(seed).block_on(async {
        let (store, _) = world.open().await.expect("the store opens");
        let volume = store.volume(name(1)).expect("the volume");
        for (block, data) in moment.holds.iter().enumerate() {
            assert_holds(&volume, block as u64, data).await;
        }
    });
}

/// One life with many crashes.
pub(crate) fn survive_hosts(seed: u64, placement: Placement) {
    let world = World::new(SHAPE(), seed);
    world.disk.set_placement(placement);
    let mut random = Random::new(seed);
    let moments = Runtime::simulated(seed).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        work(&store, &world.disk, &mut random).await
    });
    moments.into_iter().for_each(|moment| check(moment, seed));
}

#[test]
fn acknowledged_writes_survive_the_host_in_a_file_that_is_overwritten_in_place() {
    for_seeds(1, 12, |seed| survive_hosts(seed, Placement::InPlace("a simulation")));
}

/// A slot counts as prepared after a sync of its zeroes, not before: here each sync is late, and
/// the host crashes meanwhile.
#[test]
pub(crate) fn slot_is_not_prepared_before_its_sync() {
    let world = World::new(SHAPE(), 1);
    let moments = Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, BLOCKS, false).await;
        let mut holds = vec![Bytes::from(vec![0; BLOCK as usize]); BLOCKS as usize];
        (0..40).for_each(|nth| world.disk.delay_next(OpKind::Sync, nth, Duration::from_secs(60)));
        let mut moments = Vec::new();
        for round in 0..200u64 {
            let block = round % BLOCKS;
            holds[block as usize] = filled(1, (round * 2) as u8);
            write(&volume, block, &holds[block as usize]).await;
            runtime::sleep(Duration::from_millis(10)).await;
            if round % 10 == 9 {
                moments.extend(crashes(&world.disk, &holds));
            }
        }
        moments
    });
    moments.into_iter().for_each(|moment| check(moment, 1));
}

#[test]
fn acknowledged_writes_survive_the_host_in_a_file_whose_blocks_move() {
    for_seeds(1, 4, |seed| survive_hosts(seed, Placement::Moving("it is simulated")));
    for_seeds(1, 2, |seed| survive_hosts(seed, Placement::Buffered("it is simulated")));
}

#[test]
fn acknowledged_writes_survive_the_host_on_a_block_device_and_none_is_written_through() {
    for_seeds(1, 4, |seed| survive_hosts(seed, Placement::Device));
    let world = World::new(SHAPE(), 1);
    world.disk.set_placement(Placement::Device);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        write(&volume(&store, 1, BLOCKS, false).await, 0, &filled(BLOCKS, 2)).await;
        assert_eq!(store.stats().written_through, 0);
    });
}

/// Where it is quick, that is: in slots that were got ready before.
#[test]
fn log_is_written_through_until_slots_are_ready() {
    let world = World::new(SHAPE(), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, BLOCKS, false).await;
        write(&volume, 0, &filled(1, 2)).await;
        let young = store.stats();
        assert!(
            young.written_through > 0 && young.written_through == young.log_batches,
            "{young:?}"
        );
        runtime::sleep(Duration::from_millis(200)).await;
        // One batch tells where the log goes on; then it leaves the slot that was not ready, with a
        // footer.
        for block in 1..4 {
            write(&volume, block, &filled(1, 2)).await;
        }
        let before = store.stats();
        for block in 4..BLOCKS {
            write(&volume, block, &filled(1, 2)).await;
        }
        let after = store.stats();
        assert!(after.log_batches - before.log_batches >= BLOCKS - 4);
        assert_eq!(after.written_through, before.written_through);
    });
}
