//! The log: journal and final place of the data at the same time.
//!
//! ```text
//!   append ──► open batch (staging) ──close──► closed ──all records filled──► sealed, written ──► in order: acknowledged
//! ```
//!
//! I1  LSNs and addresses are given under one lock, so they grow together.
//! I2  A batch is acknowledged when it and all batches before it are in the store: an acknowledged write never sits
//!     behind a hole.
//! I3  A sync covers what was acknowledged when it began, nothing later.
//! I4  After a failed write or sync nothing is acknowledged any more: the log is latched, and not retried, because a
//!     kernel may report success for the sync after a failed one (DESIGN section 3).
//!
//! Batches go out when the device has nothing of ours to do, so that a lone write does not wait and many writes share
//! one device write. Workers call [`Log::pump`] at the end of each turn; a completed write calls it too.
//!
//! Lock order: a volume's state, then the log's, then windows and segments.

mod batch;
mod staging;
mod sync;

pub(crate) use batch::{Batch, Gauge};
pub(crate) use staging::{Leftover, Staging, WINDOWS};

use crate::{
    address::{Address, BLOCK_BYTES, Lsn, SegmentId, Slot, VolumeNumber},
    error::{Error, Kind, Result},
    format::{
        BatchHeader, Footer, FooterBatch, HEADER_RECORDS_BYTES, Identity, RECORD_HEAD_BYTES, RecordHead,
        RecordKind, ReplayStart, SegmentKind, Trailer, footer_blocks,
    },
    health::HealthCell,
    io::{File, WriteBuf, aligned},
    runtime,
    segments::{Need, Segments},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*},
    },
};
use sync::Syncs;
use tokio::sync::Notify;

/// Device writes of batches under way at once. With one, a second connection's lone write waits for the first's; with
/// many, batches stay small and each costs a header block.
const WRITES_MAX: u32 = 2;

/// Most blocks that one data record carries, so that three fit a header.
const RECORD_BLOCKS_MAX: u32 = 256;

/// What is to be logged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Append<'a> {
    /// Data from `block` on; a whole number of blocks, with their checksums. May be taken in part.
    Data { volume: VolumeNumber, block: u64, data: &'a [u8], checksums: &'a [u32] },
    /// A range becomes a hole or reserved zeroes.
    Range { volume: VolumeNumber, block: u64, count: u64, kind: RecordKind },
    /// A change of the catalog.
    Catalog { volume: VolumeNumber, kind: RecordKind, payload: &'a [u8] },
}

/// Where it went.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) lsn: Lsn,
    /// Of the first block of data; for others the header's own.
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
    /// The store is full, for what needs that much.
    NoSpace(Need),
    /// No more writes: see the store's health.
    Stopped,
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_requests: AtomicU64,
}

struct Segment {
    id: SegmentId,
    slot: Slot,
    /// First block behind the last closed batch.
    fill: u32,
    /// The footer will hold the batches from this block on.
    from_block: u32,
    /// Bytes that the footer needs for all batches so far, the open one included.
    footer_bytes: usize,
    /// Batch entries of the sealed batches.
    footer: Arc<Mutex<Vec<u8>>>,
    /// Opened from the reserve: data only when there is more room again.
    reserved: bool,
    /// Its slot was never written: each first write changes metadata of the file system, and a sync waits for its journal
    /// (measured on ext4: 0.13 ms against 1.5 ms).
    raw: bool,
}

struct Open {
    batch: Arc<Batch>,
    records: u16,
    records_bytes: usize,
    data_blocks: u32,
}

enum Entry {
    Batch { open: Open, footer: Arc<Mutex<Vec<u8>>>, stage: Stage },
    Footer { trailer: Trailer, slot: Slot, window: usize, content: Arc<Mutex<Vec<u8>>>, stage: Stage },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Writing,
    Written,
}

struct State {
    next_lsn: Lsn,
    /// `first_lsn` of the batch before the open one.
    previous: Lsn,
    segment: Segment,
    /// Windows opened so far; the next goes to this number modulo [`WINDOWS`].
    windows: usize,
    /// Segment and start of the newest windows, by place.
    held: [Option<(SegmentId, u32)>; WINDOWS],
    open: Option<Open>,
    /// In log order; leaves from the front when written.
    under_way: VecDeque<Entry>,
    writing: u32,
}

/// The log.
pub(crate) struct Log {
    state: Mutex<State>,
    pub(crate) staging: Staging,
    file: File,
    segments: Arc<Segments>,
    identity: Identity,
    epoch: u32,
    health: Arc<HealthCell>,
    /// Every record below is in the store.
    written: AtomicU64,
    /// Records whose place is taken but which are not filled in yet, in all batches.
    leases: AtomicU32,
    /// Something was written, or there is space again.
    pub(crate) room: Notify,
    syncs: Syncs,
    /// A sync was asked for since the log last looked.
    leave_raw: AtomicBool,
    pub(crate) counters: Counters,
}

/// What the log begins with.
pub(crate) struct Start {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
    pub(crate) at: ReplayStart,
    /// Batches of this segment behind the checkpoint, for its footer.
    pub(crate) footer: Vec<u8>,
    /// The first block whose batch `footer` holds.
    pub(crate) footer_from: u32,
    /// Every record below is synced.
    pub(crate) synced: Lsn,
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
            // Recovery cannot tell; the log moves on soon enough.
            raw: false,
        };
        Self {
            state: Mutex::new(State {
                next_lsn: start.at.lsn,
                previous: start.at.previous,
                segment,
                windows: 0,
                held: [None; WINDOWS],
                open: None,
                under_way: VecDeque::new(),
                writing: 0,
            }),
            staging,
            file,
            segments,
            identity: start.identity,
            epoch: start.epoch,
            health,
            written: AtomicU64::new(start.at.lsn.0),
            leases: AtomicU32::new(0),
            room: Notify::new(),
            syncs: Syncs::new(start.synced),
            leave_raw: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// The LSN that the next record will get.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.lock().next_lsn
    }

    /// Every record below is in the store.
    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.written.load(Acquire))
    }

    /// Whether every record that was given a place is filled in: then what is in staging survives the process.
    pub(crate) fn all_committed(&self) -> bool {
        self.leases.load(Acquire) == 0
    }

    /// Gives a record its place and fills it in. Call it under the lock of the volume whose map it will change.
    ///
    /// # Errors
    /// Nothing was logged then.
    pub(crate) fn append(&self, record: Append<'_>, gauge: Option<&Arc<Gauge>>) -> Result<Appended, Refused> {
        if self.health.is_stopped() {
            return Err(Refused::Stopped);
        }
        let place = {
            let mut state = self.lock();
            self.place(&mut state, &record)?
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
        let address = Address::new(batch.segment, if blocks > 0 { first_data } else { batch.block });
        Ok(Appended { lsn, address, blocks, batch })
    }

    fn place(&self, state: &mut State, record: &Append<'_>) -> Result<Place, Refused> {
        let (offered, fixed_bytes, need) = match record {
            Append::Data { checksums, .. } => (
                u32::try_from(checksums.len()).expect("a request is small").min(RECORD_BLOCKS_MAX),
                0,
                Need::Data,
            ),
            Append::Range { .. } => (0, 0, Need::Record),
            Append::Catalog { payload, kind, .. } => {
                let need = if *kind == RecordKind::VolumePut { Need::Data } else { Need::Record };
                (0, payload.len(), need)
            }
        };
        if need == Need::Data && state.segment.reserved {
            if !self.segments.has_room(Need::Data) {
                return Err(Refused::NoSpace(need));
            }
            state.segment.reserved = false;
        }
        let least = RECORD_HEAD_BYTES + fixed_bytes + if offered > 0 { 4 } else { 0 };
        loop {
            if let Some(open) = &state.open {
                let header_room = HEADER_RECORDS_BYTES - open.records_bytes;
                // A record without data makes the footer longer too, which must not grow into the last batch.
                let data_room = self.data_room(state, open, least);
                if header_room >= least && data_room.is_some_and(|room| room >= offered.min(1)) {
                    break;
                }
                Self::close(state);
                continue;
            }
            self.open_batch(state, least, offered.min(1), need)?;
        }
        let room = {
            let open = state.open.as_ref().expect("opened above");
            let sums = (HEADER_RECORDS_BYTES - open.records_bytes - RECORD_HEAD_BYTES - fixed_bytes) / 4;
            // Each checksum is also a part of the footer, whose room is counted for the whole record at once.
            let record = RECORD_HEAD_BYTES + fixed_bytes + offered as usize * 4;
            self.data_room(state, open, record).unwrap_or(0).min(sums as u32)
        };
        let blocks = if offered == 0 { 0 } else { offered.min(room.max(1)) };
        let bytes = RECORD_HEAD_BYTES + fixed_bytes + blocks as usize * 4;
        let lsn = state.next_lsn;
        state.next_lsn = lsn.plus(1);
        state.segment.footer_bytes += bytes;
        let open = state.open.as_mut().expect("opened above");
        let (data_offset, at) = (open.data_blocks, BatchHeader::RECORDS_AT + open.records_bytes);
        open.records += 1;
        open.records_bytes += bytes;
        open.data_blocks += blocks;
        open.batch.leases.fetch_add(1, AcqRel);
        self.leases.fetch_add(1, AcqRel);
        Ok(Place { lsn, batch: Arc::clone(&open.batch), data_offset, blocks, at })
    }

    /// Blocks of data that the open batch can still take, if a record of `record_bytes` comes with them; `None` when the
    /// footer has no room for the record itself.
    fn data_room(&self, state: &State, open: &Open, record_bytes: usize) -> Option<u32> {
        let geometry = &self.segments.geometry;
        let next = open.batch.block + 1 + open.data_blocks;
        let window_end =
            open.batch.block / geometry.window_blocks * geometry.window_blocks + geometry.window_blocks;
        let footer = footer_blocks(state.segment.footer_bytes + record_bytes);
        geometry.segment_blocks.checked_sub(footer)?.checked_sub(next).map(|room| room.min(window_end - next))
    }

    /// Closes the open batch: it takes no more records.
    fn close(state: &mut State) {
        let Some(open) = state.open.take() else { return };
        state.segment.fill = open.batch.block + 1 + open.data_blocks;
        state.previous = open.batch.first_lsn;
        let footer = Arc::clone(&state.segment.footer);
        state.under_way.push_back(Entry::Batch { open, footer, stage: Stage::Closed });
    }

    /// Opens a batch with room for a record of `record_bytes` and `data_blocks`, in the next window or segment if need be.
    fn open_batch(
        &self,
        state: &mut State,
        record_bytes: usize,
        data_blocks: u32,
        need: Need,
    ) -> Result<(), Refused> {
        let geometry = &self.segments.geometry;
        let mut block = state.segment.fill;
        if block % geometry.window_blocks + 1 + data_blocks > geometry.window_blocks {
            block = block.next_multiple_of(geometry.window_blocks);
        }
        let footer = footer_blocks(state.segment.footer_bytes + FooterBatch::bytes(record_bytes));
        if state.segment.raw && self.leave_raw.swap(false, Relaxed) && self.segments.offers_prepared() {
            // Someone syncs: the rest of this segment would make each sync wait. What is left of it is not written, and
            // its slot comes back with the others.
            match self.next_segment(state, need) {
                Ok(()) => block = 0,
                Err(Refused::NoSpace(_)) => {}
                Err(refused) => return Err(refused),
            }
        }
        // A footer never outgrows half a window, so that the last window has room for batches.
        if block + 1 + data_blocks + footer > geometry.segment_blocks || footer > geometry.window_blocks / 2 {
            self.next_segment(state, need)?;
            block = 0;
        }
        let window = self.window(state, block)?;
        let batch =
            Batch::new((state.segment.id, state.segment.slot, block), window, state.next_lsn, state.previous);
        state.segment.footer_bytes += FooterBatch::bytes(0);
        let header = BatchHeader {
            segment: batch.segment,
            block,
            epoch: self.epoch,
            first_lsn: batch.first_lsn,
            previous: batch.previous,
            synced: Lsn(0),
            data_blocks: 0,
            records: 0,
            records_bytes: 0,
        };
        // The rest of the block is cleared, so that no older record stands behind the last one.
        let mut bytes = header.open(&self.identity);
        bytes.resize(BLOCK_BYTES, 0);
        self.staging.memory().copy_in(self.staging.range(window, block, 1).start, &bytes);
        state.open = Some(Open { batch: Arc::new(batch), records: 0, records_bytes: 0, data_blocks: 0 });
        Ok(())
    }

    /// The window that holds `block` of the current segment; opened if it is not yet.
    fn window(&self, state: &mut State, block: u32) -> Result<usize, Refused> {
        let start = block / self.segments.geometry.window_blocks * self.segments.geometry.window_blocks;
        let wanted = (state.segment.id, start);
        if let Some(found) = state.held.iter().position(|h| *h == Some(wanted)) {
            return Ok(found);
        }
        let window = state.windows % WINDOWS;
        // Keeps staging's I1: nothing of what it holds is still to be written.
        if state.under_way.iter().any(|entry| entry.window() == window) {
            return Err(Refused::Busy);
        }
        state.windows += 1;
        state.held[window] = Some(wanted);
        self.staging.open_window(window, wanted.0, start, start.max(state.segment.fill));
        Ok(window)
    }

    /// Ends the current segment with its footer and goes on in a fresh one.
    fn next_segment(&self, state: &mut State, need: Need) -> Result<(), Refused> {
        let geometry = &self.segments.geometry;
        let blocks = footer_blocks(state.segment.footer_bytes);
        let first = geometry.segment_blocks - blocks;
        assert!(blocks <= geometry.window_blocks, "a footer is smaller than a window");
        assert!(state.segment.fill <= first, "the footer begins behind the last batch");
        let window = self.window(state, first)?;
        let next = self.segments.take(SegmentKind::Log, need).ok_or(Refused::NoSpace(need))?;
        let trailer = Trailer {
            segment: state.segment.id,
            epoch: self.epoch,
            content_bytes: 0,
            content_checksum: 0,
            fill: state.segment.fill,
            from_block: state.segment.from_block,
            next_lsn: state.next_lsn,
            previous: state.previous,
            synced: Lsn(0),
            next: (next.id, next.slot),
        };
        let fresh = Segment {
            id: next.id,
            slot: next.slot,
            fill: 0,
            from_block: 0,
            footer_bytes: 0,
            footer: Arc::default(),
            reserved: self.segments.is_in_reserve(),
            raw: !next.prepared,
        };
        // Staged at once, still without what it repeats: what is acknowledged from the next segment's staging is found
        // only by way of it. The whole footer goes out from a buffer of its own, so that this one is never half replaced.
        let staged = Footer::encode(&self.identity, trailer, &[]);
        let range = self.staging.range(window, geometry.segment_blocks - 1, 1);
        self.staging.memory().copy_in(range.start, &staged);
        let old = std::mem::replace(&mut state.segment, fresh);
        state.under_way.push_back(Entry::Footer {
            trailer,
            slot: old.slot,
            window,
            content: old.footer,
            stage: Stage::Closed,
        });
        Ok(())
    }

    /// Ends the open batch and says where the log goes on: all records before lie before that place.
    pub(crate) fn cut(self: &Arc<Self>) -> ReplayStart {
        let mut state = self.lock();
        Self::close(&mut state);
        let at = ReplayStart {
            segment: state.segment.id,
            slot: state.segment.slot,
            block: state.segment.fill,
            lsn: state.next_lsn,
            previous: state.previous,
        };
        self.submit(&mut state);
        at
    }

    /// Sends out what is ready. Call it at the end of a turn, on a runtime's thread.
    pub(crate) fn pump(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.writing < WRITES_MAX && state.open.as_ref().is_some_and(|open| open.records > 0) {
            Self::close(&mut state);
        }
        self.submit(&mut state);
    }

    /// Seals and writes closed batches whose records are all filled in, and footers whose batches are all sealed.
    fn submit(self: &Arc<Self>, state: &mut State) {
        let mut all_sealed = true;
        for i in 0..state.under_way.len() {
            let entry = &mut state.under_way[i];
            let (buffer, offset, key) = match entry {
                Entry::Batch { open, footer, stage } if *stage == Stage::Closed => {
                    if open.batch.leases.load(Acquire) > 0 {
                        all_sealed = false;
                        continue;
                    }
                    *stage = Stage::Writing;
                    self.seal(open, footer);
                    let batch = &open.batch;
                    let range = self.staging.range(batch.window, batch.block, 1 + open.data_blocks);
                    (
                        WriteBuf::Shared(Arc::clone(self.staging.memory()), range),
                        self.segments.geometry.offset(batch.slot, batch.block),
                        (batch.segment, batch.block),
                    )
                }
                Entry::Footer { trailer, slot, content, stage, .. }
                    if *stage == Stage::Closed && all_sealed =>
                {
                    *stage = Stage::Writing;
                    trailer.synced = self.syncs.synced();
                    let content = content.lock().expect("no panics under this lock");
                    let bytes = Footer::encode(&self.identity, *trailer, &content);
                    let blocks = footer_blocks(content.len());
                    let first = self.segments.geometry.segment_blocks - blocks;
                    let mut buffer = aligned(bytes.len());
                    buffer.extend_from_slice(&bytes);
                    let offset = self.segments.geometry.offset(*slot, first);
                    (WriteBuf::Owned(buffer), offset, (trailer.segment, u32::MAX))
                }
                Entry::Batch { .. } | Entry::Footer { .. } => continue,
            };
            state.writing += 1;
            self.counters.batches.fetch_add(1, Relaxed);
            self.counters.bytes.fetch_add(buffer.len_bytes() as u64, Relaxed);
            let log = Arc::clone(self);
            runtime::spawn(async move {
                let result = log.file.write(offset, buffer).await;
                log.completed(key, result);
            });
        }
    }

    fn seal(&self, open: &Open, footer: &Mutex<Vec<u8>>) {
        let batch = &open.batch;
        let header_at = self.staging.range(batch.window, batch.block, 1).start;
        let mut records = vec![0; open.records_bytes];
        self.staging.memory().copy_out(header_at + BatchHeader::RECORDS_AT, &mut records);
        let header = BatchHeader {
            segment: batch.segment,
            block: batch.block,
            epoch: self.epoch,
            first_lsn: batch.first_lsn,
            previous: batch.previous,
            synced: self.syncs.synced(),
            data_blocks: open.data_blocks,
            records: open.records,
            records_bytes: open.records_bytes as u16,
        };
        self.staging.memory().copy_in(header_at, &header.seal(&self.identity, &records));
        let mut footer = footer.lock().expect("no panics under this lock");
        FooterBatch::encode(batch.block, self.epoch, batch.first_lsn, &records, &mut footer);
    }

    fn completed(self: &Arc<Self>, (segment, block): (SegmentId, u32), result: std::io::Result<()>) {
        if let Err(error) = &result {
            self.health.latch(&format!("a write to the log failed: {error}"));
        }
        let mut finished = Vec::new();
        let mut sealed = Vec::new();
        let mut state = self.lock();
        state.writing -= 1;
        for entry in &mut state.under_way {
            match entry {
                Entry::Batch { open, stage, .. }
                    if (open.batch.segment, open.batch.block) == (segment, block) =>
                {
                    *stage = Stage::Written;
                }
                Entry::Footer { trailer, stage, .. } if (trailer.segment, u32::MAX) == (segment, block) => {
                    *stage = Stage::Written;
                }
                Entry::Batch { .. } | Entry::Footer { .. } => {}
            }
        }
        let good = !self.health.is_stopped();
        while state.under_way.front().is_some_and(|entry| entry.stage() == Stage::Written) {
            match state.under_way.pop_front() {
                Some(Entry::Batch { open, .. }) => {
                    if good {
                        self.written.store(open.batch.first_lsn.0 + u64::from(open.records), Release);
                    }
                    finished.push(open.batch);
                }
                Some(Entry::Footer { trailer, .. }) => sealed.push(trailer),
                None => {}
            }
        }
        if state.writing < WRITES_MAX && state.open.as_ref().is_some_and(|open| open.records > 0) {
            Self::close(&mut state);
        }
        self.submit(&mut state);
        drop(state);
        finished.iter().for_each(|batch| batch.finish(good));
        for trailer in sealed {
            self.segments.seal(trailer.segment);
            // Bounds what recovery has to verify: at most about a segment is not known to be synced.
            let log = Arc::clone(self);
            runtime::spawn(async move {
                // A failure has latched the store, which is where it is reported.
                let _latched = log.sync(trailer.next_lsn).await;
            });
        }
        self.room.notify_waiters();
    }

    /// Waits until every record below `lsn` is in the store.
    ///
    /// # Errors
    /// [`Kind::Latched`].
    pub(crate) async fn wait_written(self: &Arc<Self>, lsn: Lsn) -> Result<()> {
        while self.written() < lsn {
            let batch = {
                let state = self.lock();
                let holds = |open: &Open| open.batch.first_lsn.0 + u64::from(open.records) >= lsn.0;
                let closed = state.under_way.iter().find_map(|entry| match entry {
                    Entry::Batch { open, .. } if holds(open) => Some(Arc::clone(&open.batch)),
                    Entry::Batch { .. } | Entry::Footer { .. } => None,
                });
                closed.or_else(|| state.open.as_ref().filter(|o| holds(o)).map(|o| Arc::clone(&o.batch)))
            };
            match batch {
                Some(batch) => {
                    self.pump();
                    batch.written().await?;
                }
                None if self.health.is_stopped() => {
                    return Err(Error::new(Kind::Latched, "the log could not be written"));
                }
                // Written between the two looks.
                None => runtime::yield_now().await,
            }
        }
        Ok(())
    }
}

struct Place {
    lsn: Lsn,
    batch: Arc<Batch>,
    data_offset: u32,
    blocks: u32,
    /// Byte of the record in the header block.
    at: usize,
}

impl Entry {
    fn window(&self) -> usize {
        match self {
            Self::Batch { open, .. } => open.batch.window,
            Self::Footer { window, .. } => *window,
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Self::Batch { stage, .. } | Self::Footer { stage, .. } => *stage,
        }
    }
}
