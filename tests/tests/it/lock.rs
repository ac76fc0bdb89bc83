//! One store, one server.

use std::time::Duration;

use sandstone_tests::{Program, Server, sandstone};

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

#[test]
fn store_is_free_at_once_after_kill() {
    let mut server = Server::start();
    for _ in 0..3 {
        server.kill();
        server.start_again().unwrap();
        // No write of the last one was under way, so there was nothing to wait for.
        let log = server.log();
        assert!(log.contains("store") && !log.contains("waiting for another server"), "{log}");
    }
}
