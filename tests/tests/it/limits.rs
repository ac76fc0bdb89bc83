//! Limits of a volume: kept, changed under its clients, and nobody else's business.

use std::time::Duration;

use rustix::process::Signal;
use sandstone_tests::raw::command;
use sandstone_tests::{Program, Running, Server, Volume, needs};
use serde_json::{Value, json};

/// How long each fio runs: long against the tenth of a second that a volume may have at once.
const SECONDS: f64 = 5.0;
/// How often a machine that was busy with something else may try again.
const TRIES: usize = 3;

/// fio at depth 16 on `connections` connections.
fn fio(server: &Server, volume: &Volume, rw: &str, block: &str, connections: u32) -> Running {
    Program::new("fio")
        .args([
            "--name=limited",
            "--thread",
            "--ioengine=nbd",
            "--iodepth=16",
            "--time_based",
            "--norandommap",
        ])
        .args(["--output-format=json", "--group_reporting"])
        .args([
            format!("--uri={}", server.uri(volume)),
            format!("--rw={rw}"),
            format!("--bs={block}"),
        ])
        .args([format!("--numjobs={connections}"), format!("--runtime={SECONDS}")])
        .arg(format!("--size={}", volume.size_bytes))
        .dir(server.dir())
        .limit(Duration::from_secs(60))
        .spawn()
}

/// Operations and bytes a second of all its jobs, reads and writes.
fn rates(fio: Running) -> (f64, f64) {
    let finished = fio.wait();
    assert!(finished.status.success(), "{finished}");
    // fio may say something before its report.
    let report: Value =
        serde_json::from_str(&finished.stdout[finished.stdout.find('{').unwrap_or(0)..])
            .unwrap_or_else(|e| panic!("no JSON ({e}) from {finished}"));
    let job = &report["jobs"][0];
    let sum =
        |field: &str| ["read", "write"].iter().filter_map(|kind| job[kind][field].as_f64()).sum();
    (sum("iops"), sum("bw_bytes"))
}

/// Insists that a rate stays within a tenth of its limit. A machine that is busy with other things
/// may leave fio less, so that it may try again; what it gets is never more.
fn assert_near(what: &str, limit: f64, mut run: impl FnMut() -> f64) {
    let mut rates = Vec::new();
    for _ in 0..TRIES {
        let rate = run();
        assert!(rate < limit * 1.1, "{what} is {rate:.0}, the limit {limit:.0}");
        if rate > limit * 0.9 {
            return;
        }
        rates.push(rate);
    }
    panic!("{what} is {rates:.0?}, the limit {limit:.0}");
}

#[test]
fn operations_stay_within_the_limit_on_all_connections_and_others_are_not_slowed() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let limited = server.create_volume(&json!({ "size": "256M", "iops_max": 500 }));
    let free = server.volume("256M");
    assert_near("operations a second", 500.0, || {
        // Four connections, so that both workers have some.
        let slow = fio(&server, &limited, "randwrite", "4k", 4);
        let (other, _) = rates(fio(&server, &free, "randwrite", "4k", 1));
        assert!(other > 750.0, "the volume without a limit got {other:.0} operations a second");
        rates(slow).0
    });
}

#[test]
fn bytes_stay_within_the_limit() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let limited = server.create_volume(&json!({ "size": "256M", "bytes_per_second_max": "8M" }));
    let run = || rates(fio(&server, &limited, "randrw", "64k", 2)).1;
    assert_near("bytes a second", f64::from(8 << 20), run);
}

#[test]
fn a_limit_changes_under_a_connected_client() {
    let server = Server::start();
    let volume = server.create_volume(&json!({ "size": "64M", "iops_max": 10 }));
    let mut connection = server.connect(&volume);
    let mut seconds = |writes: u64| {
        let begun = std::time::Instant::now();
        (0..writes).for_each(|i| connection.write(i * 4096, &[1; 4096]).expect("a write"));
        begun.elapsed().as_secs_f64()
    };
    let limited = seconds(6);
    assert!((0.3..2.0).contains(&limited), "six writes of ten a second took {limited:.2} s");
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    let patched = server
        .admin()
        .patch(&path, &json!({ "iops_max": 0 }))
        .expect("the admin port answers")
        .data(200);
    assert_eq!(patched.get("iops_max"), None, "{patched}");
    let lifted = seconds(100);
    assert!(lifted < 5.0, "a hundred writes without a limit took {lifted:.2} s");
}

#[test]
fn limits_outlive_the_server_and_go_on_in_a_fork() {
    let mut server = Server::start();
    let volume = server
        .cli(["volume", "create", "--size", "64M", "--iops-max", "1000", "--json"])
        .ok()
        .json();
    let id = volume["id"].as_str().expect("a volume has an id").to_owned();
    assert_eq!((&volume["iops_max"], volume.get("bytes_per_second_max")), (&json!(1000), None));
    server.cli(["volume", "limit", &id, "--bytes-per-second-max", "50M"]).ok();
    server.kill();
    server.start_again().expect("it starts again");
    let fork = server.cli(["fork", &id, "--iops-max", "0", "--json"]).ok().json();
    assert_eq!(
        (fork.get("iops_max"), &fork["bytes_per_second_max"]),
        (None, &json!(50 << 20)),
        "{fork}"
    );
    let path = format!("/api/v1/sandboxvolumes/{id}");
    let refused =
        server.admin().patch(&path, &json!({ "iops_max": 3 })).expect("the admin port answers");
    assert!(refused.error(400, "bad_request").contains("iops_max must be a whole number from 10"));
    let kept = server.admin().get(&path).expect("the admin port answers").data(200);
    assert_eq!(
        (&kept["iops_max"], &kept["bytes_per_second_max"]),
        (&json!(1000), &json!(50 << 20))
    );
}

#[test]
fn a_stopping_server_answers_what_a_limited_volume_was_sent() {
    let mut server = Server::start();
    let volume = server.create_volume(&json!({ "size": "64M", "iops_max": 10 }));
    let mut connection = server.connect(&volume);
    for i in 0..100 {
        connection.send(0, command::WRITE, i * 4096, 4096, &[1; 4096]).expect("a request goes out");
    }
    server.signal(Signal::TERM);
    while connection.in_flight() > 0 {
        let left = connection.in_flight();
        let reply = connection
            .receive()
            .unwrap_or_else(|e| panic!("{left} requests were never answered: {e}"));
        assert_eq!(reply.errno, 0);
    }
    assert!(server.wait_end().success());
}
