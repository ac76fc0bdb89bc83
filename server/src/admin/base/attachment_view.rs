//! Attachments as answers show them.

use crate::{
    api::{self, Details},
    attachments::Attachment,
};
use uuid::Uuid;

/// What a caller is told when a volume or snapshot is in use.
pub(crate) fn in_use_details(volume: Uuid, attachments: &[Attachment], hint: &str) -> Details {
    Details::InUse {
        active_mounts: attachments.len(),
        mounts: attachments.iter().map(|attachment| attachment_view(volume, attachment)).collect(),
        hint: hint.to_owned(),
    }
}

/// An attachment as others see it.
pub(crate) fn attachment_view(volume: Uuid, attachment: &Attachment) -> api::Attachment {
    let Attachment { holder, export_name, mounted_at, read_only, connections, state } =
        attachment.clone();
    api::Attachment {
        sandboxvolume_id: volume,
        holder,
        export_name,
        mounted_at,
        read_only,
        connections,
        state,
    }
}
