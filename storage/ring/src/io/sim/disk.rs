//! The simulated disk.
//!
//! ```text
//!   begin ──► in flight ──finish──► visible image
//!                                    + unsynced changes ──sync──► durable image
//! ```
//!
//! It promises as much as real disks promise, and no more:
//! I1  A read sees all writes that completed before it ended, and of writes in flight any sectors.
//! I2  A sync makes durable what completed before the sync began. Later changes may be durable or
//!     not.
//! I3  A failed write has written any of its sectors; a failed sync has lost any of the changes it
//!     was to make durable, and a later one that succeeds does not bring them back.
//! I4  A power loss ([`SimDisk::crash`]) keeps the durable image and of each later change all,
//!     nothing or any sectors. The death of the process ([`SimDisk::kill`]) keeps all completed
//!     changes, and of those in flight the same. A crash of the host ([`SimDisk::kill_host`]) keeps
//!     of these the changes that do not depend on metadata outside the journal of the file system
//!     (`metadata.rs`).
//! I5  A write through is durable when it has completed, and the journal has all the metadata of
//!     what completed before.
//! I6  One seed and one order of calls give one course of events, which [`SimDisk::fingerprint`]
//!     sums up.
//!
//! It also checks its user: direct I/O has to be aligned to sectors, and the bytes of a write may
//! not change before the write is done.

mod ends;

pub use ends::Unsynced;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use rustix::io::Errno;

use super::change::{Change, SECTOR_BYTES};
use super::fault::{Fault, Faults};
use super::image::{History, Image, PAGE_BYTES};
use super::metadata::Metadata;
use super::random::Random;
use crate::io::{Coverage, OpKind, Placement};
use crate::io::{Op, WriteMode};

/// A disk in memory with a volatile cache, shared by its clones. The module lists its promises.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct State {
    random: Random,
    len: u64,
    space_limit: Option<u64>,
    /// One bit a page that takes space.
    allocated: Vec<u64>,
    allocated_pages: u64,
    metadata: Metadata,
    /// Whether the simulated device makes zeroes by itself.
    makes_zeroes: bool,
    visible: Image,
    durable: Image,
    /// Earlier content of pages, for stale reads.
    history: History,
    /// Completed and not yet durable, in order of completion.
    unsynced: Vec<Completed>,
    completed: u64,
    in_flight: BTreeMap<Ticket, Begun>,
    next_ticket: u64,
    faults: Faults,
    /// Sectors that cannot be read until they are written, by number.
    unreadable: BTreeSet<u64>,
    syncs: u64,
    reads: u64,
    read_bytes: u64,
    fingerprint: u64,
    watcher: Option<Watcher>,
}

/// A callback that sees the disk before each sync takes effect.
#[derive(Clone)]
struct Watcher(Arc<dyn Fn(&SimDisk) + Send + Sync>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Clone, Debug)]
struct Completed {
    number: u64,
    change: Change,
}

#[derive(Clone, Debug)]
struct Begun {
    fault: Option<Fault>,
    effect: Effect,
}

#[derive(Clone, Debug)]
enum Effect {
    Read,
    Change(Change, WriteMode),
    /// Covers the changes that completed below this number.
    Sync(u64),
    Allocate,
    /// The operation was refused at its beginning.
    Refused(Errno),
}

impl SimDisk {
    /// An empty disk (all zeroes, no space taken) of `len_bytes`, a multiple of 512. `seed` decides
    /// its latencies, and with them the order in which operations complete, and what its faults do.
    #[must_use]
    pub fn new(len_bytes: u64, seed: u64) -> SimDisk {
        SimDisk::from_state(State::new(len_bytes, seed))
    }

    fn from_state(state: State) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(state)))
    }

    /// Makes the `nth` operation of a kind from now (0 is the next) fail with an errno.
    ///
    /// A failed write may have written any of its sectors, a failed sync may have lost any of what
    /// it was to keep.
    pub fn fail_next(&self, kind: OpKind, nth: u32, errno: i32) {
        self.state().faults.plan(kind, nth, Fault::Error(Errno::from_raw_os_error(errno)));
    }

    /// Makes the `nth` read or write from now (0 is the next) end after `len_bytes`, as a signal or
    /// a fragmented file can.
    pub fn shorten_next(&self, kind: OpKind, nth: u32, len_bytes: usize) {
        self.state().faults.plan(kind, nth, Fault::Short(len_bytes));
    }

    /// Makes the `nth` operation of a kind from now (0 is the next) take `delay` longer. It stays
    /// in flight meanwhile: a read sees what is there at its end, and a crash may keep any part of
    /// a write.
    pub fn delay_next(&self, kind: OpKind, nth: u32, delay: Duration) {
        self.state().faults.plan(kind, nth, Fault::Late(delay));
    }

    /// Makes the `nth` write from now (0 is the next) go well and change nothing.
    pub fn lose_next(&self, nth: u32) {
        self.state().faults.plan(OpKind::Write, nth, Fault::Lost);
    }

    /// Makes the `nth` write from now (0 is the next) go well and land at `offset` instead, where
    /// there must be room.
    pub fn misdirect_next(&self, nth: u32, offset: u64) {
        self.state().faults.plan(OpKind::Write, nth, Fault::Misdirected(offset));
    }

    /// Makes the `nth` read from now (0 is the next) go well and return the content that its pages
    /// of 4 KiB had before their last change.
    pub fn stale_next(&self, nth: u32) {
        self.state().faults.plan(OpKind::Read, nth, Fault::Stale);
    }

    /// Makes the sector at `offset` unreadable: each read that touches it fails with EIO, also
    /// after a crash, until it is written.
    pub fn spoil_sector(&self, offset: u64) {
        self.state().unreadable.insert(offset / SECTOR_BYTES);
    }

    /// Calls `look` with a copy of the disk just before each sync takes effect, when most data is
    /// at risk.
    pub fn watch_syncs(&self, look: impl Fn(&SimDisk) + Send + Sync + 'static) {
        self.state().watcher = Some(Watcher(Arc::new(look)));
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`, durably and unnoticed.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        let mut state = self.state();
        state.visible.flip_bit(offset, bit);
        state.durable.flip_bit(offset, bit);
    }

    /// The visible content: all completed changes, without changes in flight. It counts as no
    /// operation.
    #[must_use]
    pub fn peek(&self, offset: u64, len_bytes: usize) -> Vec<u8> {
        let mut content = vec![0; len_bytes];
        self.state().visible.read(offset, &mut content);
        content
    }

    /// Limits the disk's allocated space in bytes: an operation that needs more fails with ENOSPC.
    /// `None` lifts the limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.state().space_limit = bytes;
    }

    /// Sets the length of the disk in bytes. Shortening drops the content past the new end.
    pub fn set_len(&self, len_bytes: u64) {
        let mut state = self.state();
        state.resize(len_bytes);
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.state().len
    }

    /// Space in bytes taken by writes and reservations, less punched ranges.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.state().allocated_pages * PAGE_BYTES
    }

    /// Space in bytes that can still be taken; `None` where there is no limit.
    #[must_use]
    pub fn room_bytes(&self) -> Option<u64> {
        let state = self.state();
        state.space_limit.map(|limit| limit.saturating_sub(state.allocated_pages * PAGE_BYTES))
    }

    /// The placement. A new disk is a file that is overwritten in place.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.state().metadata.placement()
    }

    /// Sets the placement. Call it before the first write.
    pub fn set_placement(&self, placement: Placement) {
        self.state().metadata.set_placement(placement);
    }

    /// Which parts of a range have written blocks.
    pub(crate) fn coverage(&self, range: Range<u64>) -> Coverage {
        let state = self.state();
        let mut pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
        let is_hole = !pages.any(|page| state.is_allocated(page));
        Coverage { missing: state.metadata.unwritten(range), is_hole }
    }

    /// How many reads have succeeded.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// How many bytes they read.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// How many syncs have succeeded.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Hash of all events so far and their times: equal for equal courses of events.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }

    /// Hash of the visible content.
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        self.state().visible.content_hash()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is an assertion about the user; the test that caused it may still
        // read the disk.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation; it is to finish after the returned time.
    pub(crate) fn begin(&self, op: &Op, now: Duration) -> (Ticket, Duration) {
        let mut state = self.state();
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        let (kind, begun, base_us) = state.describe(op);
        let fault = state.faults.next(kind);
        let mut latency_us = base_us / 2 + state.random.below(base_us);
        if state.random.below(16) == 0 {
            latency_us *= 10; // now and then one is much later than those begun after it
        }
        if let Some(Fault::Late(delay)) = fault {
            latency_us += delay.as_micros() as u64;
        }
        state.note(&[0, ticket.0, kind as u64, now.as_nanos() as u64, latency_us]);
        state.in_flight.insert(ticket, Begun { fault, effect: begun });
        (ticket, Duration::from_micros(latency_us))
    }

    /// Does the operation and gives its result.
    ///
    /// # Panics
    /// Where the bytes of a write were changed since its beginning.
    pub(crate) fn finish(&self, ticket: Ticket, op: &mut Op, now: Duration) -> io::Result<usize> {
        if matches!(op, Op::Sync { .. }) {
            // Not under the lock, so that the callback may use the disk.
            let watched = { self.state().watcher.clone() };
            if let Some(Watcher(look)) = watched {
                look(&self.copy());
            }
        }
        let mut state = self.state();
        let begun = state.in_flight.remove(&ticket).expect("an operation finishes once");
        let result = state.apply(begun, op);
        let outcome = result
            .as_ref()
            .map_or_else(|error| u64::from(error.raw_os_error() as u32), |n| *n as u64);
        state.note(&[1, ticket.0, now.as_nanos() as u64, outcome, u64::from(result.is_err())]);
        Ok(result?)
    }
}

impl Effect {
    fn change(&self) -> Option<&Change> {
        match self {
            Effect::Change(change, _) => Some(change),
            Effect::Read | Effect::Sync(_) | Effect::Allocate | Effect::Refused(_) => None,
        }
    }
}

impl State {
    fn new(len: u64, seed: u64) -> State {
        State {
            random: Random::new(seed),
            len,
            space_limit: None,
            allocated: vec![0; len.div_ceil(PAGE_BYTES * 64) as usize],
            allocated_pages: 0,
            metadata: Metadata::new(len),
            makes_zeroes: seed.is_multiple_of(2),
            visible: Image::default(),
            durable: Image::default(),
            history: History::default(),
            unsynced: Vec::new(),
            completed: 0,
            in_flight: BTreeMap::new(),
            next_ticket: 0,
            faults: Faults::default(),
            unreadable: BTreeSet::new(),
            syncs: 0,
            reads: 0,
            read_bytes: 0,
            fingerprint: 0xcbf2_9ce4_8422_2325, // FNV-1a's offset basis
            watcher: None,
        }
    }

    /// The effect of an operation, and its usual latency in microseconds.
    fn describe(&mut self, op: &Op) -> (OpKind, Effect, u64) {
        match op {
            Op::Read { offset, len, buf, .. } => {
                let effect = if is_aligned(*offset, *len, buf.as_ptr().wrapping_add(buf.len())) {
                    Effect::Read
                } else {
                    Effect::Refused(Errno::INVAL)
                };
                (OpKind::Read, effect, 80)
            }
            Op::Write { offset, data, skip, mode, .. } => {
                let data = &data.as_slice()[*skip..];
                let end = offset + data.len() as u64;
                let effect = if !is_aligned(*offset, data.len(), data.as_ptr()) {
                    Effect::Refused(Errno::INVAL)
                } else if end > self.len || !self.take_space(*offset, end) {
                    Effect::Refused(Errno::NOSPC)
                } else {
                    Effect::Change(Change::Write { offset: *offset, data: data.to_vec() }, *mode)
                };
                let base_us = match mode {
                    WriteMode::Plain => 100,
                    WriteMode::Through => 600,
                };
                (OpKind::Write, effect, base_us)
            }
            Op::Sync { .. } => (OpKind::Sync, Effect::Sync(self.completed), 500),
            Op::Allocate { offset, len, .. } => {
                let end = offset + len;
                if end > self.len {
                    self.resize(end);
                }
                let fits = self.take_space(*offset, end);
                (
                    OpKind::Allocate,
                    if fits { Effect::Allocate } else { Effect::Refused(Errno::NOSPC) },
                    50,
                )
            }
            Op::Zero { offset, len, .. } => {
                let effect = if !self.makes_zeroes {
                    Effect::Refused(Errno::OPNOTSUPP)
                } else if offset + len > self.len || !self.take_space(*offset, offset + len) {
                    Effect::Refused(Errno::NOSPC)
                } else {
                    let change = Change::Write { offset: *offset, data: vec![0; *len as usize] };
                    Effect::Change(change, WriteMode::Plain)
                };
                (OpKind::Zero, effect, 200)
            }
            Op::Punch { offset, len, .. } => {
                let len = (offset + len).min(self.len).saturating_sub(*offset);
                let change = Change::Zero { offset: *offset, len };
                (OpKind::Punch, Effect::Change(change, WriteMode::Plain), 50)
            }
            Op::Recv { .. } | Op::Send { .. } | Op::Watch { .. } => {
                unreachable!("a simulated runtime has no sockets")
            }
        }
    }

    fn apply(&mut self, begun: Begun, op: &mut Op) -> Result<usize, Errno> {
        let Begun { fault, effect } = begun;
        match (effect, fault) {
            (Effect::Refused(errno), _) => Err(errno),
            (Effect::Read | Effect::Allocate, Some(Fault::Error(errno))) => Err(errno),
            (Effect::Read, _) if self.is_unreadable(op) => Err(Errno::IO),
            (Effect::Read, Some(Fault::Short(len))) => Ok(self.read(op, len)),
            (Effect::Read, Some(Fault::Stale)) => Ok(self.read_stale(op)),
            (Effect::Read, Some(Fault::Late(_) | Fault::Lost | Fault::Misdirected(_)) | None) => {
                Ok(self.read(op, usize::MAX))
            }
            (Effect::Allocate, _) => Ok(0),
            (Effect::Change(change, _), Some(Fault::Error(errno))) => {
                let parts: Vec<Change> = change.sectors().filter(|_| self.random.coin()).collect();
                parts.into_iter().for_each(|part| self.complete(part)); // keeps I3
                Err(errno)
            }
            (Effect::Change(change, mode), fault) => {
                if let Op::Write { data, skip, .. } = op
                    && let Change::Write { data: sent, .. } = &change
                {
                    assert!(
                        data.as_slice()[*skip..] == sent[..],
                        "written data changed before the write was done"
                    );
                }
                let transferred = |change: &Change| match change {
                    Change::Write { data, .. } => data.len(),
                    Change::Zero { .. } => 0,
                };
                let (len, change) = match fault {
                    Some(Fault::Short(len)) => {
                        let short = change.part(0, change.len().min(len as u64));
                        (transferred(&short), Some(short))
                    }
                    Some(Fault::Lost) => (transferred(&change), None),
                    Some(Fault::Misdirected(offset)) => {
                        (transferred(&change), Some(change.at(offset)))
                    }
                    Some(Fault::Error(_) | Fault::Late(_) | Fault::Stale) | None => {
                        (transferred(&change), Some(change))
                    }
                };
                match (change, mode) {
                    (Some(change), WriteMode::Plain) => self.complete(change),
                    (Some(change), WriteMode::Through) => self.complete_through(change),
                    (None, _) => {}
                }
                Ok(len)
            }
            (Effect::Sync(covered), Some(Fault::Error(errno))) => {
                for change in self.take_unsynced(covered) {
                    if self.random.coin() {
                        // Keeps I3: the others are lost to every later sync.
                        change.apply(&mut self.durable);
                    }
                }
                Err(errno)
            }
            (Effect::Sync(covered), _) => {
                for change in self.take_unsynced(covered) {
                    change.apply(&mut self.durable); // keeps I2
                }
                self.metadata.journal(covered);
                self.syncs += 1;
                Ok(0)
            }
        }
    }

    /// Whether a read touches a sector that cannot be read.
    fn is_unreadable(&self, op: &Op) -> bool {
        let Op::Read { offset, len, .. } = op else { return false };
        let end = (offset + *len as u64).div_ceil(SECTOR_BYTES);
        self.unreadable.range(offset / SECTOR_BYTES..end).next().is_some()
    }

    fn read(&mut self, op: &mut Op, len_max: usize) -> usize {
        let Op::Read { offset, len, buf, .. } = op else { unreachable!("only reads read") };
        let left = self.len.saturating_sub(*offset);
        let len = (*len).min(len_max).min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut content = vec![0; len];
        self.read_racing(*offset, &mut content);
        self.reads += 1;
        self.read_bytes += len as u64;
        buf.extend_from_slice(&content);
        len
    }

    fn read_stale(&mut self, op: &mut Op) -> usize {
        let Op::Read { buf, .. } = op else { unreachable!("only reads read") };
        let from = buf.len();
        let len = self.read(op, usize::MAX);
        let Op::Read { offset, buf, .. } = op else { unreachable!("only reads read") };
        self.history.read(*offset, &mut buf[from..from + len]);
        len
    }

    /// Reads the visible content, with any sectors of the changes in flight (I1).
    fn read_racing(&mut self, offset: u64, out: &mut [u8]) {
        self.visible.read(offset, out);
        let State { in_flight, random, .. } = self;
        for change in in_flight.values().filter_map(|begun| begun.effect.change()) {
            if change.offset() < offset + out.len() as u64
                && offset < change.offset() + change.len()
            {
                let seen = change.sectors().filter(|_| random.coin());
                seen.for_each(|part| part.overlay(offset, out));
            }
        }
    }

    fn complete(&mut self, change: Change) {
        self.make_visible(&change);
        self.unsynced.push(Completed { number: self.completed, change });
        self.completed += 1;
    }

    /// Keeps I5.
    fn complete_through(&mut self, change: Change) {
        self.make_visible(&change);
        self.supersede(change.offset(), change.offset() + change.len());
        change.apply(&mut self.durable);
        self.completed += 1;
        self.metadata.journal(self.completed);
    }

    /// Drops changes of a range that are not durable: they never will be.
    fn supersede(&mut self, from: u64, to: u64) {
        for Completed { number, change } in std::mem::take(&mut self.unsynced) {
            let rest = change.outside(from, to).into_iter();
            self.unsynced.extend(rest.map(|change| Completed { number, change }));
        }
    }

    fn make_visible(&mut self, change: &Change) {
        self.metadata.note(self.completed, change, &self.visible);
        let (offset, len) = (change.offset(), change.len());
        match change {
            Change::Write { .. } => self.history.before_write(&self.visible, offset, len),
            Change::Zero { .. } => self.history.before_zero(&self.visible, offset, len),
        }
        change.apply(&mut self.visible);
        if let Change::Write { .. } = change {
            self.unreadable
                .retain(|sector| !(offset..offset + len).contains(&(sector * SECTOR_BYTES)));
        }
        if let Change::Zero { offset, len } = change {
            self.give_space(*offset, offset + len);
        }
    }

    /// Takes out the unsynced changes numbered below `covered`, which are the first ones.
    fn take_unsynced(&mut self, covered: u64) -> Vec<Change> {
        let count = self.unsynced.partition_point(|completed| completed.number < covered);
        self.unsynced.drain(..count).map(|completed| completed.change).collect()
    }

    fn resize(&mut self, len: u64) {
        if len < self.len {
            let (from, removed) = (len, self.len - len);
            self.visible.zero(from, removed);
            self.durable.zero(from, removed);
            self.give_space(from, self.len);
        }
        self.len = len;
        self.metadata.resize(len);
        self.allocated.resize(len.div_ceil(PAGE_BYTES * 64) as usize, 0);
    }

    /// Allocates the pages of a range, or none of them where that is more than the limit.
    fn take_space(&mut self, offset: u64, end: u64) -> bool {
        let pages = offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        let new = pages.clone().filter(|page| !self.is_allocated(*page)).count() as u64;
        let fits =
            self.space_limit.is_none_or(|limit| (self.allocated_pages + new) * PAGE_BYTES <= limit);
        if fits {
            pages.for_each(|page| self.allocated[page as usize / 64] |= 1 << (page % 64));
            self.allocated_pages += new;
        }
        fits
    }

    fn give_space(&mut self, offset: u64, end: u64) {
        for page in offset.div_ceil(PAGE_BYTES)..end / PAGE_BYTES {
            if self.is_allocated(page) {
                self.allocated[page as usize / 64] &= !(1 << (page % 64));
                self.allocated_pages -= 1;
            }
        }
    }

    fn is_allocated(&self, page: u64) -> bool {
        self.allocated[page as usize / 64] >> (page % 64) & 1 == 1
    }

    fn note(&mut self, values: &[u64]) {
        for byte in values.iter().flat_map(|value| value.to_le_bytes()) {
            // FNV-1a
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn is_aligned(offset: u64, len: usize, address: *const u8) -> bool {
    [offset, len as u64, address.addr() as u64]
        .iter()
        .all(|value| value.is_multiple_of(SECTOR_BYTES))
}
