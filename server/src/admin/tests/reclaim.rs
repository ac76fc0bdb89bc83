//! Reclaim, asked for and watched.

use super::harness::{Server, path};
use serde_json::{Value, json};
use std::time::Duration;

const RECLAIM: &str = "/api/v1/admin/reclaim";
/// Blocks of a segment and some.
const BLOCKS: u64 = (65 << 20) / 4096;

async fn started(server: &Server) -> Value {
    server.call("POST", RECLAIM, "{}").await.data(202)
}

/// The progress once the run has ended.
async fn ended(server: &Server) -> Value {
    for _ in 0..1000 {
        let progress = server.call("GET", RECLAIM, "").await.data(200);
        if progress["running"] == json!(false) {
            return progress;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it runs for ever");
}

#[tokio::test]
async fn reclaim_runs_in_the_background_and_counts_from_its_beginning() {
    let server = Server::start().await;
    let never = server.call("GET", RECLAIM, "").await.data(200);
    assert!(never["store_allocated_bytes"].as_u64().unwrap() > 0, "{never}");
    let expected = json!({
        "running": false, "phase": "idle", "rounds": 0, "marked_nodes": 0, "freed_bytes": 0, "forwarded_bytes": 0,
        "punched_bytes": 0, "store_allocated_bytes": never["store_allocated_bytes"], "error": null,
    });
    assert_eq!(never, expected);

    let volume = server.create(json!({})).await;
    for first in (0..BLOCKS).step_by(1024) {
        server.fill(&volume, first..(first + 1024).min(BLOCKS), 7).await;
    }
    server.call("DELETE", &path(&volume), "").await.data(200);
    let first = started(&server).await;
    assert_eq!((&first["running"], &first["error"]), (&json!(true), &Value::Null), "{first}");
    let joined = started(&server).await;
    assert!(joined["rounds"].as_u64() >= first["rounds"].as_u64(), "{joined}");
    let first = ended(&server).await;
    assert!(first["freed_bytes"].as_u64().unwrap() >= 64 << 20, "{first}");
    assert_eq!((&first["phase"], &first["error"]), (&json!("idle"), &Value::Null), "{first}");

    // The next one counts anew.
    started(&server).await;
    let next = ended(&server).await;
    assert!(next["freed_bytes"].as_u64() < first["freed_bytes"].as_u64(), "{next}");
    assert!(next["store_allocated_bytes"].as_u64().unwrap() < 32 << 20, "{next}");
}

#[tokio::test]
async fn reclaim_that_fails_says_why_and_may_be_tried_again() {
    let server = Server::start().await;
    let store = server.admin.store.clone();
    server.admin.store_thread.run(move || async move { store.close().await }).await.unwrap();
    for _ in 0..2 {
        started(&server).await;
        let failed = ended(&server).await;
        assert!(failed["error"].as_str().is_some_and(|why| why.contains("closed")), "{failed}");
    }
}

#[tokio::test]
async fn reclaim_is_counted_for_scrapers() {
    let server = Server::start().await;
    started(&server).await;
    let rounds = ended(&server).await["rounds"].clone();
    let text = server.call("GET", "/metrics", "").await.text;
    for counter in ["rounds", "marked_nodes", "freed_bytes", "forwarded_bytes", "punched_bytes"] {
        let family = format!("sandstone_reclaim_{counter}_total");
        assert!(
            text.contains(&format!("# TYPE {family} counter\n{family} ")),
            "{family} is not in\n{text}"
        );
    }
    assert!(
        text.contains(&format!("sandstone_reclaim_rounds_total {rounds}\n")),
        "not {rounds} in\n{text}"
    );
}
