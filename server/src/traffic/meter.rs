//! What clients asked of one export, counted on the data path: five relaxed additions a request,
//! and no lock.
//!
//! The counts of one request are not one step for a reader, so a scrape may see a request's time
//! without its bytes. The next one sees both.

use super::latency::{Latencies, LatencyCounts};
use sandstone_protocol::Command;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The commands that have an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    Cache,
    BlockStatus,
}

/// How many there are.
const OPERATIONS: usize = Operation::ALL.len();

impl Operation {
    pub(crate) const ALL: [Operation; 7] = [
        Operation::Read,
        Operation::Write,
        Operation::Flush,
        Operation::Trim,
        Operation::WriteZeroes,
        Operation::Cache,
        Operation::BlockStatus,
    ];

    /// `None` for what has no answer, or no meaning.
    pub(crate) fn of(command: Command) -> Option<Operation> {
        match command {
            Command::Read => Some(Operation::Read),
            Command::Write => Some(Operation::Write),
            Command::Flush => Some(Operation::Flush),
            Command::Trim => Some(Operation::Trim),
            Command::WriteZeroes => Some(Operation::WriteZeroes),
            Command::Cache => Some(Operation::Cache),
            Command::BlockStatus => Some(Operation::BlockStatus),
            Command::Disconnect | Command::Unknown(_) => None,
        }
    }

    /// As a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Trim => "trim",
            Operation::WriteZeroes => "write_zeroes",
            Operation::Cache => "cache",
            Operation::BlockStatus => "block_status",
        }
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Success {
    Done,
    Failed,
}

/// Counts of one export.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    in_flight: AtomicU64,
    connections: AtomicU64,
    operations: [Counts; OPERATIONS],
}

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    errors: AtomicU64,
    latencies: LatencyCounts,
}

/// What a [`Meter`] has counted at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests taken in and not answered yet.
    pub(crate) in_flight: u64,
    pub(crate) connections: u64,
    operations: [OperationTally; OPERATIONS],
}

/// Of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OperationTally {
    /// Bytes read, written, trimmed and so on by requests that succeeded.
    pub(crate) bytes: u64,
    /// Requests that were answered with an error.
    pub(crate) errors: u64,
    /// Of all requests, from their arrival to the moment at which their reply left.
    pub(crate) latencies: Latencies,
}

/// A connection as it is counted.
#[derive(Debug)]
pub(crate) struct Connected<'a>(&'a Meter);

impl Meter {
    /// Counts a connection until the guard is dropped.
    pub(crate) fn connected(&self) -> Connected<'_> {
        self.connections.fetch_add(1, Relaxed);
        Connected(self)
    }

    /// A request was taken in.
    pub(crate) fn taken_in(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Its reply leaves. `operation` is `None` for a request that means nothing.
    pub(crate) fn answered(
        &self,
        operation: Option<Operation>,
        len: u32,
        took: Duration,
        success: Success,
    ) {
        self.in_flight.fetch_sub(1, Relaxed);
        let Some(operation) = operation else { return };
        let counts = &self.operations[operation as usize];
        counts.latencies.count(took);
        match success {
            Success::Done => counts.bytes.fetch_add(u64::from(len), Relaxed),
            Success::Failed => counts.errors.fetch_add(1, Relaxed),
        };
    }

    /// It was aborted, because its connection is gone.
    pub(crate) fn abandoned(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn read(&self) -> Tally {
        Tally {
            in_flight: self.in_flight.load(Relaxed),
            connections: self.connections.load(Relaxed),
            operations: std::array::from_fn(|i| self.operations[i].read()),
        }
    }
}

impl Counts {
    fn read(&self) -> OperationTally {
        OperationTally {
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            latencies: self.latencies.read(),
        }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Tally {
    /// The commands that there were.
    pub(crate) fn used(&self) -> impl Iterator<Item = (Operation, &OperationTally)> {
        let all = Operation::ALL.into_iter().zip(&self.operations);
        all.filter(|(_, tally)| tally.latencies.count() > 0)
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.in_flight += other.in_flight;
        self.connections += other.connections;
        for (mine, theirs) in self.operations.iter_mut().zip(&other.operations) {
            mine.bytes += theirs.bytes;
            mine.errors += theirs.errors;
            mine.latencies.add(&theirs.latencies);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_under_their_command() {
        let took = Duration::from_micros(10);
        let meter = Meter::default();
        let connected = meter.connected();
        (0..4).for_each(|_| meter.taken_in());
        meter.answered(Operation::of(Command::Write), 4096, took, Success::Done);
        meter.answered(Operation::of(Command::Write), 4096, took, Success::Failed);
        meter.answered(Operation::of(Command::Unknown(77)), 4096, took, Success::Failed);
        let mut all = Tally::default();
        all.add(&meter.read());
        assert_eq!((all.in_flight, all.connections), (1, 1));
        drop(connected);
        assert_eq!(meter.read().connections, 0);
        let used: Vec<_> =
            all.used().map(|(operation, tally)| (operation.name(), *tally)).collect();
        let [("write", tally)] = used[..] else { panic!("{used:?}") };
        assert_eq!((tally.bytes, tally.errors, tally.latencies.count()), (4096, 1, 2));
    }

    #[test]
    fn every_operation_has_its_place() {
        for (i, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, i);
        }
    }
}
