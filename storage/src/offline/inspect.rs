//! Inspection of a stopped store, field by field, by the names in FORMAT.md.
//!
//! It shows the content and does not judge it; the check does. The store's secret is left out.

use crate::{
    base::{Error, Kind, Result, SegmentId, Slot},
    disk::{self, Content, Retired, SuperblockSlot, salvage},
    format::{
        BatchHeader, CatalogRef, PageRef, RecordHead, RecordKind, Records, SegmentEntry,
        SegmentKind, SegmentPlace, StoredChild, Superblock, VERSION, VolumeEntry,
    },
    offline::StoppedStore,
    recovery::Found,
};
use std::collections::HashSet;
use uuid::Uuid;

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text: an id, a kind, a list.
    Text(String),
    /// The field is absent.
    Absent,
}

/// Fields with their names, in the order on disk.
pub type Row = Vec<(&'static str, Field)>;

/// A section: rows of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Name of the section.
    pub name: String,
    /// The rows.
    pub rows: Vec<Row>,
}

impl StoppedStore {
    /// The superblock's slots.
    pub async fn inspect_superblocks(&self) -> Vec<Section> {
        let slots = disk::read_superblock_slots(self.file()).await;
        let section = |(i, slot): (usize, &SuperblockSlot)| Section {
            name: format!("superblock {i}"),
            rows: vec![match &slot.content {
                Content::Superblock(superblock) => superblock_row(superblock),
                Content::Misplaced(superblock) => {
                    let state = [("state", text(slot.content.to_string()))];
                    state.into_iter().chain(superblock_row(superblock)).collect()
                }
                Content::Blank | Content::Malformed(_) | Content::Unreadable(_) => {
                    vec![("state", text(slot.content.to_string()))]
                }
            }],
        };
        slots.iter().enumerate().map(section).collect()
    }

    /// The catalog, the segments, including segments that the log entered since, and the log's
    /// measures.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn inspect(&self, metadata_bytes: u64) -> Result<Vec<Section>> {
        let found = self.examine(metadata_bytes).await?;
        let segments = found.disk.segments.entries(&Retired::default());
        let section = |name: &str, rows: Vec<Row>| Section { name: name.to_owned(), rows };
        Ok(vec![
            section("catalog", found.chunks.iter().map(chunk_row).collect()),
            section("catalog pages", found.pages.all().map(page_row).collect()),
            section("volumes", found.cataloged_volumes.iter().map(volume_row).collect()),
            section("segments", segments.iter().map(|entry| segment_row(entry, &found)).collect()),
            section("log", vec![log_row(&found)]),
            section("file", vec![self.file_row(&found, &segments)]),
        ])
    }

    /// Whether acknowledged writes survive a crash of the host, and the free slots: how many have
    /// all of their blocks written, and how many none.
    fn file_row(&self, found: &Found, segments: &[SegmentEntry]) -> Row {
        let geometry = found.superblock.geometry;
        let own = |entry: &SegmentEntry| match entry.place {
            SegmentPlace::Own(slot) => Some(slot),
            SegmentPlace::Moved(_) => None,
        };
        let used: HashSet<Slot> = segments.iter().filter_map(own).collect();
        let (mut free, mut written, mut holes) = (0, 0, 0);
        for slot in (0..geometry.slots).map(Slot).filter(|slot| !used.contains(slot)) {
            let start = geometry.offset(slot, 0);
            let coverage = self.file().coverage(start..start + geometry.segment_bytes());
            free += 1;
            written += u64::from(coverage.missing.is_empty());
            holes += u64::from(coverage.is_hole);
        }
        vec![
            ("placement", text(self.file().placement().name())),
            ("free slots", Field::Number(free)),
            ("written throughout", Field::Number(written)),
            ("holes", Field::Number(holes)),
        ]
    }

    /// Calls `each` with the records of a segment of the log, or of all segments that the next
    /// start would replay, as far as they are in the store and not only in staging.
    ///
    /// # Errors
    /// As [`Self::check`]; [`Kind::NotFound`] where `segment` is no segment of the log.
    pub async fn inspect_records(
        &self,
        segment: Option<u64>,
        metadata_bytes: u64,
        mut each: impl FnMut(Row),
    ) -> Result<()> {
        let found = self.examine(metadata_bytes).await?;
        let replay = found.superblock.replay;
        let log =
            found.disk.segments.entries(&Retired::default()).into_iter().filter_map(|entry| {
                match entry {
                    SegmentEntry { id, kind: SegmentKind::Log, place: SegmentPlace::Own(slot) } => {
                        Some((id, slot))
                    }
                    _ => None,
                }
            });
        let wanted: Vec<_> = match segment {
            Some(number) => {
                log.filter(|(id, _)| id.0 == number).map(|(id, slot)| (id, slot, 0)).collect()
            }
            None => log
                .filter(|(id, _)| *id >= replay.segment)
                .map(|(id, slot)| (id, slot, if id == replay.segment { replay.block } else { 0 }))
                .collect(),
        };
        if wanted.is_empty() {
            let number = segment.unwrap_or(replay.segment.0);
            return Err(Error::new(
                Kind::NotFound,
                format!("{number} is no segment of the log in a slot of its own"),
            ));
        }
        for (id, slot, from) in wanted {
            records(&found, id, slot, from, &mut each).await;
        }
        Ok(())
    }
}

/// Follows the chain of headers of a segment, as FORMAT.md describes it.
async fn records(
    found: &Found,
    segment: SegmentId,
    slot: Slot,
    from: u32,
    each: &mut impl FnMut(Row),
) {
    let (geometry, identity) = (found.superblock.geometry, &found.superblock.identity);
    let mut block = from;
    while block < geometry.segment_blocks {
        let bytes = salvage::read_blocks(&found.disk.file, geometry.offset(slot, block), 1).await;
        let header = BatchHeader::decode(identity, &bytes).ok();
        match header.filter(|header| (header.segment, header.block) == (segment, block)) {
            Some(header) => {
                let at = BatchHeader::RECORDS_AT;
                let payload = &bytes[at..at + usize::from(header.records_bytes)];
                for record in Records::new(identity, header.epoch, header.first_lsn, payload) {
                    let mut row = vec![
                        ("segment", number(segment.0)),
                        ("block", number(block)),
                        ("epoch", number(header.epoch)),
                        ("LSN", number(record.lsn.0)),
                    ];
                    row.extend(record_row(&record.head, record.payload.len()));
                    each(row);
                }
                block += 1 + header.data_blocks;
            }
            // The rest of a window may be empty.
            None if !block.is_multiple_of(geometry.window_blocks) => {
                block = block.next_multiple_of(geometry.window_blocks);
            }
            None => return,
        }
    }
}

fn number(number: impl Into<u64>) -> Field {
    Field::Number(number.into())
}

fn text(text: impl Into<String>) -> Field {
    Field::Text(text.into())
}

fn checksum(checksum: u32) -> Field {
    text(format!("{checksum:08x}"))
}

fn superblock_row(superblock: &Superblock) -> Row {
    let Superblock { geometry, replay, node_tail, catalog, .. } = superblock;
    let mut row = vec![
        ("version", number(VERSION)),
        ("epoch", number(superblock.epoch)),
        ("store id", text(Uuid::from_bytes(superblock.identity.store).to_string())),
        ("generation", number(superblock.generation)),
        ("blocks in a segment", number(geometry.segment_blocks)),
        ("blocks in a staging window", number(geometry.window_blocks)),
        ("slots", number(geometry.slots)),
        ("number of the next volume", number(superblock.next_volume)),
        ("replay start: segment", number(replay.segment.0)),
        ("replay start: slot", number(replay.slot.0)),
        ("replay start: block", number(replay.block)),
        ("replay start: first LSN", number(replay.lsn.0)),
        ("replay start: first LSN of the batch before", number(replay.previous.0)),
        ("synced", number(superblock.synced.0)),
        ("number of the next segment", number(superblock.next_segment.0)),
    ];
    match node_tail {
        Some((segment, slot, block)) => row.extend([
            ("node tail: segment", number(segment.0)),
            ("node tail: slot", number(slot.0)),
            ("node tail: block", number(*block)),
        ]),
        None => row.push(("node tail", Field::Absent)),
    }
    match catalog {
        Some(catalog) => row.extend([
            ("catalog: address", text(format!("{:?}", catalog.address))),
            ("catalog: slot", number(catalog.slot.0)),
            ("catalog: blocks", number(catalog.blocks)),
            ("catalog: crc32", checksum(catalog.checksum)),
        ]),
        None => row.push(("catalog", Field::Absent)),
    }
    match &superblock.catalog_copy {
        Some(copy) => row.extend([
            ("copy of the catalog: address", text(format!("{:?}", copy.address))),
            ("copy of the catalog: slot", number(copy.slot.0)),
            ("copy of the catalog: blocks", number(copy.blocks)),
            ("copy of the catalog: crc32", checksum(copy.checksum)),
        ]),
        None => row.push(("copy of the catalog", Field::Absent)),
    }
    row.push(("closed", text(if superblock.closed { "yes" } else { "no" })));
    row.push(("claim: the segment that the log leaves", number(superblock.claim.of.0)));
    match superblock.claim.next {
        Some((segment, slot)) => row.extend([
            ("claim: the next segment", number(segment.0)),
            ("claim: its slot", number(slot.0)),
        ]),
        None => row.push(("claim: the next segment", Field::Absent)),
    }
    row
}

fn chunk_row(chunk: &CatalogRef) -> Row {
    vec![
        ("address", text(format!("{:?}", chunk.address))),
        ("slot", number(chunk.slot.0)),
        ("blocks", number(chunk.blocks)),
        ("crc32", checksum(chunk.checksum)),
    ]
}

fn page_row(page: &PageRef) -> Row {
    let [first, second] = page.copies;
    vec![
        ("first number", number(page.first.0)),
        ("blocks", number(page.blocks)),
        ("crc32", checksum(page.checksum)),
        ("address", text(format!("{first:?}"))),
        ("address of the copy", text(format!("{second:?}"))),
    ]
}

fn volume_row(VolumeEntry { meta, applied, map }: &VolumeEntry) -> Row {
    let mut row = vec![
        ("number", number(meta.number.0)),
        ("id", text(meta.id.to_string())),
        ("family", number(meta.family.0)),
        ("snapshot of", meta.snapshot_of.map_or(Field::Absent, |of| number(of.0))),
        ("size", number(meta.size_bytes)),
        ("cache_size", number(meta.settings.cache_bytes)),
        ("buffer_size", number(meta.settings.buffer_bytes)),
        ("prefetch", number(meta.settings.prefetch_mib)),
        ("writeback", text(if meta.settings.writeback { "on" } else { "off" })),
        ("bytes of attributes", number(meta.attributes.len() as u64)),
        ("root: LSN", number(applied.0)),
    ];
    row.extend(match map.root {
        Some(StoredChild::Node(root)) => [
            ("root", text(format!("{:?}", root.address))),
            ("root: blocks", number(root.blocks)),
            ("root: crc32", checksum(root.checksum)),
        ],
        Some(StoredChild::Zero) => [
            ("root", text("zero")),
            ("root: blocks", Field::Absent),
            ("root: crc32", Field::Absent),
        ],
        None => [
            ("root", text("holes")),
            ("root: blocks", Field::Absent),
            ("root: crc32", Field::Absent),
        ],
    });
    row.push(("root: data blocks", number(map.mapped)));
    row
}

fn segment_row(entry: &SegmentEntry, found: &Found) -> Row {
    let open = found.end.segment == entry.id || found.disk.segments.is_open(entry.id);
    let (slot, offset, pieces) = match &entry.place {
        SegmentPlace::Own(slot) => {
            let offset = found.superblock.geometry.offset(*slot, 0);
            (number(slot.0), number(offset), Field::Absent)
        }
        SegmentPlace::Moved(pieces) => {
            let piece_text = |piece: &crate::format::Piece| {
                format!("{}:{}+{}", piece.into.0, piece.first, piece.live.count())
            };
            (
                Field::Absent,
                Field::Absent,
                text(pieces.iter().map(piece_text).collect::<Vec<_>>().join(" ")),
            )
        }
    };
    let kind = match entry.kind {
        SegmentKind::Log => "log",
        SegmentKind::Node => "nodes",
        SegmentKind::Forwarded => "moved blocks",
    };
    vec![
        ("segment", number(entry.id.0)),
        ("kind", text(kind)),
        ("slot", slot),
        ("offset", offset),
        ("sealed", text(if open { "no" } else { "yes" })),
        ("pieces", pieces),
    ]
}

fn log_row(found: &Found) -> Row {
    vec![
        ("end: segment", number(found.end.segment.0)),
        ("end: slot", number(found.end.slot.0)),
        ("end: block", number(found.end.block)),
        ("end: LSN", number(found.end.lsn.0)),
        ("synced", number(found.synced.0)),
        ("records to replay", number(found.records)),
        ("of them from staging", number(found.staged_records)),
        ("damage", found.damage.as_ref().map_or(Field::Absent, |damage| text(damage.to_string()))),
    ]
}

fn record_row(head: &RecordHead, payload_bytes: usize) -> Row {
    let kind = match head.kind {
        RecordKind::Data => "data",
        RecordKind::Hole => "hole",
        RecordKind::Zero => "zero",
        RecordKind::VolumePut => "volume put",
        RecordKind::VolumeDelete => "volume delete",
        RecordKind::Fork => "fork",
        RecordKind::Restore => "restore",
    };
    vec![
        ("kind", text(kind)),
        ("volume number", number(head.volume.0)),
        ("first block of the volume", number(head.block)),
        ("blocks", number(head.count)),
        ("first block within the batch's data", number(head.data_offset)),
        ("bytes of payload", number(payload_bytes as u64)),
    ]
}
