//! Volumes made, read, changed and deleted.

use super::harness::{DEFAULT_SIZE_BYTES, Server, VOLUMES, path};
use serde_json::json;

#[tokio::test]
async fn a_volume_of_defaults_has_every_field_that_clients_insist_on() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    for (field, value) in [
        ("team_id", json!("default")),
        ("user_id", json!("admin")),
        ("cache_size", json!("1G")),
        ("buffer_size", json!("32M")),
        ("prefetch", json!(0)),
        ("writeback", json!(false)),
        ("access_mode", json!("RWO")),
        ("backend", json!("s0fs")),
        ("state", json!("ready")),
        ("size_bytes", json!(DEFAULT_SIZE_BYTES)),
        ("used_bytes", json!(0)),
        ("exclusive_bytes", json!(0)),
        ("attachments", json!(0)),
        ("export_name", volume["id"].clone()),
        ("updated_at", volume["created_at"].clone()),
    ] {
        assert_eq!(volume[field], value, "{field}");
    }
    let id = volume["id"].as_str().unwrap();
    assert_eq!(
        volume["uris"],
        json!([
            format!("nbd://127.0.0.1:10809/{id}"),
            format!("nbd+unix:///{id}?socket=/srv/data/nbd.sock")
        ])
    );
    let created: jiff::Timestamp = volume["created_at"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(created).as_secs() < 60);
    assert!(volume["created_at"].as_str().unwrap().ends_with('Z'));
    for absent in ["name", "source_volume_id"] {
        assert!(volume.get(absent).is_none(), "{absent}");
    }
    assert_eq!(uuid::Uuid::try_parse(id).unwrap().get_version_num(), 4);
}

#[tokio::test]
async fn what_was_asked_for_is_echoed_as_given() {
    let server = Server::start().await;
    let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
    let asked = json!({
        "id": id, "name": "disk", "size": "10MiB", "access_mode": "rwx", "cache_size": "2gb", "buffer_size": "1048576",
        "prefetch": 8, "writeback": true, "default_posix_uid": 0,
    });
    let volume = server.create(asked).await;
    assert_eq!(volume["id"], id);
    assert_eq!(volume["name"], "disk");
    assert_eq!(volume["size_bytes"], 10 << 20);
    assert_eq!(volume["access_mode"], "RWX");
    assert_eq!(volume["cache_size"], "2gb");
    assert_eq!(volume["buffer_size"], "1048576");
    assert_eq!((&volume["prefetch"], &volume["writeback"]), (&json!(8), &json!(true)));
    assert_eq!(server.call("GET", &path(&volume), "").await.data(200), volume);

    let settings = server.volume("disk").unwrap().volume.settings();
    assert_eq!((settings.cache_bytes, settings.buffer_bytes), (2 << 30, 1 << 20));
    assert_eq!((settings.prefetch_mib, settings.writeback), (8, true));
}

#[tokio::test]
async fn lists_are_whole_and_newest_first() {
    let server = Server::start().await;
    assert_eq!(server.call("GET", VOLUMES, "").await.data(200), json!([]));
    let mut made = Vec::new();
    for i in 0..3 {
        made.push(server.create(json!({ "name": format!("n{i}") })).await);
    }
    made.reverse();
    assert_eq!(server.call("GET", VOLUMES, "").await.data(200), json!(made));
}

#[tokio::test]
async fn an_id_can_be_taken_only_once() {
    let server = Server::start().await;
    let body = json!({ "id": "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de" });
    server.create(body.clone()).await;
    server.call("POST", VOLUMES, &body.to_string()).await.error(409, "conflict");
    assert_eq!(server.admin.registry.volume_count(), 1);
}

#[tokio::test]
async fn a_change_touches_what_it_names_and_nothing_else() {
    let server = Server::start().await;
    let volume = server.create(json!({ "name": "old", "cache_size": "3M" })).await;
    let body = json!({ "name": "new", "size": "128M", "writeback": true, "access_mode": "ROX", "prefetch": null });
    let changed = server.call("PATCH", &path(&volume), &body.to_string()).await.data(200);
    let mut expected = volume.clone();
    expected["name"] = json!("new");
    expected["size_bytes"] = json!(128 << 20);
    expected["writeback"] = json!(true);
    expected["access_mode"] = json!("ROX");
    expected["updated_at"] = changed["updated_at"].clone();
    assert_eq!(changed, expected);
    assert!(changed["updated_at"].as_str() > volume["updated_at"].as_str());
    assert!(server.volume("old").is_none());
    assert!(server.volume("new").is_some());

    let same = server.call("PATCH", &path(&volume), "{}").await.data(200);
    assert_eq!(same, changed, "an empty change changes nothing");
}

#[tokio::test]
async fn a_volume_does_not_shrink() {
    let server = Server::start().await;
    let volume = server.create(json!({ "size": "64M" })).await;
    let error = server
        .call("PATCH", &path(&volume), r#"{"size":"32M","name":"x"}"#)
        .await
        .error(400, "bad_request");
    assert_eq!(error["details"]["field"], "size");
    assert_eq!(server.call("GET", &path(&volume), "").await.data(200), volume);
}

#[tokio::test]
async fn changes_at_once_do_not_undo_each_other() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let path = path(&volume);
    let (a, b, c) = tokio::join!(
        server.call("PATCH", &path, r#"{"name":"n"}"#),
        server.call("PATCH", &path, r#"{"access_mode":"RWX"}"#),
        server.call("PATCH", &path, r#"{"cache_size":"5M"}"#),
    );
    for answer in [a, b, c] {
        answer.data(200);
    }
    let now = server.call("GET", &path, "").await.data(200);
    assert_eq!(
        (&now["name"], &now["access_mode"], &now["cache_size"]),
        (&json!("n"), &json!("RWX"), &json!("5M"))
    );
}

#[tokio::test]
async fn deleting_is_done_also_when_there_is_nothing_to_delete() {
    let server = Server::start().await;
    let volume = server.create(json!({ "name": "disk" })).await;
    for _ in 0..2 {
        assert_eq!(
            server.call("DELETE", &path(&volume), "").await.data(200),
            json!({ "deleted": true })
        );
    }
    server.call("DELETE", &format!("{VOLUMES}/no-id-at-all"), "").await.data(200);
    server.call("GET", &path(&volume), "").await.error(404, "not_found");
    assert!(server.volume("disk").is_none());
    assert_eq!(server.call("GET", VOLUMES, "").await.data(200), json!([]));
}

#[tokio::test]
async fn a_volume_made_anew_while_its_deletion_ends_is_kept() {
    let server = Server::start().await;
    let volume = server.create(json!({ "name": "disk" })).await;
    let again = json!({ "id": volume["id"], "name": "disk" }).to_string();
    let locked = server
        .admin
        .registry
        .lock_exclusive(volume["id"].as_str().unwrap().parse().unwrap())
        .await
        .unwrap();
    // A deletion has reached the store, and not yet the registry.
    let (store, uuid) = (server.admin.store.clone(), locked.entry.volume.id());
    server
        .admin
        .store_thread
        .run(move || async move { store.delete_volume(uuid).await })
        .await
        .unwrap();
    // A change waits for the old one's locked, and then finds the new one.
    let path = path(&volume);
    let change = server.call("PATCH", &path, r#"{"prefetch":5}"#);
    let rest = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        server.call("POST", VOLUMES, &again).await.data(201);
        server.admin.registry.remove(&locked);
        drop(locked);
    };
    let (changed, ()) = tokio::join!(change, rest);
    assert_eq!(changed.data(200)["prefetch"], 5);
    assert!(server.volume("disk").is_some());
}

#[tokio::test]
async fn a_volume_in_use_is_deleted_only_by_force() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    server.attach_obedient(&volume).await;

    assert_eq!(server.call("GET", &path(&volume), "").await.data(200)["attachments"], 1);
    for query in ["", "?force=false"] {
        let answer = server.call("DELETE", &format!("{}{query}", path(&volume)), "").await;
        let details = answer.error(409, "conflict")["details"].take();
        assert_eq!(details["active_mounts"], 1);
        assert_eq!(details["mounts"][0]["holder"], "process 7");
        assert_eq!(details["mounts"][0]["sandboxvolume_id"], volume["id"]);
        assert!(details["hint"].as_str().unwrap().contains("force=true"));
    }
    server.call("DELETE", &format!("{}?force=true", path(&volume)), "").await.data(200);
    server.call("GET", &path(&volume), "").await.error(404, "not_found");
}

#[tokio::test]
async fn a_step_is_finished_when_its_caller_hangs_up() {
    let server = Server::start().await;
    // Given up at the first await at which it is not ready.
    tokio::select! {
        biased;
        _ = server.call("POST", VOLUMES, r#"{"name":"kept"}"#) => {}
        () = std::future::ready(()) => {}
    }
    // As the server does before it closes the store.
    server.admin.under_way.close();
    server.admin.under_way.wait().await;
    assert!(server.volume("kept").is_some());
}

#[tokio::test]
async fn a_name_is_one_volumes() {
    let server = Server::start().await;
    let volume = server.create(json!({ "name": "disk" })).await;
    let other = server.create(json!({})).await;
    let named = r#"{"name":"disk"}"#;
    for (method, path) in [
        ("POST", VOLUMES.to_owned()),
        ("POST", format!("{}/fork", path(&volume))),
        ("PATCH", path(&other)),
    ] {
        let error = server.call(method, &path, named).await.error(409, "conflict");
        assert_eq!(error["details"]["sandboxvolume_id"], volume["id"], "{error}");
        assert!(error["message"].as_str().unwrap().contains("\"disk\""), "{error}");
    }
    server.call("PATCH", &path(&volume), named).await.data(200);
    assert!(server.volume("disk").is_some(), "a refusal takes the name from nobody");
    // A name that is given up, or whose volume is deleted, is free.
    server.call("PATCH", &path(&volume), r#"{"name":"old"}"#).await.data(200);
    server.call("PATCH", &path(&other), named).await.data(200);
    server.call("DELETE", &path(&other), "").await.data(200);
    server.create(json!({ "name": "disk" })).await;
    // So is one whose volume could not be made.
    let with_its_id = format!(r#"{{"name":"free","id":"{}"}}"#, volume["id"].as_str().unwrap());
    server.call("POST", VOLUMES, &with_its_id).await.error(409, "conflict");
    server.create(json!({ "name": "free" })).await;
}

#[tokio::test]
async fn of_many_who_want_one_name_at_once_one_has_it() {
    let server = Server::start().await;
    let calls = (0..16).map(|_| server.call("POST", VOLUMES, r#"{"name":"disk"}"#));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    let listed = server.call("GET", VOLUMES, "").await.data(200);
    assert_eq!(listed.as_array().unwrap().len(), 1, "a name that is refused leaves no volume");
}

#[tokio::test]
async fn an_id_of_a_snapshot_is_no_id_of_a_volume() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let snapshot = server.snapshot(&volume, "s").await;
    let body = json!({ "id": snapshot["id"] }).to_string();
    for path in [VOLUMES.to_owned(), format!("{}/fork", path(&volume))] {
        server.call("POST", &path, &body).await.error(409, "conflict");
    }
}
