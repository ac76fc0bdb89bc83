//! Who may attach beside whom, with clients that none of us wrote.

use std::fs;

use sandstone_tests::raw::{Handshake, errno, go_data, option, reply};
use sandstone_tests::{Finished, Program, Random, Server, Volume, needs};
use serde_json::json;

fn volume(server: &Server, mode: &str) -> Volume {
    server.create_volume(&json!({ "size": "32M", "access_mode": mode }))
}

/// What this process is called as a peer.
fn own_name() -> String {
    format!("process {}", std::process::id())
}

fn qemu_io(uri: &str, commands: &[&str]) -> Program {
    Program::new("qemu-io")
        .args(["-f", "raw"])
        .args(commands.iter().flat_map(|c| ["-c", c]))
        .arg(uri)
}

fn said(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

#[test]
fn second_writer_is_refused_and_told_who_the_first_is() {
    let server = Server::start();
    let volume = volume(&server, "RWO");
    let mut first = server.connect(&volume);
    first.write(0, b"the first one's").unwrap();
    // Over TCP this process is somebody else: the address.
    for option in [option::GO, option::INFO] {
        let mut second = Handshake::tcp(server.nbd_address()).unwrap();
        let replies = second.ask(option, &go_data(&volume.id)).unwrap();
        assert_eq!(replies.len(), 1, "{replies:?}");
        assert_eq!(replies[0].kind, reply::ERR_POLICY);
        assert!(replies[0].text().contains(&own_name()), "{}", replies[0].text());
    }
    if needs(&["nbdinfo", "qemu-io"]) {
        // It shows what the server said only to those who debug.
        let refused =
            Program::new("nbdinfo").env("LIBNBD_DEBUG", "1").arg(server.uri(&volume)).run();
        assert!(!refused.status.success() && said(&refused).contains(&own_name()), "{refused}");
        let refused = qemu_io(&server.uri(&volume), &["write 0 4k"]).run();
        assert!(!refused.status.success() && said(&refused).contains(&own_name()), "{refused}");
    }
    let refused = server.try_mount(&volume, "agent-1", &json!({})).error(409, "conflict");
    assert!(refused.contains(&own_name()), "{refused}");
    assert_eq!(first.read(0, 15).unwrap(), b"the first one's");
    drop(first);
    let mut second = Handshake::tcp(server.nbd_address()).unwrap().go(&volume.id).unwrap();
    assert_eq!(second.read(0, 15).unwrap(), b"the first one's");
    assert_eq!(server.describe(&volume)["mounts"][0]["holder"], "127.0.0.1");
}

#[test]
fn four_connections_of_one_process_are_one_attachment() {
    let server = Server::start();
    let volume = volume(&server, "RWO");
    let mut connections: Vec<_> = (0..4).map(|_| server.connect(&volume)).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.write(number as u64 * 4096, &[number as u8 + 1; 4096]).unwrap();
    }
    for number in 0..4u8 {
        let read = connections[0].read(u64::from(number) * 4096, 1).unwrap();
        assert_eq!(read, [number + 1]);
    }
    let attached = server.describe(&volume);
    assert_eq!(
        (&attached["attachments"], &attached["mounts"][0]["connections"]),
        (&json!(1), &json!(4))
    );
    drop(connections);
    if needs(&["nbdcopy"]) {
        let image = server.dir().join("image.raw");
        let mut bytes = Random::new(7).bytes(32 << 20);
        bytes[..4096].fill(0);
        fs::write(&image, &bytes).unwrap();
        let copy = |from: &str, to: &str| {
            Program::new("nbdcopy").args(["--connections=4", "--requests=16", from, to]).ok();
        };
        let (image, back) = (image.to_str().unwrap(), server.dir().join("back.raw"));
        copy(image, &server.uri(&volume));
        copy(&server.uri(&volume), back.to_str().unwrap());
        assert!(fs::read(back).unwrap() == bytes, "what was copied in is not what came out");
    }
}

#[test]
fn readers_share_a_rox_volume_and_cannot_write() {
    let server = Server::start();
    let base = volume(&server, "RWO");
    server.connect(&base).write_fua(0, b"base").unwrap();
    let path = format!("/api/v1/sandboxvolumes/{}/fork", base.id);
    let fork = server.admin().post(&path, &json!({ "access_mode": "ROX" })).unwrap().data(201);
    let fork = Volume { id: fork["id"].as_str().unwrap().to_owned(), size_bytes: base.size_bytes };
    let mut first = server.connect(&fork);
    assert_eq!(first.read(0, 4).unwrap(), b"base");
    assert_eq!(first.write(0, b"mine").unwrap_err().errno(), errno::EPERM);
    let mount = server.mount(&fork, "agent-1");
    if needs(&["nbdinfo", "qemu-io"]) {
        for uri in [server.uri(&fork), server.mount_uri(&mount)] {
            let info = Program::new("nbdinfo").args(["--json", &uri]).ok().json();
            assert_eq!(info["exports"][0]["is_read_only"], json!(true), "{info:#}");
            let refused = qemu_io(&uri, &["write 0 4k"]).run();
            assert!(
                !refused.status.success() && said(&refused).contains("Permission denied"),
                "{refused}"
            );
        }
    }
    assert_eq!(first.read(0, 4).unwrap(), b"base");
}

#[test]
fn writers_share_an_rwx_volume_and_see_each_other() {
    let server = Server::start();
    let volume = volume(&server, "RWX");
    let mut first = server.connect(&volume);
    first.write(0, &[0x11; 4096]).unwrap();
    if needs(&["qemu-io"]) {
        let both =
            qemu_io(&server.uri(&volume), &["read -P 0x11 0 4k", "write -P 0x22 4k 4k", "flush"])
                .ok();
        assert!(!said(&both).contains("verification failed"), "{both}");
        assert_eq!(first.read(4096, 4096).unwrap(), [0x22; 4096]);
    }
    let mount = server.mount(&volume, "agent-1");
    let mut mounted = server.handshake().go(&mount.export_name).unwrap();
    mounted.write(8192, &[0x33; 4096]).unwrap();
    assert_eq!(first.read(8192, 4096).unwrap(), [0x33; 4096]);
    assert_eq!(server.describe(&volume)["attachments"], 2);
}

/// A program ends, and the next begins at once: what the first one's connection still does must not
/// keep the other out.
#[test]
fn programs_one_after_the_other_do_not_meet() {
    if !needs(&["qemu-io"]) {
        return;
    }
    let server = Server::start();
    let volume = volume(&server, "RWO");
    for round in 0..30u8 {
        let write = format!("write -P {round} 0 8M");
        let done = qemu_io(&server.uri(&volume), &[&write]).ok();
        assert!(!said(&done).contains("failed"), "{done}");
    }
}

#[test]
fn command_line_exports_what_somebody_else_writes_and_imports_nothing_under_it() {
    let server = Server::start();
    let volume = volume(&server, "RWO");
    let mut writer = server.connect(&volume);
    writer.write(0, b"not flushed").unwrap();
    server.cli(["export", &volume.id, "copy.raw"]).ok();
    let copy = fs::read(server.dir().join("copy.raw")).unwrap();
    assert_eq!((copy.len() as u64, &copy[..11]), (volume.size_bytes, &b"not flushed"[..]));
    let snapshots = server.cli(["snapshot", "list", &volume.id, "--json"]).ok().json();
    assert_eq!(snapshots, json!([]), "the one that was taken for it is gone");

    let refused = server.cli(["import", "copy.raw", &volume.id]).run();
    assert!(refused.failed_with_a_sentence().contains(&own_name()), "{refused}");
    assert_eq!(writer.read(0, 11).unwrap(), b"not flushed");
}
