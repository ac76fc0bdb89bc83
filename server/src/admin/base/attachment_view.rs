//! Attachments as answers show them.

use crate::attachments::Attachment;
use serde_json::{Value, json};
use uuid::Uuid;

/// What a caller is told when a volume or snapshot is in use.
pub(crate) fn in_use_details(volume: Uuid, attachments: &[Attachment], hint: &str) -> Value {
    let mounts: Vec<Value> =
        attachments.iter().map(|attachment| attachment_view(volume, attachment)).collect();
    json!({ "active_mounts": attachments.len(), "mounts": mounts, "hint": hint })
}

/// An attachment as those see it who are not it.
pub(crate) fn attachment_view(volume: Uuid, attachment: &Attachment) -> Value {
    json!({
        "sandboxvolume_id": volume,
        "holder": attachment.holder,
        "export_name": attachment.export_name,
        "mounted_at": attachment.mounted_at,
        "read_only": attachment.read_only,
        "connections": attachment.connections,
        "state": attachment.state,
    })
}
