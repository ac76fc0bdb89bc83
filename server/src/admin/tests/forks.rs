//! Forks of volumes and snapshots.

use super::harness::{Server, VOLUMES, path};
use futures_util::future::join_all;
use serde_json::{Value, json};

#[tokio::test]
async fn a_fork_inherits_size_and_tuning_and_neither_name_nor_access_mode() {
    let server = Server::start().await;
    let asked = json!({
        "name": "base", "size": "8M", "access_mode": "RWX", "cache_size": "2gb", "buffer_size": "1048576",
        "prefetch": 8, "writeback": true,
    });
    let source = server.create(asked).await;
    server.fill(&source, 0..2, 1).await;
    let fork = server.call("POST", &format!("{}/fork", path(&source)), "").await.data(201);
    let mut expected = source.clone();
    expected.as_object_mut().unwrap().remove("name");
    for field in ["id", "created_at", "updated_at", "export_name", "uris", "exclusive_bytes"] {
        expected[field] = fork[field].clone();
    }
    expected["source_volume_id"] = source["id"].clone();
    expected["access_mode"] = json!("RWO");
    expected["used_bytes"] = json!(8192);
    assert_eq!(fork, expected);
    assert_ne!(fork["id"], source["id"]);
    let settings =
        |volume: &Value| server.volume(volume["id"].as_str().unwrap()).unwrap().volume.settings();
    assert_eq!(settings(&fork), settings(&source));

    server.fill(&fork, 0..1, 2).await;
    server.fill(&source, 1..2, 3).await;
    assert_eq!((server.byte(&fork, 0).await, server.byte(&fork, 1).await), (2, 1));
    assert_eq!((server.byte(&source, 0).await, server.byte(&source, 1).await), (1, 3));
}

#[tokio::test]
async fn a_fork_may_differ_in_all_that_it_inherits() {
    let server = Server::start().await;
    let source = server.create(json!({ "size": "8M" })).await;
    let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
    let asked = json!({
        "id": id, "name": "mine", "size": "16M", "access_mode": "rox", "cache_size": "5M", "buffer_size": "6M",
        "prefetch": 7, "writeback": true, "default_posix_uid": 1,
    });
    let forks = format!("{}/fork", path(&source));
    let fork = server.call("POST", &forks, &asked.to_string()).await.data(201);
    for (field, value) in [
        ("id", json!(id)),
        ("name", json!("mine")),
        ("size_bytes", json!(16 << 20)),
        ("access_mode", json!("ROX")),
        ("cache_size", json!("5M")),
        ("buffer_size", json!("6M")),
        ("prefetch", json!(7)),
        ("writeback", json!(true)),
    ] {
        assert_eq!(fork[field], value, "{field}");
    }
    server.call("POST", &forks, &asked.to_string()).await.error(409, "conflict");
    let error = server.call("POST", &forks, r#"{"size":"4M"}"#).await.error(400, "bad_request");
    assert_eq!(
        (&error["details"]["field"], &error["details"]["size_bytes"]),
        (&json!("size"), &json!(8 << 20))
    );
    let error = server.call("POST", &forks, r#"{"prefetch":-1}"#).await.error(400, "bad_request");
    assert_eq!(error["details"]["field"], "prefetch");
    server.call("POST", &forks, "nonsense").await.error(400, "bad_request");
    assert_eq!(server.admin.registry.volume_count(), 2);
}

#[tokio::test]
async fn a_fork_of_a_snapshot_has_its_content_and_size_and_outlives_both() {
    let server = Server::start().await;
    let volume = server.create(json!({ "size": "8M", "cache_size": "3M" })).await;
    server.fill(&volume, 0..1, 1).await;
    let snapshot = server.snapshot(&volume, "before").await;
    server.fill(&volume, 0..1, 2).await;
    let body = r#"{"size":"16M","cache_size":"4M","prefetch":3}"#;
    server.call("PATCH", &path(&volume), body).await.data(200);
    let fork = server.call("POST", &format!("{}/fork", path(&snapshot)), "{}").await.data(201);
    assert_eq!(fork["source_volume_id"], volume["id"]);
    assert_eq!(fork["source_snapshot_id"], snapshot["id"]);
    assert_eq!(fork["size_bytes"], 8 << 20);
    // Tuning is the volume's, as it is now.
    assert_eq!((&fork["cache_size"], &fork["prefetch"]), (&json!("4M"), &json!(3)));
    let settings = server.volume(fork["id"].as_str().unwrap()).unwrap().volume.settings();
    assert_eq!((settings.cache_bytes, settings.prefetch_mib), (4 << 20, 3));

    let of_fork = server.call("POST", &format!("{}/fork", path(&fork)), "").await.data(201);
    assert_eq!(of_fork["source_volume_id"], fork["id"]);
    assert!(of_fork.get("source_snapshot_id").is_none());
    server.call("DELETE", &path(&volume), "").await.data(200);
    server.call("GET", &path(&snapshot), "").await.error(404, "not_found");
    assert_eq!((server.byte(&fork, 0).await, server.byte(&of_fork, 0).await), (1, 1));
}

#[tokio::test]
async fn forks_and_changes_at_once_agree_on_one_record() {
    let server = Server::start().await;
    let source = server.create(json!({ "cache_size": "1M" })).await;
    let forks = format!("{}/fork", path(&source));
    let texts = ["2M", "3M", "4M"].map(|text| json!({ "cache_size": text }).to_string());
    let path = path(&source);
    let changes = join_all(texts.iter().map(|body| server.call("PATCH", &path, body)));
    let made = join_all((0..16).map(|_| server.call("POST", &forks, "")));
    let (changes, made) = tokio::join!(changes, made);
    changes.into_iter().for_each(|answer| drop(answer.data(200)));
    for answer in made {
        let fork = answer.data(201);
        let entry = server.volume(fork["id"].as_str().unwrap()).unwrap();
        let text = format!("{}M", entry.volume.settings().cache_bytes >> 20);
        assert_eq!(fork["cache_size"], text);
    }
    assert_eq!(server.call("GET", VOLUMES, "").await.data(200).as_array().unwrap().len(), 17);
}
