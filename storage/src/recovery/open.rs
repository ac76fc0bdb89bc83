//! Opening the store at a path: its file, its lock, and the files that its staging buffer may be
//! in.

use super::{
    options::{Parts, StoreOptions},
    recover::{Recovered, recover},
    staging_files::StagingFiles,
};
use crate::{
    base::{Error, Result},
    format::{Geometry, Superblock},
};
use sandstone_ring::File;
use std::{sync::Arc, time::Duration};

/// How long a start waits for the store's lock, which another server or the last one's writes may
/// hold.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// Opens the store at `options.path`.
pub(crate) async fn open(options: &StoreOptions) -> Result<Recovered> {
    use std::os::unix::fs::FileTypeExt;
    let what = |doing: &str| format!("{doing} {}", options.path.display());
    let wanted = Geometry::standard(options.size_bytes);
    let file = File::open(&options.path, Some(wanted.store_bytes()))
        .map_err(|e| Error::io(what("opening"), e))?;
    // A block device has a fixed size.
    let device = std::fs::metadata(&options.path).is_ok_and(|m| m.file_type().is_block_device());
    let size_bytes = if device { file.len_bytes() } else { options.size_bytes };
    let waiting = || {
        tracing::warn!(
            path = %options.path.display(),
            "waiting for another server, or the last one's writes"
        );
    };
    file.lock(LOCK_WAIT, waiting).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::io(what("another server holds"), error),
        _ => Error::io(what("locking"), error),
    })?;
    let placement = file.placement();
    if !placement.is_trusted() {
        tracing::warn!(
            path = %options.path.display(),
            "writes to the store are slower here than they could be: {placement}"
        );
    }
    let directories = StagingFiles::beside(&options.path, &options.staging_dir);
    let boot = boot_id();
    let parts = Parts {
        file,
        size_bytes,
        segment_blocks: Geometry::standard(size_bytes).segment_blocks,
        boot,
        cache_bytes: options.cache_bytes,
        metadata_bytes: options.metadata_bytes,
        reclaim_rate: options.reclaim_rate,
        scrub_rate: options.scrub_rate,
    };
    let mut staging_file = None;
    let recovered = recover(parts, |superblock: &Superblock, bytes| {
        let file = directories.open(&superblock.identity.store, &boot, superblock.epoch, bytes)?;
        let memory = (Arc::clone(&file.memory), file.existed);
        staging_file = Some(file);
        Ok(memory)
    });
    match recovered.await {
        Ok(recovered) => {
            staging_file.iter().for_each(|file| file.stamp_home(&options.path));
            Ok(Recovered { staging_file, ..recovered })
        }
        Err(error) => {
            // A staging file that was made for this start is empty.
            if let Some(file) = staging_file.filter(|file| !file.existed) {
                file.remove();
            }
            Err(error)
        }
    }
}

/// The kernel's id of this boot; all zero where it has none, so that every boot counts as the same.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse::<uuid::Uuid>().map(uuid::Uuid::into_bytes).unwrap_or_default()
}
