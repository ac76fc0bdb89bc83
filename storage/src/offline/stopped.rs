//! A store that no server has open, opened for reading only.

use crate::{
    base::{Error, Kind, Result},
    format::Superblock,
    log::{Leftover, Staging},
    recovery::{self, Found, StagingFiles},
};
use sandstone_ring::{File, SharedMemory};
use std::{io, path::Path, sync::Arc, time::Duration};

/// How long a server that was just killed may still hold the store's lock. A guess.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The store of a stopped server. It is locked, so that no server starts meanwhile.
pub struct StoppedStore {
    file: File,
    boot: [u8; 16],
    staging: StagingSource,
}

/// Where to look for the last server's staging buffer.
enum StagingSource {
    Files(StagingFiles),
    Memory(Option<Arc<SharedMemory>>),
}

impl StoppedStore {
    /// Locks the store at `path` and opens it for reading alone. `staging_dir` is the one that its
    /// server is given.
    ///
    /// # Errors
    /// [`Kind::Io`]: the store does not exist, may not be read, or a server has it open. Nothing
    /// was changed.
    pub async fn open(path: &Path, staging_dir: &Path) -> Result<Self> {
        let what = |doing: &str| format!("{doing} {}", path.display());
        let file = File::open_read_only(path).map_err(|e| Error::io(what("opening"), e))?;
        file.lock(LOCK_WAIT, || {}).await.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::new(Kind::Io, what("a server holds")),
            _ => Error::io(what("locking"), error),
        })?;
        let staging = StagingSource::Files(StagingFiles::beside(path, staging_dir));
        Ok(Self { file, boot: recovery::boot_id(), staging })
    }

    /// A stopped store on the caller's file and staging memory, for simulations.
    pub fn on(file: File, boot: [u8; 16], staging: Option<Arc<SharedMemory>>) -> Self {
        Self { file, boot, staging: StagingSource::Memory(staging) }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Examines the store: what a start would find.
    ///
    /// # Errors
    /// The errors of [`recovery::examine`].
    pub(crate) async fn examine(&self, metadata_bytes: u64) -> Result<Found> {
        recovery::examine(&self.file, metadata_bytes, |superblock| self.leftover(superblock)).await
    }

    fn leftover(&self, superblock: &Superblock) -> Option<Leftover> {
        let identity = &superblock.identity;
        let memory = match &self.staging {
            StagingSource::Files(files) => files
                .read(
                    &identity.store,
                    &self.boot,
                    superblock.epoch,
                    Staging::file_bytes(&superblock.geometry),
                )
                .inspect_err(|error| tracing::warn!(%error, "the staging buffer cannot be read"))
                .ok()
                .flatten(),
            StagingSource::Memory(memory) => memory.clone(),
        };
        Leftover::open(memory?, superblock.geometry, identity, &self.boot, superblock.epoch).ok()
    }
}
