//! The catalog: which volumes and snapshots there are, and which segments the store's slots hold.
//!
//! It is written whole with each checkpoint, as a chain of chunks in node segments, the last chunk
//! first, so that each chunk can carry the place and the checksum of the next.

use super::Malformed;
use super::node::{NodeRef, StoredChild};
use crate::base::{
    Address, BLOCK_BYTES, Bitmap, Lsn, SEGMENT_BLOCKS_MAX, SegmentId, Settings, Slot,
    VOLUME_BYTES_MAX, VolumeNumber, blocks_for, checksum,
};
use bytes::{Buf, BufMut};
use std::sync::Arc;
use uuid::Uuid;

const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"SSC1");
const CHUNK_HEADER_BYTES: usize = 32;
/// Bytes of a volume entry without its attributes, and its root.
const VOLUME_BYTES: usize = 60 + 48;

/// Where a catalog chunk lies. It carries the slot, because the table of slots is what the catalog
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

/// One chunk of the catalog as blocks, and its checksum.
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

/// Properties of a volume or snapshot, without its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeMeta {
    pub(crate) number: VolumeNumber,
    pub(crate) id: Uuid,
    /// The volume that all its ancestors come from, itself if it has none. Blocks are shared within
    /// a family only.
    pub(crate) family: VolumeNumber,
    /// The volume that this is a snapshot of.
    pub(crate) snapshot_of: Option<VolumeNumber>,
    pub(crate) size_bytes: u64,
    pub(crate) settings: Settings,
    /// The caller's own bytes.
    pub(crate) attributes: Arc<[u8]>,
}

impl VolumeMeta {
    /// Appends the entry, as [`super::RecordKind::VolumePut`] and the catalog hold it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.number.0);
        out.put_slice(self.id.as_bytes());
        out.put_u32_le(self.family.0);
        out.put_u32_le(self.snapshot_of.map_or(0, |volume| volume.0));
        out.put_u64_le(self.size_bytes);
        out.put_u64_le(self.settings.cache_bytes);
        out.put_u64_le(self.settings.buffer_bytes);
        out.put_u32_le(self.settings.prefetch_mib);
        out.put_u8(u8::from(self.settings.writeback));
        out.put_u8(0);
        out.put_u16_le(u16::try_from(self.attributes.len()).expect("checked when they were set"));
        out.put_slice(&self.attributes);
    }

    /// Reads an entry and moves `b` behind it.
    pub(crate) fn decode(b: &mut &[u8]) -> Result<Self, Malformed> {
        let number = VolumeNumber(b.try_get_u32_le()?);
        let mut id = [0; 16];
        b.try_copy_to_slice(&mut id)?;
        let family = VolumeNumber(b.try_get_u32_le()?);
        let snapshot_of = Some(VolumeNumber(b.try_get_u32_le()?)).filter(|volume| volume.0 != 0);
        let size_bytes = b.try_get_u64_le()?;
        let settings = Settings {
            cache_bytes: b.try_get_u64_le()?,
            buffer_bytes: b.try_get_u64_le()?,
            prefetch_mib: b.try_get_u32_le()?,
            writeback: b.try_get_u8()? != 0,
        };
        let _reserved = b.try_get_u8()?;
        let len = usize::from(b.try_get_u16_le()?);
        let attributes = b.get(..len).ok_or(Malformed("a volume's attributes are short"))?.into();
        b.advance(len);
        if size_bytes > VOLUME_BYTES_MAX {
            return Err(Malformed("a volume is larger than can be"));
        }
        let id = Uuid::from_bytes(id);
        Ok(Self { number, id, family, snapshot_of, size_bytes, settings, attributes })
    }
}

/// Which blocks of a map no other map can have, by the birthday rule: an address that is younger
/// than the last point at which the map was copied, or became a copy, is in no other map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Birthday {
    /// Blocks at addresses from this raw one on are the map's alone; 0 where it shares with no
    /// other map.
    pub(crate) shared_below: u64,
    /// Data blocks of the map at such addresses, at most: after a whole subtree was dropped unread,
    /// the count may include blocks of it until the next mark counts.
    pub(crate) own_blocks: u64,
}

impl Birthday {
    /// How many of these blocks are the map's alone.
    pub(crate) fn own_in(&self, first: Address, blocks: u64) -> u64 {
        (first.raw() + blocks).saturating_sub(first.raw().max(self.shared_below))
    }
}

/// A volume's map as the catalog names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredMap {
    /// `None` for nothing but holes. A root's own count of mapped blocks is 0.
    pub(crate) root: Option<StoredChild>,
    /// Data blocks mapped.
    pub(crate) mapped: u64,
    pub(crate) birthday: Birthday,
}

/// A volume or snapshot in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeEntry {
    pub(crate) meta: VolumeMeta,
    /// Records of this volume below this LSN are in `map`.
    pub(crate) applied: Lsn,
    pub(crate) map: StoredMap,
}

/// The kind of a segment's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentKind {
    /// Batches.
    Log,
    /// Map nodes and catalog chunks.
    Node,
    /// Blocks that were moved out of sparse segments, and are found by their old addresses only.
    Forwarded,
}

/// Where the blocks of a segment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SegmentPlace {
    /// In a slot of their own, each at its number.
    Own(Slot),
    /// In segments of moved blocks; a block that is in no piece is dead.
    Moved(Arc<[Piece]>),
}

/// Blocks that were moved together: those of `live`, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The destination segment that holds them, and its slot.
    pub(crate) into: SegmentId,
    pub(crate) slot: Slot,
    /// First block there.
    pub(crate) first: u32,
    pub(crate) live: Bitmap,
}

/// A segment in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) id: SegmentId,
    pub(crate) kind: SegmentKind,
    pub(crate) place: SegmentPlace,
}

/// What the entries of a family share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyEntry {
    pub(crate) family: VolumeNumber,
    /// Upper bound of the data blocks that an entry of the family has and that the birthday rule
    /// does not give to one entry alone.
    pub(crate) shared_blocks: u64,
}

/// The whole catalog, as it lies on disk.
#[derive(Clone, Default)]
pub(crate) struct StoredCatalog {
    /// Catalog records below this LSN are in it.
    pub(crate) applied: Lsn,
    pub(crate) volumes: Vec<VolumeEntry>,
    /// Families that share something.
    pub(crate) families: Vec<FamilyEntry>,
    pub(crate) segments: Vec<SegmentEntry>,
}

impl StoredCatalog {
    /// The catalog's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Room for all of it: of ten thousand volumes it is megabytes, which growing would copy
        // again and again.
        let volume_bytes = |v: &VolumeEntry| VOLUME_BYTES + v.meta.attributes.len();
        let segment_bytes = |s: &SegmentEntry| match &s.place {
            SegmentPlace::Own(_) => 16,
            SegmentPlace::Moved(pieces) => {
                16 + pieces.iter().map(|p| 16 + p.live.words().len() * 8).sum::<usize>()
            }
        };
        let bytes = self.volumes.iter().map(volume_bytes).sum::<usize>()
            + self.segments.iter().map(segment_bytes).sum::<usize>();
        let mut out = Vec::with_capacity(20 + bytes + self.families.len() * 12);
        out.put_u64_le(self.applied.0);
        out.put_u32_le(u32::try_from(self.volumes.len()).expect("volume numbers are 32 bits"));
        for volume in &self.volumes {
            volume.meta.encode(&mut out);
            out.put_u64_le(volume.applied.0);
            let (tag, node) = match volume.map.root {
                None => (0, None),
                Some(StoredChild::Zero) => (1, None),
                Some(StoredChild::Node(node)) => (2, Some(node)),
            };
            out.put_u8(tag);
            out.put_u8(node.map_or(0, |n| n.blocks));
            out.put_u16_le(0);
            out.put_u32_le(node.map_or(0, |n| n.checksum));
            out.put_u64_le(node.map_or(0, |n| n.address.raw()));
            out.put_u64_le(volume.map.mapped);
            let Birthday { shared_below, own_blocks } = volume.map.birthday;
            out.put_u64_le(shared_below);
            out.put_u64_le(own_blocks);
        }
        out.put_u32_le(u32::try_from(self.families.len()).expect("volume numbers are 32 bits"));
        for FamilyEntry { family, shared_blocks } in &self.families {
            out.put_u32_le(family.0);
            out.put_u64_le(*shared_blocks);
        }
        out.put_u32_le(u32::try_from(self.segments.len()).expect("slots are 32 bits"));
        for segment in &self.segments {
            out.put_u64_le(segment.id.0);
            out.put_u16_le(match segment.kind {
                SegmentKind::Log => 1,
                SegmentKind::Node => 2,
                SegmentKind::Forwarded => 3,
            });
            match &segment.place {
                SegmentPlace::Own(slot) => {
                    out.put_u16_le(0);
                    out.put_u32_le(slot.0);
                }
                SegmentPlace::Moved(pieces) => {
                    // Not zero, which would mean a slot of its own.
                    let words = pieces.first().map_or(1, |piece| piece.live.words().len());
                    out.put_u16_le(u16::try_from(words).expect("a segment is 256 words"));
                    out.put_u32_le(u32::try_from(pieces.len()).expect("at most one a block"));
                    for Piece { into, slot, first, live } in &**pieces {
                        out.put_u64_le(into.0);
                        out.put_u32_le(slot.0);
                        out.put_u32_le(*first);
                        live.words().iter().for_each(|word| out.put_u64_le(*word));
                    }
                }
            }
        }
        out
    }

    /// Reads a catalog.
    pub(crate) fn decode(mut b: &[u8]) -> Result<Self, Malformed> {
        let applied = Lsn(b.try_get_u64_le()?);
        let mut volumes = Vec::new();
        for _ in 0..b.try_get_u32_le()? {
            let meta = VolumeMeta::decode(&mut b)?;
            let applied = Lsn(b.try_get_u64_le()?);
            let (tag, blocks) = (b.try_get_u8()?, b.try_get_u8()?);
            let _reserved = b.try_get_u16_le()?;
            let (checksum, address) = (b.try_get_u32_le()?, b.try_get_u64_le()?);
            let mapped = b.try_get_u64_le()?;
            let birthday =
                Birthday { shared_below: b.try_get_u64_le()?, own_blocks: b.try_get_u64_le()? };
            let root = match tag {
                0 => None,
                1 => Some(StoredChild::Zero),
                2 => Some(StoredChild::Node(NodeRef {
                    address: Address::from_raw(address)
                        .ok_or(Malformed("a root has no address"))?,
                    checksum,
                    blocks,
                    mapped: 0,
                })),
                _ => return Err(Malformed("a root is of an unknown kind")),
            };
            volumes.push(VolumeEntry { meta, applied, map: StoredMap { root, mapped, birthday } });
        }
        let mut families = Vec::new();
        for _ in 0..b.try_get_u32_le()? {
            let family = VolumeNumber(b.try_get_u32_le()?);
            families.push(FamilyEntry { family, shared_blocks: b.try_get_u64_le()? });
        }
        let mut segments = Vec::new();
        for _ in 0..b.try_get_u32_le()? {
            let id = SegmentId(b.try_get_u64_le()?);
            let kind = match b.try_get_u16_le()? {
                1 => SegmentKind::Log,
                2 => SegmentKind::Node,
                3 => SegmentKind::Forwarded,
                _ => return Err(Malformed("a segment is of an unknown kind")),
            };
            let (words, number) = (b.try_get_u16_le()?, b.try_get_u32_le()?);
            if usize::from(words) > SEGMENT_BLOCKS_MAX as usize / 64 {
                return Err(Malformed("a bitmap is longer than a segment"));
            }
            let place = if words == 0 {
                SegmentPlace::Own(Slot(number))
            } else {
                let mut pieces = Vec::new();
                for _ in 0..number {
                    let (into, slot) = (SegmentId(b.try_get_u64_le()?), Slot(b.try_get_u32_le()?));
                    let first = b.try_get_u32_le()?;
                    let words: Result<Box<[u64]>, _> =
                        (0..words).map(|_| b.try_get_u64_le()).collect();
                    pieces.push(Piece { into, slot, first, live: Bitmap::new(words?) });
                }
                SegmentPlace::Moved(pieces.into())
            };
            segments.push(SegmentEntry { id, kind, place });
        }
        Ok(Self { applied, volumes, families, segments })
    }
}
