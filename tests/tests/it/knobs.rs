//! The four knobs changed by PATCH under a client that is connected all the time.

use std::thread;
use std::time::Duration;

use sandstone_tests::raw::Connection;
use sandstone_tests::{Program, Server, Volume, needs};
use serde_json::{Value, json};

const BLOCK: u64 = 4096;

fn change(server: &Server, volume: &Volume, fields: &Value) {
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    server.admin().patch(&path, fields).expect("the admin port answers").data(200);
}

/// The value of a metric of the volume.
fn metric(server: &Server, volume: &Volume, name: &str) -> u64 {
    let text = server.admin().get("/metrics").expect("the admin port answers").text;
    let line = format!("sandstone_{name}{{volume=\"{}\"}} ", volume.id);
    let value = text.lines().find_map(|found| found.strip_prefix(&line)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {line}in\n{text}"))
}

/// The value of a metric of the store.
fn store_metric(server: &Server, name: &str) -> u64 {
    let text = server.admin().get("/metrics").expect("the admin port answers").text;
    let line = format!("sandstone_{name} ");
    text.lines()
        .find_map(|found| found.strip_prefix(&line)?.trim().parse().ok())
        .expect("the store tells")
}

/// A volume whose blocks are on the disk: what was written lately is read from staging, which has
/// 48 MiB.
fn on_disk(server: &Server, fields: &Value) -> Volume {
    let volume = server.create_volume(fields);
    let other = server.volume("64M");
    for written in [&volume, &other] {
        let mut connection = server.connect(written);
        for offset in (0..written.size_bytes).step_by(1 << 20) {
            connection.write(offset, &[7; 1 << 20]).expect("a write");
        }
        connection.flush().expect("a flush");
    }
    volume
}

fn read(connection: &mut Connection, blocks: impl Iterator<Item = u64>) {
    blocks.for_each(|block| drop(connection.read(block * BLOCK, BLOCK as u32).expect("a read")));
}

#[test]
fn cache_size_bounds_a_connected_client_at_once() {
    let server = Server::start();
    let volume = on_disk(&server, &json!({ "size": "16M", "cache_size": "64M" }));
    let mut connection = server.connect(&volume);
    let cached = || metric(&server, &volume, "volume_cache_bytes");
    read(&mut connection, (0..4096).step_by(2));
    assert!(cached() >= 8 << 20, "{} bytes of what was read are cached", cached());
    change(&server, &volume, &json!({ "cache_size": "1M" }));
    assert!(cached() <= 1 << 20, "{} bytes are cached", cached());
    read(&mut connection, (1..4096).step_by(2));
    assert!((512 << 10..=1 << 20).contains(&cached()), "{} bytes are cached", cached());
}

#[test]
fn prefetch_begins_and_ends_under_a_connected_client() {
    let server = Server::start();
    let volume = on_disk(&server, &json!({ "size": "32M" }));
    let mut connection = server.connect(&volume);
    let fetched = || metric(&server, &volume, "volume_prefetched_bytes_total");
    read(&mut connection, 0..256);
    assert_eq!(fetched(), 0, "the default");
    change(&server, &volume, &json!({ "prefetch": 2 }));
    read(&mut connection, 256..1024);
    let first = fetched();
    assert!(first >= 1 << 20, "{first} bytes ahead of 3 MiB");
    assert!(metric(&server, &volume, "volume_prefetch_used_bytes_total") > 0);
    change(&server, &volume, &json!({ "prefetch": 0 }));
    // The fetch that is under way still ends.
    thread::sleep(Duration::from_millis(200));
    let last = fetched();
    read(&mut connection, 4096..4608);
    assert_eq!(fetched(), last);
}

#[test]
fn writeback_begins_and_ends_under_a_connected_client() {
    const WRITES: u64 = 200;
    let server = Server::start();
    let volume = server.volume("16M");
    let mut connection = server.connect(&volume);
    let mut batches = || {
        let before = store_metric(&server, "store_log_batches_total");
        (0..WRITES).for_each(|block| connection.write(block * BLOCK, &[9; 4096]).expect("a write"));
        store_metric(&server, "store_log_batches_total") - before
    };
    assert!(batches() >= WRITES, "each was in the store before the next");
    change(&server, &volume, &json!({ "writeback": true }));
    let few = batches();
    assert!(
        few < WRITES / 2,
        "{few} writes of the device for {WRITES} that were acknowledged from memory"
    );
    change(&server, &volume, &json!({ "writeback": false }));
    assert!(batches() >= WRITES);
}

#[test]
fn buffer_size_bounds_a_connected_client_at_once() {
    const REQUEST: u64 = 256 << 10;
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let volume =
        server.create_volume(&json!({ "size": "256M", "writeback": true, "buffer_size": "32M" }));
    let fio = Program::new("fio")
        .args([
            "--name=flood",
            "--thread",
            "--ioengine=nbd",
            "--rw=write",
            "--bs=256k",
            "--iodepth=64",
        ])
        .args(["--time_based", "--runtime=60", "--size=256M"])
        .arg(format!("--uri={}", server.uri(&volume)))
        .dir(server.dir())
        .spawn();
    let most = |samples: usize| {
        let sample = |_| {
            thread::sleep(Duration::from_millis(5));
            metric(&server, &volume, "volume_buffered_bytes")
        };
        (0..samples).map(sample).max().expect("some")
    };
    // It takes fio a moment to connect.
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(20));
        if server.describe(&volume)["used_bytes"].as_u64() > Some(0) {
            break;
        }
    }
    let before = most(100);
    assert!(before > 2 << 20, "{before} bytes of 16 MiB in flight");
    change(&server, &volume, &json!({ "buffer_size": "1M" }));
    // What was accepted before has to leave first.
    thread::sleep(Duration::from_secs(1));
    let after = most(100);
    fio.kill();
    assert!(
        after > 0 && after <= (1 << 20) + REQUEST,
        "{after} bytes were buffered, before {before}"
    );
}
