//! A volume: what it is, and the lock under which its map changes.

use crate::{
    address::{BLOCK_BYTES, Lsn, VolumeNumber},
    engine::Engine,
    error::{Error, Kind, Result},
    format::VolumeMeta,
    knobs::{Knobs, Overrides},
    map::Tree,
    usage::{Usage, VolumeStats},
};
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*},
};
use uuid::Uuid;

/// Most bytes of attributes a volume can carry.
pub const ATTRIBUTES_BYTES_MAX: usize = 2048;

/// The four tuning knobs of a volume (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes of memory that clean blocks which this volume brought into the cache may take, within the cache's own
    /// size.
    pub cache_bytes: u64,
    /// Most bytes accepted but not yet in the store file.
    pub buffer_bytes: u64,
    /// MiB to read ahead when reads run in sequence.
    pub prefetch_mib: u32,
    /// Whether a write is acknowledged from the staging buffer.
    pub writeback: bool,
}

/// How durable a write is when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the store, past the page cache; with `writeback`, in the staging buffer.
    Volatile,
    /// On stable storage (`NBD_CMD_FLAG_FUA`).
    Fua,
}

/// A volume, open for reading and writing; or a snapshot, which refuses to change. Cheap to clone.
#[derive(Clone)]
pub struct Volume {
    pub(crate) inner: Arc<Inner>,
    /// How this handle and its clones use it.
    pub(crate) knobs: Arc<Knobs>,
}

pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) number: VolumeNumber,
    pub(crate) id: Uuid,
    /// The volume that all its ancestors come from.
    pub(crate) family: VolumeNumber,
    /// The volume that this is a snapshot of.
    pub(crate) snapshot_of: Option<VolumeNumber>,
    pub(crate) state: Mutex<State>,
    /// Copies of what the data path looks at all the time; `state` is the truth.
    size_bytes: AtomicU64,
    pub(crate) buffer_bytes: AtomicU64,
    pub(crate) prefetch_mib: AtomicU32,
    pub(crate) writeback: AtomicBool,
    /// The knobs of all handles that have none of their own.
    knobs: Arc<Knobs>,
    pub(crate) usage: Arc<Usage>,
}

pub(crate) struct State {
    pub(crate) meta: VolumeMeta,
    pub(crate) tree: Tree,
    /// Records of this volume below this LSN are in the tree.
    pub(crate) applied: Lsn,
    pub(crate) deleted: bool,
}

impl Volume {
    pub(crate) fn new(engine: Arc<Engine>, meta: VolumeMeta, tree: Tree, applied: Lsn) -> Self {
        let usage = Arc::<Usage>::default();
        let knobs = Knobs::of_volume(&meta.settings, &usage);
        let inner = Inner {
            engine,
            number: meta.number,
            id: meta.id,
            family: meta.family,
            snapshot_of: meta.snapshot_of,
            size_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
            prefetch_mib: AtomicU32::new(0),
            writeback: AtomicBool::new(false),
            knobs: Arc::clone(&knobs),
            usage,
            state: Mutex::new(State { meta, tree, applied, deleted: false }),
        };
        inner.publish(&inner.lock());
        Self { inner: Arc::new(inner), knobs }
    }

    /// A handle of the same volume that is tuned otherwise. It and its clones share a buffer and a share of the cache of
    /// their own where those are overridden. What is not overridden follows the volume, also when that changes.
    pub fn tuned(&self, overrides: Overrides) -> Self {
        let knobs = self.inner.knobs.overridden(overrides, &self.inner.usage);
        Self { inner: Arc::clone(&self.inner), knobs: Arc::new(knobs) }
    }

    /// Numbers for metrics, of all handles together.
    pub fn stats(&self) -> VolumeStats {
        self.inner.usage.stats()
    }

    /// The volume's id.
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes.load(Acquire)
    }

    /// Its tuning.
    pub fn settings(&self) -> Settings {
        self.inner.lock().meta.settings
    }

    /// The bytes that the caller keeps with it.
    pub fn attributes(&self) -> Arc<[u8]> {
        Arc::clone(&self.inner.lock().meta.attributes)
    }

    /// Bytes of data mapped: what it would take without sharing. Zeroes and holes take none.
    pub fn used_bytes(&self) -> u64 {
        self.inner.lock().tree.mapped_blocks() * BLOCK_BYTES as u64
    }

    /// Whether it is a snapshot.
    pub fn is_snapshot(&self) -> bool {
        self.inner.snapshot_of.is_some()
    }

    /// Waits until everything acknowledged before is on stable storage.
    ///
    /// # Errors
    /// [`Kind::Latched`] when a write or sync failed, now or earlier; [`Kind::NotFound`] after deletion.
    pub async fn flush(&self) -> Result<()> {
        let applied = {
            let state = self.inner.lock();
            state.check_exists()?;
            state.applied
        };
        self.inner.engine.log.sync(applied).await
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Takes over what `state` says for the data path.
    pub(crate) fn publish(&self, state: &State) {
        self.size_bytes.store(state.meta.size_bytes, Release);
        let settings = &state.meta.settings;
        self.knobs.account.set_cap(settings.cache_bytes);
        self.buffer_bytes.store(settings.buffer_bytes, Relaxed);
        self.prefetch_mib.store(settings.prefetch_mib, Relaxed);
        self.writeback.store(settings.writeback, Relaxed);
    }

    /// Lets go of what is cached beyond a share that has become smaller.
    pub(crate) fn keep_to_cap(&self) {
        self.engine.disk.blocks.trim(&self.knobs.account);
    }

    /// Checks a byte range against the size.
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size_bytes.load(Acquire);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::new(
                Kind::OutOfRange,
                format!("{len} bytes at {offset} reach beyond the volume's {size} bytes"),
            ));
        }
        Ok(())
    }
}

impl State {
    pub(crate) fn check_exists(&self) -> Result<()> {
        if self.deleted {
            return Err(Error::new(Kind::NotFound, "the volume was deleted"));
        }
        Ok(())
    }
}
