//! A volume as answers show it.

use super::exclusive_bytes::exclusive_bytes;
use crate::{
    admin::base::{Admin, attachment_view},
    attachments::Closing,
    record::AccessMode,
    registry::Entry,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// The constant that clients of the later releases insist on.
const BACKEND: &str = "s0fs";

/// Source: the volume of the API contract, field by field.
#[derive(Serialize)]
pub(crate) struct VolumeView {
    id: Uuid,
    team_id: String,
    user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_volume_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_snapshot_id: Option<Uuid>,
    cache_size: String,
    buffer_size: String,
    prefetch: u32,
    writeback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iops_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second_max: Option<u64>,
    access_mode: AccessMode,
    created_at: Timestamp,
    updated_at: Timestamp,
    backend: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    size_bytes: u64,
    /// Logical blocks that are mapped.
    used_bytes: u64,
    /// What its deletion would give back, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    exclusive_bytes: Option<u64>,
    state: VolumeState,
    export_name: String,
    uris: Vec<String>,
    attachments: usize,
    /// Those attachments.
    mounts: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum VolumeState {
    Ready,
    /// Its clients are cut off and its content is being replaced.
    Restoring,
}

impl VolumeState {
    fn of(entry: &Entry) -> VolumeState {
        match entry.attachments.closing() {
            // Until the registry forgets it, a volume that is being deleted is one whose deletion may yet fail.
            None | Some(Closing::Deletion) => VolumeState::Ready,
            Some(Closing::Restore) => VolumeState::Restoring,
        }
    }
}

impl VolumeView {
    /// A volume or fork that was just made: it holds nothing alone.
    pub(crate) fn newborn(entry: &Entry, admin: &Admin) -> VolumeView {
        VolumeView::new(entry, admin, Some(0))
    }

    /// A volume as it is now.
    pub(crate) async fn present(entry: &Entry, admin: &Admin) -> VolumeView {
        let id = entry.volume.id();
        let exclusive_bytes = exclusive_bytes(admin, Some(id)).await;
        VolumeView::new(entry, admin, exclusive_bytes.get(&id).copied())
    }

    pub(crate) fn new(entry: &Entry, admin: &Admin, exclusive_bytes: Option<u64>) -> VolumeView {
        let (volume, record) = (&entry.volume, entry.record());
        let settings = volume.settings();
        // The id and not the name: it stays right when another volume takes the same name.
        let export_name = volume.id().to_string();
        let attachments = entry.attachments.list();
        VolumeView {
            id: volume.id(),
            team_id: record.team_id,
            user_id: record.user_id,
            source_volume_id: record.source_volume_id,
            source_snapshot_id: record.source_snapshot_id,
            cache_size: record.cache_size,
            buffer_size: record.buffer_size,
            prefetch: settings.prefetch_mib,
            writeback: settings.writeback,
            iops_max: record.iops_max,
            bytes_per_second_max: record.bytes_per_second_max,
            access_mode: record.access_mode,
            created_at: record.created_at,
            updated_at: record.updated_at,
            backend: BACKEND,
            name: record.name,
            size_bytes: volume.size_bytes(),
            used_bytes: volume.used_bytes(),
            exclusive_bytes,
            state: VolumeState::of(entry),
            uris: admin.endpoints.uris(&export_name),
            export_name,
            attachments: attachments.len(),
            mounts: attachments.iter().map(|attachment| attachment_view(volume.id(), attachment)).collect(),
        }
    }
}
