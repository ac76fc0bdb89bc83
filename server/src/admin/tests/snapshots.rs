//! Snapshots made, read, restored and deleted.

use super::harness::{Deaf, Server, path};
use crate::{
    admin::base::abortable,
    attachments::{Access, Holder, Refused},
    mounts::Mounts,
    registry::Registry,
};
use sandstone_storage::StagingFate;
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

#[tokio::test]
async fn a_snapshot_has_every_field_that_clients_insist_on() {
    let server = Server::start().await;
    let volume = server.create(json!({ "size": "8M" })).await;
    server.fill(&volume, 0..3, 1).await;
    let body = json!({ "name": "before", "description": "the\nfirst", "ttl": 7 }).to_string();
    let snapshots = format!("{}/snapshots", path(&volume));
    let snapshot = server.call("POST", &snapshots, &body).await.data(201);
    for (field, value) in [
        ("volume_id", volume["id"].clone()),
        ("name", json!("before")),
        ("description", json!("the\nfirst")),
        ("size_bytes", json!(8 << 20)),
        ("used_bytes", json!(3 * 4096)),
        ("exclusive_bytes", json!(0)),
        ("export_name", snapshot["id"].clone()),
        ("attachments", json!(0)),
    ] {
        assert_eq!(snapshot[field], value, "{field}");
    }
    let created = snapshot["created_at"].as_str().unwrap();
    assert_eq!(created.len(), "2006-01-02T15:04:05Z".len(), "{created}");
    let created: jiff::Timestamp = created.parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(created).as_secs() < 60);
    assert_eq!(
        uuid::Uuid::try_parse(snapshot["id"].as_str().unwrap()).unwrap().get_version_num(),
        4
    );
    assert!(snapshot["uris"][0].as_str().unwrap().ends_with(snapshot["id"].as_str().unwrap()));
    assert!(snapshot.get("expires_at").is_none());
    assert_eq!(server.call("GET", &path(&snapshot), "").await.data(200), snapshot);
}

#[tokio::test]
async fn snapshots_are_listed_newest_first_and_deleted_alone() {
    let server = Server::start().await;
    let (volume, other) = (server.create(json!({})).await, server.create(json!({})).await);
    let list = format!("{}/snapshots", path(&volume));
    assert_eq!(server.call("GET", &list, "").await.data(200), json!([]));
    let mut made = Vec::new();
    for name in ["a", "a", "c"] {
        made.insert(0, server.snapshot(&volume, name).await);
    }
    server.snapshot(&other, "d").await;
    assert_eq!(server.call("GET", &list, "").await.data(200), json!(made));
    for _ in 0..2 {
        assert_eq!(
            server.call("DELETE", &path(&made[1]), "").await.data(200),
            json!({ "deleted": true })
        );
    }
    made.remove(1);
    assert_eq!(server.call("GET", &list, "").await.data(200), json!(made));
    // One of another volume is not found by this one's route, and not deleted by it.
    let foreign = format!("{}/snapshots/{}", path(&other), made[0]["id"].as_str().unwrap());
    server.call("GET", &foreign, "").await.error(404, "not_found");
    server.call("DELETE", &foreign, "").await.data(200);
    server.call("GET", &path(&made[0]), "").await.data(200);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_wrong_is_400() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let missing = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
    let no_volume = json!({ "id": missing });
    for volume in [&volume, &no_volume, &json!({ "id": "x" })] {
        for snapshot in [missing, "x"] {
            let snapshot = format!("{}/snapshots/{snapshot}", path(volume));
            server.call("GET", &snapshot, "").await.error(404, "not_found");
            server.call("POST", &format!("{snapshot}/restore"), "").await.error(404, "not_found");
            server.call("POST", &format!("{snapshot}/fork"), "").await.error(404, "not_found");
            assert_eq!(
                server.call("DELETE", &snapshot, "").await.data(200),
                json!({ "deleted": true })
            );
        }
    }
    for volume in [&no_volume, &json!({ "id": "x" })] {
        let snapshots = format!("{}/snapshots", path(volume));
        server.call("GET", &snapshots, "").await.error(404, "not_found");
        server.call("POST", &snapshots, r#"{"name":"a"}"#).await.error(404, "not_found");
        server.call("POST", &format!("{}/fork", path(volume)), "").await.error(404, "not_found");
    }
    let snapshots = format!("{}/snapshots", path(&volume));
    for (body, field) in [
        ("{}", "name"),
        (r#"{"name":"\t "}"#, "name"),
        (r#"{"name":"a","description":1}"#, "description"),
    ] {
        let error = server.call("POST", &snapshots, body).await.error(400, "bad_request");
        assert_eq!(error["details"]["field"], field);
    }
    server.call("POST", &snapshots, "").await.error(400, "bad_request");
    assert_eq!(server.admin.registry.snapshot_count(), 0);
    server.snapshot(&volume, "a").await;
    assert_eq!(server.admin.registry.snapshot_count(), 1);
}

#[tokio::test]
async fn restore_brings_content_and_size_back_and_leaves_the_settings() {
    let server = Server::start().await;
    let volume = server.create(json!({ "size": "8M", "name": "disk" })).await;
    server.fill(&volume, 0..2, 1).await;
    let snapshot = server.snapshot(&volume, "before").await;
    server.fill(&volume, 1..3, 2).await;
    let body = r#"{"size":"16M","cache_size":"5M"}"#;
    let grown = server.call("PATCH", &path(&volume), body).await.data(200);
    let restore = format!("{}/restore", path(&snapshot));
    assert_eq!(server.call("POST", &restore, "").await.data(200), json!({ "status": "restored" }));
    assert_eq!((server.byte(&volume, 1).await, server.byte(&volume, 2).await), (1, 0));
    let restored = server.call("GET", &path(&volume), "").await.data(200);
    let mut expected = grown.clone();
    for field in ["size_bytes", "used_bytes", "exclusive_bytes"] {
        expected[field] = restored[field].clone();
    }
    assert_eq!(restored, expected);
    assert_eq!((&restored["size_bytes"], &restored["used_bytes"]), (&json!(8 << 20), &json!(8192)));
}

#[tokio::test]
async fn writers_are_in_the_way_of_a_restore_and_are_cut_off_by_force() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let snapshot = server.snapshot(&volume, "before").await;
    server.attach_obedient(&volume).await;
    let restore = format!("{}/restore", path(&snapshot));
    let error = server.call("POST", &restore, "").await.error(409, "conflict");
    assert_eq!(error["details"]["active_mounts"], 1);
    assert_eq!(error["details"]["mounts"][0]["sandboxvolume_id"], volume["id"]);
    assert_eq!(server.call("GET", &path(&volume), "").await.data(200)["attachments"], 1);
    server.call("POST", &format!("{restore}?force=true"), "").await.data(200);
    let now = server.call("GET", &path(&volume), "").await.data(200);
    assert_eq!((&now["attachments"], &now["state"]), (&json!(0), &json!("ready")));
    // Under a plain name, too, it is the client of before.
    let refused =
        server.attach_as("process 7", &volume, Arc::new(Deaf::default())).await.unwrap_err();
    assert!(matches!(refused, Refused::Restored { .. }), "{refused}");
    server.attach_as("process 8", &volume, Arc::new(Deaf::default())).await.unwrap();
    // And after a restart of the server.
    let mounts = Mounts::new(server.mounts_path(), server.epoch + 1);
    let store = &server.admin.store;
    let later = Registry::load(store.volumes(), store.all_snapshots(), mounts).unwrap();
    later.mounts.recover(|id| later.mountable(id), StagingFate::Kept).await.unwrap();
    let attachments =
        later.resolve(volume["id"].as_str().unwrap()).ok().unwrap().attachments().clone();
    let asks = async |peer: &str| attachments.would_attach(&Holder::Peer(peer.into())).await;
    assert!(matches!(asks("process 7").await, Err(Refused::Restored { .. })));
    assert_eq!(asks("process 8").await, Ok(Access::ReadWrite));
    // Who would be let in is not kept for the next start.
    let Refused::Restored { at, .. } = refused else { unreachable!("it was looked at") };
    attachments.not_restored(at);
    let kept = || std::fs::read_to_string(server.mounts_path()).unwrap();
    assert!(kept().contains("process 7"));
    let _endless =
        tokio::time::timeout(Duration::from_millis(200), later.mounts.expire(Duration::MAX)).await;
    assert!(!kept().contains("process 7"));
}

#[tokio::test]
async fn readers_are_cut_off_by_a_restore_and_nobody_comes_in_meanwhile() {
    let server = Server::start().await;
    let volume = server.create(json!({ "access_mode": "ROX" })).await;
    let snapshot = server.snapshot(&volume, "before").await;
    let (told, not_told) = (Arc::new(Deaf::default()), Arc::new(Deaf::default()));
    let reader = server.attach(&volume, told.clone()).await;
    let of_snapshot = server.attach(&snapshot, not_told.clone()).await;
    let restore = format!("{}/restore", path(&snapshot));
    let meanwhile = async {
        while told.0.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(server.call("GET", &path(&volume), "").await.data(200)["state"], "restoring");
        let entry = server.volume(volume["id"].as_str().unwrap()).unwrap();
        assert!(entry.attachments.closing().is_some());
        drop(reader);
    };
    let (restored, ()) = tokio::join!(server.call("POST", &restore, ""), meanwhile);
    restored.data(200);
    assert_eq!(server.call("GET", &path(&snapshot), "").await.data(200)["attachments"], 1);
    assert_eq!(not_told.0.load(Ordering::SeqCst), 0, "a snapshot stays what it is");
    drop(of_snapshot);
}

#[tokio::test]
async fn clients_of_a_snapshot_are_in_the_way_of_its_deletion_and_of_its_volumes() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let snapshot = server.snapshot(&volume, "read").await;
    let idle = server.snapshot(&volume, "idle").await;
    let reader = server.attach(&snapshot, Arc::new(Deaf::default())).await;
    assert_eq!(reader.access(), Access::ReadOnly);
    drop(reader);
    server.attach_obedient(&snapshot).await;
    for of in [&snapshot, &volume] {
        let details =
            server.call("DELETE", &path(of), "").await.error(409, "conflict")["details"].take();
        assert_eq!(details["mounts"][0]["export_name"], snapshot["id"]);
        assert_eq!(details["mounts"][0]["sandboxvolume_id"], volume["id"]);
    }
    // The doors that were closed on the way are open again.
    server.attach_obedient(&volume).await;
    server.attach_obedient(&idle).await;
    assert_eq!(server.admin.registry.attachments(), 3);
    server.call("DELETE", &format!("{}?force=true", path(&snapshot)), "").await.data(200);
    assert_eq!(server.admin.registry.attachments(), 2);
    server.call("DELETE", &format!("{}?force=true", path(&volume)), "").await.data(200);
    assert!(server.admin.registry.resolve(idle["id"].as_str().unwrap()).is_err());
    assert_eq!(
        (server.admin.registry.snapshot_count(), server.admin.registry.attachments()),
        (0, 0)
    );
}

#[tokio::test]
async fn exclusive_bytes_are_what_nobody_else_holds() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    server.fill(&volume, 0..300, 1).await;
    let snapshot = server.snapshot(&volume, "s").await;
    server.fill(&volume, 0..10, 2).await;
    let fork = server.call("POST", &format!("{}/fork", path(&volume)), "").await.data(201);
    assert_eq!(fork["exclusive_bytes"], 0);
    server.fill(&fork, 100..120, 3).await;
    let check = async |expected: &[(&Value, u64)]| {
        for (of, blocks) in expected {
            let shown = server.call("GET", &path(of), "").await.data(200);
            assert_eq!(shown["exclusive_bytes"], blocks * 4096, "{shown}");
            let list = server.call("GET", path(of).rsplit_once('/').unwrap().0, "").await.data(200);
            assert!(list.as_array().unwrap().contains(&shown), "{list}");
        }
    };
    // The volume with its snapshot: the 10 blocks that the snapshot kept, and the 20 that the fork
    // wrote anew.
    check(&[(&volume, 30), (&snapshot, 10), (&fork, 20)]).await;
    server.call("DELETE", &path(&snapshot), "").await.data(200);
    check(&[(&volume, 20), (&fork, 20)]).await;
    server.call("DELETE", &path(&volume), "").await.data(200);
    check(&[(&fork, 300)]).await;
}

#[tokio::test]
async fn a_volume_is_shown_without_what_cannot_be_told_in_time() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let snapshot = server.snapshot(&volume, "s").await;
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    server.admin.store_thread.spawn(move || async move { assert!(held.recv().is_err()) });
    // The clock goes on by itself where all others wait.
    tokio::time::pause();
    for of in [&volume, &snapshot] {
        let shown = server.call("GET", &path(of), "").await.data(200);
        assert_eq!((&shown["id"], &shown["exclusive_bytes"]), (&of["id"], &Value::Null));
        assert!(shown.get("exclusive_bytes").is_none());
    }
    drop(go_on);
    tokio::time::resume();
    let shown = server.call("GET", &path(&volume), "").await.data(200);
    assert_eq!(shown["exclusive_bytes"], 0);
}

#[tokio::test]
async fn a_walk_that_nobody_waits_for_ends() {
    let server = Server::start().await;
    let (ended, ending) = tokio::sync::oneshot::channel::<()>();
    let walk = abortable(&server.admin, move || async move {
        let _dropped_at_the_end = ended;
        std::future::pending::<()>().await;
    });
    assert!(tokio::time::timeout(Duration::from_millis(20), walk).await.is_err());
    let ended = tokio::time::timeout(Duration::from_secs(10), ending).await;
    assert!(ended.is_ok_and(|told| told.is_err()));
}
