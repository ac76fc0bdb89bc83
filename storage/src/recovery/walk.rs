//! Walking the log behind the checkpoint: from segment to segment, from batch to batch, to its end.

use super::apply::{Located, Volumes};
use crate::{
    base::{
        Address, BLOCK_BYTES, Blindness, Error, Lsn, Result, SegmentId, Slot, checksum, is_blind_to,
    },
    disk::{Disk, salvage},
    format::{
        BatchHeader, Footer, FooterBatch, Identity, Malformed, Record, RecordKind, Records,
        ReplayStart, SegmentEntry, SegmentKind, SegmentPlace, Superblock, Trailer,
    },
    log::Leftover,
};
use sandstone_ring::{WriteBuf, aligned};
use std::{io, sync::Arc};

mod past_tail;
mod trailers;

/// Blocks read at once.
const READ_BLOCKS: u32 = 256;
/// Bytes that are gathered for one write when the tail is written again.
const AGAIN_BYTES: usize = 1 << 20;

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

    async fn blocks(&self, slot: Slot, first: u32, blocks: u32) -> Vec<u8> {
        let offset = self.disk.segments.geometry.offset(slot, first);
        salvage::read_blocks(&self.disk.file, offset, blocks).await
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
