//! The request fields of volumes, snapshots and mounts, from JSON to checked values.
//!
//! Unknown fields are ignored and `null` means absent, as the contract says. A wrong value is told with its field and
//! what is allowed, both in the sentence and in `details`.

use super::{error::ApiError, extract::type_of};
use crate::{
    attachments::Session,
    mounts::Tuning,
    record::{
        AccessMode, DESCRIPTION_CHARS_MAX, MOUNT_POINT_BYTES_MAX, NAME_CHARS_MAX, is_description,
        is_mount_point, is_name, is_snapshot_name, parse_id,
    },
};
use sandstone_config::{
    ByteSize,
    ranges::{self, SizeRange},
};
use serde_json::{Map, Value, json};
use std::fmt;
use uuid::Uuid;

/// What a volume is asked to be; absent fields keep their default or their present value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeFields {
    pub(crate) name: Option<String>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) access_mode: Option<AccessMode>,
    pub(crate) cache_size: Option<GivenSize>,
    pub(crate) buffer_size: Option<GivenSize>,
    pub(crate) prefetch_mib: Option<u32>,
    pub(crate) writeback: Option<bool>,
    /// 0 for no limit.
    pub(crate) iops_max: Option<u64>,
    /// 0 for no limit.
    pub(crate) bytes_per_second_max: Option<u64>,
}

/// A size with the text it was given as, which is what it is echoed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenSize {
    pub(crate) text: String,
    pub(crate) bytes: u64,
}

impl VolumeFields {
    /// Takes the known fields out of a body.
    pub(crate) fn from_body(fields: &Map<String, Value>) -> Result<VolumeFields, ApiError> {
        let fields = Fields(fields);
        Ok(VolumeFields {
            name: fields.name("name")?,
            size_bytes: fields.volume_size("size")?,
            access_mode: fields.access_mode("access_mode")?,
            cache_size: fields.size("cache_size", &ranges::VOLUME_CACHE)?,
            buffer_size: fields.size("buffer_size", &ranges::VOLUME_BUFFER)?,
            prefetch_mib: fields.prefetch("prefetch")?,
            writeback: fields.boolean("writeback")?,
            iops_max: fields.iops("iops_max")?,
            bytes_per_second_max: fields.bytes_per_second("bytes_per_second_max")?,
        })
    }
}

/// The id that a creator may choose itself.
pub(crate) fn id_from_body(fields: &Map<String, Value>) -> Result<Option<Uuid>, ApiError> {
    const ALLOWED: &str = "a UUID such as \"0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de\"";
    let fields = Fields(fields);
    match fields.text("id", &ALLOWED)? {
        None => Ok(None),
        Some(text) => parse_id(text).map(Some).ok_or_else(|| fields.refused("id", &ALLOWED)),
    }
}

/// What a snapshot is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFields {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
}

impl SnapshotFields {
    /// Takes the known fields out of a body.
    pub(crate) fn from_body(fields: &Map<String, Value>) -> Result<SnapshotFields, ApiError> {
        let fields = Fields(fields);
        let allowed = format!("1 to {NAME_CHARS_MAX} printable characters, not all of them blank");
        let name = fields.text("name", &allowed)?.filter(|text| is_snapshot_name(text));
        let name = name.ok_or_else(|| fields.refused("name", &allowed))?.to_owned();
        let allowed =
            format!("at most {DESCRIPTION_CHARS_MAX} printable characters, tabs and line breaks among them");
        let description = match fields.text("description", &allowed)? {
            Some(text) if !is_description(text) => return Err(fields.refused("description", &allowed)),
            text => text.map(str::to_owned),
        };
        Ok(SnapshotFields { name, description })
    }
}

/// What a mount is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountFields {
    pub(crate) volume_id: Uuid,
    pub(crate) mount_point: String,
    pub(crate) tuning: Tuning,
}

impl MountFields {
    /// Takes the known fields out of a body for the sandbox of that id.
    pub(crate) fn from_body(body: &Map<String, Value>, sandbox: &str) -> Result<MountFields, ApiError> {
        let fields = Fields(body);
        let volume = fields.required("sandboxvolume_id", VOLUME_ID_ALLOWED)?;
        let allowed = "that of the path, or absent";
        if fields.text("sandbox_id", &allowed)?.is_some_and(|id| id != sandbox) {
            return Err(fields.refused("sandbox_id", &allowed));
        }
        let allowed = format!(
            "an absolute path of at most {MOUNT_POINT_BYTES_MAX} bytes, not \"/\" and without a \"..\" in it"
        );
        let mount_point = fields.text("mount_point", &allowed)?.filter(|path| is_mount_point(path));
        let mount_point = mount_point.ok_or_else(|| fields.refused("mount_point", &allowed))?.to_owned();
        let tuning = match fields.get("volume_config") {
            None => Tuning::default(),
            Some(Value::Object(config)) => Fields(config).tuning()?,
            Some(_) => return Err(fields.refused("volume_config", &"an object")),
        };
        let volume_id = parse_id(volume).ok_or_else(|| ApiError::no_volume(volume))?;
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
    /// Takes the known fields out of a body.
    pub(crate) fn from_body(body: &Map<String, Value>) -> Result<UnmountFields, ApiError> {
        let fields = Fields(body);
        let volume = fields.required("sandboxvolume_id", VOLUME_ID_ALLOWED)?;
        let session =
            fields.required("mount_session_id", "the mount_session_id that the mount was answered with")?;
        Ok(UnmountFields { volume_id: parse_id(volume), session: Session::parse(session) })
    }
}

const VOLUME_ID_ALLOWED: &str = "the id of a volume";

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn refused(&self, field: &str, allowed: &dyn fmt::Display) -> ApiError {
        // The value is echoed where it is short; a client that sent an object gets its type.
        let shown = match self.get(field) {
            Some(Value::String(text)) => format!("{:?}", text.chars().take(64).collect::<String>()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(value) => type_of(value).to_owned(),
            None => "absent".to_owned(),
        };
        ApiError::bad_request(format!("{field} must be {allowed}, not {shown}"))
            .with_details(json!({ "field": field, "allowed": allowed.to_string() }))
    }

    fn text(&self, field: &str, allowed: &dyn fmt::Display) -> Result<Option<&str>, ApiError> {
        self.get(field).map(|value| value.as_str().ok_or_else(|| self.refused(field, allowed))).transpose()
    }

    fn required(&self, field: &str, allowed: &str) -> Result<&str, ApiError> {
        self.text(field, &allowed)?.ok_or_else(|| self.refused(field, &allowed))
    }

    /// The four knobs, where they are set otherwise than the volume's.
    fn tuning(&self) -> Result<Tuning, ApiError> {
        let bytes = |size: GivenSize| size.bytes;
        Ok(Tuning {
            cache_bytes: self.size("cache_size", &ranges::VOLUME_CACHE)?.map(bytes),
            buffer_bytes: self.size("buffer_size", &ranges::VOLUME_BUFFER)?.map(bytes),
            prefetch_mib: self.prefetch("prefetch")?,
            writeback: self.boolean("writeback")?,
        })
    }

    fn name(&self, field: &str) -> Result<Option<String>, ApiError> {
        let allowed = format!(
            "1 to {NAME_CHARS_MAX} printable characters without \"/\" and without blanks at the ends, and not look like a UUID"
        );
        match self.text(field, &allowed)? {
            Some(text) if !is_name(text) => Err(self.refused(field, &allowed)),
            text => Ok(text.map(str::to_owned)),
        }
    }

    fn size(&self, field: &str, range: &SizeRange) -> Result<Option<GivenSize>, ApiError> {
        let allowed = format!("{range}, written as a string such as \"32M\"");
        let Some(text) = self.text(field, &allowed)? else {
            return Ok(None);
        };
        let bytes = text.parse().map(ByteSize::bytes).ok().filter(|bytes| range.contains(*bytes));
        let bytes = bytes.ok_or_else(|| self.refused(field, &allowed))?;
        Ok(Some(GivenSize { text: text.to_owned(), bytes }))
    }

    /// The one size that is not echoed as given, so a bare number of bytes, as answers show it, is taken too.
    fn volume_size(&self, field: &str) -> Result<Option<u64>, ApiError> {
        match self.get(field).and_then(Value::as_u64) {
            Some(bytes) if ranges::VOLUME.contains(bytes) => Ok(Some(bytes)),
            Some(_) | None => Ok(self.size(field, &ranges::VOLUME)?.map(|size| size.bytes)),
        }
    }

    fn access_mode(&self, field: &str) -> Result<Option<AccessMode>, ApiError> {
        let allowed = "RWO, ROX or RWX";
        let text = self.text(field, &allowed)?;
        text.map(|text| text.parse().map_err(|_| self.refused(field, &allowed))).transpose()
    }

    fn prefetch(&self, field: &str) -> Result<Option<u32>, ApiError> {
        let range = ranges::VOLUME_PREFETCH_MIB;
        let allowed = format!("a whole number of MiB from {} to {}", range.start(), range.end());
        let number = |value: &Value| value.as_u64().and_then(|mib| u32::try_from(mib).ok());
        let checked = |value| {
            number(value).filter(|mib| range.contains(mib)).ok_or_else(|| self.refused(field, &allowed))
        };
        self.get(field).map(checked).transpose()
    }

    fn iops(&self, field: &str) -> Result<Option<u64>, ApiError> {
        let range = ranges::VOLUME_IOPS;
        let allowed = format!("a whole number from {} to {}, or 0 for no limit", range.start(), range.end());
        let checked = |value: &Value| {
            let limit = value.as_u64().filter(|limit| *limit == 0 || range.contains(limit));
            limit.ok_or_else(|| self.refused(field, &allowed))
        };
        self.get(field).map(checked).transpose()
    }

    /// A size, or a bare number of bytes as answers show it.
    fn bytes_per_second(&self, field: &str) -> Result<Option<u64>, ApiError> {
        let range = ranges::VOLUME_BYTES_PER_SECOND;
        let allowed = format!("{range}, such as \"100M\", or 0 for no limit");
        let checked = |value: &Value| {
            let written = value.as_str().and_then(|text| text.parse().ok()).map(ByteSize::bytes);
            let bytes = value.as_u64().or(written).filter(|bytes| *bytes == 0 || range.contains(*bytes));
            bytes.ok_or_else(|| self.refused(field, &allowed))
        };
        self.get(field).map(checked).transpose()
    }

    fn boolean(&self, field: &str) -> Result<Option<bool>, ApiError> {
        self.get(field)
            .map(|value| value.as_bool().ok_or_else(|| self.refused(field, &"true or false")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(fields) => fields,
            other => panic!("{other}"),
        }
    }

    /// The error must name the field and hold the words of the range.
    fn check_refused(value: Value, field: &str, words: &str) {
        let fields = object(value);
        let error =
            VolumeFields::from_body(&fields).map(|_| ()).and(id_from_body(&fields).map(|_| ())).unwrap_err();
        let shown = format!("{error:?}");
        assert!(shown.contains(&format!("{field} must be ")) && shown.contains(words), "{shown}");
    }

    #[test]
    fn absent_null_and_unknown_fields_change_nothing() {
        let fields = object(json!({
            "name": null, "size": null, "access_mode": null, "cache_size": null, "buffer_size": null,
            "prefetch": null, "writeback": null, "id": null, "default_posix_uid": 1000,
            "iops_max": null, "bytes_per_second_max": null,
        }));
        assert_eq!(VolumeFields::from_body(&fields).unwrap(), VolumeFields::default());
        assert_eq!(id_from_body(&fields).unwrap(), None);
    }

    #[test]
    fn sizes_keep_the_text_they_were_given_as() {
        let fields = object(
            json!({"cache_size": "2gIb", "buffer_size": "1048576", "size": "10G", "access_mode": "rox"}),
        );
        let fields = VolumeFields::from_body(&fields).unwrap();
        assert_eq!(fields.cache_size, Some(GivenSize { text: "2gIb".into(), bytes: 2 << 30 }));
        assert_eq!(fields.buffer_size, Some(GivenSize { text: "1048576".into(), bytes: 1 << 20 }));
        assert_eq!(fields.size_bytes, Some(10 << 30));
        assert_eq!(fields.access_mode, Some(AccessMode::Rox));

        let in_bytes = VolumeFields::from_body(&object(json!({"size": 10_u64 << 30}))).unwrap();
        assert_eq!(in_bytes.size_bytes, Some(10 << 30));
    }

    #[test]
    fn limits_are_numbers_and_0_is_none() {
        let limits = |value| {
            let fields = VolumeFields::from_body(&object(value)).unwrap();
            (fields.iops_max, fields.bytes_per_second_max)
        };
        assert_eq!(limits(json!({"iops_max": 10, "bytes_per_second_max": "1M"})), (Some(10), Some(1 << 20)));
        assert_eq!(limits(json!({"bytes_per_second_max": 5 << 20})), (None, Some(5 << 20)));
        assert_eq!(limits(json!({"iops_max": 0, "bytes_per_second_max": "0"})), (Some(0), Some(0)));
    }

    #[test]
    fn a_snapshot_needs_a_name_and_no_more() {
        let fields = |value| SnapshotFields::from_body(&object(value));
        let named = SnapshotFields { name: "a".into(), description: None };
        assert_eq!(fields(json!({"name": "a", "description": null, "x": 1})).unwrap(), named);
        let described = fields(json!({"name": "a", "description": "b\nc"})).unwrap();
        assert_eq!(described.description.as_deref(), Some("b\nc"));
        for (value, field, words) in [
            (json!({}), "name", "not absent"),
            (json!({"name": null}), "name", "1 to 128"),
            (json!({"name": " "}), "name", "blank"),
            (json!({"name": 1}), "name", "not 1"),
            (json!({"name": "a", "description": "\u{0}"}), "description", "at most 320"),
            (json!({"name": "a", "description": {}}), "description", "an object"),
        ] {
            let shown = format!("{:?}", fields(value).unwrap_err());
            assert!(shown.contains(&format!("{field} must be ")) && shown.contains(words), "{shown}");
        }
    }

    #[test]
    fn wrong_values_name_the_field_and_the_range() {
        check_refused(json!({"size": "0"}), "size", "a size from 1 to 16T");
        check_refused(json!({"size": "17T"}), "size", "16T");
        check_refused(json!({"size": true}), "size", "a size from 1 to 16T");
        check_refused(json!({"cache_size": 1048576}), "cache_size", "written as a string");
        check_refused(json!({"cache_size": "2T"}), "cache_size", "from 0 to 1T");
        check_refused(json!({"cache_size": "many"}), "cache_size", "from 0 to 1T");
        check_refused(json!({"buffer_size": "0"}), "buffer_size", "from 1M to 1G");
        check_refused(json!({"prefetch": -1}), "prefetch", "from 0 to 1024");
        check_refused(json!({"prefetch": 1025}), "prefetch", "from 0 to 1024");
        check_refused(json!({"prefetch": 1.5}), "prefetch", "whole number");
        check_refused(json!({"prefetch": "1"}), "prefetch", "whole number");
        check_refused(json!({"writeback": "yes"}), "writeback", "true or false");
        check_refused(json!({"access_mode": "RW"}), "access_mode", "RWO, ROX or RWX");
        check_refused(json!({"access_mode": ["RWO"]}), "access_mode", "an array");
        check_refused(json!({"iops_max": 9}), "iops_max", "from 10 to 10000000, or 0");
        check_refused(json!({"iops_max": "100"}), "iops_max", "a whole number");
        check_refused(json!({"iops_max": -1}), "iops_max", "a whole number");
        check_refused(
            json!({"bytes_per_second_max": "1K"}),
            "bytes_per_second_max",
            "from 1M to 1T, such as",
        );
        check_refused(json!({"bytes_per_second_max": 1.5}), "bytes_per_second_max", "or 0 for no limit");
        check_refused(json!({"bytes_per_second_max": "fast"}), "bytes_per_second_max", "from 1M to 1T");
        check_refused(json!({"name": ""}), "name", "1 to 128");
        check_refused(json!({"name": "a/b"}), "name", "without");
        check_refused(json!({"id": "7"}), "id", "a UUID");
        check_refused(json!({"id": {}}), "id", "an object");
    }
}
