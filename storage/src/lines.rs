//! The lines of blocks that a store holds, volumes and snapshots, by id; and the log records that change which there are.
//!
//! I1  A change is logged and made under the one lock around [`Lines`], so a checkpoint that takes all lines under it
//!     has exactly the changes below [`Lines::applied`].

use crate::{
    address::{Lsn, VolumeNumber},
    error::{Error, Kind, Result},
    format::{RecordKind, VolumeMeta},
    log::{Append, Log, Refused},
    volume::Volume,
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// All volumes and snapshots.
pub(crate) struct Lines {
    /// In an order that does not change from run to run, so that simulations repeat.
    by_id: BTreeMap<Uuid, Volume>,
    next: u32,
    applied: Lsn,
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

impl Lines {
    pub(crate) fn new(lines: Vec<Volume>, next: u32, applied: Lsn) -> Self {
        Self { by_id: lines.into_iter().map(|line| (line.id(), line)).collect(), next, applied }
    }

    /// All of them, in the order of their ids.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Volume> {
        self.by_id.values()
    }

    /// The number of the next line.
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
    pub(crate) fn line(&self, id: Uuid) -> Result<Volume> {
        let found = self.by_id.get(&id).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no volume or snapshot {id}")))
    }

    /// The volume of that id.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn volume(&self, id: Uuid) -> Result<Volume> {
        let found = self.by_id.get(&id).filter(|line| line.inner.snapshot_of.is_none()).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no volume {id}")))
    }

    /// The snapshot of that id, if it is one of `volume`.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub(crate) fn snapshot(&self, volume: &Volume, id: Uuid) -> Result<Volume> {
        let found =
            self.by_id.get(&id).filter(|line| line.inner.snapshot_of == Some(volume.inner.number)).cloned();
        found
            .ok_or_else(|| Error::new(Kind::NotFound, format!("volume {} has no snapshot {id}", volume.id())))
    }

    /// The number for a new line of that id.
    ///
    /// # Errors
    /// [`Kind::Exists`].
    pub(crate) fn next_number(&self, id: Uuid) -> Result<VolumeNumber> {
        if self.by_id.contains_key(&id) {
            return Err(Error::new(Kind::Exists, format!("there is a volume or snapshot {id} already")));
        }
        Ok(VolumeNumber(self.next))
    }

    /// Takes in a line that was logged under the next number.
    pub(crate) fn add(&mut self, line: Volume) -> Volume {
        self.next = line.inner.number.0 + 1;
        self.by_id.insert(line.id(), line.clone());
        line
    }

    /// Lets go of a line and, with a volume, of its snapshots.
    pub(crate) fn remove(&mut self, number: VolumeNumber) -> Vec<Volume> {
        let goes = |line: &Volume| line.inner.number == number || line.inner.snapshot_of == Some(number);
        let gone: Vec<_> = self.all().filter(|line| goes(line)).cloned().collect();
        gone.iter().for_each(|line| drop(self.by_id.remove(&line.id())));
        gone
    }

    /// Logs a change about a line. Gives the LSN behind it.
    ///
    /// # Errors
    /// Nothing was logged then.
    pub(crate) fn log(
        &mut self,
        log: &Arc<Log>,
        line: VolumeNumber,
        kind: RecordKind,
        payload: &[u8],
    ) -> Result<Lsn, Refused> {
        let appended = log.append(Append::Catalog { volume: line, kind, payload }, None)?;
        self.applied = appended.lsn.plus(1);
        Ok(self.applied)
    }

    /// The same with what a line is from now on.
    ///
    /// # Errors
    /// As [`Self::log`].
    pub(crate) fn log_meta(
        &mut self,
        log: &Arc<Log>,
        line: VolumeNumber,
        kind: RecordKind,
        meta: &VolumeMeta,
    ) -> Result<Lsn, Refused> {
        let mut payload = Vec::new();
        meta.encode(&mut payload);
        self.log(log, line, kind, &payload)
    }
}
