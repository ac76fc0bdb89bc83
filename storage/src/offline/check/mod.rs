//! The check of a stopped store: reads everything that a start would rely on, and compares what the
//! maps reach with superblock, catalog and table of segments.
//!
//! ```text
//!   superblock, catalog ─► segments: each in a place of its own
//!          log ─► to its end as recovery goes; headers against footers
//!          maps ─► every distinct node, counted; with `data` every distinct block
//!                   └─► their addresses lie inside segments of the right kind
//! ```
//!
//! It writes nothing. A torn tail of the log is no finding; damage below the last synced record is,
//! and so is a superblock that cannot be read, which no crash leaves. Blocks that no map reaches
//! are not checked.
//!
//! I1  A finding is a fact about the disk: a failed read was tried twice.
//! I2  Memory is bounded by the store's measures, not by the data: one address a node, one bit a
//!     block.

mod catalog;
mod log;
mod maps;
#[cfg(test)]
mod tests;

use crate::{
    base::{BLOCK_BYTES, Result},
    disk::Retired,
    format::SegmentPlace,
    offline::StoppedStore,
    recovery::Found,
};
use maps::Maps;
use std::collections::HashSet;
use uuid::Uuid;

/// Most findings that are kept; further ones are only counted.
const FINDINGS_MAX: usize = 1000;

/// Options of a check.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Whether every block of data is read too, not only the maps.
    pub data: bool,
    /// Most bytes of maps in memory while the log is replayed.
    pub metadata_bytes: u64,
}

/// Progress of the walk of the maps, in bytes of all volumes and snapshots together. Shared
/// subtrees are passed at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress {
    /// Bytes that were checked.
    pub done_bytes: u64,
    /// Bytes that are mapped.
    pub total_bytes: u64,
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// A slot of the superblock is damaged, or does not fit the other one; or the superblock does
    /// not fit the file.
    Superblock,
    /// The catalog cannot be read, or contradicts itself or the superblock.
    Catalog,
    /// The table of segments: two in one slot, outside the store, moved to an impossible place.
    Segments,
    /// The log: it ends below the last synced record, or a header or footer is damaged.
    Log,
    /// A node of a map cannot be read, and with it everything below it.
    Map,
    /// A map refers to a place that holds nothing of the right kind.
    Address,
    /// A count of mapped blocks is not what is mapped.
    Count,
    /// Blocks of data differ from what was written, or cannot be read.
    Data,
}

/// A finding: one thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The finding's kind.
    pub kind: FindingKind,
    /// Description of what is wrong, in a sentence.
    pub what: String,
    /// The range of a volume or snapshot that is concerned, if any. Others may share it.
    pub place: Option<Place>,
}

/// A byte range of a volume or snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Id of the volume or snapshot.
    pub line: Uuid,
    /// Byte offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The first 1,000 findings.
    pub findings: Vec<Finding>,
    /// Number of all findings.
    pub findings_count: u64,
    /// Notes on states that a crash may leave, and that are no findings.
    pub notes: Vec<String>,
    /// Number of volumes.
    pub volumes: u64,
    /// Number of snapshots.
    pub snapshots: u64,
    /// Distinct nodes of maps that were read.
    pub nodes: u64,
    /// Bytes of data that the volumes and snapshots map, shared bytes counted for each.
    pub mapped_bytes: u64,
    /// Bytes of data that they map together, shared bytes counted once.
    pub unique_bytes: u64,
    /// Bytes of them that were read and compared.
    pub checked_bytes: u64,
    /// Records of the log behind the checkpoint: what the next start replays.
    pub log_records: u64,
    /// Bytes of log that they are in.
    pub log_bytes: u64,
    /// Number of these records that are only in the staging buffer.
    pub staged_records: u64,
    /// Number of slots.
    pub slots: u32,
    /// Number of slots without a segment.
    pub free_slots: u32,
}

impl CheckReport {
    /// Whether there is no finding.
    pub fn is_clean(&self) -> bool {
        self.findings_count == 0
    }

    fn find(&mut self, kind: FindingKind, what: impl Into<String>) {
        self.find_at(kind, what, None);
    }

    fn find_at(&mut self, kind: FindingKind, what: impl Into<String>, place: Option<Place>) {
        self.findings_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { kind, what: what.into(), place });
        }
    }
}

impl StoppedStore {
    /// Checks the store. It calls `on_progress` from time to time while it reads maps and data.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] where there is no store; [`crate::Kind::Corrupt`] where no
    /// superblock or catalog can be read.
    pub async fn check(
        &self,
        options: CheckOptions,
        on_progress: impl FnMut(CheckProgress),
    ) -> Result<CheckReport> {
        let found = self.examine(options.metadata_bytes).await?;
        let mut report = CheckReport::default();
        superblock(&found, self.file().len_bytes(), &mut report);
        catalog::check(&found, &mut report);
        log::check(&found, &mut report).await;
        Maps::new(&found, options, &mut report, on_progress).walk().await;
        count(&found, &mut report);
        Ok(report)
    }
}

fn superblock(found: &Found, file_bytes: u64, report: &mut CheckReport) {
    if let Some(damage) = &found.slots_damage {
        report.find(FindingKind::Superblock, damage);
    }
    if let Some(old) = found.old.as_ref().filter(|old| found.slots_damage.as_ref() != Some(old)) {
        report.find(FindingKind::Catalog, old);
    }
    if let Some(damage) = &found.copy_damage {
        report.find(FindingKind::Catalog, format!("{damage}; the other copy of it serves"));
    }
    let needed = found.superblock.geometry.store_bytes();
    if file_bytes < needed {
        let what = format!(
            "the store has {needed} bytes by its superblock, and its file only {file_bytes}"
        );
        report.find(FindingKind::Superblock, what);
    }
}

fn count(found: &Found, report: &mut CheckReport) {
    let snapshots = found.volumes.iter().filter(|v| v.meta.snapshot_of.is_some()).count() as u64;
    report.snapshots = snapshots;
    report.volumes = found.volumes.len() as u64 - snapshots;
    let mapped = |blocks: u64| blocks * BLOCK_BYTES as u64;
    report.mapped_bytes = found.volumes.iter().map(|v| mapped(v.tree.mapped_blocks())).sum();
    report.log_records = found.records;
    report.log_bytes = found.log_bytes;
    report.staged_records = found.staged_records;
    report.slots = found.superblock.geometry.slots;
    let used: HashSet<_> = (found.disk.segments.entries(&Retired::default()).into_iter())
        .filter_map(|entry| match entry.place {
            SegmentPlace::Own(slot) => Some(slot),
            SegmentPlace::Moved(_) => None,
        })
        .collect();
    report.free_slots = report.slots.saturating_sub(used.len() as u32);
}
