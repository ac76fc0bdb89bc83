//! The description against the router.

use super::harness::{Server, path};
use crate::admin::{router, store::OPENAPI};
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn the_description_holds_every_route_and_no_other() {
    const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| METHODS.contains(&key.as_str())) {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routed: BTreeSet<_> =
        router::all().iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(described, routed);
}

#[test]
fn every_reference_of_the_description_has_its_target() {
    fn visit(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                }
                fields.values().for_each(|value| visit(value, document));
            }
            Value::Array(values) => values.iter().for_each(|value| visit(value, document)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    visit(&document, &document);
}

#[tokio::test]
async fn described_answers_have_the_fields_of_real_ones() {
    let server = Server::start().await;
    let volume = server
        .create(serde_json::json!({ "name": "disk", "iops_max": 10, "bytes_per_second_max": "1M" }))
        .await;
    let body = serde_json::json!({ "name": "s", "description": "d" }).to_string();
    let snapshot = server.call("POST", &format!("{}/snapshots", path(&volume)), &body).await.data(201);
    let fork = server.call("POST", &format!("{}/fork", path(&snapshot)), "").await.data(201);
    let reclaim = server.call("GET", "/api/v1/admin/reclaim", "").await.data(200);
    let scrub = server.call("GET", "/api/v1/admin/scrub", "").await.data(200);
    let stats = server.call("GET", "/api/v1/admin/stats", "").await.data(200);
    let store = server.call("GET", "/api/v1/store", "").await.data(200);
    let body = serde_json::json!({ "sandboxvolume_id": fork["id"], "mount_point": "/work" }).to_string();
    let mount = server.call("POST", "/api/v1/sandboxes/agent-1/sandboxvolumes/mount", &body).await.data(200);
    let mounted = server.call("GET", &path(&fork), "").await.data(200);
    let attachment = mounted["mounts"][0].clone();
    let document = server.call("GET", "/openapi.json", "").await.json();
    for (schema, answer) in [
        ("Store", store),
        ("Volume", volume),
        ("Volume", fork),
        ("Volume", mounted),
        ("Snapshot", snapshot),
        ("Mount", mount),
        ("Attachment", attachment),
        ("Reclaim", reclaim),
        ("Scrub", scrub),
        ("Stats", stats),
    ] {
        let schema = &document["components"]["schemas"][schema];
        for required in schema["required"].as_array().unwrap() {
            assert!(answer.get(required.as_str().unwrap()).is_some(), "{required} is missing in {answer}");
        }
        for field in answer.as_object().unwrap().keys() {
            assert!(schema["properties"].get(field).is_some(), "{field} is not described");
        }
    }
}

#[tokio::test]
async fn every_route_is_really_there() {
    let server = Server::start().await;
    for route in router::all() {
        let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
        let path =
            route.path.replace("{id}", id).replace("{snapshot_id}", id).replace("{sandbox_id}", "agent-1");
        let answer = server.call(route.method, &path, "{}").await;
        assert_ne!(answer.status.as_u16(), 405, "{} {}", route.method, route.path);
        assert!(!answer.text.contains("there is no route"), "{} {}", route.method, route.path);
    }
}
