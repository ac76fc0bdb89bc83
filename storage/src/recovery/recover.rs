//! Opening a store: superblock, catalog, then the log behind the checkpoint, then the staging
//! buffer behind the log.
//!
//! ```text
//!   superblock ► catalog ► footers of sealed segments … ►
//!   headers of the last segment … ► staging ► ready
//! ```
//!
//! I1  The log ends at the first place where neither the store nor staging has the next batch.
//!     Records further on were never acknowledged, because acknowledgements leave in log order.
//! I2  If that place lies below an LSN that a superblock, footer or header says was synced, then it
//!     is not the end but damage: the store is opened for reading only, and nothing is cut off.
//! I3  Data is checked against its record where the record is not known to be synced; a batch whose
//!     data did not all arrive is as good as missing, even though its header did.
//! I4  Before the store serves a request, it holds what only staging had, and the part of the log
//!     that is not known to be synced is written again, because data that can be read after a
//!     failed sync may be only in a cache; the trailer block of the open segment is cleared (it may
//!     be of a longer, lost log); and after a sync of all that the superblock with the new epoch is
//!     synced. This is the fence: records from here on are of that epoch or later, and new segments
//!     get numbers that no older log can have used. Otherwise a later recovery could take an older
//!     end of the log for its continuation.
//! I5  A superblock slot that cannot be read is damage, and so is a log that leads into slots of a
//!     newer log, or that names a newer superblock than there is: then the data may be old, and the
//!     slots that writes would go to may have been reused. The store is opened for reading only.
//! I6  No sector that cannot be read keeps the store from being opened: a block of it counts as one
//!     with a wrong checksum. Without a superblock or a catalog no store can be opened. So there
//!     are two slots, and two copies of each part of the catalog; where both copies of a part are
//!     damaged, recovery uses the superblock before, if its catalog is readable.

use super::{
    apply::{Replayed, Volumes},
    options::{Parts, RecoveryReport, StagingFate},
    staging_files::StagingFile,
    walk::{Completion, End, Walk},
};
use crate::{
    base::{
        BLOCK_BYTES, Blindness, Error, Health, HealthCell, Kind, Lsn, Result, Secret, SegmentId,
        Shutdown, VolumeNumber, is_blind_to,
    },
    core::{DirtyNodes, Engine, Fragmented, ReadPins, ReclaimDemand, Space},
    disk::{
        CatalogPages, CheckpointImage, Counts, Disk, Need, Readiness, Segments, Taken, Writing,
        choose, misplaced, put_superblock, read_superblock_slots, salvage, write_superblock,
    },
    format::{
        Claim, FamilyEntry, Geometry, Identity, ReplayStart, SLOTS_MAX, SegmentEntry, SegmentKind,
        SegmentPlace, Superblock, VolumeEntry,
    },
    log::{Leftover, Log, Staging, Start},
    maintenance::Rates,
    map::VolumeImage,
};
use sandstone_ring::{File, SharedMemory, WriteBuf, aligned, runtime};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The result of recovery, from which [`crate::Store`] is made.
pub(crate) struct Recovered {
    pub(crate) engine: Engine,
    pub(crate) superblock: Superblock,
    pub(crate) volumes: Vec<VolumeImage>,
    pub(crate) families: Vec<FamilyEntry>,
    /// The pages of the superblock's catalog.
    pub(crate) pages: CatalogPages,
    /// Numbers of entries and families that differ from it, or whose pages need repair.
    pub(crate) unwritten: BTreeSet<VolumeNumber>,
    /// A copy of a part of it cannot be read.
    pub(crate) is_damaged: bool,
    pub(crate) applied: Lsn,
    pub(crate) next_volume: u32,
    pub(crate) rates: Rates,
    pub(crate) report: RecoveryReport,
    /// The staging file, if the staging buffer is one.
    pub(crate) staging_file: Option<StagingFile>,
}

/// Opens the store in `parts.file`, or creates it. `staging` gives the memory for the store of this
/// superblock, with at least as many bytes as asked for, and whether an earlier server left it.
pub(crate) async fn recover(
    parts: Parts,
    staging: impl FnOnce(&Superblock, usize) -> std::io::Result<(Arc<SharedMemory>, bool)>,
) -> Result<Recovered> {
    let Parts {
        file,
        size_bytes,
        segment_blocks,
        boot,
        cache_bytes,
        metadata_bytes,
        reclaim_rate,
        scrub_rate,
    } = parts;
    let geometry = Geometry::with_segments(size_bytes, segment_blocks);
    let began = runtime::now();
    let slots = read_superblock_slots(&file).await;
    let (image, created) = match choose(&slots)? {
        Counts::This(superblock, damage) => {
            (CheckpointImage::read(&file, &slots, *superblock, damage).await?, false)
        }
        Counts::None => (CheckpointImage::new(make(&file, geometry).await?), true),
        Counts::HalfMade => {
            tracing::warn!("the store's making was interrupted; it is made again");
            (CheckpointImage::new(make(&file, geometry).await?), true)
        }
    };
    let CheckpointImage { mut superblock, catalog, pages, copy_damage, to_repair, damage, .. } =
        image;
    match misplaced(&catalog.segments, &superblock.geometry).first() {
        None => {}
        Some((_, why)) => return Err(Error::corrupt(format!("the catalog: {why}"))),
    }
    let as_read = superblock.clone();
    if damage.is_none() {
        grow(&file, &mut superblock, geometry).await?;
    }
    let disk = disk_of(&file, &superblock, &catalog.segments, cache_bytes, metadata_bytes);
    let segments = Arc::clone(&disk.segments);
    let identity = superblock.identity;
    let staging_bytes = Staging::file_bytes(&superblock.geometry);
    let (memory, existed) = staging(&superblock, staging_bytes).map_err(|e| {
        Error::io(
            "no room for the staging buffer: set [store] staging to a directory that has it",
            e,
        )
    })?;
    let opened = existed.then(|| {
        let memory = Arc::clone(&memory);
        Leftover::open(memory, superblock.geometry, &identity, &boot, superblock.epoch)
    });
    let leftover = opened.and_then(|l| {
        l.inspect_err(|why| tracing::info!(why = why.0, "the staging buffer is not replayed")).ok()
    });

    let (was_closed, has_leftover) = (superblock.closed, leftover.is_some());
    let (cataloged, shared) = (catalog.volumes.clone(), catalog.families.clone());
    let mut volumes = Volumes::new(&disk, catalog, superblock.next_volume);
    // Where the superblock may be an old one, the places that it names may be reused: nothing is
    // written there (I5).
    let (leftover, completion) = match damage {
        None => (leftover, Completion::InStore),
        Some(_) => (None, Completion::Noted),
    };
    let mut walk = Walk::new(&disk, &identity, leftover, &superblock, completion);
    let walked = walk.run(&mut volumes).await;
    let mut health = match (damage, walked) {
        (Some(damage), _) => Health::Corrupt(damage),
        (None, Ok(())) => Health::Ready,
        (None, Err(error)) if error.kind() == Kind::Corrupt => Health::Corrupt(error.to_string()),
        (None, Err(error)) => return Err(error),
    };
    let mut end = walk.end();
    if end.is_incomplete
        && let Some(error) = end.unwritable.take()
    {
        // Acknowledged writes are in staging, and reads would miss them: better to fail until there
        // is room.
        return Err(Error::io("completing the log from the staging buffer", error));
    }
    let readiness = readiness_of(&file, &superblock.geometry, end.at);
    let mut claim = None;
    if health == Health::Ready {
        match prepare_for_writing(&file, &as_read, &mut superblock, &segments, &end).await {
            Ok(claimed) => claim = claimed,
            Err(error) => health = Health::Latched(error.with_cause()),
        }
    }
    match &health {
        Health::Ready => segments.unseal(end.at.segment),
        Health::Latched(why) => {
            tracing::error!(
                why,
                "the store cannot be got ready for writing; it is open for reading only"
            );
        }
        Health::Corrupt(why) | Health::Starved(why) => {
            tracing::error!(
                why,
                "acknowledged data is damaged; the store is open for reading only"
            );
        }
    }
    let health = Arc::new(HealthCell::new(health));
    let report = RecoveryReport {
        created,
        duration: runtime::now().saturating_sub(began),
        records: end.records,
        log_bytes: end.log_bytes,
        staged_records: end.staged_records,
        volumes: volumes.len(),
        clean: !created && end.records == 0,
        staging: if created || has_leftover || (was_closed && end.records == 0) {
            StagingFate::Kept
        } else {
            StagingFate::Lost
        },
        placement: file.placement(),
        epoch: superblock.epoch,
    };
    let start = Start {
        identity,
        epoch: superblock.epoch,
        at: end.at,
        footer: end.footer,
        footer_from: end.footer_from,
        readiness,
        // All replayed records are in the store, and `prepare_for_writing` has synced them.
        synced: end.at.lsn,
        claim,
        generation: superblock.generation,
    };
    let staging = if health.is_stopped() {
        Staging::unused(memory, superblock.geometry)
    } else {
        Staging::new(memory, superblock.geometry, &identity, &boot, superblock.epoch)
    };
    let log = Log::new(start, staging, file, Arc::clone(&segments), Arc::clone(&health));
    let (dirty, reclaim) = (DirtyNodes::new(metadata_bytes), ReclaimDemand::default());
    dirty.add(volumes.dirtied());
    reclaim.add_garbage(volumes.dirtied());
    let Replayed { applied, next_volume, volumes, families } = volumes.finish(end.at.lsn);
    let mut unwritten = differing(&cataloged, &volumes, &shared, &families);
    unwritten.extend(to_repair);
    let own: u64 = volumes.iter().map(|volume| volume.tree.birthday().own_blocks).sum();
    let shared: u64 = families.iter().map(|family| family.shared_blocks).sum();
    let space = Space::new(own + shared, segments.node_blocks());
    space.set_catalog(pages.blocks());
    let engine = Engine {
        disk,
        log: Arc::new(log),
        health,
        pins: ReadPins::default(),
        space,
        dirty,
        reclaim,
        fragmented: Fragmented::default(),
        shutdown: Shutdown::default(),
    };
    let rates = Rates { reclaim: reclaim_rate, scrub: scrub_rate };
    Ok(Recovered {
        engine,
        superblock,
        volumes,
        families,
        pages,
        unwritten,
        is_damaged: copy_damage.is_some(),
        applied,
        next_volume,
        rates,
        report,
        staging_file: None,
    })
}

/// Numbers of the entries and families that are not as the catalog has them.
fn differing(
    cataloged: &[VolumeEntry],
    volumes: &[VolumeImage],
    shared: &[FamilyEntry],
    families: &[FamilyEntry],
) -> BTreeSet<VolumeNumber> {
    let mut entries: HashMap<_, _> =
        cataloged.iter().map(|entry| (entry.meta.number, entry)).collect();
    let mut shares: HashMap<_, _> = shared.iter().map(|entry| (entry.family, entry)).collect();
    let is_other = |volume: &&VolumeImage| {
        entries.remove(&volume.meta.number).is_none_or(|entry| !volume.is_stored_as(entry))
    };
    let others = volumes.iter().filter(is_other).map(|volume| volume.meta.number);
    let mut differing: BTreeSet<_> = others.collect();
    let is_other = |family: &&FamilyEntry| shares.remove(&family.family) != Some(*family);
    differing.extend(families.iter().filter(is_other).map(|family| family.family));
    differing.extend(entries.into_keys().chain(shares.into_keys()));
    differing
}

/// The disk with the segments that superblock and catalog name.
pub(super) fn disk_of(
    file: &File,
    superblock: &Superblock,
    entries: &[SegmentEntry],
    cache_bytes: u64,
    metadata_bytes: u64,
) -> Arc<Disk> {
    let segments = Segments::new(superblock.geometry, entries, superblock.next_segment);
    if let Some((id, _, _)) = superblock.node_tail {
        segments.unseal(id);
    }
    let replay = superblock.replay;
    segments.adopt(&SegmentEntry {
        id: replay.segment,
        kind: SegmentKind::Log,
        place: SegmentPlace::Own(replay.slot),
    });
    Arc::new(Disk::new(file.clone(), Arc::new(segments), cache_bytes, metadata_bytes))
}

/// Whether plain writes into the rest of the log's segment survive a crash of the host, once
/// `prepare_for_writing` has synced the part before.
fn readiness_of(file: &File, geometry: &Geometry, at: ReplayStart) -> Readiness {
    let start = geometry.offset(at.slot, 0);
    let rest = start + u64::from(at.block) * BLOCK_BYTES as u64..start + geometry.segment_bytes();
    if file.coverage(rest).missing.is_empty() { Readiness::Ready } else { Readiness::Unready }
}

/// Makes the store ready for writes, behind a fence (keeps I4). Returns the segment that is claimed
/// for the log.
async fn prepare_for_writing(
    file: &File,
    as_read: &Superblock,
    superblock: &mut Superblock,
    segments: &Segments,
    end: &End,
) -> Result<Option<Taken>> {
    let (geometry, at) = (superblock.geometry, end.at);
    if let Some(error) = &end.unwritable {
        return Err(Error::new(Kind::Io, format!("the end of the log cannot be written: {error}")));
    }
    let context = |e| Error::io("getting the store ready for writing", e);
    let trailer = geometry.offset(at.slot, geometry.segment_blocks - 1);
    let block = salvage::read_blocks(file, trailer, 1).await;
    // Mostly a hole of the file, which a full file system could not fill.
    if block.iter().any(|byte| *byte != 0) && !is_blind_to(Blindness::ClearedTrailer) {
        let mut blank = aligned(BLOCK_BYTES);
        blank.resize(BLOCK_BYTES, 0);
        file.write(trailer, WriteBuf::Owned(blank)).await.map_err(context)?;
    }
    // The superblock that was read may be only in a cache, too.
    put_superblock(file, &no_waits(), as_read).await?;
    file.sync().await.map_err(context)?;
    let mut next = superblock.clone();
    next.epoch += 1;
    next.generation += 1;
    next.closed = false;
    next.synced = at.lsn;
    // A lost end of the log may have used numbers up: one for each slot, because a slot is freed
    // only by a checkpoint, whose superblock has the next number, and one for each claim that
    // replaced another.
    segments.skip_to(SegmentId(superblock.next_segment.0 + 2 * u64::from(geometry.slots)));
    // The log's earlier claim is free again; this superblock names the new one, unless that would
    // take what checkpoints need. What they need is not counted yet: at most what nodes have now.
    let nodes = segments.node_blocks() / u64::from(geometry.segment_blocks);
    segments.keep_for_checkpoint(u32::try_from(nodes).unwrap_or(u32::MAX).saturating_add(1));
    let claimed = segments.claim_ahead();
    next.claim = Claim { of: at.segment, next: claimed.map(|claim| (claim.id, claim.slot)) };
    next.next_segment = segments.next();
    write_synced(file, &next).await?;
    *superblock = next;
    Ok(claimed)
}

/// Health for a start, which does not wait for space but fails.
fn no_waits() -> HealthCell {
    let health = HealthCell::new(Health::Ready);
    health.cancel_waits();
    health
}

async fn write_synced(file: &File, superblock: &Superblock) -> Result<()> {
    let sync = async || file.sync().await.map_err(|e| Error::io("writing the superblock", e));
    write_superblock(file, &no_waits(), superblock, sync).await
}

/// Makes an empty store: both superblock slots, and an empty first segment.
async fn make(file: &File, geometry: Geometry) -> Result<Superblock> {
    if geometry.slots < 4 {
        let text = format!(
            "a store needs room for four segments: {} bytes",
            4 * geometry.segment_bytes() + Geometry::SLOTS_AT
        );
        return Err(Error::new(Kind::Invalid, text));
    }
    if file.len_bytes() < geometry.store_bytes() {
        file.set_len(geometry.store_bytes()).map_err(|e| Error::io("making the store", e))?;
    }
    let (mut store, mut secret) = ([0; 16], [0; 16]);
    store.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    secret.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    let segments = Segments::new(geometry, &[], SegmentId(1));
    let first =
        segments.take(SegmentKind::Log, Need::Data, Writing::Streamed).expect("all slots are free");
    let superblock = Superblock {
        identity: Identity { store, secret: Secret(secret) },
        geometry,
        generation: 1,
        epoch: 0,
        replay: ReplayStart {
            segment: first.id,
            slot: first.slot,
            block: 0,
            lsn: Lsn(1),
            previous: Lsn(0),
        },
        synced: Lsn(1),
        next_segment: segments.next(),
        next_volume: 1,
        node_tail: None,
        catalog: None,
        catalog_copy: None,
        closed: false,
        claim: Claim { of: first.id, next: None },
    };
    for generation in [0, 1] {
        write_synced(file, &Superblock { generation, ..superblock.clone() }).await?;
    }
    Ok(superblock)
}

/// Grows the store to a larger size. It counts with the next superblock.
async fn grow(file: &File, superblock: &mut Superblock, wanted: Geometry) -> Result<()> {
    let (have, want) = (superblock.geometry.store_bytes(), wanted.store_bytes());
    if want > have {
        let slots = (want - Geometry::SLOTS_AT) / superblock.geometry.segment_bytes();
        superblock.geometry.slots = u32::try_from(slots).unwrap_or(u32::MAX).min(SLOTS_MAX);
        file.set_len(superblock.geometry.store_bytes())
            .map_err(|e| Error::io("growing the store", e))?;
    }
    Ok(())
}
