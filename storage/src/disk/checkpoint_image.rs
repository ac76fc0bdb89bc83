//! The checkpoint that a start begins with: the newest valid superblock, and its catalog.
//!
//! Recovery, the offline checker and the scrub read both through here.

use super::{
    salvage,
    superblock_slots::{Counts, SuperblockSlot, choose, read_superblock_slots},
};
use crate::{
    base::{Address, Error, Result, SEGMENT_BLOCKS_MAX, SegmentId, Slot, bitmap},
    format::{
        CatalogRef, Geometry, Piece, SegmentEntry, SegmentKind, SegmentPlace, StoredCatalog,
        Superblock, decode_chunk,
    },
};
use sandstone_ring::File;
use std::collections::HashSet;

/// A superblock and its catalog, as a checkpoint left them.
pub(crate) struct CheckpointImage {
    pub(crate) superblock: Superblock,
    pub(crate) catalog: StoredCatalog,
    /// Where the chunks of both copies lie.
    pub(crate) chunks: Vec<CatalogRef>,
    /// Why one of the copies cannot be read.
    pub(crate) copy_damage: Option<String>,
    /// Why they may not be the newest ones, or why the store may not be written with them.
    pub(crate) damage: Option<String>,
}

impl CheckpointImage {
    /// The image of a store that was just made.
    pub(crate) fn new(superblock: Superblock) -> Self {
        Self {
            superblock,
            catalog: StoredCatalog::default(),
            chunks: Vec::new(),
            copy_damage: None,
            damage: None,
        }
    }

    /// Reads the newest superblock and its catalog; where that catalog cannot be read, those of the
    /// superblock before, whose log leads up to the newest one (recovery's I6).
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`] when no catalog can be read.
    pub(crate) async fn read(
        file: &File,
        slots: &[SuperblockSlot],
        newest: Superblock,
        damage: Option<String>,
    ) -> Result<Self> {
        let error = match Self::of(file, newest.clone()).await {
            Ok(image) => return Ok(Self { damage, ..image }),
            Err(error) => error,
        };
        let older = slots.iter().filter_map(SuperblockSlot::superblock);
        let older =
            older.filter(|s| s.generation != newest.generation && s.identity == newest.identity);
        for superblock in older {
            if let Ok(image) = Self::of(file, superblock.clone()).await {
                let what = format!(
                    "{error}; the one of generation {} is read instead",
                    superblock.generation
                );
                let damage =
                    Some(damage.map_or(what.clone(), |damage| format!("{damage}; {what}")));
                return Ok(Self { damage, ..image });
            }
        }
        Err(error)
    }

    /// Reads the catalog of this superblock, from one of its two copies.
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`] when neither can be read.
    async fn of(file: &File, superblock: Superblock) -> Result<Self> {
        let first = decode_catalog(file, &superblock.geometry, superblock.catalog).await;
        let second = decode_catalog(file, &superblock.geometry, superblock.catalog_copy).await;
        let (catalog, chunks, copy_damage) = match (first, second) {
            (Ok((catalog, mut chunks)), Ok((_, more))) => {
                chunks.extend(more);
                (catalog, chunks, None)
            }
            (Ok((catalog, chunks)), Err(damage)) | (Err(damage), Ok((catalog, chunks))) => {
                tracing::error!(
                    %damage,
                    "a copy of the catalog cannot be read; the other one serves"
                );
                (catalog, chunks, Some(damage.to_string()))
            }
            (Err(error), Err(_)) => return Err(error),
        };
        Ok(Self { superblock, catalog, chunks, copy_damage, damage: None })
    }
}

/// The damage on disk to the superblock slots, of which `superblock` is the newest, and to its
/// catalog: a start relies on them, and a running store never reads them again.
pub(crate) async fn checkpoint_damage(file: &File, superblock: &Superblock) -> Option<String> {
    let slots = read_superblock_slots(file).await;
    match choose(&slots) {
        Ok(Counts::This(newest, None)) if *newest == *superblock => {}
        Ok(Counts::This(_, Some(damage))) => return Some(damage),
        Ok(Counts::This(newest, None)) => {
            return Some(format!("the newest superblock is of generation {}", newest.generation));
        }
        Ok(Counts::None | Counts::HalfMade) => {
            return Some("the superblock's slots are blank".to_owned());
        }
        Err(error) => return Some(error.to_string()),
    }
    match CheckpointImage::of(file, superblock.clone()).await {
        Ok(image) => image.copy_damage,
        Err(error) => Some(error.to_string()),
    }
}

/// Reads the catalog whose first chunk is there, without checking its segments, and where its
/// chunks lie.
async fn decode_catalog(
    file: &File,
    geometry: &Geometry,
    first: Option<CatalogRef>,
) -> Result<(StoredCatalog, Vec<CatalogRef>)> {
    let (mut bytes, mut chunks, mut next) = (Vec::new(), Vec::new(), first);
    let mut places = HashSet::new();
    while let Some(at) = next {
        let inside = at.slot.0 < geometry.slots
            && at
                .address
                .block()
                .checked_add(at.blocks)
                .is_some_and(|end| end <= geometry.segment_blocks);
        if !inside {
            return Err(Error::corrupt("the catalog: a chunk lies outside the store"));
        }
        if !places.insert((at.slot, at.address.block())) {
            return Err(Error::corrupt("the catalog: its chunks lead in a circle"));
        }
        let blocks =
            salvage::read_blocks(file, geometry.offset(at.slot, at.address.block()), at.blocks)
                .await;
        let (following, payload) = decode_chunk(&at, &blocks)
            .map_err(|why| Error::corrupt(format!("the catalog: {}", why.0)))?;
        bytes.extend_from_slice(&payload);
        chunks.push(at);
        next = following;
    }
    if first.is_none() {
        return Ok((StoredCatalog::default(), chunks));
    }
    let catalog = StoredCatalog::decode(&bytes)
        .map_err(|why| Error::corrupt(format!("the catalog: {}", why.0)))?;
    Ok((catalog, chunks))
}

/// Segments whose place lies outside the store or is another's: their indexes among the entries,
/// and what is wrong.
pub(crate) fn misplaced(
    entries: &[SegmentEntry],
    geometry: &Geometry,
) -> Vec<(usize, &'static str)> {
    let (mut ids, mut slots) = (HashSet::new(), HashSet::new());
    let destinations: HashSet<(SegmentId, Slot)> = entries
        .iter()
        .filter_map(|entry| match entry {
            SegmentEntry { id, kind: SegmentKind::Forwarded, place: SegmentPlace::Own(slot) } => {
                Some((*id, *slot))
            }
            _ => None,
        })
        .collect();
    let fits = |Piece { into, slot, first, live }: &Piece| {
        first.checked_add(live.count()).is_some_and(|end| end <= geometry.segment_blocks)
            && destinations.contains(&(*into, *slot))
            && live.words().len() == geometry.segment_blocks.div_ceil(64) as usize
            && bitmap::ones(live.words()).all(|block| block < geometry.segment_blocks)
    };
    let mut wrong = |entry: &SegmentEntry| {
        if Address::from_raw(entry.id.0.saturating_mul(SEGMENT_BLOCKS_MAX.into())).is_none() {
            return Some("a segment has a number that none can have");
        }
        if !ids.insert(entry.id) {
            return Some("a segment is there twice");
        }
        match &entry.place {
            SegmentPlace::Own(slot) if slot.0 >= geometry.slots => {
                Some("a segment lies outside the store")
            }
            SegmentPlace::Own(slot) if !slots.insert(*slot) => Some("two segments are in one slot"),
            SegmentPlace::Moved(pieces) if !pieces.iter().all(fits) => {
                Some("a segment was moved to where nothing can be")
            }
            SegmentPlace::Own(_) | SegmentPlace::Moved(_) => None,
        }
    };
    entries.iter().enumerate().filter_map(|(i, entry)| Some((i, wrong(entry)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Bitmap;
    use std::sync::Arc;

    #[test]
    fn segments_are_each_in_a_place_of_their_own() {
        let geometry = Geometry::with_segments((1 << 20) + 12 * (64 << 12), 64);
        let own = |id, kind, slot| SegmentEntry {
            id: SegmentId(id),
            kind,
            place: SegmentPlace::Own(Slot(slot)),
        };
        let moved = |id, words: &[u64]| {
            let live = Bitmap::new(words.into());
            let piece = Piece { into: SegmentId(2), slot: Slot(1), first: 0, live };
            let place = SegmentPlace::Moved(Arc::new([piece]));
            SegmentEntry { id: SegmentId(id), kind: SegmentKind::Log, place }
        };
        let with = |more: SegmentEntry| {
            let all = [own(1, SegmentKind::Log, 0), own(2, SegmentKind::Forwarded, 1), more];
            misplaced(&all, &geometry).is_empty()
        };
        assert!(with(own(3, SegmentKind::Node, 2)) && with(moved(3, &[5])));
        assert!(!with(own(2, SegmentKind::Node, 2)), "a number twice");
        assert!(!with(own(3, SegmentKind::Node, 1)), "a slot twice");
        assert!(!with(own(3, SegmentKind::Node, 12)), "beyond the store");
        assert!(!with(own(0, SegmentKind::Node, 2)) && !with(own(u64::MAX, SegmentKind::Node, 2)));
        assert!(!with(moved(3, &[5, 0])), "more blocks than a segment has");
        let small = Geometry { segment_blocks: 60, ..geometry };
        let destination = own(2, SegmentKind::Forwarded, 1);
        assert!(misplaced(&[destination.clone(), moved(3, &[1 << 59])], &small).is_empty());
        assert_eq!(misplaced(&[destination, moved(3, &[1 << 60])], &small).len(), 1);
    }
}
