//! A snapshot as answers show it.

use crate::{admin::base::Admin, api::Snapshot, registry::SnapshotEntry};
use jiff::Timestamp;

pub(super) fn view(entry: &SnapshotEntry, admin: &Admin, exclusive_bytes: Option<u64>) -> Snapshot {
    let (snapshot, record) = (&entry.snapshot, entry.record());
    let export_name = snapshot.id().to_string();
    Snapshot {
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

/// The contract's form of a snapshot's time, here and not elsewhere.
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
