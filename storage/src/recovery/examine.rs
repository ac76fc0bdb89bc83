//! Examining a stopped store: what a start would find, without writing to it.
//!
//! It follows [`super::recover`] to the end of the log. Where recovery would complete the log from
//! staging, it notes the blocks; where recovery would write, it ends.

use super::{
    apply::{Replayed, Volumes},
    recover::disk_of,
    walk::{Completion, Left, Walk},
};
use crate::{
    base::{Address, Error, Kind, Lsn, Result},
    disk::{CatalogPages, CheckpointImage, Counts, Disk, choose, misplaced, read_superblock_slots},
    format::{
        CatalogRef, FamilyEntry, ReplayStart, SegmentEntry, StoredCatalog, Superblock, VolumeEntry,
    },
    log::Leftover,
    map::VolumeImage,
};
use sandstone_ring::File;
use std::sync::Arc;

/// A store as a start would find it.
pub(crate) struct Found {
    /// The superblock that counts.
    pub(crate) superblock: Superblock,
    /// Where the catalog's head and its copy lie.
    pub(crate) chunks: Vec<CatalogRef>,
    /// The catalog's pages.
    pub(crate) pages: CatalogPages,
    /// Why one of the two copies cannot be read.
    pub(crate) copy_damage: Option<String>,
    /// The catalog's volumes and snapshots, before replay.
    pub(crate) cataloged_volumes: Vec<VolumeEntry>,
    /// The catalog's segments, including segments with an impossible place.
    pub(crate) cataloged: Vec<SegmentEntry>,
    /// The disk, with the segments whose place is possible.
    pub(crate) disk: Arc<Disk>,
    /// Volumes and snapshots after replay.
    pub(crate) volumes: Vec<VolumeImage>,
    pub(crate) families: Vec<FamilyEntry>,
    pub(crate) next_volume: u32,
    /// Where the log ends.
    pub(crate) end: ReplayStart,
    /// Every record below was synced.
    pub(crate) synced: Lsn,
    pub(crate) records: u64,
    pub(crate) log_bytes: u64,
    pub(crate) staged_records: u64,
    /// Data blocks that are only in staging: first and number.
    pub(crate) staged: Vec<(Address, u32)>,
    /// Segments that the log has left.
    pub(crate) left: Vec<Left>,
    /// Damage to the superblock slots.
    pub(crate) slots_damage: Option<String>,
    /// Why superblock and catalog may not be the newest ones: damaged slots, or an unreadable
    /// newest catalog.
    pub(crate) old: Option<String>,
    /// Why the log could not be followed to its end.
    pub(crate) damage: Option<Error>,
}

/// Examines the store in `file`. `leftover` gives the staging buffer that an earlier server left.
///
/// # Errors
/// [`Kind::NotFound`] where there is no store; [`Kind::Corrupt`] where no superblock or catalog can
/// be read; [`Kind::Io`]. Other damage is in [`Found`].
pub(crate) async fn examine(
    file: &File,
    metadata_bytes: u64,
    leftover: impl FnOnce(&Superblock) -> Option<Leftover>,
) -> Result<Found> {
    let slots = read_superblock_slots(file).await;
    let (newest, slots_damage) = match choose(&slots)? {
        Counts::This(newest, damage) => (*newest, damage),
        Counts::None | Counts::HalfMade => {
            return Err(Error::new(Kind::NotFound, "there is no store"));
        }
    };
    let CheckpointImage { superblock, catalog, chunks, pages, copy_damage, damage: old, .. } =
        CheckpointImage::read(file, &slots, newest, slots_damage.clone()).await?;
    let StoredCatalog { applied, volumes, families, segments: cataloged } = catalog;
    let cataloged_volumes = volumes.clone();
    let wrong = misplaced(&cataloged, &superblock.geometry);
    let placed: Vec<_> = (cataloged.iter().enumerate())
        .filter(|(i, _)| wrong.iter().all(|(at, _)| at != i))
        .map(|(_, entry)| entry.clone())
        .collect();
    let disk = disk_of(file, &superblock, &placed, 0, metadata_bytes);
    let catalog = StoredCatalog { applied, volumes, families, segments: Vec::new() };
    let mut volumes = Volumes::new(&disk, catalog, superblock.next_volume);
    let leftover = leftover(&superblock).filter(|_| old.is_none());
    let identity = superblock.identity;
    let mut walk = Walk::new(&disk, &identity, leftover, &superblock, Completion::Noted);
    let damage = match walk.run(&mut volumes).await {
        Ok(()) => None,
        Err(error) if error.kind() == Kind::Corrupt => Some(error),
        Err(error) => return Err(error),
    };
    let synced = walk.synced();
    let end = walk.end();
    let Replayed { next_volume, volumes, families, .. } = volumes.finish(end.at.lsn);
    Ok(Found {
        superblock,
        chunks,
        pages,
        copy_damage,
        cataloged_volumes,
        cataloged,
        disk,
        volumes,
        families,
        next_volume,
        end: end.at,
        synced,
        records: end.records,
        log_bytes: end.log_bytes,
        staged_records: end.staged_records,
        staged: end.staged,
        left: end.left,
        slots_damage,
        old,
        damage,
    })
}
