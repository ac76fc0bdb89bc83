//! What a start would find, without a byte of the store written.
//!
//! It goes the way of [`super::recover`] to the end of the log. Where that would complete the log
//! from staging, this notes what it would have taken; where that would write, this is done.

use super::{
    apply::{Replayed, Volumes},
    recover::disk_of,
    walk::{Completion, Left, Walk},
};
use crate::{
    base::{Address, Error, Kind, Lsn, Result},
    disk::{CheckpointImage, Counts, Disk, choose, misplaced, read_superblock_slots},
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
    /// The one that counts.
    pub(crate) superblock: Superblock,
    /// Where the catalog and its copy lie.
    pub(crate) chunks: Vec<CatalogRef>,
    /// Why one of the two cannot be read.
    pub(crate) copy_damage: Option<String>,
    /// What the catalog has of volumes and snapshots, before the log.
    pub(crate) cataloged_volumes: Vec<VolumeEntry>,
    /// Its segments, those too that cannot be where it says.
    pub(crate) cataloged: Vec<SegmentEntry>,
    /// With the segments that can be where they are said to be.
    pub(crate) disk: Arc<Disk>,
    /// With all that the log has of them.
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
    /// Blocks of data that are in staging only: first and number.
    pub(crate) staged: Vec<(Address, u32)>,
    /// Segments that the log left.
    pub(crate) left: Vec<Left>,
    /// What is wrong with the superblock's slots.
    pub(crate) slots_damage: Option<String>,
    /// Why superblock and catalog may not be the newest ones: that, or that the newest catalog
    /// cannot be read.
    pub(crate) old: Option<String>,
    /// Why the log could not be followed to its end.
    pub(crate) damage: Option<Error>,
}

/// Looks at the store in `file`. `leftover` gives what an earlier server left in staging.
///
/// # Errors
/// [`Kind::NotFound`] where there is no store; [`Kind::Corrupt`] where no superblock or catalog can be read;
/// [`Kind::Io`]. What else is wrong is told in [`Found`].
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
    let CheckpointImage { superblock, catalog, chunks, copy_damage, damage: old } =
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
