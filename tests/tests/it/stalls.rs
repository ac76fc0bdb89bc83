//! Clients that stand still or vanish in the middle: they keep neither room nor volumes from
//! others.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::raw::{
    Connection, Handshake, REQUEST_MAGIC, Stream, command, go_data, option, reply,
};
use sandstone_tests::{Server, Volume};
use serde_json::json;

const LARGEST: usize = 64 << 20;
/// How long something may take that happens at once where nothing is in the way. This machine may
/// be busy.
const AT_ONCE: Duration = Duration::from_secs(15);

/// Sends what the server takes in within a moment.
fn send_some(client: &Connection, bytes: &[u8]) {
    let Stream::Unix(stream) = &client.stream else { panic!("connected over the Unix socket") };
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
    let _ = (&*stream).write_all(bytes);
}

/// Connections that each hold a write of which the last byte is missing.
fn unfinished_writes(server: &Server, volume: &Volume, count: usize) -> Vec<Connection> {
    let payload = vec![0x5a; LARGEST - 1];
    let connections = (0..count).map(|_| {
        let mut client = server.connect(volume);
        client.send(0, command::WRITE, 0, LARGEST as u32, &[]).expect("a head goes out");
        client
    });
    let connections: Vec<_> = connections.collect();
    thread::scope(|scope| {
        for client in &connections {
            scope.spawn(|| send_some(client, &payload));
        }
    });
    connections
}

/// Connections that take none of the replies to their large reads.
fn unread_reads(server: &Server, volume: &Volume, count: usize) -> Vec<Connection> {
    let connections = (0..count).map(|_| {
        let mut client = server.connect(volume);
        for _ in 0..4 {
            client.send(0, command::READ, 0, LARGEST as u32, &[]).expect("a read goes out");
        }
        client
    });
    connections.collect()
}

/// Insists that requests of up to `largest` bytes go on.
fn goes_on(server: &Server, volume: &Volume, largest: usize) {
    let mut client = server.connect(volume);
    for len in [4096, 1 << 20, 4 << 20, largest] {
        let begun = Instant::now();
        client.write(0, &vec![0xa5; len]).expect("a write");
        assert!(client.read(0, len as u32).expect("a read") == vec![0xa5; len]);
        assert!(begun.elapsed() < AT_ONCE, "{len} bytes took {:?}", begun.elapsed());
    }
}

fn hundreds_of_seconds() -> Server {
    // So that nothing goes on only because somebody was cut off.
    Server::builder().in_flight("128M").stall(600).start()
}

#[test]
fn writes_that_lack_their_last_byte_leave_other_volumes_their_share() {
    let server = hundreds_of_seconds();
    let held = unfinished_writes(&server, &server.volume("64M"), 16);
    goes_on(&server, &server.volume("64M"), 8 << 20);
    // Those of one volume do not take all there is in turn: one of them can still be finished.
    drop(held);
    goes_on(&server, &server.volume("64M"), LARGEST);
}

#[test]
fn replies_that_nobody_takes_leave_other_volumes_their_share() {
    let server = hundreds_of_seconds();
    let volume = server.volume("64M");
    server.connect(&volume).write(0, &vec![1; LARGEST]).expect("a write");
    let _held = unread_reads(&server, &volume, 16);
    thread::sleep(Duration::from_millis(500));
    goes_on(&server, &server.volume("64M"), 8 << 20);
}

/// More than there is room for, at once: whoever has a part waits for the rest, and all are done in
/// the end.
#[test]
fn large_writes_that_together_are_more_than_all_room_are_all_done() {
    let server = hundreds_of_seconds();
    let volumes: Vec<_> = (0..4).map(|_| server.volume("64M")).collect();
    thread::scope(|scope| {
        for volume in volumes.iter().chain(&volumes) {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.connect(volume);
                // In the middle of blocks at both ends.
                client.write(1, &vec![9; LARGEST - 3]).expect("a write");
                let read = client.read(0, LARGEST as u32).expect("a read");
                assert!(read[1..LARGEST - 2].iter().all(|byte| *byte == 9));
                assert_eq!([read[0], read[LARGEST - 2], read[LARGEST - 1]], [0; 3]);
            });
        }
    });
}

fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < AT_ONCE, "not so after {AT_ONCE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_does_not_send_what_it_announced_is_cut_off_and_counted() {
    let server = Server::builder().stall(1).start();
    let volume = server.volume("64M");
    let mut idle = server.connect(&volume);
    let mut silent = server.connect(&volume);
    silent.send(0, command::WRITE, 0, 4096, &[0; 100]).expect("a part goes out");
    let mut refused = server.connect(&volume);
    refused.send(0, command::WRITE, 1 << 40, 4096, &[0; 100]).expect("a part goes out");
    let mut trickling = server.connect(&volume);
    trickling.send(0, command::WRITE, 0, 1 << 20, &[]).expect("a head goes out");
    let begun = Instant::now();
    while trickling.stream.write_all(&[0]).is_ok() {
        assert!(begun.elapsed() < AT_ONCE, "a byte now and then keeps it");
        thread::sleep(Duration::from_millis(100));
    }
    silent.stream.read_to_close().expect("it is cut off");
    refused.stream.read_to_close().expect("it is cut off");
    let cut_off = "sandstone_connections_cut_off_total{reason=\"payload_stalled\"}";
    wait_until("three are counted", || server.metric(cut_off) == 3.0);
    assert_eq!(server.log().matches("did not send what it announced").count(), 3, "a line each");
    idle.write(0, b"idle").expect("who asks for nothing is not cut off");
}

#[test]
fn who_does_not_take_its_replies_is_cut_off_and_counted() {
    let server = Server::builder().stall(1).start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    client.write(0, &vec![1; 8 << 20]).expect("a write");
    client.send(0, command::READ, 0, 8 << 20, &[]).expect("a read goes out");
    let cut_off = "sandstone_connections_cut_off_total{reason=\"reply_stalled\"}";
    wait_until("it is counted", || server.metric(cut_off) == 1.0);
    assert_eq!(server.log().matches("did not take its replies").count(), 1, "one line");
    wait_until("nothing is held", || server.metric("sandstone_in_flight_bytes") == 0.0);
}

/// It would take minutes to answer what it has asked for.
fn ask_for_minutes(client: &mut Connection) {
    for _ in 0..5 {
        client.send(0, command::READ, 0, LARGEST as u32, &[]).expect("a read goes out");
    }
    client.receive().expect("the first reply, after which the next waits for a minute");
}

/// A volume of which a MiB a second is read.
fn slow_volume(server: &Server) -> Volume {
    let volume = server.volume("64M");
    server.connect(&volume).write(0, &vec![3; 4 << 20]).expect("a write");
    set_rate(server, &volume, "1M");
    volume
}

fn set_rate(server: &Server, volume: &Volume, bytes_per_second_max: &str) {
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    let fields = json!({ "bytes_per_second_max": bytes_per_second_max });
    server.admin().patch(&path, &fields).expect("the admin port answers").data(200);
}

#[test]
fn a_volume_is_free_at_once_when_its_client_was_reset() {
    let server = Server::start();
    let volume = slow_volume(&server);
    let mut client =
        Handshake::tcp(server.nbd_address()).and_then(|h| h.go(&volume.id)).expect("a connection");
    ask_for_minutes(&mut client);
    reset(client.stream);
    let begun = Instant::now();
    // Over the Unix socket this process is another one than over TCP.
    let mut successor = server.connect(&volume);
    assert!(begun.elapsed() < AT_ONCE, "it waited for {:?}", begun.elapsed());
    set_rate(&server, &volume, "0"); // what was read of it counts for the volume, not for who is connected
    successor.write(0, b"mine").expect("a write");
    wait_until("nothing of the dead is held", || {
        server.metric("sandstone_requests_in_flight") == 0.0
    });
}

/// 500 reads of 64 MiB take 14,000 bytes to ask for, and would take half a minute to answer.
#[test]
fn reads_of_a_client_that_was_reset_are_not_served() {
    let server = Server::start();
    let volume = server.volume("64M");
    let mut client =
        Handshake::tcp(server.nbd_address()).and_then(|h| h.go(&volume.id)).expect("a connection");
    client.write(0, &vec![3; LARGEST]).expect("a write");
    for _ in 0..500 {
        client.send(0, command::READ, 0, LARGEST as u32, &[]).expect("a read goes out");
    }
    wait_until("they are taken in", || server.metric("sandstone_requests_in_flight") > 0.0);
    reset(client.stream);
    wait_until("nothing is served", || server.metric("sandstone_requests_in_flight") == 0.0);
    let mut successor = server.connect(&volume);
    successor.write(0, b"mine").expect("a write");
    let served = server.metric("sandstone_requests_total{command=\"read\"}");
    assert!(served < 50.0, "{served} of them were");
}

#[test]
fn a_volume_is_free_at_once_when_its_client_has_closed() {
    let server = Server::start();
    let volume = slow_volume(&server);
    let mut client = server.connect(&volume);
    ask_for_minutes(&mut client);
    drop(client);
    let begun = Instant::now();
    Handshake::tcp(server.nbd_address()).and_then(|h| h.go(&volume.id)).expect("a successor");
    assert!(begun.elapsed() < AT_ONCE, "it waited for {:?}", begun.elapsed());
}

fn reset(stream: Stream) {
    let Stream::Tcp(stream) = stream else { panic!("connected over TCP") };
    let linger: &TcpStream = &stream;
    rustix::net::sockopt::set_socket_linger(linger, Some(Duration::ZERO))
        .expect("lingering can be set");
}

#[test]
fn writes_that_came_whole_are_done_though_their_client_is_gone() {
    let server = Server::start();
    let volume = server.create_volume(&json!({ "size": "64M", "iops_max": 10 }));
    let mut client = server.connect(&volume);
    let mut writes = Vec::new();
    for i in 0..3u64 {
        writes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        writes.extend_from_slice(&[0, 0]);
        writes.extend_from_slice(&command::WRITE.to_be_bytes());
        writes.extend_from_slice(&i.to_be_bytes());
        writes.extend_from_slice(&(i * 4096).to_be_bytes());
        writes.extend_from_slice(&4096u32.to_be_bytes());
        writes.extend_from_slice(&[7; 4096]);
    }
    // At once, so that one receive brings all of them; with the first of them the limit is used up.
    client.stream.write_all(&writes).expect("writes go out");
    thread::sleep(Duration::from_millis(30));
    drop(client);
    let mut reader = server.connect(&volume);
    assert_eq!(reader.read(0, 3 * 4096).expect("a read"), [7; 3 * 4096]);
}

#[test]
fn who_only_says_no_more_gets_all_replies() {
    let server = Server::builder().in_flight("128M").start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    client.write(0, &vec![5; 1 << 20]).expect("a write");
    // As many as the socket holds, because the server takes in no more than it has room for.
    for _ in 0..150 {
        client.send(0, command::READ, 0, 1 << 20, &[]).expect("a read goes out");
    }
    client.stream.finish_sending().expect("a half can be closed");
    while client.in_flight() > 0 {
        if client.in_flight().is_multiple_of(50) {
            thread::sleep(Duration::from_millis(200));
        }
        assert!(client.receive().expect("a reply").data == vec![5; 1 << 20]);
    }
}

#[test]
fn who_comes_beyond_the_bound_is_told_why_and_can_come_when_there_is_room() {
    let server = Server::builder().connections_max(3).start();
    let volume = server.volume("64M");
    let mut clients: Vec<_> = (0..3).map(|_| server.connect(&volume)).collect();
    let mut beyond = server.handshake();
    let replies = beyond.ask(option::GO, &go_data(&volume.id)).expect("an answer");
    let refused = replies.last().expect("an answer");
    assert_eq!(refused.kind, reply::ERR_POLICY);
    assert!(refused.text().contains("nbd.connections_max"), "{}", refused.text());
    assert!(server.metric("sandstone_connections_refused_total") >= 1.0);
    drop(beyond);
    clients.pop();
    clients.iter_mut().for_each(|client| client.write(0, b"still served").expect("a write"));
    wait_until("there is room again", || server.handshake().go(&volume.id).is_ok());
}
