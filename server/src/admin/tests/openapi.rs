//! The description against what the server really answers.

use super::harness::{Answer, Server};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// All routes: a change of this list is a change of the contract.
const ROUTES: [(&str, &str); 27] = [
    ("get", "/api/v1/admin/mounts"),
    ("get", "/api/v1/admin/reclaim"),
    ("post", "/api/v1/admin/reclaim"),
    ("get", "/api/v1/admin/scrub"),
    ("post", "/api/v1/admin/scrub"),
    ("get", "/api/v1/admin/stats"),
    ("post", "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/mount"),
    ("get", "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/status"),
    ("post", "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/unmount"),
    ("get", "/api/v1/sandboxvolumes"),
    ("post", "/api/v1/sandboxvolumes"),
    ("delete", "/api/v1/sandboxvolumes/{id}"),
    ("get", "/api/v1/sandboxvolumes/{id}"),
    ("patch", "/api/v1/sandboxvolumes/{id}"),
    ("get", "/api/v1/sandboxvolumes/{id}/diff"),
    ("post", "/api/v1/sandboxvolumes/{id}/fork"),
    ("get", "/api/v1/sandboxvolumes/{id}/snapshots"),
    ("post", "/api/v1/sandboxvolumes/{id}/snapshots"),
    ("delete", "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}"),
    ("get", "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}"),
    ("post", "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/fork"),
    ("post", "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/restore"),
    ("get", "/api/v1/store"),
    ("get", "/healthz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/readyz"),
];

async fn document(server: &Server) -> Value {
    server.call("GET", "/openapi.json", "").await.json()
}

/// Every operation of the description: method, path, what it says.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((method.as_str(), path.as_str(), operation));
        }
    }
    operations
}

#[tokio::test]
async fn the_description_holds_every_route_and_no_other() {
    let server = Server::start().await;
    let document = document(&server).await;
    let described: BTreeSet<_> =
        operations(&document).iter().map(|(method, path, _)| (*method, *path)).collect();
    assert_eq!(described, BTreeSet::from(ROUTES));
}

#[tokio::test]
async fn every_operation_is_described_with_its_failures() {
    let server = Server::start().await;
    let document = document(&server).await;
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{place}");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{place}");
        let responses = operation["responses"].as_object().unwrap();
        assert_eq!(responses.contains_key("401"), path.starts_with("/api/"), "{place}");
        assert_eq!(operation.get("security").is_some(), !path.starts_with("/api/"), "{place}");
        for (status, response) in responses {
            assert!(!response["description"].as_str().unwrap().is_empty(), "{place} {status}");
            assert!(response["content"].is_object(), "{place} {status}");
        }
        for parameter in
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        {
            let parameters = operation["parameters"].as_array().unwrap();
            let described = parameters.iter().find(|described| described["name"] == parameter);
            let described = described.unwrap_or_else(|| panic!("{place} {parameter}"));
            assert_eq!(described["required"], true, "{place} {parameter}");
            assert!(described["description"].is_string(), "{place} {parameter}");
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_description_has_its_target() {
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
    let server = Server::start().await;
    let document = document(&server).await;
    visit(&document, &document);
}

/// Calls the server, and holds its answers and what it is sent against the description.
struct Checked {
    server: Server,
    document: Value,
    called: BTreeSet<(String, String)>,
}

impl Checked {
    /// Calls `method` of the described `path` with ids in place of its parameters.
    async fn call(&mut self, method: &str, path: &str, ids: &[&Value], body: Value) -> Answer {
        let mut called = String::new();
        let mut ids = ids.iter();
        for part in path.trim_start_matches('/').split('/') {
            let part =
                if part.starts_with('{') { ids.next().unwrap().as_str().unwrap() } else { part };
            called.push('/');
            called.push_str(part);
        }
        let template = path.split('?').next().unwrap().to_owned();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.server.call(&method.to_uppercase(), &called, &text).await;
        let operation = self.document["paths"][&template][method].clone();
        let place = format!("{method} {called}");
        if !body.is_null() && answer.status.is_success() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            self.check(&format!("{place}, body"), schema, &body);
        }
        let response = &operation["responses"][answer.status.as_str()];
        assert!(
            response.is_object(),
            "{place}: {} is not described: {}",
            answer.status,
            answer.text
        );
        let schema = &response["content"]["application/json"]["schema"];
        if schema.is_object() {
            self.check(&place, schema, &answer.json());
        } else {
            let kind = answer.headers["content-type"].to_str().unwrap().split(';').next().unwrap();
            assert!(response["content"][kind].is_object(), "{place}: {kind} is not described");
        }
        self.called.insert((method.to_owned(), template));
        answer
    }

    /// Whether a value is what the schema says, and has no field that the schema does not name.
    fn check(&self, place: &str, schema: &Value, value: &Value) {
        let mut root = schema.clone();
        root["components"] = self.document["components"].clone();
        refuse_unknown_fields(&mut root, &self.document);
        let validator =
            jsonschema::draft202012::options().should_validate_formats(true).build(&root).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{place}: {errors:?} in {value}");
    }
}

/// An object has no other fields than the ones that are named, also where it is put together from
/// several.
fn refuse_unknown_fields(schema: &mut Value, document: &Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(parts) = fields.get_mut("allOf") {
                resolve_parts(parts, document);
                fields.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
            } else if fields.get("properties").is_some_and(Value::is_object) {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            for (_, value) in fields.iter_mut().filter(|(name, _)| *name != "allOf") {
                refuse_unknown_fields(value, document);
            }
        }
        Value::Array(values) => {
            values.iter_mut().for_each(|value| refuse_unknown_fields(value, document))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Puts the schemas of an object's parts in the place of their references, which stay open for the
/// fields of others.
fn resolve_parts(parts: &mut Value, document: &Value) {
    for part in parts.as_array_mut().into_iter().flatten() {
        if let Some(reference) = part["$ref"].as_str() {
            *part = document.pointer(&reference[1..]).unwrap().clone();
        }
        if let Some(parts) = part.get_mut("allOf") {
            resolve_parts(parts, document);
        }
    }
}

#[tokio::test]
async fn answers_of_every_route_are_what_is_described() {
    const VOLUMES: &str = "/api/v1/sandboxvolumes";
    const VOLUME: &str = "/api/v1/sandboxvolumes/{id}";
    const SNAPSHOTS: &str = "/api/v1/sandboxvolumes/{id}/snapshots";
    const SNAPSHOT: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}";
    const MOUNTS: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes";
    let server = Server::start().await;
    let document = document(&server).await;
    let mut checked = Checked { server, document, called: BTreeSet::new() };

    let new = json!({ "name": "disk", "size": "8M", "iops_max": 10, "bytes_per_second_max": "1M" });
    let volume = checked.call("post", VOLUMES, &[], new.clone()).await.data(201);
    checked.call("post", VOLUMES, &[], new).await.error(409, "conflict");
    checked.call("post", VOLUMES, &[], json!({ "size": -1 })).await.error(400, "bad_request");
    let bare = checked.call("post", VOLUMES, &[], json!({})).await.data(201);
    checked.server.fill(&volume, 0..4, 1).await;
    checked.call("get", VOLUMES, &[], Value::Null).await.data(200);
    let id = &volume["id"];
    checked.call("get", VOLUME, &[id], Value::Null).await.data(200);
    checked.call("get", VOLUME, &[&json!("none")], Value::Null).await.error(404, "not_found");
    checked
        .call("patch", VOLUME, &[id], json!({ "writeback": true, "size": 9 << 20 }))
        .await
        .data(200);
    checked.call("patch", VOLUME, &[id], json!({ "size": "4K" })).await.error(400, "bad_request");

    let new = json!({ "name": "s", "description": "d" });
    let snapshot = checked.call("post", SNAPSHOTS, &[id], new).await.data(201);
    let of = [id, &snapshot["id"]];
    checked.call("get", SNAPSHOTS, &[id], Value::Null).await.data(200);
    checked.call("get", SNAPSHOT, &of, Value::Null).await.data(200);
    checked.server.fill(&volume, 2..6, 2).await;
    let diff = format!("{VOLUME}/diff?from={}&limit=1", snapshot["id"].as_str().unwrap());
    let page = checked.call("get", &diff, &[id], Value::Null).await.data(200);
    assert!(page["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty()), "{page}");
    checked
        .call("get", &format!("{VOLUME}/diff"), &[id], Value::Null)
        .await
        .error(400, "bad_request");
    checked.call("post", &format!("{SNAPSHOT}/restore"), &of, Value::Null).await.data(200);
    let fork = checked.call("post", &format!("{VOLUME}/fork"), &[id], Value::Null).await.data(201);
    let named = json!({ "name": "fork", "prefetch": 8 });
    checked.call("post", &format!("{SNAPSHOT}/fork"), &of, named).await.data(201);

    let sandbox = &json!("agent-1");
    let new = json!({ "sandboxvolume_id": fork["id"], "mount_point": "/work", "volume_config": { "prefetch": 1 } });
    let mount =
        checked.call("post", &format!("{MOUNTS}/mount"), &[sandbox], new.clone()).await.data(200);
    let held = checked.call("post", &format!("{MOUNTS}/mount"), &[&json!("agent-2")], new).await;
    assert!(held.error(409, "conflict")["details"]["holder"].is_object());
    checked.call("get", VOLUME, &[&fork["id"]], Value::Null).await.data(200);
    let in_use = checked.call("delete", VOLUME, &[&fork["id"]], Value::Null).await;
    assert_eq!(in_use.error(409, "conflict")["details"]["active_mounts"], 1);
    checked.call("get", &format!("{MOUNTS}/status"), &[sandbox], Value::Null).await.data(200);
    checked.call("get", "/api/v1/admin/mounts", &[], Value::Null).await.data(200);
    let end =
        json!({ "sandboxvolume_id": fork["id"], "mount_session_id": mount["mount_session_id"] });
    checked.call("post", &format!("{MOUNTS}/unmount"), &[sandbox], end).await.data(200);

    for path in ["/api/v1/admin/reclaim", "/api/v1/admin/scrub"] {
        checked.call("get", path, &[], Value::Null).await.data(200);
        checked.call("post", path, &[], Value::Null).await.data(202);
        while checked.call("get", path, &[], Value::Null).await.data(200)["running"] == true {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    checked.server.attach_obedient(&bare).await;
    for path in ["/api/v1/admin/stats", "/api/v1/store", "/healthz", "/readyz"] {
        checked.call("get", path, &[], Value::Null).await.data(200);
    }
    for path in ["/metrics", "/openapi.json"] {
        assert!(checked.call("get", path, &[], Value::Null).await.status.is_success());
    }
    checked.call("delete", SNAPSHOT, &of, Value::Null).await.data(200);
    checked.call("delete", VOLUME, &[id], Value::Null).await.data(200);

    let called: BTreeSet<(&str, &str)> =
        checked.called.iter().map(|(method, path)| (method.as_str(), path.as_str())).collect();
    assert_eq!(called, BTreeSet::from(ROUTES));
}

#[tokio::test]
async fn every_route_is_really_there() {
    let server = Server::start().await;
    for (method, path) in ROUTES {
        let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
        let path = path
            .replace("{id}", id)
            .replace("{snapshot_id}", id)
            .replace("{sandbox_id}", "agent-1");
        let answer = server.call(&method.to_uppercase(), &path, "{}").await;
        assert_ne!(answer.status.as_u16(), 405, "{method} {path}");
        assert!(!answer.text.contains("there is no route"), "{method} {path}");
    }
}
