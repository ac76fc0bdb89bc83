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
//! I4  Before the first new record is logged, what staging had is in the store, the trailer block of the open segment is
//!     cleared (it may be left from a log that was longer), and the superblock with the new epoch is synced. It says
//!     that what comes from here on is of that epoch or later, and new segments get numbers that no older log can have
//!     used. Otherwise a later recovery could take an older end of the log for its continuation.

mod apply;
mod examine;
mod orphan;
mod staging_files;
mod walk;

pub(crate) use examine::{Found, examine};
pub(crate) use staging_files::{StagingFile, StagingFiles};

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
        Catalog, CatalogRef, FamilyEntry, Geometry, Identity, Malformed, Piece, ReplayStart, SLOTS_MAX,
        SUPERBLOCK_SLOTS, SegmentEntry, SegmentKind, SegmentPlace, Superblock, VolumeEntry, decode_chunk,
        superblock_offset,
    },
    health::{Health, HealthCell},
    io::{File, SharedMemory, WriteBuf, aligned},
    log::{Leftover, Log, Staging, Start},
    reader::Demand,
    readers::Readers,
    runtime,
    segments::{Need, Readiness, Segments, Writing},
    space::Space,
    store::RecoveryReport,
    usage::Usage,
};
use apply::{Replayed, Volumes};
use bytes::BytesMut;
use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use walk::{Completion, Walk};

/// A block is torn at multiples of this at most; what a superblock says is all before the first.
const TEAR_BYTES: usize = 512;
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
    let recovered = recover(parts, |store, bytes| {
        let file = directories.open(store, &boot, bytes)?;
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

/// Opens or makes the store in `parts.file`. `staging` gives the memory for a store of this id, at least as many bytes
/// as it says, and whether it was there before.
pub(crate) async fn recover(
    parts: Parts,
    staging: impl FnOnce(&[u8; 16], usize) -> std::io::Result<(Arc<SharedMemory>, bool)>,
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
    let (mut superblock, created) = match newest(&read_superblock_slots(&file).await?)? {
        Some(superblock) => (superblock, false),
        None => (make(&file, geometry).await?, true),
    };
    grow(&file, &mut superblock, geometry).await?;
    let catalog = read_catalog(&file, &superblock).await?;
    let disk = disk_of(&file, &superblock, &catalog.segments, cache_bytes, metadata_bytes);
    let segments = Arc::clone(&disk.segments);
    let identity = superblock.identity;
    let staging_bytes = Staging::file_bytes(&superblock.geometry);
    let (memory, existed) = staging(&identity.store, staging_bytes).map_err(|e| {
        Error::io("no room for the staging buffer: set [store] staging to a directory that has it", e)
    })?;
    let leftover =
        existed.then(|| Leftover::open(Arc::clone(&memory), superblock.geometry, &identity, &boot)).and_then(
            |l| l.inspect_err(|why| tracing::info!(why = why.0, "the staging buffer is not replayed")).ok(),
        );

    let (was_closed, has_leftover) = (superblock.closed, leftover.is_some());
    let mut volumes = Volumes::new(&disk, catalog, superblock.next_volume);
    let mut walk = Walk::new(&disk, &identity, leftover, &superblock, Completion::InStore);
    let health = match walk.run(&mut volumes).await {
        Ok(()) => Health::Ready,
        Err(error) if error.kind() == Kind::Corrupt => {
            tracing::error!(%error, "acknowledged data is damaged; the store is open for reading only");
            Health::Corrupt(error.to_string())
        }
        Err(error) => return Err(error),
    };
    let health = Arc::new(HealthCell::new(health));
    let end = walk.end();
    let readiness = readiness_of(&file, &superblock.geometry, end.at);
    if !health.is_stopped() {
        settle(&file, &mut superblock, &segments, end.at).await?;
        segments.unseal(end.at.segment);
    }
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
    };
    let staging = Staging::new(memory, superblock.geometry, &identity, &boot);
    let log = Log::new(start, staging, file, Arc::clone(&segments), Arc::clone(&health));
    let upkeep = Upkeep::new(metadata_bytes);
    upkeep.add_dirty(volumes.dirtied());
    let Replayed { applied, next_volume, volumes, families } = volumes.finish(end.at.lsn);
    let own: u64 = volumes.iter().map(|volume| volume.tree.birthday().own_blocks).sum();
    let shared: u64 = families.iter().map(|family| family.shared_blocks).sum();
    let space = Space::new(own + shared, segments.node_blocks());
    let readers = Readers::default();
    let log = Arc::new(log);
    let engine = Engine { disk, log, health, readers, space, upkeep, reclaim_rate, scrub_rate };
    Ok(Recovered { engine, superblock, volumes, families, applied, next_volume, report, staging_file: None })
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
async fn settle(
    file: &File,
    superblock: &mut Superblock,
    segments: &Segments,
    at: ReplayStart,
) -> Result<()> {
    let geometry = superblock.geometry;
    let context = |e| Error::io("getting the store ready for writing", e);
    let trailer = geometry.offset(at.slot, geometry.segment_blocks - 1);
    let mut block = file.read(trailer, aligned(BLOCK_BYTES), BLOCK_BYTES).await.map_err(context)?;
    // Mostly a hole of the file, and a full file system could not fill it.
    if block.iter().any(|byte| *byte != 0) && !is_blind_to(Blindness::ClearedTrailer) {
        block.fill(0);
        file.write(trailer, WriteBuf::Owned(block)).await.map_err(context)?;
    }
    file.sync().await.map_err(context)?;
    superblock.epoch += 1;
    superblock.generation += 1;
    superblock.closed = false;
    superblock.synced = at.lsn;
    // An end of the log that was not found may have used numbers up: as many as there are slots, at most, because a
    // slot is freed only by a checkpoint, whose superblock says how far it got.
    segments.skip_to(SegmentId(superblock.next_segment.0 + u64::from(geometry.slots)));
    superblock.next_segment = segments.next();
    write_superblock(file, superblock).await
}

async fn write_superblock(file: &File, superblock: &Superblock) -> Result<()> {
    let context = |e| Error::io("writing the superblock", e);
    let mut block = aligned(BLOCK_BYTES);
    block.extend_from_slice(&superblock.encode());
    let offset = superblock_offset(superblock.generation % SUPERBLOCK_SLOTS);
    file.write(offset, WriteBuf::Owned(block)).await.map_err(context)?;
    file.sync().await.map_err(context)
}

/// A superblock slot as it lies on disk.
pub(crate) struct SuperblockSlot {
    pub(crate) block: BytesMut,
    pub(crate) content: Result<Superblock, Malformed>,
}

impl SuperblockSlot {
    pub(crate) fn is_blank(&self) -> bool {
        self.block.iter().all(|byte| *byte == 0)
    }
}

/// All superblock slots, whatever they hold.
pub(crate) async fn read_superblock_slots(file: &File) -> Result<Vec<SuperblockSlot>> {
    let mut slots = Vec::new();
    for slot in 0..SUPERBLOCK_SLOTS {
        let read = file.read(superblock_offset(slot), aligned(BLOCK_BYTES), BLOCK_BYTES).await;
        let block = read.map_err(|e| Error::io("reading the superblock", e))?;
        slots.push(SuperblockSlot { content: Superblock::decode(&block), block });
    }
    Ok(slots)
}

/// The newest valid superblock; `None` when there is no store yet.
fn newest(slots: &[SuperblockSlot]) -> Result<Option<Superblock>> {
    let valid = slots.iter().filter_map(|slot| slot.content.as_ref().ok());
    if let Some(superblock) = valid.max_by_key(|superblock| superblock.generation) {
        return Ok(Some(superblock.clone()));
    }
    let damage = |slot: &SuperblockSlot| slot.content.as_ref().err().copied().filter(|_| !slot.is_blank());
    match slots.iter().find_map(damage) {
        None => Ok(None),
        Some(_) if is_half_made(slots) => {
            tracing::warn!("the store's making was interrupted; it is made again");
            Ok(None)
        }
        Some(Malformed(why)) => Err(Error::corrupt(format!("this is no store that can be read: {why}"))),
    }
}

/// Whether these slots are what a crash can leave of [`make`]: the first one torn, the second not begun. A store counts as
/// made, and takes data, only after both were synced. Anything else may be somebody's data.
fn is_half_made(slots: &[SuperblockSlot]) -> bool {
    let zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
    let [first, rest @ ..] = slots else { return false };
    let (head, tail) = first.block.split_at(TEAR_BYTES);
    (Superblock::is_marked(head) || zero(head))
        && zero(&tail[..tail.len() - 4])
        && rest.iter().all(SuperblockSlot::is_blank)
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
        closed: false,
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

async fn read_catalog(file: &File, superblock: &Superblock) -> Result<Catalog> {
    let (catalog, _) = decode_catalog(file, superblock).await?;
    match misplaced(&catalog.segments, &superblock.geometry).first() {
        None => Ok(catalog),
        Some((_, why)) => Err(Error::corrupt(format!("the catalog: {why}"))),
    }
}

/// The catalog, with whatever it says of segments, and where its chunks lie.
pub(crate) async fn decode_catalog(
    file: &File,
    superblock: &Superblock,
) -> Result<(Catalog, Vec<CatalogRef>)> {
    let geometry = superblock.geometry;
    let (mut bytes, mut chunks, mut next) = (Vec::new(), Vec::new(), superblock.catalog);
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
        let len = at.blocks as usize * BLOCK_BYTES;
        let read = file.read(geometry.offset(at.slot, at.address.block()), aligned(len), len).await;
        let blocks = read.map_err(|e| Error::io("reading the catalog", e))?;
        let (following, payload) =
            decode_chunk(&at, &blocks).map_err(|why| Error::corrupt(format!("the catalog: {}", why.0)))?;
        bytes.extend_from_slice(&payload);
        chunks.push(at);
        next = following;
    }
    if superblock.catalog.is_none() {
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
