//! Volumes mounted and unmounted, and who is refused meanwhile.

use super::harness::{Deaf, Server, path};
use crate::{
    api::MountState,
    attachments::{Access, Refused, Session},
    mounts::Mounts,
    registry::Registry,
};
use sandstone_storage::StagingFate;
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const SANDBOX: &str = "/api/v1/sandboxes/agent-1/sandboxvolumes";

fn mount_body(volume: &Value) -> String {
    body_at(volume, "/work")
}

fn body_at(volume: &Value, mount_point: &str) -> String {
    json!({ "sandboxvolume_id": volume["id"], "mount_point": mount_point }).to_string()
}

async fn mount(server: &Server, volume: &Value) -> Value {
    mount_at(server, volume, "/work").await
}

async fn mount_at(server: &Server, volume: &Value, mount_point: &str) -> Value {
    server.call("POST", &format!("{SANDBOX}/mount"), &body_at(volume, mount_point)).await.data(200)
}

fn unmount_body(mount: &Value) -> String {
    let (volume, session) = (&mount["sandboxvolume_id"], &mount["mount_session_id"]);
    json!({ "sandboxvolume_id": volume, "mount_session_id": session }).to_string()
}

async fn status(server: &Server) -> Value {
    server.call("GET", &format!("{SANDBOX}/status"), "").await.data(200)["mounts"].take()
}

fn session_of(mount: &Value) -> Session {
    Session::parse(mount["mount_session_id"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_mount_has_every_field_of_the_contract_until_it_is_unmounted() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    assert_eq!(status(&server).await, json!([]));
    let mount = mount(&server, &volume).await;
    let session = mount["mount_session_id"].as_str().unwrap();
    let name = format!("{}/{session}", volume["id"].as_str().unwrap());
    for (field, value) in [
        ("sandboxvolume_id", volume["id"].clone()),
        ("sandbox_id", json!("agent-1")),
        ("mount_point", json!("/work")),
        ("state", json!("pending")),
        ("export_name", json!(name)),
        ("read_only", json!(false)),
        ("connections", json!(0)),
    ] {
        assert_eq!(mount[field], value, "{field}");
    }
    assert!(mount["mounted_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(mount["mounted_duration_sec"].as_i64().is_some_and(|seconds| seconds >= 0));
    assert_eq!(mount["uris"][0], format!("nbd://127.0.0.1:10809/{}", name.replace('/', "%2F")));

    let client = server.attach(&mount, Arc::new(Deaf::default())).await;
    let mounted = status(&server).await;
    assert_eq!((&mounted[0]["state"], &mounted[0]["connections"]), (&json!("mounted"), &json!(1)));
    assert_eq!(server.call("GET", "/api/v1/admin/mounts", "").await.data(200), mounted);
    let other =
        server.call("GET", "/api/v1/sandboxes/agent-2/sandboxvolumes/status", "").await.data(200);
    assert_eq!(other, json!({ "mounts": [] }));
    drop(client);
    for _ in 0..2 {
        let answer =
            server.call("POST", &format!("{SANDBOX}/unmount"), &unmount_body(&mount)).await;
        assert_eq!(answer.data(200), json!({ "unmounted": true }));
    }
    assert_eq!(status(&server).await, json!([]));
    let refused = server.attach_as("", &mount, Arc::new(Deaf::default())).await.unwrap_err();
    assert_eq!(refused, Refused::NoMount);
}

#[tokio::test]
async fn wrong_fields_are_told_and_a_volume_that_is_not_there_is_not_found() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let id = volume["id"].as_str().unwrap();
    for (body, field) in [
        (json!({ "mount_point": "/work" }), "sandboxvolume_id"),
        (json!({ "sandboxvolume_id": 7, "mount_point": "/work" }), "sandboxvolume_id"),
        (json!({ "sandboxvolume_id": id }), "mount_point"),
        (json!({ "sandboxvolume_id": id, "mount_point": "work" }), "mount_point"),
        (json!({ "sandboxvolume_id": id, "mount_point": "/a/../b" }), "mount_point"),
        (
            json!({ "sandboxvolume_id": id, "mount_point": "/a", "sandbox_id": "agent-2" }),
            "sandbox_id",
        ),
        (
            json!({ "sandboxvolume_id": id, "mount_point": "/a", "volume_config": [] }),
            "volume_config",
        ),
        (
            json!({ "sandboxvolume_id": id, "mount_point": "/a", "volume_config": { "buffer_size": "1" } }),
            "buffer_size",
        ),
    ] {
        let answer = server.call("POST", &format!("{SANDBOX}/mount"), &body.to_string()).await;
        assert_eq!(answer.error(400, "bad_request")["details"]["field"], field, "{body}");
    }
    for body in [json!({ "sandboxvolume_id": id }), json!({ "mount_session_id": id })] {
        let answer = server.call("POST", &format!("{SANDBOX}/unmount"), &body.to_string()).await;
        answer.error(400, "bad_request");
    }
    for id in ["0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de", "no-id-at-all"] {
        let body = mount_body(&json!({ "id": id }));
        server.call("POST", &format!("{SANDBOX}/mount"), &body).await.error(404, "not_found");
        let body = unmount_body(&json!({ "sandboxvolume_id": id, "mount_session_id": id }));
        server.call("POST", &format!("{SANDBOX}/unmount"), &body).await.data(200);
    }
    let blank = "/api/v1/sandboxes/%20/sandboxvolumes/status";
    assert_eq!(
        server.call("GET", blank, "").await.error(400, "bad_request")["details"]["field"],
        "sandbox_id"
    );
    assert_eq!(status(&server).await, json!([]));
}

#[tokio::test]
async fn the_second_writer_is_told_who_the_first_is_but_not_its_secret() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let first = mount(&server, &volume).await;
    let other = "/api/v1/sandboxes/agent-2/sandboxvolumes/mount";
    let answer = server.call("POST", other, &mount_body(&volume)).await;
    let error = answer.error(409, "conflict");
    assert!(error["message"].as_str().unwrap().contains("sandbox agent-1"), "{error}");
    assert_eq!(error["details"]["holder"]["holder"], "sandbox agent-1");
    assert_eq!(error["details"]["holder"]["state"], "pending");
    let refused =
        server.attach_as("process 8", &volume, Arc::new(Deaf::default())).await.unwrap_err();
    assert!(refused.to_string().contains("sandbox agent-1"), "{refused}");
    let session = first["mount_session_id"].as_str().unwrap();
    let shown = server.call("GET", &path(&volume), "").await.text;
    for text in [&answer.text, &refused.to_string(), &shown] {
        assert!(!text.contains(session), "{text}");
    }

    server.call("POST", &format!("{SANDBOX}/unmount"), &unmount_body(&first)).await.data(200);
    let plain = server.attach(&volume, Arc::new(Deaf::default())).await;
    let error = server.call("POST", other, &mount_body(&volume)).await.error(409, "conflict");
    assert!(error["message"].as_str().unwrap().contains("process 7"), "{error}");
    drop(plain);
    server.call("POST", other, &mount_body(&volume)).await.data(200);
}

#[tokio::test]
async fn mounts_of_readers_and_of_any_number_of_writers() {
    let server = Server::start().await;
    for (mode, read_only, access) in
        [("ROX", true, Access::ReadOnly), ("RWX", false, Access::ReadWrite)]
    {
        let volume = server.create(json!({ "access_mode": mode })).await;
        for mount_point in ["/a", "/b"] {
            let mount = mount_at(&server, &volume, mount_point).await;
            assert_eq!(mount["read_only"], read_only);
            let client = server.attach(&mount, Arc::new(Deaf::default())).await;
            assert_eq!(client.access(), access);
        }
        assert_eq!(server.call("GET", &path(&volume), "").await.data(200)["attachments"], 2);
    }
}

#[tokio::test]
async fn an_unmount_is_answered_when_its_clients_are_gone() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let mounted = mount(&server, &volume).await;
    let line = Arc::new(Deaf::default());
    let client = server.attach(&mounted, line.clone()).await;
    let (unmount, body) = (format!("{SANDBOX}/unmount"), unmount_body(&mounted));
    let other_sandbox = unmount.replace("agent-1", "agent-2");
    server.call("POST", &other_sandbox, &body).await.data(200);
    assert_eq!(line.0.load(Ordering::SeqCst), 0, "it is no mount of that sandbox");
    let mut unmounting = std::pin::pin!(server.call("POST", &unmount, &body));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut unmounting).await;
    assert!(early.is_err(), "answered while its client is connected");
    assert_eq!(line.0.load(Ordering::SeqCst), 1, "it was cut off");
    drop(client);
    unmounting.await.data(200);
    mount(&server, &volume).await;
}

#[tokio::test]
async fn an_access_mode_is_not_changed_under_those_whom_it_would_break() {
    let server = Server::start().await;
    let volume = server.create(json!({ "access_mode": "RWX" })).await;
    let first = mount(&server, &volume).await;
    mount_at(&server, &volume, "/data").await;
    for mode in ["RWO", "ROX"] {
        let body = json!({ "access_mode": mode, "prefetch": 1 }).to_string();
        let error = server.call("PATCH", &path(&volume), &body).await.error(409, "conflict");
        assert_eq!(error["details"]["active_mounts"], 2);
        assert_eq!(error["details"]["mounts"][0]["holder"], "sandbox agent-1");
    }
    let now = server.call("GET", &path(&volume), "").await.data(200);
    assert_eq!(
        (&now["access_mode"], &now["prefetch"]),
        (&json!("RWX"), &json!(0)),
        "all or nothing"
    );
    server.call("POST", &format!("{SANDBOX}/unmount"), &unmount_body(&first)).await.data(200);
    server.call("PATCH", &path(&volume), r#"{"access_mode":"RWO"}"#).await.data(200);
    let answer = server.call("POST", &format!("{SANDBOX}/mount"), &mount_body(&volume)).await;
    answer.error(409, "conflict"); // it is at /data
    server.call("PATCH", &path(&volume), r#"{"access_mode":"RWX"}"#).await.data(200);
    mount(&server, &volume).await;
}

#[tokio::test]
async fn a_mount_is_in_the_way_of_deletion_and_restore_and_ends_by_force() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    let snapshot = server.snapshot(&volume, "before").await;
    let restore = format!("{}/restore", path(&snapshot));
    let first = mount(&server, &volume).await;
    for (method, path) in [("DELETE", path(&volume)), ("POST", restore.clone())] {
        let details = server.call(method, &path, "").await.error(409, "conflict")["details"].take();
        assert_eq!(details["mounts"][0]["holder"], "sandbox agent-1");
        assert_eq!(details["mounts"][0]["connections"], 0);
    }
    server.call("POST", &format!("{restore}?force=true"), "").await.data(200);
    assert_eq!(status(&server).await, json!([]));
    let refused = server.attach_as("", &first, Arc::new(Deaf::default())).await.unwrap_err();
    assert!(matches!(refused, Refused::MountRestored { .. }), "its cache is of before: {refused}");
    mount(&server, &volume).await;
    server.call("DELETE", &format!("{}?force=true", path(&volume)), "").await.data(200);
    assert_eq!(status(&server).await, json!([]));
    assert!(!std::fs::read_to_string(server.mounts_path()).unwrap().contains("agent-1"));
}

/// The answer to the first may have been lost on its way.
#[tokio::test]
async fn a_mount_asked_for_again_is_the_same_one() {
    let server = Server::start().await;
    for mode in ["RWO", "ROX", "RWX"] {
        let volume = server.create(json!({ "access_mode": mode })).await;
        let (first, twin) = tokio::join!(mount(&server, &volume), mount(&server, &volume));
        assert_eq!(first["mount_session_id"], twin["mount_session_id"]);
        let client = server.attach(&first, Arc::new(Deaf::default())).await;
        let again = mount(&server, &volume).await;
        let same = ["mount_session_id", "mounted_at", "export_name"];
        assert!(same.iter().all(|field| again[field] == first[field]), "{again} is not {first}");
        assert_eq!((&again["state"], &again["connections"]), (&json!("mounted"), &json!(1)));
        let tuned = json!({
            "sandboxvolume_id": volume["id"], "mount_point": "/work", "volume_config": { "prefetch": 7 },
        });
        let answer = server.call("POST", &format!("{SANDBOX}/mount"), &tuned.to_string()).await;
        assert!(
            answer.error(409, "conflict")["message"].as_str().unwrap().contains("other settings")
        );
        drop(client);
        server.call("POST", &format!("{SANDBOX}/unmount"), &unmount_body(&first)).await.data(200);
        assert_ne!(mount(&server, &volume).await["mount_session_id"], first["mount_session_id"]);
    }
}

#[tokio::test]
async fn a_mount_that_cannot_be_kept_is_not_given() {
    let server = Server::start().await;
    let volume = server.create(json!({})).await;
    // A directory is in the place of the file.
    std::fs::create_dir(server.mounts_path()).unwrap();
    let answer = server.call("POST", &format!("{SANDBOX}/mount"), &mount_body(&volume)).await;
    answer.error(500, "internal_error");
    assert_eq!(status(&server).await, json!([]));
    assert_eq!(server.call("GET", &path(&volume), "").await.data(200)["attachments"], 0);
    std::fs::remove_dir(server.mounts_path()).unwrap();
    mount(&server, &volume).await;
}

/// The registry of the server's next start.
async fn start_again(server: &Server, epoch: u32, staging: StagingFate) -> Registry {
    let store = &server.admin.store;
    let mounts = Mounts::new(server.mounts_path(), epoch);
    let registry = Registry::load(store.volumes(), store.all_snapshots(), mounts).unwrap();
    registry.mounts.recover(|id| registry.mountable(id), staging).await.unwrap();
    registry
}

#[tokio::test]
async fn mounts_outlive_a_restart_and_are_stale_where_a_host_crash_took_writes() {
    use MountState::{Pending, Stale};
    use StagingFate::{Kept, Lost};
    let server = Server::start().await;
    let epoch = server.epoch;
    let through = server.create(json!({ "writeback": false })).await;
    let back = server.create(json!({ "writeback": true, "access_mode": "RWX" })).await;
    let through = mount(&server, &through).await;
    let tuned = json!({
        "sandboxvolume_id": back["id"], "mount_point": "/data", "volume_config": { "writeback": false },
    });
    let back = mount(&server, &back).await;
    let tuned =
        server.call("POST", &format!("{SANDBOX}/mount"), &tuned.to_string()).await.data(200);
    let check = |registry: &Registry, expected: [MountState; 3]| {
        let state =
            |mount: &Value| registry.mounts.get(session_of(mount)).unwrap().status().unwrap().state;
        assert_eq!([state(&through), state(&back), state(&tuned)], expected);
    };
    check(&start_again(&server, epoch + 1, Kept).await, [Pending; 3]);
    // The start after it died before it could vouch for anything, so what that one found is
    // unknown.
    let kept = std::fs::read(server.mounts_path()).unwrap();
    check(&start_again(&server, epoch + 3, Kept).await, [Pending, Stale, Pending]);
    std::fs::write(server.mounts_path(), kept).unwrap();
    check(&start_again(&server, epoch + 2, Lost).await, [Pending, Stale, Pending]);
    let later = start_again(&server, epoch + 3, Kept).await;
    check(&later, [Pending, Stale, Pending]);
    assert_eq!(later.mounts.count_by_state()[&Stale], 1);
    drop(later);
}
