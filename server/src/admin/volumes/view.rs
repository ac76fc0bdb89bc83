//! A volume as answers show it.

use super::exclusive_bytes::exclusive_bytes;
use crate::{
    admin::base::{Admin, attachment_view},
    api::{Backend, Volume, VolumeState},
    attachments::Closing,
    registry::Entry,
};

/// A volume or fork that was just made: it holds nothing alone.
pub(crate) fn newborn(entry: &Entry, admin: &Admin) -> Volume {
    view(entry, admin, Some(0))
}

/// A volume as it is now.
pub(crate) async fn present(entry: &Entry, admin: &Admin) -> Volume {
    let id = entry.volume.id();
    let exclusive_bytes = exclusive_bytes(admin, Some(id)).await;
    view(entry, admin, exclusive_bytes.get(&id).copied())
}

pub(super) fn view(entry: &Entry, admin: &Admin, exclusive_bytes: Option<u64>) -> Volume {
    let (volume, record) = (&entry.volume, entry.record());
    let settings = volume.settings();
    // The id and not the name: it stays right when another volume takes the same name.
    let export_name = volume.id().to_string();
    let attachments = entry.attachments.list();
    Volume {
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
        backend: Backend::S0fs,
        name: record.name,
        size_bytes: volume.size_bytes(),
        used_bytes: volume.used_bytes(),
        exclusive_bytes,
        state: state(entry),
        uris: admin.endpoints.uris(&export_name),
        export_name,
        attachments: attachments.len(),
        mounts: attachments
            .iter()
            .map(|attachment| attachment_view(volume.id(), attachment))
            .collect(),
    }
}

fn state(entry: &Entry) -> VolumeState {
    match entry.attachments.closing() {
        // Until the registry forgets it, a volume that is being deleted is one whose deletion may
        // yet fail.
        None | Some(Closing::Deletion) => VolumeState::Ready,
        Some(Closing::Restore) => VolumeState::Restoring,
    }
}
