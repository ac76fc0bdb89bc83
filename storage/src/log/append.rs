//! The log: journal and final place of the data at the same time.
//!
//! ```text
//!   append ──► open batch (staging) ──close──► closed ──all records filled──►
//!                                              sealed, written ──► in order: acknowledged
//! ```
//!
//! I1  LSNs and addresses are given under one lock, so they grow together.
//! I2  A batch is acknowledged when it and all batches before it are in the store: an acknowledged
//!     write never sits behind a hole.
//! I3  A sync covers what was acknowledged when it began, nothing later.
//! I4  After a failed write or sync nothing is acknowledged any more: the log is latched, and not
//!     retried, because a kernel may report success for the sync after a failed one (DESIGN section
//!     3).
//! I5  The next segment is claimed before the current segment's first batch is sealed, and every
//!     batch names it, wherever the store has room for another segment by then. So recovery needs
//!     no footer to go on there.
//! I6  An acknowledged write survives a crash of the host: it was written to a slot that was ready,
//!     or written through (`io/placement.rs` of the ring crate). The same holds for footers, which
//!     lead to the batches behind them.
//!
//! Group commit: a batch goes out when the device has no work of the log, so that a lone write does
//! not wait and many writes share one device write; beside a batch of many records the next one
//! gathers first ([`GATHER_RECORDS`]). Workers call [`Log::pump`] at the end of each turn; a
//! completed write calls it too. A batch that no write waits for, because all its records were
//! acknowledged from staging, lingers for more to come ([`LINGER`]).
//!
//! Lock order: a volume's state, then the log's, then windows and segments.

use super::{
    batch::{Batch, Gauge},
    fairness::Heavy,
    staging::Staging,
    sync::Syncs,
};
use crate::{
    base::{
        Address, BLOCK_BYTES, Blindness, Counting, HealthCell, Lsn, Result, SegmentId, Slot,
        VolumeNumber, is_blind_to,
    },
    disk::{Need, Readiness, Segments, Taken},
    format::{Identity, RECORD_HEAD_BYTES, RecordHead, RecordKind, ReplayStart, Trailer},
};
use sandstone_ring::{File, Placement, WriteMode, runtime};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering::*},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Device writes of batches under way at once. With one, a lone write of a second connection waits
/// for the first connection's batch; with many, batches stay small and each costs a header block.
const WRITES_MAX: u32 = 2;

/// Longest time that writes are acknowledged from staging while an older one is not in the store:
/// an upper bound of what a crash of the host takes of a volume with write-back.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// How long a batch that no write waits for takes more records. With one device write for each
/// acknowledged write of a lone client, the processor would do little else; the time is so short
/// that little is in staging alone when the host crashes.
pub(super) const LINGER: Duration = Duration::from_millis(2);

/// With so many blocks a batch lingers no longer: the device is at its best, and a write of another
/// volume waits for little.
const LINGER_BLOCKS: u32 = 64;

/// A batch with so many blocks of data (1 MiB) takes no more. The device gets at most
/// [`WRITES_MAX`] batches at once, so this bounds what a read behind them waits for, and it is
/// large enough that their headers cost nothing.
pub(super) const BATCH_BLOCKS: u32 = 256;

/// Batches of at least this many bytes, on average, are written through nearly as fast as a slot is
/// prepared for them; so a log that streams gets no prepared slots. (Measured on ext4, 1 MiB: 830
/// MB/s through against 1,600 to allocated slots, each byte of which would be written twice to have
/// them prepared. Of 8 KiB, it is 21 MB/s against 96.)
pub(crate) const STREAM_BATCH_BYTES: u64 = 128 << 10;

/// While a batch of half as many writes or more is under way, the next one gathers so many.
/// Otherwise many writes at once would, all but the first few, go out in small batches, each with a
/// header block and a device write. Lone writes of a few clients do not wait for each other.
const GATHER_RECORDS: u16 = 16;

/// Most blocks that one data record carries, so that three fit a header.
pub(super) const RECORD_BLOCKS_MAX: u32 = 256;

/// A change to be logged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Append<'a> {
    /// Data from `block` on; a whole number of blocks, with their checksums. May be taken in part.
    Data { volume: VolumeNumber, block: u64, data: &'a [u8], checksums: &'a [u32] },
    /// A range becomes a hole or reserved zeroes.
    Range { volume: VolumeNumber, block: u64, count: u64, kind: RecordKind },
    /// A change of the catalog.
    Catalog { volume: VolumeNumber, kind: RecordKind, payload: &'a [u8] },
}

/// The place of a logged change.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) lsn: Lsn,
    /// Address of the first block of data; without data, the address that the batch's next data
    /// gets.
    pub(crate) address: Address,
    /// Blocks of data taken: at least one, perhaps fewer than were offered.
    pub(crate) blocks: u32,
    pub(crate) batch: Arc<Batch>,
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Staging is full of batches that are not in the store yet: wait for [`Log::room`].
    Busy,
    /// The store has no segment for this need.
    NoSpace(Need),
    /// No more writes: see the store's health.
    Stopped,
}

/// Bounds of the buckets of device writes, in bytes: from a lone block with its header to a whole
/// window.
const BATCH_BOUNDS: [u64; 8] =
    [8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Bounds of the buckets of requests that share a sync.
const SHARING_BOUNDS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Counters, for metrics.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Number of batches that were written through.
    pub(crate) through: AtomicU64,
    pub(crate) batch_bytes: Counting<8>,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_requests: AtomicU64,
    /// How many waiting requests each sync served.
    pub(crate) sync_sharing: Counting<7>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            records: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            through: AtomicU64::new(0),
            batch_bytes: Counting::new(&BATCH_BOUNDS),
            syncs: AtomicU64::new(0),
            sync_requests: AtomicU64::new(0),
            sync_sharing: Counting::new(&SHARING_BOUNDS),
        }
    }
}

pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) slot: Slot,
    /// First block behind the last closed batch.
    pub(super) fill: u32,
    /// The footer will hold the batches from this block on.
    pub(super) from_block: u32,
    /// Bytes that the footer needs for all batches so far, the open one included.
    pub(super) footer_bytes: usize,
    /// Batch entries of the sealed batches.
    pub(super) footer: Arc<Mutex<Vec<u8>>>,
    /// Taken from the reserve: it takes data only when there is more room again.
    pub(super) reserved: bool,
    /// How it is written, so that acknowledged data survives a crash of the host (I6).
    pub(super) mode: WriteMode,
    /// Batches closed in it.
    pub(super) batches: u32,
}

pub(super) struct Open {
    pub(super) batch: Arc<Batch>,
    /// The segment behind the batch's segment, and its slot.
    pub(super) next: Option<(SegmentId, Slot)>,
    pub(super) records: u16,
    pub(super) records_bytes: usize,
    pub(super) data_blocks: u32,
    /// It lingers, and a task is scheduled that pumps the log in time.
    pub(super) has_pump_scheduled: bool,
    /// It goes to the device beside [`WRITES_MAX`] others (`fairness.rs`).
    pub(super) goes_beside: bool,
}

pub(super) enum Entry {
    Batch {
        open: Open,
        footer: Arc<Mutex<Vec<u8>>>,
        stage: Stage,
    },
    Footer {
        trailer: Trailer,
        slot: Slot,
        window: usize,
        mode: WriteMode,
        content: Arc<Mutex<Vec<u8>>>,
        stage: Stage,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Closed,
    Writing,
    Written,
}

pub(super) struct State {
    pub(super) next_lsn: Lsn,
    /// `first_lsn` of the batch before the open one.
    pub(super) previous: Lsn,
    pub(super) segment: Segment,
    /// Where the log goes on behind it. Whenever no batch is open, a batch of this segment or the
    /// superblock names it.
    pub(super) claim: Option<Taken>,
    /// The log does not come there yet, because the slot is being given back to the file system.
    pub(super) is_claim_lent: bool,
    /// Windows opened so far; the next goes to this number modulo theirs.
    pub(super) windows: usize,
    /// Segment and start of the newest windows, by place.
    pub(super) held: Vec<Option<(SegmentId, u32)>>,
    pub(super) open: Option<Open>,
    /// In log order; leaves from the front when written.
    pub(super) under_way: VecDeque<Entry>,
    pub(super) writing: u32,
    /// The volume whose data came last.
    pub(super) last_writer: Option<VolumeNumber>,
    pub(super) heavy: Option<Heavy>,
}

/// The log.
pub(crate) struct Log {
    pub(super) state: Mutex<State>,
    pub(crate) staging: Staging,
    pub(super) file: File,
    pub(super) segments: Arc<Segments>,
    pub(super) identity: Identity,
    pub(super) epoch: u32,
    pub(super) health: Arc<HealthCell>,
    /// Every record below is in the store.
    pub(super) written: AtomicU64,
    /// When the oldest batch that is not in the store was opened, in microseconds; `u64::MAX` when
    /// all are.
    pub(super) unwritten_since_us: AtomicU64,
    /// Records whose place is taken but which are not filled in yet, in all batches.
    pub(super) leases: AtomicU32,
    /// Notified when something was written, or there is space again.
    pub(crate) room: Notify,
    /// Notified when the log is written through, or has come to a new window: it can use prepared
    /// slots.
    pub(crate) slots_wanted: Notify,
    pub(super) syncs: Syncs,
    /// Bytes of data that have a place and are not in the store yet.
    pub(super) unwritten_bytes: AtomicU64,
    /// Blocks of sealed segments since the last sync that was begun for them.
    pub(super) sealed_blocks: AtomicU64,
    /// Several volumes write until the log has sent out this many batches.
    pub(super) shared_until: AtomicU64,
    /// Generation of the newest superblock that was synced.
    pub(super) generation: AtomicU64,
    pub(crate) counters: Counters,
}

/// The state that the log begins with.
pub(crate) struct Start {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
    pub(crate) at: ReplayStart,
    /// Batches of this segment behind the checkpoint, for its footer.
    pub(crate) footer: Vec<u8>,
    /// The first block whose batch `footer` holds.
    pub(crate) footer_from: u32,
    /// Readiness of the segment's slot.
    pub(crate) readiness: Readiness,
    /// Every record below is synced.
    pub(crate) synced: Lsn,
    /// The next segment, as the superblock names it.
    pub(crate) claim: Option<Taken>,
    /// Generation of that superblock.
    pub(crate) generation: u64,
}

impl Log {
    /// A log that goes on at `start`.
    pub(crate) fn new(
        start: Start,
        staging: Staging,
        file: File,
        segments: Arc<Segments>,
        health: Arc<HealthCell>,
    ) -> Self {
        let segment = Segment {
            id: start.at.segment,
            slot: start.at.slot,
            fill: start.at.block,
            from_block: start.footer_from,
            footer_bytes: start.footer.len(),
            footer: Arc::new(Mutex::new(start.footer)),
            reserved: segments.is_in_reserve(),
            mode: mode_of(&file, start.readiness),
            batches: 0,
        };
        Self {
            state: Mutex::new(State {
                next_lsn: start.at.lsn,
                previous: start.at.previous,
                segment,
                claim: start.claim,
                is_claim_lent: false,
                windows: 0,
                held: vec![None; segments.geometry.windows()],
                open: None,
                under_way: VecDeque::new(),
                writing: 0,
                last_writer: None,
                heavy: None,
            }),
            staging,
            file,
            segments,
            identity: start.identity,
            epoch: start.epoch,
            health,
            written: AtomicU64::new(start.at.lsn.0),
            unwritten_since_us: AtomicU64::new(u64::MAX),
            leases: AtomicU32::new(0),
            room: Notify::new(),
            slots_wanted: Notify::new(),
            syncs: Syncs::new(start.synced),
            unwritten_bytes: AtomicU64::new(0),
            sealed_blocks: AtomicU64::new(0),
            shared_until: AtomicU64::new(0),
            generation: AtomicU64::new(start.generation),
            counters: Counters::default(),
        }
    }

    pub(super) fn mode(&self, readiness: Readiness) -> WriteMode {
        mode_of(&self.file, readiness)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Notes that a superblock of this generation was synced: batches that are sealed from now on
    /// name it.
    pub(crate) fn note_superblock(&self, generation: u64) {
        self.generation.store(generation, Release);
    }

    /// The LSN that the next record will get.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.lock().next_lsn
    }

    /// Every record below is in the store.
    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.written.load(Acquire))
    }

    /// Blocks at the front of a segment of the log that are in the store. Batches that were open
    /// when the log was latched do not count: whether they are in the store is unknown.
    pub(crate) fn written_blocks(&self, id: SegmentId) -> u32 {
        if self.health.is_stopped() && self.segments.is_open(id) {
            return 0;
        }
        let state = self.lock();
        let under_way = state.under_way.iter().filter_map(|entry| match entry {
            Entry::Batch { open, .. } => Some(open),
            Entry::Footer { .. } => None,
        });
        let unwritten = under_way.chain(&state.open).find(|open| open.batch.segment == id);
        match unwritten {
            Some(open) => open.batch.block,
            None if state.segment.id == id => state.segment.fill,
            None => self.segments.geometry.segment_blocks,
        }
    }

    /// Whether the oldest record that is not in the store is older than [`BEHIND_MAX`].
    pub(crate) fn is_behind(&self) -> bool {
        let since = self.unwritten_since_us.load(Relaxed);
        since < (runtime::now().saturating_sub(BEHIND_MAX)).as_micros() as u64
    }

    /// When the oldest batch that is not in the store was opened.
    pub(crate) fn unwritten_since(&self) -> Option<Duration> {
        let since = self.unwritten_since_us.load(Relaxed);
        (since < u64::MAX).then(|| Duration::from_micros(since))
    }

    /// Whether every record that was given a place is filled in: then all of staging survives the
    /// process.
    pub(crate) fn all_committed(&self) -> bool {
        self.leases.load(Acquire) == 0
    }

    /// Places a record in the log and fills it in. Call it under the lock of the volume whose map
    /// it will change. Data without a gauge is no client's: it counts neither against a buffer nor
    /// for fairness.
    ///
    /// # Errors
    /// Nothing was logged then.
    pub(crate) fn append(
        &self,
        record: Append<'_>,
        gauge: Option<&Arc<Gauge>>,
    ) -> Result<Appended, Refused> {
        if self.health.is_stopped() {
            return Err(Refused::Stopped);
        }
        let place = {
            let own_bytes = gauge.map_or(0, |gauge| gauge.unwritten_bytes());
            let mut state = self.lock();
            let place = self.place(&mut state, &record)?;
            if let (Append::Data { volume, .. }, Some(_)) = (record, gauge) {
                self.note_writer(&mut state, volume, own_bytes);
            }
            place
        };
        let Place { lsn, batch, data_offset, blocks, at } = place;
        let first_data = batch.block + 1 + data_offset;
        let (head, payload);
        let mut sums: smallvec::SmallVec<[u8; 64]> = smallvec::SmallVec::new();
        match record {
            Append::Data { volume, block, data, checksums } => {
                let bytes = blocks as usize * BLOCK_BYTES;
                let range = self.staging.range(batch.window, first_data, blocks);
                self.staging.memory().copy_in(range.start, &data[..bytes]);
                checksums[..blocks as usize]
                    .iter()
                    .for_each(|sum| sums.extend_from_slice(&sum.to_le_bytes()));
                head = RecordHead {
                    kind: RecordKind::Data,
                    volume,
                    block,
                    count: u64::from(blocks),
                    data_offset,
                };
                payload = &sums[..];
                if let Some(gauge) = gauge {
                    batch.charge(gauge, bytes as u64);
                }
            }
            Append::Range { volume, block, count, kind } => {
                head = RecordHead { kind, volume, block, count, data_offset: 0 };
                payload = &[];
            }
            Append::Catalog { volume, kind, payload: bytes } => {
                head = RecordHead { kind, volume, block: 0, count: 0, data_offset: 0 };
                payload = bytes;
            }
        }
        let mut bytes = Vec::with_capacity(RECORD_HEAD_BYTES + payload.len());
        head.encode(&self.identity, self.epoch, lsn, payload, &mut bytes);
        let header = self.staging.range(batch.window, batch.block, 1).start;
        // The record's checksum is part of these bytes: with them it is committed, after its data.
        self.staging.memory().copy_in(header + at, &bytes);
        self.counters.records.fetch_add(1, Relaxed);
        batch.leases.fetch_sub(1, AcqRel);
        self.leases.fetch_sub(1, AcqRel);
        let address = Address::new(batch.segment, first_data);
        Ok(Appended { lsn, address, blocks, batch })
    }
}

/// How the log is written to a slot (I6).
fn mode_of(file: &File, readiness: Readiness) -> WriteMode {
    match (file.placement(), readiness) {
        _ if is_blind_to(Blindness::WriteThrough) => WriteMode::Plain,
        (Placement::Device, _) | (Placement::InPlace(_), Readiness::Ready) => WriteMode::Plain,
        (Placement::InPlace(_), Readiness::Unready)
        | (Placement::Moving(_) | Placement::Buffered(_) | Placement::Memory(_), _) => {
            WriteMode::Through
        }
    }
}

pub(super) struct Place {
    pub(super) lsn: Lsn,
    pub(super) batch: Arc<Batch>,
    pub(super) data_offset: u32,
    pub(super) blocks: u32,
    /// Byte of the record in the header block.
    pub(super) at: usize,
}

impl Open {
    /// How many device writes may be under way at once with this one.
    pub(super) fn writes_max(&self) -> u32 {
        WRITES_MAX + u32::from(self.goes_beside)
    }

    /// Whether it has lingered long enough.
    pub(super) fn is_due(&self) -> bool {
        self.records > 0
            && (self.batch.is_awaited()
                || self.data_blocks >= LINGER_BLOCKS
                || runtime::now().saturating_sub(self.batch.since) >= LINGER)
    }
}

impl State {
    /// Whether the open batch should wait for more records, while the batches under way keep the
    /// device busy.
    pub(super) fn is_gathering(&self) -> bool {
        let has_many = |entry: &Entry| match entry {
            Entry::Batch { open, stage: Stage::Writing, .. } => open.records >= GATHER_RECORDS / 2,
            Entry::Batch { .. } | Entry::Footer { .. } => false,
        };
        let has_few = |open: &Open| {
            open.records < GATHER_RECORDS && open.data_blocks < LINGER_BLOCKS && !open.goes_beside
        };
        self.open.as_ref().is_some_and(has_few) && self.under_way.iter().any(has_many)
    }

    /// When the oldest batch that is not in the store was opened, in microseconds.
    pub(super) fn unwritten_since_us(&self) -> u64 {
        let under_way = self.under_way.iter().find_map(|entry| match entry {
            Entry::Batch { open, .. } => Some(open),
            Entry::Footer { .. } => None,
        });
        let oldest = under_way.or(self.open.as_ref());
        oldest.map_or(u64::MAX, |open| open.batch.since.as_micros() as u64)
    }
}

impl Entry {
    pub(super) fn window(&self) -> usize {
        match self {
            Self::Batch { open, .. } => open.batch.window,
            Self::Footer { window, .. } => *window,
        }
    }

    pub(super) fn writes_max(&self) -> u32 {
        match self {
            Self::Batch { open, .. } => open.writes_max(),
            Self::Footer { .. } => WRITES_MAX,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Batch { stage, .. } | Self::Footer { stage, .. } => *stage,
        }
    }
}
