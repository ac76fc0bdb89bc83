//! Space of what was deleted goes back to the host, told by the command line; and whatever ends the
//! server meanwhile, nothing alive goes with it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::{Program, Random, Server, Volume, needs};
use serde_json::{Value, json};

const RECLAIM: &str = "/api/v1/admin/reclaim";
const MIB: u64 = 1 << 20;
/// So much of a volume is written at once, in turns with another volume, so that both lie in every
/// segment.
const CHUNK: usize = 256 << 10;

/// Bytes that the store's file takes of its file system.
fn allocated(server: &Server) -> u64 {
    fs::metadata(server.store_path()).expect("the store is a file").blocks() * 512
}

fn chunk(volume: u64, number: u64) -> Vec<u8> {
    Random::new(volume << 32 | number).bytes(CHUNK)
}

/// Two volumes of which every segment holds some.
fn mixed(server: &Server, chunks: u64) -> [Volume; 2] {
    let volumes = [0, 1].map(|_| server.volume("256M"));
    let mut clients = volumes.each_ref().map(|volume| server.connect(volume));
    for number in 0..chunks {
        for (which, client) in clients.iter_mut().enumerate() {
            client.write(number * CHUNK as u64, &chunk(which as u64, number)).expect("a write");
        }
    }
    clients.iter_mut().for_each(|client| client.flush().expect("a flush"));
    volumes
}

fn assert_holds(server: &Server, volume: &Volume, which: u64, chunks: u64) {
    let mut client = server.connect(volume);
    for number in 0..chunks {
        let found = client.read(number * CHUNK as u64, CHUNK as u32).expect("a read");
        assert!(found == chunk(which, number), "chunk {number} differs");
    }
}

fn delete(server: &Server, volume: &Volume) {
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    server.admin().delete(&path).expect("the admin port answers").data(200);
}

fn progress(server: &Server) -> Value {
    server.admin().get(RECLAIM).expect("the admin port answers").data(200)
}

fn start(server: &Server) {
    let begun = server.admin().post(RECLAIM, &json!({})).expect("the admin port answers").data(202);
    assert_eq!(begun["running"], json!(true), "{begun:#}");
}

/// Waits until the run has come so far that it moves what is alive.
fn wait_until_it_moves(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while progress(server)["phase"] != "forwarding" {
        assert!(Instant::now() < deadline, "{:#}", progress(server));
        thread::sleep(Duration::from_millis(2));
    }
}

/// What reclaim has freed or punched since the start, in bytes.
fn counted(server: &Server, what: &str) -> u64 {
    let metrics = server.admin().get("/metrics").expect("the admin port answers").text;
    let name = format!("sandstone_reclaim_{what}_bytes_total ");
    let counted = metrics.lines().find_map(|line| line.strip_prefix(&name));
    counted.expect("it is counted").parse().expect("a number")
}

#[test]
fn reclaim_gives_back_what_was_deleted_and_says_so() {
    if !needs(&["qemu-io"]) {
        return;
    }
    let server = Server::start();
    let volume = server.create_volume(&json!({ "name": "disk", "size": "1G" }));
    let qemu_io = |commands: &[&str]| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let finished = Program::new("qemu-io")
            .args(["-f", "raw"])
            .args(commands)
            .arg(server.uri(&volume))
            .ok();
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!said.contains("verification failed") && !said.contains("error"), "{finished}");
    };
    qemu_io(&["write -P 0x11 0 200M", "write -P 0x22 200M 200M", "flush"]);
    server.cli(["snapshot", "create", "disk", "--name", "before"]).ok();
    qemu_io(&["write -P 0x33 0 200M", "flush"]);
    let full = allocated(&server);
    assert!(full >= 600 * MIB, "{full} bytes hold 600 MiB");

    server.cli(["snapshot", "delete", "disk", "before"]).ok();
    let told = server.cli(["reclaim"]).ok();
    for word in ["went back to the host", "moved for it", "takes"] {
        assert!(told.stdout.contains(word), "{word:?} is not in {told}");
    }
    let left = allocated(&server);
    assert!((400 * MIB..460 * MIB).contains(&left), "{left} bytes hold 400 MiB");
    // Since the start: the server begins by itself, and may have freed much before it was asked.
    for counter in ["freed", "punched"] {
        let bytes = counted(&server, counter);
        assert!(bytes >= 128 * MIB, "{counter}: {bytes}\n{told}");
    }
    qemu_io(&["read -P 0x33 0 200M", "read -P 0x22 200M 200M"]);

    server.cli(["volume", "delete", "disk"]).ok();
    let told = server.cli(["reclaim", "--json"]).ok().json();
    assert_eq!((&told["running"], &told["error"]), (&json!(false), &Value::Null), "{told:#}");
    assert!(told["rounds"].as_u64().is_some_and(|rounds| rounds >= 1), "{told:#}");
    let left = allocated(&server);
    assert!(left < 8 * MIB, "{left} bytes hold nothing");
    assert_eq!(told["store_allocated_bytes"], json!(left), "{told:#}");
    let punched = counted(&server, "punched");
    assert!(punched >= full - left, "{punched} bytes of {full} went back");
}

#[test]
fn reclaim_that_is_killed_loses_nothing() {
    const CHUNKS: u64 = 320;
    let mut random = Random::from_env();
    let mut server = Server::builder().reclaim_rate("16M").start();
    let [gone, kept] = mixed(&server, CHUNKS);
    delete(&server, &gone);
    for lose_staging in [false, true, false] {
        start(&server);
        wait_until_it_moves(&server);
        thread::sleep(Duration::from_millis(random.below(1500)));
        let seen = progress(&server);
        assert_eq!(seen["running"], json!(true), "too early an end to be killed: {seen:#}");
        server.kill();
        if lose_staging {
            server.lose_staging();
        }
        server.start_again().unwrap();
        assert_holds(&server, &kept, 1, CHUNKS);
    }
    server.cli(["reclaim"]).ok();
    assert_holds(&server, &kept, 1, CHUNKS);
    let (left, alive) = (allocated(&server), CHUNKS * CHUNK as u64);
    assert!(left < alive + alive / 4, "{left} bytes hold {alive}");
}

#[test]
fn stop_does_not_wait_for_reclaim() {
    const CHUNKS: u64 = 320;
    let mut server = Server::builder().reclaim_rate("1M").start();
    let [gone, kept] = mixed(&server, CHUNKS);
    delete(&server, &gone);
    start(&server);
    wait_until_it_moves(&server);
    let begun = Instant::now();
    let status = server.stop();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(8), "stopped after {:?}", begun.elapsed());
    server.lose_staging();
    server.start_again().unwrap();
    assert!(server.log().contains("with nothing to replay"), "{}", server.log());
    assert_holds(&server, &kept, 1, CHUNKS);
}
