//! Applying replayed records to the volumes.

use crate::{
    address::{Address, Lsn, VolumeNumber},
    disk::{Disk, NodesInHand},
    error::{Error, Kind, Result},
    format::{Catalog, FamilyEntry, Record, RecordKind, VolumeEntry, VolumeMeta},
    map::{NewState, Tree},
};
use bytes::Buf;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Records applied together: the nodes that they need are read at once, and held until they are applied.
const RECORDS_MAX: usize = 256;

/// The volumes as the catalog has them, on their way to what the log says.
pub(super) struct Volumes {
    disk: Arc<Disk>,
    by_number: BTreeMap<VolumeNumber, VolumeEntry>,
    families: BTreeMap<VolumeNumber, Family>,
    /// Catalog records below are in it.
    applied: Lsn,
    next_volume: u32,
    dirtied: u64,
}

/// The lines that may share blocks.
#[derive(Default)]
struct Family {
    members: BTreeSet<VolumeNumber>,
    shared_blocks: u64,
}

/// What catalog and log have together.
pub(super) struct Replayed {
    pub(super) applied: Lsn,
    pub(super) next_volume: u32,
    pub(super) volumes: Vec<VolumeEntry>,
    pub(super) families: Vec<FamilyEntry>,
}

/// A record and where its data is; one without data stands where the next data would be.
pub(super) struct Located<'a> {
    pub(super) record: Record<'a>,
    pub(super) address: Address,
}

impl Volumes {
    pub(super) fn new(disk: &Arc<Disk>, catalog: Catalog, next_volume: u32) -> Self {
        let mut families: BTreeMap<VolumeNumber, Family> = BTreeMap::new();
        for VolumeEntry { meta, .. } in &catalog.volumes {
            families.entry(meta.family).or_default().members.insert(meta.number);
        }
        for FamilyEntry { family, shared_blocks } in catalog.families {
            families.entry(family).or_default().shared_blocks = shared_blocks;
        }
        Self {
            disk: Arc::clone(disk),
            by_number: catalog.volumes.into_iter().map(|v| (v.meta.number, v)).collect(),
            families,
            applied: catalog.applied,
            next_volume,
            dirtied: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Nodes that replay changed.
    pub(super) fn dirtied(&self) -> u64 {
        self.dirtied
    }

    /// The volumes, all of which have everything below `end`.
    pub(super) fn finish(self, end: Lsn) -> Replayed {
        let volumes = self.by_number.into_values().map(|v| VolumeEntry { applied: v.applied.max(end), ..v });
        let entry = |(family, Family { shared_blocks, .. })| FamilyEntry { family, shared_blocks };
        let families = self.families.into_iter().map(entry);
        Replayed {
            applied: self.applied.max(end),
            next_volume: self.next_volume,
            volumes: volumes.collect(),
            families: families.filter(|family| family.shared_blocks > 0).collect(),
        }
    }

    /// Applies records in order. What the catalog holds already is skipped; a record of a volume that was deleted later
    /// finds none and is skipped too.
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

    /// Reads the nodes that these records will change, many at a time: one after the other they would make recovery as
    /// slow as the disk's latency.
    async fn preload(&self, records: &[Located<'_>], nodes: &mut NodesInHand<'_>) -> Result<()> {
        loop {
            let mut missing = BTreeMap::new();
            for Located { record, .. } in records {
                let head = record.head;
                if let (RecordKind::Data | RecordKind::Hole | RecordKind::Zero, Some(volume)) =
                    (head.kind, self.by_number.get(&head.volume))
                    && record.lsn >= volume.applied
                    && let Some(node) = volume.tree.missing(nodes, head.block, head.count)
                {
                    missing.insert(node.node.address, node);
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            nodes.load_all(&missing.into_values().collect::<Vec<_>>()).await?;
        }
    }

    async fn apply_one(&mut self, located: &Located<'_>, nodes: &mut NodesInHand<'_>) -> Result<()> {
        let Located { record, address } = located;
        let head = record.head;
        let new = match head.kind {
            RecordKind::VolumePut | RecordKind::VolumeDelete | RecordKind::Fork | RecordKind::Restore => {
                return self.apply_catalog(record, *address);
            }
            RecordKind::Data => None,
            RecordKind::Hole => Some(NewState::Hole),
            RecordKind::Zero => Some(NewState::Zero),
        };
        let Some(volume) = self.by_number.get_mut(&head.volume) else { return Ok(()) };
        if record.lsn < volume.applied {
            return Ok(());
        }
        let checksums = if new.is_none() { record.checksums() } else { Vec::new() };
        let new = new.unwrap_or(NewState::Data(*address, &checksums));
        loop {
            match volume.tree.replace(nodes, head.block, head.count, new) {
                Ok(touched) => {
                    self.dirtied += touched.dirtied;
                    break;
                }
                Err(missing) => nodes.load(missing).await?,
            }
        }
        volume.applied = record.lsn.plus(1);
        Ok(())
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
                let mut gone = BTreeMap::new();
                self.by_number.retain(|number, v| {
                    let stays = *number != subject && v.meta.snapshot_of != Some(subject);
                    if !stays {
                        gone.insert(*number, v.meta.family);
                    }
                    stays
                });
                gone.into_iter().for_each(|(number, family)| self.leave(number, family));
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
                let family = self.families.entry(meta.family).or_default();
                family.shared_blocks += shared_blocks;
                family.members.insert(meta.number);
                self.by_number.insert(meta.number, VolumeEntry { meta, applied, tree });
            }
            _ => {
                let meta = self.meta(record)?;
                self.families.entry(meta.family).or_default().members.insert(meta.number);
                let fresh = || VolumeEntry { meta: meta.clone(), applied, tree: Tree::default() };
                self.by_number.entry(meta.number).and_modify(|v| v.meta = meta.clone()).or_insert_with(fresh);
            }
        }
        Ok(())
    }

    /// A line is gone. What is left to the last of its family is that one's own.
    fn leave(&mut self, number: VolumeNumber, of: VolumeNumber) {
        let Some(family) = self.families.get_mut(&of) else { return };
        family.members.remove(&number);
        match (family.members.first(), family.members.len()) {
            (None, _) => drop(self.families.remove(&of)),
            (Some(last), 1) => {
                family.shared_blocks = 0;
                if let Some(last) = self.by_number.get_mut(last) {
                    last.tree.be_alone();
                }
            }
            (Some(_), _) => {}
        }
    }

    /// What a record says that a volume is.
    fn meta(&mut self, record: &Record<'_>) -> Result<VolumeMeta> {
        let meta = VolumeMeta::decode(&mut &*record.payload)
            .map_err(|why| Error::new(Kind::Corrupt, format!("a volume's record: {}", why.0)))?;
        self.next_volume = self.next_volume.max(meta.number.0 + 1);
        Ok(meta)
    }
}
