//! Past the tail: whether the place where the walk stopped is the end of the log, or damage before
//! it.

use super::{READ_BLOCKS, Walk};
use crate::{
    base::{BLOCK_BYTES, Blindness, Error, Result, SegmentId, Slot, is_blind_to},
    format::{BatchHeader, Trailer},
};
use futures_util::future::join_all;
use std::collections::HashSet;

/// Slots that are read at once.
const LOADS_MAX: usize = 64;

impl Walk<'_> {
    /// Keeps recovery's I2 and I5.
    pub(super) async fn check_end(&self) -> Result<()> {
        let at = self.end.at;
        if self.end.at.lsn < self.synced && !is_blind_to(Blindness::SyncedEnd) {
            return Err(Error::corrupt(format!(
                "the log ends at record {} (segment {}, block {}), but was synced up to record {}",
                at.lsn.0, at.segment.0, at.block, self.synced.0
            )));
        }
        if is_blind_to(Blindness::SuperblockDamage) {
            return Ok(());
        }
        let newest = self.superblock.generation;
        if self.generation > newest {
            return Err(Error::corrupt(format!(
                "the newest superblock is of generation {newest}, \
                 and the log knows of one of generation {}",
                self.generation
            )));
        }
        match self.other_content_in_place().await {
            None => Ok(()),
            Some(what) => Err(Error::corrupt(format!(
                "the log ends in segment {}, and {what} in its slot {}: \
                 the superblock is not the newest one",
                at.segment.0, at.slot.0
            ))),
        }
    }

    /// What the slot of the log's last segment holds instead of it, if so: only a newer superblock
    /// than this one can have reused the slot.
    async fn other_content_in_place(&self) -> Option<String> {
        let at = self.end.at;
        let begins = self.blocks(at.slot, 0, 1).await;
        // A segment of the log begins with a header.
        match BatchHeader::decode(self.identity, &begins) {
            Ok(header) if header.segment > at.segment => {
                return Some(format!("segment {} is", header.segment.0));
            }
            Ok(header) if header.segment == at.segment => return None,
            Ok(_) | Err(_) => {}
        }
        // The segment is still empty; or batches of it were read.
        if at.block == 0 || !self.end.footer.is_empty() {
            return None;
        }
        let mut first = 0;
        while first < at.block {
            let blocks = self.blocks(at.slot, first, READ_BLOCKS.min(at.block - first)).await;
            let is_own = |block: &[u8]| {
                BatchHeader::decode(self.identity, block)
                    .is_ok_and(|header| header.segment == at.segment)
            };
            if blocks.chunks_exact(BLOCK_BYTES).any(is_own) {
                return None;
            }
            first += READ_BLOCKS;
        }
        Some("nothing of it is".to_owned())
    }

    /// Scans headers past the tail for the LSN that they say was synced. The chain does not lead to
    /// them, but their checksums are keyed, and their statement stays true forever: synced records
    /// are in every later log, even where the header itself is from a lost end.
    pub(super) async fn scan_past_tail(&mut self) {
        let geometry = self.disk.segments.geometry;
        let at = self.end.at;
        // This segment, and the segments to which trailers and claims lead.
        let mut ways = vec![(at.segment, at.slot, at.block)];
        ways.extend(self.claim().map(|(segment, slot)| (segment, slot, 0)));
        let mut seen = HashSet::new();
        while let Some((segment, slot, from)) = ways.pop() {
            if slot.0 >= geometry.slots || segment < at.segment || !seen.insert(segment) {
                continue;
            }
            let claimed = self.note(slot, segment, from).await;
            let trailer = self.stored_trailer(segment, slot).await;
            if let Some(trailer) = trailer {
                self.note_trailer(&trailer);
            }
            let next = claimed.into_iter().chain(trailer.map(|trailer| trailer.next));
            ways.extend(next.map(|(segment, slot)| (segment, slot, 0)));
        }
        // The last block of a log's segment is blank or a trailer. If it is neither, then perhaps a
        // damaged trailer named the next segment, which could be any.
        let last = self.blocks(at.slot, geometry.segment_blocks - 1, 1).await;
        if last.iter().all(|b| *b == 0) || Trailer::decode(self.identity, &last).is_ok() {
            return;
        }
        self.scan_unlisted_slots().await;
        let behind =
            self.unlisted.iter().flatten().filter(|(_, header)| header.first_lsn >= at.lsn);
        for (slot, segment) in
            behind.map(|(slot, header)| (*slot, header.segment)).collect::<Vec<_>>()
        {
            self.note(slot, segment, 0).await;
        }
    }

    /// Reads the first headers of all slots that no known segment is in.
    pub(super) async fn scan_unlisted_slots(&mut self) {
        if self.unlisted.is_some() {
            return;
        }
        let segments = &self.disk.segments;
        let slots: Vec<_> =
            (0..segments.geometry.slots).map(Slot).filter(|s| segments.is_free(*s)).collect();
        let mut unlisted = Vec::new();
        for slots in slots.chunks(LOADS_MAX) {
            let firsts = join_all(slots.iter().map(|slot| self.blocks(*slot, 0, 1))).await;
            let headers = slots.iter().zip(firsts).filter_map(|(slot, first)| {
                let header = BatchHeader::decode(self.identity, &first).ok()?;
                (header.block == 0).then_some((*slot, header))
            });
            unlisted.extend(headers);
        }
        self.unlisted = Some(unlisted);
    }

    /// Notes the synced LSN that the headers of a segment from `block` on state. Returns the next
    /// segment that they name.
    async fn note(
        &mut self,
        slot: Slot,
        segment: SegmentId,
        mut block: u32,
    ) -> Vec<(SegmentId, Slot)> {
        let geometry = self.disk.segments.geometry;
        let mut claimed = Vec::new();
        while block < geometry.segment_blocks {
            let blocks = READ_BLOCKS.min(geometry.segment_blocks - block);
            for bytes in self.blocks(slot, block, blocks).await.chunks_exact(BLOCK_BYTES) {
                if let Ok(header) = BatchHeader::decode(self.identity, bytes)
                    && (header.segment, header.block) == (segment, block)
                {
                    self.note_header(&header);
                    claimed.extend(header.next.filter(|next| Some(next) != claimed.last()));
                }
                block += 1;
            }
        }
        claimed
    }
}
