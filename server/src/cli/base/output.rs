//! Volumes, snapshots and mounts as tables for people.

use crate::show;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

/// What stands in a cell, of a volume or snapshot as the API shows it.
type Cell = fn(&Value) -> String;

/// Columns of a list of volumes, with their headings.
const VOLUME_COLUMNS: [(&str, Cell); 8] = [
    ("NAME", |volume| text(&volume["name"])),
    ("ID", |volume| text(&volume["id"])),
    ("SIZE", |volume| size(&volume["size_bytes"])),
    ("USED", |volume| size(&volume["used_bytes"])),
    ("MODE", |volume| text(&volume["access_mode"])),
    ("STATE", |volume| text(&volume["state"])),
    ("CLIENTS", |volume| text(&volume["attachments"])),
    ("CREATED", |volume| seconds(&volume["created_at"])),
];

/// The same of a list of snapshots.
const SNAPSHOT_COLUMNS: [(&str, Cell); 5] = [
    ("NAME", |snapshot| text(&snapshot["name"])),
    ("ID", |snapshot| text(&snapshot["id"])),
    ("SIZE", |snapshot| size(&snapshot["size_bytes"])),
    ("CREATED", |snapshot| seconds(&snapshot["created_at"])),
    ("DESCRIPTION", |snapshot| text(&snapshot["description"])),
];

/// The same of a list of mounts.
const MOUNT_COLUMNS: [(&str, Cell); 7] = [
    ("SANDBOX", |mount| text(&mount["sandbox_id"])),
    ("VOLUME", |mount| text(&mount["sandboxvolume_id"])),
    ("AT", |mount| text(&mount["mount_point"])),
    ("STATE", |mount| text(&mount["state"])),
    ("CONNECTIONS", |mount| text(&mount["connections"])),
    ("SINCE", |mount| seconds(&mount["mounted_at"])),
    ("SESSION", |mount| text(&mount["mount_session_id"])),
];

/// Columns whose numbers end in line.
const RIGHT_ALIGNED: [&str; 4] = ["SIZE", "USED", "CLIENTS", "CONNECTIONS"];

/// One line a volume.
pub(crate) fn volume_list(volumes: &Value) -> String {
    let volumes = volumes.as_array().map(Vec::as_slice).unwrap_or_default();
    if volumes.is_empty() {
        return format!(
            "No volumes yet. Make one: {} volume create --name disk --size 10G",
            show::own_command()
        );
    }
    list(volumes, &VOLUME_COLUMNS)
}

/// One line a snapshot of the volume that its user calls `volume`.
pub(crate) fn snapshot_list(snapshots: &Value, volume: &str) -> String {
    let snapshots = snapshots.as_array().map(Vec::as_slice).unwrap_or_default();
    if snapshots.is_empty() {
        let (command, volume) = (show::own_command(), show::quoted(volume.as_ref()));
        return format!("No snapshots yet. Take one: {command} snapshot create {volume} --name before");
    }
    list(snapshots, &SNAPSHOT_COLUMNS)
}

/// One line a mount.
pub(crate) fn mount_list(mounts: &Value) -> String {
    let mounts = mounts.as_array().map(Vec::as_slice).unwrap_or_default();
    if mounts.is_empty() {
        return format!("No mounts. Make one: {} mount VOLUME --sandbox ID --at /work", show::own_command());
    }
    list(mounts, &MOUNT_COLUMNS)
}

fn list(items: &[Value], columns: &[(&str, Cell)]) -> String {
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
pub(crate) fn volume_details(volume: &Value) -> String {
    let writeback = if volume["writeback"] == true { "on" } else { "off" };
    let rows = [
        ("name", text(&volume["name"])),
        ("id", text(&volume["id"])),
        ("size", size(&volume["size_bytes"])),
        ("used", size(&volume["used_bytes"])),
        ("exclusive", size(&volume["exclusive_bytes"])),
        ("state", text(&volume["state"])),
        ("access mode", text(&volume["access_mode"])),
        ("clients", text(&volume["attachments"])),
        ("attached by", attachments(volume).join("\n")),
        ("cache size", text(&volume["cache_size"])),
        ("buffer size", text(&volume["buffer_size"])),
        ("prefetch", format!("{}M", text(&volume["prefetch"]))),
        ("writeback", writeback.to_owned()),
        ("most iops", text(&volume["iops_max"])),
        ("most bytes/s", size(&volume["bytes_per_second_max"])),
        ("forked from", text(&volume["source_volume_id"])),
        ("of snapshot", text(&volume["source_snapshot_id"])),
        ("created", seconds(&volume["created_at"])),
        ("updated", seconds(&volume["updated_at"])),
        ("attach", uris(volume).join("\n")),
    ];
    details(&rows)
}

/// One line a field.
pub(crate) fn snapshot_details(snapshot: &Value) -> String {
    details(&[
        ("name", text(&snapshot["name"])),
        ("id", text(&snapshot["id"])),
        ("volume", text(&snapshot["volume_id"])),
        ("description", text(&snapshot["description"])),
        ("size", size(&snapshot["size_bytes"])),
        ("used", size(&snapshot["used_bytes"])),
        ("exclusive", size(&snapshot["exclusive_bytes"])),
        ("created", seconds(&snapshot["created_at"])),
        ("expires", seconds(&snapshot["expires_at"])),
        ("clients", text(&snapshot["attachments"])),
        ("attach", uris(snapshot).join("\n")),
    ])
}

/// One line a field.
pub(crate) fn mount_details(mount: &Value) -> String {
    details(&[
        ("sandbox", text(&mount["sandbox_id"])),
        ("volume", text(&mount["sandboxvolume_id"])),
        ("at", text(&mount["mount_point"])),
        ("state", text(&mount["state"])),
        ("read only", text(&mount["read_only"])),
        ("since", seconds(&mount["mounted_at"])),
        ("session", text(&mount["mount_session_id"])),
        ("attach", uris(mount).join("\n")),
    ])
}

/// A volume's attachments, in words.
fn attachments(volume: &Value) -> Vec<String> {
    let mounts = volume["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words = |mount: &Value| {
        let access = if mount["read_only"] == true { "read-only" } else { "read-write" };
        format!(
            "{}, {}, {access}, {} connection(s), since {}",
            text(&mount["holder"]),
            text(&mount["state"]),
            text(&mount["connections"]),
            seconds(&mount["mounted_at"])
        )
    };
    mounts.iter().map(words).collect()
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

/// The addresses of a volume's export.
pub(crate) fn uris(volume: &Value) -> Vec<String> {
    let uris = volume["uris"].as_array().map(Vec::as_slice).unwrap_or_default();
    uris.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

const ABSENT: &str = "-";

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

pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => ABSENT.to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

pub(crate) fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| ABSENT.to_owned(), show::rounded)
}

/// A time to the second, `2026-01-02 03:04:05Z`.
pub(crate) fn seconds(value: &Value) -> String {
    let time = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.map_or_else(|| text(value), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume() -> Value {
        json!({
            "id": "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de", "size_bytes": 10_u64 << 30, "used_bytes": 3 << 19,
            "exclusive_bytes": 0, "access_mode": "RWO", "state": "ready", "attachments": 2, "cache_size": "1G",
            "buffer_size": "32M", "prefetch": 0, "writeback": false, "created_at": "2026-01-02T03:04:05.678Z",
            "updated_at": "2026-01-02T03:04:05.678Z", "uris": ["nbd://127.0.0.1:10809/x", "nbd+unix:///x?socket=/s"],
        })
    }

    #[test]
    fn a_list_has_one_line_a_volume() {
        let text = volume_list(&json!([volume(), volume()]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("NAME"), "{text}");
        for part in ["-", "0b54ae6c", "10G", "1.5M", "RWO", "ready", "2026-01-02 03:04:05Z"] {
            assert!(lines[1].contains(part), "{part} is not in {text}");
        }
        assert!(volume_list(&json!([])).contains("volume create"));
    }

    #[test]
    fn snapshots_have_their_own_table_and_details() {
        let snapshot = json!({ "id": "0b54ae6c", "name": "before", "size_bytes": 1 << 30, "volume_id": "7",
            "description": "of the upgrade", "created_at": "2026-01-02T03:04:05Z", "uris": [] });
        let (list, details) = (snapshot_list(&json!([snapshot]), "disk"), snapshot_details(&snapshot));
        for part in ["before", "0b54ae6c", "1G", "2026-01-02 03:04:05Z", "of the upgrade"] {
            assert!(list.contains(part) && details.contains(part), "{part} is not in {list}\n{details}");
        }
        assert!(!details.contains("expires") && !details.contains("attach"), "{details}");
        assert!(snapshot_list(&json!([]), "my disk").contains("snapshot create 'my disk'"));
    }

    #[test]
    fn mounts_have_their_own_table_and_stand_with_their_volume() {
        let mount = json!({ "sandbox_id": "agent-1", "sandboxvolume_id": "0b54ae6c", "mount_point": "/work",
            "state": "mounted", "connections": 2, "mounted_at": "2026-01-02T03:04:05.678Z", "read_only": false,
            "mount_session_id": "5e55", "uris": ["nbd://127.0.0.1:1/0b54ae6c%2F5e55"], "holder": "sandbox agent-1" });
        let (list, details) = (mount_list(&json!([mount])), mount_details(&mount));
        for part in ["agent-1", "0b54ae6c", "/work", "mounted", "2026-01-02 03:04:05Z", "5e55"] {
            assert!(list.contains(part) && details.contains(part), "{part} is not in {list}\n{details}");
        }
        assert!(mount_list(&json!([])).contains("mount VOLUME --sandbox"));
        let mut volume = volume();
        volume["mounts"] = json!([mount]);
        let text = volume_details(&volume);
        let line = "sandbox agent-1, mounted, read-write, 2 connection(s), since 2026-01-02 03:04:05Z";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn details_leave_out_what_the_volume_has_not() {
        let text = volume_details(&volume());
        assert!(!text.contains("forked from"), "{text}");
        assert!(text.contains("nbd+unix:///x?socket=/s") && text.contains("writeback"), "{text}");
    }
}
