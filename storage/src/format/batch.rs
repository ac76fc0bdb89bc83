//! The batch header: one block of records, followed by their data blocks.
//!
//! ```text
//!   | header 96 B | record | record | … | zero |  data block | data block | …
//!                  head 32 B + payload (crc32 per block, or a catalog entry)
//! ```
//!
//! I1  LSNs of a chain of batches have no gap: `first_lsn` of a batch is the previous one's plus
//!     its records.
//! I2  Epochs along the chain never decrease, so a batch that an earlier start left further on is
//!     not taken.
//! I3  A record carries its own keyed checksum over its LSN, so the open batch in staging, whose
//!     header is not sealed, is read up to its last committed record, and a stale record in the
//!     same place is not.

use super::{Identity, Malformed, VERSION};
use crate::base::{Address, BLOCK_BYTES, Lsn, SegmentId, Slot, VolumeNumber};
use bytes::{Buf, BufMut};

const MAGIC: u32 = u32::from_le_bytes(*b"SSB1");
const HEADER_BYTES: usize = 96;
const CHECKSUM_AT: usize = 88;

/// Bytes of a header block that records may fill.
pub(crate) const HEADER_RECORDS_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEAD_BYTES: usize = 32;

/// A batch header without its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) segment: SegmentId,
    /// Block of the header within its segment; the data follows.
    pub(crate) block: u32,
    pub(crate) epoch: u32,
    pub(crate) first_lsn: Lsn,
    /// `first_lsn` of the batch before; zero in a store's first batch.
    pub(crate) previous: Lsn,
    /// Every record below this LSN was known to be synced when the header was sealed.
    pub(crate) synced: Lsn,
    pub(crate) data_blocks: u32,
    pub(crate) records: u16,
    /// Bytes of records after the header.
    pub(crate) records_bytes: u16,
    /// The next segment of the log, and its slot; `None` while the store has no room for another
    /// one.
    pub(crate) next: Option<(SegmentId, Slot)>,
    /// Generation of the newest superblock that was synced when the header was sealed.
    pub(crate) generation: u64,
}

impl BatchHeader {
    fn encode(&self, identity: &Identity, out: &mut Vec<u8>) {
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(self.records_bytes);
        out.put_u64_le(identity.short());
        out.put_u64_le(self.segment.0);
        out.put_u32_le(self.block);
        out.put_u32_le(self.epoch);
        out.put_u64_le(self.first_lsn.0);
        out.put_u64_le(self.previous.0);
        out.put_u64_le(self.synced.0);
        out.put_u32_le(self.data_blocks);
        out.put_u16_le(self.records);
        out.put_u16_le(0);
        let (next, slot) = self.next.unwrap_or((SegmentId(0), Slot(0)));
        out.put_u64_le(next.0);
        out.put_u32_le(slot.0);
        out.put_u32_le(0);
        out.put_u64_le(self.generation);
    }

    /// The header's bytes, sealed: with the checksum over itself and `records`.
    pub(crate) fn seal(&self, identity: &Identity, records: &[u8]) -> Vec<u8> {
        debug_assert_eq!(records.len(), usize::from(self.records_bytes));
        let mut out = Vec::with_capacity(HEADER_BYTES);
        self.encode(identity, &mut out);
        let crc = identity.secret.keyed(self.epoch, &[&out, records]);
        out.put_u32_le(crc);
        out.resize(HEADER_BYTES, 0);
        out
    }

    /// The header's bytes while the batch is open in staging: no checksum, each record has its own
    /// (I3).
    pub(crate) fn open(&self, identity: &Identity) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        self.encode(identity, &mut out);
        out.resize(HEADER_BYTES, 0);
        out
    }

    /// Where the records begin in the header block.
    pub(crate) const RECORDS_AT: usize = HEADER_BYTES;

    /// Reads a sealed header block.
    ///
    /// # Errors
    /// When it is no header of this store, or its checksum is wrong.
    pub(crate) fn decode(identity: &Identity, block: &[u8]) -> Result<Self, Malformed> {
        let (header, _) = Self::decode_open(identity, block)?;
        let end = HEADER_BYTES + usize::from(header.records_bytes);
        let records = block.get(HEADER_BYTES..end).ok_or(Malformed("the records do not fit"))?;
        let stored = (&block[CHECKSUM_AT..]).get_u32_le();
        if identity.secret.keyed(header.epoch, &[&block[..CHECKSUM_AT], records]) != stored {
            return Err(Malformed("the header's checksum does not match"));
        }
        Ok(header)
    }

    /// Reads the header of a batch that may not be sealed; only its place and its first LSN are
    /// valid, and these only together with the records behind them; the other fields are filled in
    /// when it is sealed. Returns the rest of the block too.
    pub(crate) fn decode_open<'a>(
        identity: &Identity,
        block: &'a [u8],
    ) -> Result<(Self, &'a [u8]), Malformed> {
        if block.len() < BLOCK_BYTES {
            return Err(Malformed("a header is a block long"));
        }
        let mut b = block;
        if b.get_u32_le() != MAGIC {
            return Err(Malformed("there is no batch header"));
        }
        if b.get_u16_le() != VERSION {
            return Err(Malformed("the batch is of another version"));
        }
        let records_bytes = b.get_u16_le();
        if b.get_u64_le() != identity.short() {
            return Err(Malformed("the batch is of another store"));
        }
        let header = Self {
            records_bytes,
            segment: SegmentId(b.get_u64_le()),
            block: b.get_u32_le(),
            epoch: b.get_u32_le(),
            first_lsn: Lsn(b.get_u64_le()),
            previous: Lsn(b.get_u64_le()),
            synced: Lsn(b.get_u64_le()),
            data_blocks: b.get_u32_le(),
            records: b.get_u16_le(),
            next: {
                let _reserved = b.get_u16_le();
                let next = (SegmentId(b.get_u64_le()), Slot(b.get_u32_le()));
                (next.0.0 != 0).then_some(next)
            },
            generation: {
                let _reserved = b.get_u32_le();
                b.get_u64_le()
            },
        };
        Ok((header, &block[HEADER_BYTES..BLOCK_BYTES]))
    }
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// `count` blocks of the volume hold the data blocks from `data_offset` on; the payload is
    /// their checksums.
    Data,
    /// `count` blocks are a hole.
    Hole,
    /// `count` blocks read as zeroes and are reserved (`NBD_CMD_FLAG_NO_HOLE`).
    Zero,
    /// The volume exists, with the size, settings and attributes of the payload.
    VolumePut,
    /// The volume or snapshot is deleted, and with a volume its snapshots.
    VolumeDelete,
    /// A volume or snapshot begins as a copy of this one; it has the number, size, settings and
    /// attributes of the payload.
    Fork,
    /// The volume is restored to its snapshot of the payload's number, in content and size.
    Restore,
}

impl RecordKind {
    fn raw(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Hole => 2,
            Self::Zero => 3,
            Self::VolumePut => 16,
            Self::VolumeDelete => 17,
            Self::Fork => 18,
            Self::Restore => 19,
        }
    }

    fn from_raw(raw: u8) -> Result<Self, Malformed> {
        Ok(match raw {
            1 => Self::Data,
            2 => Self::Hole,
            3 => Self::Zero,
            16 => Self::VolumePut,
            17 => Self::VolumeDelete,
            18 => Self::Fork,
            19 => Self::Restore,
            _ => return Err(Malformed("a record is of an unknown kind")),
        })
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) kind: RecordKind,
    pub(crate) volume: VolumeNumber,
    /// First block of the volume.
    pub(crate) block: u64,
    /// Blocks of the volume.
    pub(crate) count: u64,
    /// Block within the batch's data; only with [`RecordKind::Data`].
    pub(crate) data_offset: u32,
}

impl RecordHead {
    /// Appends the record to `out`, committed by its own checksum.
    pub(crate) fn encode(
        &self,
        identity: &Identity,
        epoch: u32,
        lsn: Lsn,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        let at = out.len();
        out.put_u8(self.kind.raw());
        out.put_u8(0);
        out.put_u16_le(u16::try_from(payload.len()).expect("a payload fits a header block"));
        out.put_u32_le(self.volume.0);
        out.put_u64_le(self.block);
        out.put_u64_le(self.count);
        out.put_u32_le(self.data_offset);
        let crc = identity.secret.keyed(epoch, &[&lsn.0.to_le_bytes(), &out[at..], payload]);
        out.put_u32_le(crc);
        out.put_slice(payload);
    }
}

/// Walks the records of a header block or of a footer's batch; ends at the first that is not
/// committed.
pub(crate) struct Records<'a> {
    identity: Identity,
    epoch: u32,
    lsn: Lsn,
    bytes: &'a [u8],
    at: usize,
}

/// A record as read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) head: RecordHead,
    pub(crate) payload: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn new(identity: &Identity, epoch: u32, first_lsn: Lsn, bytes: &'a [u8]) -> Self {
        Self { identity: *identity, epoch, lsn: first_lsn, bytes, at: 0 }
    }

    /// Bytes of the records given so far.
    pub(crate) fn consumed(&self) -> usize {
        self.at
    }

    fn parse(&self) -> Result<Record<'a>, Malformed> {
        let bytes = &self.bytes[self.at..];
        let mut b = bytes;
        let kind = RecordKind::from_raw(b.try_get_u8()?)?;
        let _reserved = b.try_get_u8()?;
        let payload_bytes = usize::from(b.try_get_u16_le()?);
        let head = RecordHead {
            kind,
            volume: VolumeNumber(b.try_get_u32_le()?),
            block: b.try_get_u64_le()?,
            count: b.try_get_u64_le()?,
            data_offset: b.try_get_u32_le()?,
        };
        let stored = b.try_get_u32_le()?;
        let payload = b.get(..payload_bytes).ok_or(Malformed("a record's payload does not fit"))?;
        let checked = &bytes[..RECORD_HEAD_BYTES - 4];
        if self.identity.secret.keyed(self.epoch, &[&self.lsn.0.to_le_bytes(), checked, payload])
            != stored
        {
            return Err(Malformed("a record's checksum does not match"));
        }
        let range_ok = head.block.checked_add(head.count).is_some_and(|end| end <= 1 << 32);
        let fits = match kind {
            RecordKind::Data => {
                range_ok && head.count > 0 && payload_bytes as u64 == head.count * 4
            }
            RecordKind::Hole | RecordKind::Zero => range_ok && head.count > 0 && payload_bytes == 0,
            RecordKind::VolumePut | RecordKind::VolumeDelete | RecordKind::Fork => true,
            RecordKind::Restore => payload_bytes == 4,
        };
        if !fits {
            return Err(Malformed("a record's fields do not agree"));
        }
        Ok(Record { lsn: self.lsn, head, payload })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let record = self.parse().ok()?;
        self.at += RECORD_HEAD_BYTES + record.payload.len();
        self.lsn = self.lsn.plus(1);
        Some(record)
    }
}

impl Record<'_> {
    /// Checksum of the `i`th block of a data record.
    pub(crate) fn checksum(&self, i: usize) -> u32 {
        (&self.payload[i * 4..]).get_u32_le()
    }

    /// All checksums of a data record.
    pub(crate) fn checksums(&self) -> Vec<u32> {
        self.payload
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes(c.try_into().expect("four bytes")))
            .collect()
    }

    /// Address of a data record's first block, given where its batch's header stands; for others
    /// the header's own.
    pub(crate) fn address(
        &self,
        segment: SegmentId,
        header_block: u32,
    ) -> Result<Address, Malformed> {
        if self.head.kind != RecordKind::Data {
            return Ok(Address::new(segment, header_block));
        }
        let first = header_block.checked_add(1).and_then(|b| b.checked_add(self.head.data_offset));
        let end = first.and_then(|f| u64::from(f).checked_add(self.head.count));
        match (first, end) {
            (Some(first), Some(end)) if end <= u64::from(crate::base::SEGMENT_BLOCKS_MAX) => {
                Ok(Address::new(segment, first))
            }
            _ => Err(Malformed("a record's data lies beyond its segment")),
        }
    }
}
