//! The catalog: which volumes and snapshots there are, and which segments the store's slots hold.
//!
//! ```text
//!   superblock ─► head, a chain of chunks ─► pages of the index ─► pages of entries
//!                 segments
//! ```
//!
//! A checkpoint writes the head, and of the pages those in which something changed. All of them are
//! in node segments, twice. The head is written whole, the last chunk first, so that each chunk can
//! carry the place and the checksum of the next.

use super::{Malformed, SegmentEntry, VolumeEntry};
use crate::base::{
    ATTRIBUTES_BYTES_MAX, Address, BLOCK_BYTES, Lsn, Slot, VolumeNumber, blocks_for, checksum,
};
use bytes::{Buf, BufMut};

const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"SSC1");
const CHUNK_HEADER_BYTES: usize = 32;
const ENTRIES_MAGIC: u32 = u32::from_le_bytes(*b"SSV1");
const INDEX_MAGIC: u32 = u32::from_le_bytes(*b"SSX1");
const PAGE_HEADER_BYTES: usize = 8;
/// Most bytes that a page of entries has room for. A single entry is always fewer.
pub(crate) const ENTRIES_PAGE_BYTES: usize = 2 * BLOCK_BYTES - PAGE_HEADER_BYTES;
/// Most bytes that a page of the index has room for.
pub(crate) const INDEX_PAGE_BYTES: usize = BLOCK_BYTES - PAGE_HEADER_BYTES;
/// Most blocks of a page.
const PAGE_BLOCKS_MAX: u32 = 2;

const _: () = assert!(ATTRIBUTES_BYTES_MAX + 256 < ENTRIES_PAGE_BYTES);

/// Where a chunk of the head lies. It carries the slot, because the table of slots is what the head
/// is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CatalogRef {
    pub(crate) address: Address,
    pub(crate) slot: Slot,
    pub(crate) blocks: u32,
    pub(crate) checksum: u32,
}

/// Blocks of the chunk that has this payload.
pub(crate) fn chunk_blocks(payload: &[u8]) -> u32 {
    blocks_for(CHUNK_HEADER_BYTES + payload.len())
}

/// One chunk of the head as blocks, and its checksum.
pub(crate) fn encode_chunk(next: Option<CatalogRef>, payload: &[u8]) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(payload.len() + BLOCK_BYTES);
    out.put_u32_le(CHUNK_MAGIC);
    out.put_u32_le(u32::try_from(payload.len()).expect("a chunk is small"));
    out.put_u64_le(next.map_or(0, |n| n.address.raw()));
    out.put_u32_le(next.map_or(0, |n| n.slot.0));
    out.put_u32_le(next.map_or(0, |n| n.blocks));
    out.put_u32_le(next.map_or(0, |n| n.checksum));
    out.resize(CHUNK_HEADER_BYTES, 0);
    out.put_slice(payload);
    whole_blocks(out)
}

/// Fills up to whole blocks, and gives their checksum with them.
fn whole_blocks(mut out: Vec<u8>) -> (Vec<u8>, u32) {
    out.resize(blocks_for(out.len()) as usize * BLOCK_BYTES, 0);
    let crc = checksum::plain(&out);
    (out, crc)
}

/// Reads a chunk whose reference was read before: the next chunk's reference, and the payload.
pub(crate) fn decode_chunk(
    at: &CatalogRef,
    blocks: &[u8],
) -> Result<(Option<CatalogRef>, Vec<u8>), Malformed> {
    if checksum::plain(blocks) != at.checksum {
        return Err(Malformed("a catalog chunk's checksum does not match"));
    }
    let mut b = blocks;
    if b.try_get_u32_le()? != CHUNK_MAGIC {
        return Err(Malformed("there is no catalog chunk"));
    }
    let len = b.try_get_u32_le()? as usize;
    let address = b.try_get_u64_le()?;
    let (slot, blocks_next) = (Slot(b.try_get_u32_le()?), b.try_get_u32_le()?);
    let checksum = b.try_get_u32_le()?;
    let payload = blocks
        .get(CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + len)
        .ok_or(Malformed("a catalog chunk is short"))?;
    let next = Address::from_raw(address).map(|address| CatalogRef {
        address,
        slot,
        blocks: blocks_next,
        checksum,
    });
    Ok((next, payload.to_vec()))
}

/// What the entries of a family share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyEntry {
    pub(crate) family: VolumeNumber,
    /// Upper bound of the data blocks that an entry of the family has and that the birthday rule
    /// does not give to one entry alone.
    pub(crate) shared_blocks: u64,
}

/// The kind of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// Volumes, snapshots and families, in the order of their numbers.
    Entries,
    /// References to pages of entries, in the order of their numbers.
    Index,
}

impl PageKind {
    fn magic(self) -> u32 {
        match self {
            Self::Entries => ENTRIES_MAGIC,
            Self::Index => INDEX_MAGIC,
        }
    }
}

/// Where a page lies, twice with the same bytes: what it holds begins at number `first`, and ends
/// where the next page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    pub(crate) first: VolumeNumber,
    /// Blocks of one copy, 1 or 2.
    pub(crate) blocks: u32,
    /// Checksum of one copy's blocks.
    pub(crate) checksum: u32,
    pub(crate) copies: [Address; 2],
}

impl PageRef {
    /// Bytes of a reference.
    pub(crate) const BYTES: usize = 28;

    /// Appends the reference.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.first.0);
        out.put_u32_le(self.blocks);
        out.put_u32_le(self.checksum);
        self.copies.iter().for_each(|copy| out.put_u64_le(copy.raw()));
    }

    fn decode(b: &mut &[u8]) -> Result<Self, Malformed> {
        let first = VolumeNumber(b.try_get_u32_le()?);
        let (blocks, checksum) = (b.try_get_u32_le()?, b.try_get_u32_le()?);
        let mut copy = || {
            let address = Address::from_raw(b.try_get_u64_le()?);
            address.ok_or(Malformed("a page has no address"))
        };
        let copies = [copy()?, copy()?];
        if !(1..=PAGE_BLOCKS_MAX).contains(&blocks) {
            return Err(Malformed("a page has no blocks, or too many"));
        }
        Ok(Self { first, blocks, checksum, copies })
    }

    /// Reads what an index page or the head has: all references to the payload's end.
    pub(crate) fn decode_all(mut b: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut all = Vec::with_capacity(b.len() / Self::BYTES);
        while !b.is_empty() {
            all.push(Self::decode(&mut b)?);
        }
        Ok(all)
    }
}

/// A page as blocks, and their checksum.
pub(crate) fn encode_page(kind: PageKind, payload: &[u8]) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(payload.len() + BLOCK_BYTES);
    out.put_u32_le(kind.magic());
    out.put_u32_le(u32::try_from(payload.len()).expect("a page is small"));
    out.put_slice(payload);
    assert!(out.len() <= PAGE_BLOCKS_MAX as usize * BLOCK_BYTES, "a page that no start reads");
    whole_blocks(out)
}

/// Reads one copy of a page: its payload.
pub(crate) fn decode_page(
    kind: PageKind,
    at: &PageRef,
    blocks: &[u8],
) -> Result<Vec<u8>, Malformed> {
    if checksum::plain(blocks) != at.checksum {
        return Err(Malformed("a page's checksum does not match"));
    }
    let mut b = blocks;
    if b.try_get_u32_le()? != kind.magic() {
        return Err(Malformed("there is no page of that kind"));
    }
    let len = b.try_get_u32_le()? as usize;
    let payload = blocks.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + len);
    Ok(payload.ok_or(Malformed("a page is short"))?.to_vec())
}

/// One of the things that a page of entries holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageItem {
    Volume(VolumeEntry),
    Family(FamilyEntry),
}

impl PageItem {
    /// The number by which it is found: a volume's, or a family's.
    pub(crate) fn number(&self) -> VolumeNumber {
        match self {
            Self::Volume(volume) => volume.meta.number,
            Self::Family(family) => family.family,
        }
    }

    /// Appends the item.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Volume(volume) => {
                out.put_u8(1);
                volume.encode(out);
            }
            Self::Family(FamilyEntry { family, shared_blocks }) => {
                out.put_u8(2);
                out.put_u32_le(family.0);
                out.put_u64_le(*shared_blocks);
            }
        }
    }

    fn decode(b: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match b.try_get_u8()? {
            1 => Self::Volume(VolumeEntry::decode(b)?),
            2 => {
                let family = VolumeNumber(b.try_get_u32_le()?);
                Self::Family(FamilyEntry { family, shared_blocks: b.try_get_u64_le()? })
            }
            _ => return Err(Malformed("a page holds something of an unknown kind")),
        })
    }

    /// Reads a page's items.
    pub(crate) fn decode_all(mut payload: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut all = Vec::new();
        while !payload.is_empty() {
            all.push(Self::decode(&mut payload)?);
        }
        Ok(all)
    }
}

/// The head of the catalog: what is written whole with each checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CatalogHead {
    /// Catalog records below this LSN are in the catalog.
    pub(crate) applied: Lsn,
    /// The pages of the index, in order.
    pub(crate) index: Vec<PageRef>,
    pub(crate) segments: Vec<SegmentEntry>,
}

impl CatalogHead {
    /// The head's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.index.len() * PageRef::BYTES);
        out.put_u64_le(self.applied.0);
        out.put_u32_le(u32::try_from(self.index.len()).expect("volume numbers are 32 bits"));
        self.index.iter().for_each(|page| page.encode(&mut out));
        out.put_u32_le(u32::try_from(self.segments.len()).expect("slots are 32 bits"));
        self.segments.iter().for_each(|segment| segment.encode(&mut out));
        out
    }

    /// Reads a head.
    pub(crate) fn decode(mut b: &[u8]) -> Result<Self, Malformed> {
        let applied = Lsn(b.try_get_u64_le()?);
        let mut index = Vec::new();
        for _ in 0..b.try_get_u32_le()? {
            index.push(PageRef::decode(&mut b)?);
        }
        let mut segments = Vec::new();
        for _ in 0..b.try_get_u32_le()? {
            segments.push(SegmentEntry::decode(&mut b)?);
        }
        Ok(Self { applied, index, segments })
    }
}

/// The whole catalog, as a checkpoint left it.
#[derive(Clone, Default)]
pub(crate) struct StoredCatalog {
    /// Catalog records below this LSN are in it.
    pub(crate) applied: Lsn,
    pub(crate) volumes: Vec<VolumeEntry>,
    /// Families that share something.
    pub(crate) families: Vec<FamilyEntry>,
    pub(crate) segments: Vec<SegmentEntry>,
}
