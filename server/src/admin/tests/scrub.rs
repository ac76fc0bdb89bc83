//! The scrub, asked for and watched.

use super::harness::Server;
use std::time::Duration;

#[tokio::test]
async fn scrub_runs_when_asked_for_and_is_counted_for_scrapers() {
    let server = Server::start().await;
    server.create(serde_json::json!({ "name": "disk" })).await;
    let never = server.call("GET", "/api/v1/admin/scrub", "").await.data(200);
    assert_eq!((&never["running"], &never["passes"]), (&false.into(), &0.into()));

    let started = server.call("POST", "/api/v1/admin/scrub", "").await.data(202);
    let passes = |status: &serde_json::Value| status["passes"].as_u64().unwrap();
    assert!(started["running"] == true || passes(&started) > 0, "{started}");
    let ended = loop {
        let status = server.call("GET", "/api/v1/admin/scrub", "").await.data(200);
        if status["running"] == false {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(
        (passes(&ended), &ended["volumes"], &ended["volumes_done"]),
        (1, &1.into(), &1.into())
    );
    assert_eq!((&ended["corrupt_bytes"], &ended["corrupt"]), (&0.into(), &serde_json::json!([])));
    assert_eq!((&ended["rotten_bytes"], &ended["rots"]), (&0.into(), &serde_json::json!([])));

    let text = server.call("GET", "/metrics", "").await.text;
    for line in [
        "sandstone_scrub_passes_total 1",
        "sandstone_scrub_corrupt_bytes_total 0",
        "sandstone_scrub_rotten_bytes_total 0",
        "sandstone_store_corrupt_blocks_total 0",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
    }
    assert!(text.contains("# TYPE sandstone_scrub_checked_bytes_total counter\n"), "{text}");
    assert!(text.contains("sandstone_scrub_running 0\n"), "{text}");
}
