//! Tables for people.

use crate::{
    api::{self, Mount, Snapshot, Volume},
    show,
};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use std::fmt;

/// The heading of a column, and what stands in its cells.
type Column<T> = (&'static str, fn(&T) -> String);

const VOLUME_COLUMNS: [Column<Volume>; 8] = [
    ("NAME", |volume| or_absent(volume.name.as_ref())),
    ("ID", |volume| volume.id.to_string()),
    ("SIZE", |volume| show::rounded(volume.size_bytes)),
    ("USED", |volume| show::rounded(volume.used_bytes)),
    ("MODE", |volume| volume.access_mode.to_string()),
    ("STATE", |volume| word(volume.state)),
    ("CLIENTS", |volume| volume.attachments.to_string()),
    ("CREATED", |volume| seconds(volume.created_at)),
];

const SNAPSHOT_COLUMNS: [Column<Snapshot>; 5] = [
    ("NAME", |snapshot| snapshot.name.clone()),
    ("ID", |snapshot| snapshot.id.to_string()),
    ("SIZE", |snapshot| show::rounded(snapshot.size_bytes)),
    ("CREATED", |snapshot| seconds(snapshot.created_at)),
    ("DESCRIPTION", |snapshot| or_absent(snapshot.description.as_ref())),
];

const MOUNT_COLUMNS: [Column<Mount>; 7] = [
    ("SANDBOX", |mount| mount.sandbox_id.clone()),
    ("VOLUME", |mount| mount.sandboxvolume_id.to_string()),
    ("AT", |mount| mount.mount_point.clone()),
    ("STATE", |mount| word(mount.state)),
    ("CONNECTIONS", |mount| mount.connections.to_string()),
    ("SINCE", |mount| seconds(mount.mounted_at)),
    ("SESSION", |mount| mount.mount_session_id.to_string()),
];

/// Columns whose numbers end in line.
const RIGHT_ALIGNED: [&str; 4] = ["SIZE", "USED", "CLIENTS", "CONNECTIONS"];

/// One line a volume.
pub(crate) fn volume_list(volumes: &[Volume]) -> String {
    list(volumes, &VOLUME_COLUMNS, || {
        format!(
            "No volumes yet. Make one: {} volume create --name disk --size 10G",
            show::own_command()
        )
    })
}

/// One line a snapshot of the volume that its user calls `volume`.
pub(crate) fn snapshot_list(snapshots: &[Snapshot], volume: &str) -> String {
    list(snapshots, &SNAPSHOT_COLUMNS, || {
        let (command, volume) = (show::own_command(), show::quoted(volume.as_ref()));
        format!("No snapshots yet. Take one: {command} snapshot create {volume} --name before")
    })
}

/// One line a mount.
pub(crate) fn mount_list(mounts: &[Mount]) -> String {
    list(mounts, &MOUNT_COLUMNS, || {
        format!("No mounts. Make one: {} mount VOLUME --sandbox ID --at /work", show::own_command())
    })
}

fn list<T>(items: &[T], columns: &[Column<T>], none: impl FnOnce() -> String) -> String {
    if items.is_empty() {
        return none();
    }
    let mut table = plain();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for item in items {
        table.add_row(columns.iter().map(|(_, cell)| cell(item)));
    }
    for (i, (heading, _)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i)
            && RIGHT_ALIGNED.contains(heading)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    shown(table)
}

/// One line a field.
pub(crate) fn volume_details(volume: &Volume) -> String {
    let size = |bytes: Option<u64>| or_absent(bytes.map(show::rounded));
    let attached: Vec<String> = volume.mounts.iter().map(attachment).collect();
    details(&[
        ("name", or_absent(volume.name.as_ref())),
        ("id", volume.id.to_string()),
        ("size", show::rounded(volume.size_bytes)),
        ("used", show::rounded(volume.used_bytes)),
        ("exclusive", size(volume.exclusive_bytes)),
        ("state", word(volume.state)),
        ("access mode", volume.access_mode.to_string()),
        ("clients", volume.attachments.to_string()),
        ("attached by", attached.join("\n")),
        ("cache size", volume.cache_size.clone()),
        ("buffer size", volume.buffer_size.clone()),
        ("prefetch", format!("{}M", volume.prefetch)),
        ("writeback", if volume.writeback { "on" } else { "off" }.to_owned()),
        ("most iops", or_absent(volume.iops_max)),
        ("most bytes/s", size(volume.bytes_per_second_max)),
        ("forked from", or_absent(volume.source_volume_id)),
        ("of snapshot", or_absent(volume.source_snapshot_id)),
        ("created", seconds(volume.created_at)),
        ("updated", seconds(volume.updated_at)),
        ("attach", volume.uris.join("\n")),
    ])
}

/// One line a field.
pub(crate) fn snapshot_details(snapshot: &Snapshot) -> String {
    details(&[
        ("name", snapshot.name.clone()),
        ("id", snapshot.id.to_string()),
        ("volume", snapshot.volume_id.to_string()),
        ("description", or_absent(snapshot.description.as_ref())),
        ("size", show::rounded(snapshot.size_bytes)),
        ("used", show::rounded(snapshot.used_bytes)),
        ("exclusive", or_absent(snapshot.exclusive_bytes.map(show::rounded))),
        ("created", seconds(snapshot.created_at)),
        ("clients", snapshot.attachments.to_string()),
        ("attach", snapshot.uris.join("\n")),
    ])
}

/// One line a field.
pub(crate) fn mount_details(mount: &Mount) -> String {
    details(&[
        ("sandbox", mount.sandbox_id.clone()),
        ("volume", mount.sandboxvolume_id.to_string()),
        ("at", mount.mount_point.clone()),
        ("state", word(mount.state)),
        ("read only", mount.read_only.to_string()),
        ("since", seconds(mount.mounted_at)),
        ("session", mount.mount_session_id.to_string()),
        ("attach", mount.uris.join("\n")),
    ])
}

/// A volume's attachment, in words.
fn attachment(attachment: &api::Attachment) -> String {
    format!(
        "{}, {}, {}, {} connection(s), since {}",
        attachment.holder,
        word(attachment.state),
        if attachment.read_only { "read-only" } else { "read-write" },
        attachment.connections,
        seconds(attachment.mounted_at)
    )
}

fn details(rows: &[(&str, String)]) -> String {
    let mut table = plain();
    for (what, value) in rows {
        // A volume without a name or a source has no line for it.
        if value != ABSENT && !value.is_empty() {
            table.add_row([*what, value]);
        }
    }
    shown(table)
}

const ABSENT: &str = "-";

/// A value, or a dash.
pub(crate) fn or_absent(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |value| value.to_string())
}

fn word(state: impl Into<&'static str>) -> String {
    state.into().to_owned()
}

/// No borders: columns that can be cut by other programs and copied by people.
pub(crate) fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table from the left edge on.
pub(crate) fn shown(mut table: Table) -> String {
    const GAP: u16 = 2;
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

/// A time to the second, `2026-01-02 03:04:05Z`.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    const ID: &str = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";

    fn volume(mounts: Value) -> Volume {
        from_value(json!({
            "id": ID, "team_id": "default", "user_id": "admin", "size_bytes": 10_u64 << 30, "used_bytes": 3 << 19,
            "exclusive_bytes": 0, "access_mode": "RWO", "state": "ready", "attachments": 2, "cache_size": "1G",
            "buffer_size": "32M", "prefetch": 0, "writeback": false, "created_at": "2026-01-02T03:04:05.678Z",
            "updated_at": "2026-01-02T03:04:05.678Z", "uris": ["nbd://127.0.0.1:10809/x", "nbd+unix:///x?socket=/s"],
            "backend": "s0fs", "export_name": ID, "mounts": mounts,
        }))
        .unwrap()
    }

    #[test]
    fn a_list_has_one_line_a_volume() {
        let text = volume_list(&[volume(json!([])), volume(json!([]))]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("NAME"), "{text}");
        for part in ["-", "0b54ae6c", "10G", "1.5M", "RWO", "ready", "2026-01-02 03:04:05Z"] {
            assert!(lines[1].contains(part), "{part} is not in {text}");
        }
        assert!(volume_list(&[]).contains("volume create"));
    }

    #[test]
    fn snapshots_have_their_own_table_and_details() {
        let snapshot: Snapshot = from_value(json!({
            "id": ID, "name": "before", "size_bytes": 1 << 30, "volume_id": ID, "used_bytes": 0,
            "description": "of the upgrade", "created_at": "2026-01-02T03:04:05Z", "uris": [],
            "export_name": ID, "attachments": 0,
        }))
        .unwrap();
        let details = snapshot_details(&snapshot);
        let list = snapshot_list(&[snapshot], "disk");
        for part in ["before", "0b54ae6c", "1G", "2026-01-02 03:04:05Z", "of the upgrade"] {
            assert!(
                list.contains(part) && details.contains(part),
                "{part} is not in {list}\n{details}"
            );
        }
        assert!(!details.contains("expires") && !details.contains("attach"), "{details}");
        assert!(snapshot_list(&[], "my disk").contains("snapshot create 'my disk'"));
    }

    #[test]
    fn mounts_have_their_own_table_and_stand_with_their_volume() {
        let session = "5e55ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
        let json = json!({ "sandbox_id": "agent-1", "sandboxvolume_id": ID, "mount_point": "/work",
            "state": "mounted", "connections": 2, "mounted_at": "2026-01-02T03:04:05.678Z", "read_only": false,
            "mount_session_id": session, "uris": ["nbd://127.0.0.1:1/0b54ae6c%2F5e55"], "holder": "sandbox agent-1",
            "mounted_duration_sec": 1, "export_name": ID });
        let mount: Mount = from_value(json.clone()).unwrap();
        let details = mount_details(&mount);
        let list = mount_list(&[mount]);
        for part in ["agent-1", "0b54ae6c", "/work", "mounted", "2026-01-02 03:04:05Z", "5e55"] {
            assert!(
                list.contains(part) && details.contains(part),
                "{part} is not in {list}\n{details}"
            );
        }
        assert!(mount_list(&[]).contains("mount VOLUME --sandbox"));
        let text = volume_details(&volume(json!([json])));
        let line =
            "sandbox agent-1, mounted, read-write, 2 connection(s), since 2026-01-02 03:04:05Z";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn details_leave_out_what_the_volume_has_not() {
        let text = volume_details(&volume(json!([])));
        assert!(!text.contains("forked from"), "{text}");
        assert!(text.contains("nbd+unix:///x?socket=/s") && text.contains("writeback"), "{text}");
    }
}
