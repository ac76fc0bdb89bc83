//! Probes, metrics, request ids.

use super::harness::{Answer, Server, VOLUMES};
use crate::watchdog::Heartbeat;
use axum::{body::Body, http::Request};
use serde_json::json;
use std::{sync::Arc, time::Duration};

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn probes_need_no_token_and_readiness_ends_when_the_server_stops() {
    let server = Server::start().await;
    assert_eq!(get(&server, "/healthz", &[]).await.data(200)["status"], "ok");
    let ready = get(&server, "/readyz", &[]).await.data(200);
    assert_eq!(ready["status"], "ready");
    // Of whatever file system the temporary directory is.
    assert!(
        ["in_place", "moving", "buffered", "memory"]
            .contains(&ready["store"]["placement"].as_str().unwrap())
    );
    assert!(!ready["store"]["told"].as_str().unwrap().is_empty());
    server.admin.begin_stopping();
    get(&server, "/readyz", &[]).await.error(503, "unavailable");
    get(&server, "/healthz", &[]).await.data(200);
}

#[tokio::test]
async fn thread_that_hangs_turns_readiness_red_with_the_reason_until_it_goes_on() {
    let patience = Duration::from_secs(2);
    let worker = Heartbeat::new("worker-3");
    let server = Server::start_watching(vec![Arc::clone(&worker)], patience).await;
    worker.beat();
    get(&server, "/readyz", &[]).await.data(200);
    let watched = tokio::spawn({
        let watchdog = Arc::clone(&server.admin.watchdog);
        async move { watchdog.watch().await }
    });
    // Two ticks later than it must be told.
    tokio::time::sleep(patience + Duration::from_secs(2)).await;
    let error = get(&server, "/readyz", &[]).await.error(503, "unavailable");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("the thread worker-3 has not come round for "), "{message}");
    get(&server, "/healthz", &[]).await.data(200);
    let metrics = get(&server, "/metrics", &[]).await.text;
    for line in ["sandstone_stalls_total 1", "sandstone_stalled 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line:?} is not in\n{metrics}");
    }
    worker.beat();
    get(&server, "/readyz", &[]).await.data(200);
    watched.abort();
}

#[tokio::test]
async fn metrics_count_volumes_and_requests_by_route() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let id = volume["id"].as_str().unwrap();
    server.call("GET", &format!("{VOLUMES}/{id}"), "").await.data(200);
    server.call("GET", "/api/v1/nothing", "").await.error(404, "not_found");
    let answer = get(&server, "/metrics", &[]).await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "sandstone_volumes 1",
        "sandstone_attachments 0",
        "sandstone_store_ready 1",
        "# TYPE sandstone_http_requests_total counter",
        "sandstone_http_requests_total{method=\"POST\",route=\"/api/v1/sandboxvolumes\",status=\"201\"} 1",
        "sandstone_http_requests_total{method=\"GET\",route=\"/api/v1/sandboxvolumes/{id}\",status=\"200\"} 1",
        "sandstone_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
    ] {
        assert!(
            answer.text.lines().any(|found| found == line),
            "{line:?} is not in\n{}",
            answer.text
        );
    }
    assert!(answer.text.contains("sandstone_store_capacity_bytes "));
    assert!(!answer.text.contains(id), "ids are no labels");
    assert!(!answer.text.contains("# EOF"));

    let openmetrics =
        get(&server, "/metrics", &[("accept", "application/openmetrics-text;version=1.0.0")]).await;
    assert_eq!(
        openmetrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(openmetrics.text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn answers_carry_the_callers_request_id_where_it_is_sane() {
    let server = Server::start().await;
    let answer = get(&server, "/healthz", &[("x-request-id", "My-id_1.2")]).await;
    assert_eq!(answer.headers["x-request-id"], "My-id_1.2");
    for odd in ["", "a b", "a\"b", &"x".repeat(129)] {
        let answer = get(&server, "/nowhere", &[("x-request-id", odd)]).await;
        answer.error(404, "not_found");
        let own = answer.headers["x-request-id"].to_str().unwrap();
        assert!(uuid::Uuid::try_parse(own).is_ok(), "{own}");
    }
}
