//! What the server keeps with a volume or snapshot, beside its blocks: its attributes in the store,
//! as JSON.
//!
//! The store treats them as opaque bytes and makes them durable together with the volume, so there
//! is no second database that could disagree. Sizes that the engine acts on live in the engine's
//! own settings; the texts here are what the caller wrote ("1G" stays "1G").

use crate::{api::AccessMode, traffic::Rates};
use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The one team while there is one token.
const TEAM_ID: &str = "default";
/// The one user while there is one token.
const USER_ID: &str = "admin";

/// Most characters of a volume's or snapshot's name. A guess: names are for people.
pub(crate) const NAME_CHARS_MAX: usize = 128;
/// Most characters of a snapshot's description: what fits into the attributes when every one of
/// them takes four bytes.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 320;

/// Most bytes of a mount point. Source: Linux' `PATH_MAX`, 4096 with its final zero.
pub(crate) const MOUNT_POINT_BYTES_MAX: usize = 4095;

/// Attributes of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    /// For people, and the volume's export name. No two volumes have the same, but for those of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) team_id: String,
    pub(crate) user_id: String,
    /// As the caller wrote it.
    pub(crate) cache_size: String,
    /// As the caller wrote it.
    pub(crate) buffer_size: String,
    pub(crate) access_mode: AccessMode,
    pub(crate) created_at: Timestamp,
    /// Last change of the volume's settings; writes to its blocks do not count.
    pub(crate) updated_at: Timestamp,
    /// The volume this one was forked from, whether it still exists or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_volume_id: Option<Uuid>,
    /// The snapshot of that volume, where it was one that this one was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_snapshot_id: Option<Uuid>,
    /// Operations a second that its clients may have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iops_max: Option<u64>,
    /// Bytes read and written a second that they may have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_second_max: Option<u64>,
}

impl VolumeRecord {
    /// The record of a volume that is made now, of no source and without limits.
    pub(crate) fn new(
        name: Option<String>,
        access_mode: Option<AccessMode>,
        [cache_size, buffer_size]: [String; 2],
    ) -> VolumeRecord {
        let created_at = now();
        VolumeRecord {
            name,
            team_id: TEAM_ID.to_owned(),
            user_id: USER_ID.to_owned(),
            cache_size,
            buffer_size,
            access_mode: access_mode.unwrap_or(AccessMode::Rwo),
            created_at,
            updated_at: created_at,
            source_volume_id: None,
            source_snapshot_id: None,
            iops_max: None,
            bytes_per_second_max: None,
        }
    }

    /// Its limits.
    pub(crate) fn rates(&self) -> Rates {
        Rates { iops_max: self.iops_max, bytes_per_second_max: self.bytes_per_second_max }
    }

    pub(crate) fn from_attributes(bytes: &[u8]) -> Result<VolumeRecord, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(crate) fn to_attributes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// Attributes of one snapshot. Which volume it is of, and its size, the store knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    /// For people. It finds nothing, and several snapshots may share one.
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// Finer than it is shown, so that lists are in order.
    pub(crate) created_at: Timestamp,
}

impl SnapshotRecord {
    pub(crate) fn from_attributes(bytes: &[u8]) -> Result<SnapshotRecord, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(crate) fn to_attributes(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn to_json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("a struct of texts, enums and times always has a JSON form")
}

/// The time now, to the microsecond: the finest that clients' date types hold.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Microsecond).unwrap_or(now)
}

/// Reads a volume's id: a UUID of any version, in its hyphenated form. The other spellings of UUIDs
/// are no ids, so that an id and a name never look alike; nor is the nil UUID, which clients send
/// when they forgot to fill a field.
pub(crate) fn parse_id(text: &str) -> Option<Uuid> {
    const HYPHENATED_LEN: usize = 36;
    Uuid::try_parse(text).ok().filter(|id| text.len() == HYPHENATED_LEN && !id.is_nil())
}

/// Whether that may be a volume's name: printable, without `/` (which parts a session from the
/// volume in an export name), and not to be mistaken for an id in any spelling.
pub(crate) fn is_name(text: &str) -> bool {
    let chars = text.chars().count();
    (1..=NAME_CHARS_MAX).contains(&chars)
        && !text.chars().any(|c| c.is_control() || c == '/')
        && text.trim() == text
        && Uuid::try_parse(text).is_err()
}

/// Whether that may be a snapshot's name: printable and not blank. It finds nothing, so it may look
/// like anything.
pub(crate) fn is_snapshot_name(text: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&text.chars().count())
        && !text.chars().any(char::is_control)
        && !text.trim().is_empty()
}

/// Whether that may be the id of a sandbox, which is its owner's to choose.
pub(crate) fn is_sandbox_id(text: &str) -> bool {
    is_snapshot_name(text)
}

/// Whether that may be a place where a sandbox mounts a file system: absolute, not the root, and
/// without a way out of it.
pub(crate) fn is_mount_point(text: &str) -> bool {
    let mut components = text.split('/').filter(|component| !component.is_empty());
    text.starts_with('/')
        && text.len() <= MOUNT_POINT_BYTES_MAX
        && !text.chars().any(char::is_control)
        && components.clone().next().is_some()
        && components.all(|component| component != "..")
}

/// Whether that may be a snapshot's description: printable, in lines.
pub(crate) fn is_description(text: &str) -> bool {
    text.chars().count() <= DESCRIPTION_CHARS_MAX
        && !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandstone_storage::ATTRIBUTES_BYTES_MAX;

    fn widest() -> VolumeRecord {
        VolumeRecord {
            name: Some("\u{10FFFF}".repeat(NAME_CHARS_MAX)),
            team_id: TEAM_ID.into(),
            user_id: USER_ID.into(),
            cache_size: "0".repeat(20) + "GiB",
            buffer_size: "0".repeat(20) + "GiB",
            access_mode: AccessMode::Rox,
            created_at: Timestamp::MAX,
            updated_at: Timestamp::MAX,
            source_volume_id: Some(Uuid::max()),
            source_snapshot_id: Some(Uuid::max()),
            iops_max: Some(u64::MAX),
            bytes_per_second_max: Some(u64::MAX),
        }
    }

    #[test]
    fn a_record_survives_its_attributes_and_fits_into_them() {
        let bytes = widest().to_attributes();
        assert!(bytes.len() <= ATTRIBUTES_BYTES_MAX, "{}", bytes.len());
        assert_eq!(VolumeRecord::from_attributes(&bytes).unwrap(), widest());
    }

    #[test]
    fn a_snapshots_record_survives_its_attributes_and_fits_into_them() {
        // Four bytes as they are, and two bytes escaped.
        for widest in ["\u{10FFFF}", "\"", "\\"] {
            let record = SnapshotRecord {
                name: widest.repeat(NAME_CHARS_MAX),
                description: Some(widest.repeat(DESCRIPTION_CHARS_MAX)),
                created_at: Timestamp::MAX,
            };
            assert!(
                is_snapshot_name(&record.name)
                    && is_description(record.description.as_ref().unwrap())
            );
            let bytes = record.to_attributes();
            assert!(bytes.len() <= ATTRIBUTES_BYTES_MAX, "{}", bytes.len());
            assert_eq!(SnapshotRecord::from_attributes(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn snapshots_names_are_not_blank_and_descriptions_have_lines() {
        for name in ["a", " a/b ", "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de", &"n".repeat(128)] {
            assert!(is_snapshot_name(name), "{name:?}");
        }
        for name in ["", " ", "\u{3000}", "a\nb", &"n".repeat(129)] {
            assert!(!is_snapshot_name(name), "{name:?}");
        }
        for (text, allowed) in
            [("", true), ("one\n\ttwo", true), ("bell\u{7}", false), (&"d".repeat(321), false)]
        {
            assert_eq!(is_description(text), allowed, "{text:?}");
        }
    }

    #[test]
    fn mount_points_are_absolute_and_lead_nowhere_else() {
        for path in
            ["/a", "/a/b", "/a/./b/", "//a", "/..a", "/größe", &format!("/{}", "p".repeat(4094))]
        {
            assert!(is_mount_point(path), "{path}");
        }
        for path in
            ["", "a", "a/b", "/", "//", "/..", "/a/../b", "/a\n", &format!("/{}", "p".repeat(4095))]
        {
            assert!(!is_mount_point(path), "{path}");
        }
    }

    #[test]
    fn attributes_written_by_this_version_stay_readable() {
        let stored = br#"{"team_id":"default","user_id":"admin","cache_size":"1G","buffer_size":"32M",
            "access_mode":"RWO","created_at":"2026-01-02T03:04:05.000006Z","updated_at":"2026-01-02T03:04:05Z"}"#;
        let record = VolumeRecord::from_attributes(stored).unwrap();
        assert_eq!(record.rates(), Rates::default());
        assert_eq!(
            (record.name, record.source_volume_id, record.source_snapshot_id),
            (None, None, None)
        );
        assert_eq!(record.access_mode, AccessMode::Rwo);
        let stored = br#"{"name":"before","created_at":"2026-01-02T03:04:05.000006Z"}"#;
        let record = SnapshotRecord::from_attributes(stored).unwrap();
        assert_eq!((record.name.as_str(), record.description), ("before", None));
    }

    #[test]
    fn access_modes_are_read_in_any_case() {
        assert_eq!("rwX".parse(), Ok(AccessMode::Rwx));
        assert_eq!(AccessMode::Rox.to_string(), "ROX");
        assert!("RW".parse::<AccessMode>().is_err());
    }

    #[test]
    fn names_and_ids_cannot_be_mistaken_for_each_other() {
        let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
        assert!(parse_id(id).is_some());
        assert!(!is_name(id));
        assert!(!is_name(&id.replace('-', "")));
        assert!(parse_id(&id.replace('-', "")).is_none());
        assert!(parse_id("00000000-0000-0000-0000-000000000000").is_none());
    }

    #[test]
    fn names_are_printable_and_bounded() {
        for name in ["a", "my disk", "größe", &"n".repeat(128)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", " a", "a ", "a/b", "a\nb", "\u{7f}", &"n".repeat(129)] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
