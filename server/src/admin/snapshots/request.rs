//! What a snapshot is asked to be, checked.

use crate::{
    admin::base::{ApiError, optional, required},
    api::NewSnapshot,
    record::{DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX, is_description, is_snapshot_name},
};

/// What a snapshot is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFields {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
}

impl SnapshotFields {
    /// # Errors
    /// The first field with a wrong value.
    pub(crate) fn check(given: NewSnapshot) -> Result<SnapshotFields, ApiError> {
        let allowed = format!("1 to {NAME_CHARS_MAX} printable characters, not all of them blank");
        let name = required("name", given.name, allowed, |text| {
            is_snapshot_name(text).then(|| text.clone())
        })?;
        let allowed = format!(
            "at most {DESCRIPTION_CHARS_MAX} printable characters, tabs and line breaks among them"
        );
        let description = optional("description", given.description, allowed, |text| {
            is_description(text).then(|| text.clone())
        })?;
        Ok(SnapshotFields { name, description })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_snapshot_needs_a_name_and_no_more() {
        let fields = |value| SnapshotFields::check(serde_json::from_value(value).unwrap());
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
            assert!(
                shown.contains(&format!("{field} must be ")) && shown.contains(words),
                "{shown}"
            );
        }
    }
}
