//! The registry itself: look-ups, and the changes that follow those of the store.

use super::{
    entry::{Entry, Export, SnapshotEntry, sorted},
    names::{NameClaim, NameTaken, Named, Names},
};
use crate::{
    api::AccessMode,
    attachments::{Attachments, Session},
    mounts::Mounts,
    record::{SnapshotRecord, VolumeRecord, parse_id},
    traffic::{Rates, Traffic, TrafficTable},
};
use dashmap::{DashMap, Entry as Place};
use sandstone_storage::Volume;
use std::{cmp::Reverse, sync::Arc};
use thiserror::Error;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use uuid::Uuid;

/// All volumes, all snapshots, and the mounts of volumes.
pub(crate) struct Registry {
    volumes: DashMap<Uuid, Arc<Entry>>,
    /// The same as the volumes' own lists.
    snapshots: DashMap<Uuid, Arc<SnapshotEntry>>,
    names: Names,
    /// Of the exports that were attached since the start.
    pub(crate) traffic: TrafficTable,
    pub(crate) mounts: Mounts,
}

/// Why an export name means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    Unknown,
    /// Several volumes have that name, as in stores of earlier versions.
    Several,
}

/// The exclusive lock on a volume: to change it.
pub(crate) struct ExclusiveGuard {
    pub(crate) entry: Arc<Entry>,
    _lock: OwnedRwLockWriteGuard<()>,
}

/// The shared lock on a volume: to copy it while it is not changed.
pub(crate) struct SharedGuard {
    pub(crate) entry: Arc<Entry>,
    _lock: OwnedRwLockReadGuard<()>,
}

/// A volume or snapshot whose record this version does not understand.
#[derive(Debug, Error)]
#[error("{id} has a record that this version does not read: start the version that wrote it")]
pub(crate) struct UnreadableRecord {
    id: Uuid,
    source: serde_json::Error,
}

impl Registry {
    /// The volumes of a store that was just opened, and the snapshots with the ids of their
    /// volumes. `mounts` are empty as yet.
    ///
    /// # Errors
    /// [`UnreadableRecord`]. Going on would lose the record at the next change.
    pub(crate) fn load(
        volumes: Vec<Volume>,
        snapshots: Vec<(Uuid, Volume)>,
        mounts: Mounts,
    ) -> Result<Registry, UnreadableRecord> {
        let registry = Registry {
            volumes: DashMap::new(),
            snapshots: DashMap::new(),
            names: Names::default(),
            traffic: TrafficTable::default(),
            mounts,
        };
        for volume in volumes {
            let record = VolumeRecord::from_attributes(&volume.attributes())
                .map_err(|source| UnreadableRecord { id: volume.id(), source })?;
            registry.insert(volume, record);
        }
        for (volume, snapshot) in snapshots {
            let record = SnapshotRecord::from_attributes(&snapshot.attributes())
                .map_err(|source| UnreadableRecord { id: snapshot.id(), source })?;
            if let Some(volume) = registry.get(volume) {
                registry.insert_snapshot(&volume, snapshot, record);
            }
        }
        Ok(registry)
    }

    /// Adds a volume that the store has made.
    pub(crate) fn insert(&self, volume: Volume, record: VolumeRecord) -> Arc<Entry> {
        let attachments = Attachments::new(record.access_mode);
        let entry = Entry::new(volume, record, attachments, Arc::default(), Arc::default());
        if let Some(older) = self.traffic.get(entry.volume.id()) {
            self.traffic.forget(entry.volume.id(), &older); // keeps I1
        }
        self.put(Arc::clone(&entry));
        entry
    }

    /// Gives a volume the record that the store has taken for it.
    pub(crate) fn replace(&self, changed: &ExclusiveGuard, record: VolumeRecord) -> Arc<Entry> {
        let old = &changed.entry;
        let (attachments, snapshots) = (Arc::clone(&old.attachments), Arc::clone(&old.snapshots));
        let rates = record.rates();
        let new =
            Entry::new(old.volume.clone(), record, attachments, snapshots, Arc::clone(&old.lock));
        self.put(Arc::clone(&new));
        self.traffic.limit(new.volume.id(), rates);
        new
    }

    /// Forgets a volume that the store has deleted, and its snapshots.
    pub(crate) fn remove(&self, deleted: &ExclusiveGuard) {
        let entry = &deleted.entry;
        // Before the volume goes: afterwards it may be another's.
        let traffic = self.traffic.get(entry.volume.id());
        // keeps I1; names change under the lock of their volume's place, as in `put`.
        let removed = self.volumes.remove_if(&entry.volume.id(), |id, found| {
            let same = Arc::ptr_eq(&found.lock, &entry.lock);
            if let (true, Some(name)) = (same, &found.name) {
                self.names.remove(name, *id);
            }
            same
        });
        if let (Some((id, _)), Some(traffic)) = (removed, traffic) {
            self.traffic.forget(id, &traffic);
        }
        for snapshot in entry.snapshots.list() {
            self.forget_snapshot(snapshot.snapshot.id());
        }
    }

    fn put(&self, entry: Arc<Entry>) {
        let id = entry.volume.id();
        let place = self.volumes.entry(id);
        if let Some(name) = &entry.name {
            self.names.add(name, id);
        }
        match place {
            Place::Vacant(place) => drop(place.insert(entry)),
            Place::Occupied(mut place) => {
                let old = &place.get().name;
                if let Some(name) = old.as_ref().filter(|_| *old != entry.name) {
                    self.names.remove(name, id);
                }
                place.insert(entry);
            }
        }
    }

    /// Adds a snapshot that the store has made.
    pub(crate) fn insert_snapshot(
        &self,
        of: &Entry,
        snapshot: Volume,
        record: SnapshotRecord,
    ) -> Arc<SnapshotEntry> {
        let id = snapshot.id();
        let entry = Arc::new(SnapshotEntry {
            volume_id: of.volume.id(),
            created_at: record.created_at,
            attributes: snapshot.attributes(),
            snapshot,
            attachments: Attachments::new(AccessMode::Rox),
        });
        of.snapshots.lock().insert(id, Arc::clone(&entry));
        self.snapshots.insert(id, Arc::clone(&entry));
        entry
    }

    /// Forgets a snapshot that the store has deleted.
    pub(crate) fn remove_snapshot(&self, of: &ExclusiveGuard, snapshot: Uuid) {
        of.entry.snapshots.lock().remove(&snapshot);
        self.forget_snapshot(snapshot);
    }

    fn forget_snapshot(&self, snapshot: Uuid) {
        self.snapshots.remove(&snapshot);
        if let Some(traffic) = self.traffic.get(snapshot) {
            self.traffic.forget(snapshot, &traffic);
        }
    }

    /// What passes between a volume or snapshot and its clients. To be asked for by who is attached
    /// to it, so that it cannot be deleted meanwhile.
    pub(crate) fn traffic(&self, export: Uuid) -> Arc<Traffic> {
        let rates = || self.get(export).map_or_else(Rates::default, |entry| entry.record().rates());
        self.traffic.of(export, rates)
    }

    /// Waits for the exclusive lock on a volume: it is not changed or copied until the guard is
    /// dropped, so two changes at once do not undo each other, and a copy is of one record. `None`
    /// when there is no such volume (any more).
    pub(crate) async fn lock_exclusive(&self, id: Uuid) -> Option<ExclusiveGuard> {
        loop {
            let lock = Arc::clone(&self.get(id)?.lock);
            let guard = Arc::clone(&lock).write_owned().await;
            // Only now: the holder of the lock before may have changed or deleted it, and it may
            // have been made anew.
            let entry = self.get(id)?;
            if Arc::ptr_eq(&lock, &entry.lock) {
                return Some(ExclusiveGuard { entry, _lock: guard });
            }
        }
    }

    /// Waits for the right to copy a volume. Copies of one volume run side by side, so that they
    /// share the store's syncs.
    pub(crate) async fn lock_shared(&self, id: Uuid) -> Option<SharedGuard> {
        loop {
            let lock = Arc::clone(&self.get(id)?.lock);
            let guard = Arc::clone(&lock).read_owned().await;
            let entry = self.get(id)?;
            if Arc::ptr_eq(&lock, &entry.lock) {
                return Some(SharedGuard { entry, _lock: guard });
            }
        }
    }

    /// A volume with what a mount of it needs.
    pub(crate) fn mountable(&self, id: Uuid) -> Option<(Volume, Arc<Attachments>)> {
        self.get(id).map(|entry| (entry.volume.clone(), Arc::clone(&entry.attachments)))
    }

    /// The volume of that id.
    pub(crate) fn get(&self, id: Uuid) -> Option<Arc<Entry>> {
        self.volumes.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Takes a name for a volume that is about to have it.
    ///
    /// # Errors
    /// [`NameTaken`].
    pub(crate) fn claim_name<'a>(
        &'a self,
        name: Option<&str>,
        id: Uuid,
    ) -> Result<NameClaim<'a>, NameTaken> {
        self.names.claim(name, id)
    }

    /// What an export name with a session means: `<volume>/<session>`. Names of volumes have no `/`
    /// in them.
    pub(crate) fn resolve_mount(&self, export_name: &str) -> Option<(Export, Session)> {
        let (volume, session) = export_name.split_once('/')?;
        Some((self.resolve(volume).ok()?, Session::parse(session)?))
    }

    /// What a plain export name means: the id of a volume or snapshot, or a volume's name.
    ///
    /// # Errors
    /// Why it means nothing.
    pub(crate) fn resolve(&self, export_name: &str) -> Result<Export, Unresolved> {
        let id = match parse_id(export_name)
            .map_or_else(|| self.names.find(export_name), Named::Volume)
        {
            Named::Volume(id) => id,
            Named::Nothing => return Err(Unresolved::Unknown),
            Named::Several => return Err(Unresolved::Several),
        };
        self.find(id).ok_or(Unresolved::Unknown)
    }

    /// The volume or snapshot of that id.
    pub(crate) fn find(&self, id: Uuid) -> Option<Export> {
        self.get(id).map(Export::Volume).or_else(|| self.snapshot(id).map(Export::Snapshot))
    }

    /// The snapshot of that id, of whatever volume.
    pub(crate) fn snapshot(&self, id: Uuid) -> Option<Arc<SnapshotEntry>> {
        self.snapshots.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// The snapshots of the export's volume, those before it where it is a snapshot itself, newest
    /// first.
    pub(crate) fn snapshots_before(&self, export: &Export) -> Vec<Arc<SnapshotEntry>> {
        match export {
            Export::Volume(entry) => entry.snapshots.list(),
            Export::Snapshot(entry) => {
                let all = self.get(entry.volume_id).map(|volume| volume.snapshots.list());
                let itself =
                    |other: &Arc<SnapshotEntry>| other.snapshot.id() == entry.snapshot.id();
                all.into_iter().flatten().skip_while(|other| !itself(other)).skip(1).collect()
            }
        }
    }

    /// All volumes, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Entry>> {
        let mut list: Vec<Arc<Entry>> =
            self.volumes.iter().map(|entry| Arc::clone(&entry)).collect();
        list.sort_by_key(|entry| (Reverse(entry.created_at), entry.volume.id()));
        list
    }

    /// At most that many snapshots, newest first.
    pub(crate) fn list_snapshots(&self, count_max: usize) -> Vec<Arc<SnapshotEntry>> {
        let mut list = sorted(self.snapshots.iter().map(|entry| Arc::clone(&entry)).collect());
        list.truncate(count_max);
        list
    }

    /// How many volumes there are.
    pub(crate) fn volume_count(&self) -> usize {
        self.volumes.len()
    }

    /// How many snapshots there are.
    pub(crate) fn snapshot_count(&self) -> usize {
        self.snapshots.len()
    }

    /// How many attachments all of them have together.
    pub(crate) fn attachments(&self) -> usize {
        let of_volumes: usize = self.volumes.iter().map(|entry| entry.attachments.count()).sum();
        let of_snapshots: usize =
            self.snapshots.iter().map(|entry| entry.attachments.count()).sum();
        of_volumes + of_snapshots
    }
}
