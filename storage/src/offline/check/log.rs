//! The log behind the checkpoint: it ends where it may, and headers and footers say the same.
//!
//! Recovery needs one of the two. So damage to one loses nothing, and the check finds it before
//! both are damaged. The log before the replay start is never read again, and may be punched.

use super::{CheckReport, FindingKind};
use crate::{
    base::{SegmentId, Slot},
    disk::salvage,
    format::{BatchHeader, Footer, FooterBatch, Identity, Malformed, Trailer, footer_blocks},
    recovery::Found,
};
use futures_util::future::join_all;

/// Headers read at once.
const LOADS_MAX: usize = 64;

/// Checks the log.
pub(super) async fn check(found: &Found, report: &mut CheckReport) {
    if let Some(damage) = &found.damage {
        report.find(FindingKind::Log, damage.to_string());
    }
    let mut from = found.superblock.replay.block;
    for left in &found.left {
        let last = found.superblock.geometry.segment_blocks - 1;
        let block = blocks(found, left.slot, last, 1).await;
        let trailer = Trailer::decode(&found.superblock.identity, &block).ok();
        match trailer.filter(|t| (t.segment, t.next) == (left.segment, left.next)) {
            Some(trailer) if trailer.next_lsn <= found.synced => {
                sealed(found, trailer, left.slot, from, report).await;
            }
            Some(_) => {}
            // The log behind it was synced, so it was too.
            None if left.next_lsn < found.synced => {
                let what = format!(
                    "segment {}: the footer is lost or damaged; \
                     replay goes by its batches to segment {}",
                    left.segment.0, left.next.0.0
                );
                report.find(FindingKind::Log, what);
            }
            None => {
                let what =
                    format!("segment {}: no footer; replay goes on without one", left.segment.0);
                report.notes.push(what);
            }
        }
        from = 0;
    }
}

/// Checks a segment that is known to be synced as a whole.
async fn sealed(found: &Found, trailer: Trailer, slot: Slot, from: u32, report: &mut CheckReport) {
    let identity = &found.superblock.identity;
    let segment = trailer.segment;
    let needed = footer_blocks(trailer.content_bytes as usize);
    let first = found.superblock.geometry.segment_blocks.checked_sub(needed);
    let footer = match first {
        Some(first) => Footer::decode(identity, trailer, &blocks(found, slot, first, needed).await),
        None => Err(Malformed("the footer is longer than its segment")),
    };
    let footer = match footer {
        Ok(footer) => footer,
        Err(why) => {
            // A killed server may have left a part of it, and the start after it used the headers,
            // as the next one will.
            report
                .notes
                .push(format!("segment {}: {}: replay goes by the headers", segment.0, why.0));
            return;
        }
    };
    let (inside, outside): (Vec<_>, Vec<_>) = (footer.batches.iter())
        .filter(|batch| batch.block >= from)
        .partition(|batch| batch.block < found.superblock.geometry.segment_blocks);
    if !outside.is_empty() {
        let what =
            format!("segment {}: {} batches of the footer lie outside", segment.0, outside.len());
        report.find(FindingKind::Log, what);
    }
    for batches in inside.chunks(LOADS_MAX) {
        let headers =
            join_all(batches.iter().map(|batch| blocks(found, slot, batch.block, 1))).await;
        for (batch, block) in batches.iter().zip(headers) {
            if let Err(why) = same(identity, &block, batch, segment) {
                let what = format!("segment {} block {}: {why}", segment.0, batch.block);
                report.find(FindingKind::Log, what);
            }
        }
    }
}

fn same(
    identity: &Identity,
    block: &[u8],
    batch: &FooterBatch,
    segment: SegmentId,
) -> Result<(), &'static str> {
    let header = BatchHeader::decode(identity, block).map_err(|why| why.0)?;
    let at = BatchHeader::RECORDS_AT;
    let records = &block[at..at + usize::from(header.records_bytes)];
    let has = (header.segment, header.block, header.epoch, header.first_lsn, records);
    if has == (segment, batch.block, batch.epoch, batch.first_lsn, &batch.records[..]) {
        Ok(())
    } else {
        Err("the header says something else than the footer")
    }
}

async fn blocks(found: &Found, slot: Slot, first: u32, count: u32) -> Vec<u8> {
    salvage::read_blocks(&found.disk.file, found.superblock.geometry.offset(slot, first), count)
        .await
}
