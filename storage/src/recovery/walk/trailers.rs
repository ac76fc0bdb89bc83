//! Footers and trailers: where a segment ends, and which one the log goes on in.

use super::Walk;
use crate::{
    base::{Blindness, SegmentId, Slot, is_blind_to},
    format::{BatchHeader, Footer, FooterBatch, Records, Trailer, footer_blocks},
};

impl Walk<'_> {
    /// Reads the footers from the replay start on, to the first segment without a valid one. They
    /// show how far the log was synced before anything is replayed.
    pub(super) async fn footers(&mut self) -> Vec<Option<Footer>> {
        let mut footers = Vec::new();
        let (mut segment, mut slot) = (self.end.at.segment, self.end.at.slot);
        while let Some(trailer) = self.stored_trailer(segment, slot).await {
            self.note_trailer(&trailer);
            footers.push(self.footer(trailer, slot).await);
            (segment, slot) = trailer.next;
        }
        footers
    }

    pub(super) async fn stored_trailer(&self, segment: SegmentId, slot: Slot) -> Option<Trailer> {
        let geometry = self.disk.segments.geometry;
        let block = self.blocks(slot, geometry.segment_blocks - 1, 1).await;
        let fits =
            |t: &Trailer| t.segment == segment && t.next.0 > segment && t.next.1.0 < geometry.slots;
        Trailer::decode(self.identity, &block).ok().filter(fits)
    }

    async fn footer(&self, trailer: Trailer, slot: Slot) -> Option<Footer> {
        let geometry = self.disk.segments.geometry;
        let blocks = footer_blocks(trailer.content_bytes as usize);
        let first = geometry.segment_blocks.checked_sub(blocks)?;
        let bytes = self.blocks(slot, first, blocks).await;
        Footer::decode(self.identity, trailer, &bytes).ok()
    }

    /// Whether the footer has every batch from the current place to the segment's end.
    pub(super) fn covers(&self, footer: &Footer) -> bool {
        let mut expected = self.end.at.lsn;
        let behind = |b: &&FooterBatch| b.block >= self.end.at.block;
        let mut batches: Vec<_> = footer.batches.iter().filter(behind).collect();
        batches.sort_by_key(|b| b.first_lsn);
        for batch in batches {
            if batch.first_lsn != expected || !self.is_young_enough(batch.first_lsn, batch.epoch) {
                return false;
            }
            let mut records =
                Records::new(self.identity, batch.epoch, batch.first_lsn, &batch.records);
            expected = expected.plus(records.by_ref().count() as u64);
            if records.consumed() != batch.records.len() {
                return false;
            }
        }
        footer.trailer.segment == self.end.at.segment && expected == footer.trailer.next_lsn
    }

    /// Reconstructs and writes the trailer of this segment, if it is lost and the log goes on
    /// elsewhere: in the claimed segment, or, where the store had no room for a claim, in any slot.
    pub(super) async fn lost_trailer(&mut self) -> Option<Trailer> {
        let at = self.end.at;
        let mut candidates = Vec::new();
        match self.claim() {
            Some((segment, slot)) => {
                let first = self.blocks(slot, 0, 1).await;
                let header = BatchHeader::decode(self.identity, &first).ok();
                candidates
                    .extend(header.filter(|header| header.segment == segment).map(|h| (slot, h)));
            }
            // Without a claim, a closed store, or one that was never started, has written nothing
            // behind this segment.
            None if at.block == 0 || self.superblock.closed || self.superblock.epoch == 0 => {}
            None if is_blind_to(Blindness::NextSegment) => {}
            None => {
                self.scan_unlisted_slots().await;
                candidates.extend(self.unlisted.iter().flatten().copied());
            }
        }
        let goes_on = |(_, header): &(Slot, BatchHeader)| {
            header.segment > at.segment
                && (header.block, header.first_lsn, header.previous) == (0, at.lsn, at.previous)
                && self.is_young_enough(header.first_lsn, header.epoch)
        };
        let (slot, header) = candidates.into_iter().find(goes_on)?;
        let trailer = self.trailer_to((header.segment, slot), header.epoch);
        self.put_trailer(trailer).await;
        Some(trailer)
    }

    /// A trailer of this segment, which ends here.
    fn trailer_to(&self, next: (SegmentId, Slot), epoch: u32) -> Trailer {
        let at = self.end.at;
        Trailer {
            segment: at.segment,
            epoch,
            content_bytes: 0,
            content_checksum: 0,
            fill: at.block,
            from_block: at.block,
            next_lsn: at.lsn,
            previous: at.previous,
            synced: self.synced,
            next,
            generation: self.generation,
        }
    }

    /// Writes a trailer to the store, without the batches that a footer repeats; [`Self::covers`]
    /// detects that.
    async fn put_trailer(&mut self, trailer: Trailer) {
        let last = self.disk.segments.geometry.segment_blocks - 1;
        let block = Footer::encode(self.identity, trailer, &[]);
        self.complete(self.end.at.slot, last, &block).await;
    }

    /// The trailer of this segment, if it ends here; if necessary from staging, and then written to
    /// the store.
    pub(super) async fn trailer(&mut self) -> Option<Trailer> {
        let at = self.end.at;
        let geometry = self.disk.segments.geometry;
        let here = |t: &Trailer| {
            t.segment == at.segment
                && t.fill == at.block
                && t.next_lsn == at.lsn
                && t.previous == at.previous
                && t.epoch >= self.epoch
                && (t.next_lsn <= self.fence.lsn || t.epoch >= self.fence.epoch)
                && t.next.0 > at.segment
                && t.next.1.0 < geometry.slots
        };
        if let Some(trailer) = self.stored_trailer(at.segment, at.slot).await.filter(here) {
            self.note_trailer(&trailer);
            if trailer.next_lsn > self.synced {
                self.put_trailer(trailer).await; // keeps recovery's I4
            }
            return Some(trailer);
        }
        let last = geometry.segment_blocks - 1;
        for window in 0..geometry.windows() {
            let Some(leftover) = &self.leftover else { break };
            let Ok(trailer) = Trailer::decode(self.identity, &leftover.read(window, last, 1))
            else {
                continue;
            };
            // A trailer from before the last start has been in the store since then, or is void.
            if here(&trailer) && trailer.epoch >= self.fence.epoch {
                self.put_trailer(trailer).await;
                return Some(trailer);
            }
        }
        None
    }
}
