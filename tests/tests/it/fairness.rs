//! A volume that is written flat out, and the single requests of another one.

use std::time::{Duration, Instant};

use sandstone_tests::raw::Connection;
use sandstone_tests::{Program, Random, Running, Server, Volume, needs};
use serde_json::json;

/// How much longer the single requests may take. The aim is 3, which two processors that four
/// programs share do not always reach (seen: 3 to 7). With the whole buffer in front it would be a
/// hundred: 32 MiB at a gigabyte a second.
const RATIO_MAX: f64 = 10.0;
/// Rounds of which the middle one counts, and how often they may be done again: other programs of
/// the machine, the other tests first of all, take the processor away for milliseconds.
const ROUNDS: usize = 5;
const TRIES: usize = 3;
const REQUESTS: usize = 400;
const BLOCK_BYTES: usize = 4096;

/// fio with 64 requests of a quarter MiB in flight; as a thread, because a process of its own would
/// outlive it. It gets the processor last: what is asked is what the server does, not how the
/// kernel shares two processors among the clients.
fn flat_out(server: &Server, volume: &Volume) -> Running {
    Program::new("chrt")
        .args([
            "--idle",
            "0",
            "fio",
            "--name=flat-out",
            "--thread",
            "--ioengine=nbd",
            "--rw=write",
            "--bs=256k",
        ])
        .args(["--iodepth=64", "--time_based", "--runtime=600", "--norandommap"])
        .args([format!("--uri={}", server.uri(volume)), format!("--size={}", volume.size_bytes)])
        .dir(server.dir())
        .limit(Duration::from_secs(600))
        .spawn()
}

/// The 99th percentile of single requests, in seconds: writes and reads in turn.
fn p99(connection: &mut Connection, random: &mut Random) -> f64 {
    let data = random.bytes(BLOCK_BYTES);
    let mut times: Vec<Duration> = (0..REQUESTS)
        .map(|i| {
            let offset = (i % 1024 * BLOCK_BYTES) as u64;
            let begun = Instant::now();
            match i % 2 {
                0 => connection.write(offset, &data).expect("a write"),
                _ => drop(connection.read(offset, BLOCK_BYTES as u32).expect("a read")),
            }
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[REQUESTS * 99 / 100].as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of the rounds, and of the 99th percentiles alone.
fn ratio(server: &Server, writer: &Volume, connection: &mut Connection) -> f64 {
    let mut random = Random::new(1);
    let rounds = (0..ROUNDS).map(|_| {
        let alone = p99(connection, &mut random);
        let fio = flat_out(server, writer);
        std::thread::sleep(Duration::from_millis(300));
        let crowded = p99(connection, &mut random);
        fio.kill();
        eprintln!("p99 alone {:.2} ms, beside a writer {:.2} ms", alone * 1e3, crowded * 1e3);
        crowded / alone
    });
    median(rounds.collect())
}

#[test]
fn a_volume_written_flat_out_leaves_another_ones_requests_their_time() {
    if !needs(&["fio", "chrt"]) {
        return;
    }
    let server = Server::start();
    // Acknowledged from memory, so that it fills its buffer: 32 MiB stood in the other one's way.
    let writer = server.create_volume(&json!({ "size": "512M", "writeback": true }));
    let single = server.volume("64M");
    let mut connection = server.connect(&single);
    let mut ratios = Vec::new();
    for _ in 0..TRIES {
        ratios.push(ratio(&server, &writer, &mut connection));
        if ratios.last().is_some_and(|ratio| *ratio <= RATIO_MAX) {
            return;
        }
    }
    panic!(
        "beside a volume written flat out, single requests take longer by these factors: {ratios:.1?}"
    );
}
