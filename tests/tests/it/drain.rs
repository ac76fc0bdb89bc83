//! SIGTERM and the second start: nothing unanswered, nothing refused, nothing lost.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandstone_tests::raw::{Connection, command, flag};
use sandstone_tests::{Random, Server};

/// Sends `count` requests at once: writes, some with FUA, reads and flushes. Their replies are
/// small enough to wait in the socket until somebody receives them.
fn send_many(client: &mut Connection, count: u64, random: &mut Random) {
    for number in 0..count {
        let offset = number * 8192;
        let sent = match number % 8 {
            0 => client.send(flag::FUA, command::WRITE, offset, 4096, &random.bytes(4096)),
            1 => client.send(0, command::READ, offset, 1024, &[]),
            2 => client.send(0, command::FLUSH, 0, 0, &[]),
            3 => client.send(0, command::WRITE_ZEROES, offset, 512, &[]),
            _ => client.send(0, command::WRITE, offset, 4096, &random.bytes(4096)),
        };
        sent.unwrap_or_else(|e| panic!("request {number} cannot be sent: {e}"));
    }
}

/// Reads until the server closes; every request must have been answered without an error.
fn all_answered(client: &mut Connection) {
    while client.in_flight() > 0 {
        let left = client.in_flight();
        let reply =
            client.receive().unwrap_or_else(|e| panic!("{left} requests were never answered: {e}"));
        assert_eq!(reply.errno, 0, "a stopping server refused a request");
    }
}

#[test]
fn sigterm_answers_every_request_and_exits_with_0() {
    let mut server = Server::start();
    let volumes = [false, true].map(|writeback| server.volume_writeback("64M", writeback));
    let connect = |number: usize| server.connect(&volumes[number % volumes.len()]);
    let clients: Vec<Connection> = (0..6).map(connect).collect();
    let senders: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                send_many(&mut client, 200, &mut Random::new(1));
                client
            })
        })
        .collect();
    let sent: Vec<Connection> = senders.into_iter().map(|s| s.join().unwrap()).collect();
    server.signal(Signal::TERM);
    for mut client in sent {
        all_answered(&mut client);
        let rest = client.stream.read_to_close().expect("the server closes the connection");
        assert!(rest.is_empty(), "{} bytes that nobody asked for", rest.len());
    }
    let status = server.wait_end();
    assert!(status.success(), "{status}");
}

#[test]
fn idle_connections_do_not_hold_up_a_stop() {
    let mut server = Server::start();
    let volume = server.volume("8M");
    let mut idle = server.connect(&volume);
    let halfway = server.handshake();
    let status = server.stop();
    assert!(status.success(), "{status}");
    assert!(idle.stream.read_to_close().unwrap().is_empty());
    drop(halfway);
}

#[test]
fn stopped_server_has_everything_even_without_staging() {
    let mut server = Server::start();
    let volume = server.volume_writeback("64M", true);
    let data = Random::new(9).bytes(5 << 20);
    server.connect(&volume).write(777, &data).unwrap();
    assert!(server.stop().success());
    server.lose_staging();
    server.start_again().unwrap();
    assert!(
        server.connect(&volume).read(777, data.len() as u32).unwrap() == data,
        "acknowledged data differs"
    );
}

#[test]
fn second_start_reports_its_recovery() {
    let mut server = Server::start();
    let volume = server.volume("64M");
    server.connect(&volume).write(0, &Random::new(3).bytes(1 << 20)).unwrap();
    server.kill();
    server.start_again().unwrap();
    let log = server.log();
    let line = log.lines().find(|l| l.to_lowercase().contains("recover"));
    let line = line.unwrap_or_else(|| panic!("no line about the recovery in\n{log}"));
    assert!(line.contains(|c: char| c.is_ascii_digit()), "no figure in: {line}");
}

#[test]
fn half_closed_connection_gets_all_its_replies() {
    let server = Server::start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    send_many(&mut client, 300, &mut Random::new(2));
    client.stream.finish_sending().unwrap();
    all_answered(&mut client);
    assert!(client.stream.read_to_close().unwrap().is_empty());
}

#[test]
fn disconnect_request_ends_the_connection_after_the_replies() {
    let server = Server::start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    send_many(&mut client, 100, &mut Random::new(4));
    client.send(0, command::DISC, 0, 0, &[]).unwrap();
    // DISC itself has no reply.
    while client.in_flight() > 1 {
        assert_eq!(client.receive().unwrap().errno, 0);
    }
    assert!(client.stream.read_to_close().unwrap().is_empty());
}

#[test]
fn half_an_admin_request_does_not_hold_up_a_stop() {
    let mut server = Server::start();
    let address = server.admin_url().replace("http://", "");
    let mut idler = TcpStream::connect(address).unwrap();
    idler.write_all(b"GET /healthz HT").unwrap();
    // Answered after the half one was taken in.
    server.volume("8M");
    let begun = Instant::now();
    assert!(server.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "stopped after {:?}", begun.elapsed());
}
