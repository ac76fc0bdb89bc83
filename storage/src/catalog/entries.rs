//! The catalog in memory: the volumes and snapshots of a store, its entries, by id; and the log
//! records that change which there are.
//!
//! I1  A change is logged and made under the one lock around [`Catalog`], so a checkpoint that
//!     takes all entries under it has exactly the changes below [`Catalog::applied`].
//! I2  An entry's number is never used twice: when the numbers are used up, no entry is made any
//!     more.

use crate::{
    base::{Address, Error, Kind, Lsn, Result, VolumeNumber},
    disk::Numbers,
    format::{FamilyEntry, RecordKind, VolumeMeta},
    log::{Append, Log, Refused},
    volume::Volume,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// All volumes and snapshots.
pub(crate) struct Catalog {
    /// In an order that does not change from run to run, so that simulations repeat.
    by_id: BTreeMap<Uuid, Volume>,
    by_number: BTreeMap<VolumeNumber, Uuid>,
    /// Snapshots by their volume.
    snapshots: BTreeMap<VolumeNumber, BTreeSet<VolumeNumber>>,
    families: BTreeMap<VolumeNumber, Family>,
    /// Numbers of entries that came or went, and of families that changed, since the last
    /// checkpoint's cut.
    changed: BTreeSet<VolumeNumber>,
    next: u32,
    applied: Lsn,
}

/// A family: the entries that come from one volume, and so may share blocks.
#[derive(Debug, Default)]
pub(crate) struct Family {
    members: BTreeSet<VolumeNumber>,
    /// Upper bound of the data blocks that a member has and that the birthday rule does not give to
    /// one member alone.
    pub(crate) shared_blocks: u64,
    /// How often `shared_blocks` was found to be 0.
    pub(crate) resets: u64,
}

/// Counts of blocks that were removed with an entry.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// Data blocks of its map and of its snapshots' maps.
    pub(crate) mapped_blocks: u64,
    /// By how many blocks the live data shrinks, as far as the birthday rule says.
    pub(crate) freed_blocks: i128,
}

/// Where a change of the catalog stands in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    /// The LSN behind it.
    pub(crate) behind: Lsn,
    /// Data that was logged before has lower addresses, data logged later this one or higher ones.
    pub(crate) point: Address,
}

/// Why the catalog was not changed.
pub(crate) enum NotChanged {
    /// The log has no room for the record now.
    Refused(Refused),
    Failed(Error),
}

impl From<Refused> for NotChanged {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Error> for NotChanged {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Catalog {
    pub(crate) fn new(
        entries: Vec<Volume>,
        shared: &[FamilyEntry],
        next: u32,
        applied: Lsn,
    ) -> Self {
        let mut all = Self {
            by_id: BTreeMap::new(),
            by_number: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            families: BTreeMap::new(),
            changed: BTreeSet::new(),
            next,
            applied,
        };
        entries.into_iter().for_each(|entry| all.insert(entry));
        for FamilyEntry { family, shared_blocks } in shared {
            if let Some(family) = all.families.get_mut(family) {
                family.shared_blocks = *shared_blocks;
            }
        }
        all
    }

    fn insert(&mut self, entry: Volume) {
        let number = entry.inner.number;
        if let Some(of) = entry.inner.snapshot_of {
            self.snapshots.entry(of).or_default().insert(number);
        }
        self.families.entry(entry.inner.family).or_default().members.insert(number);
        self.by_number.insert(number, entry.id());
        self.by_id.insert(entry.id(), entry);
    }

    /// Numbers of entries that came or went, and of families that changed, since they were
    /// forgotten. An entry whose own state changed says so itself.
    pub(crate) fn changed(&self) -> &BTreeSet<VolumeNumber> {
        &self.changed
    }

    /// A checkpoint writes the changes until now.
    pub(crate) fn forget_changed(&mut self) {
        self.changed.clear();
    }

    /// The entries of these numbers, in order.
    pub(crate) fn in_range(&self, numbers: &Numbers) -> impl Iterator<Item = &Volume> {
        let range = VolumeNumber(numbers.start)..VolumeNumber(numbers.end);
        self.by_number.range(range).filter_map(|(_, id)| self.by_id.get(id))
    }

    /// The families of these numbers that share something, in order.
    pub(crate) fn shared_in(&self, numbers: &Numbers) -> Vec<FamilyEntry> {
        let range = VolumeNumber(numbers.start)..VolumeNumber(numbers.end);
        let entry = |(family, Family { shared_blocks, .. }): (&VolumeNumber, &Family)| {
            FamilyEntry { family: *family, shared_blocks: *shared_blocks }
        };
        let families = self.families.range(range).map(entry);
        families.filter(|family| family.shared_blocks > 0).collect()
    }

    /// All families.
    pub(crate) fn families(&self) -> &BTreeMap<VolumeNumber, Family> {
        &self.families
    }

    /// The family of that number, to be changed, while it has a member.
    pub(crate) fn family_mut(&mut self, number: VolumeNumber) -> Option<&mut Family> {
        let family = self.families.get_mut(&number)?;
        self.changed.insert(number);
        Some(family)
    }

    /// All entries, in the order of their ids.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Volume> {
        self.by_id.values()
    }

    /// The volume or snapshot of that number.
    pub(crate) fn by_number(&self, number: VolumeNumber) -> Option<&Volume> {
        self.by_id.get(self.by_number.get(&number)?)
    }

    /// The number of the next entry.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Records of the catalog below this LSN are in it.
    pub(crate) fn applied(&self) -> Lsn {
        self.applied
    }

    /// The volume or snapshot of that id.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn entry(&self, id: Uuid) -> Result<Volume> {
        let found = self.by_id.get(&id).cloned();
        found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no volume or snapshot {id}"))
        })
    }

    /// The volume of that id.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn volume(&self, id: Uuid) -> Result<Volume> {
        let found = self.by_id.get(&id).filter(|entry| entry.inner.snapshot_of.is_none()).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no volume {id}")))
    }

    /// The snapshot of that id, if it is one of `volume`.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn snapshot(&self, volume: &Volume, id: Uuid) -> Result<Volume> {
        let found = self
            .by_id
            .get(&id)
            .filter(|entry| entry.inner.snapshot_of == Some(volume.inner.number))
            .cloned();
        found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("volume {} has no snapshot {id}", volume.id()))
        })
    }

    /// The snapshots of a volume, in the order in which they were made.
    pub(crate) fn snapshots(&self, volume: VolumeNumber) -> impl Iterator<Item = &Volume> {
        let numbers = self.snapshots.get(&volume).into_iter().flatten();
        numbers.filter_map(|number| self.by_number(*number))
    }

    /// The number for a new entry of that id.
    ///
    /// # Errors
    /// [`Kind::Exists`]; [`Kind::NoSpace`] when the numbers are used up (I2).
    pub(crate) fn next_number(&self, id: Uuid) -> Result<VolumeNumber> {
        if self.by_id.contains_key(&id) {
            return Err(Error::new(
                Kind::Exists,
                format!("there is a volume or snapshot {id} already"),
            ));
        }
        if self.next == u32::MAX {
            let text = "the store has used all its four billion numbers for volumes and snapshots: \
                        no more can be made in it, copy what it has into a new one";
            return Err(Error::new(Kind::NoSpace, text));
        }
        Ok(VolumeNumber(self.next))
    }

    /// Adds an entry that was logged under the next number.
    pub(crate) fn add(&mut self, entry: Volume) -> Volume {
        self.next = entry.inner.number.0 + 1;
        self.changed.insert(entry.inner.number);
        self.insert(entry.clone());
        entry
    }

    /// Removes an entry and, with a volume, its snapshots, whose locks it takes. Handles that are
    /// still held find them deleted.
    pub(crate) fn remove(&mut self, number: VolumeNumber) -> Removed {
        let snapshots = self.snapshots.remove(&number).unwrap_or_default();
        let ids = snapshots
            .into_iter()
            .chain([number])
            .filter_map(|number| self.by_number.remove(&number));
        let deleted: Vec<_> = ids.filter_map(|id| self.by_id.remove(&id)).collect();
        let (mut removed, mut families) = (Removed::default(), BTreeSet::new());
        for entry in deleted {
            self.changed.insert(entry.inner.number);
            if let Some(others) = entry.inner.snapshot_of.and_then(|of| self.snapshots.get_mut(&of))
            {
                others.remove(&entry.inner.number);
            }
            let mut state = entry.inner.lock();
            state.deleted = true;
            let tree = std::mem::take(&mut state.tree);
            removed.mapped_blocks += tree.mapped_blocks();
            removed.freed_blocks += i128::from(tree.birthday().own_blocks);
            if let Some(family) = self.families.get_mut(&entry.inner.family) {
                family.members.remove(&entry.inner.number);
                families.insert(entry.inner.family);
            }
        }
        for number in families {
            let Some(family) = self.families.get_mut(&number) else { continue };
            self.changed.insert(number);
            match family.members.len() {
                0 => {
                    removed.freed_blocks += i128::from(family.shared_blocks);
                    self.families.remove(&number);
                }
                1 => {
                    // The last member shares with no other: all blocks of its map are its own, and
                    // other blocks of the family are garbage.
                    let last = family.members.first().and_then(|last| self.by_number.get(last));
                    let last = last.and_then(|id| self.by_id.get(id));
                    let own = last.map_or(0, |last| last.inner.lock().tree.become_unshared());
                    removed.freed_blocks += i128::from(family.shared_blocks) - i128::from(own);
                    family.shared_blocks = 0;
                    family.resets += 1;
                }
                _ => {}
            }
        }
        removed
    }

    /// Logs a change of an entry.
    ///
    /// # Errors
    /// Nothing was logged then.
    pub(crate) fn log(
        &mut self,
        log: &Arc<Log>,
        entry: VolumeNumber,
        kind: RecordKind,
        payload: &[u8],
    ) -> Result<Logged, Refused> {
        let appended = log.append(Append::Catalog { volume: entry, kind, payload }, None)?;
        self.applied = appended.lsn.plus(1);
        Ok(Logged { behind: self.applied, point: appended.address })
    }

    /// Logs a change with the entry's new properties.
    ///
    /// # Errors
    /// As [`Self::log`].
    pub(crate) fn log_meta(
        &mut self,
        log: &Arc<Log>,
        entry: VolumeNumber,
        kind: RecordKind,
        meta: &VolumeMeta,
    ) -> Result<Logged, Refused> {
        let mut payload = Vec::new();
        meta.encode(&mut payload);
        self.log(log, entry, kind, &payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_entry_is_made_when_the_numbers_are_used_up() {
        let with_next =
            |next| Catalog::new(Vec::new(), &[], next, Lsn(1)).next_number(Uuid::from_u128(1));
        assert_eq!(with_next(u32::MAX - 1).expect("the last number"), VolumeNumber(u32::MAX - 1));
        let refused = with_next(u32::MAX).expect_err("it would be given twice");
        assert_eq!(refused.kind(), Kind::NoSpace);
        assert!(refused.to_string().contains("used all its"), "{refused}");
    }
}
