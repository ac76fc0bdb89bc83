//! A client that writes as fast as it can and keeps the ledger while it does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::ledger::{Floor, Ledger, Stored};
use crate::random::Random;
use crate::raw::{Connection, command, flag};

/// Requests in flight on one connection.
const DEPTH: usize = 16;
/// Longest request, blocks.
const RUN_BLOCKS_MAX: u64 = 16;

/// What one request in flight will have done.
enum Sent {
    Range { first: u64, count: u64, floor: Floor },
    Flush { begun: Vec<usize> },
}

/// How a writer ended: with the connection, which is what a kill test waits for.
#[derive(Debug)]
pub struct Ended {
    /// Requests that were acknowledged.
    pub acknowledged: u64,
    /// Requests that the server refused with an error, which a kill test must not see.
    pub refused: Vec<u32>,
}

/// One connection that writes, zeroes, trims and flushes at random until the connection ends.
pub struct Writer {
    thread: JoinHandle<Ended>,
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    /// Starts it. Several writers may share a ledger, since they choose blocks that nobody has in
    /// flight.
    pub fn start(connection: Connection, ledger: &Arc<Mutex<Ledger>>, random: Random) -> Self {
        let (ledger, acknowledged) = (Arc::clone(ledger), Arc::<AtomicU64>::default());
        let count = Arc::clone(&acknowledged);
        let thread = thread::spawn(move || write_until_closed(connection, &ledger, random, &count));
        Self { thread, acknowledged }
    }

    /// Requests that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    /// Waits for its end.
    pub fn join(self) -> Ended {
        self.thread.join().expect("a writer does not panic")
    }
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_until_closed(
    mut connection: Connection,
    ledger: &Mutex<Ledger>,
    mut random: Random,
    count: &AtomicU64,
) -> Ended {
    let mut sent: HashMap<u64, Sent> = HashMap::new();
    let mut ended = Ended { acknowledged: 0, refused: Vec::new() };
    loop {
        while connection.in_flight() < DEPTH {
            match send_one(&mut connection, ledger, &mut random) {
                Some((cookie, what)) => sent.insert(cookie, what),
                None => break,
            };
        }
        // Also after a send that failed: replies may wait in the socket, and each of them is a
        // promise.
        let Ok(reply) = connection.receive() else { return ended };
        if reply.errno != 0 {
            ended.refused.push(reply.errno);
            return ended;
        }
        ended.acknowledged += 1;
        count.store(ended.acknowledged, Relaxed);
        match sent.remove(&reply.cookie) {
            Some(Sent::Range { first, count, floor }) => {
                locked(ledger).acknowledge(first, count, floor)
            }
            Some(Sent::Flush { begun }) => locked(ledger).flush_ends(&begun),
            None => unreachable!("the connection knows every cookie it takes"),
        }
    }
}

fn send_one(
    connection: &mut Connection,
    ledger: &Mutex<Ledger>,
    random: &mut Random,
) -> Option<(u64, Sent)> {
    let choice = random.below(100);
    if choice < 2 {
        let begun = locked(ledger).flush_begins();
        let cookie = connection.send(0, command::FLUSH, 0, 0, &[]).ok()?;
        return Some((cookie, Sent::Flush { begun }));
    }
    let (first, count, version) = {
        let mut ledger = locked(ledger);
        let (first, count) = loop {
            let count = 1 + random.below(RUN_BLOCKS_MAX);
            let first = random.below(ledger.len() - count);
            if ledger.is_idle(first, count) {
                break (first, count);
            }
        };
        if choice < 12 {
            ledger.zero(first, count);
            (first, count, Stored::Zero)
        } else {
            (first, count, ledger.write(first, count))
        }
    };
    let (offset, len) =
        (first * crate::BLOCK_BYTES as u64, count as u32 * crate::BLOCK_BYTES as u32);
    let (flags, floor) =
        if random.below(20) == 0 { (flag::FUA, Floor::Durable) } else { (0, Floor::Acknowledged) };
    let cookie = match version {
        Stored::Zero if choice < 7 => connection.send(flags, command::TRIM, offset, len, &[]),
        Stored::Zero => connection.send(flags, command::WRITE_ZEROES, offset, len, &[]),
        Stored::Write(_) => {
            let data: Vec<u8> = (first..first + count).flat_map(|b| version.bytes(b)).collect();
            connection.send(flags, command::WRITE, offset, len, &data)
        }
    };
    Some((cookie.ok()?, Sent::Range { first, count, floor }))
}
