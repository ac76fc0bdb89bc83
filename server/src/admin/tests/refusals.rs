//! What is refused, and that every refusal has the same envelope.

use super::harness::{Server, TOKEN, VOLUMES};
use crate::admin::base::BODY_BYTES_MAX;
use axum::{body::Body, http::Request};
use serde_json::json;

const SOME_VOLUME: &str = "/api/v1/sandboxvolumes/0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";

fn with_authorization(method: &str, path: &str, value: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(value) = value {
        request = request.header("authorization", value);
    }
    request.body(Body::from("{}")).unwrap()
}

#[tokio::test]
async fn nothing_below_api_is_told_without_the_token() {
    let server = Server::start().await;
    let almost = &TOKEN[1..];
    for path in [VOLUMES, SOME_VOLUME, "/api/v1/nothing", "/api/v2"] {
        for value in
            [None, Some(""), Some(TOKEN), Some("Bearer"), Some("Bearer "), Some("Basic YTpi")]
        {
            server.send(with_authorization("GET", path, value)).await.error(401, "unauthorized");
        }
        for token in [almost, "x", &format!("{TOKEN}x")] {
            let answer = server
                .send(with_authorization("POST", path, Some(&format!("Bearer {token}"))))
                .await;
            answer.error(401, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            assert!(!answer.text.contains(TOKEN));
        }
    }
}

#[tokio::test]
async fn the_scheme_is_matched_without_case() {
    let server = Server::start().await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        server
            .send(with_authorization("GET", VOLUMES, Some(&format!("{scheme} {TOKEN}"))))
            .await
            .data(200);
    }
}

#[tokio::test]
async fn unknown_routes_are_404_in_the_envelope() {
    let server = Server::start().await;
    for path in [
        "/",
        "/index.html",
        "/api/v1",
        "/api/v1/nothing",
        "/api/v1/sandboxvolumes/",
        "/api/v1/sandboxes/sb",
        &format!("{SOME_VOLUME}/snapshots/"),
        &format!("{SOME_VOLUME}/forks"),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let error = server.call(method, path, "").await.error(404, "not_found");
            assert!(error["message"].as_str().unwrap().contains(path), "{error}");
        }
    }
}

#[tokio::test]
async fn wrong_methods_are_405_in_the_envelope() {
    let server = Server::start().await;
    for (method, path) in [
        ("PUT", VOLUMES),
        ("DELETE", VOLUMES),
        ("POST", SOME_VOLUME),
        ("BREW", SOME_VOLUME),
        ("POST", "/healthz"),
        ("DELETE", "/metrics"),
    ] {
        let answer = server.call(method, path, "").await;
        answer.error(405, "bad_request");
        assert!(answer.headers["allow"].to_str().unwrap().contains("GET"), "{method} {path}");
    }
}

#[tokio::test]
async fn unknown_volumes_are_404() {
    let server = Server::start().await;
    for id in [
        "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de",
        "00000000-0000-0000-0000-000000000000",
        "x",
        "%2e%2e",
        "a%20b",
    ] {
        for (method, body) in [("GET", ""), ("PATCH", "{}")] {
            server.call(method, &format!("{VOLUMES}/{id}"), body).await.error(404, "not_found");
        }
    }
    server.call("GET", &format!("{VOLUMES}/%ff"), "").await.error(400, "bad_request");
}

#[tokio::test]
async fn a_body_that_is_missing_or_broken_says_where() {
    let server = Server::start().await;
    for (body, words) in [
        ("", "missing"),
        ("[]", "an array"),
        ("\"x\"", "a string"),
        ("null", "null"),
        ("{\"size\": }", "line 1, column 10"),
        ("{\n  \"size\": \"1G\",\n}", "line 3, column 1"),
        ("{} {}", "line 1, column 4"),
        ("{\"a\": \"\u{1}\"}", "line 1"),
    ] {
        for (method, path) in [("POST", VOLUMES), ("PATCH", SOME_VOLUME)] {
            let error = server.call(method, path, body).await.error(400, "bad_request");
            assert!(error["message"].as_str().unwrap().contains(words), "{body:?}: {error}");
        }
    }
    let not_utf8 = Request::builder()
        .method("POST")
        .uri(VOLUMES)
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Body::from(&b"{\"name\": \"\xff\"}"[..]))
        .unwrap();
    server.send(not_utf8).await.error(400, "bad_request");
}

#[tokio::test]
async fn a_body_past_the_limit_is_413_whether_announced_or_not() {
    let server = Server::start().await;
    let fits = format!("{{\"ignored\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX - 14));
    assert_eq!(fits.len(), BODY_BYTES_MAX);
    server.call("POST", VOLUMES, &fits).await.data(201);
    server.call("POST", VOLUMES, &format!("{fits} ")).await.error(413, "bad_request");

    let announced = Request::builder()
        .method("POST")
        .uri(VOLUMES)
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-length", "1000000000000")
        .body(Body::empty())
        .unwrap();
    server.send(announced).await.error(413, "bad_request");
}

#[tokio::test]
async fn wrong_fields_are_named_with_what_is_allowed() {
    let server = Server::start().await;
    for (body, field) in [
        (json!({ "size": "0" }), "size"),
        (json!({ "size": [] }), "size"),
        (json!({ "cache_size": 5 }), "cache_size"),
        (json!({ "buffer_size": "2G" }), "buffer_size"),
        (json!({ "prefetch": -1 }), "prefetch"),
        (json!({ "writeback": 1 }), "writeback"),
        (json!({ "access_mode": "RW" }), "access_mode"),
        (json!({ "name": "a/b" }), "name"),
        (json!({ "id": "x" }), "id"),
    ] {
        let error = server.call("POST", VOLUMES, &body.to_string()).await.error(400, "bad_request");
        assert_eq!(error["details"]["field"], field);
        let allowed = error["details"]["allowed"].as_str().unwrap();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(field) && message.contains(allowed), "{error}");
    }
    assert_eq!(server.admin.registry.volume_count(), 0);
    server
        .call("DELETE", &format!("{SOME_VOLUME}?force=maybe"), "")
        .await
        .error(400, "bad_request");
}
