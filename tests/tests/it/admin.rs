//! The admin port's contract: envelopes, codes, sizes, health.

use sandstone_tests::{Admin, Server};
use serde_json::{Value, json};
use std::io::{Read, Write};

const VOLUMES: &str = "/api/v1/sandboxvolumes";

#[test]
fn new_volume_has_every_field_with_its_default() {
    let server = Server::start();
    let admin = server.admin();
    let volume = admin.post(VOLUMES, &json!({})).unwrap().data(201);
    let expected = [
        ("access_mode", json!("RWO")),
        ("cache_size", json!("1G")),
        ("buffer_size", json!("32M")),
        ("prefetch", json!(0)),
        ("writeback", json!(false)),
        ("backend", json!("s0fs")),
        ("size_bytes", json!(1u64 << 30)),
        ("used_bytes", json!(0)),
        ("exclusive_bytes", json!(0)),
        ("state", json!("ready")),
        ("attachments", json!(0)),
    ];
    for (field, value) in expected {
        assert_eq!(volume[field], value, "{field}: {volume:#}");
    }
    for field in ["id", "team_id", "user_id", "created_at", "updated_at", "export_name"] {
        assert!(volume[field].is_string(), "{field}: {volume:#}");
    }
    assert!(volume.get("source_volume_id").is_none(), "{volume:#}");
    let uris: Vec<&str> =
        volume["uris"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(uris.iter().any(|u| u.starts_with("nbd://")), "{uris:?}");
    assert!(uris.iter().any(|u| u.starts_with("nbd+unix://")), "{uris:?}");
    let path = format!("{VOLUMES}/{}", volume["id"].as_str().unwrap());
    assert_eq!(admin.get(&path).unwrap().data(200), volume);
}

#[test]
fn sizes_are_echoed_as_given_and_counted_in_powers_of_two() {
    let server = Server::start();
    let admin = server.admin();
    for (text, bytes) in
        [("1000001", 1_000_001u64), ("8m", 8 << 20), ("8MiB", 8 << 20), ("2gb", 2 << 30)]
    {
        let fields = json!({ "size": text, "cache_size": "64Mi", "buffer_size": "16mb" });
        let volume = admin.post(VOLUMES, &fields).unwrap().data(201);
        assert_eq!(volume["size_bytes"], json!(bytes), "{text}");
        assert_eq!(
            (&volume["cache_size"], &volume["buffer_size"]),
            (&json!("64Mi"), &json!("16mb"))
        );
    }
}

#[test]
fn bad_fields_are_refused_by_name() {
    let server = Server::start();
    let admin = server.admin();
    let cases = [
        (json!({ "size": "lots" }), "size"),
        (json!({ "size": "0" }), "size"),
        (json!({ "size": "17T" }), "size"),
        (json!({ "cache_size": "-1" }), "cache_size"),
        (json!({ "buffer_size": "" }), "buffer_size"),
        (json!({ "prefetch": -1 }), "prefetch"),
        (json!({ "access_mode": "RWW" }), "access_mode"),
        (json!({ "writeback": "yes" }), "writeback"),
        (json!({ "id": "seven" }), "id"),
    ];
    for (fields, name) in cases {
        let message = admin.post(VOLUMES, &fields).unwrap().error(400, "bad_request");
        assert!(message.contains(name), "{fields}: {message}");
    }
    assert_eq!(admin.get(VOLUMES).unwrap().data(200), json!([]));
}

#[test]
fn null_and_unknown_fields_are_ignored() {
    let server = Server::start();
    let fields =
        json!({ "name": null, "prefetch": null, "default_posix_uid": 1000, "access_mode": "rox" });
    let volume = server.admin().post(VOLUMES, &fields).unwrap().data(201);
    assert_eq!(volume["access_mode"], "ROX");
}

#[test]
fn every_error_is_an_envelope() {
    let server = Server::start();
    let admin = server.admin();
    let missing = format!("{VOLUMES}/{}", uuid::Uuid::new_v4());
    admin.get(&missing).unwrap().error(404, "not_found");
    admin.patch(&missing, &json!({ "name": "x" })).unwrap().error(404, "not_found");
    admin.get("/api/v1/no/such/route").unwrap().error(404, "not_found");
    admin.get("/nothing").unwrap().error(404, "not_found");
    admin.send("PUT", VOLUMES, Some("{}".to_owned())).unwrap().error(405, "bad_request");
    for body in ["", "{", "[]", "nonsense"] {
        admin.send("POST", VOLUMES, Some(body.to_owned())).unwrap().error(400, "bad_request");
    }
    let answer = admin.send("POST", VOLUMES, Some("x".repeat(64 << 20))).map(|a| a.status);
    // The server may also cut such a sender off.
    assert!(answer.as_ref().map_or(true, |status| *status == 413), "{answer:?}");
}

/// A client keeps its connection, and would send the next request into one that the server has
/// ended because it did not read a body.
#[test]
fn refusal_of_a_body_says_that_the_connection_ends() {
    let server = Server::start();
    let address = server.admin_url().trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let head = format!("PUT {VOLUMES} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
}

#[test]
fn id_that_exists_is_a_conflict() {
    let server = Server::start();
    let id = uuid::Uuid::new_v4().to_string();
    server.create_volume(&json!({ "id": id }));
    server.admin().post(VOLUMES, &json!({ "id": id })).unwrap().error(409, "conflict");
}

#[test]
fn nobody_without_the_token_is_let_in() {
    let server = Server::start();
    for token in [None, Some("wrong".to_owned()), Some(String::new())] {
        let admin = Admin::new(server.admin_url(), token);
        admin.get(VOLUMES).unwrap().error(401, "unauthorized");
        admin.post(VOLUMES, &json!({})).unwrap().error(401, "unauthorized");
        assert_eq!(admin.get("/healthz").unwrap().status, 200);
        assert_eq!(admin.get("/readyz").unwrap().status, 200);
    }
}

#[test]
fn answers_are_json_with_a_request_id() {
    let server = Server::start();
    for path in [VOLUMES, "/nothing", "/healthz"] {
        let answer = server.admin().get(path).unwrap();
        assert!(answer.content_type.starts_with("application/json"), "{path}: {answer:?}");
        assert!(answer.request_id.is_some_and(|id| !id.is_empty()), "{path}");
    }
}

#[test]
fn attached_volume_is_a_conflict_with_its_mounts() {
    let server = Server::start();
    let volume = server.volume("8M");
    let path = format!("{VOLUMES}/{}", volume.id);
    let client = server.connect(&volume);
    assert_eq!(server.describe(&volume)["attachments"], 1);
    let answer = server.admin().delete(&path).unwrap();
    answer.error(409, "conflict");
    assert_eq!(answer.body["error"]["details"]["active_mounts"], 1, "{answer:?}");
    client.disconnect().unwrap();
    server.admin().delete(&path).unwrap().data(200);
    let again = server.admin().delete(&path).unwrap().data(200);
    assert_eq!(again, json!({ "deleted": true }));
}

#[test]
fn metrics_are_prometheus_text() {
    let server = Server::start();
    let volume = server.volume("8M");
    server.connect(&volume).write(0, &[7; 4096]).unwrap();
    let answer = server.admin().get("/metrics").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text.contains("# TYPE sandstone_"), "{}", answer.text);
    for line in answer.text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "no number ends: {line}");
    }
}
