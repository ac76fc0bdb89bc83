//! A volume: what it is, and the lock under which its map changes.

use crate::{
    address::{BLOCK_BYTES, Lsn, VolumeNumber},
    engine::Engine,
    error::{Error, Kind, Result},
    format::VolumeMeta,
    log::Gauge,
    map::Tree,
};
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering::*},
};
use uuid::Uuid;

/// Most bytes of attributes a volume can carry.
pub const ATTRIBUTES_BYTES_MAX: usize = 2048;

/// The four tuning knobs of a volume (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes of clean blocks that this volume may keep in the cache.
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
pub struct Volume(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) number: VolumeNumber,
    pub(crate) id: Uuid,
    /// The volume that this is a snapshot of.
    pub(crate) snapshot_of: Option<VolumeNumber>,
    pub(crate) state: Mutex<State>,
    /// Copies of what the data path looks at all the time; `state` is the truth.
    size_bytes: AtomicU64,
    buffer_bytes: AtomicU64,
    writeback: AtomicBool,
    pub(crate) gauge: Arc<Gauge>,
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
        let volume = Inner {
            engine,
            number: meta.number,
            id: meta.id,
            snapshot_of: meta.snapshot_of,
            size_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
            writeback: AtomicBool::new(false),
            gauge: Arc::default(),
            state: Mutex::new(State { meta, tree, applied, deleted: false }),
        };
        volume.publish(&volume.lock());
        Self(Arc::new(volume))
    }

    /// The volume's id.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes.load(Acquire)
    }

    /// Its tuning.
    pub fn settings(&self) -> Settings {
        self.0.lock().meta.settings
    }

    /// The bytes that the caller keeps with it.
    pub fn attributes(&self) -> Arc<[u8]> {
        Arc::clone(&self.0.lock().meta.attributes)
    }

    /// Bytes of data mapped: what it would take without sharing. Zeroes and holes take none.
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().tree.mapped_blocks() * BLOCK_BYTES as u64
    }

    /// Whether it is a snapshot.
    pub fn is_snapshot(&self) -> bool {
        self.0.snapshot_of.is_some()
    }

    /// Waits until everything acknowledged before is on stable storage.
    ///
    /// # Errors
    /// [`Kind::Latched`] when a write or sync failed, now or earlier; [`Kind::NotFound`] after deletion.
    pub async fn flush(&self) -> Result<()> {
        let applied = {
            let state = self.0.lock();
            state.check_exists()?;
            state.applied
        };
        self.0.engine.log.flush(applied).await
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Takes over what `state` says for the data path.
    pub(crate) fn publish(&self, state: &State) {
        self.size_bytes.store(state.meta.size_bytes, Release);
        self.buffer_bytes.store(state.meta.settings.buffer_bytes, Relaxed);
        self.writeback.store(state.meta.settings.writeback, Relaxed);
    }

    pub(crate) fn writeback(&self) -> bool {
        self.writeback.load(Relaxed)
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

    /// Waits while more of the volume is in staging than `buffer_size` allows.
    pub(crate) async fn wait_buffer(&self) {
        let max = self.buffer_bytes.load(Relaxed);
        while self.gauge.unwritten_bytes.load(Relaxed) >= max && !self.engine.health.is_stopped() {
            let room = self.gauge.room.notified();
            if self.gauge.unwritten_bytes.load(Relaxed) < max {
                break;
            }
            room.await;
        }
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
