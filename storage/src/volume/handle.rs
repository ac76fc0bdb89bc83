//! A volume's handle: its properties, and the lock under which its map changes.

use crate::{
    base::{
        BLOCK_BYTES, Error, Kind, Lsn, Result, Settings, SettingsOverride, Usage, VolumeNumber,
        VolumeStats,
    },
    core::Engine,
    format::VolumeMeta,
    map::{Tree, VolumeImage},
    volume::EffectiveSettings,
};
use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*},
    },
};
use uuid::Uuid;

/// A handle of a volume, for reading and writing, or of a snapshot, which refuses writes. Cheap to
/// clone.
#[derive(Clone)]
pub struct Volume {
    pub(crate) inner: Arc<Inner>,
    /// Effective settings of this handle and its clones.
    pub(crate) effective: Arc<EffectiveSettings>,
}

pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) number: VolumeNumber,
    pub(crate) id: Uuid,
    /// The volume that all its ancestors come from.
    pub(crate) family: VolumeNumber,
    /// The volume that this is a snapshot of.
    pub(crate) snapshot_of: Option<VolumeNumber>,
    state: Mutex<Tracked>,
    /// Copies of fields that the data path reads often; `state` is the truth.
    size_bytes: AtomicU64,
    pub(crate) buffer_bytes: AtomicU64,
    pub(crate) prefetch_mib: AtomicU32,
    pub(crate) writeback: AtomicBool,
    /// The settings of all handles that override nothing.
    effective: Arc<EffectiveSettings>,
    pub(crate) usage: Arc<Usage>,
}

/// A state, and whether it changed since a checkpoint took it.
struct Tracked {
    state: State,
    has_changed: bool,
}

/// The lock of a volume's state. A change of the state through it makes the next checkpoint write
/// the volume's entry.
pub(crate) struct Locked<'a>(MutexGuard<'a, Tracked>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.0.has_changed = true;
        &mut self.0.state
    }
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
        let effective = EffectiveSettings::of_volume(&meta.settings, &usage);
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
            effective: Arc::clone(&effective),
            usage,
            state: Mutex::new(Tracked {
                state: State { meta, tree, applied, deleted: false },
                has_changed: false,
            }),
        };
        inner.publish(&inner.lock());
        Self { inner: Arc::new(inner), effective }
    }

    /// Makes a handle of the same volume with settings of its own. Where they are overridden, it
    /// and its clones have a buffer and a share of the cache of their own. A setting that is not
    /// overridden follows the volume, also when it changes.
    pub fn with_override(&self, overrides: SettingsOverride) -> Self {
        let effective = self.inner.effective.overridden(overrides, &self.inner.usage);
        Self { inner: Arc::clone(&self.inner), effective: Arc::new(effective) }
    }

    /// Statistics for metrics, of all handles together.
    pub fn stats(&self) -> VolumeStats {
        self.inner.usage.stats()
    }

    /// The volume's id.
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// The volume's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes.load(Acquire)
    }

    /// The volume's settings.
    pub fn settings(&self) -> Settings {
        self.inner.lock().meta.settings
    }

    /// The caller's opaque bytes.
    pub fn attributes(&self) -> Arc<[u8]> {
        Arc::clone(&self.inner.lock().meta.attributes)
    }

    /// Bytes of mapped data: the space that the volume would take without sharing. Zeroes and holes
    /// take none.
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
    /// [`Kind::Latched`] when a write or sync failed, now or earlier; [`Kind::NotFound`] after
    /// deletion.
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
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked(self.tracked())
    }

    fn tracked(&self) -> MutexGuard<'_, Tracked> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Whether the state changed since a checkpoint took it.
    pub(crate) fn has_changed(&self) -> bool {
        self.tracked().has_changed
    }

    /// Takes the state for a checkpoint.
    pub(crate) fn take_image(&self) -> VolumeImage {
        let mut tracked = self.tracked();
        tracked.has_changed = false;
        let State { meta, tree, applied, .. } = &tracked.state;
        VolumeImage { meta: meta.clone(), applied: *applied, tree: tree.clone() }
    }

    /// Drops nodes from memory that are on disk. The map stays what it is.
    pub(crate) fn prune(&self) {
        self.tracked().state.tree.prune();
    }

    /// Updates the data path's copies from `state`.
    pub(crate) fn publish(&self, state: &State) {
        self.size_bytes.store(state.meta.size_bytes, Release);
        let settings = &state.meta.settings;
        self.effective.account.set_cap(settings.cache_bytes);
        self.buffer_bytes.store(settings.buffer_bytes, Relaxed);
        self.prefetch_mib.store(settings.prefetch_mib, Relaxed);
        self.writeback.store(settings.writeback, Relaxed);
    }

    /// Evicts blocks beyond a share of the cache that has become smaller.
    pub(crate) fn keep_to_cap(&self) {
        self.engine.disk.blocks.trim(&self.effective.account);
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
