//! What a volume or a fork is asked to be, checked.

use crate::{
    admin::base::{ApiError, GivenTuning, bytes_of, optional, size_allowed},
    api::{self, AccessMode, Field, NewVolume, Size},
    record::{NAME_CHARS_MAX, is_name, parse_id},
};
use sandstone_config::ranges;
use uuid::Uuid;

/// What a volume is asked to be; absent fields keep their default or their present value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeFields {
    pub(crate) name: Option<String>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) access_mode: Option<AccessMode>,
    pub(crate) tuning: GivenTuning,
    /// 0 for no limit.
    pub(crate) iops_max: Option<u64>,
    /// 0 for no limit.
    pub(crate) bytes_per_second_max: Option<u64>,
}

impl VolumeFields {
    /// # Errors
    /// The first field with a wrong value.
    pub(crate) fn check(given: api::VolumeFields) -> Result<VolumeFields, ApiError> {
        Ok(VolumeFields {
            name: name(given.name)?,
            // The one size that is not echoed as given, so a number, as answers show it, is taken
            // too.
            size_bytes: optional("size", given.size, size_allowed(&ranges::VOLUME), |size| {
                bytes(size).filter(|bytes| ranges::VOLUME.contains(*bytes))
            })?,
            access_mode: optional("access_mode", given.access_mode, "RWO, ROX or RWX", |text| {
                text.parse().ok()
            })?,
            tuning: GivenTuning::check(given.tuning)?,
            iops_max: iops(given.iops_max)?,
            bytes_per_second_max: bytes_per_second(given.bytes_per_second_max)?,
        })
    }
}

/// The id that the caller may have chosen, and the rest.
///
/// # Errors
/// The first field with a wrong value.
pub(crate) fn check_new(given: NewVolume) -> Result<(Option<Uuid>, VolumeFields), ApiError> {
    const ALLOWED: &str = "a UUID such as \"0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de\"";
    let id = optional("id", given.id, ALLOWED, |text| parse_id(text))?;
    Ok((id, VolumeFields::check(given.fields)?))
}

fn bytes(size: &Size) -> Option<u64> {
    match size {
        Size::Text(text) => bytes_of(text),
        Size::Bytes(bytes) => Some(*bytes),
    }
}

fn name(given: Option<Field<String>>) -> Result<Option<String>, ApiError> {
    let allowed = format!(
        "1 to {NAME_CHARS_MAX} printable characters without \"/\" and without blanks at the ends, and \
         not look like a UUID"
    );
    optional("name", given, allowed, |text| is_name(text).then(|| text.clone()))
}

fn iops(given: Option<Field<u64>>) -> Result<Option<u64>, ApiError> {
    let range = ranges::VOLUME_IOPS;
    let allowed =
        format!("a whole number from {} to {}, or 0 for no limit", range.start(), range.end());
    optional("iops_max", given, allowed, |limit| {
        Some(*limit).filter(|limit| *limit == 0 || range.contains(limit))
    })
}

fn bytes_per_second(given: Option<Field<Size>>) -> Result<Option<u64>, ApiError> {
    let range = ranges::VOLUME_BYTES_PER_SECOND;
    let allowed = format!("{range}, such as \"100M\", or 0 for no limit");
    optional("bytes_per_second_max", given, allowed, |size| {
        bytes(size).filter(|bytes| *bytes == 0 || range.contains(*bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::base::GivenSize;
    use serde_json::{Value, json};

    fn check(value: Value) -> Result<(Option<Uuid>, VolumeFields), ApiError> {
        check_new(serde_json::from_value(value).unwrap())
    }

    /// The error must name the field and hold the words of the range.
    fn check_refused(value: Value, field: &str, words: &str) {
        let shown = format!("{:?}", check(value).unwrap_err());
        assert!(shown.contains(&format!("{field} must be ")) && shown.contains(words), "{shown}");
    }

    #[test]
    fn absent_null_and_unknown_fields_change_nothing() {
        let (id, fields) = check(json!({
            "name": null, "size": null, "access_mode": null, "cache_size": null, "buffer_size": null,
            "prefetch": null, "writeback": null, "id": null, "default_posix_uid": 1000,
            "iops_max": null, "bytes_per_second_max": null,
        }))
        .unwrap();
        assert_eq!(fields, VolumeFields::default());
        assert_eq!(id, None);
    }

    #[test]
    fn sizes_keep_the_text_they_were_given_as() {
        let (_, fields) = check(
            json!({"cache_size": "2gIb", "buffer_size": "1048576", "size": "10G", "access_mode": "rox"}),
        )
        .unwrap();
        assert_eq!(
            fields.tuning.cache_size,
            Some(GivenSize { text: "2gIb".into(), bytes: 2 << 30 })
        );
        assert_eq!(
            fields.tuning.buffer_size,
            Some(GivenSize { text: "1048576".into(), bytes: 1 << 20 })
        );
        assert_eq!(fields.size_bytes, Some(10 << 30));
        assert_eq!(fields.access_mode, Some(AccessMode::Rox));

        let (_, in_bytes) = check(json!({"size": 10_u64 << 30})).unwrap();
        assert_eq!(in_bytes.size_bytes, Some(10 << 30));
    }

    #[test]
    fn limits_are_numbers_and_0_is_none() {
        let limits = |value| {
            let (_, fields) = check(value).unwrap();
            (fields.iops_max, fields.bytes_per_second_max)
        };
        assert_eq!(
            limits(json!({"iops_max": 10, "bytes_per_second_max": "1M"})),
            (Some(10), Some(1 << 20))
        );
        assert_eq!(limits(json!({"bytes_per_second_max": 5 << 20})), (None, Some(5 << 20)));
        assert_eq!(limits(json!({"iops_max": 0, "bytes_per_second_max": "0"})), (Some(0), Some(0)));
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
        check_refused(
            json!({"bytes_per_second_max": 1.5}),
            "bytes_per_second_max",
            "or 0 for no limit",
        );
        check_refused(
            json!({"bytes_per_second_max": "fast"}),
            "bytes_per_second_max",
            "from 1M to 1T",
        );
        check_refused(json!({"name": ""}), "name", "1 to 128");
        check_refused(json!({"name": "a/b"}), "name", "without");
        check_refused(json!({"id": "7"}), "id", "a UUID");
        check_refused(json!({"id": {}}), "id", "an object");
        check_refused(json!({"size": []}), "size", "an array");
    }
}
