//! A segment in the catalog: what it holds, and where its blocks are.

use super::{Geometry, Malformed};
use crate::base::{Bitmap, SEGMENT_BLOCKS_MAX, SegmentId, Slot, bitmap};
use bytes::{Buf, BufMut};
use smallvec::SmallVec;
use std::sync::Arc;

/// Blocks of a bitmap's word.
const WORD_BLOCKS: usize = 64;

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

/// Stretches of blocks in the store file: byte offset and number of blocks of each.
pub(crate) type Stretches = SmallVec<[(u64, u32); 1]>;

impl SegmentPlace {
    /// Whether all of it is within a store of that geometry.
    pub(crate) fn is_inside(&self, geometry: &Geometry) -> bool {
        let piece_fits = |Piece { slot, first, live, .. }: &Piece| {
            let end = first.checked_add(live.count());
            slot.0 < geometry.slots && end.is_some_and(|end| end <= geometry.segment_blocks)
        };
        match self {
            Self::Own(slot) => slot.0 < geometry.slots,
            Self::Moved(pieces) => pieces.iter().all(piece_fits),
        }
    }

    /// Where `blocks` blocks (at least one) of the segment are, from `block` on, in order; `None`
    /// where it does not have all of them.
    pub(crate) fn stretches(
        &self,
        geometry: &Geometry,
        mut block: u32,
        blocks: u32,
    ) -> Option<Stretches> {
        let mut found = Stretches::new();
        let end = block.checked_add(blocks).filter(|end| *end <= geometry.segment_blocks)?;
        match self {
            Self::Own(slot) => found.push((geometry.offset(*slot, block), blocks)),
            Self::Moved(pieces) => {
                while block < end {
                    let piece = pieces.iter().find(|piece| piece.live.run(block, 1) == 1)?;
                    let run = piece.live.run(block, end - block);
                    let first = piece.first + piece.live.rank(block);
                    found.push((geometry.offset(piece.slot, first), run));
                    block += run;
                }
            }
        }
        Some(found)
    }
}

impl SegmentEntry {
    /// Appends the entry.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.id.0);
        out.put_u16_le(match self.kind {
            SegmentKind::Log => 1,
            SegmentKind::Node => 2,
            SegmentKind::Forwarded => 3,
        });
        match &self.place {
            SegmentPlace::Own(slot) => {
                out.put_u16_le(0);
                out.put_u32_le(slot.0);
            }
            SegmentPlace::Moved(pieces) => {
                // Not zero, which would mean a slot of its own.
                let words = pieces.first().map_or(1, |piece| piece.live.words().len());
                out.put_u16_le(u16::try_from(words).expect("a segment is 256 words"));
                out.put_u32_le(u32::try_from(pieces.len()).expect("at most one a block"));
                pieces.iter().for_each(|piece| piece.encode(out));
            }
        }
    }

    /// Reads an entry and moves `b` behind it.
    pub(crate) fn decode(b: &mut &[u8]) -> Result<Self, Malformed> {
        let id = SegmentId(b.try_get_u64_le()?);
        let kind = match b.try_get_u16_le()? {
            1 => SegmentKind::Log,
            2 => SegmentKind::Node,
            3 => SegmentKind::Forwarded,
            _ => return Err(Malformed("a segment is of an unknown kind")),
        };
        let (words, number) = (usize::from(b.try_get_u16_le()?), b.try_get_u32_le()?);
        if words > SEGMENT_BLOCKS_MAX as usize / WORD_BLOCKS {
            return Err(Malformed("a bitmap is longer than a segment"));
        }
        let place = if words == 0 {
            SegmentPlace::Own(Slot(number))
        } else {
            let pieces: Result<Vec<_>, _> = (0..number).map(|_| Piece::decode(b, words)).collect();
            SegmentPlace::Moved(pieces?.into())
        };
        Ok(Self { id, kind, place })
    }
}

impl Piece {
    /// Appends the piece: its blocks as a list where that is shorter than the bitmap.
    fn encode(&self, out: &mut Vec<u8>) {
        let (words, blocks) = (self.live.words(), self.live.count());
        let is_list = (1..4 * words.len() as u32).contains(&blocks);
        out.put_u64_le(self.into.0);
        out.put_u32_le(self.slot.0);
        out.put_u16_le(u16::try_from(self.first).expect("a segment has 16,384 blocks"));
        out.put_u16_le(if is_list { blocks as u16 } else { 0 });
        if is_list {
            bitmap::ones(words).for_each(|block| out.put_u16_le(block as u16));
        } else {
            words.iter().for_each(|word| out.put_u64_le(*word));
        }
    }

    /// Reads a piece of a segment whose bitmap has so many words.
    fn decode(b: &mut &[u8], words: usize) -> Result<Self, Malformed> {
        let (into, slot) = (SegmentId(b.try_get_u64_le()?), Slot(b.try_get_u32_le()?));
        let (first, listed) = (u32::from(b.try_get_u16_le()?), b.try_get_u16_le()?);
        let live = if listed == 0 {
            let words: Result<Box<[u64]>, _> = (0..words).map(|_| b.try_get_u64_le()).collect();
            Bitmap::new(words?)
        } else {
            let mut list = vec![0; words].into_boxed_slice();
            for _ in 0..listed {
                let block = b.try_get_u16_le()?;
                if usize::from(block) >= words * WORD_BLOCKS {
                    return Err(Malformed("a piece has a block that its segment has not"));
                }
                bitmap::set(&mut list, u32::from(block));
            }
            Bitmap::new(list)
        };
        Ok(Self { into, slot, first, live })
    }
}
