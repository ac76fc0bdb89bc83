//! What the server keeps with a volume, beside its blocks: the volume's attributes in the store, as JSON.
//!
//! The store treats them as opaque bytes and makes them durable together with the volume, so there is no second database
//! that could disagree. Sizes that the engine acts on live in the engine's own settings; the texts here are what the
//! caller wrote ("1G" stays "1G").

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// The one team while there is one token.
pub(crate) const TEAM_ID: &str = "default";
/// The one user while there is one token.
pub(crate) const USER_ID: &str = "admin";

/// Most characters of a volume's name. A guess: names are for people.
pub(crate) const NAME_CHARS_MAX: usize = 128;

/// Attributes of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    /// For people. Several volumes may share one; it finds a volume only while it is unique.
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
}

impl VolumeRecord {
    pub(crate) fn from_attributes(bytes: &[u8]) -> Result<VolumeRecord, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(crate) fn to_attributes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of texts, enums and times always has a JSON form")
    }
}

/// Who may attach, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum AccessMode {
    /// One attachment at a time may write.
    Rwo,
    /// Read-only for everyone.
    Rox,
    /// Any number may write.
    Rwx,
}

impl AccessMode {
    pub(crate) const ALL: [AccessMode; 3] = [AccessMode::Rwo, AccessMode::Rox, AccessMode::Rwx];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AccessMode::Rwo => "RWO",
            AccessMode::Rox => "ROX",
            AccessMode::Rwx => "RWX",
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not one of the access modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownAccessMode;

impl fmt::Display for UnknownAccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be RWO, ROX or RWX")
    }
}

impl std::error::Error for UnknownAccessMode {}

/// In any case.
impl FromStr for AccessMode {
    type Err = UnknownAccessMode;

    fn from_str(text: &str) -> Result<AccessMode, UnknownAccessMode> {
        AccessMode::ALL
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or(UnknownAccessMode)
    }
}

/// The time now, to the microsecond: the finest that clients' date types hold.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Microsecond).unwrap_or(now)
}

/// Reads a volume's id: a UUID of any version, in its hyphenated form. The other spellings of UUIDs are no ids, so that
/// an id and a name never look alike; nor is the nil UUID, which clients send when they forgot to fill a field.
pub(crate) fn parse_id(text: &str) -> Option<Uuid> {
    const HYPHENATED_LEN: usize = 36;
    Uuid::try_parse(text).ok().filter(|id| text.len() == HYPHENATED_LEN && !id.is_nil())
}

/// Whether that may be a volume's name: printable, without `/` (which parts a session from the volume in an export
/// name), and not to be mistaken for an id in any spelling.
pub(crate) fn is_name(text: &str) -> bool {
    let chars = text.chars().count();
    (1..=NAME_CHARS_MAX).contains(&chars)
        && !text.chars().any(|c| c.is_control() || c == '/')
        && text.trim() == text
        && Uuid::try_parse(text).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }

    #[test]
    fn a_record_survives_its_attributes_and_fits_into_them() {
        const ATTRIBUTES_BYTES_MAX: usize = 2048;
        let bytes = widest().to_attributes();
        assert!(bytes.len() <= ATTRIBUTES_BYTES_MAX, "{}", bytes.len());
        assert_eq!(VolumeRecord::from_attributes(&bytes).unwrap(), widest());
    }

    #[test]
    fn attributes_written_by_this_version_stay_readable() {
        let stored = br#"{"team_id":"default","user_id":"admin","cache_size":"1G","buffer_size":"32M",
            "access_mode":"RWO","created_at":"2026-01-02T03:04:05.000006Z","updated_at":"2026-01-02T03:04:05Z"}"#;
        let record = VolumeRecord::from_attributes(stored).unwrap();
        assert_eq!((record.name, record.source_volume_id), (None, None));
        assert_eq!(record.access_mode, AccessMode::Rwo);
    }

    #[test]
    fn access_modes_are_read_in_any_case() {
        assert_eq!("rwX".parse(), Ok(AccessMode::Rwx));
        assert_eq!(AccessMode::Rox.to_string(), "ROX");
        assert_eq!("RW".parse::<AccessMode>(), Err(UnknownAccessMode));
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
