//! Round after round of `kill -9` while everything goes on at once: verified fio, writers with a
//! ledger, snapshots, forks and deletions. After each round all that was promised is there, and the
//! store is sound.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::{
    BLOCK_BYTES, Family, Floor, Ledger, Program, Random, Running, Server, Volume, Writer, long,
    needs,
};

/// Blocks of a volume under the ledger, which all its snapshots and forks have too: they are read
/// after each round.
const BLOCKS: usize = 1024;
/// Rounds between two checks of the stopped store.
const ROUNDS_BETWEEN_CHECKS: u32 = 5;

/// A volume under the ledger.
struct Watched {
    volume: Volume,
    ledger: Arc<Mutex<Ledger>>,
}

impl Watched {
    fn new(server: &Server, writeback: bool) -> Self {
        let volume = server.volume_writeback(&(BLOCKS * BLOCK_BYTES).to_string(), writeback);
        Self { volume, ledger: Arc::new(Mutex::new(Ledger::new(BLOCKS))) }
    }

    fn check(&self, server: &Server) {
        let mut client = server.connect(&self.volume);
        let mut ledger = self.ledger.lock().expect("no writer panicked");
        let checked = ledger.check(Floor::Acknowledged, |first, count| {
            let (offset, len) = (first * BLOCK_BYTES as u64, count as u32 * BLOCK_BYTES as u32);
            client.read(offset, len).unwrap_or_else(|e| panic!("block {first} cannot be read: {e}"))
        });
        checked.unwrap_or_else(|e| panic!("volume {}: {e}", self.volume.id));
    }
}

/// fio on a volume of its own, in one round.
struct Fio<'a> {
    volume: &'a Volume,
    round: u32,
}

impl Fio<'_> {
    fn job(&self, server: &Server) -> Program {
        Program::new("fio")
            .args(["--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=64M"])
            .args([format!("--name=chaos{}", self.round), format!("--randseed={}7", self.round)])
            .args(["--verify=crc32c", "--verify_fatal=1"])
            .arg(format!("--uri={}", server.uri(self.volume)))
            .dir(server.dir())
    }

    /// Writes; after a second it saves what it knows to be complete, and a moment later kills the
    /// server.
    fn write(&self, server: &Server, moment_ms: u64) -> Running {
        self.job(server)
            // The rate keeps it from being done before it is time to kill.
            .args([
                "--do_verify=0",
                "--verify_state_save=1",
                "--trigger-timeout=1",
                "--rate_iops=4000",
            ])
            .arg(format!("--trigger=sleep 0.{moment_ms:03}; kill -9 {}", server.pid()))
            .spawn()
    }

    fn state(&self, server: &Server) -> PathBuf {
        server.dir().join(format!("local-chaos{}-0-verify.state", self.round))
    }

    fn verify(&self, server: &Server) {
        // One at a time, for the reason that the test of kills gives.
        self.job(server).args(["--verify_only", "--verify_state_load=1", "--iodepth=1"]).ok();
        std::fs::remove_file(self.state(server)).expect("the state can be removed");
    }
}

#[test]
fn everything_at_once_survives_kill_after_kill() {
    if !needs(&["fio"]) {
        return;
    }
    let mut random = Random::from_env();
    let mut server = Server::start();
    let watched = [false, true].map(|writeback| Watched::new(&server, writeback));
    let fio_volume = server.volume("64M");
    let volumes: Vec<Volume> =
        watched.iter().map(|w| &w.volume).chain([&fio_volume]).cloned().collect();
    // Of fio's volume there are none: what it writes a second long is a lot to read.
    let family = Family::new(&volumes, &volumes[..2]);
    let began = Instant::now();
    for round in 0..if long() { 1000 } else { 50 } {
        let fio = Fio { volume: &fio_volume, round };
        let writing = fio.write(&server, random.below(400));
        let writers: Vec<Writer> = (watched.iter())
            .map(|w| {
                Writer::start(server.connect(&w.volume), &w.ledger, Random::new(random.draw()))
            })
            .collect();
        let churn = family.churn(&server, Random::new(random.draw()));
        server.wait_killed();
        let mut acknowledged = 0;
        for ended in writers.into_iter().map(Writer::join) {
            assert!(ended.refused.is_empty(), "the server refused requests: {:?}", ended.refused);
            acknowledged += ended.acknowledged;
        }
        assert!(
            acknowledged > 100,
            "only {acknowledged} requests were acknowledged in round {round}"
        );
        assert!(churn.join() > 0, "nothing was made or deleted in round {round}");
        saved(&fio, &server, writing);
        if round % ROUNDS_BETWEEN_CHECKS == ROUNDS_BETWEEN_CHECKS - 1 {
            server.cli(["check", "--data"]).ok();
        }
        server.start_again().unwrap_or_else(|e| panic!("round {round}: {e}"));
        watched.iter().for_each(|w| w.check(&server));
        family.check(&server);
        fio.verify(&server);
    }
    println!("{:?}", began.elapsed());
    assert!(server.stop().success());
    server.cli(["check", "--data"]).ok();
}

/// fio has saved its state before it killed the server. It may end by itself, or spin for ever on
/// the dead connection (3.33 does).
fn saved(fio: &Fio<'_>, server: &Server, mut writing: Running) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while writing.is_running() && !fio.state(server).exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let written = writing.kill();
    assert!(fio.state(server).exists(), "fio saved no state: {written}");
}
