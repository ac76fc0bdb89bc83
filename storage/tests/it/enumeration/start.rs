//! The store in which runs begin: small, with something for every operation to work on.

use super::lines::{CELL, CELLS_A_BLOCK, Lines, Timeline, bytes_of, snapshot_id, volume_id, word};
use crate::world::{BLOCK, Shape, World};
use sandstone_ring::{Placement, Runtime, sim::Kept, sim::SimDisk};
use sandstone_storage::{Durability, ForkSpec, Settings, Store, VolumeSpec};

/// The volume that most operations work on. It has a snapshot.
pub(crate) const MAIN: u64 = 1;
/// A volume with write-back.
pub(crate) const WRITEBACK: u64 = 2;
/// A fork of the main one.
pub(crate) const FORK: u64 = 3;
/// A volume that a run deletes before it begins, so that there is something to reclaim.
pub(crate) const GARBAGE: u64 = 5;

pub(crate) const SHAPE: Shape =
    Shape { segment_blocks: 64, slots: 16, cache_bytes: 0, metadata_bytes: 1 << 20 };

const MAIN_BLOCKS: u64 = 24;

/// A store that was switched off after all of it was synced.
#[derive(Clone)]
pub(crate) struct Start {
    pub(crate) disk: SimDisk,
    pub(crate) lines: Lines,
}

fn spec(number: u64, blocks: u64, writeback: bool) -> VolumeSpec {
    let settings = Settings { cache_bytes: 0, buffer_bytes: 1 << 20, prefetch_mib: 0, writeback };
    VolumeSpec {
        id: volume_id(number),
        size_bytes: blocks * BLOCK,
        settings,
        attributes: Vec::new(),
    }
}

async fn write(store: &Store, timeline: &mut Timeline, number: u64, block: u64, blocks: u64) {
    let (id, version) = (volume_id(number), timeline.version());
    let from = block * CELLS_A_BLOCK;
    let cells: Vec<_> =
        (from..from + blocks * CELLS_A_BLOCK).map(|cell| word(id, cell, version)).collect();
    timeline.fill(id, from, &cells);
    let volume = store.volume(id).expect("it was made");
    volume.write(from * CELL, bytes_of(&cells), Durability::Volatile).await.expect("a write");
}

impl Start {
    /// The log has `rest` blocks left in its segment, about, which were written and synced when its
    /// slot was prepared.
    pub(crate) fn new(rest: u64) -> Self {
        Self::made_on(World::new(SHAPE, 1), rest)
    }

    /// The same, but none of them was ever written, nor was any other slot prepared.
    pub(crate) fn unprepared(rest: u64) -> Self {
        let start = Self::made_on(World::on_device(SHAPE, 1), rest);
        start.disk.set_placement(Placement::InPlace("a simulation"));
        start
    }

    fn made_on(world: World, rest: u64) -> Self {
        let mut timeline = Timeline::new(Lines::default());
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            for (number, blocks) in
                [(MAIN, MAIN_BLOCKS), (WRITEBACK, 8), (GARBAGE, 4 * MAIN_BLOCKS)]
            {
                let made = store.create_volume(spec(number, blocks, number == WRITEBACK)).await;
                let id = made.expect("a volume").id();
                timeline.step(id, |lines| {
                    drop(lines.0.insert(id, vec![0; (blocks * CELLS_A_BLOCK) as usize]));
                });
            }
            // In each segment little of what stays and much of what goes.
            for block in 0..MAIN_BLOCKS {
                write(&store, &mut timeline, MAIN, block, 1).await;
                write(&store, &mut timeline, GARBAGE, block * 4, 4).await;
            }
            let (main, snapshot) = (volume_id(MAIN), snapshot_id(volume_id(MAIN), 1));
            store.create_snapshot(main, snapshot, Vec::new()).await.expect("a snapshot");
            let fork = volume_id(FORK);
            let fork_spec =
                ForkSpec { id: fork, size_bytes: None, settings: None, attributes: Vec::new() };
            store.create_fork(main, fork_spec).await.expect("a fork");
            timeline.step(main, |lines| {
                let cells = lines.0[&main].clone();
                lines.0.extend([(snapshot, cells.clone()), (fork, cells)]);
            });
            write(&store, &mut timeline, MAIN, 5, 4).await;
            store.checkpoint().await.expect("a checkpoint");
            write(&store, &mut timeline, FORK, 0, 2).await;
            // To the beginning of a segment, and from there on to near its end, two blocks at a
            // time.
            let free = store.stats().free_segment_bytes;
            while store.stats().free_segment_bytes == free {
                write(&store, &mut timeline, WRITEBACK, 0, 1).await;
            }
            let flush = store.volume(volume_id(WRITEBACK)).expect("it was made");
            for _ in 0..(60 - rest) / 2 {
                write(&store, &mut timeline, WRITEBACK, 0, 1).await;
                flush.flush().await.expect("a flush");
            }
        });
        let disk = world.disk;
        let kept = vec![Kept::Whole; disk.unsynced().len()];
        Self { disk: disk.crash_keeping(&kept), lines: timeline.now().clone() }
    }
}
