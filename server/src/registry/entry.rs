//! One volume or snapshot, as the registry keeps it.

use crate::{
    attachments::Attachments,
    record::{SnapshotRecord, VolumeRecord},
};
use jiff::Timestamp;
use sandstone_storage::Volume;
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::RwLock;
use uuid::Uuid;

/// One volume. An entry does not change: a new record is a new entry that shares the rest.
pub(crate) struct Entry {
    pub(crate) volume: Volume,
    /// What connections and lists look at. The rest of the record is read from the attributes when
    /// it is asked for: there may be ten thousand forks, and each is little more than what is kept
    /// of it here.
    pub(super) name: Option<Box<str>>,
    pub(super) created_at: Timestamp,
    attributes: Arc<[u8]>,
    /// They know the access mode too: who may attach is decided under their lock.
    pub(crate) attachments: Arc<Attachments>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// See [`Registry::lock_exclusive`](super::Registry::lock_exclusive) and
    /// [`Registry::lock_shared`](super::Registry::lock_shared).
    pub(super) lock: Arc<RwLock<()>>,
}

/// One snapshot. It does not change.
pub(crate) struct SnapshotEntry {
    pub(crate) snapshot: Volume,
    pub(crate) volume_id: Uuid,
    pub(super) created_at: Timestamp,
    pub(super) attributes: Arc<[u8]>,
    pub(crate) attachments: Arc<Attachments>,
}

impl Entry {
    pub(super) fn new(
        volume: Volume,
        record: VolumeRecord,
        attachments: Arc<Attachments>,
        snapshots: Arc<Snapshots>,
        lock: Arc<RwLock<()>>,
    ) -> Arc<Entry> {
        let attributes = volume.attributes();
        let VolumeRecord { name, created_at, .. } = record;
        let name = name.map(String::into_boxed_str);
        Arc::new(Entry { volume, name, created_at, attributes, attachments, snapshots, lock })
    }

    /// Its whole record.
    pub(crate) fn record(&self) -> VolumeRecord {
        VolumeRecord::from_attributes(&self.attributes)
            .expect("it was read, or written, when the entry was made")
    }
}

impl SnapshotEntry {
    /// Its whole record.
    pub(crate) fn record(&self) -> SnapshotRecord {
        SnapshotRecord::from_attributes(&self.attributes)
            .expect("it was read, or written, when the entry was made")
    }
}

/// What a client can connect to.
pub(crate) enum Export {
    Volume(Arc<Entry>),
    Snapshot(Arc<SnapshotEntry>),
}

impl Export {
    /// What is read and written.
    pub(crate) fn blocks(&self) -> &Volume {
        match self {
            Export::Volume(entry) => &entry.volume,
            Export::Snapshot(entry) => &entry.snapshot,
        }
    }

    pub(crate) fn attachments(&self) -> &Arc<Attachments> {
        match self {
            Export::Volume(entry) => &entry.attachments,
            Export::Snapshot(entry) => &entry.attachments,
        }
    }

    /// Its name; empty where it has none.
    pub(crate) fn name(&self) -> String {
        match self {
            Export::Volume(entry) => entry.name.as_deref().unwrap_or_default().to_owned(),
            Export::Snapshot(entry) => entry.record().name,
        }
    }

    /// For people; empty where there is nothing to say.
    pub(crate) fn description(&self) -> String {
        match self {
            Export::Volume(_) => self.name(),
            Export::Snapshot(entry) => format!("{}, snapshot of {}", self.name(), entry.volume_id),
        }
    }
}

impl Snapshots {
    /// The snapshot of that id.
    pub(crate) fn get(&self, id: Uuid) -> Option<Arc<SnapshotEntry>> {
        self.lock().get(&id).cloned()
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<SnapshotEntry>> {
        sorted(self.lock().values().cloned().collect())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<SnapshotEntry>>> {
        // Nothing below panics half-way through a change, so a poisoned map is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn sorted(mut list: Vec<Arc<SnapshotEntry>>) -> Vec<Arc<SnapshotEntry>> {
    list.sort_by_key(|entry| (Reverse(entry.created_at), entry.snapshot.id()));
    list
}

/// The snapshots of one volume.
#[derive(Default)]
pub(crate) struct Snapshots(Mutex<BTreeMap<Uuid, Arc<SnapshotEntry>>>);
