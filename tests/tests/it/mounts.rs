//! Mounts: made, used, ended, and over the server's death and the host's.

use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::raw::{Connection, go_data, option, reply};
use sandstone_tests::{MountedVolume, Program, Server, Volume, needs};
use serde_json::json;

fn connect(server: &Server, mount: &MountedVolume) -> Connection {
    server.handshake().go(&mount.export_name).unwrap_or_else(|e| panic!("no connection: {e}"))
}

/// The sentence with which a mount's client is refused.
fn refusal(server: &Server, mount: &MountedVolume) -> String {
    let replies =
        server.handshake().ask(option::GO, &go_data(&mount.export_name)).expect("an answer");
    assert_eq!(replies.last().map(|r| r.kind), Some(reply::ERR_POLICY), "{replies:?}");
    replies[0].text()
}

#[test]
fn mount_is_used_and_cut_off_before_its_unmount_is_answered() {
    let server = Server::start();
    let volume = server.volume("16M");
    let mount = server.mount(&volume, "agent-1");
    assert_eq!(server.mount_state(&mount), "pending");
    let mut clients = [connect(&server, &mount), connect(&server, &mount)];
    assert_eq!(server.mount_state(&mount), "mounted");
    clients[0].write(0, b"mounted").unwrap();
    if needs(&["nbdinfo"]) {
        // Another process with the session is the same attachment.
        let info = Program::new("nbdinfo").args(["--json", &server.mount_uri(&mount)]).ok().json();
        assert_eq!(info["exports"][0]["export-size"], json!(16 << 20), "{info:#}");
    }
    server.unmount(&mount);
    let mut anew = server.connect(&volume);
    anew.write(0, b"another").unwrap();
    for client in &mut clients {
        client.send(0, 1, 0, 7, b"toolate").ok();
        assert!(client.receive().is_err(), "it was cut off before the unmount was answered");
    }
    assert_eq!(anew.read(0, 7).unwrap(), b"another");
    assert!(refusal(&server, &mount).contains("no such mount"));
    server.unmount(&mount);
}

#[test]
fn mount_without_a_client_ends_after_its_grace() {
    let server = Server::builder().grace(1).start();
    let volume = server.volume("16M");
    let forgotten = server.mount(&volume, "agent-1");
    let refused = server.try_mount(&volume, "agent-2", &json!({})).error(409, "conflict");
    assert!(refused.contains("sandbox agent-1"), "{refused}");
    let ends = |mount: &MountedVolume| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !server.mount_state(mount).is_empty() {
            assert!(Instant::now() < deadline, "the mount does not end");
            thread::sleep(Duration::from_millis(50));
        }
    };
    ends(&forgotten);
    let used = server.mount(&volume, "agent-2");
    let client = connect(&server, &used);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(server.mount_state(&used), "mounted", "it has a client");
    drop(client);
    ends(&used);
    let metrics = server.admin().get("/metrics").unwrap().text;
    assert!(metrics.contains("sandstone_mounts{state=\"pending\"} 0"), "{metrics}");
}

#[test]
fn mount_goes_on_after_the_servers_death() {
    let mut server = Server::start();
    for writeback in [false, true] {
        let volume = server.volume_writeback("16M", writeback);
        let mount = server.mount(&volume, "agent-1");
        let mut client = connect(&server, &mount);
        client.write(0, b"before").unwrap();
        server.kill();
        assert!(client.read(0, 6).is_err());
        server.start_again().expect("it starts");
        assert_eq!(server.mount_state(&mount), "pending");
        // Its right is as good as before its client is back.
        let refused = server.try_mount(&volume, "agent-2", &json!({})).error(409, "conflict");
        assert!(refused.contains("sandbox agent-1"), "{refused}");
        let mut client = connect(&server, &mount);
        assert_eq!(client.read(0, 6).unwrap(), b"before");
        client.write_fua(0, b"after!").unwrap();
        assert_eq!(server.mount_state(&mount), "mounted");
    }
    assert!(server.stop().success());
    server.start_again().expect("it starts");
    let mounts = server.cli(["mounts", "--json"]).ok().json();
    let states: Vec<_> = mounts.as_array().unwrap().iter().map(|m| m["state"].as_str()).collect();
    assert_eq!(states, [Some("pending"); 2], "a stop keeps them too");
}

#[test]
fn write_back_mount_is_refused_after_a_host_crash_until_it_is_mounted_anew() {
    let mut server = Server::start();
    let volumes = [false, true].map(|writeback| server.volume_writeback("16M", writeback));
    let [through, back] = volumes.each_ref().map(|volume| server.mount(volume, "agent-1"));
    // A mount's own knob counts, not its volume's.
    let tuned = server.create_volume(&json!({ "size": "16M", "access_mode": "RWX" }));
    let tuned_back = server.try_mount(&tuned, "agent-2", &json!({ "writeback": true })).data(200);
    for mount in [&through, &back] {
        connect(&server, mount).write(0, b"before").unwrap();
    }
    server.kill();
    server.lose_staging();
    server.start_again().expect("it starts");
    for _ in 0..2 {
        assert_eq!(
            (server.mount_state(&through).as_str(), server.mount_state(&back).as_str()),
            ("pending", "stale")
        );
        assert_eq!(connect(&server, &through).read(0, 6).unwrap(), b"before");
        let refused = refusal(&server, &back);
        assert!(refused.contains("host crash") && refused.contains("mount it"), "{refused}");
        let metrics = server.admin().get("/metrics").unwrap().text;
        assert!(metrics.contains("sandstone_mounts{state=\"stale\"} 2"), "{metrics}");
        // And so it stays, however often the server is started.
        server.kill();
        server.start_again().expect("it starts");
    }
    let state = server.cli(["mounts", "--sandbox", "agent-2", "--json"]).ok().json();
    assert_eq!(state[0]["mount_session_id"], tuned_back["mount_session_id"]);
    assert_eq!(state[0]["state"], "stale");
    server.unmount(&back);
    let anew = server.mount(&volumes[1], "agent-1");
    connect(&server, &anew).write_fua(0, b"anew").unwrap();
}

#[test]
fn force_cuts_mounts_off_before_the_deletion_is_answered() {
    let server = Server::start();
    let volume = server.volume("16M");
    let mount = server.mount(&volume, "agent-1");
    let mut client = connect(&server, &mount);
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    let refused = server.admin().delete(&path).unwrap();
    refused.error(409, "conflict");
    assert_eq!(refused.body["error"]["details"]["mounts"][0]["holder"], "sandbox agent-1");
    client.write(0, b"still here").unwrap();
    server.admin().delete(&format!("{path}?force=true")).unwrap().data(200);
    assert!(client.read(0, 1).is_err(), "it was cut off");
    assert_eq!(server.mount_state(&mount), "");
}

/// Blocks of the run below: more than a worker writes to the store in the time between an answer
/// and a kill.
const BLOCKS: u64 = 2048;

/// Whether all that was acknowledged to a connected client is there after a host crash, which only
/// writing through does.
fn survives_host_crash(server: &mut Server, volume: &Volume, mut client: Connection) -> bool {
    for block in 0..BLOCKS {
        client.send(0, 1, block * 4096, 4096, &[block as u8 | 1; 4096]).expect("it is sent");
    }
    while client.in_flight() > 0 {
        assert_eq!(client.receive().expect("a reply").errno, 0);
    }
    server.kill();
    server.lose_staging();
    server.start_again().expect("it starts");
    let mut client = server.connect(volume);
    (0..BLOCKS)
        .all(|block| client.read(block * 4096, 4096).expect("a read") == [block as u8 | 1; 4096])
}

#[test]
fn writeback_turned_off_reaches_a_connected_client_at_once() {
    let mut server = Server::start();
    let volume = server.volume_writeback("16M", true);
    let client = server.connect(&volume);
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    server.admin().patch(&path, &json!({ "writeback": false })).unwrap().data(200);
    assert!(survives_host_crash(&mut server, &volume, client));
}

#[test]
fn writeback_of_a_mount_is_its_own() {
    let mut server = Server::start();
    let volume = server.volume_writeback("16M", true);
    let answer = server.try_mount(&volume, "agent-1", &json!({ "writeback": false })).data(200);
    let client = server.handshake().go(answer["export_name"].as_str().unwrap()).unwrap();
    assert_eq!(
        server.admin().get("/api/v1/admin/mounts").unwrap().data(200)[0]["state"],
        "mounted"
    );
    // The reader that looks afterwards is another peer.
    server
        .admin()
        .patch(&format!("/api/v1/sandboxvolumes/{}", volume.id), &json!({ "access_mode": "RWX" }))
        .unwrap()
        .data(200);
    assert!(survives_host_crash(&mut server, &volume, client));
}

#[test]
fn command_line_mounts_lists_and_unmounts() {
    let server = Server::start();
    let volume = server.volume("16M");
    let args =
        ["mount", &volume.id, "--sandbox", "a b/c", "--at", "/work", "--prefetch", "4", "--json"];
    let mount = server.cli(args).ok().json();
    assert_eq!(mount["sandbox_id"], "a b/c");
    let session = mount["mount_session_id"].as_str().unwrap();
    let listed = server.cli(["mounts"]).ok().stdout;
    for part in ["a b/c", &volume.id, "/work", "pending", session] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }
    let details = server.cli(["volume", "get", &volume.id]).ok().stdout;
    assert!(
        details.contains("sandbox a b/c, pending, read-write") && !details.contains(session),
        "{details}"
    );
    let again = server.cli(["mount", &volume.id, "--sandbox", "d", "--at", "/work"]).run();
    assert!(again.failed_with_a_sentence().contains("sandbox a b/c"), "{again}");
    server.cli(["unmount", session]).ok();
    assert!(server.cli(["unmount", session]).run().failed_with_a_sentence().contains("mounts"));
    assert_eq!(server.cli(["mounts", "--json"]).ok().json(), json!([]));
}
