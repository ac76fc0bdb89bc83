//! Orphans: staging files whose store was removed after its server had died. Each would keep 48 MiB
//! of shared memory until the host's next boot.
//!
//! So a staging file names the place of its store, and each start examines the files of its own
//! user. Removing one too many loses acknowledged writes, so a store counts as removed only if
//!
//! I1  no process holds the lock of its staging file, and
//! I2  its path leads, in the same mount namespace, to no file, while the file system that it was
//!     on is still mounted; or to a store of another id.
//!
//! Undecidable cases are left alone: block devices, which come and go, and files of a version that
//! names no place. A store that is moved after its server was killed counts as removed at its old
//! place; start or close it before the move.

use super::private::{self, Access, own_user};
use crate::format::SUPERBLOCK_SLOTS;
use crate::{
    base::{BLOCK_BYTES, checksum},
    format::{Superblock, superblock_offset},
};
use bytes::{Buf, BufMut};
use sandstone_ring::SharedMemory;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// Offset of the store's place in a staging file: behind what recovery reads, in the same block.
/// Source: FORMAT.md, "Staging file".
const HOME_AT: usize = 64;
/// Bytes before the path.
const HEAD_BYTES: usize = 24;
/// Longest path that is written; a longer one is left out.
const PATH_BYTES_MAX: usize = BLOCK_BYTES - HOME_AT - HEAD_BYTES;

/// Name of a store's staging file.
pub(super) fn name_of(store: &[u8; 16]) -> String {
    format!("sandstone-{}.staging", Uuid::from_bytes(*store))
}

fn store_of(name: &OsStr) -> Option<[u8; 16]> {
    let id = name.to_str()?.strip_prefix("sandstone-")?.strip_suffix(".staging")?;
    id.parse().ok().map(Uuid::into_bytes)
}

/// The place of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Known {
        /// Absolute, as it was given.
        path: PathBuf,
        /// Device number of the file system that the store's file is on.
        device: u64,
        /// The mount namespace in which the path is meant.
        namespace: u64,
    },
    /// The place is unknown, so the file is never removed.
    Unknown,
}

impl Home {
    /// The place of the store at `path`, which exists.
    pub(super) fn of(path: &Path) -> Self {
        let known = || {
            let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
            let path = std::path::absolute(path).ok()?;
            let fits = path.as_os_str().len() <= PATH_BYTES_MAX;
            fits.then_some(Self::Known { path, device: found.dev(), namespace: own_namespace()? })
        };
        known().unwrap_or(Self::Unknown)
    }

    /// Writes it into a staging file.
    pub(super) fn write(&self, memory: &SharedMemory) {
        memory.copy_in(HOME_AT, &self.encode());
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        if let Self::Known { path, device, namespace } = self {
            let path = path.as_os_str().as_bytes();
            bytes.put_u32_le(path.len() as u32);
            bytes.put_u64_le(*device);
            bytes.put_u64_le(*namespace);
            bytes.put_slice(path);
            let checksum = checksum::plain(&bytes);
            bytes.splice(0..0, checksum.to_le_bytes());
        }
        bytes.resize(BLOCK_BYTES - HOME_AT, 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut b = bytes;
        let (checksum, len) = (b.get_u32_le(), b.get_u32_le() as usize);
        let (device, namespace) = (b.get_u64_le(), b.get_u64_le());
        let checked = bytes.get(4..HEAD_BYTES.saturating_add(len));
        if len == 0 || checked.is_none_or(|checked| checksum::plain(checked) != checksum) {
            return Self::Unknown;
        }
        Self::Known { path: OsStr::from_bytes(&b[..len]).into(), device, namespace }
    }

    /// Whether the store was removed. Keeps I2.
    fn has_lost(&self, store: &[u8; 16]) -> bool {
        let Self::Known { path, device, namespace } = self else { return false };
        if own_namespace() != Some(*namespace) {
            return false;
        }
        match stores_at(path) {
            // Another file system at that path may hide the one that the store is on.
            Ok(there) => is_on(path, *device) && !there.is_empty() && !there.contains(store),
            Err(error) if is_missing(&error) => is_mounted_above(path, *device),
            Err(_) => false,
        }
    }
}

fn own_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/mnt").ok().map(|namespace| namespace.ino())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_on(path: &Path, device: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.dev() == device)
}

/// Whether the nearest directory above a missing file is on the file system that the file was on.
/// Otherwise the file system may be mounted again later.
fn is_mounted_above(path: &Path, device: u64) -> bool {
    let nearest = path.ancestors().skip(1).find_map(|above| fs::metadata(above).ok());
    nearest.is_some_and(|above| above.dev() == device)
}

/// The ids in all superblocks of a file that can be read.
fn stores_at(path: &Path) -> io::Result<Vec<[u8; 16]>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(Vec::new());
    }
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    let mut there = Vec::new();
    for slot in 0..SUPERBLOCK_SLOTS {
        let mut block = [0; BLOCK_BYTES];
        file.read_exact_at(&mut block, superblock_offset(slot))?;
        match Superblock::decode(&block) {
            Ok(superblock) => there.push(superblock.identity.store),
            // It may belong to the store in question.
            Err(_) => return Ok(Vec::new()),
        }
    }
    Ok(there)
}

/// Removes all staging files in these directories that are this user's and whose store was removed,
/// except the file of `own`.
pub(super) fn remove_all(directories: &[PathBuf], own: &[u8; 16]) {
    for directory in directories {
        // A directory that cannot be read has nothing to remove.
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            if let Some(store) = store_of(&entry.file_name()).filter(|store| store != own) {
                remove_orphan(&entry.path(), &store);
            }
        }
    }
}

fn remove_orphan(path: &Path, store: &[u8; 16]) {
    let Ok(file) = private::open(path, Access::ReadWrite, &[own_user()]) else { return };
    let mut bytes = [0; BLOCK_BYTES - HOME_AT];
    if file.read_exact_at(&mut bytes, HOME_AT as u64).is_err() {
        return;
    }
    let home = Home::decode(&bytes);
    // The lock first: a server that has started meanwhile holds it. Keeps I1.
    if !matches!(private::try_lock(&file), Ok(true))
        || !home.has_lost(store)
        || !private::is_at(&file, path)
    {
        return;
    }
    match fs::remove_file(path) {
        Ok(()) => {
            tracing::info!(
                path = %path.display(),
                ?home,
                "a staging file whose store is gone was removed"
            );
        }
        Err(error) => {
            tracing::warn!(
                %error,
                path = %path.display(),
                "a staging file whose store is gone stays"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::StagingFiles;

    const OWN: [u8; 16] = [1; 16];
    const OTHER: [u8; 16] = [2; 16];
    const BOOT: [u8; 16] = [3; 16];
    const BYTES: usize = 2 * BLOCK_BYTES;

    /// A directory for staging, and a store in a directory of its own whose server left a staging
    /// file.
    fn left() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let (shared, data) = (home.path().join("shm"), home.path().join("data"));
        fs::create_dir(&shared).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("store"), "as damaged as it may be").unwrap();
        let files = StagingFiles::beside(&data.join("store"), &shared);
        files.open(&OTHER, &BOOT, 1, BYTES).unwrap().stamp_home(&data.join("store"));
        let staging = shared.join(name_of(&OTHER));
        assert!(staging.exists());
        (home, shared, data, staging)
    }

    #[test]
    fn the_staging_file_of_a_store_that_is_gone_is_removed_and_others_stay() {
        let (_home, shared, data, staging) = left();
        let directories = [shared.clone(), data.clone()];
        remove_all(&directories, &OWN);
        assert!(staging.exists(), "its store is there, in whatever state");
        fs::rename(&data, data.with_extension("away")).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("store"), vec![0; 1 << 20]).unwrap();
        remove_all(&directories, &OWN);
        assert!(staging.exists(), "something is there that is no other store");
        fs::remove_dir_all(&data).unwrap();
        remove_all(&directories, &OTHER);
        assert!(staging.exists(), "it is the store's own");
        remove_all(&directories, &OWN);
        assert!(!staging.exists());
    }

    #[test]
    fn the_staging_file_of_a_living_server_stays() {
        let (_home, shared, data, staging) = left();
        let files = StagingFiles::beside(&data.join("store"), &shared);
        let living = files.open(&OTHER, &BOOT, 1, BYTES).unwrap();
        living.stamp_home(&data.join("store"));
        fs::remove_dir_all(&data).unwrap();
        remove_all(&[shared.clone(), data.clone()], &OWN);
        assert!(staging.exists());
        drop(living);
        remove_all(&[shared, data], &OWN);
        assert!(!staging.exists());
    }

    #[test]
    fn a_store_whose_file_system_is_away_is_not_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        fs::write(&path, "").unwrap();
        let Home::Known { device, namespace, .. } = Home::of(&path) else { panic!("it is there") };
        let missing = home.path().join("away/store");
        let known = |device, namespace| {
            Home::Known { path: missing.clone(), device, namespace }.has_lost(&OTHER)
        };
        assert!(known(device, namespace));
        assert!(!known(device + 1, namespace), "its file system is not mounted");
        assert!(!known(device, namespace + 1), "the path is meant elsewhere");
        assert!(!Home::Unknown.has_lost(&OTHER));
        assert_eq!(Home::of(Path::new("/dev/null")), Home::Unknown);
    }

    #[test]
    fn a_place_reads_back_and_a_torn_one_is_unknown() {
        let home =
            Home::Known { path: "/srv/größe/store".into(), device: 5, namespace: u64::MAX };
        let bytes = home.encode();
        assert_eq!(bytes.len(), BLOCK_BYTES - HOME_AT);
        assert_eq!(Home::decode(&bytes), home);
        assert_eq!(Home::decode(&Home::Unknown.encode()), Home::Unknown);
        for at in [0, 4, 7, 8, 16, HEAD_BYTES, HEAD_BYTES + 5] {
            let mut torn = bytes.clone();
            torn[at] ^= 0x80;
            assert_eq!(Home::decode(&torn), Home::Unknown, "byte {at}");
        }
        let longest = Home::Known {
            path: format!("/{}", "d".repeat(PATH_BYTES_MAX - 1)).into(),
            device: 1,
            namespace: 1,
        };
        assert_eq!(Home::decode(&longest.encode()), longest);
    }

    #[test]
    fn only_staging_files_are_looked_at() {
        assert_eq!(store_of(OsStr::new(&name_of(&OTHER))), Some(OTHER));
        for name in
            ["sandstone-.staging", "sandstone-x.staging", "other", "sandstone-1.staging.bak"]
        {
            assert_eq!(store_of(OsStr::new(name)), None, "{name}");
        }
    }
}
