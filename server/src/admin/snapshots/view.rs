//! A snapshot as answers show it.

use crate::{admin::base::Admin, registry::SnapshotEntry};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

/// Source: the snapshot of the API contract, field by field.
#[derive(Serialize)]
pub(super) struct SnapshotView {
    id: Uuid,
    volume_id: Uuid,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    size_bytes: u64,
    /// Whole seconds, which is the contract's form here and not elsewhere.
    created_at: Timestamp,
    /// Logical blocks that are mapped.
    used_bytes: u64,
    /// What its deletion would give back, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    exclusive_bytes: Option<u64>,
    export_name: String,
    uris: Vec<String>,
    attachments: usize,
}

impl SnapshotView {
    pub(super) fn new(entry: &SnapshotEntry, admin: &Admin, exclusive_bytes: Option<u64>) -> SnapshotView {
        let (snapshot, record) = (&entry.snapshot, entry.record());
        let export_name = snapshot.id().to_string();
        SnapshotView {
            id: snapshot.id(),
            volume_id: entry.volume_id,
            name: record.name,
            description: record.description,
            size_bytes: snapshot.size_bytes(),
            created_at: whole_seconds(record.created_at),
            used_bytes: snapshot.used_bytes(),
            exclusive_bytes,
            uris: admin.endpoints.uris(&export_name),
            export_name,
            attachments: entry.attachments.count(),
        }
    }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_without_fractions() {
        let time: Timestamp = "2006-01-02T15:04:05.999999Z".parse().unwrap();
        assert_eq!(whole_seconds(time).to_string(), "2006-01-02T15:04:05Z");
    }
}
