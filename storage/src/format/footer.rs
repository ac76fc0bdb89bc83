//! The segment footer: all records of a sealed segment in one place, so that replay reads it
//! instead of every header.
//!
//! ```text
//!   … batches |  (gap)  | batch entry 24 B, its records | … | zero | trailer 128 B |
//!             fill      the footer is aligned to the segment's end ─────────────────┘
//! ```
//!
//! The footer is written in log order behind the batches it repeats, so nothing is acknowledged
//! behind it before it is in the store. It may survive a power loss that one of its batches did
//! not: replay uses it only for a segment that is known to be synced as a whole, and walks the
//! headers otherwise.

use super::{Identity, Malformed, VERSION};
use crate::base::{BLOCK_BYTES, Lsn, SegmentId, Slot, blocks_for};
use bytes::{Buf, BufMut};

const MAGIC: u32 = u32::from_le_bytes(*b"SSF1");
const ENTRY_BYTES: usize = 24;
const TRAILER_BYTES: usize = 128;
const CHECKED_BYTES: usize = 104;

/// Blocks that a footer with `content_bytes` of entries takes.
pub(crate) fn footer_blocks(content_bytes: usize) -> u32 {
    blocks_for(content_bytes + TRAILER_BYTES)
}

/// One batch of a footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FooterBatch {
    pub(crate) block: u32,
    pub(crate) epoch: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) records: Vec<u8>,
}

impl FooterBatch {
    /// Bytes of a batch with `records_bytes` of records in the footer.
    pub(crate) fn bytes(records_bytes: usize) -> usize {
        ENTRY_BYTES + records_bytes
    }

    /// Appends the batch to a footer's content.
    pub(crate) fn encode(
        block: u32,
        epoch: u32,
        first_lsn: Lsn,
        records: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.put_u32_le(block);
        out.put_u32_le(epoch);
        out.put_u64_le(first_lsn.0);
        out.put_u32_le(u32::try_from(records.len()).expect("records fit a block"));
        out.put_u32_le(0);
        out.put_slice(records);
    }
}

/// The last bytes of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) segment: SegmentId,
    pub(crate) epoch: u32,
    /// Bytes of batch entries.
    pub(crate) content_bytes: u32,
    pub(crate) content_checksum: u32,
    /// First block behind the last batch.
    pub(crate) fill: u32,
    /// The footer holds the batches from this block on.
    pub(crate) from_block: u32,
    /// LSN behind the segment's last record.
    pub(crate) next_lsn: Lsn,
    /// `first_lsn` of the segment's last batch.
    pub(crate) previous: Lsn,
    /// Every record below was known to be synced.
    pub(crate) synced: Lsn,
    /// The next segment of the log, and its slot.
    pub(crate) next: (SegmentId, Slot),
    /// Generation of the newest superblock that was synced when this was written.
    pub(crate) generation: u64,
}

impl Trailer {
    fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u64_le(identity.short());
        out.put_u64_le(self.segment.0);
        out.put_u32_le(self.epoch);
        out.put_u32_le(self.content_bytes);
        out.put_u32_le(self.content_checksum);
        out.put_u32_le(self.fill);
        out.put_u32_le(self.from_block);
        out.put_u32_le(self.next.1.0);
        out.put_u64_le(self.next.0.0);
        out.put_u64_le(self.next_lsn.0);
        out.put_u64_le(self.previous.0);
        out.put_u64_le(self.synced.0);
        out.put_u64_le(self.generation);
        out.resize(CHECKED_BYTES, 0);
        let crc = identity.secret.keyed(self.epoch, &[&out]);
        out.put_u32_le(crc);
        out.resize(TRAILER_BYTES, 0);
        out
    }

    /// Reads the trailer from a segment's last block.
    pub(crate) fn decode(identity: &Identity, last_block: &[u8]) -> Result<Self, Malformed> {
        let bytes = last_block
            .get(BLOCK_BYTES - TRAILER_BYTES..BLOCK_BYTES)
            .ok_or(Malformed("a block is short"))?;
        let mut b = bytes;
        if b.get_u32_le() != MAGIC || b.get_u16_le() != VERSION || b.get_u16_le() != 0 {
            return Err(Malformed("there is no segment footer"));
        }
        if b.get_u64_le() != identity.short() {
            return Err(Malformed("the footer is of another store"));
        }
        let segment = SegmentId(b.get_u64_le());
        let epoch = b.get_u32_le();
        let content_bytes = b.get_u32_le();
        let content_checksum = b.get_u32_le();
        let fill = b.get_u32_le();
        let from_block = b.get_u32_le();
        let next_slot = Slot(b.get_u32_le());
        let trailer = Self {
            segment,
            epoch,
            content_bytes,
            content_checksum,
            fill,
            from_block,
            next: (SegmentId(b.get_u64_le()), next_slot),
            next_lsn: Lsn(b.get_u64_le()),
            previous: Lsn(b.get_u64_le()),
            synced: Lsn(b.get_u64_le()),
            generation: b.get_u64_le(),
        };
        if identity.secret.keyed(epoch, &[&bytes[..CHECKED_BYTES]])
            != (&bytes[CHECKED_BYTES..]).get_u32_le()
        {
            return Err(Malformed("the footer's checksum does not match"));
        }
        Ok(trailer)
    }
}

/// A whole footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) trailer: Trailer,
    pub(crate) batches: Vec<FooterBatch>,
}

impl Footer {
    /// The footer's blocks for content of batch entries; `trailer`'s content fields are filled in
    /// here.
    pub(crate) fn encode(identity: &Identity, mut trailer: Trailer, content: &[u8]) -> Vec<u8> {
        trailer.content_bytes = u32::try_from(content.len()).expect("below a segment");
        trailer.content_checksum = identity.secret.keyed(trailer.epoch, &[content]);
        let total = footer_blocks(content.len()) as usize * BLOCK_BYTES;
        let mut out = Vec::with_capacity(total);
        out.put_slice(content);
        out.resize(total - TRAILER_BYTES, 0);
        out.put_slice(&trailer.encode(identity));
        out
    }

    /// Reads a footer's blocks, whose trailer was read before.
    pub(crate) fn decode(
        identity: &Identity,
        trailer: Trailer,
        blocks: &[u8],
    ) -> Result<Self, Malformed> {
        let content =
            blocks.get(..trailer.content_bytes as usize).ok_or(Malformed("the footer is short"))?;
        if identity.secret.keyed(trailer.epoch, &[content]) != trailer.content_checksum {
            return Err(Malformed("the footer's content does not match its checksum"));
        }
        let (mut b, mut batches) = (content, Vec::new());
        while !b.is_empty() {
            let block = b.try_get_u32_le()?;
            let epoch = b.try_get_u32_le()?;
            let first_lsn = Lsn(b.try_get_u64_le()?);
            let len = b.try_get_u32_le()? as usize;
            let _reserved = b.try_get_u32_le()?;
            let records = b.get(..len).ok_or(Malformed("a footer's batch is short"))?.to_vec();
            b.advance(len);
            batches.push(FooterBatch { block, epoch, first_lsn, records });
        }
        Ok(Self { trailer, batches })
    }
}
