//! Applying replayed records to the volumes.

use crate::{
    base::{Address, Error, Kind, Lsn, Result, VolumeNumber},
    disk::{Disk, NodesInHand},
    format::{FamilyEntry, Record, RecordKind, StoredCatalog, VolumeMeta},
    map::{Missing, NewState, Tree, VolumeImage},
};
use bytes::Buf;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// Records applied together: the nodes that they need are read at once, and held until they are
/// applied.
const RECORDS_MAX: usize = 256;

/// The volumes as the catalog has them, with the records that were replayed so far.
pub(super) struct Volumes {
    disk: Arc<Disk>,
    by_number: BTreeMap<VolumeNumber, VolumeImage>,
    families: BTreeMap<VolumeNumber, Family>,
    /// Catalog records below this LSN are in it.
    applied: Lsn,
    next_volume: u32,
    dirtied: u64,
    /// Snapshots by their volume.
    snapshots: BTreeMap<VolumeNumber, BTreeSet<VolumeNumber>>,
    /// Nodes that cannot be read.
    bad_nodes: HashSet<Address>,
    /// Why some records could not be applied; all others are.
    damage: Option<Error>,
}

/// The volumes and snapshots that may share blocks.
#[derive(Default)]
struct Family {
    members: BTreeSet<VolumeNumber>,
    shared_blocks: u64,
}

/// The result of replay: the state by catalog and log.
pub(super) struct Replayed {
    pub(super) applied: Lsn,
    pub(super) next_volume: u32,
    pub(super) volumes: Vec<VolumeImage>,
    pub(super) families: Vec<FamilyEntry>,
}

/// A record and the address of its data; a record without data has the address of the next data.
pub(super) struct Located<'a> {
    pub(super) record: Record<'a>,
    pub(super) address: Address,
}

impl Volumes {
    pub(super) fn new(disk: &Arc<Disk>, catalog: StoredCatalog, next_volume: u32) -> Self {
        let mut volumes = Self {
            disk: Arc::clone(disk),
            by_number: BTreeMap::new(),
            families: BTreeMap::new(),
            applied: catalog.applied,
            next_volume,
            dirtied: 0,
            snapshots: BTreeMap::new(),
            bad_nodes: HashSet::new(),
            damage: None,
        };
        catalog.volumes.into_iter().for_each(|entry| volumes.insert(entry.into()));
        for FamilyEntry { family, shared_blocks } in catalog.families {
            if let Some(family) = volumes.families.get_mut(&family) {
                family.shared_blocks = shared_blocks;
            }
        }
        volumes
    }

    fn insert(&mut self, entry: VolumeImage) {
        if let Some(of) = entry.meta.snapshot_of {
            self.snapshots.entry(of).or_default().insert(entry.meta.number);
        }
        self.families.entry(entry.meta.family).or_default().members.insert(entry.meta.number);
        self.by_number.insert(entry.meta.number, entry);
    }

    /// Removes a volume with its snapshots, or a snapshot.
    fn remove(&mut self, number: VolumeNumber) {
        let snapshots = self.snapshots.remove(&number).unwrap_or_default();
        for removed in snapshots.into_iter().chain([number]) {
            let Some(VolumeImage { meta, .. }) = self.by_number.remove(&removed) else { continue };
            if let Some(others) = meta.snapshot_of.and_then(|of| self.snapshots.get_mut(&of)) {
                others.remove(&removed);
            }
            self.leave(removed, meta.family);
        }
    }

    /// Why some records could not be applied, if so.
    pub(super) fn damage(&mut self) -> Option<Error> {
        self.damage.take()
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Nodes that replay changed.
    pub(super) fn dirtied(&self) -> u64 {
        self.dirtied
    }

    /// Ends replay: all volumes have every record below `end`.
    pub(super) fn finish(self, end: Lsn) -> Replayed {
        let volumes =
            self.by_number.into_values().map(|v| VolumeImage { applied: v.applied.max(end), ..v });
        let entry = |(family, Family { shared_blocks, .. })| FamilyEntry { family, shared_blocks };
        let families = self.families.into_iter().map(entry);
        Replayed {
            applied: self.applied.max(end),
            next_volume: self.next_volume,
            volumes: volumes.collect(),
            families: families.filter(|family| family.shared_blocks > 0).collect(),
        }
    }

    /// Applies records in order. It skips records that the catalog holds already, and records of
    /// volumes that were deleted later.
    pub(super) async fn apply(&mut self, records: &[Located<'_>]) -> Result<()> {
        let disk = Arc::clone(&self.disk);
        for records in records.chunks(RECORDS_MAX) {
            let mut nodes = NodesInHand::new(&disk);
            self.preload(records, &mut nodes).await?;
            for located in records {
                self.apply_one(located, &mut nodes).await?;
            }
        }
        Ok(())
    }

    /// Reads the nodes that these records will change, many at a time: one by one, recovery would
    /// wait for the disk's latency each time.
    async fn preload(
        &mut self,
        records: &[Located<'_>],
        nodes: &mut NodesInHand<'_>,
    ) -> Result<()> {
        loop {
            let mut missing = BTreeMap::new();
            for Located { record, .. } in records {
                let head = record.head;
                if let (RecordKind::Data | RecordKind::Hole | RecordKind::Zero, Some(volume)) =
                    (head.kind, self.by_number.get(&head.volume))
                    && record.lsn >= volume.applied
                    && let Some(node) = volume.tree.missing(nodes, head.block, head.count)
                    && !self.bad_nodes.contains(&node.node.address)
                {
                    missing.insert(node.node.address, node);
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            let missing: Vec<_> = missing.into_values().collect();
            if nodes.load_all(&missing).await.is_err() {
                for node in missing {
                    self.load(node, nodes).await;
                }
            }
        }
    }

    /// Reads a node. Returns whether it can be read.
    async fn load(&mut self, missing: Missing, nodes: &mut NodesInHand<'_>) -> bool {
        let address = missing.node.address;
        if self.bad_nodes.contains(&address) {
            return false;
        }
        let Err(error) = nodes.load(missing).await else { return true };
        self.bad_nodes.insert(address);
        let what = format!("replay needs a map node that cannot be read: {error}");
        self.damage.get_or_insert_with(|| Error::corrupt(what));
        false
    }

    async fn apply_one(
        &mut self,
        located: &Located<'_>,
        nodes: &mut NodesInHand<'_>,
    ) -> Result<()> {
        let Located { record, address } = located;
        let head = record.head;
        let new = match head.kind {
            RecordKind::VolumePut
            | RecordKind::VolumeDelete
            | RecordKind::Fork
            | RecordKind::Restore => {
                return self.apply_catalog(record, *address);
            }
            RecordKind::Data => None,
            RecordKind::Hole => Some(NewState::Hole),
            RecordKind::Zero => Some(NewState::Zero),
        };
        if self.by_number.get(&head.volume).is_none_or(|volume| record.lsn < volume.applied) {
            return Ok(());
        }
        let checksums = if new.is_none() { record.checksums() } else { Vec::new() };
        let new = new.unwrap_or(NewState::Data(*address, &checksums));
        loop {
            let Some(volume) = self.by_number.get_mut(&head.volume) else { return Ok(()) };
            match volume.tree.replace(nodes, head.block, head.count, new) {
                Ok(touched) => {
                    self.dirtied += touched.dirtied;
                    volume.applied = record.lsn.plus(1);
                    return Ok(());
                }
                Err(missing) => {
                    if !self.load(missing, nodes).await {
                        // The store is for reading only then, and a read of this range meets the
                        // same node.
                        return Ok(());
                    }
                }
            }
        }
    }

    fn apply_catalog(&mut self, record: &Record<'_>, point: Address) -> Result<()> {
        if record.lsn < self.applied {
            return Ok(());
        }
        self.applied = record.lsn.plus(1);
        let (applied, subject) = (self.applied, record.head.volume);
        let unknown = |number: VolumeNumber| {
            Error::new(
                Kind::Corrupt,
                format!("a record of the catalog is about volume {}, which is not there", number.0),
            )
        };
        match record.head.kind {
            RecordKind::VolumeDelete => {
                self.remove(subject);
            }
            RecordKind::Restore => {
                let mut payload = record.payload;
                let number = VolumeNumber(payload.get_u32_le());
                let snapshot = self.by_number.get(&number).ok_or_else(|| unknown(number))?;
                let (tree, size_bytes) = (snapshot.tree.clone(), snapshot.meta.size_bytes);
                let volume = self.by_number.get_mut(&subject).ok_or_else(|| unknown(subject))?;
                volume.tree.become_copy_of(&tree, point);
                volume.meta.size_bytes = size_bytes;
                volume.applied = applied;
            }
            RecordKind::Fork => {
                let meta = self.meta(record)?;
                let source = self.by_number.get_mut(&subject).ok_or_else(|| unknown(subject))?;
                let (tree, shared_blocks) = source.tree.branch(point);
                let family = meta.family;
                self.insert(VolumeImage { meta, applied, tree });
                self.families.entry(family).or_default().shared_blocks += shared_blocks;
            }
            _ => {
                let meta = self.meta(record)?;
                match self.by_number.get_mut(&meta.number) {
                    Some(volume) => volume.meta = meta,
                    None => self.insert(VolumeImage { meta, applied, tree: Tree::default() }),
                }
            }
        }
        Ok(())
    }

    /// Removes an entry from its family. The blocks of the last remaining member are then its own.
    fn leave(&mut self, number: VolumeNumber, of: VolumeNumber) {
        let Some(family) = self.families.get_mut(&of) else { return };
        family.members.remove(&number);
        match (family.members.first(), family.members.len()) {
            (None, _) => drop(self.families.remove(&of)),
            (Some(last), 1) => {
                family.shared_blocks = 0;
                if let Some(last) = self.by_number.get_mut(last) {
                    last.tree.become_unshared();
                }
            }
            (Some(_), _) => {}
        }
    }

    /// The properties of a volume by a record.
    fn meta(&mut self, record: &Record<'_>) -> Result<VolumeMeta> {
        let meta = VolumeMeta::decode(&mut &*record.payload)
            .map_err(|why| Error::new(Kind::Corrupt, format!("a volume's record: {}", why.0)))?;
        self.next_volume = self.next_volume.max(meta.number.0.saturating_add(1));
        Ok(meta)
    }
}
