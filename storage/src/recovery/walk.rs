//! Walking the log behind the checkpoint: from segment to segment, from batch to batch, to its end.

use super::apply::{Located, Volumes};
use crate::{
    address::{Address, BLOCK_BYTES, Lsn, SegmentId, Slot},
    blindness::{Blindness, is_blind_to},
    checksum,
    disk::Disk,
    error::{Error, Result},
    format::{
        BatchHeader, Footer, FooterBatch, Identity, Malformed, Record, RecordKind, Records, ReplayStart,
        SegmentEntry, SegmentKind, SegmentPlace, Superblock, Trailer, footer_blocks,
    },
    io::{WriteBuf, aligned},
    log::Leftover,
};
use futures_util::future::try_join_all;
use std::sync::Arc;

/// Blocks read at once.
const READ_BLOCKS: u32 = 256;
/// Slots looked at together.
const LOADS_MAX: usize = 64;

/// Where the log ended, and what it took.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) at: ReplayStart,
    /// Batch entries of the last segment, for its footer.
    pub(super) footer: Vec<u8>,
    pub(super) footer_from: u32,
    pub(super) records: u64,
    pub(super) log_bytes: u64,
    pub(super) staged_records: u64,
    /// Blocks of data that were in staging only, and match their records: first and number.
    pub(super) staged: Vec<(Address, u32)>,
}

/// What becomes of a part of the log that only staging has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// It is put into the store: the log goes on behind it.
    InStore,
    /// It stays where it is: nothing may be written.
    Noted,
}

pub(super) struct Walk<'a> {
    disk: &'a Arc<Disk>,
    identity: &'a Identity,
    leftover: Option<Leftover>,
    completion: Completion,
    /// Every record below is known to have been synced.
    synced: Lsn,
    fence: Fence,
    /// Epoch of the last batch taken.
    epoch: u32,
    end: End,
}

/// What the superblock says of age: records from `lsn` on were written in `epoch` or later. Older ones there are an end
/// of the log that an earlier start did not find, and that must not come back once the store went on without it.
#[derive(Clone, Copy, Debug)]
struct Fence {
    lsn: Lsn,
    epoch: u32,
}

/// A batch that goes on where the log stands.
struct Batch {
    header: BatchHeader,
    records: Vec<u8>,
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
        superblock: &Superblock,
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
        };
        Self { disk, identity, leftover, completion, synced: superblock.synced, fence, epoch: 0, end }
    }

    /// Every record below is known to have been synced.
    pub(super) fn synced(&self) -> Lsn {
        self.synced
    }

    /// What was found so far.
    pub(super) fn end(self) -> End {
        self.end
    }

    /// Applies the log to its end.
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`]: damage below what was synced (recovery's I2). [`crate::Kind::Io`].
    pub(super) async fn run(&mut self, volumes: &mut Volumes) -> Result<()> {
        let footers = self.footers().await?;
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
            // The footers ended at a segment without one; it may have been completed from staging, and so on.
            while self.walk_segment(volumes).await? {}
            let known = self.synced;
            self.look_behind_end().await?;
            if self.synced == known {
                return self.check_end();
            }
            // A batch that is known to be synced is taken with whatever its data is by now: reading that tells.
        }
    }

    /// Keeps recovery's I2.
    fn check_end(&self) -> Result<()> {
        if self.end.at.lsn < self.synced && !is_blind_to(Blindness::SyncedEnd) {
            let (at, synced) = (self.end.at, self.synced.0);
            return Err(Error::corrupt(format!(
                "the log ends at record {} (segment {}, block {}), but was synced up to record {synced}",
                at.lsn.0, at.segment.0, at.block
            )));
        }
        Ok(())
    }

    /// Takes note of what headers behind the end say was synced. Their places are not the chain's word, but their
    /// checksums are keyed, and what one says stays true for ever: what was synced is in every later log, even where
    /// the header itself is from an end that was lost.
    async fn look_behind_end(&mut self) -> Result<()> {
        let geometry = self.disk.segments.geometry;
        let at = self.end.at;
        self.note_synced(at.slot, at.segment, at.block).await?;
        // What the segments behind it know of it, where their trailers lead there.
        let (mut segment, mut slot) = (at.segment, at.slot);
        while let Some(trailer) = self.stored_trailer(segment, slot).await? {
            (segment, slot) = trailer.next;
            if slot.0 < geometry.slots {
                self.note_synced(slot, segment, 0).await?;
            }
        }
        // The last block of a log's segment is blank or a trailer. If it is neither, then perhaps the trailer was damaged
        // that told the next segment, which could be any.
        let last = self.blocks(at.slot, geometry.segment_blocks - 1, 1).await?;
        if last.iter().all(|b| *b == 0) || Trailer::decode(self.identity, &last).is_ok() {
            return Ok(());
        }
        for slots in (0..geometry.slots).collect::<Vec<_>>().chunks(LOADS_MAX) {
            let firsts = try_join_all(slots.iter().map(|slot| self.blocks(Slot(*slot), 0, 1))).await?;
            for (slot, first) in slots.iter().zip(firsts) {
                if let Ok(header) = BatchHeader::decode(self.identity, &first)
                    && header.block == 0
                    && header.first_lsn >= at.lsn
                {
                    self.note_synced(Slot(*slot), header.segment, 0).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes note of what the headers of a segment from `block` on say was synced.
    async fn note_synced(&mut self, slot: Slot, segment: SegmentId, mut block: u32) -> Result<()> {
        let geometry = self.disk.segments.geometry;
        while block < geometry.segment_blocks {
            let blocks = READ_BLOCKS.min(geometry.segment_blocks - block);
            for bytes in self.blocks(slot, block, blocks).await?.chunks_exact(BLOCK_BYTES) {
                if let Ok(header) = BatchHeader::decode(self.identity, bytes)
                    && (header.segment, header.block) == (segment, block)
                {
                    self.synced = self.synced.max(header.synced);
                }
                block += 1;
            }
        }
        Ok(())
    }

    /// The footers from the replay start on, to the first segment without a valid one. They tell how far the log was
    /// synced before anything is replayed.
    async fn footers(&mut self) -> Result<Vec<Option<Footer>>> {
        let mut footers = Vec::new();
        let (mut segment, mut slot) = (self.end.at.segment, self.end.at.slot);
        while let Some(trailer) = self.stored_trailer(segment, slot).await? {
            self.synced = self.synced.max(trailer.synced);
            footers.push(self.footer(trailer, slot).await?);
            (segment, slot) = trailer.next;
        }
        Ok(footers)
    }

    async fn blocks(&self, slot: Slot, first: u32, blocks: u32) -> Result<Vec<u8>> {
        let len = blocks as usize * BLOCK_BYTES;
        let offset = self.disk.segments.geometry.offset(slot, first);
        let read = self.disk.file.read(offset, aligned(len), len).await;
        read.map(|b| b.to_vec()).map_err(|e| Error::io("reading the log", e))
    }

    async fn stored_trailer(&self, segment: SegmentId, slot: Slot) -> Result<Option<Trailer>> {
        let geometry = self.disk.segments.geometry;
        if slot.0 >= geometry.slots {
            return Ok(None);
        }
        let block = self.blocks(slot, geometry.segment_blocks - 1, 1).await?;
        Ok(Trailer::decode(self.identity, &block).ok().filter(|t| t.segment == segment && t.next.0 > segment))
    }

    async fn footer(&self, trailer: Trailer, slot: Slot) -> Result<Option<Footer>> {
        let geometry = self.disk.segments.geometry;
        let blocks = footer_blocks(trailer.content_bytes as usize);
        if blocks > geometry.segment_blocks {
            return Ok(None);
        }
        let bytes = self.blocks(slot, geometry.segment_blocks - blocks, blocks).await?;
        Ok(Footer::decode(self.identity, trailer, &bytes).ok())
    }

    /// Whether the footer has every batch from where the log stands to the segment's end.
    fn covers(&self, footer: &Footer) -> bool {
        let mut expected = self.end.at.lsn;
        let behind = |b: &&FooterBatch| b.block >= self.end.at.block;
        let mut batches: Vec<_> = footer.batches.iter().filter(behind).collect();
        batches.sort_by_key(|b| b.first_lsn);
        for batch in batches {
            if batch.first_lsn != expected || !self.is_young_enough(batch.first_lsn, batch.epoch) {
                return false;
            }
            let mut records = Records::new(self.identity, batch.epoch, batch.first_lsn, &batch.records);
            expected = expected.plus(records.by_ref().count() as u64);
            if records.consumed() != batch.records.len() {
                return false;
            }
        }
        footer.trailer.segment == self.end.at.segment && expected == footer.trailer.next_lsn
    }

    async fn apply_footer(&mut self, footer: &Footer, volumes: &mut Volumes) -> Result<()> {
        let segment = footer.trailer.segment;
        let mut batches: Vec<_> = footer.batches.iter().filter(|b| b.block >= self.end.at.block).collect();
        batches.sort_by_key(|b| b.first_lsn);
        // Some thousand records at a time, so that the nodes they need are read together.
        for batches in batches.chunks(64) {
            let mut located = Vec::new();
            for batch in batches {
                let records = Records::new(self.identity, batch.epoch, batch.first_lsn, &batch.records);
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
                // Higher than what stands before it, no higher than what comes behind: see `Logged::point`.
                _ => located.address = Address::from_raw(point.raw() + 1).expect("it follows an address"),
            }
            out.push(located);
        }
        Ok(())
    }

    fn locate<'r>(&self, record: Record<'r>, segment: SegmentId, header: u32) -> Result<Located<'r>> {
        let geometry = self.disk.segments.geometry;
        let beyond =
            |why: Malformed| Error::corrupt(format!("segment {} block {header}: {}", segment.0, why.0));
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
        self.end.at =
            ReplayStart { segment, slot, block: 0, lsn: trailer.next_lsn, previous: trailer.previous };
        self.end.footer.clear();
        self.end.footer_from = 0;
    }

    /// Follows the headers of the segment where the log stands. Whether it went on into another segment.
    async fn walk_segment(&mut self, volumes: &mut Volumes) -> Result<bool> {
        let geometry = self.disk.segments.geometry;
        let mut ahead = Ahead { first: 0, bytes: Vec::new() };
        loop {
            let fill = self.end.at.block;
            if fill < geometry.segment_blocks && self.take(fill, &mut ahead, volumes).await? {
                continue;
            }
            if let Some(trailer) = self.trailer().await? {
                self.enter_next(&trailer);
                return Ok(true);
            }
            // The rest of a window may be left empty; the log goes on in the next one then.
            let window = fill.next_multiple_of(geometry.window_blocks);
            if window == fill
                || window >= geometry.segment_blocks
                || !self.take(window, &mut ahead, volumes).await?
            {
                return Ok(false);
            }
        }
    }

    /// The trailer of this segment, if it ends here; completed from staging if need be.
    async fn trailer(&mut self) -> Result<Option<Trailer>> {
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
        if let Some(trailer) = self.stored_trailer(at.segment, at.slot).await?.filter(here) {
            self.synced = self.synced.max(trailer.synced);
            return Ok(Some(trailer));
        }
        let last = geometry.segment_blocks - 1;
        for window in 0..geometry.windows() {
            let Some(leftover) = &self.leftover else { break };
            let Ok(trailer) = Trailer::decode(self.identity, &leftover.read(window, last, 1)) else {
                continue;
            };
            // One from before the last start is in the store since then, or was not to be believed.
            if here(&trailer) && trailer.epoch >= self.fence.epoch {
                // Without the batches that it would repeat; `covers` finds that out.
                let block = Footer::encode(self.identity, trailer, &[]);
                self.complete(at.slot, last, &block).await?;
                return Ok(Some(trailer));
            }
        }
        Ok(None)
    }

    /// Takes the batch at `block`, if there is one that goes on where the log stands.
    async fn take(&mut self, block: u32, ahead: &mut Ahead, volumes: &mut Volumes) -> Result<bool> {
        let batch = match self.stored(block, ahead).await? {
            Some(batch) => batch,
            None => match self.staged(block).await? {
                Some(batch) => {
                    // What was read ahead is from before it was completed.
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
        self.synced = self.synced.max(header.synced);
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
        let young = epoch >= self.epoch && (first_lsn < self.fence.lsn || epoch >= self.fence.epoch);
        young || is_blind_to(Blindness::Fence)
    }

    fn window_rest(&self, block: u32) -> u32 {
        let window = self.disk.segments.geometry.window_blocks;
        window - block % window
    }

    /// The batch at `block` in the store.
    async fn stored(&self, block: u32, ahead: &mut Ahead) -> Result<Option<Batch>> {
        let header_block = self.read_ahead(ahead, block, 1).await?;
        let Ok(header) = BatchHeader::decode(self.identity, header_block) else { return Ok(None) };
        if !self.goes_on(&header, block) || header.data_blocks >= self.window_rest(block) {
            return Ok(None);
        }
        let at = BatchHeader::RECORDS_AT;
        let records = header_block[at..at + usize::from(header.records_bytes)].to_vec();
        let whole = Records::new(self.identity, header.epoch, header.first_lsn, &records).count();
        if whole != usize::from(header.records) {
            return Ok(None);
        }
        // Known to be synced: its data is checked when it is read.
        if header.first_lsn.plus(u64::from(header.records)) > self.synced {
            let data = self.read_ahead(ahead, block + 1, header.data_blocks).await?;
            let mut all = Records::new(self.identity, header.epoch, header.first_lsn, &records);
            if !all.all(|record| data_matches(&record, data)) && !is_blind_to(Blindness::ReplayData) {
                return Ok(None);
            }
        }
        Ok(Some(Batch { header, records }))
    }

    async fn read_ahead<'b>(&self, ahead: &'b mut Ahead, block: u32, blocks: u32) -> Result<&'b [u8]> {
        let held = |a: &Ahead| a.first..a.first + (a.bytes.len() / BLOCK_BYTES) as u32;
        let range = held(ahead);
        if block < range.start || block + blocks > range.end {
            let rest = self.disk.segments.geometry.segment_blocks - block;
            ahead.bytes = self.blocks(self.end.at.slot, block, blocks.max(READ_BLOCKS).min(rest)).await?;
            ahead.first = block;
        }
        let from = (block - ahead.first) as usize * BLOCK_BYTES;
        Ok(&ahead.bytes[from..from + blocks as usize * BLOCK_BYTES])
    }

    /// The batch at `block` in staging: its records up to the last that was committed. It is completed.
    async fn staged(&self, block: u32) -> Result<Option<Batch>> {
        let Some(leftover) = &self.leftover else { return Ok(None) };
        let rest = self.window_rest(block);
        for window in 0..self.disk.segments.geometry.windows() {
            let header_block = leftover.read(window, block, 1);
            let Ok((open, bytes)) = BatchHeader::decode_open(self.identity, &header_block) else { continue };
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
                ..open
            };
            let mut batch = header.seal(self.identity, &records);
            batch.extend_from_slice(&records);
            batch.resize(BLOCK_BYTES, 0);
            batch.extend_from_slice(&data[..data_blocks as usize * BLOCK_BYTES]);
            self.complete(self.end.at.slot, block, &batch).await?;
            return Ok(Some(Batch { header, records }));
        }
        Ok(None)
    }

    /// Puts what only staging had into the store, if it may. It is synced before the store is ready (recovery's I4).
    async fn complete(&self, slot: Slot, block: u32, bytes: &[u8]) -> Result<()> {
        match self.completion {
            Completion::InStore => {}
            Completion::Noted => return Ok(()),
        }
        let mut buffer = aligned(bytes.len());
        buffer.extend_from_slice(bytes);
        let offset = self.disk.segments.geometry.offset(slot, block);
        let written = self.disk.file.write(offset, WriteBuf::Owned(buffer)).await;
        written.map_err(|e| Error::io("completing the log from the staging buffer", e))
    }
}

/// Whether the data blocks of a record are what it says.
fn data_matches(record: &Record<'_>, data: &[u8]) -> bool {
    if record.head.kind != RecordKind::Data {
        return true;
    }
    let first = record.head.data_offset as usize;
    let end = first as u64 + record.head.count;
    let Some(blocks) = data.get(first * BLOCK_BYTES..end as usize * BLOCK_BYTES) else { return false };
    blocks
        .chunks_exact(BLOCK_BYTES)
        .enumerate()
        .all(|(i, block)| checksum::block(block) == record.checksum(i))
}
