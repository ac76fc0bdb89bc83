//! Superblock and catalog against each other: volumes, and which slot holds which segment.

use super::{CheckReport, FindingKind};
use crate::{
    base::{SegmentId, Slot, VolumeNumber},
    disk::{Retired, misplaced},
    format::{FamilyEntry, SegmentEntry, SegmentKind, SegmentPlace},
    map::VolumeImage,
    recovery::Found,
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Checks superblock, catalog and the table of segments against each other.
pub(super) fn check(found: &Found, report: &mut CheckReport) {
    segments(found, report);
    pieces(&found.cataloged, report);
    pointers(found, report);
    volumes(&found.volumes, found.next_volume, report);
    families(&found.families, &found.volumes, report);
}

fn segments(found: &Found, report: &mut CheckReport) {
    let geometry = &found.superblock.geometry;
    for (i, why) in misplaced(&found.cataloged, geometry) {
        let entry = &found.cataloged[i];
        report.find(FindingKind::Segments, format!("the catalog: {why}: {}", describe(entry)));
    }
    // Including segments that the log entered since.
    let all = found.disk.segments.entries(&Retired::default());
    for (i, why) in misplaced(&all, geometry) {
        report.find(
            FindingKind::Segments,
            format!("with those of the log, {why}: {}", describe(&all[i])),
        );
    }
    for entry in found.cataloged.iter().filter(|entry| entry.id >= found.superblock.next_segment) {
        let next = found.superblock.next_segment.0;
        let what = format!(
            "the next segment would be {next}, and there is one already: {}",
            describe(entry)
        );
        report.find(FindingKind::Segments, what);
    }
}

fn describe(entry: &SegmentEntry) -> String {
    let (id, kind) = (entry.id.0, entry.kind);
    match &entry.place {
        SegmentPlace::Own(Slot(slot)) => format!("segment {id} ({kind:?}) in slot {slot}"),
        SegmentPlace::Moved(pieces) => {
            format!("segment {id} ({kind:?}), moved in {} piece(s)", pieces.len())
        }
    }
}

/// Checks that no two pieces are in one place, and that no block is in two pieces.
fn pieces(entries: &[SegmentEntry], report: &mut CheckReport) {
    let mut hosted: BTreeMap<SegmentId, Vec<(u32, u32, SegmentId)>> = BTreeMap::new();
    for SegmentEntry { id, place, .. } in entries {
        let SegmentPlace::Moved(pieces) = place else { continue };
        let mut seen = HashSet::new();
        for piece in &**pieces {
            hosted.entry(piece.into).or_default().push((piece.first, piece.live.count(), *id));
            if !crate::base::bitmap::ones(piece.live.words()).all(|block| seen.insert(block)) {
                let what = format!("segment {} was moved, and has a block in two pieces", id.0);
                report.find(FindingKind::Segments, what);
            }
        }
    }
    for (host, mut pieces) in hosted {
        pieces.sort_unstable();
        for pair in pieces.windows(2) {
            let ((first, count, one), (next, _, other)) = (pair[0], pair[1]);
            if first + count > next {
                let what = format!(
                    "segment {}: pieces of segments {} and {} overlap there",
                    host.0, one.0, other.0
                );
                report.find(FindingKind::Segments, what);
            }
        }
    }
}

/// Checks that the places that superblock and catalog name are in the table.
fn pointers(found: &Found, report: &mut CheckReport) {
    let places: HashMap<_, _> =
        found.cataloged.iter().map(|entry| (entry.id, (entry.kind, &entry.place))).collect();
    let mut expect = |what: &str, id: SegmentId, slot: Slot, kind: SegmentKind| match places
        .get(&id)
    {
        Some((had, SegmentPlace::Own(at))) if (*had, *at) == (kind, slot) => {}
        Some(_) => {
            let text = format!(
                "{what} is in segment {} and slot {}; the catalog has another there",
                id.0, slot.0
            );
            report.find(FindingKind::Catalog, text);
        }
        None => {
            let text = format!("{what} is in segment {}, which the catalog does not have", id.0);
            report.find(FindingKind::Catalog, text);
        }
    };
    // A store that was just made has no catalog yet.
    if found.chunks.is_empty() {
        return;
    }
    for chunk in &found.chunks {
        expect("the catalog", chunk.address.segment(), chunk.slot, SegmentKind::Node);
    }
    if let Some((id, slot, _)) = found.superblock.node_tail {
        expect("the node tail", id, slot, SegmentKind::Node);
    }
    let replay = found.superblock.replay;
    expect("the replay start", replay.segment, replay.slot, SegmentKind::Log);
}

fn volumes(volumes: &[VolumeImage], next_volume: u32, report: &mut CheckReport) {
    let mut ids = HashSet::new();
    let numbers: HashSet<_> = volumes.iter().map(|v| v.meta.number).collect();
    for VolumeImage { meta, .. } in volumes {
        let mut wrong = |why: &str| {
            let what = format!("volume {} ({}) {why}", meta.number.0, meta.id);
            report.find(FindingKind::Catalog, what);
        };
        if !ids.insert(meta.id) {
            wrong("has the id of another");
        }
        if meta.number.0 >= next_volume {
            wrong("has a number that the next one would get too");
        }
        if meta.snapshot_of.is_some_and(|of| !numbers.contains(&of)) {
            wrong("is a snapshot of one that is not there");
        }
    }
}

/// Checks that no entry has more blocks of its own than it has in all, and that no family shares
/// more than its entries have.
fn families(shared: &[FamilyEntry], volumes: &[VolumeImage], report: &mut CheckReport) {
    let mut mapped: HashMap<VolumeNumber, u64> = HashMap::new();
    for VolumeImage { meta, tree, .. } in volumes {
        let (own, all) = (tree.birthday().own_blocks, tree.mapped_blocks());
        *mapped.entry(meta.family).or_default() += all;
        if own > all {
            let what = format!(
                "volume {} ({}) has {own} blocks of its own, and {all} in all",
                meta.number.0, meta.id
            );
            report.find(FindingKind::Catalog, what);
        }
    }
    for FamilyEntry { family, .. } in
        shared.iter().filter(|entry| !mapped.contains_key(&entry.family))
    {
        let what = format!("family {} shares blocks, and has no volume", family.0);
        report.find(FindingKind::Catalog, what);
    }
}
