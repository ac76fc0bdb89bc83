//! The engine of a simulated runtime: completions are events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::io::{Class, Key, Op, OpTable, Reaped, SimDisk, Ticket};

/// Pending completions, soonest first; completions of one moment in the order of their start.
#[derive(Default)]
pub(crate) struct Simulated {
    table: OpTable,
    events: BinaryHeap<Reverse<Event>>,
    begun: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Duration,
    number: u64,
    key: Key,
    ticket: Ticket,
}

impl Simulated {
    pub(crate) fn table(&mut self) -> &mut OpTable {
        &mut self.table
    }

    /// # Panics
    /// For a socket.
    pub(crate) fn start(&mut self, op: Op, now: Duration) -> Key {
        assert_eq!(op.class(), Class::File, "a simulated runtime has no sockets");
        let (ticket, latency) = disk(&op).begin(&op, now);
        let key = self.table.insert(op);
        self.begun += 1;
        self.events.push(Reverse(Event { at: now + latency, number: self.begun, key, ticket }));
        key
    }

    pub(crate) fn reap(&mut self, now: Duration, out: &mut Reaped) {
        while let Some(Reverse(event)) = self.events.peek().copied()
            && event.at <= now
        {
            self.events.pop();
            let op = self.table.op(event.key);
            let disk = disk(op).clone();
            let result = disk.finish(event.ticket, op, now);
            self.table.complete(event.key, result, None, out);
        }
    }

    pub(crate) fn next_event(&self) -> Option<Duration> {
        self.events.peek().map(|Reverse(event)| event.at)
    }

    /// The process has ended: nothing completes any more, and the disk keeps operations in flight
    /// as they are.
    pub(crate) fn drain(&mut self, out: &mut Reaped) -> usize {
        for Reverse(event) in std::mem::take(&mut self.events) {
            self.table.complete(event.key, Err(rustix::io::Errno::CANCELED.into()), None, out);
        }
        0
    }
}

fn disk(op: &Op) -> &SimDisk {
    match op {
        Op::Read { file, .. }
        | Op::Write { file, .. }
        | Op::Sync { file }
        | Op::Allocate { file, .. }
        | Op::Zero { file, .. }
        | Op::Punch { file, .. } => file.disk(),
        Op::Recv { .. } | Op::Send { .. } | Op::Watch { .. } => {
            unreachable!("refused at the start")
        }
    }
}
