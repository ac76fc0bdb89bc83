//! A server that stands still, as one that is debugged, swapped out or starved does: clients wait,
//! nothing is lost, and nobody else takes the store.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sandstone_tests::{BLOCK_BYTES, Floor, Ledger, Program, Random, Server, Writer, sandstone};

const BLOCKS: usize = 2048;
/// How long a second server tries to get the store, by `storage`'s recovery.
const RIVAL_WAIT: Duration = Duration::from_secs(30);

#[test]
fn clients_wait_for_a_stopped_server_and_nobody_takes_its_store() {
    let mut random = Random::from_env();
    let mut server = Server::start();
    let volume = server.volume_writeback(&(BLOCKS * BLOCK_BYTES).to_string(), true);
    let ledger = Arc::new(Mutex::new(Ledger::new(BLOCKS)));
    let writer = |random: &mut Random| {
        Writer::start(server.connect(&volume), &ledger, Random::new(random.draw()))
    };
    let writers = [writer(&mut random), writer(&mut random)];
    let rival = Program::new(sandstone())
        .args(["serve", "--config"])
        .arg(server.rival_config())
        .dir(server.dir())
        .limit(Duration::from_secs(90))
        .spawn();
    // It gives up in the middle of the pause, which is shorter than clients are patient.
    thread::sleep(RIVAL_WAIT - Duration::from_secs(5));
    server.signal(Signal::STOP);
    let checked = server.cli(["check"]).run();
    assert_eq!(checked.status.code(), Some(2), "{checked}");
    let rival = rival.wait();
    assert!(rival.failed_with_a_sentence().contains("another server"), "{rival}");
    server.signal(Signal::CONT);
    thread::sleep(Duration::from_millis(500));

    // They went on; only the end of the server is the end of them.
    let mut client = server.connect(&volume);
    client.flush().unwrap();
    drop(client);
    server.kill();
    for ended in writers.map(Writer::join) {
        assert!(ended.refused.is_empty() && ended.acknowledged > 100, "{ended:?}");
    }
    server.start_again().unwrap();
    let mut client = server.connect(&volume);
    let checked = ledger.lock().unwrap().check(Floor::Acknowledged, |first, count| {
        client.read(first * BLOCK_BYTES as u64, count as u32 * BLOCK_BYTES as u32).unwrap()
    });
    checked.unwrap();
}
