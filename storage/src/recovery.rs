//! Opening a store: superblock, catalog, then the log behind the checkpoint, then the staging buffer behind the log.
//!
//! ```text
//!   superblock ► catalog ► footers of sealed segments … ► headers of the last segment … ► staging ► ready
//! ```
//!
//! I1  The log ends at the first place where neither the store nor staging has the next batch. What lies further on was
//!     never acknowledged, because acknowledgements leave in log order.
//! I2  If that place lies below an LSN that a superblock, footer or header says was synced, then it is not the end but
//!     damage: the store is opened for reading only, and nothing is cut off.
//! I3  Data is checked against its record where the record is not known to be synced; a batch whose data did not all
//!     arrive is as good as missing, even though its header did.
//! I4  Before anybody is served, what staging had is in the store, and what the store had of the log that is not known to be
//!     synced is written once more, because what can be read after a failed sync may be nowhere but in a cache; the trailer
//!     block of the open segment is cleared (it may be left from a log that was longer); and after a sync of all that the
//!     superblock with the new epoch is synced. It says that what comes from here on is of that epoch or later, and new
//!     segments get numbers that no older log can have used. Otherwise a later recovery could take an older end of the log
//!     for its continuation.
//! I5  A superblock slot that cannot be read is damage, and so is a log that leads to where a newer one has been, or that
//!     knows of a newer superblock than there is: then what is read may be old, and where writes would go may have been given
//!     to others. The store is opened for reading only.
//! I6  No sector that cannot be read keeps the store from being opened: a block of it counts as one with a wrong checksum.
//!     Without a superblock or a catalog there is nothing to open. So there are two slots, and two copies of the catalog; and
//!     where both are damaged there may still be the one before.

mod apply;
mod examine;
mod orphan;
mod staging_files;
mod superblocks;
mod walk;

pub(crate) use examine::{Found, examine};
pub(crate) use staging_files::{StagingFile, StagingFiles};
pub(crate) use superblocks::{Content, SuperblockSlot, read_back, read_superblock_slots};

use crate::{
    StoreOptions,
    address::{Address, BLOCK_BYTES, Lsn, SEGMENT_BLOCKS_MAX, SegmentId, Slot},
    bitmap,
    blindness::{Blindness, is_blind_to},
    cache::Cache,
    checksum::Secret,
    disk::Disk,
    engine::{Engine, Upkeep},
    error::{Error, Kind, Result},
    format::{
        Catalog, CatalogRef, Claim, FamilyEntry, Geometry, Identity, Piece, ReplayStart, SLOTS_MAX,
        SegmentEntry, SegmentKind, SegmentPlace, Superblock, VolumeEntry, decode_chunk,
    },
    health::{Health, HealthCell},
    io::{File, SharedMemory, WriteBuf, aligned},
    log::{Leftover, Log, Staging, Start},
    patient,
    reader::Demand,
    readers::Readers,
    runtime,
    segments::{Need, Readiness, Segments, Taken, Writing},
    space::Space,
    store::RecoveryReport,
    usage::Usage,
    watchdog::Watchdog,
};
use apply::{Replayed, Volumes};
use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use superblocks::{Counts, choose, put_superblock, write_superblock};
use walk::{Completion, End, Walk};

/// How long a start waits for another server, or the last one's writes, to let go of the store.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// An open store, as [`crate::Store`] goes on with it.
pub(crate) struct Recovered {
    pub(crate) engine: Engine,
    pub(crate) superblock: Superblock,
    pub(crate) volumes: Vec<VolumeEntry>,
    pub(crate) families: Vec<FamilyEntry>,
    pub(crate) applied: Lsn,
    pub(crate) next_volume: u32,
    pub(crate) report: RecoveryReport,
    /// Where the staging buffer is, if it is a file.
    pub(crate) staging_file: Option<StagingFile>,
}

/// What became of what the last server had staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagingFate {
    /// It was replayed, or there was none: nothing that was acknowledged is missing.
    Kept,
    /// The last server did not close the store, and its staging buffer was gone, as after a crash of the host: the last
    /// writes to volumes with write-back may be.
    Lost,
}

/// What a store is opened on, apart from its path: the seam for simulated disks.
#[derive(Clone)]
pub struct Parts {
    /// The file, locked if that means anything.
    pub file: File,
    /// Bytes of a new store.
    pub size_bytes: u64,
    /// Blocks in a segment of a new store: 64 to 16,384, a multiple of 4.
    pub segment_blocks: u32,
    /// The kernel's boot id, or what stands for it.
    pub boot: [u8; 16],
    /// Most bytes of data in the cache.
    pub cache_bytes: u64,
    /// Most bytes of maps in the cache, and once more of changed maps.
    pub metadata_bytes: u64,
    /// Bytes a second that reclaim may read and write while nobody waits for it.
    pub reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for none but when somebody asks, and then as many as there are.
    pub scrub_rate: u64,
}

/// Opens the store at `options.path`.
pub(crate) async fn open(options: &StoreOptions) -> Result<Recovered> {
    use std::os::unix::fs::FileTypeExt;
    let what = |doing: &str| format!("{doing} {}", options.path.display());
    let wanted = Geometry::standard(options.size_bytes);
    let file =
        File::open(&options.path, Some(wanted.store_bytes())).map_err(|e| Error::io(what("opening"), e))?;
    // A block device is as large as it is.
    let device = std::fs::metadata(&options.path).is_ok_and(|m| m.file_type().is_block_device());
    let size_bytes = if device { file.len_bytes() } else { options.size_bytes };
    let waiting = || tracing::warn!(path = %options.path.display(), "waiting for another server, or the last one's writes");
    file.lock(LOCK_WAIT, waiting).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::io(what("another server holds"), error),
        _ => Error::io(what("locking"), error),
    })?;
    let placement = file.placement();
    if !placement.is_trusted() {
        tracing::warn!(path = %options.path.display(), "writes to the store are slower here than they could be: {placement}");
    }
    let directories = StagingFiles::beside(&options.path, &options.staging_dir);
    let boot = boot_id();
    let parts = Parts {
        file,
        size_bytes,
        segment_blocks: Geometry::standard(size_bytes).segment_blocks,
        boot,
        cache_bytes: options.cache_bytes,
        metadata_bytes: options.metadata_bytes,
        reclaim_rate: options.reclaim_rate,
        scrub_rate: options.scrub_rate,
    };
    let mut staging_file = None;
    let recovered = recover(parts, |superblock: &Superblock, bytes| {
        let file = directories.open(&superblock.identity.store, &boot, superblock.epoch, bytes)?;
        let memory = (Arc::clone(&file.memory), file.existed);
        staging_file = Some(file);
        Ok(memory)
    });
    match recovered.await {
        Ok(recovered) => {
            staging_file.iter().for_each(|file| file.tell_home(&options.path));
            Ok(Recovered { staging_file, ..recovered })
        }
        Err(error) => {
            // One that was made for this start holds nothing.
            if let Some(file) = staging_file.filter(|file| !file.existed) {
                file.remove();
            }
            Err(error)
        }
    }
}

/// The kernel's id of this boot; all zero where it tells none, which is then the same boot for ever.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse::<uuid::Uuid>().map(uuid::Uuid::into_bytes).unwrap_or_default()
}

/// Opens or makes the store in `parts.file`. `staging` gives the memory for the store of this superblock, at least as many
/// bytes as it says, and whether it was there before.
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
    let (books, created) = match choose(&slots)? {
        Counts::This(superblock, damage) => (Books::read(&file, &slots, *superblock, damage).await?, false),
        Counts::None => (Books::new(make(&file, geometry).await?), true),
        Counts::HalfMade => {
            tracing::warn!("the store's making was interrupted; it is made again");
            (Books::new(make(&file, geometry).await?), true)
        }
    };
    let Books { mut superblock, catalog, damage, .. } = books;
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
        Error::io("no room for the staging buffer: set [store] staging to a directory that has it", e)
    })?;
    let opened = existed.then(|| {
        let memory = Arc::clone(&memory);
        Leftover::open(memory, superblock.geometry, &identity, &boot, superblock.epoch)
    });
    let leftover = opened.and_then(|l| {
        l.inspect_err(|why| tracing::info!(why = why.0, "the staging buffer is not replayed")).ok()
    });

    let (was_closed, has_leftover) = (superblock.closed, leftover.is_some());
    let mut volumes = Volumes::new(&disk, catalog, superblock.next_volume);
    // Where the superblock may be an old one, what it says of places may be, too: nothing is put there (I5).
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
        // What was acknowledged is in staging, and nobody would be shown it: better to wait for room than to go without.
        return Err(Error::io("completing the log from the staging buffer", error));
    }
    let readiness = readiness_of(&file, &superblock.geometry, end.at);
    let mut claim = None;
    if health == Health::Ready {
        match settle(&file, &as_read, &mut superblock, &segments, &end).await {
            Ok(claimed) => claim = claimed,
            Err(error) => health = Health::Latched(told(&error)),
        }
    }
    match &health {
        Health::Ready => segments.unseal(end.at.segment),
        Health::Latched(why) => {
            tracing::error!(why, "the store cannot be got ready for writing; it is open for reading only");
        }
        Health::Corrupt(why) | Health::Starved(why) => {
            tracing::error!(why, "acknowledged data is damaged; the store is open for reading only");
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
        // What was replayed is in the store, and `settle` has synced it.
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
    let upkeep = Upkeep::new(metadata_bytes);
    upkeep.add_dirty(volumes.dirtied());
    let Replayed { applied, next_volume, volumes, families } = volumes.finish(end.at.lsn);
    let own: u64 = volumes.iter().map(|volume| volume.tree.birthday().own_blocks).sum();
    let shared: u64 = families.iter().map(|family| family.shared_blocks).sum();
    let space = Space::new(own + shared, segments.node_blocks());
    let readers = Readers::default();
    let log = Arc::new(log);
    let watchdog = Watchdog::default();
    let engine = Engine { disk, log, health, readers, space, upkeep, watchdog, reclaim_rate, scrub_rate };
    Ok(Recovered { engine, superblock, volumes, families, applied, next_volume, report, staging_file: None })
}

/// An error with what is underneath.
fn told(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A superblock and its catalog.
struct Books {
    superblock: Superblock,
    catalog: Catalog,
    /// Where the chunks of both copies lie.
    chunks: Vec<CatalogRef>,
    /// Why one of the copies cannot be read.
    copy_damage: Option<String>,
    /// Why they may not be the newest ones, or why nothing may be written by them.
    damage: Option<String>,
}

impl Books {
    /// Those of a store that was just made.
    fn new(superblock: Superblock) -> Self {
        Self { superblock, catalog: Catalog::default(), chunks: Vec::new(), copy_damage: None, damage: None }
    }

    /// Those of the newest superblock; where its catalog cannot be read, those of the one before, whose log goes on to what
    /// the newest has (I6).
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when no catalog can be read.
    async fn read(
        file: &File,
        slots: &[SuperblockSlot],
        newest: Superblock,
        damage: Option<String>,
    ) -> Result<Self> {
        let error = match Self::of(file, newest.clone()).await {
            Ok(books) => return Ok(Self { damage, ..books }),
            Err(error) => error,
        };
        let older = slots.iter().filter_map(SuperblockSlot::superblock);
        let older = older.filter(|s| s.generation != newest.generation && s.identity == newest.identity);
        for superblock in older {
            if let Ok(books) = Self::of(file, superblock.clone()).await {
                let what =
                    format!("{error}; the one of generation {} is read instead", superblock.generation);
                let damage = Some(damage.map_or(what.clone(), |damage| format!("{damage}; {what}")));
                return Ok(Self { damage, ..books });
            }
        }
        Err(error)
    }

    /// This superblock and one of its catalog's copies.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when neither can be read.
    async fn of(file: &File, superblock: Superblock) -> Result<Self> {
        let first = decode_catalog(file, &superblock.geometry, superblock.catalog).await;
        let second = decode_catalog(file, &superblock.geometry, superblock.catalog_copy).await;
        let (catalog, chunks, copy_damage) = match (first, second) {
            (Ok((catalog, mut chunks)), Ok((_, more))) => {
                chunks.extend(more);
                (catalog, chunks, None)
            }
            (Ok((catalog, chunks)), Err(damage)) | (Err(damage), Ok((catalog, chunks))) => {
                tracing::error!(%damage, "a copy of the catalog cannot be read; the other one serves");
                (catalog, chunks, Some(damage.to_string()))
            }
            (Err(error), Err(_)) => return Err(error),
        };
        Ok(Self { superblock, catalog, chunks, copy_damage, damage: None })
    }
}

/// What is wrong on disk with the superblock's slots, of which the newest is this one, and with its catalog: what a start
/// would rely on, and a running store reads never again.
pub(crate) async fn books_damage(file: &File, superblock: &Superblock) -> Option<String> {
    let slots = read_superblock_slots(file).await;
    match choose(&slots) {
        Ok(Counts::This(newest, None)) if *newest == *superblock => {}
        Ok(Counts::This(_, Some(damage))) => return Some(damage),
        Ok(Counts::This(newest, None)) => {
            return Some(format!("the newest superblock is of generation {}", newest.generation));
        }
        Ok(Counts::None | Counts::HalfMade) => return Some("the superblock's slots are blank".to_owned()),
        Err(error) => return Some(error.to_string()),
    }
    match Books::of(file, superblock.clone()).await {
        Ok(books) => books.copy_damage,
        Err(error) => Some(error.to_string()),
    }
}

/// The disk with the segments that superblock and catalog name.
fn disk_of(
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
    Arc::new(Disk {
        file: file.clone(),
        segments: Arc::new(segments),
        blocks: Cache::new(cache_bytes),
        nodes: Cache::new(metadata_bytes),
        usage: Usage::default(),
        demand: Demand::default(),
        corrupt: AtomicU64::new(0),
    })
}

/// Whether plain writes into what is left of the log's segment will survive the host, once what was written so far is synced, as
/// `settle` does.
fn readiness_of(file: &File, geometry: &Geometry, at: ReplayStart) -> Readiness {
    let start = geometry.offset(at.slot, 0);
    let rest = start + u64::from(at.block) * BLOCK_BYTES as u64..start + geometry.segment_bytes();
    if file.coverage(rest).missing.is_empty() { Readiness::Ready } else { Readiness::Unready }
}

/// Keeps I4.
/// Keeps I4. Gives the segment that is claimed for the log to go on in.
async fn settle(
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
    let block = patient::read_blocks(file, trailer, 1).await;
    // Mostly a hole of the file, and a full file system could not fill it.
    if block.iter().any(|byte| *byte != 0) && !is_blind_to(Blindness::ClearedTrailer) {
        let mut blank = aligned(BLOCK_BYTES);
        blank.resize(BLOCK_BYTES, 0);
        file.write(trailer, WriteBuf::Owned(blank)).await.map_err(context)?;
    }
    // Nor may this one be anywhere but in a cache.
    put_superblock(file, as_read).await.map_err(context)?;
    file.sync().await.map_err(context)?;
    let mut next = superblock.clone();
    next.epoch += 1;
    next.generation += 1;
    next.closed = false;
    next.synced = at.lsn;
    // An end of the log that was not found may have used numbers up: one for each slot, because a slot is freed only by a
    // checkpoint, whose superblock says how far it got, and one for each that was claimed in place of another.
    segments.skip_to(SegmentId(superblock.next_segment.0 + 2 * u64::from(geometry.slots)));
    // What the log had claimed before is free again, and this says so.
    let claimed = segments.claim_ahead();
    next.claim = Claim { of: at.segment, next: claimed.map(|claim| (claim.id, claim.slot)) };
    next.next_segment = segments.next();
    write_superblock(file, &next).await?;
    *superblock = next;
    Ok(claimed)
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
    let first = segments.take(SegmentKind::Log, Need::Data, Writing::Streamed).expect("all slots are free");
    let superblock = Superblock {
        identity: Identity { store, secret: Secret(secret) },
        geometry,
        generation: 1,
        epoch: 0,
        replay: ReplayStart { segment: first.id, slot: first.slot, block: 0, lsn: Lsn(1), previous: Lsn(0) },
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
        write_superblock(file, &Superblock { generation, ..superblock.clone() }).await?;
    }
    Ok(superblock)
}

/// Takes a larger size over. It counts with the next superblock.
async fn grow(file: &File, superblock: &mut Superblock, wanted: Geometry) -> Result<()> {
    let (have, want) = (superblock.geometry.store_bytes(), wanted.store_bytes());
    if want > have {
        let slots = (want - Geometry::SLOTS_AT) / superblock.geometry.segment_bytes();
        superblock.geometry.slots = u32::try_from(slots).unwrap_or(u32::MAX).min(SLOTS_MAX);
        file.set_len(superblock.geometry.store_bytes()).map_err(|e| Error::io("growing the store", e))?;
    }
    Ok(())
}

/// The catalog whose first chunk is there, with whatever it says of segments, and where its chunks lie.
pub(crate) async fn decode_catalog(
    file: &File,
    geometry: &Geometry,
    first: Option<CatalogRef>,
) -> Result<(Catalog, Vec<CatalogRef>)> {
    let (mut bytes, mut chunks, mut next) = (Vec::new(), Vec::new(), first);
    let mut places = HashSet::new();
    while let Some(at) = next {
        let inside = at.slot.0 < geometry.slots
            && at.address.block().checked_add(at.blocks).is_some_and(|end| end <= geometry.segment_blocks);
        if !inside {
            return Err(Error::corrupt("the catalog: a chunk lies outside the store"));
        }
        if !places.insert((at.slot, at.address.block())) {
            return Err(Error::corrupt("the catalog: its chunks lead in a circle"));
        }
        let blocks =
            patient::read_blocks(file, geometry.offset(at.slot, at.address.block()), at.blocks).await;
        let (following, payload) =
            decode_chunk(&at, &blocks).map_err(|why| Error::corrupt(format!("the catalog: {}", why.0)))?;
        bytes.extend_from_slice(&payload);
        chunks.push(at);
        next = following;
    }
    if first.is_none() {
        return Ok((Catalog::default(), chunks));
    }
    let catalog = Catalog::decode(&bytes).map_err(|why| Error::corrupt(format!("the catalog: {}", why.0)))?;
    Ok((catalog, chunks))
}

/// The segments that are nowhere in the store, or where another is: their places among the entries, and what is wrong.
pub(crate) fn misplaced(entries: &[SegmentEntry], geometry: &Geometry) -> Vec<(usize, &'static str)> {
    let (mut ids, mut slots) = (HashSet::new(), HashSet::new());
    let hosts: HashSet<(SegmentId, Slot)> = entries
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
            && hosts.contains(&(*into, *slot))
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
            SegmentPlace::Own(slot) if slot.0 >= geometry.slots => Some("a segment lies outside the store"),
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
    use crate::bitmap::Bitmap;

    #[test]
    fn segments_are_each_in_a_place_of_their_own() {
        let geometry = Geometry::with_segments((1 << 20) + 12 * (64 << 12), 64);
        let own =
            |id, kind, slot| SegmentEntry { id: SegmentId(id), kind, place: SegmentPlace::Own(Slot(slot)) };
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
        let host = own(2, SegmentKind::Forwarded, 1);
        assert!(misplaced(&[host.clone(), moved(3, &[1 << 59])], &small).is_empty());
        assert_eq!(misplaced(&[host, moved(3, &[1 << 60])], &small).len(), 1);
    }
}
