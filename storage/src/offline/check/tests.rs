//! Stores forged with right checksums, as only a bug could make them: corrupt bytes fail their
//! checksum earlier.

use super::*;
use crate::{
    Store, VolumeSpec,
    base::{Bitmap, SegmentId, Settings, Slot, VolumeNumber},
    disk::{CheckpointImage, Content, read_superblock_slots},
    format::{
        CatalogHead, CatalogRef, PageItem, PageKind, PageRef, Piece, SUPERBLOCK_SLOTS,
        SegmentEntry, SegmentKind, StoredCatalog, Superblock, encode_chunk, encode_page,
        superblock_offset,
    },
    recovery::Parts,
};
use bytes::Bytes;
use sandstone_ring::{File, Runtime, SharedMemory, WriteBuf, aligned, sim::SimDisk};
use std::sync::Arc;

const BOOT: [u8; 16] = [1; 16];
const SEGMENT_BLOCKS: u32 = 64;
const SIZE_BYTES: u64 = (1 << 20) + 40 * SEGMENT_BLOCKS as u64 * BLOCK_BYTES as u64;

fn parts(disk: &SimDisk) -> Parts {
    Parts {
        file: File::simulated(disk),
        size_bytes: SIZE_BYTES,
        segment_blocks: SEGMENT_BLOCKS,
        boot: BOOT,
        cache_bytes: 0,
        metadata_bytes: 1 << 20,
        reclaim_rate: 64 << 20,
        scrub_rate: 0,
    }
}

/// A volume of some data with a snapshot, in a store that was closed.
async fn closed_store() -> SimDisk {
    let disk = SimDisk::new(SIZE_BYTES, 1);
    let memory = |_: &[u8; 16], bytes| Ok((Arc::new(SharedMemory::anonymous(bytes)?), false));
    let (store, _) = Store::open_on(parts(&disk), memory).await.expect("a new store");
    let settings =
        Settings { cache_bytes: 0, buffer_bytes: 1 << 20, prefetch_mib: 0, writeback: false };
    let id = Uuid::from_u128(1);
    let spec = VolumeSpec { id, size_bytes: 2 << 20, settings, attributes: Vec::new() };
    let volume = store.create_volume(spec).await.expect("a volume");
    let data = Bytes::from(vec![7; 300 * BLOCK_BYTES]);
    volume.write(0, data, crate::Durability::Volatile).await.expect("a write");
    store.create_snapshot(id, Uuid::from_u128(2), Vec::new()).await.expect("a snapshot");
    store.close().await.expect("it closes");
    disk
}

/// Changes superblock and catalog, and makes all checksums right again.
async fn forge(disk: &SimDisk, edit: impl FnOnce(&mut Superblock, &mut StoredCatalog)) {
    let file = File::simulated(disk);
    let slots = read_superblock_slots(&file).await;
    let newest = slots.iter().filter_map(|slot| slot.superblock()).max_by_key(|s| s.generation);
    let mut superblock = newest.expect("a superblock").clone();
    let image =
        CheckpointImage::read(&file, &slots, superblock.clone(), None).await.expect("a catalog");
    let (mut catalog, chunks) = (image.catalog, image.chunks);
    let pages: Vec<PageRef> = image.pages.all().copied().collect();
    edit(&mut superblock, &mut catalog);
    // A small catalog is one page of entries and one of the index. Both copies become the first.
    let [index, entries] = pages[..] else { panic!("{pages:?}") };
    let volumes = catalog.volumes.into_iter().map(PageItem::Volume);
    let (mut items, mut references) = (Vec::new(), Vec::new());
    let families = catalog.families.into_iter().map(PageItem::Family);
    let mut all: Vec<_> = volumes.chain(families).collect();
    all.sort_by_key(PageItem::number);
    all.iter().for_each(|item| item.encode(&mut items));
    let in_place = |page: PageRef, (bytes, checksum): (Vec<u8>, u32)| {
        assert_eq!(bytes.len(), page.blocks as usize * BLOCK_BYTES);
        (PageRef { checksum, copies: [page.copies[0]; 2], ..page }, bytes)
    };
    let (entries, entries_bytes) = in_place(entries, encode_page(PageKind::Entries, &items));
    entries.encode(&mut references);
    let (index, index_bytes) = in_place(index, encode_page(PageKind::Index, &references));
    let CatalogRef { slot, address, .. } = chunks[0];
    for (page, bytes) in [(entries, entries_bytes), (index, index_bytes)] {
        let [at, _copy] = page.copies;
        assert_eq!(at.segment(), address.segment(), "one segment of nodes");
        write(&file, superblock.geometry.offset(slot, at.block()), &bytes).await;
    }
    let head =
        CatalogHead { applied: catalog.applied, index: vec![index], segments: catalog.segments };
    let (chunk, checksum) = encode_chunk(None, &head.encode());
    let [at, _copy] = chunks[..] else { panic!("a small head is one chunk, written twice") };
    let blocks = (chunk.len() / BLOCK_BYTES) as u32;
    write(&file, superblock.geometry.offset(at.slot, at.address.block()), &chunk).await;
    superblock.catalog = Some(CatalogRef { blocks, checksum, ..at });
    superblock.catalog_copy = superblock.catalog;
    write(&file, superblock_offset(superblock.slot()), &superblock.encode()).await;
}

async fn write(file: &File, offset: u64, bytes: &[u8]) {
    let mut buffer = aligned(bytes.len());
    buffer.extend_from_slice(bytes);
    file.write(offset, WriteBuf::Owned(buffer)).await.expect("a write");
}

async fn checked(disk: &SimDisk) -> CheckReport {
    let store = StoppedStore::on(File::simulated(disk), BOOT, None);
    let options = CheckOptions { data: true, metadata_bytes: 1 << 20 };
    store.check(options, |_| {}).await.expect("it can be checked")
}

/// Checks a store after an edit of superblock and catalog: there is a finding of `kind` with
/// `words` in its sentence.
fn forged(edit: impl FnOnce(&mut Superblock, &mut StoredCatalog), kind: FindingKind, words: &str) {
    Runtime::simulated(1).block_on(async {
        let disk = closed_store().await;
        assert_eq!(checked(&disk).await.findings, [], "before");
        forge(&disk, edit).await;
        let report = checked(&disk).await;
        let fits = |finding: &Finding| finding.kind == kind && finding.what.contains(words);
        assert!(
            report.findings.iter().any(fits),
            "{kind:?} {words:?} is not among {:#?}",
            report.findings
        );
        assert!(!report.is_clean());
    });
}

#[test]
fn an_edit_that_changes_nothing_is_clean() {
    Runtime::simulated(1).block_on(async {
        let disk = closed_store().await;
        forge(&disk, |_, _| {}).await;
        let report = checked(&disk).await;
        assert_eq!((report.findings, report.volumes, report.snapshots), (Vec::new(), 1, 1));
        let blocks = |blocks: u64| blocks * BLOCK_BYTES as u64;
        assert_eq!((report.mapped_bytes, report.unique_bytes), (blocks(600), blocks(300)));
        assert_eq!(report.checked_bytes, blocks(300));
    });
}

#[test]
fn a_volume_that_counts_wrong_is_found() {
    forged(
        |_, catalog| {
            catalog.volumes[0].map.mapped = 299;
        },
        FindingKind::Count,
        "counts 299 blocks of data, and its map has 300",
    );
}

#[test]
fn what_lies_in_no_segment_is_found() {
    let no_log = |_: &mut Superblock, catalog: &mut StoredCatalog| {
        let first =
            catalog.segments.iter().position(|s| s.kind == SegmentKind::Log).expect("a log");
        catalog.segments.remove(first);
    };
    forged(no_log, FindingKind::Address, "which is in no segment of the store");
    let other_kind = |_: &mut Superblock, catalog: &mut StoredCatalog| {
        let first =
            catalog.segments.iter_mut().find(|s| s.kind == SegmentKind::Log).expect("a log");
        first.kind = SegmentKind::Node;
    };
    forged(other_kind, FindingKind::Address, "another kind");
}

#[test]
fn what_was_moved_without_its_blocks_is_found() {
    let moved = |superblock: &mut Superblock, catalog: &mut StoredCatalog| {
        let (into, slot) = (SegmentId(superblock.next_segment.0), Slot(39));
        superblock.next_segment = SegmentId(into.0 + 1);
        catalog.segments.push(SegmentEntry {
            id: into,
            kind: SegmentKind::Forwarded,
            place: SegmentPlace::Own(slot),
        });
        let first =
            catalog.segments.iter_mut().find(|s| s.kind == SegmentKind::Log).expect("a log");
        let piece = |first| Piece {
            into,
            slot,
            first,
            live: Bitmap::of([1, 2].into_iter(), SEGMENT_BLOCKS),
        };
        first.place = SegmentPlace::Moved(Arc::new([piece(0), piece(1)]));
    };
    forged(moved, FindingKind::Address, "was given up");
    forged(moved, FindingKind::Segments, "overlap");
    forged(moved, FindingKind::Segments, "has a block in two pieces");
}

#[test]
fn two_segments_in_one_slot_are_found() {
    let doubled = |_: &mut Superblock, catalog: &mut StoredCatalog| {
        let place = catalog.segments[0].place.clone();
        catalog.segments[1].place = place;
    };
    forged(doubled, FindingKind::Segments, "two segments are in one slot");
    let outside = |_: &mut Superblock, catalog: &mut StoredCatalog| {
        catalog.segments[0].place = SegmentPlace::Own(Slot(40));
    };
    forged(outside, FindingKind::Segments, "outside the store");
}

#[test]
fn numbers_that_would_be_given_twice_are_found() {
    let segment =
        |superblock: &mut Superblock, _: &mut StoredCatalog| superblock.next_segment = SegmentId(1);
    forged(segment, FindingKind::Segments, "there is one already");
    let volume = |superblock: &mut Superblock, _: &mut StoredCatalog| superblock.next_volume = 1;
    forged(volume, FindingKind::Catalog, "the next one would get too");
}

#[test]
fn a_snapshot_of_nothing_and_a_stray_node_tail_are_found() {
    let orphan = |_: &mut Superblock, catalog: &mut StoredCatalog| {
        let snapshot = catalog.volumes.iter_mut().find(|v| v.meta.snapshot_of.is_some());
        snapshot.expect("a snapshot").meta.snapshot_of = Some(VolumeNumber(77));
    };
    forged(orphan, FindingKind::Catalog, "one that is not there");
    let stray = |superblock: &mut Superblock, _: &mut StoredCatalog| {
        let (id, slot, block) = superblock.node_tail.expect("a node tail");
        superblock.node_tail = Some((id, Slot(slot.0 + 1), block));
    };
    forged(stray, FindingKind::Catalog, "the node tail");
}

/// Chooses the last four bytes so that all have this crc32, which is linear in them.
fn force_checksum(bytes: &mut [u8], wanted: u32) {
    let at = bytes.len() - 4;
    let mut with = |last: u32| {
        bytes[at..].copy_from_slice(&last.to_le_bytes());
        crate::base::checksum::plain(bytes)
    };
    let zero = with(0);
    let (mut missing, mut last, mut basis) = (zero ^ wanted, 0, Vec::<(u32, u32)>::new());
    for bit in 0..32 {
        let (mut effect, mut bits) = (with(1 << bit) ^ zero, 1 << bit);
        for (had, by) in &basis {
            if effect ^ had < effect {
                (effect, bits) = (effect ^ had, bits ^ by);
            }
        }
        basis.push((effect, bits));
        basis.sort_unstable_by_key(|(effect, _)| std::cmp::Reverse(*effect));
    }
    for (effect, bits) in &basis {
        if missing ^ effect < missing {
            (missing, last) = (missing ^ effect, last ^ bits);
        }
    }
    assert_eq!(with(last), wanted);
}

/// Following it would never end, and fill memory.
#[test]
fn a_catalog_that_leads_back_to_itself_is_refused() {
    Runtime::simulated(1).block_on(async {
        let disk = closed_store().await;
        let file = File::simulated(&disk);
        let slots = read_superblock_slots(&file).await;
        let newest = slots
            .into_iter()
            .filter_map(|slot| match slot.content {
                Content::Superblock(superblock) => Some(superblock),
                _ => None,
            })
            .max_by_key(|s| s.generation);
        let mut superblock = newest.expect("a superblock");
        let here = superblock.catalog.expect("a catalog");
        let circle = CatalogRef { blocks: 1, checksum: 0x5eed, ..here };
        let (mut chunk, _) = encode_chunk(Some(circle), b"more and more");
        force_checksum(&mut chunk, circle.checksum);
        write(&file, superblock.geometry.offset(here.slot, here.address.block()), &chunk).await;
        superblock.catalog = Some(circle);
        superblock.catalog_copy = superblock.catalog;
        write(
            &file,
            superblock_offset(superblock.generation % SUPERBLOCK_SLOTS),
            &superblock.encode(),
        )
        .await;
        let image = CheckpointImage::read(&file, &[], superblock, None).await;
        let error = image.err().expect("it has no end");
        assert!(error.to_string().contains("in a circle"), "{error}");
    });
}
