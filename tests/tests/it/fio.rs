//! fio's nbd engine with checksums of its own.

use std::time::Duration;

use sandstone_tests::{Program, Running, Server, Volume, long, needs};
use serde_json::json;

fn fio(server: &Server, volume: &Volume, name: &str, args: &[&str]) -> Program {
    Program::new("fio")
        .args([
            &format!("--name={name}"),
            "--ioengine=nbd",
            &format!("--uri={}", server.uri(volume)),
        ])
        .args(["--verify=crc32c", "--verify_fatal=1", "--iodepth=32", "--group_reporting"])
        .args(args)
        .dir(server.dir())
        .limit(Duration::from_secs(240))
}

#[test]
fn random_writes_verify_on_two_connections() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let size = if long() { "512M" } else { "96M" };
    for writeback in [false, true] {
        let fields = json!({ "size": "2G", "writeback": writeback, "access_mode": "RWX" });
        let volume = server.create_volume(&fields);
        // Two processes on disjoint halves, each with a connection of its own.
        let halves: Vec<Running> = ["0", "1G"]
            .iter()
            .map(|offset| {
                let (offset, size) = (format!("--offset={offset}"), format!("--size={size}"));
                let args = [&offset, &size, "--rw=randwrite", "--bs=4k", "--randrepeat=0"];
                fio(&server, &volume, "half", &args).spawn()
            })
            .collect();
        for half in halves {
            let finished = half.wait();
            assert!(finished.status.success(), "{finished}");
        }
    }
}

#[test]
fn mixed_sizes_overwritten_verify() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("256M");
    let args = [
        "--size=64M",
        "--rw=randrw",
        "--bsrange=512-128k",
        "--bs_unaligned",
        "--loops=2",
        "--fsync=64",
    ];
    fio(&server, &volume, "mixed", &args).ok();
}

#[test]
fn trims_between_writes_verify() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("256M");
    let args = [
        "--size=64M",
        "--rw=randwrite",
        "--bs=16k",
        "--trim_percentage=20",
        "--trim_verify_zero=1",
    ];
    fio(&server, &volume, "trims", &args).ok();
}
