//! `kill -9` in the middle of everything: what was acknowledged is there.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::{
    BLOCK_BYTES, Floor, Ledger, Program, Random, Server, Volume, Writer, long, needs,
};

/// Blocks of a volume under the ledger: small enough that blocks are overwritten many times a
/// second.
const BLOCKS: usize = 4096;

/// A volume, what was promised for it, and what a crash of the host may take.
struct Watched {
    volume: Volume,
    writeback: bool,
    ledger: Arc<Mutex<Ledger>>,
}

impl Watched {
    fn both(server: &Server) -> [Self; 2] {
        [false, true].map(|writeback| Self {
            volume: server.volume_writeback(&(BLOCKS * BLOCK_BYTES).to_string(), writeback),
            writeback,
            ledger: Arc::new(Mutex::new(Ledger::new(BLOCKS))),
        })
    }

    fn writers(&self, server: &Server, random: &mut Random) -> Vec<Writer> {
        (0..2)
            .map(|_| {
                Writer::start(
                    server.connect(&self.volume),
                    &self.ledger,
                    Random::new(random.draw()),
                )
            })
            .collect()
    }

    fn check(&self, server: &Server, floor: Floor) {
        let mut client = server.connect(&self.volume);
        let mut ledger = self.ledger.lock().expect("no writer panicked");
        let checked = ledger.check(floor, |first, count| {
            let (offset, len) = (first * BLOCK_BYTES as u64, count as u32 * BLOCK_BYTES as u32);
            client.read(offset, len).unwrap_or_else(|e| panic!("block {first} cannot be read: {e}"))
        });
        checked.unwrap_or_else(|e| panic!("writeback={}: {e}", self.writeback));
    }
}

/// Writes to all volumes for a while, then kills the server under the writers.
fn write_and_kill(server: &mut Server, volumes: &[Watched], random: &mut Random) {
    let writers: Vec<Writer> = volumes.iter().flat_map(|v| v.writers(server, random)).collect();
    thread::sleep(Duration::from_millis(200 + random.below(1_000)));
    // A disk that others keep busy may take longer for as many as a kill is worth.
    for _ in 0..600 {
        if writers.iter().map(Writer::acknowledged).sum::<u64>() > 100 {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    server.kill();
    let mut acknowledged = 0;
    for ended in writers.into_iter().map(Writer::join) {
        assert!(ended.refused.is_empty(), "the server refused requests: {:?}", ended.refused);
        acknowledged += ended.acknowledged;
    }
    assert!(acknowledged > 100, "only {acknowledged} requests were acknowledged before the kill");
}

#[test]
fn acknowledged_writes_survive_the_servers_death() {
    let mut random = Random::from_env();
    let mut server = Server::start();
    let volumes = Watched::both(&server);
    for _ in 0..if long() { 40 } else { 4 } {
        write_and_kill(&mut server, &volumes, &mut random);
        server.start_again().unwrap();
        volumes.iter().for_each(|v| v.check(&server, Floor::Acknowledged));
    }
}

#[test]
fn recovery_that_is_killed_itself_loses_nothing() {
    let mut random = Random::from_env();
    let mut server = Server::start();
    let volumes = Watched::both(&server);
    for _ in 0..if long() { 20 } else { 2 } {
        write_and_kill(&mut server, &volumes, &mut random);
        for _ in 0..3 {
            server.spawn();
            thread::sleep(Duration::from_millis(random.below(120)));
            server.kill();
        }
        server.start_again().unwrap();
        volumes.iter().for_each(|v| v.check(&server, Floor::Acknowledged));
    }
}

#[test]
fn host_crash_keeps_written_through_and_flushed() {
    let mut random = Random::from_env();
    let mut server = Server::start();
    let volumes = Watched::both(&server);
    for _ in 0..if long() { 40 } else { 4 } {
        write_and_kill(&mut server, &volumes, &mut random);
        server.lose_staging();
        server.start_again().unwrap();
        for volume in &volumes {
            let floor = if volume.writeback { Floor::Durable } else { Floor::Acknowledged };
            volume.check(&server, floor);
        }
    }
}

#[test]
fn volumes_made_and_deleted_stay_so() {
    let mut server = Server::start();
    let [kept, deleted] = ["32M"; 2].map(|size| server.volume(size));
    server.connect(&kept).write_fua(4096, b"kept").unwrap();
    server.admin().delete(&format!("/api/v1/sandboxvolumes/{}", deleted.id)).unwrap().data(200);
    let last = server.volume("48M");
    server.kill();
    server.lose_staging();
    server.start_again().unwrap();
    let listed = server.admin().get("/api/v1/sandboxvolumes").unwrap().data(200);
    let ids: Vec<&str> =
        listed.as_array().unwrap().iter().filter_map(|v| v["id"].as_str()).collect();
    assert_eq!(ids, [last.id.as_str(), kept.id.as_str()]);
    assert_eq!(server.describe(&last)["size_bytes"], 48 << 20);
    assert_eq!(server.connect(&kept).read(4096, 4).unwrap(), b"kept");
}

#[test]
fn grown_volume_stays_grown() {
    let mut server = Server::start();
    let volume = server.volume("32M");
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    server.admin().patch(&path, &serde_json::json!({ "size": "64M" })).unwrap().data(200);
    server.connect(&volume).write_fua(40 << 20, b"beyond the old end").unwrap();
    server.kill();
    server.lose_staging();
    server.start_again().unwrap();
    let mut client = server.connect(&volume);
    assert_eq!(client.size_bytes, 64 << 20);
    assert_eq!(client.read(40 << 20, 18).unwrap(), b"beyond the old end");
}

/// fio writes with checksums; in the middle it saves what it knows to be complete and kills the
/// server itself (its trigger, which is made for this). Another fio then verifies from that state.
fn fio_killed_in_the_middle(writeback: bool, after: impl Fn(&Server)) {
    if !needs(&["fio"]) {
        return;
    }
    let mut server = Server::start();
    let volume = server.volume_writeback("512M", writeback);
    for round in 0..if long() { 10 } else { 2 } {
        let job = |server: &Server| {
            Program::new("fio")
                .args([
                    "--ioengine=nbd",
                    "--rw=randwrite",
                    "--bs=4k",
                    "--iodepth=32",
                    "--size=512M",
                ])
                .args([format!("--name=killed{round}"), format!("--randseed={round}7")])
                .args(["--verify=crc32c", "--verify_fatal=1"])
                .arg(format!("--uri={}", server.uri(&volume)))
                .dir(server.dir())
        };
        let mut writing = job(&server)
            // The rate keeps it from being done before it is time to kill.
            .args([
                "--do_verify=0",
                "--verify_state_save=1",
                "--trigger-timeout=2",
                "--rate_iops=20000",
            ])
            .arg(format!("--trigger=kill -9 {}", server.pid()))
            .spawn();
        server.wait_killed();
        // fio may end by itself, or spin for ever on the dead connection (3.33 does).
        let deadline = Instant::now() + Duration::from_secs(3);
        while writing.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let written = writing.kill();
        let state = server.dir().join(format!("local-killed{round}-0-verify.state"));
        assert!(state.exists(), "fio saved no state: {written}");
        after(&server);
        server.start_again().expect("the server comes up again");
        // One at a time: fio compares the reads that have ended with the writes that it had begun
        // to tell which of the last ones it must leave out. With many reads under way it asks for
        // writes that the server never got.
        job(&server).args(["--verify_only", "--verify_state_load=1", "--iodepth=1"]).ok();
    }
}

#[test]
fn fio_verifies_after_kill_written_through() {
    fio_killed_in_the_middle(false, |_| {});
}

#[test]
fn fio_verifies_after_kill_written_back() {
    fio_killed_in_the_middle(true, |_| {});
}

#[test]
fn fio_verifies_after_host_crash_written_through() {
    fio_killed_in_the_middle(false, Server::lose_staging);
}
