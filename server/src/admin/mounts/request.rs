//! What a mount is asked to be, and which mount is to end, checked.

use crate::{
    admin::base::{ApiError, GivenTuning, optional, required},
    api::{NewMount, Unmount},
    attachments::Session,
    mounts::Tuning,
    record::{MOUNT_POINT_BYTES_MAX, is_mount_point, parse_id},
};
use uuid::Uuid;

/// What a mount is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountFields {
    pub(crate) volume_id: Uuid,
    pub(crate) mount_point: String,
    pub(crate) tuning: Tuning,
}

impl MountFields {
    /// For the sandbox of that id.
    ///
    /// # Errors
    /// The first field with a wrong value; a volume id that can be none.
    pub(crate) fn check(given: NewMount, sandbox: &str) -> Result<MountFields, ApiError> {
        let text = |text: &String| Some(text.clone());
        let volume = required("sandboxvolume_id", given.sandboxvolume_id, VOLUME_ID_ALLOWED, text)?;
        let allowed = "that of the path, or absent";
        optional("sandbox_id", given.sandbox_id, allowed, |id| (id == sandbox).then_some(()))?;
        let allowed = format!(
            "an absolute path of at most {MOUNT_POINT_BYTES_MAX} bytes, not \"/\" and without a \"..\" \
             in it"
        );
        let mount_point = required("mount_point", given.mount_point, allowed, |path| {
            is_mount_point(path).then(|| path.clone())
        })?;
        let config = optional("volume_config", given.volume_config, "an object", |config| {
            Some(config.clone())
        })?;
        let tuning = GivenTuning::check(config.unwrap_or_default())?.into();
        let volume_id = parse_id(&volume).ok_or_else(|| ApiError::no_volume(&volume))?;
        Ok(MountFields { volume_id, mount_point, tuning })
    }
}

/// Which mount is to end; what cannot be an id is that of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnmountFields {
    pub(crate) volume_id: Option<Uuid>,
    pub(crate) session: Option<Session>,
}

impl UnmountFields {
    /// # Errors
    /// The first field with a wrong value.
    pub(crate) fn check(given: Unmount) -> Result<UnmountFields, ApiError> {
        let allowed = "the mount_session_id that the mount was answered with";
        Ok(UnmountFields {
            volume_id: required(
                "sandboxvolume_id",
                given.sandboxvolume_id,
                VOLUME_ID_ALLOWED,
                |text| Some(parse_id(text)),
            )?,
            session: required("mount_session_id", given.mount_session_id, allowed, |text| {
                Some(Session::parse(text))
            })?,
        })
    }
}

const VOLUME_ID_ALLOWED: &str = "the id of a volume";
