//! Planned faults of a simulated disk.

use std::time::Duration;

use rustix::io::Errno;

use crate::io::OpKind;

/// A fault of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The operation fails.
    Error(Errno),
    /// The operation ends after this many bytes.
    Short(usize),
    /// The operation goes well, with this delay.
    Late(Duration),
    /// The operation goes well, and nothing is written.
    Lost,
    /// The operation goes well, and writes to this offset.
    Misdirected(u64),
    /// The operation goes well, and returns earlier content.
    Stale,
}

/// Faults to come, each for the nth operation of its kind from when it was planned.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    kind: OpKind,
    /// Number of operations of this kind before the fault.
    skip: u32,
    fault: Fault,
}

impl Faults {
    pub(super) fn plan(&mut self, kind: OpKind, nth: u32, fault: Fault) {
        self.planned.push(Planned { kind, skip: nth, fault });
    }

    /// The fault of the operation that begins now.
    pub(super) fn next(&mut self, kind: OpKind) -> Option<Fault> {
        let mut due = None;
        self.planned.retain_mut(|planned| {
            if planned.kind != kind {
                return true;
            }
            if planned.skip > 0 {
                planned.skip -= 1;
                return true;
            }
            due.get_or_insert(planned.fault);
            false
        });
        due
    }
}
