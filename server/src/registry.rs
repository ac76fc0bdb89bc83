//! The volumes as the server knows them: by id, by name, with their records and attachments.
//!
//! The store owns what is durable; this is its shadow in memory, made at start and changed only after the store has
//! changed. Looking up takes a shard lock for the length of a hash look-up and waits for nobody, so connections may do
//! it while they are accepted.

use crate::{
    attachments::Attachments,
    record::{VolumeRecord, parse_id},
};
use dashmap::DashMap;
use sandstone_storage::Volume;
use std::{error, fmt, sync::Arc};
use uuid::Uuid;

/// All volumes.
pub(crate) struct Registry {
    volumes: DashMap<Uuid, Arc<Entry>>,
    names: Names,
}

/// One volume. An entry does not change: a new record is a new entry with the same volume, attachments and turn.
pub(crate) struct Entry {
    pub(crate) volume: Volume,
    pub(crate) record: VolumeRecord,
    pub(crate) attachments: Arc<Attachments>,
    /// Whoever changes or deletes the volume holds this from reading the record until the registry has the new one, so
    /// two changes at once do not undo each other. It is held across awaits, which tokio's mutex is made for.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

/// A volume whose record this version does not understand.
#[derive(Debug)]
pub(crate) struct UnreadableRecord {
    volume: Uuid,
    source: serde_json::Error,
}

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "volume {} has a record that this version does not read: start the version that wrote it",
            self.volume
        )
    }
}

impl error::Error for UnreadableRecord {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Registry {
    /// The volumes of a store that was just opened.
    ///
    /// # Errors
    /// [`UnreadableRecord`]. Going on would lose the record at the next change.
    pub(crate) fn load(volumes: Vec<Volume>) -> Result<Registry, UnreadableRecord> {
        let registry = Registry { volumes: DashMap::new(), names: Names::default() };
        for volume in volumes {
            let record = VolumeRecord::from_attributes(&volume.attributes())
                .map_err(|source| UnreadableRecord { volume: volume.id(), source })?;
            registry.insert(volume, record);
        }
        Ok(registry)
    }

    /// Adds a volume that the store has made.
    pub(crate) fn insert(&self, volume: Volume, record: VolumeRecord) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            volume,
            record,
            attachments: Attachments::new(),
            turn: Arc::new(tokio::sync::Mutex::new(())),
        });
        self.put(Arc::clone(&entry));
        entry
    }

    /// Gives a volume the record that the store has taken for it. The caller holds the entry's turn.
    pub(crate) fn replace(&self, entry: &Entry, record: VolumeRecord) -> Arc<Entry> {
        let new = Arc::new(Entry {
            volume: entry.volume.clone(),
            record,
            attachments: Arc::clone(&entry.attachments),
            turn: Arc::clone(&entry.turn),
        });
        if entry.record.name != new.record.name {
            self.names.remove(entry);
        }
        self.put(Arc::clone(&new));
        new
    }

    /// Forgets a volume that the store has deleted. The caller holds the entry's turn.
    pub(crate) fn remove(&self, entry: &Entry) {
        self.names.remove(entry);
        self.volumes.remove(&entry.volume.id());
    }

    fn put(&self, entry: Arc<Entry>) {
        if let Some(name) = &entry.record.name {
            self.names.add(name, entry.volume.id());
        }
        self.volumes.insert(entry.volume.id(), entry);
    }

    /// The volume of that id.
    pub(crate) fn get(&self, id: Uuid) -> Option<Arc<Entry>> {
        self.volumes.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// The volume that an export name means: its id, or its name while no other volume has the same.
    pub(crate) fn resolve(&self, export_name: &str) -> Option<Arc<Entry>> {
        let id = parse_id(export_name).or_else(|| self.names.only(export_name))?;
        self.get(id)
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Entry>> {
        let mut list: Vec<Arc<Entry>> = self.volumes.iter().map(|entry| Arc::clone(&entry)).collect();
        list.sort_by_key(|entry| (std::cmp::Reverse(entry.record.created_at), entry.volume.id()));
        list
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.volumes.len()
    }

    /// How many attachments all of them have together.
    pub(crate) fn attachments(&self) -> usize {
        self.volumes.iter().map(|entry| entry.attachments.count()).sum()
    }
}

/// Which volumes have a name.
#[derive(Default)]
struct Names(DashMap<String, Vec<Uuid>>);

impl Names {
    fn add(&self, name: &str, id: Uuid) {
        let mut ids = self.0.entry(name.to_owned()).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    fn remove(&self, entry: &Entry) {
        if let Some(name) = &entry.record.name {
            self.remove_id(name, entry.volume.id());
        }
    }

    fn remove_id(&self, name: &str, id: Uuid) {
        self.0.remove_if_mut(name, |_, ids| {
            ids.retain(|other| *other != id);
            ids.is_empty()
        });
    }

    /// The one volume of that name.
    fn only(&self, name: &str) -> Option<Uuid> {
        match self.0.get(name)?.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_volume_only_while_it_is_unique() {
        let names = Names::default();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(names.only("disk"), None);
        names.add("disk", a);
        names.add("disk", a);
        assert_eq!(names.only("disk"), Some(a));
        names.add("disk", b);
        assert_eq!(names.only("disk"), None);
        names.remove_id("disk", a);
        assert_eq!(names.only("disk"), Some(b));
        names.remove_id("disk", b);
        names.remove_id("disk", b);
        assert!(names.0.is_empty());
    }
}
