//! One store, one server.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::{Program, Server, sandstone};

/// Measured beside another suite: 45 to 60 ms.
const FREE_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn second_server_on_the_same_store_is_refused() {
    let server = Server::start();
    let volume = server.volume("8M");
    let mut client = server.connect(&volume);
    client.write(0, b"mine").unwrap();
    let rival = Program::new(sandstone())
        .args(["serve", "--config"])
        .arg(server.rival_config())
        .dir(server.dir())
        .limit(Duration::from_secs(90))
        .run();
    let said = format!("{}{}", rival.stdout, rival.stderr).to_lowercase();
    rival.failed_with_a_sentence();
    assert!(
        said.contains("lock") || said.contains("in use") || said.contains("another"),
        "{rival}"
    );
    // The first one goes on.
    client.write(4, b"still").unwrap();
    assert_eq!(client.read(0, 9).unwrap(), b"minestill");
}

/// The lock lasts as long as a write of the killed server may still land, and until the kernel has
/// taken its ring apart: a moment, where a start waits 30 seconds for another server.
#[test]
fn store_is_free_at_once_after_kill() {
    let mut server = Server::start();
    for _ in 0..3 {
        wait_until_it_writes_nothing(&server);
        server.kill();
        let killed = Instant::now();
        server.start_again().unwrap();
        assert!(killed.elapsed() < FREE_WITHIN, "after {:?}", killed.elapsed());
    }
}

/// After a start it prepares slots for the log, and may write a checkpoint.
fn wait_until_it_writes_nothing(server: &Server) {
    let written = || {
        let counts = fs::read_to_string(format!("/proc/{}/io", server.pid())).expect("its counts");
        let line = counts.lines().find(|line| line.starts_with("write_bytes:"));
        line.expect("a count of written bytes").to_owned()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut last, mut since) = (written(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        assert!(Instant::now() < deadline, "an idle server goes on writing: {last}");
        thread::sleep(Duration::from_millis(100));
        let now = written();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}
