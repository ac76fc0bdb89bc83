//! The superblock: the store's identity, and where reading it begins.
//!
//! Two slots are written in turn; the newest valid one counts. All that counts is in the first
//! sector of its slot, with its own checksum. A sector is written whole or not at all, so a crash
//! leaves the old superblock of a slot or the new one, and one that cannot be read is damage. It
//! may have been the newer one, whose checkpoint gave slots away that the other still names.

use super::{CatalogRef, Identity, Malformed, VERSION};
use crate::base::{
    Address, BLOCK_BYTES, Lsn, SEGMENT_BLOCKS_MAX, Secret, SegmentId, Slot, checksum,
};
use bytes::{Buf, BufMut};

const MAGIC: u64 = u64::from_le_bytes(*b"SANDSTN\x01");
/// Smallest unit that a device writes whole or not at all, in bytes.
pub(crate) const SECTOR_BYTES: usize = 512;
const CHECKED_BYTES: usize = SECTOR_BYTES - 4;
/// Bytes that the checksum of versions 1 to 4 covered, which stood at the end of the block.
const CHECKED_BYTES_TO_4: usize = BLOCK_BYTES - 4;

/// Segments of a store, at least, where it is large enough for smaller ones.
const SEGMENTS_LEAST: u64 = 1024;
/// Blocks in a segment, at least: 2 MiB.
const SEGMENT_BLOCKS_LEAST: u32 = 512;
/// Blocks in a staging window, at most: 16 MiB.
const WINDOW_BLOCKS_MAX: u32 = 4096;

/// Blocks in all staging windows together: 48 MiB.
const STAGING_BLOCKS: u32 = 3 * WINDOW_BLOCKS_MAX;

/// Number of superblock slots.
pub(crate) const SUPERBLOCK_SLOTS: u64 = 2;

/// Most segments of a store: a PiB of 64 MiB each, the largest that can be configured. Each costs a
/// few bytes of memory, so a count that is only written there must not be believed.
pub(crate) const SLOTS_MAX: u32 = 1 << 24;

/// Byte offset of a superblock slot: far enough apart that one bad stretch does not take both.
pub(crate) fn superblock_offset(slot: u64) -> u64 {
    assert!(slot < SUPERBLOCK_SLOTS);
    slot * (64 << 10)
}

/// The store's geometry, fixed when it is created (the size may grow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Blocks in a segment.
    pub(crate) segment_blocks: u32,
    /// Blocks in a staging window; a batch never crosses the border of one.
    pub(crate) window_blocks: u32,
    /// Number of segment slots.
    pub(crate) slots: u32,
}

impl Geometry {
    /// Byte offset of the first slot.
    pub(crate) const SLOTS_AT: u64 = 1 << 20;

    /// The geometry of a store of `size_bytes`: at least a thousand segments of 2 to 64 MiB, so
    /// that the open segments and the reserve are a small part of it.
    pub(crate) fn standard(size_bytes: u64) -> Self {
        let wanted = size_bytes / SEGMENTS_LEAST / BLOCK_BYTES as u64;
        let wanted = wanted.clamp(u64::from(SEGMENT_BLOCKS_LEAST), u64::from(SEGMENT_BLOCKS_MAX));
        Self::with_segments(size_bytes, 1 << wanted.ilog2())
    }

    /// A geometry with other segments. Windows are as large as a segment, and at most 16 MiB; in
    /// tiny segments, which tests have, a quarter of them.
    pub(crate) fn with_segments(size_bytes: u64, segment_blocks: u32) -> Self {
        let segment_bytes = u64::from(segment_blocks) * BLOCK_BYTES as u64;
        let slots = size_bytes.saturating_sub(Self::SLOTS_AT) / segment_bytes;
        let is_tiny = segment_blocks < SEGMENT_BLOCKS_LEAST;
        Self {
            segment_blocks,
            window_blocks: if is_tiny {
                segment_blocks / 4
            } else {
                segment_blocks.min(WINDOW_BLOCKS_MAX)
            },
            slots: u32::try_from(slots).unwrap_or(u32::MAX).min(SLOTS_MAX),
        }
    }

    /// Windows of staging: 48 MiB of them; in tests with tiny segments three.
    pub(crate) fn windows(&self) -> usize {
        let is_tiny = self.segment_blocks < SEGMENT_BLOCKS_LEAST;
        if is_tiny { 3 } else { (STAGING_BLOCKS / self.window_blocks).max(3) as usize }
    }

    /// Blocks that staging holds.
    pub(crate) fn staging_blocks(&self) -> u64 {
        self.windows() as u64 * u64::from(self.window_blocks)
    }

    /// Bytes in a segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * BLOCK_BYTES as u64
    }

    /// Byte offset of a block in a slot.
    pub(crate) fn offset(&self, slot: Slot, block: u32) -> u64 {
        assert!(
            slot.0 < self.slots && block < self.segment_blocks,
            "{slot:?} {block} outside the store"
        );
        Self::SLOTS_AT
            + u64::from(slot.0) * self.segment_bytes()
            + u64::from(block) * BLOCK_BYTES as u64
    }

    /// Bytes of the whole store.
    pub(crate) fn store_bytes(&self) -> u64 {
        Self::SLOTS_AT + u64::from(self.slots) * self.segment_bytes()
    }

    fn check(&self) -> Result<(), Malformed> {
        let whole =
            self.window_blocks > 1 && self.segment_blocks.is_multiple_of(self.window_blocks);
        let small = self.segment_blocks < self.window_blocks;
        let slots = (1..=SLOTS_MAX).contains(&self.slots);
        if !whole || small || self.segment_blocks > SEGMENT_BLOCKS_MAX || !slots {
            return Err(Malformed("the store's measures make no sense"));
        }
        Ok(())
    }
}

/// Where replay begins: the place of the first batch that the checkpoint does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplayStart {
    pub(crate) segment: SegmentId,
    pub(crate) slot: Slot,
    pub(crate) block: u32,
    pub(crate) lsn: Lsn,
    /// `first_lsn` of the batch before.
    pub(crate) previous: Lsn,
}

/// The next segment of the log. It is claimed before the first batch of the current segment is
/// sealed, and every batch names it, so that a lost footer does not hide the rest of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The segment that it leaves.
    pub(crate) of: SegmentId,
    /// `None` while the store has no room for another one.
    pub(crate) next: Option<(SegmentId, Slot)>,
}

/// The superblock's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) identity: Identity,
    pub(crate) geometry: Geometry,
    /// Grows by one with each superblock written.
    pub(crate) generation: u64,
    /// Grows by one with each start of a server on this store.
    pub(crate) epoch: u32,
    pub(crate) replay: ReplayStart,
    /// Every record below was synced; every other one was written in `epoch` or later.
    pub(crate) synced: Lsn,
    pub(crate) next_segment: SegmentId,
    pub(crate) next_volume: u32,
    /// Where the next map node goes.
    pub(crate) node_tail: Option<(SegmentId, Slot, u32)>,
    pub(crate) catalog: Option<CatalogRef>,
    /// The catalog's second copy, because without a catalog the whole store is lost.
    pub(crate) catalog_copy: Option<CatalogRef>,
    /// The server that wrote it closed the store: the checkpoint holds everything, and staging is
    /// empty.
    pub(crate) closed: bool,
    /// The claim of the segment that the log was in: at the replay start, or with the superblock of
    /// a start at the log's end.
    pub(crate) claim: Claim,
}

impl Superblock {
    /// The slot that it belongs into.
    pub(crate) fn slot(&self) -> u64 {
        self.generation % SUPERBLOCK_SLOTS
    }

    /// The block as it lies on disk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.put_u64_le(MAGIC);
        out.put_u32_le(u32::from(VERSION));
        out.put_u32_le(0); // features that a reader must know
        out.put_u32_le(0); // features that a writer must know
        out.put_u32_le(self.epoch);
        out.put_slice(&self.identity.store);
        out.put_slice(&self.identity.secret.0);
        out.put_u64_le(self.generation);
        out.put_u32_le(self.geometry.segment_blocks);
        out.put_u32_le(self.geometry.window_blocks);
        out.put_u32_le(self.geometry.slots);
        out.put_u32_le(self.next_volume);
        out.put_u64_le(self.replay.segment.0);
        out.put_u32_le(self.replay.slot.0);
        out.put_u32_le(self.replay.block);
        out.put_u64_le(self.replay.lsn.0);
        out.put_u64_le(self.replay.previous.0);
        out.put_u64_le(self.synced.0);
        out.put_u64_le(self.next_segment.0);
        let (segment, slot, block) = self.node_tail.unwrap_or((SegmentId(0), Slot(0), 0));
        out.put_u64_le(segment.0);
        out.put_u32_le(slot.0);
        out.put_u32_le(block);
        put_catalog(&mut out, self.catalog);
        out.put_u32_le(u32::from(self.closed));
        let (next, slot) = self.claim.next.unwrap_or((SegmentId(0), Slot(0)));
        out.put_u64_le(self.claim.of.0);
        out.put_u64_le(next.0);
        out.put_u32_le(slot.0);
        put_catalog(&mut out, self.catalog_copy);
        out.resize(CHECKED_BYTES, 0);
        out.put_u32_le(checksum::plain(&out));
        out.resize(BLOCK_BYTES, 0);
        out
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// When it is none, is damaged, or needs features that this program does not have.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, Malformed> {
        if block.len() != BLOCK_BYTES {
            return Err(Malformed("a superblock is a block long"));
        }
        let mut b = block;
        if b.get_u64_le() != MAGIC {
            return Err(Malformed("there is no superblock"));
        }
        let version = b.get_u32_le();
        let fits =
            |bytes: usize| checksum::plain(&block[..bytes]) == (&block[bytes..]).get_u32_le();
        if version != u32::from(VERSION) && (fits(CHECKED_BYTES) || fits(CHECKED_BYTES_TO_4)) {
            return Err(Malformed("the store is of another version"));
        }
        if !fits(CHECKED_BYTES) {
            return Err(Malformed("the superblock's checksum does not match"));
        }
        if b.get_u32_le() != 0 || b.get_u32_le() != 0 {
            return Err(Malformed("the store uses features that this version does not know"));
        }
        let epoch = b.get_u32_le();
        let (mut store, mut secret) = ([0; 16], [0; 16]);
        b.copy_to_slice(&mut store);
        b.copy_to_slice(&mut secret);
        let generation = b.get_u64_le();
        let geometry = Geometry {
            segment_blocks: b.get_u32_le(),
            window_blocks: b.get_u32_le(),
            slots: b.get_u32_le(),
        };
        geometry.check()?;
        let next_volume = b.get_u32_le();
        let replay = ReplayStart {
            segment: SegmentId(b.get_u64_le()),
            slot: Slot(b.get_u32_le()),
            block: b.get_u32_le(),
            lsn: Lsn(b.get_u64_le()),
            previous: Lsn(b.get_u64_le()),
        };
        let synced = Lsn(b.get_u64_le());
        let next_segment = SegmentId(b.get_u64_le());
        let node_tail = (SegmentId(b.get_u64_le()), Slot(b.get_u32_le()), b.get_u32_le());
        let catalog = get_catalog(&mut b);
        let closed = match b.get_u32_le() {
            0 => false,
            1 => true,
            _ => {
                return Err(Malformed(
                    "the superblock is neither of an open nor of a closed store",
                ));
            }
        };
        let of = SegmentId(b.get_u64_le());
        let (next, next_slot) = (SegmentId(b.get_u64_le()), Slot(b.get_u32_le()));
        let catalog_copy = get_catalog(&mut b);
        let inside =
            |slot: Slot, block: u32| slot.0 < geometry.slots && block <= geometry.segment_blocks;
        if !inside(replay.slot, replay.block)
            || !inside(node_tail.1, node_tail.2)
            || !inside(next_slot, 0)
        {
            return Err(Malformed("the superblock points outside the store"));
        }
        Ok(Self {
            identity: Identity { store, secret: Secret(secret) },
            geometry,
            generation,
            epoch,
            replay,
            synced,
            next_segment,
            next_volume,
            node_tail: (node_tail.0.0 != 0).then_some(node_tail),
            catalog,
            catalog_copy,
            closed,
            claim: Claim { of, next: (next.0 != 0).then_some((next, next_slot)) },
        })
    }
}

fn put_catalog(out: &mut Vec<u8>, catalog: Option<CatalogRef>) {
    out.put_u64_le(catalog.map_or(0, |c| c.address.raw()));
    out.put_u32_le(catalog.map_or(0, |c| c.slot.0));
    out.put_u32_le(catalog.map_or(0, |c| c.blocks));
    out.put_u32_le(catalog.map_or(0, |c| c.checksum));
}

/// 20 bytes must be there.
fn get_catalog(b: &mut &[u8]) -> Option<CatalogRef> {
    let address = Address::from_raw(b.get_u64_le());
    let (slot, blocks, checksum) = (Slot(b.get_u32_le()), b.get_u32_le(), b.get_u32_le());
    address.map(|address| CatalogRef { address, slot, blocks, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_an_older_version_is_refused_with_the_reason() {
        for version in 1..u32::from(VERSION) {
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            block.put_u64_le(MAGIC);
            block.put_u32_le(version);
            block.resize(CHECKED_BYTES_TO_4, 0);
            block.put_u32_le(checksum::plain(&block));
            assert_eq!(
                Superblock::decode(&block),
                Err(Malformed("the store is of another version"))
            );
        }
    }
}
