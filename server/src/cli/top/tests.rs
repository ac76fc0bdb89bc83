//! Two answers of a server, and what is made of them.

use super::{
    sample::{Rates, percentile},
    table::{self, Order, Sort},
};
use crate::api::Stats;
use serde_json::{Value, json};

const IDS: [&str; 2] =
    ["0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de", "1b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de"];

fn answer(at_us: u64, requests: u64, volumes: Value) -> Stats {
    serde_json::from_value(json!({
        "at_us": at_us, "latency_bounds_us": [8, 16, 32],
        "store": {
            "trouble": null, "capacity_bytes": 64_u64 << 30, "free_bytes": 32_u64 << 30, "log_bytes": requests << 20,
            "log_batches": requests, "syncs": requests / 4, "sync_requests": requests, "checkpoints": 0,
            "reclaim": "idle", "scrub_running": true, "buffered_bytes": 0, "cache_hits": 0, "cache_misses": 0,
        },
        "volumes": volumes,
    }))
    .unwrap()
}

fn volume(id: &str, name: &str, writes: u64) -> Value {
    json!({
        "id": id, "name": name, "attachments": 1, "connections": 4, "requests_in_flight": 64,
        "buffered_bytes": 2 << 20, "cache_hits": writes * 3, "cache_misses": writes,
        "commands": { "write": { "requests": writes, "errors": 0, "bytes": writes * 4096,
                                 "latencies": [0, writes, 0, 0] } },
    })
}

fn rates() -> Rates {
    let before = answer(1_000_000, 0, json!([volume(IDS[0], "busy", 1000)]));
    let now =
        answer(3_000_000, 800, json!([volume(IDS[0], "busy", 3048), volume(IDS[1], "", 256)]));
    Rates::between(&before, &now)
}

#[test]
fn rates_are_differences_by_the_servers_clock() {
    let rates = rates();
    let [busy, new] = &rates.volumes[..] else { panic!("{rates:?}") };
    assert_eq!((busy.write.iops, busy.write.bytes, busy.queue_depth), (1024.0, 4_194_304.0, 64));
    assert_eq!((new.write.iops, new.read.iops), (128.0, 0.0));
    assert_eq!((rates.store.syncs, rates.store.callers_per_sync), (100.0, Some(4.0)));
}

#[test]
fn a_restarted_server_begins_anew() {
    let before = answer(9_000_000, 800, json!([volume(IDS[0], "busy", 5000)]));
    let now = answer(1_000_000, 10, json!([volume(IDS[0], "busy", 10)]));
    let rates = Rates::between(&before, &now);
    assert_eq!(
        (rates.volumes[0].write.iops, rates.volumes[0].p99_us, rates.store.syncs),
        (0.0, None, 0.0)
    );
}

#[test]
fn percentiles_lie_within_their_bucket() {
    let bounds = [8, 16, 32];
    for (counts, part, expected) in [
        ([0, 0, 0, 0], 0.5, None),
        ([0, 100, 0, 0], 0.5, Some(12.0)),
        ([0, 100, 0, 0], 1.0, Some(16.0)),
        ([50, 0, 50, 0], 0.5, Some(8.0)),
        ([50, 0, 50, 0], 0.75, Some(24.0)),
        ([0, 0, 0, 7], 0.5, Some(32.0)),
    ] {
        assert_eq!(percentile(&counts, &bounds, part), expected, "{counts:?} {part}");
    }
}

#[test]
fn the_table_has_a_line_for_the_store_and_one_a_volume() {
    let lines = table::lines(&rates(), Sort::Bytes, Order::Down);
    for part in
        ["ready", "32G of 64G free", "log 400.0 MiB/s", "100 syncs/s for 4.0 callers each", "scrub"]
    {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
    assert!(!lines[0].contains("reclaim"), "{}", lines[0]);
    assert!(lines[2].starts_with("NAME"), "{}", lines[2]);
    let busy: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(busy, ["busy", "1", "0", "0.0", "1024", "4.0", "12µs", "16µs", "64", "75%", "2M"]);
    assert!(lines[4].starts_with(IDS[1]), "what has no name is called by its id: {}", lines[4]);
}

#[test]
fn each_key_press_sorts_by_another_column_until_all_had_their_turn() {
    let mut sort = Sort::Bytes;
    for _ in 0..5 {
        let down = table::lines(&rates(), sort, Order::Down);
        assert!(down[1].contains("by "), "{}", down[1]);
        sort = sort.next();
    }
    assert_eq!(sort, Sort::Bytes);
    let up = table::lines(&rates(), Sort::Iops, Order::Up);
    assert!(up[3].starts_with(IDS[1]), "{up:?}");
}
