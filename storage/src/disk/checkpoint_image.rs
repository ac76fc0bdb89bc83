//! The checkpoint that a start begins with: the newest valid superblock, and its catalog.
//!
//! Recovery, the offline checker and the scrub read both through here.

use super::{
    catalog_pages::CatalogPages,
    salvage,
    superblock_slots::{Counts, SuperblockSlot, choose, read_superblock_slots},
};
use crate::{
    base::{
        Address, BLOCK_BYTES, Error, Result, SEGMENT_BLOCKS_MAX, SegmentId, Slot, VolumeNumber,
        bitmap,
    },
    format::{
        CatalogHead, CatalogRef, Geometry, Malformed, PageItem, PageKind, PageRef, Piece,
        SegmentEntry, SegmentKind, SegmentPlace, StoredCatalog, Superblock, decode_chunk,
        decode_page,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use sandstone_ring::File;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Pages read at once.
const READS_MAX: usize = 32;

/// A superblock and its catalog, as a checkpoint left them.
pub(crate) struct CheckpointImage {
    pub(crate) superblock: Superblock,
    pub(crate) catalog: StoredCatalog,
    /// Where the chunks of both copies of the head lie.
    pub(crate) chunks: Vec<CatalogRef>,
    pub(crate) pages: CatalogPages,
    /// Why one of two copies, of the head or of a page, cannot be read.
    pub(crate) copy_damage: Option<String>,
    /// Numbers of entries whose pages, or pages of the index, have a copy that cannot be read.
    pub(crate) to_repair: BTreeSet<VolumeNumber>,
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
            pages: CatalogPages::default(),
            copy_damage: None,
            to_repair: BTreeSet::new(),
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

    /// Reads the catalog of this superblock, each part from one of its two copies.
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`] when both copies of a part cannot be read.
    async fn of(file: &File, superblock: Superblock) -> Result<Self> {
        let geometry = &superblock.geometry;
        let first = read_head(file, geometry, superblock.catalog).await;
        let second = read_head(file, geometry, superblock.catalog_copy).await;
        let (head, chunks, mut damage) = match (first, second) {
            (Ok((head, mut chunks)), Ok((_, more))) => {
                chunks.extend(more);
                (head, chunks, None)
            }
            (Ok((head, chunks)), Err(damage)) | (Err(damage), Ok((head, chunks))) => {
                (head, chunks, Some(damage))
            }
            (Err(error), Err(_)) => return Err(error),
        };
        let CatalogHead { applied, index, segments } = head;
        let inside = segments.iter().filter(|entry| entry.place.is_inside(geometry));
        let mut reader = PageReader {
            file,
            geometry,
            places: inside.map(|entry| (entry.id, &entry.place)).collect(),
            to_repair: BTreeSet::new(),
            damage: None,
        };
        let (mut references, mut volumes, mut families) = (Vec::new(), Vec::new(), Vec::new());
        let mut order = Order::default();
        for (payload, page) in reader.read(PageKind::Index, &index).await?.iter().zip(&index) {
            order.page(page)?;
            for reference in PageRef::decode_all(payload).map_err(corrupt)? {
                order.next(reference.first)?;
                references.push(reference);
            }
        }
        let mut order = Order::default();
        let payloads = reader.read(PageKind::Entries, &references).await?;
        for (payload, page) in payloads.iter().zip(&references) {
            order.page(page)?;
            for item in PageItem::decode_all(payload).map_err(corrupt)? {
                match &item {
                    // A family comes behind the volume of its number.
                    PageItem::Family(family) if order.last == Some(family.family) => {}
                    PageItem::Volume(_) | PageItem::Family(_) => order.next(item.number())?,
                }
                match item {
                    PageItem::Volume(volume) => volumes.push(volume),
                    PageItem::Family(family) => families.push(family),
                }
            }
        }
        let PageReader { to_repair, damage: page_damage, .. } = reader;
        damage = damage.or(page_damage);
        if let Some(damage) = &damage {
            tracing::error!(
                %damage,
                "a copy of the catalog, or of a part of it, cannot be read; the other one serves"
            );
        }
        Ok(Self {
            catalog: StoredCatalog { applied, volumes, families, segments },
            chunks,
            pages: CatalogPages::new(index, references),
            copy_damage: damage.map(|damage| damage.to_string()),
            to_repair,
            damage: None,
            superblock,
        })
    }
}

/// The order of the numbers in a level of pages: each is behind the one before, and in the range of
/// the page that has it.
#[derive(Default)]
struct Order {
    last: Option<VolumeNumber>,
    first_of_page: Option<VolumeNumber>,
}

impl Order {
    /// The numbers that follow are in this page.
    fn page(&mut self, page: &PageRef) -> Result<()> {
        let is_behind = self.last < Some(page.first) && page.first.0 < u32::MAX;
        self.first_of_page = Some(page.first);
        Self::must(is_behind)
    }

    fn next(&mut self, number: VolumeNumber) -> Result<()> {
        let is_behind = self.last < Some(number) && Some(number) >= self.first_of_page;
        self.last = Some(number);
        Self::must(is_behind)
    }

    fn must(holds: bool) -> Result<()> {
        if holds { Ok(()) } else { Err(corrupt(Malformed("its pages are out of order"))) }
    }
}

fn corrupt(Malformed(why): Malformed) -> Error {
    Error::corrupt(format!("the catalog: {why}"))
}

/// Reads pages of the catalog, which may lie in segments that were moved.
struct PageReader<'a> {
    file: &'a File,
    geometry: &'a Geometry,
    /// Those within the store, as the head has them: a wrong one leads to bytes with another
    /// checksum.
    places: HashMap<SegmentId, &'a SegmentPlace>,
    to_repair: BTreeSet<VolumeNumber>,
    /// Why a copy cannot be read.
    damage: Option<Error>,
}

impl PageReader<'_> {
    /// The payloads of these pages, in order.
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`]: both copies of one cannot be read.
    async fn read(&mut self, kind: PageKind, pages: &[PageRef]) -> Result<Vec<Vec<u8>>> {
        let this = &*self;
        let read = |page: &PageRef| {
            let page = *page;
            async move {
                let [first, second] = page.copies;
                let first = this.copy(kind, &page, first).await;
                let second = this.copy(kind, &page, second).await;
                match (first, second) {
                    (Ok(payload), Ok(_)) => Ok((payload, None)),
                    (Ok(payload), Err(damage)) | (Err(damage), Ok(payload)) => {
                        Ok((payload, Some((page.first, damage))))
                    }
                    (Err(error), Err(_)) => Err(error),
                }
            }
        };
        let read: Vec<_> =
            stream::iter(pages.iter().map(read)).buffered(READS_MAX).try_collect().await?;
        let mut payloads = Vec::with_capacity(read.len());
        for (payload, damaged) in read {
            payloads.push(payload);
            if let Some((first, damage)) = damaged {
                self.to_repair.insert(first);
                self.damage.get_or_insert(damage);
            }
        }
        Ok(payloads)
    }

    /// The payload of one copy of a page.
    async fn copy(&self, kind: PageKind, page: &PageRef, at: Address) -> Result<Vec<u8>> {
        let place = self.places.get(&at.segment());
        let stretches = place.and_then(|p| p.stretches(self.geometry, at.block(), page.blocks));
        let Some(stretches) = stretches else {
            return Err(corrupt(Malformed("a page lies where the store has nothing")));
        };
        let mut blocks = Vec::with_capacity(page.blocks as usize * BLOCK_BYTES);
        for (offset, len) in stretches {
            blocks.extend(salvage::read_blocks(self.file, offset, len).await);
        }
        decode_page(kind, page, &blocks).map_err(corrupt)
    }
}

/// Damage on disk to superblock and catalog, each with what is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointDamage {
    None,
    /// A slot of the superblock.
    Superblock(String),
    /// One of two copies of parts of the catalog: the pages of these numbers, or its head.
    Copies {
        what: String,
        to_repair: BTreeSet<VolumeNumber>,
    },
    /// Both copies of a part of the catalog, at least.
    Catalog(String),
}

/// The damage on disk to the superblock slots, of which `superblock` is the newest, and to its
/// catalog: a start relies on them, and a running store never reads them again.
pub(crate) async fn checkpoint_damage(file: &File, superblock: &Superblock) -> CheckpointDamage {
    let slots = read_superblock_slots(file).await;
    match choose(&slots) {
        Ok(Counts::This(newest, None)) if *newest == *superblock => {}
        Ok(Counts::This(_, Some(damage))) => return CheckpointDamage::Superblock(damage),
        Ok(Counts::This(newest, None)) => {
            let what = format!("the newest superblock is of generation {}", newest.generation);
            return CheckpointDamage::Superblock(what);
        }
        Ok(Counts::None | Counts::HalfMade) => {
            return CheckpointDamage::Superblock("the superblock's slots are blank".to_owned());
        }
        Err(error) => return CheckpointDamage::Superblock(error.to_string()),
    }
    match CheckpointImage::of(file, superblock.clone()).await {
        Ok(CheckpointImage { copy_damage: None, .. }) => CheckpointDamage::None,
        Ok(CheckpointImage { copy_damage: Some(what), to_repair, .. }) => {
            CheckpointDamage::Copies { what, to_repair }
        }
        Err(error) => CheckpointDamage::Catalog(error.to_string()),
    }
}

/// Reads the head whose first chunk is there, without checking its segments, and where its chunks
/// lie.
async fn read_head(
    file: &File,
    geometry: &Geometry,
    first: Option<CatalogRef>,
) -> Result<(CatalogHead, Vec<CatalogRef>)> {
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
        let (following, payload) = decode_chunk(&at, &blocks).map_err(corrupt)?;
        bytes.extend_from_slice(&payload);
        chunks.push(at);
        next = following;
    }
    if first.is_none() {
        return Ok((CatalogHead::default(), chunks));
    }
    Ok((CatalogHead::decode(&bytes).map_err(corrupt)?, chunks))
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
    let fits = |Piece { into, slot, live, .. }: &Piece| {
        destinations.contains(&(*into, *slot))
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
            SegmentPlace::Own(_) if !entry.place.is_inside(geometry) => {
                Some("a segment lies outside the store")
            }
            SegmentPlace::Own(slot) if !slots.insert(*slot) => Some("two segments are in one slot"),
            SegmentPlace::Moved(pieces)
                if !entry.place.is_inside(geometry) || !pieces.iter().all(fits) =>
            {
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
    fn numbers_are_in_order_and_in_the_range_of_their_page() {
        let of = |pages: &[(u32, &[u32])]| -> Result<()> {
            let mut order = Order::default();
            for (first, numbers) in pages {
                let copies = [Address::new(SegmentId(1), 0); 2];
                let first = VolumeNumber(*first);
                order.page(&PageRef { first, blocks: 1, checksum: 0, copies })?;
                numbers.iter().try_for_each(|number| order.next(VolumeNumber(*number)))?;
            }
            Ok(())
        };
        assert!(of(&[(1, &[1, 2, 7]), (8, &[9]), (12, &[12])]).is_ok());
        assert!(of(&[(1, &[1, 1])]).is_err(), "a number twice");
        assert!(of(&[(1, &[1, 5]), (5, &[6])]).is_err(), "a number of the next page");
        assert!(of(&[(3, &[2])]).is_err(), "a number of the page before");
        assert!(of(&[(1, &[1]), (1, &[2])]).is_err(), "two pages of one range");
        assert!(of(&[(1, &[1]), (u32::MAX, &[])]).is_err(), "behind the last number");
    }

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
