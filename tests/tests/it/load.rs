//! The benchmark's own programs against each other: what the load generator counts is what the
//! floor was asked for.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::{Program, Running};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

struct Floor {
    dir: TempDir,
    running: Option<Running>,
}

impl Floor {
    fn start() -> Self {
        sandstone_tests::take_turn();
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("floor.sock");
        let running =
            Program::new(env!("CARGO_BIN_EXE_bench-floor")).arg(&socket).arg("64").spawn();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "bench-floor does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self { dir, running: Some(running) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("floor.sock")
    }

    fn load(&self, arguments: &[&str]) -> Program {
        Program::new(env!("CARGO_BIN_EXE_bench-load"))
            .args(arguments)
            .arg(format!("nbd+unix:///any?socket={}", self.socket().display()))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }
}

fn check(report: &Value, operations: u64, bytes: u64) {
    assert_eq!(report["operations"], operations, "{report}");
    assert_eq!(report["bytes"], bytes, "{report}");
    let [p50, p99] = ["p50_us", "p99_us"].map(|part| report[part].as_f64().expect("a number"));
    assert!(0.0 < p50 && p50 <= p99, "{report}");
}

#[test]
fn each_request_of_a_quota_is_counted_once() {
    let floor = Floor::start();
    for (arguments, block_kib, connections) in [
        (&["--mib=8", "--depth=1"][..], 4, 1),
        (&["--mib=8", "--depth=32", "--reads=0"], 4, 1),
        (&["--mib=2", "--depth=3", "--reads=0", "--flush-every=1"], 4, 1),
        (&["--mib=8", "--depth=300", "--reads=50"], 4, 1),
        (&["--mib=64", "--depth=16", "--block=256", "--sequential"], 256, 1),
        // More in flight than a socket holds, both ways at once.
        (&["--mib=64", "--depth=16", "--block=1024", "--reads=50"], 1024, 1),
        (&["--mib=8", "--depth=8", "--reads=70", "--connections=4"], 4, 4),
        (&["--mib=8", "--depth=8", "--reads=70", "--connections=5", "--threads=2"], 4, 5),
    ] {
        let quota: u64 = arguments[0]["--mib=".len()..].parse().unwrap();
        let bytes = quota * MIB * connections;
        check(&floor.load(arguments).ok().json(), bytes / (block_kib << 10), bytes);
    }
}

#[test]
fn seconds_end_a_load_without_a_quota() {
    let report = Floor::start().load(&["--seconds=0.2", "--depth=4"]).ok().json();
    let seconds = report["seconds"].as_f64().unwrap();
    assert!((0.2..5.0).contains(&seconds), "{report}");
    let rate = report["operations"].as_f64().unwrap() / seconds;
    assert!((report["operations_per_second"].as_f64().unwrap() - rate).abs() < 1.0, "{report}");
}

#[test]
fn load_that_nobody_serves_fails_with_a_sentence() {
    let program =
        Program::new(env!("CARGO_BIN_EXE_bench-load")).arg("nbd+unix:///x?socket=/nonexistent");
    let finished = program.run();
    assert!(finished.failed_with_a_sentence().contains("/nonexistent"), "{finished}");
}
