//! Walking the log behind the checkpoint: from segment to segment, from batch to batch, to its end.

use super::apply::{Located, Volumes};
use crate::{
    base::{
        Address, BLOCK_BYTES, Blindness, Error, Lsn, Result, SegmentId, Slot, checksum, is_blind_to,
    },
    disk::{Disk, salvage},
    format::{
        BatchHeader, Footer, FooterBatch, Identity, Malformed, Record, RecordKind, Records,
        ReplayStart, SegmentEntry, SegmentKind, SegmentPlace, Superblock, Trailer, footer_blocks,
    },
    log::Leftover,
};
use futures_util::future::join_all;
use sandstone_ring::{WriteBuf, aligned};
use std::{collections::HashSet, io, sync::Arc};

/// Blocks read at once.
const READ_BLOCKS: u32 = 256;
/// Bytes that are gathered for one write when the tail is written again.
const AGAIN_BYTES: usize = 1 << 20;
/// Slots that are read at once.
const LOADS_MAX: usize = 64;

/// The end of the log, and the totals of the walk.
#[derive(Debug)]
pub(super) struct End {
    pub(super) at: ReplayStart,
    /// Batch entries of the last segment, for its footer.
    pub(super) footer: Vec<u8>,
    pub(super) footer_from: u32,
    pub(super) records: u64,
    pub(super) log_bytes: u64,
    pub(super) staged_records: u64,
    /// Data blocks that were only in staging, and match their records: first and number.
    pub(super) staged: Vec<(Address, u32)>,
    /// Why the tail could not be written, if that failed.
    pub(super) unwritable: Option<io::Error>,
    /// Part of the tail is still only in staging.
    pub(super) is_incomplete: bool,
    /// Segments that the log has left.
    pub(super) left: Vec<Left>,
}

/// A segment that the log has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) segment: SegmentId,
    pub(crate) slot: Slot,
    /// LSN behind its last record.
    pub(crate) next_lsn: Lsn,
    pub(crate) next: (SegmentId, Slot),
}

/// What recovery does with a part of the log that only staging has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// Recovery writes it to the store: the log goes on behind it.
    InStore,
    /// Recovery only notes it: nothing may be written.
    Noted,
}

pub(super) struct Walk<'a> {
    disk: &'a Arc<Disk>,
    identity: &'a Identity,
    leftover: Option<Leftover>,
    completion: Completion,
    /// Every record below is known to have been synced.
    synced: Lsn,
    /// Newest generation of a superblock that the log says was synced. Whether the superblock that
    /// was read was synced is not known.
    generation: u64,
    superblock: &'a Superblock,
    /// The segment that is claimed behind this one, by its last batch or the superblock.
    claim: Option<(SegmentId, Slot)>,
    /// First headers of the slots that no known segment is in, once they were scanned.
    unlisted: Option<Vec<(Slot, BatchHeader)>>,
    again: Again,
    fence: Fence,
    /// Epoch of the last batch taken.
    epoch: u32,
    end: End,
}

/// The superblock's fence: records from `lsn` on were written in `epoch` or later. Older records
/// there are an end of the log that an earlier start did not find, and that must not come back once
/// the store went on without it.
#[derive(Clone, Copy, Debug)]
struct Fence {
    lsn: Lsn,
    epoch: u32,
}

/// The next batch of the log.
struct Batch {
    header: BatchHeader,
    records: Vec<u8>,
}

/// Consecutive bytes of the tail that are written again.
#[derive(Default)]
struct Again {
    offset: u64,
    bytes: Vec<u8>,
}

/// Blocks of a segment, read ahead.
struct Ahead {
    first: u32,
    bytes: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        disk: &'a Arc<Disk>,
        identity: &'a Identity,
        leftover: Option<Leftover>,
        superblock: &'a Superblock,
        completion: Completion,
    ) -> Self {
        let at = superblock.replay;
        let fence = Fence { lsn: superblock.synced, epoch: superblock.epoch };
        let end = End {
            at,
            footer: Vec::new(),
            footer_from: at.block,
            records: 0,
            log_bytes: 0,
            staged_records: 0,
            staged: Vec::new(),
            unwritable: None,
            is_incomplete: false,
            left: Vec::new(),
        };
        Self {
            disk,
            identity,
            leftover,
            completion,
            synced: superblock.synced,
            generation: 0,
            superblock,
            claim: superblock.claim.next.filter(|_| superblock.claim.of == at.segment),
            unlisted: None,
            again: Again::default(),
            fence,
            epoch: 0,
            end,
        }
    }

    /// Every record below is known to have been synced.
    pub(super) fn synced(&self) -> Lsn {
        self.synced
    }

    /// The end of the walk so far.
    pub(super) fn end(self) -> End {
        self.end
    }

    /// Applies the log to its end.
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`]: damage to what was synced (recovery's I2 and I5).
    pub(super) async fn run(&mut self, volumes: &mut Volumes) -> Result<()> {
        let walked = self.walk(volumes).await;
        self.write_again().await;
        walked?;
        match volumes.damage() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn walk(&mut self, volumes: &mut Volumes) -> Result<()> {
        let footers = self.footers().await;
        for footer in footers {
            match footer {
                Some(footer) if footer.trailer.next_lsn <= self.synced && self.covers(&footer) => {
                    self.apply_footer(&footer, volumes).await?;
                }
                _ => {
                    if !self.walk_segment(volumes).await? {
                        break;
                    }
                }
            }
        }
        loop {
            // The footers end at a segment without one; the log may go on from it by its headers or
            // staging.
            while self.walk_segment(volumes).await? {}
            let known = self.synced;
            self.scan_past_tail().await;
            if self.synced == known {
                return self.check_end().await;
            }
            // A batch that is known to be synced is taken without checking its data: reads check
            // it.
        }
    }

    /// Keeps recovery's I2 and I5.
    async fn check_end(&self) -> Result<()> {
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
    async fn scan_past_tail(&mut self) {
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
    async fn scan_unlisted_slots(&mut self) {
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

    fn note_header(&mut self, header: &BatchHeader) {
        self.synced = self.synced.max(header.synced);
        self.generation = self.generation.max(header.generation);
    }

    fn note_trailer(&mut self, trailer: &Trailer) {
        self.synced = self.synced.max(trailer.synced);
        self.generation = self.generation.max(trailer.generation);
    }

    /// The next segment, where no footer names it.
    fn claim(&self) -> Option<(SegmentId, Slot)> {
        let slots = self.disk.segments.geometry.slots;
        let fits =
            |(segment, slot): &(SegmentId, Slot)| *segment > self.end.at.segment && slot.0 < slots;
        self.claim.filter(fits).filter(|_| !is_blind_to(Blindness::NextSegment))
    }

    /// Reads the footers from the replay start on, to the first segment without a valid one. They
    /// show how far the log was synced before anything is replayed.
    async fn footers(&mut self) -> Vec<Option<Footer>> {
        let mut footers = Vec::new();
        let (mut segment, mut slot) = (self.end.at.segment, self.end.at.slot);
        while let Some(trailer) = self.stored_trailer(segment, slot).await {
            self.note_trailer(&trailer);
            footers.push(self.footer(trailer, slot).await);
            (segment, slot) = trailer.next;
        }
        footers
    }

    async fn blocks(&self, slot: Slot, first: u32, blocks: u32) -> Vec<u8> {
        let offset = self.disk.segments.geometry.offset(slot, first);
        salvage::read_blocks(&self.disk.file, offset, blocks).await
    }

    async fn stored_trailer(&self, segment: SegmentId, slot: Slot) -> Option<Trailer> {
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
    fn covers(&self, footer: &Footer) -> bool {
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

    async fn apply_footer(&mut self, footer: &Footer, volumes: &mut Volumes) -> Result<()> {
        let segment = footer.trailer.segment;
        let mut batches: Vec<_> =
            footer.batches.iter().filter(|b| b.block >= self.end.at.block).collect();
        batches.sort_by_key(|b| b.first_lsn);
        // Some thousand records at a time, so that the nodes they need are read together.
        for batches in batches.chunks(64) {
            let mut located = Vec::new();
            for batch in batches {
                let records =
                    Records::new(self.identity, batch.epoch, batch.first_lsn, &batch.records);
                self.locate_all(records, segment, batch.block, &mut located)?;
                self.epoch = self.epoch.max(batch.epoch);
            }
            volumes.apply(&located).await?;
            self.end.records += located.len() as u64;
        }
        self.end.log_bytes +=
            u64::from(footer.trailer.fill.saturating_sub(self.end.at.block)) * BLOCK_BYTES as u64;
        self.enter_next(&footer.trailer);
        Ok(())
    }

    /// Appends the records of the batch whose header stands at `header` of a segment.
    fn locate_all<'r>(
        &self,
        records: Records<'r>,
        segment: SegmentId,
        header: u32,
        out: &mut Vec<Located<'r>>,
    ) -> Result<()> {
        let mut point = Address::new(segment, header);
        for record in records {
            let mut located = self.locate(record, segment, header)?;
            match record.head.kind {
                RecordKind::Data => {
                    let last = record.head.count - 1;
                    point = located.address.plus(last as u32);
                }
                // Higher than addresses before it, no higher than addresses behind it: see
                // `Logged::point`.
                _ => {
                    located.address =
                        Address::from_raw(point.raw() + 1).expect("it follows an address")
                }
            }
            out.push(located);
        }
        Ok(())
    }

    fn locate<'r>(
        &self,
        record: Record<'r>,
        segment: SegmentId,
        header: u32,
    ) -> Result<Located<'r>> {
        let geometry = self.disk.segments.geometry;
        let beyond = |why: Malformed| {
            Error::corrupt(format!("segment {} block {header}: {}", segment.0, why.0))
        };
        let address = record.address(segment, header).map_err(beyond)?;
        if u64::from(address.block()) + record.head.count > u64::from(geometry.segment_blocks)
            && record.head.kind == RecordKind::Data
        {
            return Err(beyond(Malformed("a record's data lies beyond its segment")));
        }
        Ok(Located { record, address })
    }

    fn enter_next(&mut self, trailer: &Trailer) {
        let (segment, slot) = trailer.next;
        let place = SegmentPlace::Own(slot);
        self.disk.segments.adopt(&SegmentEntry { id: segment, kind: SegmentKind::Log, place });
        let Trailer { next_lsn, next, .. } = *trailer;
        let left = Left { segment: trailer.segment, slot: self.end.at.slot, next_lsn, next };
        self.end.left.push(left);
        self.claim = self.superblock.claim.next.filter(|_| self.superblock.claim.of == segment);
        self.end.at = ReplayStart {
            segment,
            slot,
            block: 0,
            lsn: trailer.next_lsn,
            previous: trailer.previous,
        };
        self.end.footer.clear();
        self.end.footer_from = 0;
    }

    /// Follows the headers of the current segment. Returns whether the log went on into another
    /// one.
    async fn walk_segment(&mut self, volumes: &mut Volumes) -> Result<bool> {
        let geometry = self.disk.segments.geometry;
        let mut ahead = Ahead { first: 0, bytes: Vec::new() };
        loop {
            let fill = self.end.at.block;
            if fill < geometry.segment_blocks && self.take(fill, &mut ahead, volumes).await? {
                continue;
            }
            if let Some(trailer) = self.trailer().await {
                self.enter_next(&trailer);
                return Ok(true);
            }
            // The rest of a window may be left empty; the log goes on in the next one then.
            let window = fill.next_multiple_of(geometry.window_blocks);
            if window != fill
                && window < geometry.segment_blocks
                && self.take(window, &mut ahead, volumes).await?
            {
                continue;
            }
            let Some(trailer) = self.lost_trailer().await else { return Ok(false) };
            tracing::warn!(
                segment = trailer.segment.0,
                next = trailer.next.0.0,
                "a footer was lost"
            );
            self.enter_next(&trailer);
            return Ok(true);
        }
    }

    /// Reconstructs and writes the trailer of this segment, if it is lost and the log goes on
    /// elsewhere: in the claimed segment, or, where the store had no room for a claim, in any slot.
    async fn lost_trailer(&mut self) -> Option<Trailer> {
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
    async fn trailer(&mut self) -> Option<Trailer> {
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

    /// Replays the batch at `block`, if it is the next one of the log.
    async fn take(&mut self, block: u32, ahead: &mut Ahead, volumes: &mut Volumes) -> Result<bool> {
        let batch = match self.stored(block, ahead).await {
            Some(batch) => batch,
            None => match self.staged(block).await {
                Some(batch) => {
                    // The blocks that were read ahead are from before the completion.
                    ahead.bytes.clear();
                    self.end.staged_records += u64::from(batch.header.records);
                    if batch.header.data_blocks > 0 {
                        let data = Address::new(batch.header.segment, block + 1);
                        self.end.staged.push((data, batch.header.data_blocks));
                    }
                    batch
                }
                None => return Ok(false),
            },
        };
        let Batch { header, records } = batch;
        let mut located = Vec::new();
        let all = Records::new(self.identity, header.epoch, header.first_lsn, &records);
        self.locate_all(all, header.segment, block, &mut located)?;
        volumes.apply(&located).await?;
        let blocks = 1 + header.data_blocks;
        self.end.records += u64::from(header.records);
        self.end.log_bytes += u64::from(blocks) * BLOCK_BYTES as u64;
        FooterBatch::encode(block, header.epoch, header.first_lsn, &records, &mut self.end.footer);
        self.end.at.block = block + blocks;
        self.end.at.lsn = header.first_lsn.plus(u64::from(header.records));
        self.end.at.previous = header.first_lsn;
        self.epoch = header.epoch;
        self.note_header(&header);
        // A claim from before the last start is void; the superblock has the new one.
        let is_void =
            self.superblock.claim.of == header.segment && header.epoch < self.superblock.epoch;
        if !is_void {
            self.claim = header.next.or(self.claim);
        }
        Ok(true)
    }

    /// Whether a header is the next one of the log, standing at `block`.
    fn goes_on(&self, header: &BatchHeader, block: u32) -> bool {
        let at = self.end.at;
        header.segment == at.segment
            && header.block == block
            && header.first_lsn == at.lsn
            && header.previous == at.previous
            && self.is_young_enough(header.first_lsn, header.epoch)
    }

    fn is_young_enough(&self, first_lsn: Lsn, epoch: u32) -> bool {
        let young =
            epoch >= self.epoch && (first_lsn < self.fence.lsn || epoch >= self.fence.epoch);
        young || is_blind_to(Blindness::Fence)
    }

    fn window_rest(&self, block: u32) -> u32 {
        let window = self.disk.segments.geometry.window_blocks;
        window - block % window
    }

    /// The batch at `block` in the store.
    async fn stored(&mut self, block: u32, ahead: &mut Ahead) -> Option<Batch> {
        let header_block = self.read_ahead(ahead, block, 1).await.to_vec();
        let header = BatchHeader::decode(self.identity, &header_block).ok()?;
        if !self.goes_on(&header, block) || header.data_blocks >= self.window_rest(block) {
            return None;
        }
        let at = BatchHeader::RECORDS_AT;
        let records = header_block[at..at + usize::from(header.records_bytes)].to_vec();
        let whole = Records::new(self.identity, header.epoch, header.first_lsn, &records).count();
        if whole != usize::from(header.records) {
            return None;
        }
        // Known to be synced: its data is checked when it is read.
        if header.first_lsn.plus(u64::from(header.records)) > self.synced {
            let data = self.read_ahead(ahead, block + 1, header.data_blocks).await;
            let mut all = Records::new(self.identity, header.epoch, header.first_lsn, &records);
            if !all.all(|record| data_matches(&record, data)) && !is_blind_to(Blindness::ReplayData)
            {
                return None;
            }
            if self.completion == Completion::InStore && !is_blind_to(Blindness::WrittenAgain) {
                let offset = self.disk.segments.geometry.offset(self.end.at.slot, block);
                self.note_again(offset, &[&header_block, data]).await; // keeps recovery's I4
            }
        }
        Some(Batch { header, records })
    }

    /// Notes bytes to be written again where they were read.
    async fn note_again(&mut self, offset: u64, parts: &[&[u8]]) {
        let Again { offset: first, bytes } = &self.again;
        if first + bytes.len() as u64 != offset || bytes.len() >= AGAIN_BYTES {
            self.write_again().await;
            self.again.offset = offset;
        }
        parts.iter().for_each(|part| self.again.bytes.extend_from_slice(part));
    }

    async fn write_again(&mut self) {
        let Again { offset, bytes } = std::mem::take(&mut self.again);
        if !bytes.is_empty() {
            self.write(offset, &bytes).await;
        }
    }

    async fn read_ahead<'b>(&self, ahead: &'b mut Ahead, block: u32, blocks: u32) -> &'b [u8] {
        let held = |a: &Ahead| a.first..a.first + (a.bytes.len() / BLOCK_BYTES) as u32;
        let range = held(ahead);
        if block < range.start || block + blocks > range.end {
            let rest = self.disk.segments.geometry.segment_blocks - block;
            ahead.bytes =
                self.blocks(self.end.at.slot, block, blocks.max(READ_BLOCKS).min(rest)).await;
            ahead.first = block;
        }
        let from = (block - ahead.first) as usize * BLOCK_BYTES;
        &ahead.bytes[from..from + blocks as usize * BLOCK_BYTES]
    }

    /// The batch at `block` in staging: its records up to the last that was committed. It is
    /// completed in the store.
    async fn staged(&mut self, block: u32) -> Option<Batch> {
        let leftover = self.leftover.as_ref()?;
        let rest = self.window_rest(block);
        for window in 0..self.disk.segments.geometry.windows() {
            let header_block = leftover.read(window, block, 1);
            let Ok((open, bytes)) = BatchHeader::decode_open(self.identity, &header_block) else {
                continue;
            };
            if !self.goes_on(&open, block) {
                continue;
            }
            let data = leftover.read(window, block, rest);
            let data = &data[BLOCK_BYTES..];
            let mut records = Records::new(self.identity, open.epoch, open.first_lsn, bytes);
            let (mut count, mut data_blocks, mut len) = (0u16, 0, 0);
            while let Some(record) = records.next() {
                if !data_matches(&record, data) {
                    break;
                }
                if record.head.kind == RecordKind::Data {
                    data_blocks = record.head.data_offset + record.head.count as u32;
                }
                count += 1;
                len = records.consumed();
            }
            if count == 0 {
                continue;
            }
            let records = bytes[..len].to_vec();
            let header = BatchHeader {
                records: count,
                records_bytes: len as u16,
                data_blocks,
                synced: self.synced,
                next: self.claim,
                generation: self.generation,
                ..open
            };
            let mut batch = header.seal(self.identity, &records);
            batch.extend_from_slice(&records);
            batch.resize(BLOCK_BYTES, 0);
            batch.extend_from_slice(&data[..data_blocks as usize * BLOCK_BYTES]);
            self.complete(self.end.at.slot, block, &batch).await;
            self.end.is_incomplete |= self.end.unwritable.is_some();
            return Some(Batch { header, records });
        }
        None
    }

    /// Writes bytes that only staging had, or that were lost, to the store, if it may. It is synced
    /// before the store is ready (recovery's I4).
    async fn complete(&mut self, slot: Slot, block: u32, bytes: &[u8]) {
        match self.completion {
            Completion::InStore => {
                self.write(self.disk.segments.geometry.offset(slot, block), bytes).await;
            }
            Completion::Noted => {}
        }
    }

    async fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut buffer = aligned(bytes.len());
        buffer.extend_from_slice(bytes);
        if let Err(error) = self.disk.file.write(offset, WriteBuf::Owned(buffer)).await {
            // Readable data is served all the same, and nothing more is written.
            self.completion = Completion::Noted;
            self.end.unwritable.get_or_insert(error);
        }
    }
}

/// Whether the data blocks of a record match its checksums.
fn data_matches(record: &Record<'_>, data: &[u8]) -> bool {
    if record.head.kind != RecordKind::Data {
        return true;
    }
    let first = record.head.data_offset as usize;
    let end = first as u64 + record.head.count;
    let Some(blocks) = data.get(first * BLOCK_BYTES..end as usize * BLOCK_BYTES) else {
        return false;
    };
    blocks
        .chunks_exact(BLOCK_BYTES)
        .enumerate()
        .all(|(i, block)| checksum::block(block) == record.checksum(i))
}
