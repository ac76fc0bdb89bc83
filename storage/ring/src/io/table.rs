//! The in-flight table: every operation between its start and the moment its caller has the result.
//!
//! ```text
//!   start ──► Active ──complete──► Done ──take──► Vacant
//!                │ detach            │ detach
//!                ▼                   └─────────────► Vacant
//!            Active (no waiter) ──complete──► Vacant, the operation goes to `Reaped::dropped`
//! ```
//!
//! I1  An operation is in the table before the kernel hears of it, and stays until its completion.
//!     Only then does what it owns (buffer, file) leave.
//! I2  A key is a slot number plus the slot's generation, which moves on each time the slot is
//!     vacated: a completion that comes twice, or a key kept too long, meets a panic and not
//!     another operation.
//! I3  The table never wakes wakers or drops buffers of the caller. It hands them out in `Reaped`,
//!     for the executor to handle when it no longer holds the driver.

use std::io;
use std::task::{Poll, Waker};

use super::op::Op;

/// Names one operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// As one number, for the ring's `user_data`. The top bit is never set.
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_u64(value: u64) -> Key {
        Key { index: value as u32, generation: (value >> 32) as u32 }
    }

    /// The slot number, below the largest number of operations ever in flight at once.
    pub(crate) fn slot(self) -> usize {
        self.index as usize
    }
}

/// Generations wrap here, which keeps the top bit of `Key::to_u64` free for the engine's own marks.
const GENERATION_MAX: u32 = i32::MAX as u32;

/// Wakers and operations to handle, collected while the driver is borrowed.
#[derive(Default)]
pub(crate) struct Reaped {
    /// Wakers of tasks whose completion is there.
    pub(crate) woken: Vec<Waker>,
    /// Detached operations that have completed.
    pub(crate) dropped: Vec<Op>,
}

enum State {
    Vacant,
    /// `op` is `None` while another thread carries it (the thread pool).
    Active {
        op: Option<Op>,
        waker: Option<Waker>,
        detached: bool,
    },
    Done {
        op: Op,
        result: io::Result<usize>,
    },
}

struct Slot {
    generation: u32,
    state: State,
}

/// The in-flight table; see the module.
#[derive(Default)]
pub(crate) struct OpTable {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    active: usize,
}

impl OpTable {
    /// How many operations have not completed.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    pub(crate) fn insert(&mut self, op: Op) -> Key {
        let state = State::Active { op: Some(op), waker: None, detached: false };
        self.active += 1;
        if let Some(index) = self.vacant.pop() {
            let slot = &mut self.slots[index as usize];
            slot.state = state;
            return Key { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 operations in flight");
        self.slots.push(Slot { generation: 0, state });
        Key { index, generation: 0 }
    }

    /// The operation behind a key, to be started or filled in.
    ///
    /// # Panics
    /// Unless it is active and here.
    pub(crate) fn op(&mut self, key: Key) -> &mut Op {
        match &mut self.slot(key).state {
            State::Active { op: Some(op), .. } => op,
            State::Active { op: None, .. } | State::Vacant | State::Done { .. } => {
                panic!("{key:?} has no operation here")
            }
        }
    }

    /// Lends the operation to another thread until `complete` brings it back.
    pub(crate) fn lend(&mut self, key: Key) -> Op {
        match &mut self.slot(key).state {
            State::Active { op, .. } => op.take().expect("an operation is lent once"),
            State::Vacant | State::Done { .. } => panic!("{key:?} is not active"),
        }
    }

    /// Records a result. `returned` is the operation where it was lent.
    pub(crate) fn complete(
        &mut self,
        key: Key,
        result: io::Result<usize>,
        returned: Option<Op>,
        out: &mut Reaped,
    ) {
        let slot = self.slot(key);
        let State::Active { op, waker, detached } =
            std::mem::replace(&mut slot.state, State::Vacant)
        else {
            panic!("{key:?} completed twice");
        };
        let op = op.or(returned).expect("a completed operation comes back");
        self.active -= 1;
        if detached {
            self.vacate(key);
            out.dropped.push(op);
        } else {
            self.slot(key).state = State::Done { op, result };
            out.woken.extend(waker);
        }
    }

    /// The result, if it is there; otherwise `waker` is stored. Also returns the waker that it
    /// replaced.
    pub(crate) fn poll(
        &mut self,
        key: Key,
        waker: &Waker,
    ) -> (Poll<(io::Result<usize>, Op)>, Option<Waker>) {
        let slot = self.slot(key);
        match &mut slot.state {
            State::Active { waker: current, .. } => {
                let replaced = match current {
                    Some(known) if known.will_wake(waker) => None,
                    Some(_) | None => current.replace(waker.clone()),
                };
                (Poll::Pending, replaced)
            }
            State::Done { .. } => {
                let State::Done { op, result } = std::mem::replace(&mut slot.state, State::Vacant)
                else {
                    unreachable!("matched above");
                };
                self.vacate(key);
                (Poll::Ready((result, op)), None)
            }
            State::Vacant => panic!("{key:?} was polled after its end"),
        }
    }

    /// Detaches the caller. The operation goes on; its waker, or the whole operation where it had
    /// completed, is returned to be dropped.
    pub(crate) fn detach(&mut self, key: Key) -> (Option<Waker>, Option<Op>) {
        let slot = self.slot(key);
        match &mut slot.state {
            State::Active { waker, detached, .. } => {
                *detached = true;
                (waker.take(), None)
            }
            State::Done { .. } => {
                let State::Done { op, .. } = std::mem::replace(&mut slot.state, State::Vacant)
                else {
                    unreachable!("matched above");
                };
                self.vacate(key);
                (None, Some(op))
            }
            State::Vacant => panic!("{key:?} was dropped after its end"),
        }
    }

    /// All operations that have not completed, with what they own where it is here.
    pub(crate) fn active_ops(&self) -> impl Iterator<Item = (Key, Option<&Op>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match &slot.state {
            State::Active { op, .. } => {
                Some((Key { index: index as u32, generation: slot.generation }, op.as_ref()))
            }
            State::Vacant | State::Done { .. } => None,
        })
    }

    fn vacate(&mut self, key: Key) {
        let slot = &mut self.slots[key.slot()];
        slot.generation = if slot.generation == GENERATION_MAX { 0 } else { slot.generation + 1 };
        self.vacant.push(key.index);
    }

    fn slot(&mut self, key: Key) -> &mut Slot {
        let slot = &mut self.slots[key.slot()];
        // Keeps I2.
        assert_eq!(slot.generation, key.generation, "{key:?} is of an operation that has ended");
        slot
    }
}
