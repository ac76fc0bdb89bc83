//! Batches on their way out: sealed, written, and acknowledged in log order.

use super::append::{Entry, LINGER, Log, Open, Stage, State};
use crate::{
    base::{BLOCK_BYTES, Blindness, Error, Kind, Lsn, Result, SegmentId, is_blind_to},
    disk::space_wait,
    format::{BatchHeader, Claim, Footer, FooterBatch, ReplayStart, footer_blocks},
};
use sandstone_ring::{WriteBuf, WriteMode, aligned, runtime};
use std::sync::{Arc, Mutex, atomic::Ordering::*};

impl Log {
    /// Ends the open batch and returns the cut: all records so far lie before that place in the
    /// log; with it the claim of the next segment.
    pub(crate) fn cut(self: &Arc<Self>) -> (ReplayStart, Claim) {
        let mut state = self.lock();
        Self::close(&mut state);
        let at = ReplayStart {
            segment: state.segment.id,
            slot: state.segment.slot,
            block: state.segment.fill,
            lsn: state.next_lsn,
            previous: state.previous,
        };
        let claim = Claim { of: at.segment, next: state.claim.map(|claim| (claim.id, claim.slot)) };
        self.submit(&mut state);
        (at, claim)
    }

    /// Sends out ready batches. Call it at the end of a turn, on a runtime's thread.
    pub(crate) fn pump(self: &Arc<Self>) {
        let mut state = self.lock();
        self.close_if_due(&mut state);
        self.submit(&mut state);
    }

    /// Sends the open batch out now, even if no write waits for it.
    pub(crate) fn hurry(self: &Arc<Self>) {
        if let Some(open) = &self.lock().open {
            open.batch.hurry();
        }
        self.pump();
    }

    /// Closes the open batch if the device is to have it now; otherwise schedules a pump for it.
    fn close_if_due(self: &Arc<Self>, state: &mut State) {
        let Some(open) = &mut state.open else { return };
        if open.is_due() {
            // If too much is under way, the next completion pumps again.
            if state.writing < open.writes_max() && !state.is_gathering() {
                Self::close(state);
            }
        } else if open.records > 0 && !std::mem::replace(&mut open.has_pump_scheduled, true) {
            let log = Arc::clone(self);
            runtime::spawn(async move {
                runtime::sleep(LINGER).await;
                log.pump();
            });
        }
    }

    /// Seals and writes closed batches whose records are all filled in, and footers whose batches
    /// are all sealed, as many as may be under way at once.
    pub(super) fn submit(self: &Arc<Self>, state: &mut State) {
        let mut all_sealed = true;
        for i in 0..state.under_way.len() {
            let entry = &mut state.under_way[i];
            if state.writing >= entry.writes_max() && entry.stage() == Stage::Closed {
                return;
            }
            let (buffer, offset, key, mode) = match entry {
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
                        batch.mode,
                    )
                }
                Entry::Footer { trailer, slot, mode, content, stage, .. }
                    if *stage == Stage::Closed && all_sealed =>
                {
                    *stage = Stage::Writing;
                    trailer.synced = self.syncs.synced();
                    trailer.generation = self.generation.load(Acquire);
                    let content = content.lock().expect("no panics under this lock");
                    let bytes = Footer::encode(&self.identity, *trailer, &content);
                    let blocks = footer_blocks(content.len());
                    let first = self.segments.geometry.segment_blocks - blocks;
                    let mut buffer = aligned(bytes.len());
                    buffer.extend_from_slice(&bytes);
                    let offset = self.segments.geometry.offset(*slot, first);
                    (WriteBuf::Owned(buffer), offset, (trailer.segment, u32::MAX), *mode)
                }
                Entry::Batch { .. } | Entry::Footer { .. } => continue,
            };
            state.writing += 1;
            self.counters.batches.fetch_add(1, Relaxed);
            let bytes = buffer.len_bytes() as u64;
            self.counters.bytes.fetch_add(bytes, Relaxed);
            self.counters.batch_bytes.add(bytes);
            if mode == WriteMode::Through {
                self.counters.through.fetch_add(1, Relaxed);
            }
            let log = Arc::clone(self);
            runtime::spawn(async move {
                let result =
                    space_wait::write_as(mode, &log.file, &log.health, offset, buffer).await;
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
            next: open.next,
            generation: self.generation.load(Acquire),
        };
        self.staging.memory().copy_in(header_at, &header.seal(&self.identity, &records));
        let mut footer = footer.lock().expect("no panics under this lock");
        FooterBatch::encode(batch.block, self.epoch, batch.first_lsn, &records, &mut footer);
    }

    fn completed(
        self: &Arc<Self>,
        (segment, block): (SegmentId, u32),
        result: std::io::Result<()>,
    ) {
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
                    if is_blind_to(Blindness::LogOrder) {
                        open.batch.finish(result.is_ok());
                    }
                }
                Entry::Footer { trailer, stage, .. }
                    if (trailer.segment, u32::MAX) == (segment, block) =>
                {
                    *stage = Stage::Written;
                }
                Entry::Batch { .. } | Entry::Footer { .. } => {}
            }
        }
        let good = !self.health.is_stopped();
        while state.under_way.front().is_some_and(|entry| entry.stage() == Stage::Written) {
            match state.under_way.pop_front() {
                Some(Entry::Batch { open, .. }) => {
                    let bytes = u64::from(open.data_blocks) * BLOCK_BYTES as u64;
                    self.unwritten_bytes.fetch_sub(bytes, Relaxed);
                    if good {
                        self.written
                            .store(open.batch.first_lsn.0 + u64::from(open.records), Release);
                    }
                    finished.push(open.batch);
                }
                Some(Entry::Footer { trailer, .. }) => sealed.push(trailer),
                None => {}
            }
        }
        self.close_if_due(&mut state);
        self.submit(&mut state);
        self.unwritten_since_us.store(state.unwritten_since_us(), Relaxed);
        drop(state);
        finished.iter().for_each(|batch| batch.finish(good));
        for trailer in sealed {
            self.segments.seal(trailer.segment);
            // Bounds what recovery has to verify: about as much as staging holds is not known to be
            // synced.
            let geometry = &self.segments.geometry;
            let (blocks, staged) = (u64::from(geometry.segment_blocks), geometry.staging_blocks());
            if self.sealed_blocks.fetch_add(blocks, Relaxed) + blocks < staged {
                continue;
            }
            self.sealed_blocks.store(0, Relaxed);
            let log = Arc::clone(self);
            runtime::spawn(async move {
                // A failure latches the store, whose health reports it.
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
                closed.or_else(|| {
                    state.open.as_ref().filter(|o| holds(o)).map(|o| Arc::clone(&o.batch))
                })
            };
            match batch {
                Some(batch) => {
                    batch.hurry();
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
