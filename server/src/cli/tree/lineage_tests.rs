//! Lineages from plain data, drawn and nested.

use super::{draw, lineage::Lineage};
use crate::api::{Snapshot, Volume};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// An id that is told from others by a name.
fn id_of(name: &str) -> Uuid {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    Uuid::from_u64_pair(7, hasher.finish())
}

fn volume(name: &str, source: Option<&str>, source_snapshot: Option<&str>) -> Volume {
    serde_json::from_value(json!({
        "id": id_of(name), "name": name, "used_bytes": MIB, "exclusive_bytes": 4096,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
        "source_volume_id": source.map(id_of), "source_snapshot_id": source_snapshot.map(id_of),
        "team_id": "default", "user_id": "admin", "size_bytes": 0, "access_mode": "RWO", "state": "ready",
        "attachments": 0, "cache_size": "1G", "buffer_size": "32M", "prefetch": 0, "writeback": false,
        "uris": [], "backend": "s0fs", "export_name": "", "mounts": [],
    }))
    .unwrap()
}

fn snapshot(name: &str) -> Snapshot {
    serde_json::from_value(json!({
        "id": id_of(name), "volume_id": id_of("some"), "name": name, "size_bytes": 0, "used_bytes": MIB,
        "created_at": "2026-01-02T03:04:05Z", "export_name": "", "uris": [], "attachments": 0,
    }))
    .unwrap()
}

fn family() -> Lineage {
    Lineage::new(vec![
        (volume("base", None, None), vec![snapshot("clean"), snapshot("upgraded")]),
        (volume("orphan", Some("gone"), Some("gone-too")), vec![]),
        (volume("scratch", Some("base"), None), vec![]),
        (volume("agent-1", Some("base"), Some("clean")), vec![]),
        (volume("agent-2", Some("base"), Some("clean")), vec![snapshot("mine")]),
        (volume("late", Some("base"), Some("deleted-snapshot")), vec![]),
    ])
}

/// The first column of a drawing, without its heading.
fn first_column(text: &str) -> Vec<&str> {
    text.lines()
        .skip(1)
        .map(|line| line.split("  1M").next().unwrap().split("      ").next().unwrap().trim_end())
        .collect()
}

#[test]
fn a_lineage_is_drawn_with_snapshots_before_forks_and_the_oldest_first() {
    let drawn = draw::text(&family(), 80);
    assert_eq!(
        first_column(&drawn),
        [
            "base",
            "├─ snapshot clean",
            "│  ├─ agent-1",
            "│  └─ agent-2",
            "│     └─ snapshot mine",
            "├─ snapshot upgraded",
            "├─ scratch",
            "└─ late",
            "orphan (source deleted)",
        ],
        "{drawn}"
    );
    let base = drawn.lines().nth(1).unwrap();
    assert!(
        base.contains("1M") && base.contains("4K") && base.contains("2026-01-02 03:04:05Z"),
        "{drawn}"
    );
}

#[test]
fn nested_data_says_the_same_as_the_drawing() {
    let roots: Value = serde_json::from_str(&draw::json(&family())).unwrap();
    assert_eq!((&roots[0]["name"], &roots[0]["id"]), (&json!("base"), &json!(id_of("base"))));
    assert_eq!(roots[0]["snapshots"][0]["forks"][1]["snapshots"][0]["name"], "mine");
    assert_eq!(roots[0]["snapshots"][1]["forks"], json!([]));
    assert_eq!(roots[0]["forks"][1]["name"], "late");
    assert_eq!(roots[1]["name"], "orphan");
    assert!(roots[0]["snapshots"][0].get("snapshots").is_none());
    assert_eq!(draw::json(&Lineage::new(vec![])), "[]");
}

#[test]
fn a_narrow_terminal_is_not_overrun() {
    let long = "n".repeat(128);
    let mut named = volume("base", None, None);
    named.name = Some(long.clone());
    let mut gone = volume("b", Some("gone"), None);
    gone.name = Some(long);
    let volumes = vec![(named, vec![snapshot("clean")]), (gone, vec![])];
    let lineage = Lineage::new(volumes);
    for columns in [60, 80, 120] {
        let drawn = draw::text(&lineage, columns);
        for line in drawn.lines() {
            assert!(
                line.chars().count() <= columns,
                "{} of {columns} columns: {line}",
                line.chars().count()
            );
        }
        assert!(
            drawn.contains('…')
                && drawn.contains("(source deleted)")
                && drawn.contains("2026-01-02"),
            "{drawn}"
        );
    }
}

#[test]
fn a_thousand_forks_of_forks_stay_within_the_terminal_and_within_the_stack() {
    let name = |i: usize| format!("fork-{i}");
    let chain = (0..5000_usize).map(|i| {
        let source = i.checked_sub(1).map(name);
        (volume(&name(i), source.as_deref(), None), vec![])
    });
    let lineage = Lineage::new(chain.collect());
    let drawn = draw::text(&lineage, 80);
    assert_eq!(drawn.lines().count(), 5001);
    assert!(drawn.lines().all(|line| line.chars().count() <= 80));
    assert!(drawn.contains("⋯4992 └─ fork-4992"), "{drawn}");
    assert_eq!(draw::json(&lineage).matches("\"forks\":[").count(), 5000);
}

/// `a` was forked as `b` and deleted; then `b` was forked under the id of `a`.
#[test]
fn a_source_that_was_made_anew_from_its_own_fork_does_not_hide_both() {
    let lineage = Lineage::new(vec![
        (volume("b", Some("a"), None), vec![]),
        (volume("a", Some("b"), None), vec![]),
    ]);
    assert_eq!(first_column(&draw::text(&lineage, 80)), ["b (source deleted)", "└─ a"]);
}

#[test]
fn an_empty_server_says_how_to_begin() {
    assert!(draw::text(&Lineage::new(vec![]), 80).contains("volume create"));
}
