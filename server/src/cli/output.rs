//! Volumes as tables for people.

use crate::show;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

/// What stands in a cell, of a volume as the API shows it.
type Cell = fn(&Value) -> String;

/// Columns of a list, with their headings.
const COLUMNS: [(&str, Cell); 8] = [
    ("NAME", |volume| text(&volume["name"])),
    ("ID", |volume| text(&volume["id"])),
    ("SIZE", |volume| size(&volume["size_bytes"])),
    ("USED", |volume| size(&volume["used_bytes"])),
    ("MODE", |volume| text(&volume["access_mode"])),
    ("STATE", |volume| text(&volume["state"])),
    ("CLIENTS", |volume| text(&volume["attachments"])),
    ("CREATED", |volume| seconds(&volume["created_at"])),
];

/// Columns whose numbers end in line.
const RIGHT_ALIGNED: [usize; 3] = [2, 3, 6];

/// One line a volume.
pub(super) fn volume_list(volumes: &Value) -> String {
    let volumes = volumes.as_array().map(Vec::as_slice).unwrap_or_default();
    if volumes.is_empty() {
        return format!(
            "No volumes yet. Make one: {} volume create --name disk --size 10G",
            show::own_command()
        );
    }
    let mut table = plain();
    table.set_header(COLUMNS.map(|(heading, _)| heading));
    for volume in volumes {
        table.add_row(COLUMNS.map(|(_, cell)| cell(volume)));
    }
    for column in RIGHT_ALIGNED {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    shown(table)
}

/// One line a field.
pub(super) fn volume_details(volume: &Value) -> String {
    let mut table = plain();
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
        ("cache size", text(&volume["cache_size"])),
        ("buffer size", text(&volume["buffer_size"])),
        ("prefetch", format!("{}M", text(&volume["prefetch"]))),
        ("writeback", writeback.to_owned()),
        ("forked from", text(&volume["source_volume_id"])),
        ("created", seconds(&volume["created_at"])),
        ("updated", seconds(&volume["updated_at"])),
        ("attach", uris(volume).join("\n")),
    ];
    for (what, value) in rows {
        // A volume without a name or a source has no line for it.
        if value != ABSENT {
            table.add_row([what, &value]);
        }
    }
    shown(table)
}

/// The addresses of a volume's export.
pub(super) fn uris(volume: &Value) -> Vec<String> {
    let uris = volume["uris"].as_array().map(Vec::as_slice).unwrap_or_default();
    uris.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

const ABSENT: &str = "-";

/// No borders: columns that can be cut by other programs and copied by people.
fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table from the left edge on.
fn shown(mut table: Table) -> String {
    const GAP: u16 = 2;
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => ABSENT.to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| ABSENT.to_owned(), show::rounded)
}

/// A time to the second, `2026-01-02 03:04:05Z`.
fn seconds(value: &Value) -> String {
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
    fn details_leave_out_what_the_volume_has_not() {
        let text = volume_details(&volume());
        assert!(!text.contains("forked from"), "{text}");
        assert!(text.contains("nbd+unix:///x?socket=/s") && text.contains("writeback"), "{text}");
    }
}
