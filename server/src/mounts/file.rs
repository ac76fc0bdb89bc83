//! Where mounts are kept over a restart: one small JSON file in the data directory, replaced as a
//! whole.
//!
//! The store's own records would be the better place, were they not bounded: a volume has room for
//! two KiB of attributes, and an RWX volume may have any number of mounts.

use crate::attachments::Session;
use jiff::Timestamp;
use sandstone_config::trust::{self, Distrust};
use sandstone_storage::SettingsOverride;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;
use uuid::Uuid;

/// Most bytes of the file: several hundred thousand mounts. A guess.
const BYTES_MAX: u64 = 256 << 20;
/// Of this file's form.
const VERSION: u32 = 1;

/// One mount, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    pub(crate) session: Session,
    pub(crate) sandbox_id: String,
    pub(crate) volume_id: Uuid,
    /// Where the sandbox mounts the file system, as it says.
    pub(crate) mount_point: String,
    pub(crate) mounted_at: Timestamp,
    /// What it may do is decided when it is made, and stays so when the volume's mode changes.
    pub(crate) read_only: bool,
    /// A host crash took writes that were acknowledged to it.
    pub(crate) stale: bool,
    #[serde(default)]
    pub(crate) tuning: Tuning,
}

/// The tuning that a mount sets otherwise than its volume does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tuning {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cache_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) buffer_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefetch_mib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) writeback: Option<bool>,
}

impl From<Tuning> for SettingsOverride {
    fn from(tuning: Tuning) -> SettingsOverride {
        let Tuning { cache_bytes, buffer_bytes, prefetch_mib, writeback } = tuning;
        SettingsOverride { cache_bytes, buffer_bytes, prefetch_mib, writeback }
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    version: u32,
    /// The start of the store that vouches for these mounts: up to it, nothing acknowledged to
    /// mounts that are not stale was lost.
    pub(super) epoch: u32,
    pub(super) mounts: Vec<MountRecord>,
    /// The peers that are refused under a plain name, because a restore has disconnected them.
    #[serde(rename = "kept_out", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) fenced: Vec<FencedRecord>,
}

/// A peer that a restore of a volume has disconnected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FencedRecord {
    pub(super) volume_id: Uuid,
    /// As connections under plain names are told apart.
    pub(super) peer: String,
    pub(super) restored_at: Timestamp,
}

impl Content {
    pub(super) fn new(epoch: u32, mounts: Vec<MountRecord>, fenced: Vec<FencedRecord>) -> Content {
        Content { version: VERSION, epoch, mounts, fenced }
    }
}

/// Why the mounts of earlier starts cannot be taken up.
#[derive(Debug, Error)]
pub(crate) enum MountsError {
    #[error(
        "the mounts in {0} cannot be read ({1}): start the version that wrote them, or delete the \
         file, and every sandbox has to mount anew"
    )]
    Unreadable(PathBuf, #[source] io::Error),
    /// Others may have put it there.
    #[error(
        "the mounts in {0} are not relied on, because that {1}: move it away, and every sandbox \
         has to mount anew"
    )]
    Untrusted(PathBuf, #[source] Distrust),
    #[error("the mounts cannot be kept in {0} ({1})")]
    Unwritable(PathBuf, #[source] io::Error),
}

/// Reads the file; `None` when there is none.
///
/// # Errors
/// When it is not what this version writes. Going on would lose it at the next change.
pub(super) fn read(path: &Path) -> Result<Option<Content>, MountsError> {
    let failed = |error| MountsError::Unreadable(path.to_path_buf(), error);
    let bytes = match trust::read_own(path, BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(Distrust::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(Distrust::Io(error)) => return Err(failed(error)),
        Err(why) => return Err(MountsError::Untrusted(path.to_path_buf(), why)),
    };
    let content: Content = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
    if content.version != VERSION {
        return Err(failed(io::Error::other(format!(
            "version {} is not {VERSION}",
            content.version
        ))));
    }
    Ok(Some(content))
}

/// Replaces the file, durably: a crash leaves the old one or the new one.
///
/// # Errors
/// Either may be there.
pub(super) fn write(path: &Path, content: &Content) -> io::Result<()> {
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // tempfile makes files of mode 0600: there are secrets in it.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(content).map_err(io::Error::other)?)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn record() -> MountRecord {
        MountRecord {
            session: Session::generate(),
            sandbox_id: "agent-1".into(),
            volume_id: Uuid::max(),
            mount_point: "/work".into(),
            mounted_at: Timestamp::UNIX_EPOCH,
            read_only: false,
            stale: true,
            tuning: Tuning { writeback: Some(true), ..Tuning::default() },
        }
    }

    #[test]
    fn what_is_written_reads_back_and_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mounts.json");
        assert_eq!(read(&path).unwrap(), None);
        let fenced = FencedRecord {
            volume_id: Uuid::max(),
            peer: "process 7".into(),
            restored_at: Timestamp::UNIX_EPOCH,
        };
        let full = Content::new(7, vec![record(), record()], vec![fenced]);
        for content in [full, Content::new(8, Vec::new(), Vec::new())] {
            write(&path, &content).unwrap();
            assert_eq!(read(&path).unwrap(), Some(content));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn mounts_written_by_this_version_stay_readable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mounts.json");
        let stored = br#"{"version":1,"epoch":3,"mounts":[{"session":"0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de",
            "sandbox_id":"agent-1","volume_id":"9f1c2d3e-4b3c-4a4f-8a6c-1f9bb4f0b2de","mount_point":"/work",
            "mounted_at":"2026-01-02T03:04:05.000006Z","read_only":false,"stale":false,
            "tuning":{"cache_bytes":1,"buffer_bytes":2,"prefetch_mib":3,"writeback":true}}]}"#;
        fs::write(&path, stored).unwrap();
        let content = read(&path).unwrap().unwrap();
        assert_eq!((content.epoch, content.mounts.len()), (3, 1));
        let mount = &content.mounts[0];
        assert_eq!((mount.sandbox_id.as_str(), mount.mount_point.as_str()), ("agent-1", "/work"));
        let tuning = Tuning {
            cache_bytes: Some(1),
            buffer_bytes: Some(2),
            prefetch_mib: Some(3),
            writeback: Some(true),
        };
        assert_eq!(mount.tuning, tuning);
    }

    #[test]
    fn a_pipe_in_its_place_is_told_and_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mounts.json");
        let (cwd, mode) = (rustix::fs::CWD, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(cwd, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("a pipe") && error.contains("mounts.json"), "{error}");
    }

    #[test]
    fn what_another_version_wrote_is_not_taken_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mounts.json");
        for text in
            ["", "{}", r#"{"version":2,"epoch":1,"mounts":[]}"#, r#"{"version":1,"epoch":1,"mou"#]
        {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("mounts.json") && error.contains("delete the file"), "{error}");
        }
    }
}
