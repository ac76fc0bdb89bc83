//! Two volumes that write at the same time: what one of them has in the log, the other one waits
//! for. On the simulated disk, so that it is told by bytes and not by a clock that other programs
//! share.

use crate::world::{BLOCK, Shape, World, filled, name, shape, spec, volume, write};
use sandstone_ring::{Runtime, runtime};
use sandstone_storage::{Settings, Volume};
use std::time::Duration;

const REQUEST_BLOCKS: u64 = 64;
const QUEUE: u64 = 32;
const REQUEST_BYTES: u64 = REQUEST_BLOCKS * BLOCK;

/// The most that the volume has in the log whenever `step` is done, of thirty times.
async fn most_buffered(volume: &Volume, step: impl AsyncFn()) -> u64 {
    let mut most = 0;
    for _ in 0..30 {
        step().await;
        most = most.max(volume.stats().buffered_bytes);
    }
    most
}

#[test]
fn a_writer_leaves_room_in_the_log_while_another_one_writes_and_has_its_buffer_alone() {
    // Windows of 8 MiB, so that staging bounds nothing.
    let world = World::new(Shape { segment_blocks: 8192, slots: 40, ..shape() }, 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let single = volume(&store, 2, 16, false).await;
        let mut roomy = spec(name(1), QUEUE * REQUEST_BYTES, true);
        roomy.settings = Settings { buffer_bytes: 6 << 20, ..roomy.settings };
        let flat_out = store.create_volume(roomy).await.expect("a new volume");
        for request in 0..QUEUE {
            let flat_out = flat_out.clone();
            runtime::spawn(async move {
                let data = filled(REQUEST_BLOCKS, request as u8);
                loop {
                    write(&flat_out, request * REQUEST_BLOCKS, &data).await;
                    // Acknowledged from memory, it would never give the thread away.
                    runtime::yield_now().await;
                }
            });
        }
        let pause = async || runtime::sleep(Duration::from_micros(50)).await;
        let alone = most_buffered(&flat_out, pause).await;
        assert!(alone >= 5 << 20, "alone it has its buffer: {alone}");

        let block = filled(1, 7);
        // What was in the log before drains meanwhile.
        most_buffered(&flat_out, async || write(&single, 0, &block).await).await;
        let crowded = most_buffered(&flat_out, async || write(&single, 0, &block).await).await;
        assert!(crowded < (128 << 10) + REQUEST_BYTES, "beside another one 128 KiB: {crowded}");
    });
}
