//! Where a record goes: into the open batch, the next window, the next segment.
//!
//! Placing happens under the log's lock and never waits: the caller gets the reason why it would.

use super::append::{
    Append, BATCH_BLOCKS, Entry, Log, Open, Place, RECORD_BLOCKS_MAX, Refused, STREAM_BATCH_BYTES,
    Segment, Stage, State,
};
use super::batch::Batch;
use crate::{
    base::{BLOCK_BYTES, Blindness, Lsn, SegmentId, Slot, is_blind_to},
    disk::{Need, Readiness, Writing},
    format::{
        BatchHeader, Footer, FooterBatch, HEADER_RECORDS_BYTES, RECORD_HEAD_BYTES, RecordKind,
        SegmentKind, Trailer, footer_blocks,
    },
};
use sandstone_ring::WriteMode;
use std::sync::{Arc, atomic::Ordering::*};

impl Log {
    pub(super) fn place(&self, state: &mut State, record: &Append<'_>) -> Result<Place, Refused> {
        let (offered, fixed_bytes, need) = match record {
            Append::Data { checksums, .. } => (
                u32::try_from(checksums.len()).expect("a request is small").min(RECORD_BLOCKS_MAX),
                0,
                Need::Data,
            ),
            Append::Range { .. } => (0, 0, Need::Record),
            Append::Catalog { payload, kind, .. } => {
                // Records that make room again must go on when the store is full.
                let need = match kind {
                    RecordKind::VolumeDelete | RecordKind::Restore => Need::Record,
                    _ => Need::Data,
                };
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
                // A record without data makes the footer longer too, which must not grow into the
                // last batch.
                let data_room = self.data_room(state, open, least);
                let has_room =
                    header_room >= least && data_room.is_some_and(|room| room >= offered.min(1));
                if has_room && open.data_blocks < BATCH_BLOCKS {
                    break;
                }
                Self::close(state);
                continue;
            }
            self.open_batch(state, least, offered.min(1), need)?;
        }
        let room = {
            let open = state.open.as_ref().expect("opened above");
            let sums =
                (HEADER_RECORDS_BYTES - open.records_bytes - RECORD_HEAD_BYTES - fixed_bytes) / 4;
            // Each checksum is also a part of the footer, whose room is counted for the whole
            // record at once.
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
        let batch = Arc::clone(&open.batch);
        self.unwritten_bytes.fetch_add(u64::from(blocks) * BLOCK_BYTES as u64, Relaxed);
        Ok(Place { lsn, batch, data_offset, blocks, at })
    }

    /// Blocks of data that the open batch can still take, if a record of `record_bytes` comes with
    /// them; `None` when the footer has no room for the record itself.
    fn data_room(&self, state: &State, open: &Open, record_bytes: usize) -> Option<u32> {
        let geometry = &self.segments.geometry;
        let next = open.batch.block + 1 + open.data_blocks;
        let window_end = open.batch.block / geometry.window_blocks * geometry.window_blocks
            + geometry.window_blocks;
        let footer = footer_blocks(state.segment.footer_bytes + record_bytes);
        geometry
            .segment_blocks
            .checked_sub(footer)?
            .checked_sub(next)
            .map(|room| room.min(window_end - next))
    }

    /// Closes the open batch: it takes no more records.
    pub(super) fn close(state: &mut State) {
        let Some(open) = state.open.take() else { return };
        state.segment.fill = open.batch.block + 1 + open.data_blocks;
        state.segment.batches += 1;
        state.previous = open.batch.first_lsn;
        let footer = Arc::clone(&state.segment.footer);
        state.under_way.push_back(Entry::Batch { open, footer, stage: Stage::Closed });
    }

    /// Opens a batch with room for a record of `record_bytes` and `data_blocks`, in the next window
    /// or segment if need be.
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
        if self.is_better_left(&state.segment)
            && self.segments.offers_prepared()
            && state.claim.is_some_and(|claim| claim.readiness == Readiness::Ready)
        {
            // In the rest of this segment each small batch would wait for the file system's
            // journal. The rest of it stays unwritten, and its slot is freed like others.
            match self.next_segment(state, need) {
                Ok(()) => block = 0,
                Err(Refused::NoSpace(_)) => {}
                Err(refused) => return Err(refused),
            }
        }
        // A footer never outgrows half a window, so that the last window has room for batches.
        if block + 1 + data_blocks + footer > geometry.segment_blocks
            || footer > geometry.window_blocks / 2
        {
            self.next_segment(state, need)?;
            block = 0;
        }
        let window = self.window(state, block)?;
        self.claim_next(state); // keeps I5
        let at = (state.segment.id, state.segment.slot, block);
        let batch = Batch::new(at, state.segment.mode, window, state.next_lsn, state.previous);
        if batch.mode == WriteMode::Through {
            self.slots_wanted.notify_one();
        }
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
            next: None,
            generation: 0,
        };
        // The rest of the block is cleared, so that no older record stands behind the last one.
        let mut bytes = header.open(&self.identity);
        bytes.resize(BLOCK_BYTES, 0);
        self.staging.memory().copy_in(self.staging.range(window, block, 1).start, &bytes);
        state.open = Some(Open {
            batch: Arc::new(batch),
            next: state.claim.map(|claim| (claim.id, claim.slot)),
            records: 0,
            records_bytes: 0,
            data_blocks: 0,
            has_pump_scheduled: false,
            goes_beside: false,
        });
        self.unwritten_since_us.store(state.unwritten_since_us(), Relaxed);
        Ok(())
    }

    /// Claims the next segment, or replaces the claim by a segment whose slot is ready where the
    /// claimed one's is not. The batch that is about to be opened names it.
    fn claim_next(&self, state: &mut State) {
        if state.is_claim_lent {
            return;
        }
        match state.claim {
            Some(claim)
                if claim.readiness == Readiness::Unready && self.segments.prepared() > 0 =>
            {
                if let Some(better) = self.segments.claim_ahead() {
                    self.segments.give_up(claim.id);
                    state.claim = Some(better);
                }
            }
            Some(_) => {}
            None => state.claim = self.segments.claim_ahead(),
        }
    }

    /// Lends the slot of the claimed segment, if it may have blocks in the file, to the slot pool,
    /// which gives them back. The log does not come there before [`Self::return_claim`].
    pub(crate) fn lend_claim(&self) -> Option<Slot> {
        let mut state = self.lock();
        let id = state.claim?.id;
        let slot = self.segments.claimed_surplus(id)?;
        state.is_claim_lent = true;
        Some(slot)
    }

    /// Takes the lent slot back; it has no blocks if it was `punched`.
    pub(crate) fn return_claim(&self, punched: bool) {
        let mut state = self.lock();
        state.is_claim_lent = false;
        if let Some(claim) = state.claim.as_mut().filter(|_| punched) {
            claim.readiness = Readiness::Unready;
            self.segments.claimed_is_raw(claim.id);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Whether the log gains by leaving for a prepared slot: it does where it writes through in
    /// small pieces.
    fn is_better_left(&self, segment: &Segment) -> bool {
        let bytes = u64::from(segment.fill) * BLOCK_BYTES as u64;
        segment.mode == WriteMode::Through
            && segment.fill > 0
            && self.mode(Readiness::Ready) == WriteMode::Plain
            && bytes < u64::from(segment.batches) * STREAM_BATCH_BYTES
    }

    /// Goes on in a fresh segment, so that dead blocks of this one can be found. Returns the
    /// segment that it leaves, if it was not empty and there was room for another.
    pub(crate) fn leave_segment(self: &Arc<Self>) -> Option<SegmentId> {
        if self.health.is_stopped() {
            return None;
        }
        let mut state = self.lock();
        Self::close(&mut state);
        let left = state.segment.id;
        let leaves = state.segment.fill > 0 && self.next_segment(&mut state, Need::Data).is_ok();
        self.submit(&mut state);
        leaves.then_some(left)
    }

    /// The window that holds `block` of the current segment; opened if it is not yet.
    fn window(&self, state: &mut State, block: u32) -> Result<usize, Refused> {
        let start =
            block / self.segments.geometry.window_blocks * self.segments.geometry.window_blocks;
        let wanted = (state.segment.id, start);
        if let Some(found) = state.held.iter().position(|h| *h == Some(wanted)) {
            return Ok(found);
        }
        let window = state.windows % state.held.len();
        // Keeps staging's I1: everything that it holds is in the store.
        let in_use = state.under_way.iter().any(|entry| entry.window() == window);
        if in_use && !is_blind_to(Blindness::WindowInUse) {
            return Err(Refused::Busy);
        }
        state.windows += 1;
        self.slots_wanted.notify_one();
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
        if state.is_claim_lent {
            return Err(Refused::Busy);
        }
        let claimed = state.claim.take().inspect(|claim| self.segments.enter(claim.id));
        // A claimed segment was taken for data.
        let is_spare = claimed.is_some();
        let fresh = || self.segments.take(SegmentKind::Log, need, Writing::Awaited);
        let next = claimed.or_else(fresh).ok_or(Refused::NoSpace(need))?;
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
            generation: 0,
        };
        let fresh = Segment {
            id: next.id,
            slot: next.slot,
            fill: 0,
            from_block: 0,
            footer_bytes: 0,
            footer: Arc::default(),
            reserved: !is_spare && self.segments.is_in_reserve(),
            mode: self.mode(next.readiness),
            batches: 0,
        };
        // The trailer is staged at once, without the records that the footer repeats: recovery
        // finds the next segment's staged batches only through it. The whole footer goes out from a
        // buffer of its own, so that the staged trailer is never half replaced.
        let staged = Footer::encode(&self.identity, trailer, &[]);
        let range = self.staging.range(window, geometry.segment_blocks - 1, 1);
        if !is_blind_to(Blindness::StagedTrailer) {
            self.staging.memory().copy_in(range.start, &staged);
        }
        let old = std::mem::replace(&mut state.segment, fresh);
        state.under_way.push_back(Entry::Footer {
            trailer,
            slot: old.slot,
            window,
            mode: old.mode,
            content: old.footer,
            stage: Stage::Closed,
        });
        Ok(())
    }
}
