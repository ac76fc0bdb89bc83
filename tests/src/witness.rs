//! A well-behaved client that must not notice what others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::raw::Connection;

/// Longer than this no request of the witness may take: far above any device's hiccup, far below a
/// timeout.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Writes, reads back and flushes on its own connection until it is asked how it went.
pub struct Witness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Witness {
    /// Starts on a connection of at least one MiB that nobody else writes to.
    pub fn start(connection: Connection) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: thread::spawn(move || serve(connection, &stopped)) }
    }

    /// Ends it; panics when any of its requests failed, gave wrong bytes or took too long.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().expect("a witness does not panic");
        let rounds = rounds.unwrap_or_else(|e| panic!("a well-behaved client noticed: {e}"));
        assert!(rounds > 0, "the witness saw nothing");
    }
}

fn serve(mut connection: Connection, stop: &AtomicBool) -> Result<u64, String> {
    let mut random = Random::new(1);
    let mut rounds = 0;
    // One round at least, so that a test that ends at once still asks whether the server is well.
    loop {
        let begun = Instant::now();
        let (offset, len) = (random.below(1 << 20) & !7, 1 + random.below(16 << 10));
        let offset = offset.min((1 << 20) - len);
        let data = random.bytes(len as usize);
        connection.write(offset, &data).map_err(|e| e.to_string())?;
        if connection.read(offset, len as u32).map_err(|e| e.to_string())? != data {
            return Err(format!("read other bytes than it wrote at {offset}+{len}"));
        }
        if rounds % 16 == 0 {
            connection.flush().map_err(|e| e.to_string())?;
        }
        let took = begun.elapsed();
        if took > PAUSE_MAX {
            return Err(format!("a write and a read took {took:?}"));
        }
        rounds += 1;
        if stop.load(Ordering::Relaxed) {
            return Ok(rounds);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
