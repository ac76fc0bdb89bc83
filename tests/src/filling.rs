//! Filling a store until it has no room.

use std::thread;
use std::time::{Duration, Instant};

use crate::Random;
use crate::raw::{Connection, errno};

/// Bytes of a chunk.
pub const CHUNK: usize = 1 << 20;

/// What stands in chunk `number`.
#[must_use]
pub fn chunk(number: u64) -> Vec<u8> {
    Random::new(number + 1).bytes(CHUNK)
}

/// Writes chunks until the server has no room, and gives how many it took.
pub fn fill(client: &mut Connection) -> u64 {
    for number in 0.. {
        match client.write(number * CHUNK as u64, &chunk(number)) {
            Ok(()) => {}
            Err(refused) => {
                assert_eq!(refused.errno(), errno::ENOSPC, "after {number} MiB");
                return number;
            }
        }
    }
    unreachable!("a store of a gigabyte is full before the numbers end")
}

/// Tries a write until there is room again; space is given back after a checkpoint, not at once.
pub fn written_in_time(client: &mut Connection, offset: u64, data: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(refused) = client.write(offset, data) {
        assert_eq!(refused.errno(), errno::ENOSPC);
        assert!(Instant::now() < deadline, "no room 30 seconds after space was given back");
        thread::sleep(Duration::from_millis(50));
    }
}
